import ast
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

import lesion_tasks
from lesion_tasks.archive.picture import (
    BLACK,
    DECODER_VERSION,
    Picture,
    Unusable,
    UnusablePictureError,
    open_picture,
    perceptual_hash,
    read_picture,
    read_size_px,
)


def drawn(width=120, height=90, seed=0):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif")])
def test_a_picture_has_its_facts(kind, extension):
    data = encoded(drawn(), kind)

    picture = read_picture(data)

    assert isinstance(picture, Picture)
    assert (picture.width_px, picture.height_px, picture.extension) == (120, 90, extension)
    assert len(picture.sha256) == 64


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html><body>Maintenance</body></html>", "not_an_image"),
        (b"\xff\xd8\xff", "not_an_image"),
        (encoded(drawn(), "GIF"), "unknown_format"),
        (encoded(drawn(), "BMP"), "unknown_format"),
        (encoded(Image.new("LAB", (8, 8)), "TIFF"), "unknown_format"),
        (encoded(Image.fromarray(np.full((8, 8), -5, np.int32)), "TIFF"), "unknown_scale"),
        (encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF"), "unknown_scale"),
        (encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "unknown_scale"),
        (encoded(drawn(600, 400))[:-200], "damaged"),
        (encoded(drawn(600, 400))[:2000], "damaged"),
        (encoded(drawn(600, 400), "JPEG", progressive=True)[:-300], "damaged"),
        (encoded(drawn(), "PNG")[:-100], "damaged"),
    ],
)
def test_bytes_that_are_no_picture_are_refused_with_a_reason(data, reason):
    refused = read_picture(data)

    assert isinstance(refused, Unusable)
    assert refused.reason == reason
    assert refused.detail


def test_too_many_pixels_are_refused_before_they_are_decoded():
    refused = read_picture(encoded(drawn(200, 200)), max_pixels=39_999)

    assert isinstance(refused, Unusable)
    assert refused.reason == "too_many_pixels"
    assert "200 x 200" in refused.detail


def test_a_decompression_bomb_is_refused_from_its_header():
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in IHDR
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")

    refused = read_picture(bytes(data))

    assert isinstance(refused, Unusable)
    assert refused.reason == "too_many_pixels"


def test_the_hash_is_that_of_a_cosine_transform():
    grey = np.random.default_rng(0).uniform(0, 255, (32, 32)).astype(np.float32)
    low = dctn(grey.astype(np.float64), type=2)[:8, :8]
    expected = np.packbits(low > np.median(low)).tobytes()

    assert perceptual_hash(grey) == int.from_bytes(expected, "big", signed=True)


def distance(one, other):
    return ((one ^ other) & (2**64 - 1)).bit_count()


def test_a_recompressed_smaller_copy_stays_near_and_another_picture_does_not():
    original = drawn(800, 600, seed=1)
    first = read_picture(encoded(original, quality=95))
    copy = read_picture(encoded(original.resize((256, 192)), quality=60))
    other = read_picture(encoded(drawn(800, 600, seed=2)))

    assert distance(first.perceptual_hash, copy.perceptual_hash) <= 4
    assert distance(first.perceptual_hash, other.perceptual_hash) >= 16


# A wide picture: red above, blue below, and a white corner at the upper left, so that every way of turning it differs.
def scene():
    pixels = np.empty((48, 64, 3), np.uint8)
    pixels[:24], pixels[24:] = (200, 30, 60), (10, 120, 240)
    pixels[:16, :16] = 255
    return Image.fromarray(pixels)


def decoded(data, mode="RGB", **options):
    return np.asarray(open_picture(data, mode, **options)).astype(int)


# How a camera held so stores the scene (EXIF 2.32, table 6): the inverse of what a viewer does.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(tag, kind, **options):
    exif = Image.Exif()
    exif[0x0112] = tag
    return encoded(scene().transpose(STORED[tag]), kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "TIFF"])
@pytest.mark.parametrize("tag", STORED)
def test_a_picture_is_set_upright(tag, kind, tmp_path):
    data = turned(tag, kind)
    (tmp_path / "picture").write_bytes(data)

    assert np.abs(decoded(data) - np.asarray(scene()).astype(int)).mean() < 3
    picture = read_picture(data)
    assert (picture.width_px, picture.height_px) == (64, 48) == read_size_px(tmp_path / "picture")


@pytest.mark.parametrize("tag", STORED)
def test_a_reduced_picture_is_upright_too(tag):
    reduced = decoded(turned(tag, "JPEG"), least_px=12)

    assert np.abs(reduced - np.asarray(scene().reduce(4)).astype(int)).mean() < 6


