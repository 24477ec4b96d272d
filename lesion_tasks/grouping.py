"""Identities and picture hashes -> groups that must stay on one side, and the subset that each falls in.

A group is a connected component over patient, lesion, identical bytes and near-duplicate pictures. Everything
here is a pure function of the set of images: the order in which they arrived does not matter.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

# Two pictures are near-duplicates when their 64-bit perceptual hashes differ in at most this many bits and their
# thumbprints correlate this much. The hash alone takes any small dark spot in the middle for any other
# (docs/decisions/0003-near-duplicates.md).
NEAR_DUPLICATE_BITS = 3
MIN_CORRELATION = 0.98
_BANDS = 4  # of 16 bits: two hashes within 3 bits agree in at least one band (pigeonhole)
SUBSETS = ("train", "val", "test")
QUARANTINE = "quarantine"


def atom_of(patient_id: str | None, lesion_id: str | None, isic_id: str) -> str:
    """The widest identity known of one image: what its subset is drawn from."""
    return patient_id or lesion_id or isic_id


def unit_interval(salt: str, key: str) -> float:
    """Map a key to a number in [0, 1), the same on every machine and in every run."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def subset_of(atom_id: str, *, salt: str, val_share: float, test_share: float) -> str:
    """The subset an identity falls in. It depends on nothing else, so growth moves nobody."""
    position = unit_interval(salt, atom_id)
    if position < test_share:
        return "test"
    if position < test_share + val_share:
        return "val"
    return "train"


def near_duplicate_pairs(hashes: np.ndarray, max_bits: int = NEAR_DUPLICATE_BITS) -> np.ndarray:
    """All pairs within `max_bits` bits, as an (m, 2) array of row numbers; exact, without comparing all pairs.

    `hashes` is (n,) int64 or uint64. Two hashes that differ in at most 3 bits agree in one of 4 bands of 16
    bits, so only rows that share a band are compared.
    """
    if not 0 <= max_bits < _BANDS:
        raise ValueError(f"max_bits is {max_bits}, expected 0 to {_BANDS - 1}")
    values = hashes.astype(np.uint64)
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(_BANDS):
        keys = ((values >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        pairs = _pairs_within_runs(keys[order])
        left, right = order[pairs[:, 0]], order[pairs[:, 1]]
        is_near = np.bitwise_count(values[left] ^ values[right]) <= max_bits
        found.append(np.column_stack([left[is_near], right[is_near]]))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def is_copy(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Tell which pairs of thumbprints, uint8 (m, 256) each, show the same picture: (m,) bool.

    Pearson correlation, so that brightness and contrast do not matter. A flat picture is a copy of nothing.
    """
    one, other = (x.astype(np.float32) - x.mean(axis=1, keepdims=True) for x in (left, right))
    scale = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    alike: np.ndarray = (one * other).sum(axis=1) >= MIN_CORRELATION * np.maximum(scale, 1e-6)
    return alike & (scale > 0)


def _chains(labels: np.ndarray) -> np.ndarray:
    """Link each row to the next one with the same label: (m, 2) row numbers."""
    order = np.argsort(labels, kind="stable")
    same = labels[order][1:] == labels[order][:-1]
    return np.column_stack([order[:-1][same], order[1:][same]])


def _pairs_within_runs(sorted_keys: np.ndarray) -> np.ndarray:
    """All pairs (i, j), i < j, of positions that hold the same key in a sorted array."""
    pairs = []
    n = len(sorted_keys)
    for distance in range(1, n):
        same = sorted_keys[distance:] == sorted_keys[:-distance]
        if not same.any():
            break
        left = np.flatnonzero(same)
        pairs.append(np.column_stack([left, left + distance]))
    return np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)


def group_ids(
    *,
    atoms: Sequence[str],
    lesions: Sequence[str | None],
    sha256s: Sequence[str],
    perceptual_hashes: np.ndarray,
    thumbprints: np.ndarray,
    has_hash: np.ndarray,
) -> list[str]:
    """Name the group of every image: the smallest atom of its connected component.

    All arguments have one entry for each image; `perceptual_hashes` is (n,) int64 and `thumbprints`
    uint8 (n, 256), both read where `has_hash`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(atoms)
    edges = [_chains(_codes(atoms)), _chains(_codes(sha256s)), _lesion_chains(lesions)]
    edges += _copies(np.flatnonzero(has_hash), perceptual_hashes, thumbprints)
    links = np.concatenate([edge.astype(np.int64) for edge in edges])
    graph = coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    smallest: dict[int, str] = {}
    for label, atom in zip(component.tolist(), atoms, strict=True):
        if label not in smallest or atom < smallest[label]:
            smallest[label] = atom
    return [smallest[label] for label in component.tolist()]


def _copies(rows: np.ndarray, hashes: np.ndarray, thumbprints: np.ndarray) -> list[np.ndarray]:
    """Edges between rows that show the same picture. Equal prints are chained, so many copies stay few edges."""
    if not len(rows):
        return []
    prints = np.column_stack([hashes[rows].view(np.uint8).reshape(-1, 8), thumbprints[rows]])
    _, first, inverse = np.unique(
        np.ascontiguousarray(prints).view(np.dtype((np.void, prints.shape[1]))).ravel(),
        return_index=True,
        return_inverse=True,
    )
    distinct = rows[first]
    near = distinct[near_duplicate_pairs(hashes[distinct])]
    is_near = is_copy(thumbprints[near[:, 0]], thumbprints[near[:, 1]])
    return [rows[_chains(inverse)], near[is_near]]


def _codes(words: Sequence[str]) -> np.ndarray:
    return np.unique(np.asarray(words, dtype=object).astype(str), return_inverse=True)[1]


def _lesion_chains(lesions: Sequence[str | None]) -> np.ndarray:
    known = np.array([i for i, lesion in enumerate(lesions) if lesion], dtype=np.int64)
    if not len(known):
        return np.empty((0, 2), dtype=np.int64)
    return known[_chains(_codes([lesions[i] or "" for i in known]))]
