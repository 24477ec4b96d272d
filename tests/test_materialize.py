"""Pictures -> squares of pixels: the same bytes on every machine, each picture decoded once."""

import base64
import hashlib
import io

import numpy as np
import pytest
from catalogue import add_records, labelled_records, rows_of
from PIL import Image

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import fit_name
from lesion_tasks.curate import curate_images
from lesion_tasks.database import engine_for
from lesion_tasks.dataset import open_pixels
from lesion_tasks.materialize import decode_picture, materialize_manifest
from lesion_tasks.settings import Settings
from lesion_tasks.split import build_split
from lesion_tasks.store import open_store


def striped(width: int = 40, height: int = 30) -> bytes:
    """A wide picture: red on the left tenth, blue on the right tenth, white between."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[:, : width // 10] = (255, 0, 0)
    pixels[:, -(width // 10) :] = (0, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_squashing_keeps_everything_and_fills_the_square() -> None:
    square = decode_picture(striped(), 20)
    assert square.shape == (20, 20, 3)
    assert tuple(square[0, 0]) == (255, 0, 0)
    assert tuple(square[-1, -1]) == (0, 0, 255)


def test_padding_keeps_everything_and_adds_black_above_and_below() -> None:
    square = decode_picture(striped(), 20, "pad")
    assert (square[0] == 0).all()
    assert (square[-1] == 0).all()
    assert tuple(square[10, 0]) == (255, 0, 0)
    assert tuple(square[10, -1]) == (0, 0, 255)


def test_cropping_keeps_the_middle_in_its_shape() -> None:
    square = decode_picture(striped(), 20, "crop")
    assert (square == 255).all()


def test_a_fit_is_named_by_size_and_policy() -> None:
    assert [fit_name(128), fit_name(96, "pad")] == ["128-squash", "96-pad"]
    with pytest.raises(ValueError, match="aspect 'stretch': expected one of squash, pad, crop"):
        fit_name(128, "stretch")


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
    assert hashlib.sha256(decode_picture(JPEG, 16, aspect).tobytes()).hexdigest()[:16] == digest


def prepared(settings: Settings) -> str:
    add_records(settings, labelled_records(300))
    curate_images()
    return build_split("malignancy_natural")


def test_pixels_are_those_of_the_file_whatever_shard_they_lie_in(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lesion_tasks.materialize.SHARD_IMAGES", 7)
    digest = prepared(settings)
    assert materialize_manifest(digest, 16, "pad")["decoded"] == 300
    files = rows_of(settings, "SELECT sha256, object_key FROM stored_file ORDER BY md5(sha256)")
    store = open_store(settings)
    with engine_for(settings.database_url or "").connect() as connection:
        pixels = open_pixels(connection, store, "16-pad", [row.sha256 for row in files])
        with pytest.raises(UnusableInputError, match="have no pixels at 16-squash"):
            open_pixels(connection, store, "16-squash", [files[0].sha256])
    taken = pixels.take(np.arange(len(files)))
    assert len(pixels.shards) == 43  # 300 / 7
    for row, file in enumerate(files):
        assert np.array_equal(taken[row], decode_picture(store.get(file.object_key), 16, "pad"))


def test_materializing_again_writes_the_same_shards_or_none(settings: Settings) -> None:
    digest = prepared(settings)
    materialize_manifest(digest, 16)
    before = rows_of(settings, "SELECT object_key, sha256 FROM pixel_shard")
    assert materialize_manifest(digest, 16)["decoded"] == 0
    with engine_for(settings.database_url or "").begin() as connection:
        connection.exec_driver_sql("DELETE FROM pixel_row")
        connection.exec_driver_sql("DELETE FROM pixel_shard")
    materialize_manifest(digest, 16)
    assert rows_of(settings, "SELECT object_key, sha256 FROM pixel_shard") == before


def test_an_unknown_manifest_is_refused(settings: Settings) -> None:
    with pytest.raises(UnusableInputError, match="manifest 'nope' is not in the database"):
        materialize_manifest("nope", 16)
