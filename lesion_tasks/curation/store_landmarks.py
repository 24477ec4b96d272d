"""Stored pictures -> their landmarks in the database, each computed once.

Every image without landmarks gets them here: new ones, those stored before landmarks existed, and all of them when the
rules change. Each batch is one transaction, so a killed run continues where it stopped.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from threading import Semaphore
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text

from lesion_tasks.archive.picture import UnusablePictureError
from lesion_tasks.bucket import Bucket, MissingObjectError, get_verified
from lesion_tasks.curation.landmarks import (
    LANDMARKS_VERSION,
    MAX_LANDMARKS,
    landmarks_of,
    read_grey,
)
from lesion_tasks.curation.shared_landmarks import FreshKeys
from lesion_tasks.database.bulk import copy_out_bytes, upsert_rows
from lesion_tasks.database.locks import Lock, is_held, lock_until_commit
from lesion_tasks.metrics.one_thread import one_thread_each
from lesion_tasks.progress import progress

_BATCH_PICTURES = 500
_READ_PICTURES = 4_096
_SHA256_LENGTH = 64
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
    with (
        progress("find landmarks", total) as advance,
        one_thread_each(),
        ThreadPoolExecutor(cpu_count()) as pool,
    ):
        while n_marked < total:
            with engine.begin() as connection:
                lock_until_commit(connection, Lock.CURATION)
                rows = connection.execute(
                    _UNMARKED, {"after": after, "version": LANDMARKS_VERSION, "n": _BATCH_PICTURES}
                ).all()
                if not rows:
                    break
                found = []
                for landmarks in pool.map(lambda row: _landmarks(bucket, row.sha256, row.object_key), rows):
                    found.append(landmarks)
                    advance()
                _store(connection, [row.sha256 for row in rows], found, next_number)
            after = rows[-1].sha256
            n_marked += len(rows)
    return n_marked


def count_ungrouped(connection: Connection) -> tuple[int, int]:
    """How many images wait for their group, and how many for the landmarks of their picture, which come before.

    The latter are counted, over all images, only while a curation works or was left off: 0 says nothing otherwise.
    """
    n = int(
        connection.execute(text("SELECT count(*) FROM ungrouped JOIN image USING (isic_id)")).scalar_one()
    )
    if not n and not is_held(connection, Lock.CURATION):
        return 0, 0
    return n, int(connection.execute(_COUNT, {"version": LANDMARKS_VERSION}).scalar_one())


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
    connection: Connection, fresh: FreshKeys | None, *, n_pictures: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sha256 of each picture, (n,) bytes, all landmarks, and the picture number of each landmark.

    `n_pictures` is how many have landmarks in the database. With `fresh`, only landmarks that it meets, and pictures
    that have one: the others are never held.
    """
    # Memory that is not written to costs nothing.
    sha256s = np.empty(n_pictures, dtype=f"S{_SHA256_LENGTH}")
    landmarks = np.empty(n_pictures * MAX_LANDMARKS, dtype=np.uint64)
    pictures = np.empty(n_pictures * MAX_LANDMARKS, dtype=np.int32)
    n_kept = n_landmarks = 0
    waiting = Semaphore(4)

    def keep(names: list[bytes], values: list[bytes]) -> None:
        nonlocal n_kept, n_landmarks
        some = np.frombuffer(b"".join(values), dtype="<u8")
        owners = np.repeat(np.arange(len(names)), [len(value) // 8 for value in values])
        if fresh is not None:
            is_met = fresh.are_met(some)
            some, owners = some[is_met], owners[is_met]
        seen, numbers = np.unique(owners, return_inverse=True)
        sha256s[n_kept : n_kept + len(seen)] = np.array(names)[seen]
        landmarks[n_landmarks : n_landmarks + len(some)] = some
        pictures[n_landmarks : n_landmarks + len(some)] = numbers + n_kept
        n_kept, n_landmarks = n_kept + len(seen), n_landmarks + len(some)

    done = []
    with ThreadPoolExecutor(1) as pool:  # sorts out while the next rows arrive

        def hand_over(names: list[bytes], values: list[bytes]) -> None:
            waiting.acquire()
            done.append(pool.submit(keep, names, values))
            done[-1].add_done_callback(lambda _: waiting.release())

        copy_out_bytes(connection, _ALL, name_length=_SHA256_LENGTH, n_rows=_READ_PICTURES, consume=hand_over)
    for one in done:
        one.result()
    return sha256s[:n_kept], landmarks[:n_landmarks], pictures[:n_landmarks]
