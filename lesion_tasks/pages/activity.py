"""What Airflow says of the pipeline's runs -> what is at work now, stage by stage, and which runs failed and why."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote

from lesion_tasks.catalog.approvals import LOOK_MINUTES
from lesion_tasks.catalog.ingest_passes import pass_title
from lesion_tasks.pages.training_page import TRAINING

# The stages of the path, in its order; other DAGs are named only while they are at work.
PATH = {
    "ingest_isic": "Ingest",
    "build_splits": "Splits",
    "train_variants": "Train and evaluate",
    "promote_model": "Promote",
}
RUNNING, WAITING, ASKING, PAUSED = "running", "waiting", "asking", "to be tried again"
ENDING = "ends shortly"  # a question that was answered or overtaken, whose task has not noticed yet
# A state of a task of Airflow -> in which of these it is; any other is not at work.
AT_WORK = {
    "running": RUNNING,
    "restarting": RUNNING,
    "deferred": RUNNING,
    "scheduled": WAITING,
    "queued": WAITING,
    "up_for_reschedule": WAITING,
    "up_for_retry": PAUSED,
    "awaiting_input": ASKING,
}
WITHOUT_WORDS = "It left no reason here, as when its process is killed: its log may say more."
MIRROR = "stay_red"  # the task that fails only because another one failed
N_NAMED = 3
N_AT_WORK = 100  # runs
KEPT_DAYS = 14  # that a failed run is shown
KEPT_DAYS_OF_REFUSED = 1  # the same of one that was refused for what it was started with


@dataclass(frozen=True, kw_only=True)
class TaskOfRun:
    """A task of a run, as Airflow has it."""

    task_id: str
    map_index: int = -1  # -1: not mapped
    label: str = ""  # what a mapped one is about, such as a variant
    state: str | None = None
    pool: str = ""
    began_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str | None = None  # why it failed, was skipped or made less than asked for, if it said so
    answered_by: str | None = None  # of a question: who answered it

    @property
    def words(self) -> str:
        """What it does, and about what."""
        return " ".join(filter(None, [pass_title(self.task_id.rpartition(".")[2]), self.label]))


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of one of the pipeline's DAGs, and those of its tasks that were asked for."""

    dag_id: str
    run_id: str
    state: str
    began_at: datetime | None = None
    ended_at: datetime | None = None
    tasks: Sequence[TaskOfRun] = ()
    questions: Sequence[
        Any
    ] = ()  # that it asks people, as its task returned them; read of runs at work alone

    @property
    def title(self) -> str:
        """The DAG in words."""
        return PATH.get(self.dag_id, self.dag_id.replace("_", " ").capitalize())

    @property
    def page(self) -> str:
        """Its page in Airflow's UI, from the UI's root."""
        return f"dags/{quote(self.dag_id)}/runs/{quote(self.run_id, safe='')}"

    def page_of(self, task: TaskOfRun) -> str:
        """The page of one of its tasks, with its log."""
        mapped = "" if task.map_index < 0 else f"/mapped/{task.map_index}"
        return f"{self.page}/tasks/{quote(task.task_id)}{mapped}"

    @property
    def is_at_work(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def failed(self) -> list[TaskOfRun]:
        """Its tasks that failed, or failed and are to be tried again: the causes, not what only keeps the run red."""
        found = [task for task in self.tasks if task.state in ("failed", "up_for_retry")]
        return [task for task in found if task.task_id != MIRROR] or found

    def find(self, task_id: str, map_index: int) -> TaskOfRun | None:
        """One of its tasks."""
        return next((one for one in self.tasks if (one.task_id, one.map_index) == (task_id, map_index)), None)


def is_deciding(run: Run, task: str, tasks: Collection[str]) -> bool:
    """Whether a run of `promote_model` is at work on a task, of some, and not only waiting for a person's answer."""
    if not run.is_at_work:
        return False
    at_work = [one for one in run.tasks if one.state in AT_WORK]
    others = {name for name in tasks if name != task}
    return not at_work or any(
        AT_WORK[one.state or ""] != ASKING and one.label.partition(":")[0] not in others for one in at_work
    )


def asking_run(run_id: str) -> Run:
    """A run that asks about a candidate, for a link to it."""
    return Run(dag_id="promote_model", run_id=run_id, state="running")


class Runs(Protocol):
    """Runs of the pipeline's DAGs, read from Airflow."""

    def at_work(self, n: int, dag_id: str | None = None) -> list[Run]:
        """Runs of a DAG, or of all, that have not ended, at most n, the oldest first.

        They have their questions, and their tasks that are at work or failed.
        """

    def failed(self, n: int) -> tuple[list[Run], int]:
        """The last runs that failed, at most n, the newest first, with the tasks that did; and how many there are."""

    def find(self, dag_id: str, run_id: str) -> Run | None:
        """A run with all of its tasks; None if there is none."""

    def followed_by(self, dag_id: str, run_id: str) -> list[Run]:
        """The runs that began because of what a run announced, the oldest first, without their tasks."""


OvertakenBy = Callable[[Run, TaskOfRun], str | None]
FindOvertaken = Callable[[Sequence[Run]], OvertakenBy]


def _why_ending(run: Run, task: TaskOfRun, status: str, overtaken_by: OvertakenBy) -> str | None:
    """Why the question of a task is none any more, though the task has not ended; None: it is one, or no question."""
    if task.answered_by is not None:
        return f"answered by {task.answered_by}"
    if status != ASKING or (why := overtaken_by(run, task)) is None:
        return None
    return f"overtaken: {why}; it ends by itself within {LOOK_MINUTES} minutes"


@dataclass(frozen=True, kw_only=True)
class Work:
    """Tasks of one kind in one run that are in the same state."""

    run: Run
    task_id: str  # empty: the run as a whole
    words: str
    status: str  # one of AT_WORK's values, or ENDING
    n: int
    since: datetime | None
    holder: str = ""  # what holds the slot that it waits for


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the path, and what is at work in it."""

    title: str
    work: list[Work]


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What is at work now, and what failed."""

    stages: list[Stage]
    failed: list[Run]  # those that still go on, with tasks that failed, first
    n_more_failed: int
    training: list[TaskOfRun]  # that train now

    @property
    def running(self) -> list[Work]:
        """What runs now."""
        return [work for stage in self.stages for work in stage.work if work.status == RUNNING]

    @property
    def n_asking(self) -> int:
        """How many questions wait for a person."""
        return sum(work.n for stage in self.stages for work in stage.work if work.status == ASKING)

    def count_running(self, n_trainings: int) -> int:
        """How many tasks run, with those of some trainings that a command started, outside of Airflow."""
        n_train = sum(work.n for work in self.running if (work.run.dag_id, work.task_id) in TRAINING)
        return sum(work.n for work in self.running) - n_train + max(n_train, n_trainings)


def read_activity(runs: Runs, n_failed: int, find_overtaken: FindOvertaken) -> Activity:
    """What is at work now by stage, and the last runs that failed.

    `find_overtaken`: runs at work -> what says what has overtaken the question of a task of one, None: nothing.
    """
    at_work = runs.at_work(N_AT_WORK)
    overtaken_by = find_overtaken(at_work)
    holders: dict[str, list[str]] = {}
    for run in at_work:
        for task in run.tasks:
            if AT_WORK.get(task.state or "") == RUNNING:
                holders.setdefault(task.pool, []).append(task.words)
    titles = {**PATH, **{run.dag_id: run.title for run in at_work}}
    stages = [
        Stage(
            title=title,
            work=[
                work
                for run in at_work
                if run.dag_id == dag_id
                for work in _work_of(run, holders, overtaken_by)
            ],
        )
        for dag_id, title in titles.items()
    ]
    ended, n_ended = runs.failed(n_failed)
    going_on = [run for run in at_work if any(task.state == "failed" for task in run.tasks)]
    training = [
        task
        for run in at_work
        for task in run.tasks
        if (run.dag_id, task.task_id) in TRAINING and AT_WORK.get(task.state or "") == RUNNING
    ]
    return Activity(
        stages=stages, failed=[*going_on, *ended], n_more_failed=n_ended - len(ended), training=training
    )


def _work_of(run: Run, holders: dict[str, list[str]], overtaken_by: OvertakenBy) -> Iterable[Work]:
    """What is at work in a run: tasks of one kind and state are one line, and each question that ends shortly."""
    kinds: dict[tuple[str, str], list[TaskOfRun]] = {}
    ending = 0
    for task in run.tasks:
        if (status := AT_WORK.get(task.state or "")) is None:
            continue
        if (why := _why_ending(run, task, status, overtaken_by)) is not None:
            ending += 1
            yield Work(
                run=run, task_id=task.task_id, words=f"{task.words}: {why}", status=ENDING, n=1, since=None
            )
            continue
        kinds.setdefault((task.task_id, status), []).append(task)
    for (task_id, status), tasks in kinds.items():
        shown = [tasks[0].words, *(task.label for task in tasks[1:N_NAMED] if task.label)]
        more = f" and {len(tasks) - len(shown)} more" if len(tasks) > len(shown) else ""
        yield Work(
            run=run,
            task_id=task_id,
            words=", ".join(shown) + more,
            status=status,
            n=len(tasks),
            since=min((task.began_at for task in tasks if task.began_at), default=None)
            if status == RUNNING
            else None,
            # The pool that everything is in by default is not what anything waits for.
            holder=", ".join(holders.get(tasks[0].pool, [])[:N_NAMED])
            if status == WAITING and tasks[0].pool != "default_pool"
            else "",
        )
    if not kinds and not ending:
        waits = run.state == "queued"
        yield Work(
            run=run,
            task_id="",
            words="a run that waits for the one before it" if waits else "between two tasks",
            status=WAITING if waits else RUNNING,
            n=1,
            since=None if waits else run.began_at,
        )
