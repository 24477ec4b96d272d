"""Pictures -> pairs that show the same thing, as facts in the database that are never computed twice.

Candidates come from hashes and thumbprints; only those are opened and compared in detail.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from os import cpu_count

import numpy as np
from sqlalchemy import Connection, text

from lesion_tasks.archive.picture import UnusablePictureError
from lesion_tasks.bucket import Bucket, MissingObjectError
from lesion_tasks.curation.picture_hashes import (
    MIN_DETAIL_CORRELATION,
    MIN_PRINT_CORRELATION,
    detail_correlation,
    near_pairs,
    print_correlation,
    read_detail,
)
from lesion_tasks.database.bulk import copy_dicts, copy_out
from lesion_tasks.progress import progress

_BATCH_PAIRS = 20_000
_CACHED_DETAILS = 4_096  # 17 KiB each


def picture_numbers(connection: Connection, sha256s: Sequence[str]) -> np.ndarray:
    """Number pictures so that copies of one have the same number: (n,) int64, in the order given."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number: dict[str, int] = {}
    codes = np.array([number.setdefault(sha256, len(number)) for sha256 in sha256s], dtype=np.int64)
    pairs = copies_among(connection, number)
    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(len(number),) * 2)
    _, component = connected_components(graph, directed=False)
    numbers: np.ndarray = component.astype(np.int64)[codes]
    return numbers


def copies_among(connection: Connection, number: dict[str, int]) -> np.ndarray:
    """Pairs of the given pictures that show the same thing, as their numbers: (m, 2) int64."""
    if len(number) > 10_000:  # one pass over all pairs instead of a look-up for each picture
        found = connection.execute(text("SELECT sha256, other_sha256 FROM picture_pair WHERE is_copy"))
    else:
        found = connection.execute(
            text("SELECT sha256, other_sha256 FROM picture_pair WHERE is_copy AND sha256 = ANY(:ids)"),
            {"ids": list(number)},
        )
    pairs = [(number[one], number[other]) for one, other in found if one in number and other in number]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def compare_pictures(connection: Connection, bucket: Bucket, fresh: set[str]) -> int:
    """Compare the pictures of some images with those of all images, and store what was found.

    `fresh` holds isic_ids; every other pair of images has been compared before. Returns how many new pairs were
    opened. Pairs whose pictures cannot be read count as copies: their thumbprints say so and nothing denies it.
    """
    isic_ids, hashes, fresh_rows = _read_hashes(connection, fresh)
    pairs = near_pairs(hashes, fresh=None if len(fresh_rows) == len(hashes) else fresh_rows)
    n_opened = 0
    with progress("compare pictures that look alike", len(pairs)) as advance:
        for start in range(0, len(pairs), _BATCH_PAIRS):
            some = pairs[start : start + _BATCH_PAIRS]
            n_opened += _compare(connection, bucket, isic_ids[some], hashes[some])
            advance(len(some))
    return n_opened


def _read_hashes(connection: Connection, fresh: set[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all images that have a hash, in no order: ids (n,) bytes, hashes (n,) int64, and which rows are fresh."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = pa.schema([("isic_id", pa.binary(12)), ("perceptual_hash", pa.int64())])
    query = "SELECT isic_id, perceptual_hash FROM image WHERE perceptual_hash IS NOT NULL"
    table = copy_out(connection, query, schema).combine_chunks()
    if not len(table):
        return np.empty(0, dtype="S12"), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    sought = pa.array([isic_id.encode() for isic_id in fresh], pa.binary(12))
    is_fresh = pc.is_in(table["isic_id"], value_set=sought).to_numpy()
    ids = np.frombuffer(table["isic_id"].chunk(0).buffers()[1], dtype="S12", count=len(table))
    return ids, table["perceptual_hash"].to_numpy(), np.flatnonzero(is_fresh)


def _compare(connection: Connection, bucket: Bucket, isic_ids: np.ndarray, hashes: np.ndarray) -> int:
    """Look closer at some candidate pairs, ids (m, 2) and hashes (m, 2); returns how many were opened."""
    rows = {
        row.isic_id.encode(): row
        for row in connection.execute(
            text("""
                SELECT i.isic_id, i.atom_id, i.sha256, f.object_key, f.thumbprint
                FROM image i JOIN stored_file f USING (isic_id, rendition)
                WHERE i.isic_id = ANY(:ids) AND f.thumbprint IS NOT NULL
            """),
            {"ids": [isic_id.decode() for isic_id in np.unique(isic_ids)]},
        )
    }
    n_bits = np.bitwise_count(hashes[:, 0] ^ hashes[:, 1])
    named: dict[tuple[str, str], tuple[str, str, int]] = {}  # bytes of both -> their keys, and the bits
    prints: list[tuple[bytes, bytes]] = []
    for (one, other), bits in zip(isic_ids.tolist(), n_bits.tolist(), strict=True):
        if one not in rows or other not in rows or rows[one].atom_id == rows[other].atom_id:
            continue  # one patient, lesion or record: together whatever the pictures show
        left, right = sorted((rows[one], rows[other]), key=lambda row: row.sha256)
        if left.sha256 == right.sha256:
            continue
        if (left.sha256, right.sha256) not in named:
            named[left.sha256, right.sha256] = (left.object_key, right.object_key, bits)
            prints.append((bytes(left.thumbprint), bytes(right.thumbprint)))
    if not named:
        return 0
    both = np.frombuffer(b"".join(a + b for a, b in prints), dtype=np.uint8).reshape(len(prints), 2, -1)
    correlation = print_correlation(both[:, 0], both[:, 1])
    alike = [
        (pair, keys, float(value))
        for (pair, keys), value in zip(named.items(), correlation, strict=True)
        if value >= MIN_PRINT_CORRELATION
    ]
    known = _known_pairs(connection, [pair for pair, _, _ in alike])
    return _open_and_store(connection, bucket, [one for one in alike if one[0] not in known])


def _known_pairs(connection: Connection, pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    found = connection.execute(
        text("SELECT sha256, other_sha256 FROM picture_pair WHERE sha256 = ANY(:ids)"),
        {"ids": [one for one, _ in pairs]},
    )
    return {(one, other) for one, other in found}


def _open_and_store(
    connection: Connection,
    bucket: Bucket,
    pairs: list[tuple[tuple[str, str], tuple[str, str, int], float]],
) -> int:
    detail_of = lru_cache(_CACHED_DETAILS)(_detail_reader(bucket))

    def look(pair: tuple[tuple[str, str], tuple[str, str, int], float]) -> dict[str, object]:
        (one, other), (key, other_key, bits), correlation = pair
        left, right = detail_of(key), detail_of(other_key)
        detail = None if left is None or right is None else detail_correlation(left, right)
        is_copy = detail is None or detail >= MIN_DETAIL_CORRELATION
        return {
            "sha256": one,
            "other_sha256": other,
            "n_bits": bits,
            "print_correlation": correlation,
            "detail_correlation": detail,
            "is_copy": is_copy,
        }

    with ThreadPoolExecutor(cpu_count()) as pool:
        looked = list(pool.map(look, pairs))
    return copy_dicts(connection, "picture_pair", looked)


def _detail_reader(bucket: Bucket) -> Callable[[str], np.ndarray | None]:
    def read(key: str) -> np.ndarray | None:
        try:
            return read_detail(bucket.get(key))
        except (MissingObjectError, UnusablePictureError):
            return None

    return read
