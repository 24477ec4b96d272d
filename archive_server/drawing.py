"""A latent score, a look and two seeds -> the pixels of a drawn, dermoscopic-looking lesion.

The lesion is drawn once in its own frame (its seed gives shape and colours), then placed onto skin as one photograph
(the photograph's seed gives pose, light, hair, bubbles, ruler, vignette). Only the latent score carries malignancy: it
shifts size, border irregularity, asymmetry and the number of colours, each with independent noise, so that no single
feature reveals the score but all together nearly do.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FRAME_PX = 192  # side of the lesion's own frame, which spans 3.2 lesion units
FRAME_UNITS = 3.2
N_ANGLES = 512
FEATURE_NOISE = 0.4  # standard deviation added to the latent score before it becomes a feature
FEATURE_MIDDLE = 0.9  # latent score at which a feature is half expressed: between the classes
FEATURE_WIDTH = 0.75
NETWORK_CELLS = 16  # across the frame, by which the meshes of a pigment network are bent
NETWORK_BEND = 0.05  # lesion units, half a mesh
FURROW_CELLS_PX = (6, 11)  # between the lines of skin, fine and coarse
FURROW_DEPTHS = (0.05, 0.12)  # how much darker they are than the skin around

_RED_OF_LOOK = {
    "pigmented": ((150, 100, 66), (92, 56, 36)),
    "pink": ((206, 128, 116), (170, 84, 80)),
    "keratotic": ((176, 140, 96), (132, 98, 62)),
}
_PATCH_COLOURS = ((34, 22, 20), (84, 92, 112), (150, 62, 56), (206, 188, 180))  # black, blue-grey, red, white
_SKINS = ((232, 190, 170), (224, 178, 154), (208, 160, 132), (178, 128, 100), (140, 96, 72), (98, 66, 50))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that one picture shows."""

    look: str  # pigmented, pink or keratotic
    latent: float  # malignancy score, about -3 to 5
    lesion_seed: int
    photo_seed: int
    width_px: int
    height_px: int
    skin: int  # 0 (palest) to 5
    kind: str  # dermoscopic, clinical or tile


def draw(scene: Scene) -> Image.Image:
    """Draw one photograph, RGB uint8, (height_px, width_px)."""
    photo = np.random.default_rng((scene.photo_seed, 1))
    size = (scene.width_px, scene.height_px)
    skin = _skin(size, scene.skin, photo)
    picture = Image.composite(*_placed(_lesion(scene), skin, size, scene.kind, photo))
    picture = _furrowed(picture, np.random.default_rng((scene.photo_seed, 3)))
    if scene.kind == "dermoscopic":
        picture = _artefacts(picture, photo)
    elif scene.kind == "tile":
        picture = picture.filter(ImageFilter.GaussianBlur(1.2))
    return _exposed(picture, photo, has_vignette=scene.kind == "dermoscopic" and photo.random() < 0.25)


def recropped(picture: Image.Image, size: tuple[int, int], seed: int) -> Image.Image:
    """Crop a few percent off each side and resize, like a near-duplicate upload."""
    rng = np.random.default_rng((seed, 2))
    width, height = picture.size
    left, right = rng.uniform(0.0, 0.05, 2) * width
    top, bottom = rng.uniform(0.0, 0.05, 2) * height
    box = (left, top, width - right, height - bottom)
    return picture.resize(size, Image.Resampling.BICUBIC, box=box)


