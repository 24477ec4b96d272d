"""A DICOM file -> the one picture in it, as 8-bit grey or RGB, as a viewer shows it at first.

The steps are those of the standard's pipeline for display (PS3.3, C.11, and PS3.4, N.2): modality LUT or rescaling,
then the first VOI LUT or window, then MONOCHROME1 inverted; palettes and YBR become RGB. Without a VOI the whole range
of stored values is shown, so that nothing depends on which values a picture happens to have.

Needs the extra `dicom`.
"""

import io
import logging
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lesion_tasks.archive.picture import UnusablePictureError

if TYPE_CHECKING:
    import pydicom

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_HEADER_AT, _HEADER_GROUP = 132, 2  # PS3.10, 7.1
MAX_PIXEL_BYTES = 8
_MAX_RUN = 128  # a run of RLE is two bytes, and unpacks to so many at most (PS3.5, G.3)
_ROOM_BYTES = 2**24  # by which a segment may unpack to more than its pixels

# It reports with a traceback what is reported here in a line.
logging.getLogger("pydicom.pixels.decoders").setLevel(logging.CRITICAL)


def dicom_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode the picture of a DICOM file: mode "L" or "RGB". Raises `UnusablePictureError`."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        _refuse_deflated(data)
        dataset = pydicom.dcmread(io.BytesIO(data))
    except UnusablePictureError:
        raise
    except (InvalidDicomError, EOFError, ValueError, OSError, KeyError, AttributeError, zlib.error) as error:
        raise _unusable("damaged", str(error) or type(error).__name__) from error
    try:  # values are converted only when they are asked for
        interpretation = _check(dataset, max_pixels)
        _check_compression(dataset, max_pixels)
        values = dataset.pixel_array  # YBR is RGB by now
        if interpretation in _GREY:
            return Image.fromarray(_grey(dataset, values, is_inverted=interpretation == _GREY[0]))
        if interpretation == _PALETTE:
            return Image.fromarray(_from_palette(dataset, values))
        return Image.fromarray(_scaled(values, 0, 2 ** int(dataset.BitsStored) - 1))
    except UnusablePictureError:
        raise
    except (
        RuntimeError,
        ValueError,
        AttributeError,
        LookupError,
        TypeError,
        OSError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise _unusable("damaged", str(error) or type(error).__name__) from error


def _unusable(reason: str, detail: str) -> UnusablePictureError:
    return UnusablePictureError(
        reason, " ".join(detail.split())[:200].encode("ascii", "backslashreplace").decode()
    )


def _check(dataset: "pydicom.Dataset", max_pixels: int) -> str:
    """The photometric interpretation of a file that holds one picture of a bearable size."""
    if "PixelData" not in dataset:
        raise _unusable("not_an_image", "a DICOM file without pixel data")
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    if n_frames > 1:
        kind = dataset.SOPClassUID.name if "SOPClassUID" in dataset else "no SOP class"
        raise _unusable(
            "several_frames", f"{n_frames} frames ({kind}), expected a DICOM file with one picture"
        )
    width_px, height_px = int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)
    _check_size(width_px, height_px, max_pixels)
    n_samples, n_bytes = int(dataset.get("SamplesPerPixel") or 1), -(-int(dataset.BitsAllocated) // 8)
    if n_samples * n_bytes > MAX_PIXEL_BYTES:
        raise _unusable(
            "unknown_format",
            f"{n_samples} samples of {n_bytes} bytes found, expected {MAX_PIXEL_BYTES} bytes a pixel",
        )
    interpretation = str(dataset.get("PhotometricInterpretation") or "none")
    if interpretation not in (*_GREY, *_COLOUR, _PALETTE):
        expected = ", ".join((*_GREY, *_COLOUR, _PALETTE))
        raise _unusable(
            "unknown_format", f"photometric interpretation {interpretation} found, expected {expected}"
        )
    return interpretation


def _check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    if width_px * height_px > max_pixels:
        raise _unusable(
            "too_many_pixels", f"{width_px} x {height_px} found, expected at most {max_pixels} pixels"
        )


def _refuse_deflated(data: bytes) -> None:
    """Refuse, by the header alone, what pydicom would inflate without a limit."""
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    header = io.BytesIO(data)
    header.seek(_HEADER_AT)
    found = read_dataset(header, False, True, stop_when=lambda tag, vr, length: tag.group != _HEADER_GROUP)
    if found.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise _without_decoder(DeflatedExplicitVRLittleEndian)


def _check_compression(dataset: "pydicom.Dataset", max_pixels: int) -> None:
    """Refuse a compressed picture without a decoder, or larger than its file says, before anything is decoded."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit, RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    try:
        is_known = get_decoder(syntax).is_available
    except NotImplementedError:
        is_known = False
    if not is_known or (syntax == JPEGExtended12Bit and dataset.BitsStored != 8):
        raise _without_decoder(syntax)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        _check_runs(frame, int(dataset.Columns) * int(dataset.Rows))
        return
    try:
        with Image.open(io.BytesIO(frame)) as image:
            _check_size(*image.size, max_pixels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _unusable("too_many_pixels", str(error)) from error


def _check_runs(frame: bytes, n_pixels: int) -> None:
    """Refuse a frame of RLE of which a segment unpacks to much more than one byte of each pixel."""
    n_segments, *offsets = struct.unpack("<16L", frame[:64].ljust(64, b"\0"))
    ends = [*offsets[1:n_segments], len(frame)]
    for start, end in zip(offsets[:n_segments], ends, strict=False):
        n_bytes = _unpacked_bytes(frame[start:end], n_pixels + _ROOM_BYTES)
        if n_bytes > n_pixels + _ROOM_BYTES:
            raise _unusable(
                "too_many_pixels", f"runs of more than {n_bytes} pixels found, expected {n_pixels} pixels"
            )


def _unpacked_bytes(segment: bytes, enough: int) -> int:
    """How many bytes a segment of RLE unpacks to (PS3.5, G.3.2), or a bound of them if that is at most `enough`."""
    if len(segment) * _MAX_RUN // 2 <= enough:
        return len(segment) * _MAX_RUN // 2
    place = n_bytes = 0
    while place < len(segment) and n_bytes <= enough:
        control = segment[place]
        if control < 128:  # so many bytes and one more, as they stand
            n_bytes, place = n_bytes + control + 1, place + control + 2
        elif control > 128:  # the next byte, repeated
            n_bytes, place = n_bytes + 257 - control, place + 2
        else:
            place += 1
    return n_bytes


def _without_decoder(syntax: "pydicom.uid.UID") -> UnusablePictureError:
    return _unusable(
        "unknown_format",
        f"DICOM compressed as {syntax.name} found, expected JPEG Baseline, JPEG 2000, RLE or uncompressed",
    )


def _grey(dataset: "pydicom.Dataset", stored: np.ndarray, *, is_inverted: bool) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(stored, dataset)
    low, high = _range_after_modality(dataset)
    if "VOILUTSequence" in dataset:
        low, high = 0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if "VOILUTSequence" in dataset or "WindowCenter" in dataset:
        values = apply_voi_lut(values, dataset, index=0)
    grey = _scaled(values, low, high)
    return 255 - grey if is_inverted else grey


def _range_after_modality(dataset: "pydicom.Dataset") -> tuple[float, float]:
    """The lowest and the highest value that can be stored, as the modality LUT or rescaling turns them out."""
    if "ModalityLUTSequence" in dataset:
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits, is_signed = int(dataset.BitsStored), bool(int(dataset.PixelRepresentation))
    ends = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if is_signed else (0.0, 2.0**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    low, high = sorted(end * slope + intercept for end in ends)
    return low, high


def _from_palette(dataset: "pydicom.Dataset", stored: np.ndarray) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    return _scaled(apply_color_lut(stored, dataset)[..., :3], 0, 2**bits - 1)


def _scaled(values: np.ndarray, low: float, high: float) -> Any:
    """Values from `low` to `high` -> uint8, 0 to 255; those beyond are clipped."""
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    levels = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(levels.clip(0, 255)).astype(np.uint8)
