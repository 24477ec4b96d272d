"""A training -> how often it failed, when, why, with which settings, where its log is, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.catalog.recipe import n_epochs_at_most
from lesion_tasks.database.pruned import find_pruning, pruned_in_words
from lesion_tasks.database.schema import Manifest, Training, TrainingEpoch, TrainingFailure
from lesion_tasks.reports.recipe_words import as_lines
from lesion_tasks.workspace import Workspace

# The tasks that train: each names the variant, or what is held out, as its label. That of an ensemble trains its
# members as well.
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
    def run_page(self) -> str:
        """Its run in Airflow's UI, from the UI's root."""
        return f"dags/{quote(self.dag_id)}/runs/{quote(self.run_id, safe='')}"

    @property
    def page(self) -> str:
        """Its log in Airflow's UI, from the UI's root."""
        mapped = "" if self.map_index < 0 else f"/mapped/{self.map_index}"
        return f"{self.run_page}/tasks/{quote(self.task_id)}{mapped}?try_number={self.number}"

    @property
    def log(self) -> str:
        """Its log in Airflow's API, from the API's root."""
        run = f"dags/{quote(self.dag_id)}/dagRuns/{quote(self.run_id, safe='')}"
        return f"{run}/taskInstances/{quote(self.task_id)}/logs/{self.number}?map_index={self.map_index}"


@dataclass(frozen=True, kw_only=True)
class RanTry:
    """A try and when it ran."""

    task_try: TaskTry
    began: datetime
    ended: datetime | None  # None: it has not

    def distance(self, moment: datetime) -> tuple[timedelta, timedelta]:
        """How far it ran from a moment, and how far from it it ended: what fails ends then."""
        to_end = timedelta.max if self.ended is None else abs(self.ended - moment)
        if moment < self.began:
            return self.began - moment, to_end
        return (timedelta(0) if self.ended is None or moment <= self.ended else to_end), to_end


def nearest_try(tries: Iterable[RanTry], moment: datetime) -> TaskTry | None:
    """The try that ran nearest to a moment, the first of several as near; None without any."""
    found = min(tries, key=lambda one: one.distance(moment), default=None)
    return None if found is None else found.task_try


# Finds the try of a task that trained, under one of some labels, at a moment.
TryOf = Callable[[frozenset[str], datetime], TaskTry | None]


@dataclass(frozen=True, kw_only=True)
class ShownFailure:
    """A failure, and the try of a task in which it happened; None: none of Airflow's that is known."""

    failure: TrainingFailure
    task_try: TaskTry | None
    advice: str


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What the page about a training shows."""

    training: Training
    held_out: str | None
    pruned: str  # when and why the data of its manifest was pruned; empty: it is there
    n_done: int  # epochs
    n_epochs: int  # at most; 0: it has none
    failures: list[ShownFailure]  # the last first
    settings: list[tuple[str, str]]


def read_training(workspace: Workspace, training_id: str, try_of: TryOf) -> TrainingState:
    """The state of a training by the database; raises `UnusableInputError` if there is none of this id."""
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
        held_out = session.get_one(Manifest, training.manifest_digest).held_out
        pruning = find_pruning(session.connection(), "manifest", training.manifest_digest)
        ended_by_epoch = {
            epoch.epoch: epoch.ended_at
            for epoch in session.scalars(
                select(TrainingEpoch).where(TrainingEpoch.training_id == training_id)
            )
        }
        session.expunge_all()
    shown = []
    for failure in failures:
        moment: datetime | None = failure.failed_at
        if failure.reason.startswith("lost:"):
            # It is noted later: its log is of the time when it last gave a sign.
            # Begun again without an epoch, it starts anew: of those before, nothing is known.
            is_last = training.status == "failed" and failure is failures[0]
            first_sign = training.started_at if is_last else None
            moment = ended_by_epoch.get(failure.n_epochs) if failure.n_epochs else first_sign
        found = None if moment is None else try_of(_labels(training, held_out), moment)
        shown.append(ShownFailure(failure=failure, task_try=found, advice=advice_on(failure.reason)))
    return TrainingState(
        training=training,
        held_out=held_out,
        pruned="" if pruning is None else pruned_in_words(pruning),
        n_done=len(ended_by_epoch),
        n_epochs=n_epochs_at_most(training.recipe),
        failures=shown,
        settings=as_lines(training.recipe),
    )


def _labels(training: Training, held_out: str | None) -> frozenset[str]:
    """Under which labels a task trains a variant: its own, and those of the ensembles that it is a member of."""
    variant = training.variant
    if held_out:
        value = held_out.partition(": ")[2]
        # Runs of earlier releases have one training of each value, and say no seed.
        return frozenset([f"{value}, seed {training.seed}", value])
    return frozenset([variant, *(one.name for one in VARIANTS.values() if variant in one.members)])


def advice_on(reason: str) -> str:
    """What to do about a training that failed for a reason."""
    return next((words for said, words in _ADVICE if said in reason), _ADVICE_ELSE)


def count_failures(connection: Connection, training_id: str) -> int:
    """How often a training failed."""
    counted = select(func.count()).where(TrainingFailure.training_id == training_id)
    return connection.execute(counted).scalar_one()
