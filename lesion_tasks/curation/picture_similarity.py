"""Picture hashes, thumbprints and pixels -> which pictures show the same thing.

Three comparisons, each finer and more expensive than the one before, because no cheap one can tell two photographs of
small dark spots from two copies of one photograph (docs/decisions/0003-near-duplicates.md): hashes within a few bits,
found without comparing all pairs; thumbprints that correlate; and fine detail of the pictures themselves.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations, pairwise
from math import comb

import numpy as np

from lesion_tasks.archive.picture import open_picture

HASH_BITS = 64
# The hash sets half of its bits, so distances between real pictures are even: 6 includes everything that 7 would.
MAX_BITS = 6
MIN_PRINT_CORRELATION = 0.95
MIN_DETAIL_CORRELATION = 0.67

DETAIL_SIDE_PX = 96
_MARGIN_PX = 15  # the dark corners and rims of the optics are alike in all pictures of a device
_BLUR_PX, _CONTRAST_PX, _CONTRAST_FLOOR = 2.0, 4.0, 4.0
_MAX_SHIFT_PX = 6
_BRUTE_PAIRS = 1_500_000_000  # below this, comparing all pairs is faster than sorting
_NEAR_ROWS = 2**14  # compared at once: 128 KiB, which stay in the processor's cache meanwhile
_CHUNK_PAIRS = 2**22  # compared at once: 32 MiB of row numbers on either side


def near_pairs(
    hashes: np.ndarray, max_bits: int = MAX_BITS, *, fresh: np.ndarray | None = None
) -> np.ndarray:
    """All pairs of rows whose hashes differ in at most `max_bits` bits: (m, 2) row numbers, smaller first, sorted.

    `hashes` is (n,) int64 or uint64. With `fresh` (row numbers), only pairs with at least one of them. Exact.
    """
    values = hashes.astype(np.int64, copy=False).view(np.uint64)
    if fresh is not None and len(fresh) * len(values) <= _BRUTE_PAIRS:
        found = list(_near_each(values, np.asarray(fresh, dtype=np.int64), max_bits))
    elif len(values) ** 2 <= _BRUTE_PAIRS // 100:
        found = list(_near_each(values, np.arange(len(values)), max_bits))
    else:
        found = list(_near_by_blocks(values, max_bits))
        if fresh is not None:
            is_fresh = np.zeros(len(values), dtype=bool)
            is_fresh[fresh] = True
            found = [pairs[is_fresh[pairs].any(axis=1)] for pairs in found]
    pairs = np.sort(np.concatenate([np.empty((0, 2), dtype=np.int64), *found]), axis=1)
    # One number for each pair: sorting numbers is much faster than sorting rows.
    codes = np.unique(pairs[:, 0] * len(values) + pairs[:, 1]) if len(values) else pairs[:, 0]
    return np.column_stack(np.divmod(codes, max(len(values), 1)))


def _near_each(values: np.ndarray, rows: np.ndarray, max_bits: int) -> Iterator[np.ndarray]:
    """Compare each of `rows` with every row."""
    difference = np.empty(_NEAR_ROWS, dtype=np.uint64)
    for start in range(0, len(values), _NEAR_ROWS):
        some = values[start : start + _NEAR_ROWS]
        for row in rows.tolist():
            np.bitwise_xor(some, values[row], out=difference[: len(some)])
            others = start + np.flatnonzero(np.bitwise_count(difference[: len(some)]) <= max_bits)
            others = others[others != row]
            if len(others):
                yield np.column_stack([np.full(len(others), row), others])


def _near_by_blocks(values: np.ndarray, max_bits: int) -> Iterator[np.ndarray]:
    """Compare rows that agree in several blocks of bits.

    Cut 64 bits into max_bits + q blocks: two hashes that differ in at most max_bits bits agree in at least q of
    them (pigeonhole), so it is enough to compare, for every choice of q blocks, the rows that agree in all of them
    (Manku, Jain, Das Sarma 2007, "Detecting Near-Duplicates for Web Crawling", section 3).
    """
    n_agreeing = _agreeing_blocks(max_bits)
    edges = np.linspace(0, HASH_BITS, max_bits + n_agreeing + 1).astype(int)
    blocks = [
        (values >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1) for low, high in pairwise(edges)
    ]
    row_bits = np.uint64(max(len(values).bit_length(), 1))
    rows = np.arange(len(values), dtype=np.uint64)
    for chosen in combinations(range(len(blocks)), n_agreeing):
        keys = np.zeros(len(values), dtype=np.uint64)
        for block in chosen:
            keys = (keys << np.uint64(edges[block + 1] - edges[block])) | blocks[block]
        # Key and row in one number: sorting it is several times faster than an indirect sort.
        packed = np.sort((keys << row_bits) | rows)
        order = (packed & np.uint64((1 << int(row_bits)) - 1)).astype(np.int64)
        yield from _near_in_runs(values[order], packed >> row_bits, order, max_bits)


def _agreeing_blocks(max_bits: int) -> int:
    """How many blocks must agree: few choices to sort by, but a key long enough to tell a million rows apart."""
    for n in range(1, HASH_BITS):
        if n * HASH_BITS / (max_bits + n) >= 17 or comb(max_bits + n + 1, n + 1) > 1_000:
            return n
    raise ValueError(f"max_bits is {max_bits}, expected fewer than {HASH_BITS}")


def _near_in_runs(
    values: np.ndarray, keys: np.ndarray, order: np.ndarray, max_bits: int
) -> Iterator[np.ndarray]:
    """Compare all rows that share a key, in sorted order: at distance 1, 2, ... as long as any run is that long."""
    left = np.flatnonzero(keys[1:] == keys[:-1])
    distance = 1
    while len(left):
        for start in range(0, len(left), _CHUNK_PAIRS):
            some = left[start : start + _CHUNK_PAIRS]
            near = some[np.bitwise_count(values[some] ^ values[some + distance]) <= max_bits]
            if len(near):
                yield np.column_stack([order[near], order[near + distance]])
        distance += 1
        left = left[left + distance < len(keys)]
        left = left[keys[left] == keys[left + distance]]


def print_correlation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pearson correlation of pairs of thumbprints, uint8 (m, 256) each: (m,) float32, -1 to 1, 0 for a flat one.

    Brightness and contrast do not matter.
    """
    one, other = (
        x.astype(np.float32) - x.mean(axis=1, keepdims=True, dtype=np.float32) for x in (left, right)
    )
    scale = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    product = np.einsum("ij,ij->i", one, other)
    correlation: np.ndarray = np.divide(product, scale, out=np.zeros_like(product), where=scale > 1e-3)
    return correlation


