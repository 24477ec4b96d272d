"""Bytes that should be a picture -> its pixels as a viewer shows them, facts about it, or why it is unusable.

The only decoder: hashes, thumbnails, masks, training and serving all see a picture as `open_picture` returns it.

- JPEG (with what cameras write as MPO), PNG and TIFF; of several frames or pages, the first.
- HEIC and DICOM where the extra of that name is installed, and only to be predicted: ingestion takes neither, since
  what an archive holds must not depend on a machine's extras.
- Upright, as its orientation tag says.
- 8 bits: deeper greys are scaled by their white level, never clipped.
- Transparent parts are placed on white, as a web page or paper shows them: nobody sees the colour stored under them,
  and no model should learn from it.
- Colour profiles are not applied: nearly all pictures of the archive are sRGB or carry no profile, and published
  models learned from the numbers as stored. CMYK is converted without a profile too.

A picture is decoded once, completely. JPEGs are decoded at a reduced scale where that is enough: this still reads the
whole compressed stream, so it finds a truncated or damaged file in a fraction of the time and memory.
"""

import contextlib
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from lesion_tasks import UnavailableError, UnusableInputError

FORMATS = {
    "JPEG": ("jpg", "image/jpeg"),
    "MPO": (
        "jpg",
        "image/jpeg",
    ),  # a JPEG followed by others: previews, a second lens, a brightness map
    "PNG": ("png", "image/png"),
    "TIFF": ("tif", "image/tiff"),
}
_HEIC_BRANDS = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"mif1",
    b"msf1",
}  # ISO/IEC 23008-12, 10.2 to 10.4
# Raise it when some pictures decode to different pixels than before, and say in `Picture.decoder_version` which ones.
# 1: as stored. 2: upright, deep greys scaled, transparent parts on white.
DECODER_VERSION = 2
_DECODERS = ("pillow", "pydicom", "pillow-heif")  # two of them are extras
# The archive refuses colour pictures above 100 megapixels; larger ones are mosaics, which nothing here trains on.
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 256 * 2**20
HASH_SIDE_PX = 32  # the picture is reduced to this before the cosine transform
THUMBPRINT_SIDE_PX = 16
HASH_FREQUENCIES = 8  # per axis: 8 x 8 = 64 bits

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
# White level of a grey whose samples are wider than their content: the lowest of these that no pixel exceeds. A
# photograph that used 1/256 of its range would look black, so the narrower range must have been meant.
_WHITES = {"I": (255, 65_535), "F": (1, 255, 65_535)}
_WHITE_IS_ZERO = 0  # TIFF's photometric interpretation
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262  # TIFF
# TIFF 6.0, section 8: how to set a picture with this orientation tag upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]}

# What Pillow's decoders raise on damaged input, according to its fuzzing notes and ours.
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
    width_px: int  # upright
    height_px: int
    decoder_version: int  # the first version that produced today's pixels: 1 for an ordinary picture


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A file that cannot be used, and why. Not a network fault: the bytes arrived complete."""

    # empty, not_an_image, unknown_format, unknown_scale, several_frames, too_many_pixels or damaged
    reason: str
    detail: str


class UnusablePictureError(UnusableInputError):
    """Bytes that are not a usable picture. The message says what was found; callers that know the file add its name."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason.replace('_', ' ')}: {detail}")
        self.reason = reason  # as in Unusable
        self.detail = detail


@contextlib.contextmanager
def refusing_damage() -> Iterator[None]:
    """Turn whatever a file makes a reader raise into `UnusablePictureError`; the project's own errors pass."""
    try:
        yield
    except (UnusableInputError, UnavailableError):
        raise
    except Exception as error:
        raise UnusablePictureError("damaged", _words(error)) from error


