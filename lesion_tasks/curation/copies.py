"""Pictures -> pairs that show the same thing, as facts in the database that are never computed twice.

Candidates come from hashes and thumbprints, and from landmarks that two pictures share; only those are opened and
compared in detail: as they are, and aligned with each other. Sharing landmarks means that they agree at several places.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from os import cpu_count
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Connection, text

from lesion_tasks.archive.picture import UnusablePictureError
from lesion_tasks.bucket import Bucket, MissingObjectError, get_verified
from lesion_tasks.curation.landmarks import landmarks_of, read_grey
from lesion_tasks.curation.picture_similarity import (
    MIN_DETAIL_CORRELATION,
    MIN_PRINT_CORRELATION,
    detail_correlation,
    near_pairs,
    print_correlation,
    read_detail,
)
from lesion_tasks.curation.registration import (
    MIN_AGREEING_PLACES,
    MIN_REGISTERED_CORRELATION,
    n_agreeing_places,
    registered_correlation,
)
from lesion_tasks.curation.shared_landmarks import FreshKeys, pairs_in_common
from lesion_tasks.curation.store_landmarks import read_landmarks, stored_landmarks
from lesion_tasks.database.bulk import copy_dicts, copy_out
from lesion_tasks.metrics.one_thread import one_thread_each
from lesion_tasks.progress import Advance, progress

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_PAIRS = 20_000
_CACHED_LOOKS = 2_048  # 66 KiB each
_ALL_BITS = (1 << 64) - 1


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
    if len(number) > 10_000:  # one pass over all pairs instead of one look-up per picture
        found = connection.execute(text("SELECT sha256, other_sha256 FROM picture_pair WHERE is_copy"))
    else:
        found = connection.execute(
            text("SELECT sha256, other_sha256 FROM picture_pair WHERE is_copy AND sha256 = ANY(:ids)"),
            {"ids": list(number)},
        )
    pairs = [(number[one], number[other]) for one, other in found if one in number and other in number]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def are_copies(detail: float, registered: float = -1.0) -> bool:
    """Whether two pictures are copies by how far their detail agrees: as they lie, and laid upon each other."""
    return detail >= MIN_DETAIL_CORRELATION or registered >= MIN_REGISTERED_CORRELATION


def compare_pictures(connection: Connection, bucket: Bucket, fresh: set[str]) -> int:
    """Compare the pictures of some images with those of all images, and store what was found.

    `fresh` holds isic_ids; all pairs without one of them have been compared before. Returns how many new pairs were
    opened. Pairs whose pictures cannot be read count as copies: their thumbprints say so and nothing contradicts it.
    """
    isic_ids, hashes, fresh_rows = _read_hashes(connection, fresh)
    pairs = near_pairs(hashes, fresh=None if len(fresh_rows) == len(hashes) else fresh_rows)
    n_opened = 0
    with progress("compare pictures that look alike", len(pairs)) as advance:
        for start in range(0, len(pairs), _BATCH_PAIRS):
            some = pairs[start : start + _BATCH_PAIRS]
            names = isic_ids.take(some.ravel()).to_pylist()
            both = list(zip(names[::2], names[1::2], strict=True))
            n_opened += _compare(connection, bucket, both, hashes[some], advance)
    return n_opened + _compare_by_landmarks(connection, bucket, fresh)


def _compare_by_landmarks(connection: Connection, bucket: Bucket, fresh: set[str]) -> int:
    """Compare the pictures that share landmarks; returns how many pairs were opened."""
    found = connection.execute(
        text("SELECT sha256 FROM image WHERE isic_id = ANY(:ids)"), {"ids": list(fresh)}
    )
    fresh_sha256s = set(found.scalars())
    n_pictures = connection.execute(text("SELECT count(*) FROM picture_landmarks")).scalar_one()
    keys = None
    if 2 * len(fresh_sha256s) <= n_pictures:
        own = stored_landmarks(connection, fresh_sha256s)
        keys = FreshKeys(np.concatenate([np.empty(0, dtype=np.uint64), *own.values()]), n_pictures=n_pictures)
    sha256s, landmarks, pictures = read_landmarks(connection, keys, n_pictures=n_pictures)
    is_fresh = np.isin(sha256s, np.array([sha256.encode() for sha256 in fresh_sha256s], dtype=sha256s.dtype))
    pairs = pairs_in_common(landmarks, pictures, fresh=is_fresh, n_pictures=n_pictures)
    del landmarks, pictures
    n_opened = 0
    with progress("compare pictures that share landmarks", len(pairs)) as advance:
        for start in range(0, len(pairs), _BATCH_PAIRS):
            some = [
                sorted((sha256s[one].decode(), sha256s[other].decode()))
                for one, other in pairs[start : start + _BATCH_PAIRS].tolist()
            ]
            marks = stored_landmarks(connection, {sha256 for pair in some for sha256 in pair})
            both = []
            for one, other in some:
                if n_agreeing_places(marks[one], marks[other]) >= MIN_AGREEING_PLACES:
                    both.append((one, other))
                else:
                    advance()
            n_opened += _compare_marked(connection, bucket, both, advance)
    return n_opened


def _compare_marked(
    connection: Connection, bucket: Bucket, pairs: list[tuple[str, str]], advance: Advance
) -> int:
    """Open pairs of sha256, smaller first, unless known or grouped anyway; returns how many were opened."""
    rows = {
        row.sha256: row
        for row in connection.execute(
            text("""
                SELECT i.sha256, array_agg(i.atom_id) AS atoms, min(f.object_key) AS object_key,
                       min(f.perceptual_hash) AS perceptual_hash, (array_agg(f.thumbprint))[1] AS thumbprint
                FROM image i JOIN stored_file f USING (isic_id, rendition)
                WHERE i.sha256 = ANY(:ids) AND f.thumbprint IS NOT NULL GROUP BY i.sha256
            """),
            {"ids": sorted({sha256 for pair in pairs for sha256 in pair})},
        )
    }
    apart = [
        (rows[one], rows[other])
        for one, other in pairs
        if one in rows and other in rows and not set(rows[one].atoms) & set(rows[other].atoms)
    ]
    known = _known_pairs(connection, [(one.sha256, other.sha256) for one, other in apart])
    apart = [(one, other) for one, other in apart if (one.sha256, other.sha256) not in known]
    advance(len(pairs) - len(apart))
    if not apart:
        return 0
    prints = [
        np.frombuffer(b"".join(bytes(row.thumbprint) for row in side), dtype=np.uint8).reshape(len(apart), -1)
        for side in zip(*apart, strict=True)
    ]
    opened = [
        (
            (one.sha256, other.sha256),
            (one.object_key, other.object_key, (one.perceptual_hash ^ other.perceptual_hash) & _ALL_BITS),
            float(value),
        )
        for (one, other), value in zip(apart, print_correlation(*prints), strict=True)
    ]
    named = [
        (pair, (key, other_key, bits.bit_count()), value) for pair, (key, other_key, bits), value in opened
    ]
    return _open_and_store(connection, bucket, named, advance)


def _read_hashes(connection: Connection, fresh: set[str]) -> tuple["pa.Array", np.ndarray, np.ndarray]:
    """For all images with a hash, in no particular order: ids (n,), hashes (n,) int64, and which are fresh."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = pa.schema([("isic_id", pa.string()), ("perceptual_hash", pa.int64())])
    query = "SELECT isic_id, perceptual_hash FROM image WHERE perceptual_hash IS NOT NULL"
    table = copy_out(connection, query, schema).combine_chunks()
    ids = table["isic_id"].chunk(0) if len(table) else pa.array([], pa.string())
    is_fresh = pc.is_in(ids, value_set=pa.array(sorted(fresh), pa.string())).to_numpy(zero_copy_only=False)
    return ids, table["perceptual_hash"].to_numpy(), np.flatnonzero(is_fresh)


