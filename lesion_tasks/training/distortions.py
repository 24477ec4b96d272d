"""Pictures -> the same lesions mirrored, turned and distorted in shape and colour, as one seed says.

After RandAugment (Cubuk et al. 2020): some distortions of each picture, drawn at random, all of one strength. The
geometric ones are composed into one transform, so a picture is interpolated once.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

GEOMETRY = ("rotate", "zoom", "stretch", "shear", "shift")
COLOUR = ("brightness", "contrast", "saturation", "hue", "gamma")

# At strength 1 and, for most of them, in both directions.
MAX_ROTATION_DEG = 90.0
MAX_ZOOM = 0.4  # of the size
MAX_SHEAR = 0.3
MAX_SHIFT = 0.2  # of the side
MAX_COLOUR = 0.5  # of the brightness, contrast, saturation or gamma
MAX_HUE = 0.05  # of the colour circle: a lesion's hue is a finding


def distort(pictures: np.ndarray, generator: np.random.Generator, n: int, strength: float) -> np.ndarray:
    """Distort pictures uint8 (b, side, side, 3), each on its own: mirrored and turned, then `n` distortions."""
    return np.stack([_distort_one(picture, generator, n, strength) for picture in pictures])


def _distort_one(picture: np.ndarray, generator: np.random.Generator, n: int, strength: float) -> np.ndarray:
    turned = np.rot90(picture, int(generator.integers(4)))
    if generator.integers(2):
        turned = turned[:, ::-1]
    chosen = generator.choice(GEOMETRY + COLOUR, n, replace=n > len(GEOMETRY + COLOUR))
    amounts = generator.uniform(-strength, strength, (n, 2))
    matrix = np.eye(2)
    shift = np.zeros(2)
    for name, (amount, other) in zip(chosen, amounts, strict=True):
        if name == "shift":
            shift += np.array([amount, other]) * MAX_SHIFT
        elif name in GEOMETRY:
            matrix = matrix @ _matrix(name, amount, other)
    image = Image.fromarray(np.ascontiguousarray(turned))
    if any(name in GEOMETRY for name in chosen):
        image = _transformed(turned, matrix, shift * len(turned))
    for name, (amount, _) in zip(chosen, amounts, strict=True):
        if name in _COLOURED:
            image = _COLOURED[name](image, amount)
    return np.asarray(image)


def _matrix(name: str, amount: float, other: float) -> np.ndarray:
    """From a place of the result to one of the picture, around its middle: (2, 2)."""
    if name == "rotate":
        angle = np.deg2rad(amount * MAX_ROTATION_DEG)
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if name == "zoom":
        return np.eye(2) * (1 + amount * MAX_ZOOM)
    if name == "stretch":
        return np.diag([1 + amount * MAX_ZOOM / 2, 1 - amount * MAX_ZOOM / 2])
    return np.array([[1.0, amount * MAX_SHEAR], [other * MAX_SHEAR, 1.0]])


def _transformed(picture: np.ndarray, matrix: np.ndarray, shift_px: np.ndarray) -> Image.Image:
    """The picture by a linear map around its middle; what was outside is its mirror image."""
    side = len(picture)
    margin = side // 2
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    middle = np.full(2, side / 2)
    offset = middle + margin + shift_px - matrix @ middle
    (a, b), (c, d) = matrix
    return Image.fromarray(padded).transform(
        (side, side),
        Image.Transform.AFFINE,
        (a, b, offset[0], c, d, offset[1]),
        resample=Image.Resampling.BILINEAR,
    )


def _hue(image: Image.Image, amount: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(i + round(amount * MAX_HUE * 256)) % 256 for i in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _gamma(image: Image.Image, amount: float) -> Image.Image:
    table = 255 * np.linspace(0, 1, 256) ** (1 + amount * MAX_COLOUR)
    return image.point([round(float(x)) for x in table] * 3)


_COLOURED: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda image, amount: ImageEnhance.Brightness(image).enhance(1 + amount * MAX_COLOUR),
    "contrast": lambda image, amount: ImageEnhance.Contrast(image).enhance(1 + amount * MAX_COLOUR),
    "saturation": lambda image, amount: ImageEnhance.Color(image).enhance(1 + amount * MAX_COLOUR),
    "hue": _hue,
    "gamma": _gamma,
}
