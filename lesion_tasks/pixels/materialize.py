"""Manifest -> shards of decoded pixels, uint8 (n, side, side, 3), that a training maps into memory.

A picture is decoded and resized once for each size, whichever manifest needs it: only pictures that no shard holds yet
are processed. Each shard is written under the digest of its members and then named in Postgres, one transaction each,
so a killed run continues with the next shard.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from os import cpu_count
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.picture import DECODER_VERSION, Picture, UnusablePictureError, read_picture
from lesion_tasks.bucket import Bucket, MissingObjectError, get_verified
from lesion_tasks.catalog import InputSize
from lesion_tasks.database.bulk import copy_rows
from lesion_tasks.database.locks import Lock
from lesion_tasks.pixels.decode import decode_picture
from lesion_tasks.pixels.shards import ShardTables, store_shard
from lesion_tasks.progress import progress
from lesion_tasks.splits.manifest import read_manifest
from lesion_tasks.workspace import Workspace

SHARD_IMAGES = 1_024


def materialize_manifest(workspace: Workspace, digest: str, size: InputSize) -> dict[str, Any]:
    """Make sure that every picture of a manifest is in a shard of this input size; returns counts."""
    bucket = workspace.bucket
    engine = workspace.engine
    n_outdated = _forget_outdated(workspace, size)
    with engine.connect() as connection:
        key = connection.execute(
            text("SELECT object_key FROM manifest WHERE digest = :digest"), {"digest": digest}
        ).scalar_one_or_none()
        if key is None:
            raise UnusableInputError(f"manifest {digest!r} is not in the database, expected a digest of one")
        rows = read_manifest(bucket, key).drop_duplicates("sha256")
        done = set(
            connection.execute(
                text("SELECT sha256 FROM pixel_row WHERE input_size = :size AND sha256 = ANY(:ids)"),
                {"size": str(size), "ids": rows["sha256"].tolist()},
            ).scalars()
        )
    missing = rows[~rows["sha256"].isin(done)]
    sources = list(zip(missing["sha256"], missing["object_key"], strict=True))
    decode = partial(_decode, bucket, size)
    with (
        progress(f"materialize {size}", len(sources)) as advance,
        ThreadPoolExecutor(cpu_count()) as pool,
        ThreadPoolExecutor(1) as writer,
    ):
        storing: Future[int] | None = None
        for start in range(0, len(sources), SHARD_IMAGES):
            batch = sources[start : start + SHARD_IMAGES]
            pixels = np.empty((len(batch), size.side_px, size.side_px, 3), dtype=np.uint8)
            for row, picture in enumerate(pool.map(decode, *zip(*batch, strict=True))):
                pixels[row] = picture
            # One shard is stored while the next is decoded, and no more than these two are in memory.
            if storing is not None:
                advance(storing.result())
            storing = writer.submit(
                _store_shard, bucket, engine, size, [sha256 for sha256, _ in batch], pixels
            )
        if storing is not None:
            advance(storing.result())
    return {"images": len(rows), "decoded": len(sources), "outdated": n_outdated, "input_size": str(size)}


def _forget_outdated(workspace: Workspace, size: InputSize) -> int:
    """Drop rows of pictures that the current decoder reads differently from the one that wrote them; return how many.

    Runs once for each size and decoder version: every file is checked, and ordinary ones keep their pixels.
    """
    bucket, key = workspace.bucket, f"pixels/{size}/decoder-version"
    version = int(bucket.get(key)) if bucket.exists(key) else 1
    if version == DECODER_VERSION:
        return 0
    with workspace.engine.connect() as connection:
        files = connection.execute(
            text("""
                SELECT DISTINCT ON (sha256) sha256, stored_file.object_key
                FROM pixel_row JOIN stored_file USING (sha256) WHERE input_size = :size ORDER BY sha256
            """),
            {"size": str(size)},
        ).all()
    is_same = partial(_is_decoded_alike, bucket, version=version)
    with progress(f"pixels of an older decoder {size}", len(files)) as advance:
        outdated = []
        with ThreadPoolExecutor(cpu_count()) as pool:
            for file, is_kept in zip(files, pool.map(is_same, *zip(*files, strict=True)), strict=True):
                outdated += [] if is_kept else [file.sha256]
                advance(1)
    with workspace.engine.begin() as connection:
        connection.execute(
            text("DELETE FROM pixel_row WHERE input_size = :size AND sha256 = ANY(:ids)"),
            {"size": str(size), "ids": outdated},
        )
    bucket.put(key, str(DECODER_VERSION).encode())  # last: a run killed before this checks again
    return len(outdated)


def _is_decoded_alike(bucket: Bucket, sha256: str, key: str, *, version: int) -> bool:
    """Whether that decoder version produced today's pixels of a stored picture; False if it is refused by now."""
    try:
        picture = read_picture(get_verified(bucket, key, sha256, kind="picture"))
    except MissingObjectError:
        return True  # there is nothing to decode again
    return isinstance(picture, Picture) and picture.decoder_version <= version


def _decode(bucket: Bucket, size: InputSize, sha256: str, key: str) -> np.ndarray:
    try:
        return decode_picture(get_verified(bucket, key, sha256, kind="picture"), size)
    except UnusablePictureError as error:
        raise UnusableInputError(f"picture {key}: {error}") from error


_TAKEN = text("SELECT sha256 FROM pixel_row WHERE input_size = :owner AND sha256 = ANY(:members)")
_INSERT = text("""
    INSERT INTO pixel_shard (object_key, n_images, sha256, created_at) VALUES (:key, :n, :sha256, :now)
    ON CONFLICT (object_key) DO UPDATE SET sha256 = excluded.sha256
""")


def _store_shard(
    bucket: Bucket, engine: Engine, size: InputSize, members: Sequence[str], pixels: np.ndarray
) -> int:
    """Returns the number of pictures in it."""
    # With the version, so that pictures decoded again never get the name of their former pixels.
    name = hashlib.sha256("\n".join([f"decoder {DECODER_VERSION}", *members]).encode()).hexdigest()[:32]

    def add_rows(connection: Connection, key: str, places: Sequence[tuple[str, int]]) -> None:
        copy_rows(
            connection,
            "pixel_row",
            ("input_size", "sha256", "object_key", "row_index"),
            ((str(size), member, key, i) for member, i in places),
        )

    tables = ShardTables(lock=Lock.PIXELS, owner=str(size), taken=_TAKEN, insert=_INSERT, add_rows=add_rows)
    store_shard(bucket, engine, tables, f"pixels/{size}/{name}.npy", members, pixels)
    return len(members)
