"""A promotion despite the gates -> its reason, and of a training that they refused whether that can be overridden."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.approvals import MAX_REASON, MIN_REASON
from lesion_tasks.catalog.lookup import tasks_left
from lesion_tasks.database.pruned import find_archival
from lesion_tasks.database.schema import Promotion
from lesion_tasks.evaluation.decisions import decisions_of_run, list_refused, refusal_in_force, task_decided
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Force:
    """That somebody asks for a promotion despite the gates, and why."""

    reason: str
    asked_by: str
    run_id: str | None = None  # the run of Airflow that asks

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise UnusableInputError(f"{self.what}: the reason is empty, expected one in words")
        if len(self.reason.strip()) < MIN_REASON:
            raise UnusableInputError(
                f"{self.what}: the reason is {self.reason!r}, expected at least {MIN_REASON} characters"
            )
        if len(self.reason) > MAX_REASON:
            raise UnusableInputError(
                f"{self.what}: the reason has {len(self.reason):,} characters, expected at most {MAX_REASON}"
            )

    @property
    def what(self) -> str:
        """What is asked for."""
        return "a promotion despite the gates"


@dataclass(frozen=True, kw_only=True)
class Override(Force):
    """The same of a training which the gates refused."""

    training_id: str

    @property
    def what(self) -> str:
        return f"overriding the refusal of {self.training_id!r}"


def read_force(
    training_id: str | None, reason: str | None, *, is_forced: bool, asked_by: str, run_id: str | None = None
) -> Force | None:
    """What a form or a command asks for despite the gates; None if nothing is.

    The reason becomes one line. Raises `UnusableInputError` for a training or a reason without "despite the gates", and
    for that without a reason.
    """
    name, words = (training_id or "").strip(), " ".join((reason or "").split())
    if not is_forced:
        if name or words:
            raise UnusableInputError(
                'a refused training or a reason is named: expected only with "Despite the gates"'
            )
        return None
    if not name:
        return Force(reason=words, asked_by=asked_by, run_id=run_id)
    return Override(training_id=name, reason=words, asked_by=asked_by, run_id=run_id)


def override_in(force: Force | None) -> Override | None:
    """The refusal that is to be overridden, if one is named."""
    return force if isinstance(force, Override) else None


def find_overridable(connection: Connection, task: str, training_id: str) -> Promotion:
    """The refusal that an override is about; raises `UnusableInputError` if there is none in force."""
    training = find_finished(connection, training_id)
    if training.task != task:
        raise UnusableInputError(
            f"training {training_id!r}: it is of task {training.task!r}, expected {task!r}"
        )
    if (archival := find_archival(connection, training_id)) is not None:
        raise UnusableInputError(
            f"training {training_id!r}: {archival}; take it back first: lesion archive-training {training_id} --return"
        )
    found, said = refusal_in_force(connection, task, training_id)
    if found is None:
        raise UnusableInputError(f"training {training_id!r}: expected one that the gates refused, and {said}")
    return found


def obstacle_to(connection: Connection, task: str, training_id: str) -> str | None:
    """Why the refusal of a training cannot be overridden, or not any more; None if it can."""
    try:
        find_overridable(connection, task, training_id)
    except UnusableInputError as error:
        return str(error)
    return None


def list_overridable(connection: Connection, task: str, n: int) -> list[str]:
    """Of the n trainings that the gates refused last those whose refusal can be overridden, the newest first."""
    refused = list_refused(connection, task, n)
    return [name for name in refused if obstacle_to(connection, task, name) is None]


def is_done(connection: Connection, override: Override) -> bool:
    """Whether the run that asks has decided already, and is run again."""
    if override.run_id is None:
        return False
    return any(
        row.training_id == override.training_id for row in decisions_of_run(connection, override.run_id)
    )


def tasks_to_decide(workspace: Workspace, tasks: Sequence[str], force: Force | None) -> list[str]:
    """The tasks of a run that the catalogue still has; of one that overrides a refusal, that of its training alone.

    Whether the refusal is in force is for `plan_promotion` to ask: while people are, that may change.
    """
    override = override_in(force)
    if override is None:
        return tasks_left(tasks)
    with workspace.engine.connect() as connection:
        # By its decisions if there are any: whoever asks may have waited until it was pruned.
        decided = task_decided(connection, override.training_id)
        task = decided or find_finished(connection, override.training_id).task
    if task not in tasks:
        raise UnusableInputError(
            f"training {override.training_id!r}: it is of task {task!r}, expected one of {', '.join(tasks)}"
        )
    return tasks_left([task])
