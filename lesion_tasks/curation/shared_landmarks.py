"""Landmarks of many pictures -> pairs of pictures that share some in one arrangement.

Landmarks whose codes agree in several blocks of bits are sorted together and compared. For a few fresh pictures among
many, the others can be read in pieces: only landmarks that agree with a fresh one are kept.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from os import cpu_count

import numpy as np

from lesion_tasks.curation.landmarks import MAX_LANDMARKS, places_of
from lesion_tasks.progress import progress

# Keys of landmarks are long enough that few unrelated ones agree by chance.
_N_BLOCKS, _BLOCK_BITS = 8, 6
_TABLE_BITS = 4 * _BLOCK_BITS  # of a key, by which landmarks are sorted out
_MAX_SHARED_BITS = 7  # total bits in which two codes that agree in a key may differ
_NEIGHBOURS = 3
_COMMON = 16  # landmarks that share a key: if more do, each is compared only with its next neighbours
_PART_ROWS = 2**21  # sorted at once by one thread: some 100 MiB
_KEY_ROWS = 2**15  # keyed at once: what fits into a processor's cache


def pairs_in_common(
    landmarks: np.ndarray,
    pictures: np.ndarray,
    *,
    fresh: np.ndarray | None = None,
    n_pictures: int | None = None,
) -> np.ndarray:
    """Pairs of pictures that share landmarks in one arrangement: (m, 2) picture numbers, smaller first, sorted.

    `landmarks` is (n,) uint64, `pictures` (n,) int the picture number of each. With `fresh`, bool by picture number,
    only pairs with at least one fresh picture. `n_pictures` is how many there are in all where landmarks that
    `FreshKeys` sorted out are not given. Two of the shared landmarks must be as far apart in one picture as in the
    other, along its axes in either order, give or take a fifth. Not exact: some pairs are missed.
    """
    n_given = int(pictures.max(initial=-1)) + 1
    choices = _choices(n_given if n_pictures is None else n_pictures)
    shared = [np.empty(0, dtype=np.uint64), *_sharing(landmarks, pictures, fresh, choices)]
    n = np.uint64(max(len(landmarks), 1))
    one, other = (side.astype(np.int64) for side in np.divmod(np.unique(np.concatenate(shared)), n))
    left, right = pictures[one].astype(np.int64), pictures[other].astype(np.int64)
    pair = left * n_given + right
    order = np.argsort(pair, kind="stable")
    pair, one, other = pair[order], places_of(landmarks[one[order]]), places_of(landmarks[other[order]])
    found = []
    for distance in range(1, 9):
        some = np.flatnonzero(pair[distance:] == pair[:-distance])
        if not len(some):
            break
        is_alike = _same_arrangement(one[some] - one[some + distance], other[some] - other[some + distance])
        found.append(pair[some[is_alike]])
    codes = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))
    return np.column_stack(np.divmod(codes, max(n_given, 1)))


class FreshKeys:
    """The keys of fresh pictures' landmarks, to sort out those of others that agree with none of them.

    Memory: 2 MiB for each choice of blocks, however many landmarks there are.
    """

    def __init__(self, landmarks: np.ndarray, *, n_pictures: int) -> None:
        chosen = _within_each(_choices(n_pictures))
        self._tables = {blocks: _table_of(_keys(landmarks, blocks)) for blocks in chosen}

    def are_met(self, landmarks: np.ndarray) -> np.ndarray:
        """Which of some landmarks may agree with a fresh one in a key: (n,) bool."""
        is_met = np.zeros(len(landmarks), dtype=bool)
        for start in range(0, len(landmarks), _KEY_ROWS):
            some, out = landmarks[start : start + _KEY_ROWS], is_met[start : start + _KEY_ROWS]
            each = [_block(some, block) for block in range(_N_BLOCKS)]
            two: dict[tuple[int, ...], np.ndarray] = {
                (one, other): each[one] << np.uint32(_BLOCK_BITS) | each[other]
                for one, other in {pair for blocks in self._tables for pair in (blocks[:2], blocks[2:])}
            }
            for blocks, table in self._tables.items():
                out |= _are_in(table, two[blocks[:2]] << np.uint32(2 * _BLOCK_BITS) | two[blocks[2:]])
        return is_met


def _within_each(choices: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """A few sets of four blocks of which each choice contains one: the largest number of choices first."""
    left = {frozenset(chosen) for chosen in choices}
    found: list[tuple[int, ...]] = []
    while left:
        best = max(
            combinations(range(_N_BLOCKS), 4),
            key=lambda four: sum(chosen.issuperset(four) for chosen in left),
        )
        found.append(best)
        left = {chosen for chosen in left if not chosen.issuperset(best)}
    return found


def _table_of(keys: np.ndarray) -> np.ndarray:
    """The lower 24 bits of keys as a set: one bit for each possible value."""
    table = np.zeros(1 << (_TABLE_BITS - 3), dtype=np.uint8)
    np.bitwise_or.at(table, *_place_of(keys))
    return table


def _are_in(table: np.ndarray, keys: np.ndarray) -> np.ndarray:
    byte, bit = _place_of(keys)
    return (table[byte] & bit) != 0


_BITS = np.uint8(1) << np.arange(8, dtype=np.uint8)


def _place_of(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Byte and bit of keys in a table."""
    byte = (keys & np.uint32((1 << _TABLE_BITS) - 1)) >> np.uint32(3)
    return byte, _BITS[keys & np.uint32(7)]


