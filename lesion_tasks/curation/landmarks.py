"""A picture -> landmarks that survive crops, rotation, mirroring, rims and colour changes; pairs that share some.

A landmark is an extremum of the difference of two blurs (Lowe 2004, "Distinctive Image Features from Scale-Invariant
Keypoints", section 3) at one of eight scales. Its surroundings are read on rings. Its description consists of products
of their Fourier coefficients along the ring, which neither a rotation nor a mirror image changes. Its code says on
which side of 48 fixed hyperplanes through the usual description it lies (random hyperplanes: Charikar 2002, "Similarity
Estimation Techniques from Rounding Algorithms"). The signs do not depend on brightness or contrast, and an inverted
picture has the same ones.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations

import numpy as np

from lesion_tasks.archive.picture import open_picture

LANDMARKS_VERSION = 1  # raise it whenever landmarks come out differently: all are then computed again
FRAME_PX = 128  # the longer side of a picture, without its plain rim, when landmarks are sought
N_BITS = 48
MAX_LANDMARKS = 40  # 5 at each scale
# A crop is at most half a step from one of them: 6 %, which codes tolerate. A step of 19 % lost half the crops of 8 %.
_SCALES_PX = tuple(2.0 * 1.12**step for step in range(8))
_PLAIN_LEVELS = 12  # a row of a rim varies by fewer grey levels than this
_RINGS = 0.9 * np.arange(1, 7)  # radii, in scales
_N_ANGLES = 16
_ORDERS = 5  # Fourier orders along a ring
_WEIGHTS = (
    1.0,
    1.0,
    0.9,
    0.8,
    0.65,
    0.5,
)  # of orders 0 to 5 in a code: compression changes the higher ones more
_FLOOR_LEVELS = 0.3  # a fainter extremum is noise
# Keys of landmarks are long enough that few unrelated ones agree by chance.
_N_BLOCKS, _BLOCK_BITS = 8, 6
_MAX_SHARED_BITS = 7  # total bits in which two codes that agree in a key may differ
_NEIGHBOURS = 3
_COMMON = 16  # landmarks that share a key: if more do, each is compared only with its next neighbours
_PART_ROWS = 2**22  # sorted at once: a few dozen MiB


def read_grey(data: bytes) -> np.ndarray:
    """Decode a picture, cut off a plain rim, and shrink or enlarge it: float32, the longer side `FRAME_PX`.

    Raises `UnusablePictureError`.
    """
    from PIL import Image

    grey = open_picture(data, "L", least_px=FRAME_PX)
    grey = grey.crop(_inside_rim(np.asarray(grey)))
    factor = FRAME_PX / max(grey.size)
    size = (max(16, round(grey.width * factor)), max(16, round(grey.height * factor)))
    way = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    return np.asarray(grey.resize(size, way), dtype=np.float32)


def _inside_rim(grey: np.ndarray) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of the picture inside a plain rim. Trims rows, columns, then rows again."""
    upper, lower = _plain_ends(grey)
    left, right = _plain_ends(grey[upper:lower].T)
    upper, lower = _plain_ends(grey[:, left:right])
    return left, upper, right, lower


def _plain_ends(rows: np.ndarray) -> tuple[int, int]:
    is_plain = rows.max(axis=1).astype(np.int16) - rows.min(axis=1) < _PLAIN_LEVELS
    level = rows.mean(axis=1)

    def depth(step: int) -> int:
        levels = level[::step]
        is_rim = is_plain[::step] & (np.abs(levels - levels[0]) < _PLAIN_LEVELS)
        n = int(np.argmin(is_rim)) if not is_rim.all() else len(levels)
        return n + 1 if n else 0  # the row between rim and picture mixes both

    first, last = depth(1), depth(-1)
    return (first, len(rows) - last) if first + last < 0.6 * len(rows) else (0, len(rows))


def landmarks_of(grey: np.ndarray) -> np.ndarray:
    """The landmarks of a picture from `read_grey`: (n,) uint64, n up to `MAX_LANDMARKS`.

    The upper 48 bits are the code; then 4 bits scale, and x and y in units of 2 px, of 6 bits each.
    """
    places, descriptions = _described(grey)
    if not len(places):
        return np.empty(0, dtype=np.uint64)
    middle, spread, directions = _usual()
    bits = ((descriptions - middle) / spread) @ directions > 0
    codes = (bits * (1 << np.arange(N_BITS, dtype=np.uint64))).sum(axis=1, dtype=np.uint64)
    x, y, scale = (places[:, column].astype(np.uint64) for column in range(3))
    return (
        (codes << np.uint64(16))
        | (scale << np.uint64(12))
        | ((x >> np.uint64(1)) << np.uint64(6))
        | (y >> np.uint64(1))
    )