def read_detail(data: bytes) -> np.ndarray:
    """The fine detail of a picture's centre: float32 (66, 66), with local contrast normalized, fading to the rim."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    side = (DETAIL_SIDE_PX, DETAIL_SIDE_PX)
    picture = open_picture(data, "L", least_px=2 * DETAIL_SIDE_PX)
    grey = np.asarray(picture.resize(side, Image.Resampling.BOX), dtype=np.float32)
    fine = grey - gaussian_filter(grey, _BLUR_PX)
    fine = fine / np.sqrt(gaussian_filter(fine * fine, _CONTRAST_PX) + _CONTRAST_FLOOR)
    middle = fine[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
    detail: np.ndarray = (middle - middle.mean()) * _window()
    return detail.astype(np.float32)


@cache
def _window() -> np.ndarray:
    window = np.hanning(DETAIL_SIDE_PX - 2 * _MARGIN_PX).astype(np.float32)
    return window[:, None] * window[None, :]


def detail_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """The largest correlation of two details over shifts of up to 6 px: -1 to 1, 0 for a flat picture."""
    scale = float(np.sqrt((one * one).sum() * (other * other).sum()))
    if scale < 1e-6:
        return 0.0
    product = np.fft.irfft2(np.fft.rfft2(one) * np.conj(np.fft.rfft2(other)), s=one.shape)
    near = np.roll(product, (_MAX_SHIFT_PX, _MAX_SHIFT_PX), axis=(0, 1))
    return float(near[: 2 * _MAX_SHIFT_PX + 1, : 2 * _MAX_SHIFT_PX + 1].max()) / scale