def _same_arrangement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Are these steps, (m, 2) px, the same up to a quarter turn, a mirror image and a fifth of their length?"""
    one, other = np.abs(one), np.abs(other)
    length = np.hypot(one[:, 0], one[:, 1])
    off = np.minimum(np.abs(one - other).max(axis=1), np.abs(one - other[:, ::-1]).max(axis=1))
    return (length >= 14) & (off <= 0.22 * length + 3)


def _choices(n_pictures: int) -> list[tuple[int, ...]]:
    """Which of the eight blocks of a code must agree among so many pictures: each choice is tried.

    24 bits, or 30 above 200,000 pictures, where fewer agree by chance but more copies are missed.
    """
    n_agreeing, n_choices = (4, 12) if n_pictures * MAX_LANDMARKS <= 2**23 else (5, 20)
    choices = list(combinations(range(_N_BLOCKS), n_agreeing))
    return choices[:: len(choices) // n_choices][:n_choices]


def _keys(landmarks: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    """The chosen blocks of each code side by side: (n,) uint32."""
    keys = np.zeros(len(landmarks), dtype=np.uint32)
    for start in range(0, len(landmarks), _KEY_ROWS):
        some, out = landmarks[start : start + _KEY_ROWS], keys[start : start + _KEY_ROWS]
        for block in chosen:
            out <<= np.uint32(_BLOCK_BITS)
            out |= _block(some, block)
    return keys


def _block(landmarks: np.ndarray, block: int) -> np.ndarray:
    return (landmarks >> np.uint64(16 + block * _BLOCK_BITS)).astype(np.uint32) & np.uint32(
        (1 << _BLOCK_BITS) - 1
    )


def _sharing(
    landmarks: np.ndarray, pictures: np.ndarray, fresh: np.ndarray | None, choices: list[tuple[int, ...]]
) -> Iterator[np.ndarray]:
    """Landmarks of two pictures whose codes agree in all bits of one choice of blocks, each pair as one number."""
    n = len(landmarks)
    is_fresh = None if fresh is None or 2 * fresh.sum() > len(fresh) else fresh[pictures]

    def near(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        found = [np.empty(0, dtype=np.uint64)]
        for one, other in _near_with_one_key(landmarks, keys, rows):
            is_wanted = pictures[one] != pictures[other]
            if fresh is not None:
                is_wanted &= fresh[pictures[one]] | fresh[pictures[other]]
            one, other = one[is_wanted], other[is_wanted]
            is_swapped = pictures[one] > pictures[other]
            one, other = np.where(is_swapped, other, one), np.where(is_swapped, one, other)
            found.append(one.astype(np.uint64) * np.uint64(n) + other.astype(np.uint64))
        return np.concatenate(found)

    with (
        progress("search for shared landmarks", len(choices)) as advance,
        ThreadPoolExecutor(cpu_count()) as pool,  # sorting leaves Python's lock to others
    ):
        for chosen in choices:
            keys = _keys(landmarks, chosen)
            n_parts = 1 if is_fresh is not None else 1 + n // _PART_ROWS
            part = np.empty(n, dtype=np.uint16)
            np.remainder(keys, np.uint32(n_parts), out=part, casting="unsafe")
            if is_fresh is not None:
                part[~_are_in(_table_of(keys[is_fresh]), keys)] = n_parts

            def of_part(number: int, keys: np.ndarray = keys, part: np.ndarray = part) -> np.ndarray:
                return near(keys, np.flatnonzero(part == number))

            yield from pool.map(of_part, range(n_parts))
            advance()


def _near_with_one_key(
    landmarks: np.ndarray, keys: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of landmarks that have one key and nearly one code."""
    # Key and place in one number: sorting it is several times faster than an indirect sort.
    packed = np.sort((keys[rows].astype(np.uint64) << np.uint64(32)) | np.arange(len(rows), dtype=np.uint64))
    order = rows[(packed & np.uint64(2**32 - 1)).astype(np.int64)]
    codes = landmarks[order] >> np.uint64(16)
    sorted_keys = (packed >> np.uint64(32)).astype(np.uint32)
    starts = np.flatnonzero(np.r_[len(rows) > 0, sorted_keys[1:] != sorted_keys[:-1]])
    sizes = np.diff(np.r_[starts, len(rows)])
    is_some = (sizes > 1) & (sizes <= _COMMON)
    crowd = np.flatnonzero(np.repeat(sizes > _COMMON, sizes))
    starts, sizes = starts[is_some], sizes[is_some]
    sides = []
    for first, second in combinations(range(_COMMON), 2):
        left = starts[sizes > second]
        sides.append((left + first, left + second))
    # Sorted by code, the nearest of a crowd are neighbours.
    crowd = crowd[np.lexsort((codes[crowd], sorted_keys[crowd]))]
    for distance in range(1, _NEIGHBOURS + 1):
        left, right = crowd[:-distance], crowd[distance:]
        has_one_key = sorted_keys[left] == sorted_keys[right]
        sides.append((left[has_one_key], right[has_one_key]))
    for left, right in sides:
        is_near = np.bitwise_count(codes[left] ^ codes[right]) <= _MAX_SHARED_BITS
        yield order[left[is_near]], order[right[is_near]]
