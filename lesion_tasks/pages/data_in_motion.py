"""Corrections, withdrawals and builds of splits under way -> the mark on pages with figures and models of before."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select, text

from lesion_tasks.catalog import TASKS
from lesion_tasks.curation.corrections import find_requests
from lesion_tasks.database.schema import Manifest, Training
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.metrics.counted import plural
from lesion_tasks.pages.activity import ASKING, AT_WORK, N_AT_WORK, Run, Runs


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What changes the data now, or is to, and the run that does it."""

    words: str
    run: Run
    is_proposed: bool = False  # a person is asked, and nothing changes until somebody answers


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What of some data was withdrawn or corrected since they were built."""

    about: str  # whose data
    words: str
    built_at: datetime | None  # when the newest data with all of it were built; None: they were not


def headline(motion: Sequence[Motion], changed: Sequence[Changed]) -> str | None:
    """What the mark says in a few words; None: there is nothing to mark."""
    if any(not one.is_proposed for one in motion):
        return "The data are changing"
    if changed:
        return "The data have changed since"
    return "A change of the data is proposed" if motion else None


def read_motion(connection: Connection, runs: Runs) -> list[Motion]:
    """What runs of `correct_data` and `build_splits` do about the data, the oldest first."""
    correcting = runs.at_work(N_AT_WORK, "correct_data")
    ended = find_requests(connection, [run.run_id for run in correcting]) if correcting else {}
    found = [
        _of_correction(run)
        for run in correcting
        if run.run_id not in ended or ended[run.run_id].outcome == "applied"
    ]
    building = runs.at_work(N_AT_WORK, "build_splits")
    return [*found, *(Motion(words="Splits are being built anew", run=run) for run in building)]


def _of_correction(run: Run) -> Motion:
    if not any(AT_WORK.get(task.state or "") == ASKING and task.answered_by is None for task in run.tasks):
        return Motion(words="A correction of the data, or the withdrawal of one, is being made", run=run)
    subjects = [one["subject"] for one in run.questions if isinstance(one, dict) and one.get("subject")]
    words = f"A person is asked: {subjects[0]}" if subjects else "A person is asked about a correction"
    return Motion(words=words, run=run, is_proposed=True)


def changed_of_tasks(connection: Connection, tasks: Sequence[str]) -> list[Changed]:
    """What changed of the data of each task's champion, or of the newest data of a task without one."""
    found = []
    for task in tasks:
        champion = champion_of(connection, task)
        of_task = f" of {TASKS[task].title}" if len(tasks) > 1 else ""
        about = f"the {'newest data' if champion is None else 'data of the champion'}{of_task}"
        digest = _newest_data(connection, task) if champion is None else champion.training.manifest_digest
        found += [] if digest is None else _changed_since(connection, digest, about)
    return found


def changed_of_training(connection: Connection, training_id: str) -> list[Changed]:
    """What changed of the data of a training; empty also where there is no such training."""
    asked = select(Training.manifest_digest).where(Training.training_id == training_id)
    digest = connection.execute(asked).scalar_one_or_none()
    return [] if digest is None else _changed_since(connection, digest, "the data of this training")


def _changed_since(connection: Connection, digest: str, about: str) -> list[Changed]:
    """What of the data of a manifest was withdrawn or corrected since it was built; what came is no part."""
    row = connection.execute(
        text("""
            WITH data AS (SELECT task, split, built_at FROM manifest WHERE digest = :digest),
                 gone AS (SELECT withdrawn_at AS at FROM withdrawal, data
                          WHERE withdrawn_at > built_at AND returned_at IS NULL),
                 changed AS (
                     SELECT c.decided_at <= built_at AS is_taken_back,
                            CASE WHEN c.decided_at > built_at THEN c.decided_at ELSE c.withdrawn_at END AS at
                     FROM correction c, data WHERE (c.task = data.task OR c.task IS NULL)
                       AND c.decision IN ('label_set_aside', 'lesions_joined')
                       AND ((c.decided_at > built_at AND c.withdrawn_at IS NULL)
                            OR (c.decided_at <= built_at AND c.withdrawn_at > built_at)))
            SELECT (SELECT count(*) FROM gone) AS n_gone,
                   (SELECT count(*) FROM changed WHERE NOT is_taken_back) AS n_made,
                   (SELECT count(*) FROM changed WHERE is_taken_back) AS n_taken_back,
                   (SELECT max(m.built_at) FROM manifest m, data
                    WHERE m.split = data.split AND m.cohort IS NULL AND m.held_out IS NULL
                      AND m.built_at > (SELECT max(at) FROM (SELECT at FROM gone UNION ALL SELECT at FROM changed) a)
                   ) AS built_at
        """),
        {"digest": digest},
    ).one()
    words = [
        words
        for n, words in (
            (row.n_gone, f"the archive withdrew {plural(row.n_gone, 'record')}"),
            (row.n_made, f"people made {plural(row.n_made, 'correction')}"),
            (row.n_taken_back, f"people withdrew {plural(row.n_taken_back, 'correction')}"),
        )
        if n
    ]
    return [Changed(about=about, words=", and ".join(words), built_at=row.built_at)] if words else []


def _newest_data(connection: Connection, task: str) -> str | None:
    """The newest data of any split of a task; None: there are none."""
    asked = select(Manifest.digest).where(
        Manifest.task == task, Manifest.cohort.is_(None), Manifest.held_out.is_(None)
    )
    return connection.execute(asked.order_by(Manifest.built_at.desc()).limit(1)).scalar_one_or_none()
