"""Corrections, withdrawals and builds of splits under way -> the mark on pages with figures and models of before."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from lesion_tasks.curation.corrections import find_requests
from lesion_tasks.metrics.counted import plural
from lesion_tasks.pages.activity import ASKING, AT_WORK, N_AT_WORK, Run, Runs


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What changes the data now, or is to, and the run that does it."""

    words: str
    run: Run


def read_motion(connection: Connection, runs: Runs) -> list[Motion]:
    """What runs of `correct_data` and `build_splits` do about the data, the oldest first."""
    correcting = runs.at_work(N_AT_WORK, "correct_data")
    ended = find_requests(connection, [run.run_id for run in correcting]) if correcting else {}
    found = [
        Motion(words=_of_correction(run), run=run)
        for run in correcting
        if run.run_id not in ended or ended[run.run_id].outcome == "applied"
    ]
    building = runs.at_work(N_AT_WORK, "build_splits")
    return [*found, *(Motion(words="Splits are being built anew", run=run) for run in building)]


def _of_correction(run: Run) -> str:
    asks = any(AT_WORK.get(task.state or "") == ASKING for task in run.tasks)
    subjects = [one["subject"] for one in run.questions if isinstance(one, dict) and one.get("subject")]
    if asks:
        return f"A person is asked: {subjects[0]}" if subjects else "A person is asked about a correction"
    return "A correction of the data, or the withdrawal of one, is being made"


def changed_since(connection: Connection, task: str, built_at: datetime) -> Sequence[str]:
    """What of the data of a task was withdrawn or corrected since they were built, in words; what came is no part."""
    row = connection.execute(
        text("""
            SELECT (SELECT count(*) FROM withdrawal WHERE withdrawn_at > :at AND returned_at IS NULL) AS n_gone,
                   count(*) FILTER (WHERE decided_at > :at AND withdrawn_at IS NULL) AS n_made,
                   count(*) FILTER (WHERE decided_at <= :at AND withdrawn_at > :at) AS n_taken_back
            FROM correction WHERE (task = :task OR task IS NULL) AND decision IN ('label_set_aside', 'lesions_joined')
        """),
        {"task": task, "at": built_at},
    ).one()
    return [
        words
        for n, words in (
            (row.n_gone, f"the archive withdrew {plural(row.n_gone, 'record')}"),
            (row.n_made, f"people made {plural(row.n_made, 'correction')}"),
            (row.n_taken_back, f"people withdrew {plural(row.n_taken_back, 'correction')}"),
        )
        if n
    ]


def newest_data(connection: Connection, task: str) -> datetime | None:
    """When the newest data of any split of a task were built; None: there are none."""
    found: datetime | None = connection.execute(
        text("SELECT max(built_at) FROM manifest WHERE task = :task AND cohort IS NULL AND held_out IS NULL"),
        {"task": task},
    ).scalar_one_or_none()
    return found
