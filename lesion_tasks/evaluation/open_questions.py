"""What people are asked about candidates as rows in Postgres: a key allows one question for each task and candidate.

The only module that writes the table `open_question`. A question leaves it when something is decided about its
candidate, which `decisions.record_decision` sees to, or when the run that asks has ended.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from lesion_tasks.database.schema import OpenQuestion


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a question is about, and what it was asked by."""

    task_name: str
    asked_about: str  # the candidate's training
    asked_against: str | None = None  # the champion's, if there is one
    findings_sha256: str | None = None  # what the candidate's evaluation found that it shows
    is_override: bool = False  # whether it is about a training that the gates refused
    is_forced: bool = False  # whether an approval promotes despite the gates
    only: Collection[str] | None = None  # the trainings that its run decides about; None: all that wait
    request_id: str | None = None  # who asks, as `request_of` has it; None: not noted


def request_of(run_id: str, task: str) -> str:
    """Under which name a run of Airflow decides about a task."""
    return f"{run_id} {task}"


def run_of(question: OpenQuestion) -> str:
    """The run of Airflow that asks."""
    return question.request_id.removesuffix(f" {question.task}")


def asked_by(question: OpenQuestion) -> Asked:
    """What a stored question is about."""
    return Asked(
        task_name=question.task,
        asked_about=question.training_id,
        asked_against=question.previous_training_id,
        findings_sha256=question.findings_sha256,
        is_override=question.is_override,
        is_forced=question.is_forced,
        request_id=question.request_id,
    )


def find_question(connection: Connection, task: str, training_id: str) -> OpenQuestion | None:
    """The open question about a candidate, detached; None if nobody is asked."""
    return find_questions(connection, task).get(training_id)


def find_questions(connection: Connection, task: str) -> dict[str, OpenQuestion]:
    """The open questions of a task by their candidates, detached."""
    with Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(select(OpenQuestion).where(OpenQuestion.task == task)))
        session.expunge_all()
    return {row.training_id: row for row in rows}


def questions_of_run(connection: Connection, run_id: str) -> list[OpenQuestion]:
    """What a run asks about any task, detached."""
    with Session(connection, expire_on_commit=False) as session:
        is_its = OpenQuestion.request_id.startswith(f"{run_id} ", autoescape=True)
        rows = list(session.scalars(select(OpenQuestion).where(is_its).order_by(OpenQuestion.task)))
        session.expunge_all()
    return rows


def asking_runs(connection: Connection) -> set[str]:
    """The runs of Airflow that ask something now, as far as these rows know."""
    with Session(connection) as session:
        return {run_of(row) for row in session.scalars(select(OpenQuestion))}


def open_question(connection: Connection, asked: Asked, ends_at: datetime) -> bool:
    """Note that the run of `asked.request_id` asks; False if another asks about the same candidate.

    A run that asks again has its question. What it asked before about another candidate of the task ends.
    """
    connection.execute(
        delete(OpenQuestion).where(
            OpenQuestion.task == asked.task_name,
            OpenQuestion.request_id == asked.request_id,
            OpenQuestion.training_id != asked.asked_about,
        )
    )
    row = insert(OpenQuestion).values(
        task=asked.task_name,
        training_id=asked.asked_about,
        request_id=asked.request_id,
        previous_training_id=asked.asked_against,
        findings_sha256=asked.findings_sha256,
        is_override=asked.is_override,
        is_forced=asked.is_forced,
        ends_at=ends_at,
    )
    again = row.on_conflict_do_update(
        index_elements=["task", "training_id"],
        set_={
            name: row.excluded[name]
            for name in ("previous_training_id", "findings_sha256", "ends_at", "approved_by")
        },
        where=OpenQuestion.request_id == row.excluded.request_id,
    )
    return connection.execute(again.returning(OpenQuestion.task)).scalar() is not None


def note_approval(connection: Connection, question: OpenQuestion, approved_by: str) -> None:
    """Keep who approved, until the run that asks decides."""
    connection.execute(
        update(OpenQuestion)
        .where(OpenQuestion.task == question.task, OpenQuestion.training_id == question.training_id)
        .values(approved_by=approved_by)
    )


def close_question(connection: Connection, question: OpenQuestion) -> None:
    """End a question."""
    connection.execute(
        delete(OpenQuestion).where(
            OpenQuestion.task == question.task, OpenQuestion.training_id == question.training_id
        )
    )


def close_questions_of(connection: Connection, request_id: str) -> None:
    """End what a run asked about a task: it has decided."""
    connection.execute(delete(OpenQuestion).where(OpenQuestion.request_id == request_id))
