"""The pipeline now: what came from the archive, what is being trained, what was evaluated, who is champion."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from markupsafe import Markup
from sqlalchemy import Connection, text

from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.catalog.ingest_passes import INGEST_PASSES, pass_title
from lesion_tasks.catalog.recipe import n_epochs_at_most
from lesion_tasks.curation.store_landmarks import count_ungrouped
from lesion_tasks.database.schema import Ingestion, Training
from lesion_tasks.evaluation.candidacy import TaskNow, candidate_ids, read_task
from lesion_tasks.evaluation.decisions import decisions_since, line_of
from lesion_tasks.evaluation.leaderboard import LeaderboardFilter, find_test_figures, read_leaderboard_rows
from lesion_tasks.ingest.runs import recent_ingestions
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import PublishedFigure
from lesion_tasks.pages.activity import TaskOfRun
from lesion_tasks.pages.training_page import count_failures
from lesion_tasks.reports.bundle import Epoch
from lesion_tasks.reports.charts import training_charts
from lesion_tasks.reports.index import DecisionLine, PromotionState
from lesion_tasks.training.run_record import list_epochs, list_recent
from lesion_tasks.workspace import Workspace

N_INGESTIONS, N_TRAININGS = 5, 8
N_DECISIONS, DECIDED_WITHIN = 5, timedelta(days=14)
# What a pass counts, where its name does not say it.
_COUNTED = {
    "left_scope": "no longer in the query",
    "prefixes_read": "id prefixes read",
    "prefixes_incomplete": "id prefixes not read to their end",
}


@dataclass(frozen=True, kw_only=True)
class RunningTraining:
    """A training that has not ended: how far it is, and its curves so far."""

    training: Training
    n_epochs: int  # at most: a stage may stop early
    done: list[Epoch]
    left_s: float | None  # at most, by the mean of the epochs so far
    quiet_s: float | None  # since the last epoch ended
    charts: list[tuple[str, Markup]]
    n_failures: int  # before


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """A task in a few words."""

    name: str
    title: str
    measure: str
    now: TaskNow
    figure: PublishedFigure | None  # of the champion, on its own test set
    n_waiting: int  # candidates


@dataclass(frozen=True, kw_only=True)
class PipelineState:
    """Everything that the first page shows."""

    n_records: int
    n_images: int
    n_uncurated: int
    n_ungrouped: int  # images that wait for their group
    n_unmarked: int  # images whose pictures wait for their landmarks, which come before
    n_rejects: int  # records of these that are not images
    n_refused: int  # things that an archive sent and that are not records
    ingestions: list[Ingestion]
    running: list[RunningTraining]
    ended: list[Training]
    standings: dict[str, PromotionState]  # of those that ended and were evaluated
    tasks: list[TaskState]
    decisions: list[
        tuple[str, str, DecisionLine]
    ]  # the last ones: name and title of the task, and the decision

    @property
    def curation(self) -> str:
        """How far curation is, stage by stage."""
        if self.n_uncurated:
            return f"{plural(self.n_uncurated, 'record')} to be curated"
        if self.n_unmarked:
            n_marked = self.n_images - self.n_unmarked
            return f"landmarks found in {n_marked:,} of {plural(self.n_images, 'image')}"
        if self.n_ungrouped:
            return f"{plural(self.n_ungrouped, 'image')} to be compared with the others and grouped"
        return "all curated"

    @property
    def now(self) -> dict[str, TaskNow]:
        """What the states of each task's trainings rest on."""
        return {task.name: task.now for task in self.tasks}


