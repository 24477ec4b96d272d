"""A training -> how often it failed, when, why, with which settings, where its log is, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.recipe import n_epochs_at_most
from lesion_tasks.database.schema import Training, TrainingEpoch, TrainingFailure
from lesion_tasks.reports.recipe_words import meaningful
from lesion_tasks.reports.words import flattened
from lesion_tasks.splits.manifest import find_manifest
from lesion_tasks.workspace import Workspace

# The tasks that train: each names the variant, or what is held out, as its label.
TRAINING = (("train_variants", "each.train"), ("leave_out", "train"))
# What a reason says -> what to do. The first that fits.
_ADVICE = (
    (
        "lost:",
        "Nothing needs mending if its machine was switched off. Where it was killed for lack of memory, give the "
        "worker more of it, or the variant smaller batches; then clear the task, or train the variant again.",
    ),
    (
        "disk full",
        "Make room where the reason says, then clear the task, or train the variant again.",
    ),
    (
        "UnusableInputError",
        "The input or a setting is wrong, and trying again cannot help: mend what the reason names, then clear the "
        "task, or train the variant again.",
    ),
    (
        "UnavailableError",
        "Airflow tries it again by itself, twice. If that fails too, see that what the reason names answers, then "
        "clear the task.",
    ),
)
_ADVICE_ELSE = (
    "Airflow tries it again by itself, twice. If that fails too, the end of the log names the place in the code: mend "
    "the cause, then clear the task, or train the variant again."
)


@dataclass(frozen=True, kw_only=True)
class TaskTry:
    """One try of a task of Airflow."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    number: int

    @property
    def page(self) -> str:
        """Its log in Airflow's UI, from the UI's root."""
        run = f"dags/{quote(self.dag_id)}/runs/{quote(self.run_id, safe='')}"
        mapped = "" if self.map_index < 0 else f"/mapped/{self.map_index}"
        return f"{run}/tasks/{quote(self.task_id)}{mapped}?try_number={self.number}"

    @property
    def log(self) -> str:
        """Its log in Airflow's API, from the API's root."""
        run = f"dags/{quote(self.dag_id)}/dagRuns/{quote(self.run_id, safe='')}"
        return f"{run}/taskInstances/{quote(self.task_id)}/logs/{self.number}?map_index={self.map_index}"


@dataclass(frozen=True, kw_only=True)
class ShownFailure:
    """A failure, and the try of a task in which it happened; None: no task of Airflow was trained in then."""

    failure: TrainingFailure
    task_try: TaskTry | None
    advice: str


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What the page about a training shows."""

    training: Training
    held_out: str | None
    n_done: int  # epochs
    n_epochs: int  # at most; 0: it has none
    failures: list[ShownFailure]  # the last first
    settings: list[tuple[str, str]]


def read_training(
    workspace: Workspace, training_id: str, try_of: Callable[[str, datetime], TaskTry | None]
) -> TrainingState:
    """The state of a training by the database; raises `UnusableInputError` if there is none of this id.

    `try_of` finds the try of a task that was training something at a moment: a variant, or without what is held out.
    """
    with Session(workspace.engine, expire_on_commit=False) as session:
        training = session.get(Training, training_id)
        if training is None:
            raise UnusableInputError(f"training {training_id[:100]!r}: there is none of this id")
        failures = list(
            session.scalars(
                select(TrainingFailure)
                .where(TrainingFailure.training_id == training_id)
                .order_by(TrainingFailure.failed_at.desc())
            )
        )
        held_out = find_manifest(session.connection(), training.manifest_digest).held_out
        n_done, last_epoch_at = session.execute(
            select(func.count(), func.max(TrainingEpoch.ended_at)).where(
                TrainingEpoch.training_id == training_id
            )
        ).one()
        session.expunge_all()
    label = held_out.partition(": ")[2] if held_out else training.variant
    shown = []
    for failure in failures:
        # A training that was killed is noted later: its log is of the time when it last gave a sign.
        is_lost = failure.reason.startswith("lost:")
        moment = (last_epoch_at or training.started_at) if is_lost else failure.failed_at
        shown.append(
            ShownFailure(failure=failure, task_try=try_of(label, moment), advice=advice_on(failure.reason))
        )
    return TrainingState(
        training=training,
        held_out=held_out,
        n_done=n_done,
        n_epochs=n_epochs_at_most(training.recipe),
        failures=shown,
        settings=list(flattened(meaningful(training.recipe))),
    )


def advice_on(reason: str) -> str:
    """What to do about a training that failed for a reason."""
    return next((words for said, words in _ADVICE if said in reason), _ADVICE_ELSE)


def count_failures(connection: Connection, training_id: str) -> int:
    """How often a training failed."""
    counted = select(func.count()).where(TrainingFailure.training_id == training_id)
    return connection.execute(counted).scalar_one()
