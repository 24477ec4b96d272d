"""Pictures by SHA-256 <-> rows of arrays in the bucket, memory-mapped where they are read: pixels, and features too."""

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, TextClause, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, digest_of_file, reading_object, verified_path
from lesion_tasks.catalog import InputSize
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.scratch import scratch_file


@dataclass(frozen=True, kw_only=True)
class ShardTables:
    """How the shards of one owner, an input size or a recipe of features, stand in Postgres."""

    lock: Lock
    owner: str
    taken: TextClause  # those of :members that have a row of :owner
    insert: TextClause  # the shard: :key, :n, :sha256, :now and the facts
    add_rows: Callable[
        [Connection, str, Sequence[tuple[str, int]]], None
    ]  # key, members with their row in the array
    facts: Mapping[str, Any] = field(default_factory=dict)


def store_shard(
    bucket: Bucket, engine: Engine, tables: ShardTables, key: str, members: Sequence[str], array: np.ndarray
) -> None:
    """Write an array with a row for each picture under a key, and then name it in Postgres, in one transaction.

    If two processes store the same picture at once, the first row is kept.
    """
    with scratch_file("shard.npy") as path:
        np.save(path, array, allow_pickle=False)
        bucket.put_file(key, path)
        sha256 = digest_of_file(path)
    with engine.begin() as connection:
        lock_until_commit(connection, tables.lock, tables.owner)
        found = {"owner": tables.owner, "members": list(members)}
        taken = set(connection.execute(tables.taken, found).scalars())
        now = datetime.now(UTC)
        connection.execute(
            tables.insert, {"key": key, "n": len(members), "sha256": sha256, "now": now, **tables.facts}
        )
        tables.add_rows(connection, key, [(one, i) for i, one in enumerate(members) if one not in taken])


@dataclass(frozen=True, kw_only=True)
class PixelSource:
    """Pictures by SHA-256, in memory-mapped shards."""

    shards: tuple[np.ndarray, ...]  # each uint8 (n, side, side, 3)
    shard_of_row: np.ndarray  # (n_images,) int
    row_in_shard: np.ndarray  # (n_images,) int

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copy the pictures of some image rows, in the order of `rows`: uint8 (len(rows), side, side, 3)."""
        out = np.empty((len(rows), *self.shards[0].shape[1:]), dtype=np.uint8)
        shards = self.shard_of_row[rows]
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[here] = self.shards[shard][self.row_in_shard[rows[here]]]
        return out

    def release(self) -> None:
        """Give back the memory of what was read so far: it is mapped, and comes again from the files when asked for."""
        for shard in self.shards:
            if isinstance(shard.base, mmap.mmap):
                shard.base.madvise(mmap.MADV_DONTNEED)


def open_pixels(
    connection: Connection, bucket: Bucket, size: InputSize, sha256s: Sequence[str]
) -> PixelSource:
    """Map the shards that hold these pictures, or raise `UnusableInputError` naming how many are missing."""
    found = {
        row.sha256: (row.object_key, row.row_index, row.shard_sha256)
        for row in connection.execute(
            text("""
                SELECT pixel_row.sha256, object_key, row_index, pixel_shard.sha256 AS shard_sha256
                FROM pixel_row JOIN pixel_shard USING (object_key)
                WHERE input_size = :size AND pixel_row.sha256 = ANY(:ids)
            """),
            {"size": str(size), "ids": list(set(sha256s))},
        )
    }
    if missing := [sha256 for sha256 in sha256s if sha256 not in found]:
        raise UnusableInputError(
            f"{len(missing):,} of {len(sha256s):,} pictures have no pixels at {size}: materialize the manifest first"
        )
    shards = sorted({(key, shard_sha256) for key, _, shard_sha256 in found.values()})
    number = {key: i for i, (key, _) in enumerate(shards)}
    return PixelSource(
        shards=tuple(open_shard(bucket, key, shard_sha256) for key, shard_sha256 in shards),
        shard_of_row=np.array([number[found[sha256][0]] for sha256 in sha256s]),
        row_in_shard=np.array([found[sha256][1] for sha256 in sha256s]),
    )


def open_shard(bucket: Bucket, key: str, sha256: str) -> np.ndarray:
    """Memory-map an array of the bucket, checked against its digest.

    Raises `UnusableInputError` if it is missing or not what was stored.
    """
    with reading_object(bucket, key):
        array: np.ndarray = np.load(verified_path(bucket, key, sha256, kind="shard"), mmap_mode="r")
    return array
