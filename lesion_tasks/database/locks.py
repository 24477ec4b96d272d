"""Work that only one process may do at a time -> an advisory lock of the database. All of them are taken here.

Such a lock belongs to a connection, so a killed process releases it at once.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum

from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.exc import InterfaceError, OperationalError

log = logging.getLogger(__name__)


class Lock(StrEnum):
    """Every kind of lock. Where there are several things of a kind, a lock is for one of them and carries its name."""

    MIGRATION = "migration"
    SCOPE_PART = "part of a scope"  # scope_id and part: one pass writes it
    RECORD_VERSIONS = "record versions"  # two scopes may list one record, and both would make it version 2
    CURATION = "curation"  # shared by readers that need a finished curation
    ASSIGNMENT = "assignment"  # name of the assignment: members and placements under it
    PIXELS = "pixels"  # input size: rows of its shards
    FEATURES = "features"  # features_id: rows of its shards
    SEARCH = "search"  # search_id
    TRAINING = "training"  # fingerprint: held while the training runs
    PROMOTION = "promotion"  # task
    PUBLICATION = "publication"  # champion.json and the index of reports
    PRUNING = "pruning"
    COPY = "copy"  # into this database, of another one


def lock_until_commit(connection: Connection, lock: Lock, name: str = "", *, is_shared: bool = False) -> None:
    """Wait for a lock and hold it until the transaction ends; any number of shared holders may hold it together."""
    _call(connection, f"pg_advisory_xact_lock{'_shared' if is_shared else ''}", lock, name)


@contextmanager
def hold_lock(engine: Engine, lock: Lock, name: str = "", *, shown: str | None = None) -> Iterator[None]:
    """Hold a lock, waiting for it first; a wait is logged, with `shown` as the lock's name."""
    with _own_connection(engine) as connection:
        if not _call(connection, "pg_try_advisory_lock", lock, name):
            log.warning("another run is working on %s: waiting for it", shown or f"{lock} {name}".strip())
            _call(connection, "pg_advisory_lock", lock, name)
        try:
            yield
        finally:
            _release(connection, lock, name)


@contextmanager
def hold_lock_if_free(engine: Engine, lock: Lock, name: str = "") -> Iterator[bool]:
    """Hold a lock if nobody else does; yield whether it is held. Never waits."""
    with _own_connection(engine) as connection:
        is_held = _call(connection, "pg_try_advisory_lock", lock, name)
        try:
            yield is_held
        finally:
            if is_held:
                _release(connection, lock, name)


@contextmanager
def _own_connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()  # closed at the end, never returned to the pool with a lock still held
        yield connection


def _release(connection: Connection, lock: Lock, name: str) -> None:
    """Release the lock before the connection closes: the server may notice the close only a moment later."""
    with suppress(InterfaceError, OperationalError):  # the connection broke, which released the lock
        _call(connection, "pg_advisory_unlock", lock, name)


def is_held(connection: Connection, lock: Lock) -> bool:
    """Whether somebody holds a lock alone now, without a wait for it."""
    statement = """
        SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = CAST(:key AS bigint))
    """
    return bool(connection.execute(text(statement), {"key": _key(lock, "")}).scalar_one())


def _call(connection: Connection, function: str, lock: Lock, name: str) -> bool:
    return bool(connection.scalar(select(getattr(func, function)(_key(lock, name)))))


def _key(lock: Lock, name: str) -> int:
    """64 bits: among a few thousand names, a collision is practically impossible."""
    return int.from_bytes(hashlib.sha256(f"{lock}\n{name}".encode()).digest()[:8], "big", signed=True)
