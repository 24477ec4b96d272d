"""The path of a report -> where its training stands now: the report itself says what was known when it was written."""

from dataclasses import dataclass

from sqlalchemy import select

from lesion_tasks.catalog import TASKS
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.leaderboard import LeaderboardFilter, read_leaderboard_rows
from lesion_tasks.reports.index import PromotionState
from lesion_tasks.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ReportNow:
    """The training that a report is about, and where it stands."""

    training_id: str
    task: str
    title: str
    state: PromotionState


def read_now(workspace: Workspace, path: str) -> ReportNow | None:
    """Where the training of a report stands; None for a report about anything else. `path` is below `reports/`."""
    training_id = path.partition("/")[0]
    with workspace.engine.connect() as connection:
        task = connection.execute(
            select(Training.task).where(Training.training_id == training_id)
        ).scalar_one_or_none()
        if task is None or task not in TASKS:
            return None
        wanted = LeaderboardFilter(training_ids=[training_id], has_archived=True)
        rows, _ = read_leaderboard_rows(connection, task, wanted=wanted)
    if not rows:
        return None
    return ReportNow(training_id=training_id, task=task, title=TASKS[task].title, state=rows[0].state)
