import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from lesion_tasks.archive.picture import Picture, Unusable, perceptual_hash, read_picture


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
