"""Two pictures and their landmarks -> how well their fine detail agrees once they are aligned.

Landmarks with nearly the same code give the similarity transform, mirrored or not, that most of them obey; under it,
fine detail is correlated where the pictures overlap.
"""

from functools import cache

import numpy as np

from lesion_tasks.curation.landmarks import blur, places_of

# Look-alikes of HAM10000 reach 0.70.
MIN_REGISTERED_CORRELATION = 0.73
MIN_AGREEING_PLACES = 5  # nine in ten candidates have fewer; hardly any copy does

_MAX_CODE_BITS = 11  # in which the codes of one landmark in two pictures may differ
_NEAR_PX = 4.0
_MIN_STEP_PX = 14.0
_SCALE_LIMITS = (0.7, 1.4)
_MAX_MATCHES = 60
_FINE_PX, _BLUR_PX, _CONTRAST_PX, _CONTRAST_FLOOR = 1.0, 3.0, 6.0, 2.0
_BORDER_PX = 8  # detail is not read nearer to an edge, where blurs reach beyond it
_MAX_SHIFT_PX = 3
_MIN_OVERLAP = 0.35  # share of the picture


def registered_correlation(
    one: np.ndarray, other: np.ndarray, one_landmarks: np.ndarray, other_landmarks: np.ndarray
) -> float:
    """The correlation of fine detail of two pictures from `read_grey` once they are aligned: 0 to 1.

    0 if landmarks agree at fewer than `MIN_AGREEING_PLACES`. The sign is dropped: inverted pictures are copies too.
    """
    best = 0.0
    for linear, shift in _transforms(one_landmarks, other_landmarks):
        best = max(best, _laid_upon(one, other, linear, shift))
    return best


def n_agreeing_places(one: np.ndarray, other: np.ndarray) -> int:
    """At how many places landmarks of two pictures agree under the one transform that most of them obey."""
    return max((n for n, _, _ in _similarities(one, other)), default=0)


def _similarities(one: np.ndarray, other: np.ndarray) -> list[tuple[int, complex, complex]]:
    """For the pictures as they are and with one mirrored: how many places agree, factor and shift of the best fit."""
    if not len(one) or not len(other):
        return []
    n_bits = np.bitwise_count((one[:, None] ^ other[None, :]) >> np.uint64(16))
    left, right = np.nonzero(n_bits <= _MAX_CODE_BITS)
    closest = np.argsort(n_bits[left, right], kind="stable")[:_MAX_MATCHES]
    z, w = (
        places[:, 0] + 1j * places[:, 1]
        for places in (places_of(one[left[closest]]), places_of(other[right[closest]]))
    )
    return [_best_similarity(source, w) for source in (z, z.conj())]


def _transforms(one: np.ndarray, other: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The one or two transforms, (2, 2) and (2,), from x, y in one picture to the other, that most matches obey."""
    found = _similarities(one, other)
    most = max((n for n, _, _ in found), default=0)
    transforms = []
    for is_mirrored, (n, factor, shift) in enumerate(found):
        if n >= max(MIN_AGREEING_PLACES, 0.7 * most):
            a, b = factor.real, factor.imag
            linear = np.array([[a, b], [b, -a]]) if is_mirrored else np.array([[a, -b], [b, a]])
            transforms.append((linear, np.array([shift.real, shift.imag])))
    return transforms


def _best_similarity(z: np.ndarray, w: np.ndarray) -> tuple[int, complex, complex]:
    """How many matches z -> w obey the best w = factor z + shift, its factor and shift: tries every pair of them."""
    first, second = _pairs_of(len(z))
    step = z[first] - z[second]
    is_long = np.abs(step) >= _MIN_STEP_PX
    first, second, step = first[is_long], second[is_long], step[is_long]
    factor = (w[first] - w[second]) / step
    is_likely = (np.abs(factor) >= _SCALE_LIMITS[0]) & (np.abs(factor) <= _SCALE_LIMITS[1])
    first, factor = first[is_likely], factor[is_likely]
    if not len(first):
        return 0, 1 + 0j, 0j
    shift = w[first] - factor * z[first]
    # Places are below 128 px: single precision is exact enough, and squares take a third of the time of moduli.
    off = np.multiply.outer(factor.astype(np.complex64), z.astype(np.complex64))
    off += shift.astype(np.complex64)[:, None]
    off -= w.astype(np.complex64)
    is_near = off.real**2 + off.imag**2 <= _NEAR_PX**2
    best = int(is_near.sum(axis=1).argmax())
    z, w = z[is_near[best]], w[is_near[best]]
    middle_z, middle_w = z.mean(), w.mean()
    spread = (np.abs(z - middle_z) ** 2).sum()
    fitted = ((w - middle_w) * (z - middle_z).conj()).sum() / spread if spread > 1 else factor[best]
    # Matches of the same place at several scales count once.
    n = len({(round(p.real / 6), round(p.imag / 6)) for p in z.tolist()})
    return n, complex(fitted), complex(middle_w - fitted * middle_z)


@cache
def _pairs_of(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n, 1)


def _laid_upon(one: np.ndarray, other: np.ndarray, linear: np.ndarray, shift: np.ndarray) -> float:
    from scipy.ndimage import affine_transform

    # Arrays are indexed by y, x: the same transform with both axes swapped.
    matrix, offset = linear[::-1, ::-1], shift[::-1]
    laid = affine_transform(other, matrix, offset, output_shape=one.shape, order=1, mode="nearest")
    rows, columns = np.indices(one.shape, dtype=np.float32)
    y = matrix[0, 0] * rows + matrix[0, 1] * columns + offset[0]
    x = matrix[1, 0] * rows + matrix[1, 1] * columns + offset[1]
    low, high = _BORDER_PX, _BORDER_PX + 1
    is_both = (y >= low) & (y <= other.shape[0] - high) & (x >= low) & (x <= other.shape[1] - high)
    is_both[:low] = is_both[-low:] = False
    is_both[:, :low] = is_both[:, -low:] = False
    if is_both.mean() < _MIN_OVERLAP:
        return 0.0
    weight = blur(is_both.astype(np.float32), 3.0) * is_both
    details = []
    for grey in (one, laid):
        fine = blur(grey, _FINE_PX) - blur(grey, _BLUR_PX)
        fine = fine / np.sqrt(blur(fine * fine, _CONTRAST_PX) + _CONTRAST_FLOOR)
        details.append((fine - fine[is_both].mean()) * weight)
    left, right = details
    scale = float(np.sqrt((left * left).sum() * (right * right).sum()))
    if scale < 1e-6:
        return 0.0
    product = np.fft.irfft2(np.fft.rfft2(left) * np.conj(np.fft.rfft2(right)), s=left.shape)
    near = np.roll(product, (_MAX_SHIFT_PX, _MAX_SHIFT_PX), axis=(0, 1))
    return float(np.abs(near[: 2 * _MAX_SHIFT_PX + 1, : 2 * _MAX_SHIFT_PX + 1]).max()) / scale