@pytest.mark.parametrize("tag", STORED)
def test_a_turned_photograph_is_near_its_upright_copy(tag):
    original = drawn(640, 480, seed=4)
    exif = Image.Exif()
    exif[0x0112] = tag
    camera = read_picture(encoded(original.transpose(STORED[tag]), quality=95, exif=exif))
    saved = read_picture(encoded(original, quality=95))

    assert distance(camera.perceptual_hash, saved.perceptual_hash) <= 4


@pytest.mark.parametrize("tag", [0, 1, 9, 65_535])
def test_an_orientation_that_says_nothing_turns_nothing(tag):
    exif = Image.Exif()
    exif[0x0112] = tag

    assert np.array_equal(decoded(encoded(scene(), exif=exif)), decoded(encoded(scene())))


def test_unreadable_exif_does_not_cost_the_picture():
    data = encoded(scene(), exif=b"Exif\x00\x00no directory")

    assert np.array_equal(decoded(data), decoded(encoded(scene())))


def ramp():
    return np.linspace(0, 255, 64 * 48).reshape(48, 64).round()


@pytest.mark.parametrize(
    ("kind", "samples"),
    [
        ("PNG", (ramp() * 257).astype(np.uint16)),
        ("TIFF", (ramp() * 257).astype(np.uint16)),
        ("TIFF", (ramp() * 257).astype(">u2")),
        ("TIFF", (ramp() * 257).astype(np.int32)),
        ("TIFF", ramp().astype(np.int32)),
        ("TIFF", (ramp() / 255).astype(np.float32)),
        ("TIFF", ramp().astype(np.float32)),
        ("TIFF", (ramp() * 257).astype(np.float32)),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_deep_greys_are_scaled_and_not_clipped(kind, samples):
    data = encoded(Image.fromarray(samples), kind)

    assert np.abs(decoded(data, "L") - ramp()).max() <= 1
    assert read_picture(data).decoder_version == DECODER_VERSION


def test_a_dark_16_bit_picture_stays_dark():
    data = encoded(Image.fromarray(np.full((8, 8), 200, np.uint16)), "PNG")

    assert decoded(data).max() == 1


def tiff(samples, entries):
    """A TIFF of one strip from its directory, for what Pillow reads and does not write."""
    height_px, width_px, size_bytes = *samples.shape, samples.nbytes
    # 256 width, 257 height, 258 bits, 259 compression: none, 262 photometric, 273 offset, 277 samples, 279 length
    fields = {
        256: width_px,
        257: height_px,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height_px,
        279: size_bytes,
    } | entries
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    start = 8 + size_bytes
    head = b"II*\x00" + struct.pack("<I", start)
    return head + samples.tobytes() + struct.pack("<H", len(fields)) + directory + bytes(4)


def test_a_grey_whose_white_is_zero_is_turned_round():
    data = tiff((65_535 - ramp() * 257).astype("<u2"), {258: 16, 262: 0})

    assert np.abs(decoded(data, "L") - ramp()).max() <= 1


def test_white_of_a_12_bit_grey_is_4095():
    # Two samples of 12 bits in three bytes: 4095 and 0.
    data = tiff(np.frombuffer(b"\xff\xf0\x00" * 8, np.uint8).reshape(4, 6), {256: 4, 258: 12})

    assert decoded(data, "L").tolist() == [[255, 0, 255, 0]] * 4


def test_tiles_are_put_together():
    left, right = np.full((16, 16), 40, np.uint8), np.full((16, 16), 200, np.uint8)
    fields = {256: 32, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: 16, 323: 16}
    count = len(fields) + 2
    places = 8 + 512 + 2 + 12 * count + 4
    entries = [(tag, 1, value) for tag, value in fields.items()] + [(324, 2, places), (325, 2, places + 8)]
    directory = b"".join(struct.pack("<HHII", tag, 4, n, value) for tag, n, value in sorted(entries))
    data = b"II*\x00" + struct.pack("<I", 520) + left.tobytes() + right.tobytes()
    data += struct.pack("<H", count) + directory + bytes(4) + struct.pack("<IIII", 8, 264, 256, 256)

    assert np.array_equal(decoded(data, "L"), np.hstack([left, right]))


def with_hidden_colour(kind):
    """The scene whose lower half is transparent: blue is stored under it and nobody sees it."""
    picture = scene()
    if kind == "RGB":
        return encoded(picture, "PNG", transparency=(10, 120, 240))
    if kind == "P":
        picture = picture.quantize(4)
        return encoded(picture, "PNG", transparency=picture.getpixel((0, 47)))
    if kind in {"L", "I;16"}:
        grey = np.asarray(picture.convert("L"))
        grey = grey.astype(np.uint16) * 257 if kind == "I;16" else grey
        return encoded(Image.fromarray(grey), "PNG", transparency=int(grey[47, 0]))
    picture = picture.convert(kind)
    picture.putalpha(Image.fromarray(np.repeat([255, 0], 24)[:, None].repeat(64, 1).astype(np.uint8)))
    return encoded(picture, "TIFF" if kind == "RGBA" else "PNG")


@pytest.mark.parametrize("kind", ["RGB", "P", "L", "I;16", "LA", "RGBA"])
def test_colour_under_transparency_is_not_seen(kind):
    data = with_hidden_colour(kind)

    assert (decoded(data)[24:] == 255).all()
    assert (decoded(data, "L", background=BLACK)[24:] == 0).all()
    assert decoded(data)[20, 40, 1] < 120
    assert read_picture(data).decoder_version == DECODER_VERSION


def test_an_opaque_alpha_changes_nothing():
    assert np.array_equal(decoded(encoded(scene().convert("RGBA"), "PNG")), np.asarray(scene()))


def with_adobe_transform(four):
    """A JPEG of four planes as Photoshop marks YCCK."""
    data = encoded(
        Image.fromarray(255 - four, "CMYK"), quality=95
    )  # Pillow writes CMYK inverted, as Adobe does
    flag = data.index(b"Adobe") + 11
    return data[:flag] + b"\x02" + data[flag + 1 :]


def test_inks_become_the_colours_that_were_printed():
    inks = np.asarray(scene().convert("CMYK"))
    ycck = np.dstack([np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr")), 255 - inks[..., 3]])

    for data in (
        encoded(scene().convert("CMYK"), quality=95),
        encoded(scene().convert("CMYK"), "TIFF"),
        with_adobe_transform(ycck),
    ):
        assert np.abs(decoded(data) - np.asarray(scene()).astype(int)).mean() < 3


@pytest.mark.parametrize("kind", ["MPO", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind):
    data = encoded(scene(), kind, save_all=True, append_images=[Image.new("RGB", (64, 48))])

    assert np.abs(decoded(data) - np.asarray(scene()).astype(int)).mean() < 3
    assert read_picture(data).content_type == {"MPO": "image/jpeg"}.get(kind, f"image/{kind.lower()}")


def test_a_jpeg_of_12_bits_is_refused():
    data = bytearray(encoded(scene()))
    data[data.index(b"\xff\xc0") + 4] = 12  # the precision in the frame's header

    assert read_picture(bytes(data)).reason == "not_an_image"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_an_ordinary_picture_was_always_decoded_so(mode):
    kinds = {"1": ["PNG", "TIFF"], "P": ["PNG", "TIFF"], "CMYK": ["JPEG", "TIFF"]}
    for kind in kinds.get(mode, ["JPEG", "PNG", "TIFF"]):
        data = encoded(scene().convert(mode), kind)
        assert read_picture(data).decoder_version == 1
        assert np.array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_the_error_says_what_was_found():
    with pytest.raises(UnusablePictureError, match=r"^not an image: begins with b'hello'$"):
        open_picture(b"hello")


def test_the_size_comes_from_the_header_and_no_image_has_none(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(encoded(drawn(600, 400))[:2000])
    (tmp_path / "text.jpg").write_text("not a picture")

    assert read_size_px(tmp_path / "cut.jpg") == (600, 400)
    assert read_size_px(tmp_path / "text.jpg") is None
    assert read_size_px(tmp_path / "none.jpg") is None


def test_files_are_decoded_in_one_place_only():
    """Whoever opens or converts a picture by himself sees another one than hashes, training and serving do."""
    package = Path(lesion_tasks.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "PIL.Image":
                found.add(str(path.relative_to(package)))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                is_opened = called.endswith("Image.open")
                is_converted = node.func.attr == "convert"
                if is_opened or is_converted:
                    found.add(str(path.relative_to(package)))
    # One reads the size in a header alone, one converts models, one the colours of training pictures that are decoded.
    assert found == {
        "archive/dicom.py",
        "archive/picture.py",
        "serving/export_model.py",
        "training/distortions.py",
    }


PICTURES = [encoded(drawn(), kind) for kind in ("JPEG", "PNG", "TIFF")]


# Pillow warns of odd EXIF and TIFF directories and goes on.
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from(PICTURES),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_damaged_files_are_read_or_refused_and_never_crash(data, damage, kept_share):
    damaged = bytearray(data[: int(len(data) * kept_share)])
    for place, value in damage:
        if damaged:
            damaged[int(place * (len(damaged) - 1))] = value

    outcome = read_picture(bytes(damaged))

    assert isinstance(outcome, Picture) or (outcome.reason and outcome.detail)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\x00"]))
def test_noise_is_refused(noise, magic):
    assert isinstance(read_picture(magic + noise), Unusable)
