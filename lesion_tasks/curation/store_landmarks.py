"""Stored pictures -> their landmarks in the database, each computed once.

Every image without landmarks gets them here: new ones, those stored before landmarks existed, and all of them when the
rules change. Each batch is one transaction, so a killed run continues where it stopped.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text

from lesion_tasks.archive.picture import UnusablePictureError
from lesion_tasks.bucket import Bucket, MissingObjectError, get_verified
from lesion_tasks.curation.landmarks import LANDMARKS_VERSION, landmarks_of, read_grey
from lesion_tasks.curation.shared_landmarks import FreshKeys
from lesion_tasks.database.bulk import copy_out_binary, upsert_rows
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.progress import progress

_BATCH_PICTURES = 2_000
_READ_PICTURES = 4_096
_ALL = f"""
    SELECT sha256, landmarks FROM picture_landmarks WHERE version = {LANDMARKS_VERSION} AND landmarks <> ''
"""  # noqa: S608 - a number of our own
_COUNT = text("""
    SELECT count(*) FROM image i WHERE NOT EXISTS (
        SELECT FROM picture_landmarks m WHERE m.sha256 = i.sha256 AND m.version = :version
    )
""")
_UNMARKED = text("""
    SELECT DISTINCT ON (i.sha256) i.sha256, f.object_key FROM image i JOIN stored_file f USING (isic_id, rendition)
    WHERE i.sha256 > :after AND NOT EXISTS (
        SELECT FROM picture_landmarks m WHERE m.sha256 = i.sha256 AND m.version = :version
    ) ORDER BY i.sha256 LIMIT :n
""")
# Images that are older than their landmarks are compared like new ones and count as changed: their groups may gain
# members.
_NOTE_OLD = text("""
    WITH noted AS (
        INSERT INTO ungrouped (isic_id, old_group_id) SELECT isic_id, group_id FROM image WHERE sha256 = ANY(:ids)
        ON CONFLICT DO NOTHING RETURNING isic_id
    )
    UPDATE image SET curated_in = :number FROM noted WHERE image.isic_id = noted.isic_id
""")


def mark_pictures(engine: Engine, bucket: Bucket, next_number: Any) -> int:
    """Find the landmarks of every image's picture that has none yet; returns the number of pictures.

    `next_number` is the statement that returns the number of the running curation. A picture that cannot be read has
    no landmarks.
    """
    n_marked, after = 0, ""
    with engine.begin() as connection:
        total = connection.execute(_COUNT, {"version": LANDMARKS_VERSION}).scalar_one()
    with progress("find landmarks", total) as advance, ThreadPoolExecutor(cpu_count()) as pool:
        while n_marked < total:
            with engine.begin() as connection:
                lock_until_commit(connection, Lock.CURATION)
                rows = connection.execute(
                    _UNMARKED, {"after": after, "version": LANDMARKS_VERSION, "n": _BATCH_PICTURES}
                ).all()
                if not rows:
                    break
                found = pool.map(lambda row: _landmarks(bucket, row.sha256, row.object_key), rows)
                _store(connection, [row.sha256 for row in rows], list(found), next_number)
            after = rows[-1].sha256
            n_marked += len(rows)
            advance(len(rows))
    return n_marked


def _store(connection: Connection, sha256s: Sequence[str], found: Sequence[bytes], next_number: Any) -> None:
    upsert_rows(
        connection,
        "picture_landmarks",
        ["sha256"],
        (
            {"sha256": sha256, "landmarks": landmarks, "version": LANDMARKS_VERSION}
            for sha256, landmarks in zip(sha256s, found, strict=True)
        ),
    )
    number = int(connection.execute(next_number).scalar_one())
    connection.execute(_NOTE_OLD, {"ids": list(sha256s), "number": number})


def _landmarks(bucket: Bucket, sha256: str, object_key: str) -> bytes:
    try:
        grey = read_grey(get_verified(bucket, object_key, sha256, kind="picture"))
    except (MissingObjectError, UnusablePictureError):
        return b""
    return landmarks_of(grey).astype("<u8").tobytes()


def stored_landmarks(connection: Connection, sha256s: Collection[str]) -> dict[str, np.ndarray]:
    """The landmarks of some pictures by sha256, as `landmarks_of` returns them; those not found yet are left out."""
    query = text("""
        SELECT sha256, landmarks FROM picture_landmarks WHERE sha256 = ANY(:sha256s) AND version = :version
    """)
    rows = connection.execute(query, {"sha256s": list(sha256s), "version": LANDMARKS_VERSION})
    return {row.sha256: np.frombuffer(row.landmarks, dtype="<u8").astype(np.uint64) for row in rows}


def read_landmarks(
    connection: Connection, fresh: FreshKeys | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The sha256 of each picture, all landmarks, and the picture number of each.

    With `fresh`, only landmarks that it meets, and pictures that have one: the others are never held.
    """
    sha256s: list[str] = []
    parts, sizes = [np.empty(0, dtype="<u8")], [np.empty(0, dtype=np.int32)]
    names: list[bytes] = []
    blocks: list[bytes] = []

    def keep() -> None:
        landmarks = np.frombuffer(b"".join(blocks), dtype="<u8")
        n_each = np.array([len(block) // 8 for block in blocks], dtype=np.int32)
        if fresh is not None:
            is_met = fresh.are_met(landmarks)
            owner = np.repeat(np.arange(len(blocks)), n_each)[is_met]
            landmarks, n_each = landmarks[is_met], np.bincount(owner, minlength=len(blocks)).astype(np.int32)
        some = np.flatnonzero(n_each)
        sha256s.extend([names[number].decode() for number in some.tolist()])
        parts.append(landmarks)
        sizes.append(n_each[some])
        names.clear()
        blocks.clear()

    def take(row: list[bytes]) -> None:
        names.append(row[0])
        blocks.append(row[1])
        if len(names) == _READ_PICTURES:
            keep()

    copy_out_binary(connection, _ALL, take)
    keep()
    n_each = np.concatenate(sizes)
    return sha256s, np.concatenate(parts), np.repeat(np.arange(len(n_each), dtype=np.int32), n_each)
