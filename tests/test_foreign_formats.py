"""HEIC and DICOM: read as a viewer shows them, refused by name where they hold more or other than one picture."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pillow_heif
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless, generate_uid

from lesion_tasks.archive.picture import Unusable, UnusablePictureError, open_picture, read_picture

HEIGHT, WIDTH = 48, 64
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
COLOURS = np.dstack([4 * X, 5 * Y, 255 - 4 * X]).astype(np.uint8)
GREY = (4 * X).astype(np.uint8)
DEEP = (60 * X).astype(np.uint16)  # 0 to 3,780 of 12 bits


def heic(pixels: np.ndarray = COLOURS, **more: Any) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=95, **more)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, interpretation: str, *, bits: int = 8, n_frames: int = 1, **more: Any) -> bytes:
    """A photograph as a camera's export has it (PS3.3, A.32.4), uncompressed unless `jpeg` is its data."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = more.pop("syntax", ExplicitVRLittleEndian)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    data.PhotometricInterpretation = interpretation
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.BitsStored, data.HighBit = (16 if bits > 8 else 8), bits, bits - 1
    data.PixelRepresentation = 0
    if n_frames > 1:
        data.NumberOfFrames = n_frames
    data.PixelData = more.pop("jpeg", pixels.tobytes() * n_frames)
    data["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in more.items():
        setattr(data, name, value)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def deflated() -> bytes:
    """A file that claims a compression of which nothing is there: its header alone is read."""
    whole = dicom(COLOURS, "RGB", syntax=JPEGLSLossless, jpeg=encapsulate([b"1234"]))
    return whole.replace(JPEGLSLossless.encode(), b"1.2.840.10008.1.2.1.99")


def rle(n_runs: int) -> bytes:
    """A grey picture compressed as RLE: first its own bytes, then runs that nobody asks for, of 128 bytes each."""
    rows = GREY.tobytes()
    literal = b"".join(bytes([63]) + rows[at : at + 64] for at in range(0, len(rows), 64))
    header = np.array([1, 64, *[0] * 14], dtype="<u4").tobytes()
    return dicom(
        GREY,
        "MONOCHROME2",
        syntax=RLELossless,
        jpeg=encapsulate([header + literal + b"\x81\x00" * n_runs]),
    )


def jpeg(width_px: int | None = None) -> bytes:
    """A JPEG of COLOURS; or one that says another width, and 10,000 for the height, in its frame header."""
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    if width_px is None:
        return data
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + (10_000).to_bytes(2) + width_px.to_bytes(2) + data[at + 4 :]


def shown(data: bytes) -> np.ndarray:
    return np.asarray(open_picture(data)).astype(int)


def test_a_heic_is_read_in_its_colours_and_upright() -> None:
    assert np.abs(shown(heic()) - COLOURS).mean() < 3
    orientation = Image.Exif()
    orientation[0x112] = 6  # to be turned by 90 degrees clockwise
    turned = shown(heic(exif=orientation.tobytes()))
    assert turned.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(turned - np.rot90(COLOURS, -1)).mean() < 3


def test_a_dicom_of_colours_is_read_as_stored() -> None:
    assert np.array_equal(shown(dicom(COLOURS, "RGB")), COLOURS)
    luminance = np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    assert np.abs(shown(dicom(luminance, "YBR_FULL")) - COLOURS).max() <= 3
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "JPEG", quality=95)
    packed = dicom(COLOURS, "YBR_FULL_422", syntax=JPEGBaseline8Bit, jpeg=encapsulate([buffer.getvalue()]))
    assert np.abs(shown(packed) - COLOURS).mean() < 2


def test_a_dicom_compressed_by_runs_is_read_as_stored() -> None:
    assert np.array_equal(shown(rle(0))[..., 0], GREY)


