"""Bytes that should be a picture -> what is known of it, or the reason why it is none.

A picture is decoded once, completely. JPEGs are decoded at a reduced scale: the whole compressed stream is still
read, so a cut or damaged file is found, at a fraction of the time and memory.
"""

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

FORMATS = {"JPEG": ("jpg", "image/jpeg"), "PNG": ("png", "image/png"), "TIFF": ("tif", "image/tiff")}
# The archive refuses colour pictures above 100 megapixels; what is above it is a mosaic that nothing here trains on.
MAX_PIXELS = 100_000_000
HASH_SIDE_PX = 32  # the picture is reduced to this before the cosine transform
THUMBPRINT_SIDE_PX = 16
HASH_FREQUENCIES = 8  # per axis: 8 x 8 = 64 bits

# What Pillow's decoders raise on damaged input, from its own fuzzing notes and ours.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A verified picture."""

    extension: str  # jpg, png or tif
    content_type: str
    sha256: str  # of the bytes, 64 hexadecimal digits
    perceptual_hash: int  # signed 64 bits; similar pictures differ in few bits
    thumbprint: bytes  # 16 x 16 grey levels, row by row; tells look-alikes from copies
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A file that cannot be used, and why. Nothing that the network did: the bytes arrived whole."""

    reason: str  # empty, not_an_image, unknown_format, too_many_pixels or damaged
    detail: str


def read_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture | Unusable:
    """Decode a file completely and hash it, or say why it is no usable picture."""
    if not data:
        return Unusable(reason="empty", detail="0 bytes found, expected a picture")
    try:
        image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Unusable(reason="too_many_pixels", detail=str(error))
    except _DECODE_ERRORS as error:
        return Unusable(reason="not_an_image", detail=f"begins with {data[:16]!r}: {_words(error)}")
    with image:
        return _decode(image, data, max_pixels)


def _decode(image: Image.Image, data: bytes, max_pixels: int) -> Picture | Unusable:
    width_px, height_px = image.size
    if image.format not in FORMATS:
        expected = ", ".join(FORMATS)
        return Unusable(reason="unknown_format", detail=f"{image.format} found, expected one of {expected}")
    if width_px * height_px > max_pixels:
        return Unusable(
            reason="too_many_pixels",
            detail=f"{width_px} x {height_px} found, expected at most {max_pixels} pixels",
        )
    extension, content_type = FORMATS[image.format]
    try:
        # Only JPEG heeds it: decode to the smallest scale that still has the pixels we need.
        image.draft("L", (HASH_SIDE_PX, HASH_SIDE_PX))
        grey = image if image.mode == "L" else image.convert("L")
        grey = grey.resize((HASH_SIDE_PX, HASH_SIDE_PX), Image.Resampling.BOX)  # decodes
    except _DECODE_ERRORS as error:
        return Unusable(reason="damaged", detail=_words(error))
    return Picture(
        extension=extension,
        content_type=content_type,
        sha256=hashlib.sha256(data).hexdigest(),
        perceptual_hash=perceptual_hash(_pixels(grey)),
        thumbprint=grey.resize((THUMBPRINT_SIDE_PX, THUMBPRINT_SIDE_PX), Image.Resampling.BOX).tobytes(),
        width_px=width_px,
        height_px=height_px,
    )


def _pixels(grey: Image.Image) -> np.ndarray:
    """Return a grey picture as (height, width) float32; `np.asarray` asks it for much more than its bytes."""
    return np.frombuffer(grey.tobytes(), np.uint8).reshape(grey.height, grey.width).astype(np.float32)


def perceptual_hash(grey: np.ndarray) -> int:
    """Return the 64-bit DCT hash of a (32, 32) grey picture as a signed integer.

    One bit for each of the 8 x 8 lowest frequencies of the type-II cosine transform: above their median or not
    (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1).
    """
    basis = _cosine_basis()  # (8, 32)
    frequencies = basis @ grey @ basis.T  # (8, 8)
    ranked = np.sort(frequencies, axis=None)  # np.median takes four times as long
    bits = frequencies > (ranked[31] + ranked[32]) / 2
    return int(np.packbits(bits).view(">i8")[0])


@cache
def _cosine_basis() -> np.ndarray:
    frequency = np.arange(HASH_FREQUENCIES)[:, None]
    position = np.arange(HASH_SIDE_PX)[None, :]
    basis: np.ndarray = np.cos(np.pi * frequency * (2 * position + 1) / (2 * HASH_SIDE_PX)).astype(np.float32)
    return basis


def _words(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text[:200].encode("ascii", "backslashreplace").decode().replace("\x00", "\\x00")
