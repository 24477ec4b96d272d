"""What the policy lets go -> gone from bucket and database, with a row of `pruning` for each thing.

A thing is given up in one transaction, with its row, before the first of its bytes goes; from then on nothing uses it.
A run that is killed leaves rows without an end, with which the next run begins. Pixels and features it leaves alone:
they go in one transaction, so nothing of them is half gone, and may be needed by now. Of two simultaneous runs the
second waits, and finds what the first one left.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, text
from sqlalchemy.orm import Session

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.retention import RETENTION, Retention
from lesion_tasks.catalog.tasks import assignment_of
from lesion_tasks.database.locks import Lock, hold_lock, hold_lock_if_free, lock_until_commit
from lesion_tasks.database.schema import Pruning
from lesion_tasks.evaluation.decisions import champions_ever, named_in_decisions
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.progress import progress
from lesion_tasks.serving.predict_job import is_job
from lesion_tasks.splits.data_report import page_key
from lesion_tasks.training.predictions import delete_predictions
from lesion_tasks.upkeep.notices import forget_deliveries
from lesion_tasks.upkeep.prunable import (
    Prunable,
    checkpoints_at_rest,
    find_prunable,
    looks_at_rest,
    prefixes_of,
    why_at_rest,
)
from lesion_tasks.upkeep.verify_bucket import forget
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# The kinds whose objects can be made again, each of which goes in one transaction with its rows.
CACHES = ("pixels", "features")


@dataclass(frozen=True, kw_only=True)
class PrunedThing:
    """One thing that went, or could go."""

    kind: str  # as in the table `pruning`
    name: str
    reason: str
    n_objects: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """What went or, if nothing was to be deleted, what could go."""

    is_deleting: bool
    things: list[PrunedThing]
    n_deliveries: int  # notes of what people were told

    @property
    def n_objects(self) -> int:
        return sum(one.n_objects for one in self.things)

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self.things)

    def as_dict(self) -> dict[str, Any]:
        """A dictionary ready for JSON."""
        return {**asdict(self), "n_objects": self.n_objects, "size_bytes": self.size_bytes}

    def counts(self) -> dict[str, int]:
        """In numbers alone, as tasks pass it on."""
        return {
            "things": len(self.things),
            "objects": self.n_objects,
            "bytes": self.size_bytes,
            "deliveries": self.n_deliveries,
        }


def prune(
    workspace: Workspace,
    *,
    is_deleting: bool = False,
    pruned_by: str,
    request_id: str | None = None,
    policy: Retention = RETENTION,
) -> PruneResult:
    """Say what the policy lets go and, if `is_deleting`, remove it; what an earlier run left half done comes first.

    `request_id` names the run that asks. What may have come to be needed since it was chosen stays.
    """
    now = datetime.now(UTC)
    told_before = now - timedelta(days=policy.delivery_days)
    if not is_deleting:
        left = [_thing(one) for one in _begun(workspace.engine) if one.kind not in CACHES]
        chosen = [_thing(one) for one in _choose(workspace, policy, now).things]
        with workspace.engine.connect() as connection:
            n_deliveries = forget_deliveries(connection, told_before, is_deleting=False)
        return PruneResult(is_deleting=False, things=left + chosen, n_deliveries=n_deliveries)
    gone: list[PrunedThing] = []
    with hold_lock(workspace.engine, Lock.PRUNING):
        for row in _begun(workspace.engine):
            log.warning("%s %s: an earlier run left it half pruned: going on", row.kind, row.name)
            gone += [_thing(row)] if _finish(workspace, row, policy, now) else []
        choice = _choose(workspace, policy, now)
        with progress("prune", len(choice.things)) as advance:
            for one in choice.things:
                given_up = _begin(workspace, one, choice, pruned_by, request_id)
                if given_up is not None and _finish(workspace, given_up, policy, now, choice.news):
                    gone.append(_thing(given_up))
                advance(1)
    with workspace.engine.begin() as connection:
        n_deliveries = forget_deliveries(connection, told_before, is_deleting=True)
    publish(workspace)
    return PruneResult(is_deleting=True, things=gone, n_deliveries=n_deliveries)


def prune_and_tell(
    workspace: Workspace, *, is_deleting: bool, pruned_by: str, request_id: str | None = None
) -> dict[str, int]:
    """The same, every thing with its reason in the log; returns counts."""
    result = prune(workspace, is_deleting=is_deleting, pruned_by=pruned_by, request_id=request_id)
    for one in result.things:
        log.info(
            "%s %s %s, %d objects, %.1f MB: %s",
            "pruned" if is_deleting else "could go:",
            one.kind,
            one.name,
            one.n_objects,
            one.size_bytes / 1e6,
            one.reason,
        )
    log.info(
        "%s %d notes of what people were told", "pruned" if is_deleting else "could go:", result.n_deliveries
    )
    return result.counts()


@dataclass(frozen=True, kw_only=True)
class _Choice:
    things: list[Prunable]
    news: Row[Any]  # as `_news` gave them before anything was chosen
    policy: Retention
    now: datetime


def _choose(workspace: Workspace, policy: Retention, now: datetime) -> _Choice:
    with workspace.engine.begin() as connection:
        news = _news(connection)
        things = list(find_prunable(connection, workspace.bucket, policy, now=now))
    return _Choice(things=things, news=news, policy=policy, now=now)


def _news(connection: Connection) -> Row[Any]:
    """Changes whenever a manifest, pixels or features may be asked for that were not asked for before."""
    return connection.execute(
        text("""
            SELECT (SELECT max(built_at) FROM manifest), (SELECT max(evaluated_at) FROM evaluation),
                   (SELECT max(started_at) FROM training), (SELECT count(*) FROM training WHERE status = 'running')
        """)
    ).one()


def _thing(one: Prunable | Pruning) -> PrunedThing:
    n_objects = len(one.size_by_key) if isinstance(one, Prunable) else one.n_objects
    return PrunedThing(
        kind=one.kind, name=one.name, reason=one.reason, n_objects=n_objects, size_bytes=one.size_bytes
    )


def _begun(engine: Engine) -> list[Pruning]:
    """Prunings without an end, oldest first, detached."""
    statement = select(Pruning).where(Pruning.ended_at.is_(None)).order_by(Pruning.pruning_id)
    with Session(engine, expire_on_commit=False) as session:
        rows = list(session.scalars(statement))
        session.expunge_all()
    return rows


def _begin(
    workspace: Workspace, one: Prunable, choice: _Choice, pruned_by: str, request_id: str | None
) -> Pruning | None:
    """Give a thing up: write its row, unless it has come to be needed since it was chosen."""
    row = Pruning(
        kind=one.kind,
        name=one.name,
        reason=one.reason,
        pruned_by=pruned_by,
        request_id=request_id,
        n_objects=len(one.size_by_key),
        size_bytes=one.size_bytes,
        began_at=datetime.now(UTC),
    )
    with _holding(workspace.engine, one.kind, one.name) as connection:
        if _may_be_needed(connection, workspace.bucket, one, choice):
            log.info("%s %s stays: it may be needed since it was chosen", one.kind, one.name)
            return None
        with Session(connection, expire_on_commit=False) as session:
            session.add(row)
            session.flush()
            session.expunge_all()
    return row


def _may_be_needed(connection: Connection, bucket: Bucket, one: Prunable, choice: _Choice) -> bool:
    """Whether something has come to need it; under the lock of whoever could, so that it holds until it is given up."""
    if one.kind == "training":
        return one.name in named_in_decisions(connection)[0]
    if one.kind == "model":
        return one.name in champions_ever(connection)
    if one.kind == "checkpoints":
        return _owner_of(one.name) not in checkpoints_at_rest(connection, choice.policy, choice.now)
    if one.kind == "predictions":
        return not _is_unasked(bucket, one.name, choice.policy, choice.now)
    return _news(connection) != choice.news


@contextmanager
def _holding(engine: Engine, kind: str, name: str) -> Iterator[Connection]:
    """A transaction during which nobody decides about a training, builds a manifest or writes a shard of the kind."""
    with engine.begin() as connection:
        locks: list[tuple[Lock, str]] = []
        if kind in ("training", "model"):
            locks = [(Lock.PROMOTION, task) for task in _tasks(connection)]
        elif kind == "manifest":
            locks = [(Lock.ASSIGNMENT, assignment) for assignment in _assignments(connection)]
        elif kind in CACHES:  # keys are pixels/<size>/... and features/<id>/...
            locks = [(Lock.PIXELS if kind == "pixels" else Lock.FEATURES, name.split("/")[1])]
        for lock, held in locks:
            lock_until_commit(connection, lock, held)
        yield connection


def _tasks(connection: Connection) -> list[str]:
    """Those of the catalogue, and those that trainings were of: not every process sees the folder with own tasks."""
    return sorted({*TASKS, *connection.execute(text("SELECT DISTINCT task FROM training")).scalars()})


def _assignments(connection: Connection) -> list[str]:
    """Those of the tasks of the catalogue, and those that manifests were made under."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT own->>'name', own->>'salt', (own->>'val_share')::float, (own->>'test_share')::float
            FROM manifest CROSS JOIN LATERAL (SELECT recipe->'task') AS made (own) WHERE own->>'salt' IS NOT NULL
        """)
    )
    return sorted({*(task.assignment for task in TASKS.values()), *(assignment_of(*row) for row in rows)})


def _finish(
    workspace: Workspace, row: Pruning, policy: Retention, now: datetime, news: Row[Any] | None = None
) -> bool:
    """Remove what a thing is made of; whatever of it is gone already, the rest goes.

    False for checkpoints of what has got on since, for predictions that were asked for since, for a manifest that a
    build has given again, and for pixels and features unless `news` are those on which they were chosen: they stay, and
    their row says that nothing of them went.
    """
    bucket = workspace.bucket
    is_gone = _remove_objects(workspace, row, policy, now)
    with _holding(workspace.engine, row.kind, row.name) as connection:
        if row.kind in ("training", "model"):
            delete_predictions(connection, row.name)
        elif row.kind in CACHES:
            # Whatever was chosen before is asked again; an object that is gone took its rows' sense with it.
            is_gone = _news(connection) == news or not bucket.exists(row.name)
            if is_gone:
                forget(connection, row.kind, [row.name])
                # Before anybody can see that the rows are gone, and write the same object again.
                bucket.delete(row.name)
        elif row.kind == "manifest":
            rows_key: str | None = connection.execute(
                text("""
                    SELECT object_key FROM manifest WHERE digest = :name AND EXISTS (
                        SELECT FROM pruning WHERE pruning_id = :id AND made_again_at IS NULL)
                """),
                {"name": row.name, "id": row.pruning_id},
            ).scalar_one_or_none()
            is_gone = rows_key is not None
            for key in (rows_key, page_key(row.name)) if rows_key is not None else ():
                bucket.delete(key)
        connection.execute(
            text("""
                UPDATE pruning SET ended_at = now(), n_objects = CASE WHEN :is_gone THEN n_objects ELSE 0 END,
                                   size_bytes = CASE WHEN :is_gone THEN size_bytes ELSE 0 END
                WHERE pruning_id = :id
            """),
            {"id": row.pruning_id, "is_gone": is_gone},
        )
    return is_gone


def _remove_objects(workspace: Workspace, row: Pruning, policy: Retention, now: datetime) -> bool:
    """Remove the objects that no lock of the database is about; False for what is not at rest any more: it stays."""
    if row.kind == "checkpoints":
        return _remove_checkpoints(workspace, row.name, policy, now)
    if row.kind == "predictions" and not is_job(row.name):
        for key in looks_at_rest(workspace.bucket, policy, now, row.name).get(row.name, {}):
            workspace.bucket.delete(key)
        return True
    if row.kind == "predictions" and not _is_unasked(workspace.bucket, row.name, policy, now):
        return False
    if row.kind in ("training", "model", "predictions"):
        for prefix in prefixes_of(row.kind, row.name):
            for key in list(workspace.bucket.list_keys(prefix)):
                workspace.bucket.delete(key)
    return True


def _is_unasked(bucket: Bucket, name: str, policy: Retention, now: datetime) -> bool:
    """Whether nobody has asked for a prediction job, or for some of what a champion saw, for as long as is kept."""
    if is_job(name):
        return why_at_rest(bucket, name, policy, now) is not None
    return name in looks_at_rest(bucket, policy, now, name)


def _owner_of(prefix: str) -> str:
    """The training or search whose checkpoints lie under a prefix."""
    return prefix.strip("/").split("/")[1]


def _remove_checkpoints(workspace: Workspace, prefix: str, policy: Retention, now: datetime) -> bool:
    """Remove the checkpoints of a training or a search, unless a process is at it or was since they were chosen.

    Returns whether it did.
    """
    name = _owner_of(prefix)
    with workspace.engine.connect() as connection:
        fingerprint: str | None = connection.execute(
            text("SELECT fingerprint FROM training WHERE training_id = :name"), {"name": name}
        ).scalar_one_or_none()
    lock = Lock.SEARCH if prefix.startswith("searches/") else Lock.TRAINING
    with hold_lock_if_free(workspace.engine, lock, fingerprint or name) as is_free:
        if not is_free:
            return False
        with workspace.engine.connect() as connection:
            is_at_rest = name in checkpoints_at_rest(connection, policy, now)
        if is_at_rest:
            for key in list(workspace.bucket.list_keys(prefix)):
                workspace.bucket.delete(key)
    return is_at_rest
