"""Pictures that are not dermoscopic pictures, drawn by code: each a name and uint8 (side, side, 3)."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 256
Rng = np.random.Generator


def selfie(rng: Rng) -> Image.Image:
    """A face with hair, eyes and a mouth outdoors, under a blue sky."""
    picture = Image.new("RGB", (SIDE, SIDE), (120, 172, 228))
    pen = ImageDraw.Draw(picture)
    horizon = int(rng.integers(130, 190))
    pen.rectangle((0, horizon, SIDE, SIDE), fill=(84, int(rng.integers(130, 160)), 62))
    x, y = rng.integers(110, 146, 2)
    pen.rectangle((x - 90, y + 80, x + 90, SIDE), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    pen.ellipse((x - 72, y - 100, x + 72, y + 84), fill=(52, 36, 28))
    pen.ellipse((x - 60, y - 78, x + 60, y + 86), fill=(224, 172, 140))
    for side in (-25, 25):
        pen.ellipse((x + side - 12, y - 22, x + side + 12, y - 6), fill=(250, 250, 250))
        pen.ellipse((x + side - 6, y - 20, x + side + 6, y - 8), fill=(40, 60, 90))
    pen.arc((x - 26, y + 16, x + 26, y + 54), 10, 170, fill=(160, 40, 50), width=7)
    return picture.filter(ImageFilter.GaussianBlur(1))


def histology(rng: Rng) -> Image.Image:
    """Tissue stained with haematoxylin and eosin: pink, with violet nuclei and white gaps."""
    noise = rng.normal(0, 14, (SIDE, SIDE, 1)) * np.array([0.5, 1.0, 0.6])
    picture = Image.fromarray(np.clip(np.array([226, 156, 196]) + noise, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(14):
        x, y, r = *rng.integers(0, SIDE, 2), rng.integers(5, 18)
        pen.ellipse((x - r, y - r // 2, x + r, y + r // 2), fill=(246, 240, 246))
    for _ in range(160):
        x, y, r = *rng.integers(0, SIDE, 2), rng.integers(5, 11)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(96 + int(rng.integers(-20, 20)), 52, 140))
    return picture


def line_drawing(rng: Rng) -> Image.Image:
    """Black lines on white paper."""
    picture = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        pen.line(
            [tuple(int(v) for v in point) for point in rng.integers(0, SIDE, (4, 2))], fill=(0, 0, 0), width=3
        )
    return picture


def black_square(rng: Rng) -> Image.Image:
    """What a camera gives with its cap on."""
    return Image.fromarray(rng.integers(0, 4, (SIDE, SIDE, 3)).astype(np.uint8))


def screen(rng: Rng) -> Image.Image:
    """A screen with a window of text, photographed: bright, bluish, striped by its rows of pixels."""
    picture = Image.new("RGB", (SIDE, SIDE), (232, 240, 255))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, SIDE, 22), fill=(40, 90, 170))
    for y in range(36, SIDE - 10, 14):
        x = 16
        while x < SIDE - 40:
            width = int(rng.integers(8, 40))
            pen.rectangle((x, y, x + width, y + 6), fill=(40, 44, 56))
            x += width + 6
    pixels = np.asarray(picture, dtype=np.float64)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    moire = 1 + 0.25 * np.sin(rows * rng.uniform(1.8, 2.4)) * np.sin(columns * rng.uniform(1.8, 2.4))
    return Image.fromarray(np.clip(pixels * moire[..., None], 0, 255).astype(np.uint8))


STRANGE: dict[str, Callable[[Rng], Image.Image]] = {
    "a selfie": selfie,
    "a slide of histology": histology,
    "a line drawing": line_drawing,
    "a black square": black_square,
    "a photograph of a screen": screen,
}
