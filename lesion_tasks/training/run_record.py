"""A training's row in Postgres, from its start to its end: running, finished, or failed with a reason.

The only module that writes the table `training`. Whoever needs a whole row takes it from here, as a `Training`, typed
and detached; questions about many rows are asked in SQL where they are.

A process that runs a training holds a lock on its fingerprint as long as it lives. A row that says `running` while
nobody holds the lock belongs to a process that ended without notice, and `mark_lost` marks it so.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from sqlalchemy import Boolean, Connection, Engine, Select, literal_column, select, text, update
from sqlalchemy.orm import Session, aliased

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, get_verified
from lesion_tasks.catalog.backbones import RANDOM_START
from lesion_tasks.database.bulk import copy_dicts
from lesion_tasks.database.locks import Lock, hold_lock_if_free
from lesion_tasks.database.pruned import HOLDS_OUT, TRAINING_IS_PRUNED, find_pruning, pruned_in_words
from lesion_tasks.database.schema import Training, TrainingEpoch

log = logging.getLogger(__name__)

LOST = (
    "lost: its process ended without notice, for example killed from outside or for lack of memory; "
    "trained again, it continues after its last complete epoch"
)


def _detached(connection: Connection, statement: "Select[Training]") -> list[Training]:
    with Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(statement))
        session.expunge_all()
    return rows


def find_finished(connection: Connection, training_id: str) -> Training:
    """Return a finished training, or raise `UnusableInputError` that says what was found: no such one, or pruned."""
    if (pruning := find_pruning(connection, "training", training_id)) is not None:
        raise UnusableInputError(
            f"training {training_id!r}: {pruned_in_words(pruning)}; expected one whose model is there"
        )
    found = _detached(connection, select(Training).where(Training.training_id == training_id))
    if not found or found[0].status != "finished":
        state = f"it is {found[0].status}" if found else "no such training"
        raise UnusableInputError(f"training {training_id!r}: {state}, expected a finished one")
    return found[0]


def read_model(bucket: Bucket, training: Training) -> bytes:
    """The stored model of a finished training, checked against its digest: `AlteredObjectError` if they differ."""
    return get_verified(bucket, training.model_key or "", training.model_sha256 or "", kind="model")


def list_finished(
    connection: Connection, *, task: str | None = None, variant: str | None = None
) -> list[Training]:
    """Finished trainings of a task or a variant (default: all) that were not pruned, sorted by start time.

    Without those from which something was held out: they answer a question, and are not models to be used.
    """
    t = aliased(Training, name="t")
    is_there = literal_column(f"NOT {TRAINING_IS_PRUNED} AND NOT {HOLDS_OUT}", Boolean)
    statement = select(t).where(t.status == "finished", is_there).order_by(t.started_at)
    if task is not None:
        statement = statement.where(t.task == task)
    if variant is not None:
        statement = statement.where(t.variant == variant)
    return _detached(connection, statement)


def list_trainings(connection: Connection) -> list[Training]:
    """Every training that was ever begun, those that began last first."""
    return _detached(connection, select(Training).order_by(Training.started_at.desc(), Training.training_id))


def list_recent(connection: Connection, statuses: Sequence[str], n: int) -> list[Training]:
    """Trainings in one of some states, those that began last first."""
    statement = select(Training).where(Training.status.in_(statuses)).order_by(Training.started_at.desc())
    return _detached(connection, statement.limit(n))


def is_adjusted(recipe: Mapping[str, Any]) -> bool:
    """Whether fields of the variant were changed for this training only, as for a rehearsal."""
    return bool(recipe.get("adjusted"))


def began_at_random(training: Training) -> bool:
    """Whether a backbone began with random weights; without a backbone there is nothing that could be pretrained."""
    if training.recipe["backbone"] is None:
        return False
    return not training.recipe["is_pretrained"] or training.weights in (None, RANDOM_START)


def code_of(bucket: Bucket, training: Training) -> str:
    """The digest of the code that a finished training ran, as the manifest beside its model has it."""
    said = json.loads(bucket.get(f"models/{training.training_id}/manifest.json"))
    return str(said["code_digest"])


def kind_of(variant: str, recipe: Mapping[str, Any]) -> tuple[str, bool, bool]:
    """What one training may take the place of: those of its variant, as promotable and as adjusted as it is."""
    return variant, recipe.get("is_promotable", True), is_adjusted(recipe)


def finish(connection: Connection, training_id: str, **columns: Any) -> None:
    """Mark a training finished, with its results: model, threshold and its rule, trainer's figures."""
    connection.execute(
        update(Training)
        .where(Training.training_id == training_id)
        .values(status="finished", reason=None, finished_at=datetime.now(UTC), **columns)
    )