def open_picture(
    data: bytes,
    mode: str = "RGB",
    *,
    least_px: int | None = None,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode a file completely: upright, 8 bits, mode "RGB" or "L", transparent parts on `background` (RGB, 0 to 255).

    With `least_px`, a JPEG may be returned at the smallest scale at which both sides still have that many pixels.
    Raises `UnusablePictureError`.
    """
    if extra := _extra_of(data):
        return _flat(_opened_with_extra(data, extra, max_pixels), mode, background)
    return _decode(data, mode, least_px, background, max_pixels).image


def read_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture | Unusable:
    """Decode a file completely and hash it, or say why it is not a usable picture."""
    try:
        decoded = _decode(data, "L", HASH_SIDE_PX, WHITE, max_pixels)
    except UnusablePictureError as error:
        return Unusable(reason=error.reason, detail=error.detail)
    extension, content_type = FORMATS[decoded.format]
    grey = decoded.image.resize((HASH_SIDE_PX, HASH_SIDE_PX), Image.Resampling.BOX)
    return Picture(
        extension=extension,
        content_type=content_type,
        sha256=hashlib.sha256(data).hexdigest(),
        perceptual_hash=perceptual_hash(_pixels(grey)),
        thumbprint=grey.resize((THUMBPRINT_SIDE_PX, THUMBPRINT_SIDE_PX), Image.Resampling.BOX).tobytes(),
        width_px=decoded.size_px[0],
        height_px=decoded.size_px[1],
        decoder_version=1 if decoded.is_ordinary else DECODER_VERSION,
    )


def decoder_versions() -> tuple[str, ...]:
    """What decides the pixels of a picture: the rules of this module, and the libraries below it."""
    found = [f"decoder {DECODER_VERSION}"]
    for name in _DECODERS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} none")
    return tuple(found)


def read_size_px(path: Path) -> tuple[int, int] | None:
    """Return (width, height) of the upright picture from a file's header; None if it is not a readable image."""
    try:
        with Image.open(path) as image:
            return _upright_size(image)
    except _DECODE_ERRORS:
        return None


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    image: Image.Image
    format: str  # a key of FORMATS
    size_px: tuple[int, int]  # (width, height), upright, before any reduction
    is_ordinary: bool  # neither rotated nor scaled nor placed on a background


def _decode(
    data: bytes, mode: str, least_px: int | None, background: tuple[int, int, int], max_pixels: int
) -> _Decoded:
    with _identify(data, max_pixels) as image:
        size_px = _upright_size(image)
        try:
            if least_px is not None:
                image.draft(mode, (least_px, least_px))  # only JPEG obeys it
            image.load()
            turn = _turn(image)
            flat = _flat(image, mode, background)
            if turn is not None:
                flat = flat.transpose(turn)
        except _DECODE_ERRORS as error:
            raise UnusablePictureError("damaged", _words(error)) from error
        is_ordinary = turn is None and not _is_deep(image) and not image.has_transparency_data
        return _Decoded(image=flat, format=str(image.format), size_px=size_px, is_ordinary=is_ordinary)


def _identify(data: bytes, max_pixels: int) -> Image.Image:
    """Read only the header."""
    if not data:
        raise UnusablePictureError("empty", "0 bytes found, expected a picture")
    if extra := _extra_of(data):
        raise UnusablePictureError(
            "unknown_format", f"{extra.upper()} found, expected one of JPEG, PNG, TIFF"
        )
    try:
        image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusablePictureError("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:  # its own message has nothing but a memory address
        raise UnusablePictureError("not_an_image", f"begins with {data[:16]!r}") from error
    except _DECODE_ERRORS as error:
        detail = f"begins with {data[:16]!r}: {_words(error)}"
        raise UnusablePictureError("not_an_image", detail) from error
    width_px, height_px = image.size
    if image.format not in FORMATS:
        raise UnusablePictureError("unknown_format", f"{image.format} found, expected one of JPEG, PNG, TIFF")
    if image.mode == "LAB":
        raise UnusablePictureError("unknown_format", "LAB colours found, expected grey, RGB or CMYK")
    if width_px * height_px > max_pixels:
        detail = f"{width_px} x {height_px} found, expected at most {max_pixels} pixels"
        raise UnusablePictureError("too_many_pixels", detail)
    return image


def _extra_of(data: bytes) -> str | None:
    """The extra that a format needs, by the file's first bytes; None for one that needs none."""
    if data[128:132] == b"DICM":  # PS3.10, 7.1
        return "dicom"
    return "heic" if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS else None


def _opened_with_extra(data: bytes, extra: str, max_pixels: int) -> Image.Image:
    try:
        if extra == "dicom":
            from lesion_tasks.archive.dicom import dicom_picture

            return dicom_picture(data, max_pixels=max_pixels)
        from lesion_tasks.archive.heic import heic_picture

        return heic_picture(data, max_pixels=max_pixels)
    except ModuleNotFoundError as error:
        detail = f"{extra.upper()} found, which needs the extra: pip install 'lesion-tasks[{extra}]'"
        raise UnusablePictureError("unknown_format", detail) from error
    except UnusablePictureError:
        raise
    except Exception as error:
        raise UnusablePictureError("damaged", _words(error)) from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What sets the picture upright, by EXIF alone as in a browser; None if it is upright or has no readable tag."""
    if image.format == "TIFF" or "exif" not in image.info:  # Pillow rotates TIFF itself
        return None
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        return _TURNS.get(exif.get(ExifTags.Base.Orientation, 1))
    except _DECODE_ERRORS:
        return None


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if _turn(image) in _SIDEWAYS else image.size


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _flat(image: Image.Image, mode: str, background: tuple[int, int, int]) -> Image.Image:
    if _is_deep(image):
        image = _eight_bits(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        ground.alpha_composite(image.convert("RGBA"))
        image = ground.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a grey of 12, 16 or 32 bits: mode "L", or "LA" if one level stands for transparent."""
    samples = np.asarray(image)
    levels = samples.astype(np.float32)
    levels *= 255 / _white(image, float(samples.min()), float(samples.max()))
    grey = Image.fromarray(np.rint(levels, out=levels).astype(np.uint8))
    if (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.tag_v2.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    ):
        grey = ImageOps.invert(grey)
    if "transparency" not in image.info:
        return grey
    alpha = Image.fromarray(np.where(samples == image.info["transparency"], 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _white(image: Image.Image, lowest: float, highest: float) -> int:
    """The level to show as white."""
    if image.mode in _WHITES:
        for white in _WHITES[image.mode]:
            if 0 <= lowest <= highest <= white:
                return white
        detail = (
            f"levels from {lowest:g} to {highest:g} found, expected 0 to {_WHITES[image.mode][-1]} at most"
        )
        raise UnusablePictureError("unknown_scale", detail)
    bits = image.tag_v2.get(_BITS_TAG, (16,))[0] if isinstance(image, TiffImagePlugin.TiffImageFile) else 16
    return int(2**bits - 1)


def _pixels(grey: Image.Image) -> np.ndarray:
    """Return a grey picture as (height, width) float32; faster than `np.asarray`, which reads more than the bytes."""
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
