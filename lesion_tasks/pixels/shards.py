"""Pictures by SHA-256 -> their decoded pixels, memory-mapped from the shards that materializing wrote."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, reading_object, verified_path
from lesion_tasks.catalog import InputSize


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