def places_of(landmarks: np.ndarray) -> np.ndarray:
    """The positions of landmarks in their picture's frame: (..., 2) float32, x and y in px."""
    x, y = (landmarks >> np.uint64(6)) & np.uint64(63), landmarks & np.uint64(63)
    return 2 * np.stack([x, y], axis=-1).astype(np.float32) + 0.5


def _described(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, y and scale (n, 3) of the extrema, and descriptions of their surroundings (n, 101)."""
    from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter, uniform_filter

    places, descriptions = [], []
    for step, scale in enumerate(_SCALES_PX):
        difference = gaussian_filter(grey, scale, truncate=3) - gaussian_filter(grey, 1.6 * scale, truncate=3)
        size = np.abs(difference)
        is_top = (size == maximum_filter(size, size=2 * round(1.2 * scale) + 1)) & (size > _FLOOR_LEVELS)
        margin = round(1.5 * scale) + 1
        y, x = (found + margin for found in np.nonzero(is_top[margin:-margin, margin:-margin]))
        energy = uniform_filter(difference * difference, 2 * round(4 * scale) + 1)
        around = np.sqrt(np.maximum(energy, 0))  # running sums leave small negative numbers
        score = size[y, x] / (around[y, x] + _FLOOR_LEVELS) * np.minimum(1, size[y, x])
        best = np.argsort(-score, kind="stable")[: MAX_LANDMARKS // len(_SCALES_PX)]
        y, x = y[best], x[best]
        if not len(best):
            continue
        angle = 2 * np.pi / _N_ANGLES * np.arange(_N_ANGLES)
        rows = y[:, None, None] + scale * _RINGS[:, None] * np.sin(angle)
        columns = x[:, None, None] + scale * _RINGS[:, None] * np.cos(angle)
        rings = map_coordinates(gaussian_filter(grey, 0.6 * scale), [rows, columns], order=1, mode="reflect")
        places.append(np.column_stack([x, y, np.full(len(x), step)]))
        descriptions.append(_invariants(rings * np.sign(difference[y, x])[:, None, None]))
    if not places:
        return np.empty((0, 3), dtype=np.int64), np.empty((0, 0))
    return np.concatenate(places), np.concatenate(descriptions)


def _invariants(rings: np.ndarray) -> np.ndarray:
    """Numbers that do not change when grey levels on rings, (n, 6, 16), are rotated or mirrored: (n, 101).

    A rotation multiplies the coefficients of one order on all rings by the same phase, a mirror image conjugates them:
    the real part of the product of one with the conjugate of another keeps its value.
    """
    fourier = np.fft.rfft(rings, axis=2)
    mean = _unit(fourier[:, :, 0].real - fourier[:, :, 0].real.mean(axis=1, keepdims=True))
    parts = [mean]
    n_rings = len(_RINGS)
    pairs = [(ring, ring + d) for d in (1, 2, 3) for ring in range(n_rings - d)]
    inner, outer = np.array(pairs).T
    for order in range(1, _ORDERS + 1):
        around = _unit(fourier[:, :, order])
        parts += [(around[:, inner] * around[:, outer].conj()).real, np.abs(around)]
    parts.append(_unit(np.linalg.norm(fourier[:, :, 1 : _ORDERS + 1], axis=1)))
    return np.concatenate(parts, axis=1)


def _unit(values: np.ndarray) -> np.ndarray:
    unit: np.ndarray = values / (np.linalg.norm(values, axis=1, keepdims=True) + 1e-6)
    return unit


@cache
def _usual() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and spread of descriptions of noise pictures, (101,) each, and the directions (101, 48) of hyperplanes."""
    from scipy.ndimage import gaussian_filter

    draw = np.random.RandomState(0)  # its numbers never change, and codes are kept for good
    found = []
    for _ in range(24):
        layers = [gaussian_filter(draw.standard_normal((96, 128)), s) * s**1.5 for s in (1, 2, 4, 8, 16)]
        noise = np.sum(layers, axis=0)
        found.append(_described((128 + 30 * noise / noise.std()).astype(np.float32))[1])
    descriptions = np.concatenate(found)
    directions, _ = np.linalg.qr(draw.standard_normal((descriptions.shape[1],) * 2))
    n_pairs = 3 * len(_RINGS) - 6
    sizes = [len(_RINGS), *[n_pairs + len(_RINGS)] * _ORDERS, _ORDERS]
    weights = np.repeat([*_WEIGHTS, 1.0], sizes)
    return descriptions.mean(axis=0), (descriptions.std(axis=0) + 0.05) / weights, directions[:, :N_BITS]


def pairs_in_common(
    landmarks: np.ndarray, pictures: np.ndarray, *, fresh: np.ndarray | None = None
) -> np.ndarray:
    """Pairs of pictures that share landmarks in one arrangement: (m, 2) picture numbers, smaller first, sorted.

    `landmarks` is (n,) uint64, `pictures` (n,) int the picture number of each. With `fresh`, bool by picture number,
    only pairs with at least one fresh picture. Two of the shared landmarks must be as far apart in one picture as in
    the other, along its axes in either order, give or take a fifth. Not exact: some pairs are missed.
    """
    shared = [np.empty(0, dtype=np.uint64), *_sharing(landmarks, pictures, fresh)]
    n = np.uint64(max(len(landmarks), 1))
    one, other = (side.astype(np.int64) for side in np.divmod(np.unique(np.concatenate(shared)), n))
    left, right = pictures[one].astype(np.int64), pictures[other].astype(np.int64)
    n_pictures = int(pictures.max(initial=-1)) + 1
    pair = left * n_pictures + right
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
    return np.column_stack(np.divmod(codes, max(n_pictures, 1)))


def _same_arrangement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Are these steps, (m, 2) px, the same up to a quarter turn, a mirror image and a fifth of their length?"""
    one, other = np.abs(one), np.abs(other)
    length = np.hypot(one[:, 0], one[:, 1])
    off = np.minimum(np.abs(one - other).max(axis=1), np.abs(one - other[:, ::-1]).max(axis=1))
    return (length >= 14) & (off <= 0.22 * length + 3)


def _keys_for(n: int) -> tuple[int, int]:
    """How many of the eight blocks of a code must agree among n landmarks, and how many choices of them are tried.

    24 bits, or 30 above eight million landmarks (200,000 pictures), where fewer agree by chance but more copies are
    missed.
    """
    return (4, 12) if n <= 2**23 else (5, 20)


def _sharing(landmarks: np.ndarray, pictures: np.ndarray, fresh: np.ndarray | None) -> Iterator[np.ndarray]:
    """Landmarks of two pictures whose codes agree in all bits of one choice of blocks, each pair as one number."""
    n = len(landmarks)
    n_agreeing, n_choices = _keys_for(n)
    blocks = [
        ((landmarks >> np.uint64(16 + block * _BLOCK_BITS)) & np.uint64((1 << _BLOCK_BITS) - 1)).astype(
            np.uint8
        )
        for block in range(_N_BLOCKS)
    ]
    is_fresh = None if fresh is None or 2 * fresh.sum() > len(fresh) else fresh[pictures]
    choices = list(combinations(range(_N_BLOCKS), n_agreeing))
    for chosen in choices[:: len(choices) // n_choices][:n_choices]:
        keys = np.zeros(n, dtype=np.uint32)
        for block in chosen:
            keys = (keys << np.uint32(_BLOCK_BITS)) | blocks[block]
        for rows in _parts(keys, is_fresh):
            for one, other in _near_with_one_key(landmarks, keys, rows):
                is_wanted = pictures[one] != pictures[other]
                if fresh is not None:
                    is_wanted &= fresh[pictures[one]] | fresh[pictures[other]]
                one, other = one[is_wanted], other[is_wanted]
                is_swapped = pictures[one] > pictures[other]
                one, other = np.where(is_swapped, other, one), np.where(is_swapped, one, other)
                yield one.astype(np.uint64) * np.uint64(n) + other.astype(np.uint64)


def _parts(keys: np.ndarray, is_fresh: np.ndarray | None) -> Iterator[np.ndarray]:
    """Row numbers by the start of their keys, few enough to sort; with fresh rows, only parts that hold one."""
    begin = keys >> np.uint32(12)
    if is_fresh is not None:
        is_met = np.zeros(int(begin.max(initial=0)) + 1, dtype=bool)
        is_met[begin[is_fresh]] = True
        rows = np.flatnonzero(is_met[begin])
        is_met = np.zeros(1 << 24, dtype=bool)
        is_met[keys[is_fresh] & np.uint32((1 << 24) - 1)] = True
        yield rows[is_met[keys[rows] & np.uint32((1 << 24) - 1)]]
        return
    n_parts = 1 + len(keys) // _PART_ROWS
    part = (keys % np.uint32(n_parts)).astype(np.uint16)
    for number in range(n_parts):
        yield np.flatnonzero(part == number)


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
