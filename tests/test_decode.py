"""Pictures of any shape -> squares of pixels: what is kept of the shape, and the same bytes on every machine."""

import base64
import hashlib
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import InputSize, input_sizes_of
from lesion_tasks.pixels.decode import decode_mask, decode_picture
from lesion_tasks.serving.serve import predict_images
from lesion_tasks.workspace import open_workspace


def striped(width: int = 40, height: int = 30) -> bytes:
    """A wide picture: red on the left tenth, blue on the right tenth, white between."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[:, : width // 10] = (255, 0, 0)
    pixels[:, -(width // 10) :] = (0, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_squashing_keeps_everything_and_fills_the_square() -> None:
    square = decode_picture(striped(), InputSize(20))
    assert square.shape == (20, 20, 3)
    assert tuple(square[0, 0]) == (255, 0, 0)
    assert tuple(square[-1, -1]) == (0, 0, 255)


def test_padding_keeps_everything_and_adds_black_above_and_below() -> None:
    square = decode_picture(striped(), InputSize(20, "pad"))
    assert (square[0] == 0).all()
    assert (square[-1] == 0).all()
    assert tuple(square[10, 0]) == (255, 0, 0)
    assert tuple(square[10, -1]) == (0, 0, 255)


def test_cropping_keeps_the_middle_in_its_shape() -> None:
    square = decode_picture(striped(), InputSize(20, "crop"))
    assert (square == 255).all()


def test_a_fit_is_named_by_size_and_policy() -> None:
    assert [str(InputSize(128)), str(InputSize(96, "pad"))] == ["128-squash", "96-pad"]
    with pytest.raises(ValueError, match="aspect 'stretch': expected one of squash, pad, crop"):
        InputSize(128, "stretch")


# A JPEG of 24 x 18 px, so that decoder and resampling are both held to their bytes.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIyYn"
    "KSopGR8tMC0oMCUoKSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo"
    "KCgoKCgoKCj/wAARCAASABgDASIAAhEBAxEB/8QAGQABAAMBAQAAAAAAAAAAAAAAAAIEBQYD/8QAJxAAAQQBAwMDBQAAAAAAAAAA"
    "AQACAwQFBhESByExExRBFSIjMkL/xAAXAQADAQAAAAAAAAAAAAAAAAAEBQYD/8QALhEAAQMCAQcNAAAAAAAAAAAAAQIDBAARQQYU"
    "ITFzkbIFEhMiMzQ1NkJRYWJx/9oADAMBAAIRAxEAPwCGvNMQa2tMiqvLrH8hXvaawxGPpUPZRmtXbxDt++y5/A3srdx78pHBJUsx"
    "nZsY8la2Ez2ajdL9YdNwk/Uv+EXJYXAIzRQIUCCMQrE7qJixnTEWhSw4ojnE+sfUbtVr1718/qKK86LOVWQ4kD8cg8kot266rkMT"
    "G2tYbbm37wjuQilRFg2GcNdfG6VG/wA6KTtcurhJ6N1pQJ0+2uo4lo9MDYbKr1EAbjouIA+34RFWx++SdorhFb5O+YGtqrhrnej5"
    "J1dYBO44eEREc32afymWWHijlf/Z"
)


@pytest.mark.parametrize(
    ("aspect", "digest"),
    [("squash", "f3a504c4505694fa"), ("pad", "242f056599ee2151"), ("crop", "1181989e8badee81")],
)
def test_the_same_file_gives_the_same_bytes_on_every_machine(aspect: str, digest: str) -> None:
    assert hashlib.sha256(decode_picture(JPEG, InputSize(16, aspect)).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("aspect", ["squash", "pad", "crop"])
def test_a_mask_takes_the_shape_of_its_picture(aspect: str) -> None:
    grey = decode_mask(striped(), InputSize(20, aspect))
    assert grey.shape == (20, 20)
    rgb = decode_picture(striped(), InputSize(20, aspect)).astype(float) @ (0.299, 0.587, 0.114)
    assert np.abs(grey - rgb).max() <= 1.5


def see_through() -> bytes:
    """White where it is opaque, which is the left half; white is stored under the right half too."""
    pixels = np.full((20, 20, 4), 255, dtype=np.uint8)
    pixels[:, 10:, 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_nothing_is_marked_where_a_mask_is_transparent() -> None:
    assert decode_mask(see_through(), InputSize(20))[:, [0, -1]].tolist() == [[255, 0]] * 20
    assert (decode_picture(see_through(), InputSize(20)) == 255).all()


def test_a_mask_is_turned_with_its_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    Image.open(io.BytesIO(striped())).save(buffer, "PNG", exif=exif)
    left, right = decode_picture(buffer.getvalue(), InputSize(20))[0, [0, -1]].tolist()
    assert (left, right) == ([0, 0, 255], [255, 0, 0])
    grey = decode_mask(buffer.getvalue(), InputSize(20))
    assert grey[0, 0] < grey[0, -1] < grey[0, 10]


def test_bytes_that_are_no_picture_are_unusable_input() -> None:
    with pytest.raises(UnusableInputError, match="not an image"):
        decode_picture(b"a text", InputSize(20))


def test_a_recipe_from_before_the_shape_was_a_choice_was_squashed() -> None:
    assert InputSize.of_recipe({"side_px": 96}) == InputSize(96)
    assert InputSize.of_recipe({"side_px": 96, "aspect": "crop"}) == InputSize(96, "crop")
    assert InputSize.of_recipe({"side_px": None, "aspect": "pad"}) is None


def test_every_size_and_shape_is_asked_for_once() -> None:
    chosen = ["smoke", "cnn_scratch", "mobilenet_v2_frozen", "metadata_logistic"]
    assert input_sizes_of("malignancy_balanced_5000", chosen) == [
        InputSize(32),
        InputSize(128),
    ]


def bomb() -> bytes:
    """A PNG of a few bytes whose header announces 3,600 megapixels."""
    data = bytearray(striped())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"a text", "not an image"),
        (b"", "empty"),
        (bomb(), "too many pixels"),
        (striped()[:-40], "damaged"),
    ],
    ids=["text", "empty", "bomb", "cut"],
)
def test_what_is_no_picture_is_refused_in_one_line_before_a_model_is_loaded(
    data: bytes, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(
        UnusableInputError, match=rf"picture\.png: found {found}.*; expected a picture"
    ) as error:
        predict_images(open_workspace(), [str(path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["x" * 5_000, "two\nlines.png", "nul\0.png", "."], ids=["long", "line", "nul", "folder"]
)
def test_a_name_that_names_no_file_is_refused_in_one_short_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match=r"^image .*expected a picture file") as error:
        predict_images(open_workspace(), [f"{tmp_path}/{name}"])
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # of holes
    with pytest.raises(
        UnusableInputError, match="too large: 1,099,511,627,776 bytes, expected at most 268,435,456"
    ):
        predict_images(open_workspace(), [str(path)])