def test_a_grey_dicom_is_shown_by_its_photometric_interpretation_and_window() -> None:
    assert np.array_equal(shown(dicom(GREY, "MONOCHROME2"))[..., 0], GREY)
    assert np.array_equal(shown(dicom(GREY, "MONOCHROME1"))[..., 0], 255 - GREY.astype(int))
    # Without a window, the whole range of 12 bits is shown.
    assert np.array_equal(shown(dicom(DEEP, "MONOCHROME2", bits=12))[..., 0], np.rint(DEEP * (255 / 4_095)))
    # PS3.3, C.11.2.1.2: a window of 1,000 around 2,000.
    window = {"WindowCenter": 2_000, "WindowWidth": 1_000}
    wanted = np.rint(((DEEP - 1_999.5) / 999 + 0.5).clip(0, 1) * 255)
    assert np.abs(shown(dicom(DEEP, "MONOCHROME2", bits=12, **window))[..., 0] - wanted).max() <= 1
    # The same, rescaled by -1,000 before.
    moved = {"RescaleSlope": 1, "RescaleIntercept": -1_000, "WindowCenter": 1_000, "WindowWidth": 1_000}
    assert np.abs(shown(dicom(DEEP, "MONOCHROME2", bits=12, **moved))[..., 0] - wanted).max() <= 1


def test_a_dicom_with_a_palette_is_shown_in_its_colours() -> None:
    ramp = np.arange(256, dtype=np.uint16)
    tables = {"Red": ramp * 257, "Green": (255 - ramp) * 257, "Blue": ramp * 0}
    more = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in tables}
    data = {f"{name}PaletteColorLookupTableData": table.tobytes() for name, table in tables.items()}
    wanted = np.dstack([GREY, 255 - GREY, np.zeros_like(GREY)])
    assert np.array_equal(shown(dicom(GREY, "PALETTE COLOR", **more, **data)), wanted)


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (dicom(COLOURS, "RGB", n_frames=3), "several_frames", r"3 frames \(VL Photographic Image Storage\)"),
        (dicom(COLOURS, "HSV"), "unknown_format", "photometric interpretation HSV found"),
        (dicom(COLOURS, "RGB", Columns=[24, 24]), "damaged", "not .list."),
        (dicom(COLOURS, "RGB")[:-100], "damaged", "bytes of pixel data"),
        (dicom(COLOURS, "RGB")[:300], "not_an_image", "without pixel data"),
        (dicom(COLOURS, "RGB", Rows=30_000, Columns=30_000), "too_many_pixels", "30000 x 30000"),
        (
            dicom(COLOURS, "RGB", syntax=JPEGLSLossless, jpeg=encapsulate([b"\xff\xd8\xff\xf7"])),
            "unknown_format",
            "DICOM compressed as JPEG-LS Lossless",
        ),
        (deflated(), "unknown_format", "DICOM compressed as Deflated Explicit VR Little Endian"),
        (
            dicom(COLOURS, "RGB", syntax=JPEGBaseline8Bit, jpeg=encapsulate([jpeg(width_px=10_001)])),
            "too_many_pixels",
            "10001 x 10000|100010000 pixels",
        ),
        (
            dicom(COLOURS, "YBR_FULL_422", syntax=JPEGBaseline8Bit, jpeg=encapsulate([jpeg()[:-300]])),
            "damaged",
            "truncated",
        ),
        (rle(200_000), "too_many_pixels", "runs of more than"),
        (heic()[:-20], "damaged", "end of file"),
        (heic()[:60], "damaged", "ValueError"),
    ],
    ids=[
        "frames",
        "interpretation",
        "two-values",
        "cut",
        "no-pixels",
        "large",
        "syntax",
        "deflated",
        "large-inside",
        "cut-inside",
        "endless-runs",
        "heic-cut",
        "heic-header",
    ],
)
def test_what_is_no_single_picture_is_refused_by_name(data: bytes, reason: str, words: str) -> None:
    with pytest.raises(UnusablePictureError, match=words) as refused:
        open_picture(data)
    assert refused.value.reason == reason
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("data", "name"), [(heic(), "HEIC"), (dicom(GREY, "MONOCHROME2"), "DICOM")])
def test_ingestion_takes_neither_and_says_what_it_found(data: bytes, name: str) -> None:
    found = read_picture(data)
    assert isinstance(found, Unusable)
    assert found == Unusable(reason="unknown_format", detail=f"{name} found, expected one of JPEG, PNG, TIFF")


def test_without_the_extra_one_line_names_it() -> None:
    probe = (
        "import sys; sys.modules.update(pydicom=None, pillow_heif=None)\n"
        "from lesion_tasks.archive.picture import UnusablePictureError, open_picture\n"
        "for data in (bytes(128) + b'DICM', b'____ftypheic'):\n"
        "    try:\n        open_picture(data)\n    except UnusablePictureError as error:\n        print(error)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"unknown format: {extra.upper()} found, which needs the extra: pip install 'lesion-tasks[{extra}]'"
        for extra in ("dicom", "heic")
    ]
