"""A picture -> landmarks that survive crops, rotation, mirroring, rims and colour changes.

A landmark is an extremum of the difference of two blurs (Lowe 2004, "Distinctive Image Features from Scale-Invariant
Keypoints", section 3) at one of eight scales. Its surroundings are read on rings. Its description consists of products
of their Fourier coefficients along the ring, which neither a rotation nor a mirror image changes. Its code says on
which side of 48 fixed hyperplanes through the usual description it lies (random hyperplanes: Charikar 2002, "Similarity
Estimation Techniques from Rounding Algorithms"). The signs do not depend on brightness or contrast, and an inverted
picture has the same ones.
"""

from functools import cache, lru_cache

import numpy as np

from lesion_tasks.archive.picture import open_picture

LANDMARKS_VERSION = 2  # raise it whenever landmarks come out differently: all are then computed again
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
    from scipy.ndimage import map_coordinates, uniform_filter

    n_scales = len(_SCALES_PX)
    down, across = _blurs(grey.shape[0]), _blurs(grey.shape[1])
    blurred = (down.reshape(-1, len(grey)) @ grey).reshape(3 * n_scales, *grey.shape) @ across.transpose(
        0, 2, 1
    )
    differences = blurred[:n_scales] - blurred[n_scales : 2 * n_scales]
    places = []
    for step, (scale, difference) in enumerate(zip(_SCALES_PX, differences, strict=True)):
        size = np.abs(difference)
        y, x = _tops(size, round(1.2 * scale), margin=round(1.5 * scale) + 1)
        energy = uniform_filter(difference * difference, 2 * round(4 * scale) + 1)
        around = np.sqrt(np.maximum(energy[y, x], 0))  # running sums leave small negative numbers
        score = size[y, x] / (around + _FLOOR_LEVELS) * np.minimum(1, size[y, x])
        best = np.argsort(-score, kind="stable")[: MAX_LANDMARKS // n_scales]
        places.append(np.column_stack([x[best], y[best], np.full(len(best), step)]))
    found = np.concatenate(places)
    x, y, step = found.T
    radii = np.asarray(_SCALES_PX)[step, None, None] * _RINGS[:, None]
    angle = 2 * np.pi / _N_ANGLES * np.arange(_N_ANGLES)
    rows, columns = (at[:, None, None] + radii * way(angle) for at, way in ((y, np.sin), (x, np.cos)))
    layers = np.broadcast_to(step[:, None, None], rows.shape)
    rings = map_coordinates(blurred[2 * n_scales :], [layers, rows, columns], order=1, mode="reflect")
    return found, _invariants(rings * np.sign(differences[step, y, x])[:, None, None])


def _tops(size: np.ndarray, reach: int, *, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """y and x, (n,) each, of pixels at least as large as all within `reach` px, which is at most `margin`."""
    inner = size[margin:-margin, margin:-margin]
    is_top = inner > _FLOOR_LEVELS
    if not is_top.size:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    around = np.lib.stride_tricks.sliding_window_view(
        size[margin - 1 : 1 - margin, margin - 1 : 1 - margin], (3, 3)
    )
    for step in range(9):  # few are left for the wide comparison
        is_top &= inner >= around[:, :, step // 3, step % 3]
    y, x = (found + margin for found in np.nonzero(is_top))
    wide = np.arange(-reach, reach + 1)
    near = size[y[:, None, None] + wide[:, None], x[:, None, None] + wide]
    is_top = size[y, x] >= near.max(axis=(1, 2), initial=0)
    return y[is_top], x[is_top]


@lru_cache(maxsize=32)
def _blurs(n: int) -> np.ndarray:
    """Blurs of n pixels as matrices, (24, n, n): at each scale, 1.6 times as wide, and 0.6 times as wide."""
    widths = [
        (factor * scale, reach) for factor, reach in ((1.0, 3), (1.6, 3), (0.6, 4)) for scale in _SCALES_PX
    ]
    return np.stack([blur_matrix(n, width_px, reach) for width_px, reach in widths])


@lru_cache(maxsize=512)
def blur_matrix(n: int, width_px: float, reach: int = 4) -> np.ndarray:
    """The Gaussian blur of n pixels in a row, cut off at `reach` widths, as a matrix (n, n) float32.

    For pictures of this size, two products of matrices take a quarter of the time of a filter.
    """
    from scipy.ndimage import gaussian_filter1d

    matrix: np.ndarray = gaussian_filter1d(np.eye(n), width_px, axis=0, truncate=reach).astype(np.float32)
    return matrix


def blur(grey: np.ndarray, width_px: float) -> np.ndarray:
    """Blur a picture, (h, w) float32, by a Gaussian."""
    blurred: np.ndarray = blur_matrix(len(grey), width_px) @ grey @ blur_matrix(grey.shape[1], width_px).T
    return blurred


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