def read_state(workspace: Workspace) -> PipelineState:
    """The state of the pipeline by the database."""
    with workspace.engine.connect() as connection:
        counted = connection.execute(
            text("""
                SELECT (SELECT count(*) FROM record WHERE withdrawn_at IS NULL) AS n_records,
                       (SELECT count(*) FROM image) AS n_images, (SELECT count(*) FROM uncurated) AS n_uncurated,
                       (SELECT count(*) FROM reject JOIN record USING (isic_id)
                        WHERE withdrawn_at IS NULL) AS n_rejects,
                       (SELECT count(*) FROM refused_record) AS n_refused
            """)
        ).one()
        n_ungrouped, n_unmarked = count_ungrouped(connection)
        running = [_running(connection, training) for training in list_recent(connection, ["running"], 20)]
        ended = list_recent(connection, ["finished", "failed"], N_TRAININGS)
        tasks = [_task_state(connection, name) for name in TASKS]
        decided = decisions_since(connection, datetime.now(UTC) - DECIDED_WITHIN, N_DECISIONS)
        standings = {
            row.training_id: row.state
            for task in tasks
            if (ids := [one.training_id for one in ended if one.task == task.name])
            for row in read_leaderboard_rows(
                connection,
                task.name,
                wanted=LeaderboardFilter(training_ids=ids, has_archived=True),
                now=task.now,
            )[0]
        }
    return PipelineState(
        **counted._mapping,
        n_ungrouped=n_ungrouped,
        n_unmarked=n_unmarked,
        ingestions=recent_ingestions(workspace, N_INGESTIONS),
        running=running,
        ended=ended,
        standings=standings,
        tasks=tasks,
        decisions=[(row.task, TASKS[row.task].title, line_of(row)) for row in decided if row.task in TASKS],
    )


def _running(connection: Connection, training: Training) -> RunningTraining:
    done = [Epoch.model_validate(row) for row in list_epochs(connection, training.training_id)]
    n_epochs = n_epochs_at_most(training.recipe)
    last = connection.execute(
        text("SELECT max(ended_at) FROM training_epoch WHERE training_id = :id"), {"id": training.training_id}
    ).scalar()
    mean_s = sum(epoch.duration_s for epoch in done) / len(done) if done else None
    return RunningTraining(
        training=training,
        n_epochs=n_epochs,
        done=done,
        left_s=None if mean_s is None else mean_s * max(n_epochs - len(done), 0),
        quiet_s=(datetime.now(UTC) - last).total_seconds() if last else None,
        charts=training_charts(done, training.recipe) if done else [],
        n_failures=count_failures(connection, training.training_id),
    )


def _task_state(connection: Connection, name: str) -> TaskState:
    now = read_task(connection, name)
    measure = leading_measure(name)
    figure = None
    if now.champion is not None:
        training = now.champion.training
        found = find_test_figures(connection, training.training_id, training.manifest_digest)
        figure = found.get(measure)
    return TaskState(
        name=name,
        title=TASKS[name].title,
        measure=measure,
        now=now,
        figure=figure,
        n_waiting=len(candidate_ids(connection, now.waiting)),
    )


def being_prepared(tasks: Sequence[TaskOfRun], running: Sequence[RunningTraining]) -> list[TaskOfRun]:
    """Of the tasks that train those whose training is in no row yet: they look for data and weights."""
    return [
        task
        for task in tasks
        if not any(
            one.training.variant == task.label
            or (task.began_at is not None and one.training.started_at >= task.began_at)
            for one in running
        )
    ]


def counts_in_words(counts: dict[str, Any] | None) -> str:
    """What the passes of an ingestion counted, without zeros: `read new records: 12 new; fetch files: 12 stored`."""
    said = []
    order = [*INGEST_PASSES, *(counts or {})]
    for name, found in sorted((counts or {}).items(), key=lambda one: order.index(one[0])):
        if name == "poll":  # what the archive said of itself, before anything was read
            continue
        numbers = [
            f"{value:,} {_COUNTED.get(key, key.replace('_', ' '))}"
            for key, value in (found or {}).items()
            if isinstance(value, int) and not isinstance(value, bool) and value and not key.endswith("bytes")
        ]
        if numbers:
            said.append(f"{pass_title(name)}: {', '.join(numbers)}")
    return "; ".join(said) or "nothing changed"