def _lesion(scene: Scene) -> Image.Image:
    """Draw the lesion in its own frame, RGBA, transparent outside."""
    rng = np.random.default_rng((scene.lesion_seed, 0))
    noise = rng.standard_normal(4) * FEATURE_NOISE
    expressed = 1 / (1 + np.exp(-(scene.latent + noise - FEATURE_MIDDLE) / FEATURE_WIDTH))  # (4,), 0 to 1
    # As Python floats, so that pictures stay float32: NumPy's float64 would widen them and take twice the time.
    size, irregularity, asymmetry, colours = expressed.tolist()
    axis = np.linspace(-FRAME_UNITS / 2, FRAME_UNITS / 2, FRAME_PX, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    squeeze = 1 - 0.35 * asymmetry
    radius = np.hypot(x, y / squeeze)
    angle = ((np.arctan2(y, x) + np.pi) * ((N_ANGLES - 1) / (2 * np.pi))).astype(np.int32)
    outline = _outline(0.34 + 0.56 * size, irregularity, rng)[angle]
    softness = rng.uniform(0.02, 0.07)
    inside = _sigmoid((outline - radius) / softness)

    coarse, fine, *patches = _textures(rng, (6, 28, 5, 6, 7, 7))
    light, dark = (np.array(colour, np.float32) for colour in _RED_OF_LOOK[scene.look])
    towards_x, towards_y = _direction(rng)
    eccentric = asymmetry * 0.5 * outline
    core = np.hypot(x - eccentric * towards_x, y - eccentric * towards_y)
    depth = np.clip(0.9 - 0.8 * core / outline + 0.22 * coarse, 0, 1)[..., None]
    tint = rng.normal(0, 7, 3).astype(np.float32)
    pixels = light + tint + (dark - light) * depth
    pixels *= 1 + 0.05 * fine[..., None]
    for strength, patch, colour in zip(
        np.clip(colours * 4 - np.arange(4), 0, 1).tolist(), patches, _PATCH_COLOURS, strict=True
    ):
        if strength > 0:
            cover = (0.8 * strength) * _sigmoid((patch - 0.25) / 0.2)[..., None]
            pixels += (np.array(colour, np.float32) - pixels) * cover
    bends = _textures(np.random.default_rng((scene.lesion_seed, 4)), (NETWORK_CELLS, NETWORK_CELLS))
    _structures(pixels, scene.look, coarse, (x + NETWORK_BEND * bends[0], y + NETWORK_BEND * bends[1]), rng)
    rgba = np.dstack([np.clip(pixels, 0, 255), inside * 255]).astype(np.uint8)
    return _dotted(Image.fromarray(rgba), scene.look, rng)


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    turn = rng.uniform(0, 2 * np.pi)
    return math.cos(turn), math.sin(turn)


def _outline(radius: float, irregularity: float, rng: np.random.Generator) -> np.ndarray:
    """Return the border's radius by angle, (N_ANGLES,) float32, in lesion units."""
    angle = np.linspace(0, 2 * np.pi, N_ANGLES)
    waves = np.arange(2, 14)[:, None]
    amplitude = rng.standard_normal((12, 1)) * (0.025 + 0.16 * irregularity) / waves**0.75
    bumps = (amplitude * np.cos(waves * angle + rng.uniform(0, 2 * np.pi, (12, 1)))).sum(axis=0)
    return np.clip(radius * (1 + bumps), 0.12, 1.5).astype(np.float32)


def _textures(rng: np.random.Generator, cells: tuple[int, ...]) -> list[np.ndarray]:
    """Return smooth noise fields of about unit variance, each (FRAME_PX, FRAME_PX) float32."""
    fields = []
    for n_cells in cells:
        grid = Image.fromarray(rng.standard_normal((n_cells, n_cells)).astype(np.float32))
        fields.append(np.asarray(grid.resize((FRAME_PX, FRAME_PX), Image.Resampling.BICUBIC)))
    return fields


def _structures(
    pixels: np.ndarray,
    look: str,
    warp: np.ndarray,
    place: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Darken a pigment network, or scale, in place; no two meshes are alike, or lesions would share their landmarks."""
    x, y = place
    frequency = rng.uniform(24, 34)
    if look == "pigmented":
        lines = np.abs(np.sin(frequency * x + 2.5 * warp)) * np.abs(np.sin(frequency * y - 2.5 * warp))
        pixels *= (1 - rng.uniform(0.05, 0.3) * (1 - lines) ** 3)[..., None]
    elif look == "keratotic":
        scale = np.maximum(np.sin(0.5 * frequency * (x + y) + 3 * warp), 0)
        pixels += (rng.uniform(10, 40) * scale**3)[..., None] * np.array([1, 0.95, 0.7], np.float32)


def _dotted(lesion: Image.Image, look: str, rng: np.random.Generator) -> Image.Image:
    """Add globules (pigmented), vessels (pink) or pale cysts (keratotic); the alpha channel is kept."""
    alpha = lesion.getchannel("A")
    canvas = ImageDraw.Draw(lesion)
    middle = FRAME_PX / 2
    if look == "pink":
        for _ in range(rng.integers(3, 9)):
            points = middle + np.cumsum(rng.normal(0, 0.04 * FRAME_PX, (7, 2)), axis=0) + rng.normal(0, 14, 2)
            canvas.line([tuple(point) for point in points], fill=(158, 40, 44, 255), width=1)
    else:
        colour = (70, 42, 30, 255) if look == "pigmented" else (236, 220, 184, 255)
        for px, py in middle + rng.normal(0, 0.1 * FRAME_PX, (rng.integers(0, 26), 2)):
            r = rng.uniform(0.8, 2.4)
            canvas.ellipse((px - r, py - r, px + r, py + r), fill=colour)
    lesion.putalpha(alpha)
    return lesion


def _skin(size: tuple[int, int], tone: int, rng: np.random.Generator) -> Image.Image:
    """Return a patch of skin with coarse mottling."""
    mottle = Image.fromarray((128 + 40 * rng.standard_normal((9, 12))).clip(0, 255).astype(np.uint8))
    field = np.asarray(mottle.resize(size, Image.Resampling.BICUBIC), np.float32) / 128 - 1
    base = np.array(_SKINS[tone], np.float32) + rng.normal(0, 5, 3).astype(np.float32)
    pixels = base * (1 + 0.06 * field[..., None])
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _furrowed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add the fine lines of skin: without them, every two round spots agree in all detail that there is, their rims."""
    width, height = picture.size
    lines = np.zeros((height, width), np.float32)
    for cell_px in FURROW_CELLS_PX:
        grid = Image.fromarray(
            rng.standard_normal((height // cell_px + 2, width // cell_px + 2)).astype(np.float32)
        )
        field = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
        lines += np.maximum(1 - np.abs(field) / 0.6, 0)
    pixels = np.asarray(picture, np.float32) * (1 - rng.uniform(*FURROW_DEPTHS) * lines)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _placed(
    lesion: Image.Image, skin: Image.Image, size: tuple[int, int], kind: str, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Return (lesion in place, skin, mask) of one photograph's size."""
    width, height = size
    reach = {"dermoscopic": 0.50, "clinical": 0.34, "tile": 0.40}[kind] * rng.uniform(0.9, 1.1)
    per_px = FRAME_PX / FRAME_UNITS / (reach * min(size))  # frame pixels per picture pixel
    turn = rng.uniform(0, 2 * np.pi)
    cos, sin = per_px * np.cos(turn), per_px * np.sin(turn)
    centre_x = width * (0.5 + rng.uniform(-0.06, 0.06))
    centre_y = height * (0.5 + rng.uniform(-0.06, 0.06))
    middle = FRAME_PX / 2
    # Maps picture coordinates to frame coordinates: a rotation about the two centres.
    affine = (
        cos,
        -sin,
        middle - cos * centre_x + sin * centre_y,
        sin,
        cos,
        middle - sin * centre_x - cos * centre_y,
    )
    placed = lesion.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return placed.convert("RGB"), skin, placed.getchannel("A")


def _artefacts(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add dermoscopic artefacts: hair, gel bubbles, a ruler."""
    width, height = picture.size
    canvas = ImageDraw.Draw(picture)
    if rng.random() < 0.35:
        shade = tuple(int(value) for value in rng.uniform(20, 90) * np.array([1, 0.75, 0.6]))
        for _ in range(rng.integers(2, 11)):
            start, bend, end = rng.uniform(-0.1, 1.1, (3, 2)) * (width, height)
            step = np.linspace(0, 1, 12)[:, None]
            bend = (start + end) / 2 + 0.25 * (bend - (start + end) / 2)
            curve = (1 - step) ** 2 * start + 2 * step * (1 - step) * bend + step**2 * end
            canvas.line([tuple(point) for point in curve], fill=shade, width=int(rng.integers(1, 3)))
    if rng.random() < 0.15:
        for px, py in rng.uniform(0, 1, (rng.integers(1, 7), 2)) * (width, height):
            r = rng.uniform(3, 11)
            canvas.ellipse((px - r, py - r, px + r, py + r), outline=(240, 232, 226))
            canvas.ellipse((px - r / 2, py - r / 2, px - r / 2 + 2, py - r / 2 + 2), fill=(255, 255, 255))
    if rng.random() < 0.1:
        spacing = rng.uniform(9, 14)
        for tick in range(int(width / spacing)):
            length = 14 if tick % 5 == 0 else 7
            canvas.line((tick * spacing, height, tick * spacing, height - length), fill=(30, 30, 34), width=1)
    return picture


def _exposed(picture: Image.Image, rng: np.random.Generator, *, has_vignette: bool) -> Image.Image:
    """Apply light, colour balance, sensor noise and, seen through a tube, dark corners."""
    width, height = picture.size
    pixels = np.asarray(picture, np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    tilt_x, tilt_y = rng.normal(0, 0.05, 2).tolist()
    light = rng.uniform(0.9, 1.06) * (1 + tilt_x * x + tilt_y * y)
    if has_vignette:
        edge = rng.uniform(1.05, 1.3)
        light *= _sigmoid((edge - np.hypot(x * (width / height), y)) / 0.06)
    balance = rng.normal(1, 0.02, 3).astype(np.float32)
    grain = rng.standard_normal((height, width), np.float32) * rng.uniform(1, 4)
    pixels = pixels * light[..., None]
    pixels *= balance
    pixels += grain[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _sigmoid(value: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-value)), by tanh because exp overflows."""
    return 0.5 * (1 + np.tanh(0.5 * value))