def list_epochs(connection: Connection, training_id: str) -> list[dict[str, Any]]:
    """Number, figures and duration of every epoch, in order."""
    rows = connection.execute(
        select(TrainingEpoch.epoch, TrainingEpoch.figures, TrainingEpoch.duration_s)
        .where(TrainingEpoch.training_id == training_id)
        .order_by(TrainingEpoch.epoch)
    )
    return [dict(row._mapping) for row in rows]


def begin(engine: Engine, row: dict[str, Any], *, again: bool = False) -> tuple[str, bool]:
    """Find the training of a fingerprint, or insert its row; returns its id and whether it is finished and there.

    `row` has every column that is known at the start except training_id, status and started_at. The caller holds the
    lock on the fingerprint. `again` inserts a new row even if a finished one exists.
    """
    with engine.begin() as connection:
        past = connection.execute(
            text(f"""
                SELECT training_id, status, {TRAINING_IS_PRUNED} AS is_pruned
                FROM training t WHERE fingerprint = :f ORDER BY started_at DESC
            """),  # noqa: S608 - our own words
            {"f": row["fingerprint"]},
        ).all()
        if past and past[0].status == "finished" and not again and not past[0].is_pruned:
            return past[0].training_id, True
        if past and past[0].status != "finished":
            if past[0].status == "running":
                log.warning("training %s: its last attempt was %s", past[0].training_id, LOST)
            # Without a complete epoch it begins anew: the time that it lay still is none of its own.
            connection.execute(
                text("""
                    UPDATE training t SET status = 'running', reason = NULL, started_at = CASE
                        WHEN EXISTS (SELECT FROM training_epoch e WHERE e.training_id = t.training_id)
                        THEN started_at ELSE :now END
                    WHERE training_id = :id
                """),
                {"id": past[0].training_id, "now": datetime.now(UTC)},
            )
            return past[0].training_id, False
        number = f"-{len(past) + 1}" if past else ""
        training_id = f"{row['variant']}-{row['fingerprint'][:10]}{number}"
        started = {
            "training_id": training_id, "status": "running", "started_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        copy_dicts(connection, "training", [row | started])
        return training_id, False


class Outcome(AbstractContextManager[None]):
    """Writes the reason to a training's row if it ends in any error, and lets the error propagate."""

    def __init__(self, engine: Engine, training_id: str) -> None:
        self.engine = engine
        self.training_id = training_id

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with self.engine.begin() as connection:
                connection.execute(
                    text("UPDATE training SET status = 'failed', reason = :reason WHERE training_id = :id"),
                    {"id": self.training_id, "reason": f"{type(error).__name__}: {error}"[:2_000]},
                )


def mark_lost(engine: Engine) -> list[str]:
    """Write the reason to every training that is marked as running but has no process; returns their ids."""
    lost = []
    with engine.connect() as connection:
        running = connection.execute(
            text("SELECT training_id, fingerprint FROM training WHERE status = 'running' ORDER BY 1")
        ).all()
    for row in running:
        with (
            hold_lock_if_free(engine, Lock.TRAINING, row.fingerprint) as is_free,
            engine.begin() as connection,
        ):
            if (
                is_free
                and connection.execute(
                    text("""
                    UPDATE training SET status = 'failed', reason = :reason
                    WHERE training_id = :id AND status = 'running'
                """),
                    {"id": row.training_id, "reason": LOST},
                ).rowcount
            ):
                log.warning("training %s was %s", row.training_id, LOST)
                lost.append(row.training_id)
    return lost


def record_epoch(
    engine: Engine, training_id: str, epoch: int, figures: dict[str, float], duration_s: float
) -> None:
    """Write the figures of an epoch, replacing those recorded before."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO training_epoch (training_id, epoch, figures, duration_s, ended_at)
                VALUES (:id, :epoch, :figures, :duration_s, :now)
                ON CONFLICT (training_id, epoch) DO UPDATE SET figures = excluded.figures
            """),
            {
                "id": training_id,
                "epoch": epoch,
                "figures": json.dumps(figures),
                "duration_s": duration_s,
                "now": datetime.now(UTC),
            },
        )