def _compare(
    connection: Connection,
    bucket: Bucket,
    isic_ids: list[tuple[str, str]],
    hashes: np.ndarray,
    advance: Advance,
) -> int:
    """Look closer at some candidate pairs, m pairs of ids and hashes (m, 2); returns how many were opened."""
    rows = {
        row.isic_id: row
        for row in connection.execute(
            text("""
                SELECT i.isic_id, i.atom_id, i.sha256, f.object_key, f.thumbprint
                FROM image i JOIN stored_file f USING (isic_id, rendition)
                WHERE i.isic_id = ANY(:ids) AND f.thumbprint IS NOT NULL
            """),
            {"ids": sorted({isic_id for pair in isic_ids for isic_id in pair})},
        )
    }
    n_bits = np.bitwise_count(hashes[:, 0] ^ hashes[:, 1])
    named: dict[tuple[str, str], tuple[str, str, int]] = {}  # bytes of both -> their keys, and the bits
    prints: list[tuple[bytes, bytes]] = []
    for (one, other), bits in zip(isic_ids, n_bits.tolist(), strict=True):
        if one not in rows or other not in rows or rows[one].atom_id == rows[other].atom_id:
            continue  # the same patient, lesion or record: grouped whatever the pictures show
        left, right = sorted((rows[one], rows[other]), key=lambda row: row.sha256)
        if left.sha256 == right.sha256:
            continue
        if (left.sha256, right.sha256) not in named:
            named[left.sha256, right.sha256] = (left.object_key, right.object_key, bits)
            prints.append((bytes(left.thumbprint), bytes(right.thumbprint)))
    if not named:
        advance(len(isic_ids))
        return 0
    both = np.frombuffer(b"".join(a + b for a, b in prints), dtype=np.uint8).reshape(len(prints), 2, -1)
    correlation = print_correlation(both[:, 0], both[:, 1])
    alike = [
        (pair, keys, float(value))
        for (pair, keys), value in zip(named.items(), correlation, strict=True)
        if value >= MIN_PRINT_CORRELATION
    ]
    known = _known_pairs(connection, [pair for pair, _, _ in alike])
    fresh = [one for one in alike if one[0] not in known]
    advance(len(isic_ids) - len(fresh))
    return _open_and_store(connection, bucket, fresh, advance)


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
    advance: Advance,
) -> int:
    marks = stored_landmarks(connection, {sha256 for both, _, _ in pairs for sha256 in both})
    look_of = lru_cache(_CACHED_LOOKS)(_opener(bucket, marks))

    def look(pair: tuple[tuple[str, str], tuple[str, str, int], float]) -> dict[str, object]:
        (one, other), (key, other_key, bits), correlation = pair
        left, right = look_of(one, key), look_of(other, other_key)
        if left is None or right is None:
            # If a picture cannot be read, its thumbprint decides: many that are not copies share landmarks.
            detail, is_copy = None, correlation >= MIN_PRINT_CORRELATION
        else:
            detail = detail_correlation(left[0], right[0])
            is_copy = are_copies(detail)
            if not is_copy:
                registered = registered_correlation(left[1], right[1], left[2], right[2])
                is_copy = are_copies(detail, registered)
                detail = max(detail, registered)
        return {
            "sha256": one,
            "other_sha256": other,
            "n_bits": bits,
            "print_correlation": correlation,
            "detail_correlation": detail,
            "is_copy": is_copy,
        }

    with one_thread_each(), ThreadPoolExecutor(cpu_count()) as pool:
        looked = []
        for found in pool.map(look, pairs):
            looked.append(found)
            advance()
    return copy_dicts(connection, "picture_pair", looked)


def _opener(
    bucket: Bucket, marks: Mapping[str, np.ndarray]
) -> Callable[[str, str], tuple[np.ndarray, np.ndarray, np.ndarray] | None]:
    def read(sha256: str, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Fine detail, grey levels and landmarks of a picture; None if it cannot be read."""
        try:
            data = get_verified(bucket, key, sha256, kind="picture")
            grey = read_grey(data)
            found = marks[sha256] if sha256 in marks else landmarks_of(grey)
            return read_detail(data), grey, found
        except (MissingObjectError, UnusablePictureError):
            return None

    return read
