"""A manifest -> shards of pixels: each picture decoded once for each size and shape."""

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from catalogue import add_records, labelled_records, rows_of
from PIL import Image
from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import InputSize
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.evaluation.probing import facts_of
from lesion_tasks.pixels.decode import decode_picture
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.pixels.picture_facts import picture_facts
from lesion_tasks.pixels.shards import PixelSource, open_pixels
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace


def prepared(settings: Settings) -> str:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    return build_split(open_workspace(), "malignancy_natural")


def test_pixels_are_those_of_the_file_whatever_shard_they_lie_in(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lesion_tasks.pixels.materialize.SHARD_IMAGES", 7)
    digest = prepared(settings)
    assert materialize_manifest(open_workspace(), digest, InputSize(16, "pad"))["decoded"] == 300
    files = rows_of(settings, "SELECT sha256, object_key FROM stored_file ORDER BY md5(sha256)")
    bucket = open_bucket(settings)
    with engine_for(settings.database_url or "").connect() as connection:
        pixels = open_pixels(connection, bucket, "16-pad", [row.sha256 for row in files])
        with pytest.raises(UnusableInputError, match="have no pixels at 16-squash"):
            open_pixels(connection, bucket, "16-squash", [files[0].sha256])
    taken = pixels.take(np.arange(len(files)))
    assert len(pixels.shards) == 43  # 300 / 7
    for row, file in enumerate(files):
        assert np.array_equal(taken[row], decode_picture(bucket.get(file.object_key), InputSize(16, "pad")))


def test_materializing_again_writes_the_same_shards_or_none(settings: Settings) -> None:
    digest = prepared(settings)
    materialize_manifest(open_workspace(), digest, InputSize(16))
    before = rows_of(settings, "SELECT object_key, sha256 FROM pixel_shard")
    assert materialize_manifest(open_workspace(), digest, InputSize(16))["decoded"] == 0
    with engine_for(settings.database_url or "").begin() as connection:
        connection.exec_driver_sql("DELETE FROM pixel_row")
        connection.exec_driver_sql("DELETE FROM pixel_shard")
    materialize_manifest(open_workspace(), digest, InputSize(16))
    assert rows_of(settings, "SELECT object_key, sha256 FROM pixel_shard") == before


def test_a_shard_that_cannot_be_stored_ends_the_work_and_those_before_stay(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored while the next one is decoded, the last of them while nothing is."""
    monkeypatch.setattr("lesion_tasks.pixels.materialize.SHARD_IMAGES", 100)
    digest = prepared(settings)
    workspace = open_workspace()
    put_file, n_put = workspace.bucket.put_file, []

    def put(key: str, path: Path, **options: str) -> None:
        n_put.append(key)
        if len(n_put) in {2, 4}:
            raise OSError("no bucket today")
        put_file(key, path, **options)

    monkeypatch.setattr(workspace.bucket, "put_file", put)
    for _ in range(2):  # the second of three, then the last
        with pytest.raises(OSError, match="no bucket today"):
            materialize_manifest(workspace, digest, InputSize(16))
    assert materialize_manifest(workspace, digest, InputSize(16))["decoded"] == 100


def test_an_unknown_manifest_is_refused(settings: Settings) -> None:
    with pytest.raises(UnusableInputError, match="manifest 'nope' is not in the database"):
        materialize_manifest(open_workspace(), "nope", InputSize(16))


def test_only_pictures_that_an_older_decoder_read_otherwise_are_decoded_again(settings: Settings) -> None:
    workspace = open_workspace()
    add_records(settings, labelled_records(300))
    (file,) = rows_of(settings, "SELECT isic_id, object_key FROM stored_file ORDER BY isic_id LIMIT 1")
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.open(io.BytesIO(workspace.bucket.get(file.object_key))).save(turned, "PNG", exif=exif)
    workspace.bucket.put(file.object_key, turned.getvalue())
    sha256 = hashlib.sha256(turned.getvalue()).hexdigest()
    with workspace.engine.begin() as connection:
        connection.execute(
            text("UPDATE stored_file SET sha256 = :sha256 WHERE isic_id = :isic_id"),
            {"sha256": sha256, "isic_id": file.isic_id},
        )
    curate_images(workspace)
    digest = build_split(workspace, "malignancy_natural")
    materialize_manifest(workspace, digest, InputSize(16))
    assert materialize_manifest(workspace, digest, InputSize(16))["decoded"] == 0

    workspace.bucket.put("pixels/16-squash/decoder-version", b"1")  # as if it had been written before
    counts = materialize_manifest(workspace, digest, InputSize(16))

    assert (counts["outdated"], counts["decoded"]) == (1, 1)
    with workspace.engine.connect() as connection:
        pixels = open_pixels(connection, workspace.bucket, InputSize(16), [sha256])
    assert np.array_equal(pixels.take(np.array([0]))[0], decode_picture(turned.getvalue(), InputSize(16)))
    assert materialize_manifest(workspace, digest, InputSize(16))["outdated"] == 0


def resident_bytes(path: Path) -> int:
    """How much of a mapped file this process holds in memory."""
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)
    return sum(1024 * int(re.findall(r"Rss: +(\d+)", one)[0]) for one in maps if str(path) in one)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what is mapped in memory")
def test_the_memory_of_pictures_is_given_back(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / "shard.npy"
    np.save(path, pictures)
    shard, rows = np.load(path, mmap_mode="r"), np.arange(600)
    source = PixelSource(shards=(shard,), shard_of_row=np.zeros(600, dtype=int), row_in_shard=rows)
    order = rows[::-1]
    np.testing.assert_array_equal(source.take(order), pictures[order])
    assert resident_bytes(path) >= pictures.nbytes
    source.release()
    assert resident_bytes(path) == 0
    np.testing.assert_array_equal(source.take(order), pictures[order])
    np.testing.assert_array_equal(facts_of(source, order), picture_facts(pictures[order]))
    assert resident_bytes(path) == 0
