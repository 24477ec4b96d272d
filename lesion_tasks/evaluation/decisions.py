"""Decisions about champions as rows in Postgres: the only module that writes the table `promotion`."""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Row, Select, select, text
from sqlalchemy.orm import Session

from lesion_tasks.catalog.approvals import RULE
from lesion_tasks.database.schema import OpenQuestion, Promotion, Training
from lesion_tasks.evaluation.evaluation_record import FINDINGS_DIGEST
from lesion_tasks.evaluation.open_questions import close_question, find_question, run_of
from lesion_tasks.metrics.comparison_document import Comparison
from lesion_tasks.reports.index import DecisionLine
from lesion_tasks.reports.words import decider, outcome_title, sentences, unquoted
from lesion_tasks.training.run_record import find_finished

log = logging.getLogger(__name__)

# The actions that install a training, and those that end a candidacy. An expired question does not: it is asked again.
ENTHRONING = ("promoted", "rolled_back")
DECIDING = ("promoted", "rolled_back", "refused", "rejected", "superseded")


# What a refusal was for, as its figures say under "refused_for"; one of before they did tells it otherwise.
MISSED_GATES, NO_BETTER, PASSED_OVER = "missed_gates", "no_better", "passed_over"
BARRED, NOT_COMPARED = "barred", "not_compared"
_BY_GATES = (MISSED_GATES, NO_BETTER)


class DecisionFigures(BaseModel):
    """What is stored with a decision beside its reason. What a kind of decision has no say about is left out.

    Rows of earlier releases have fewer of these: they are read as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    val: float | None = None  # the leading measure on val
    findings_sha256: str | None = None  # of the evaluation that it is about
    comparison: Comparison | None = None
    cohorts: list[dict[str, Any]] = []  # as `Candidate.judged_by`
    objections: list[str] = []
    cautions: list[str] = []
    is_forced: bool = False
    overrides: int | None = None  # the sequence of a refusal
    is_obstacle: bool = False  # refused for what may be mended, and not for its figures
    refused_for: str | None = None  # one of the words above
    runs: list[str] = []  # of Airflow, that the reason names
    # It ends a question and not a candidacy: something else is decided, or asked, about the same training.
    is_question_alone: bool = False

    def as_json(self) -> str:
        return json.dumps(self.model_dump(exclude_unset=True))


def outcome_of(action: str, figures: Mapping[str, Any]) -> str:
    """What became of a training by a decision, a key of `words.OUTCOMES`: the action, and of a refusal what for."""
    if action != "refused":
        return action
    if (known := figures.get("refused_for")) is not None:
        return str(known)
    if figures.get("is_obstacle"):
        return NOT_COMPARED if figures.get("objections") else BARRED
    return MISSED_GATES if figures.get("objections") else PASSED_OVER


def why_in_words(action: str, decided_by: str, reason: str) -> str:
    """The reason of a decision without what its outcome and its person say already: of a rejection its own words."""
    told = f"Rejected by {decided_by}"
    if action != "rejected" or not reason.startswith(told):
        return reason
    return unquoted(reason.removeprefix(told).lstrip(":. "))


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The decision that made a training champion, and the training."""

    decision: Promotion
    training: Training


def _rows(
    connection: Connection, task: str, *actions: str, training_id: str | None = None, n: int | None = None
) -> list[Promotion]:
    """Decisions of a task, about one training if it is named, newest first, at most n, detached."""
    statement = select(Promotion).where(Promotion.task == task).order_by(Promotion.sequence.desc()).limit(n)
    if actions:
        statement = statement.where(Promotion.action.in_(actions))
    if training_id is not None:
        statement = statement.where(Promotion.training_id == training_id)
    return _detached(connection, statement)


def champion_of(connection: Connection, task: str) -> Champion | None:
    """The current champion of a task; None before the first."""
    rows = _rows(connection, task, *ENTHRONING)
    if not rows:
        return None
    return Champion(decision=rows[0], training=find_finished(connection, rows[0].training_id))


def tasks_with_champion(connection: Connection) -> list[str]:
    """Every task that has ever had a champion, by name, whether or not the catalogue still has it."""
    asked = select(Promotion.task).where(Promotion.action.in_(ENTHRONING)).distinct().order_by(Promotion.task)
    return list(connection.execute(asked).scalars())


def decisions_of(connection: Connection, task: str, n: int | None = None) -> list[DecisionLine]:
    """The decisions about a task's champion, newest first, the last n of them (None: every one), for display."""
    return [line_of(row) for row in _rows(connection, task, n=n)]


def decisions_since(connection: Connection, since: datetime, n: int) -> list[Promotion]:
    """The last decisions about any task since a moment, at most n, newest first, detached."""
    statement = select(Promotion).where(Promotion.decided_at >= since)
    return _detached(connection, statement.order_by(Promotion.promotion_id.desc()).limit(n))


def last_decisions(connection: Connection, training_ids: Collection[str]) -> list[Promotion]:
    """The last decision about each of some trainings that has one, newest first, detached."""
    statement = select(Promotion).where(Promotion.training_id.in_(training_ids))
    found: dict[str, Promotion] = {}
    for row in _detached(connection, statement.order_by(Promotion.promotion_id.desc())):
        found.setdefault(row.training_id, row)
    return list(found.values())


def _detached(connection: Connection, statement: Select[Any]) -> list[Promotion]:
    with Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(statement))
        session.expunge_all()
    return rows


def line_of(row: Promotion | Row[Any]) -> DecisionLine:
    """A decision without the figures behind it."""
    return DecisionLine(
        decided_at=row.decided_at.isoformat(timespec="seconds"),
        action=row.action,
        outcome=outcome_of(row.action, row.figures or {}),
        training_id=row.training_id,
        previous_training_id=row.previous_training_id,
        reason=why_in_words(row.action, row.decided_by, row.reason),
        decided_by=row.decided_by,
        runs=(row.figures or {}).get("runs", []),
        is_forced=row.action == "promoted" and bool((row.figures or {}).get("is_forced")),
    )


def decisions_about(connection: Connection, task: str, training_ids: Collection[str]) -> list[DecisionLine]:
    """Decisions about the champion of a task that name any of some trainings or replaced one, newest first."""
    rows = connection.execute(
        text("""
            SELECT action, training_id, previous_training_id, reason, decided_by, decided_at,
                   figures - 'comparison' AS figures FROM promotion
            WHERE task = :task AND NOT coalesce((figures ->> 'is_question_alone')::boolean, false)
                AND (training_id = ANY(:ids)
                OR (previous_training_id = ANY(:ids) AND action = ANY(:enthroning)))
            ORDER BY sequence DESC
        """),
        {"task": task, "ids": list(training_ids), "enthroning": list(ENTHRONING)},
    )
    return [line_of(row) for row in rows]


def decided_trainings(connection: Connection, task: str) -> set[str]:
    """Trainings whose candidacy has ended: each was promoted, refused, rejected or superseded by a newer one.

    One that was refused for what stood in its way, and not for its figures, is a candidate again once it is evaluated
    anew: what was missing or altered may be back. One that a person rejected is once its evaluation finds something
    else than it did then.
    """
    rows = connection.execute(
        text(f"""
            SELECT DISTINCT p.training_id FROM promotion p
            WHERE p.task = :task AND p.action = ANY(:actions) AND NOT EXISTS (
                SELECT FROM evaluation e JOIN training t USING (training_id, manifest_digest)
                WHERE e.training_id = p.training_id AND e.evaluated_at > p.decided_at AND CASE p.action
                    WHEN 'refused' THEN coalesce((p.figures ->> 'is_obstacle')::boolean, false)
                    WHEN 'rejected' THEN p.figures ->> 'findings_sha256' <> {FINDINGS_DIGEST.format("e.document")}
                    ELSE false END)
                AND NOT coalesce((p.figures ->> 'is_question_alone')::boolean, false)
        """),  # noqa: S608 - our own words
        {"task": task, "actions": list(DECIDING)},
    )
    return set(rows.scalars())


def rejection_of(connection: Connection, task: str, training_id: str) -> Promotion | None:
    """The last rejection of a training by a person, detached; None if there was none."""
    rows = _rows(connection, task, "rejected")
    return next((row for row in rows if row.training_id == training_id), None)


def is_by_gates(row: Promotion) -> bool:
    """Whether a decision is a refusal by the gates, and not one for an obstacle or for a better one beside it."""
    return outcome_of(row.action, row.figures or {}) in _BY_GATES


def refusal_in_force(connection: Connection, task: str, training_id: str) -> tuple[Promotion | None, str]:
    """The refusal of a training by the gates, unless something else was decided since; and what was, in words."""
    rows = _rows(connection, task, training_id=training_id)
    for row in rows:
        if is_by_gates(row):
            return row, ""
        if row.action not in ("refused", "expired") and not (row.figures or {}).get("is_question_alone"):
            return None, f"it was {row.action.replace('_', ' ')} on {row.decided_at.date()}"
    decided = [row for row in rows if row.action == "refused"]
    return None, (
        f"it was refused: {decided[0].reason.rstrip('.')}" if decided else "nothing was decided about it yet"
    )


def list_refused(connection: Connection, task: str, n: int) -> list[str]:
    """The trainings that the gates refused last, at most n, the newest refusal first."""
    rows = connection.execute(
        text("""
            SELECT training_id FROM promotion
            WHERE task = :task AND action = 'refused'
                AND coalesce(figures ->> 'refused_for' = ANY(:by_gates),
                             jsonb_array_length(coalesce(figures -> 'objections', '[]')) > 0
                                 AND NOT coalesce((figures ->> 'is_obstacle')::boolean, false))
            GROUP BY training_id ORDER BY max(sequence) DESC LIMIT :n
        """),
        {"task": task, "n": n, "by_gates": list(_BY_GATES)},
    )
    return list(rows.scalars())


def task_decided(connection: Connection, training_id: str) -> str | None:
    """The task about whose champion a training was decided on; None if it never was."""
    statement = select(Promotion.task).where(Promotion.training_id == training_id).limit(1)
    return connection.execute(statement).scalar()


def earlier_champions(connection: Connection, task: str) -> list[str]:
    """Trainings that were champion before the current one, latest first, without those rolled back from.

    A champion that somebody rolled back from had faults; it can be named, but is not a default.
    """
    rows = _rows(connection, task, *ENTHRONING)
    if not rows:
        return []
    left = {row.previous_training_id for row in rows if row.action == "rolled_back"}
    present = rows[0].training_id
    return [name for name in dict.fromkeys(row.training_id for row in rows) if name not in {present, *left}]


def enthronements(connection: Connection, task: str) -> list[Promotion]:
    """The decisions that installed a champion, oldest first."""
    return _rows(connection, task, *ENTHRONING)[::-1]


def champions_ever(connection: Connection) -> set[str]:
    """Trainings that were ever champion of any task."""
    return set(
        connection.execute(
            text("""
                SELECT training_id FROM promotion WHERE action = ANY(:actions)
                UNION SELECT previous_training_id FROM promotion WHERE previous_training_id IS NOT NULL
            """),
            {"actions": list(ENTHRONING)},
        ).scalars()
    )


def named_in_decisions(connection: Connection) -> tuple[set[str], set[str]]:
    """The trainings, and the digests of the manifests, of cohorts too, that any decision names."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT training_id, previous_training_id, manifest_digest,
                   jsonb_path_query_array(figures, '$.cohorts[*].manifest_digest') AS of_cohorts
            FROM promotion
        """)
    ).all()
    trainings = {name for row in rows for name in (row.training_id, row.previous_training_id) if name}
    digests = {digest for row in rows for digest in (row.manifest_digest, *row.of_cohorts) if digest}
    return trainings, digests


def was_champion(connection: Connection, task: str, training_id: str) -> bool:
    """Whether a training has ever been champion of a task."""
    return any(row.training_id == training_id for row in _rows(connection, task, *ENTHRONING))


def find_request(connection: Connection, task: str, request_id: str) -> list[Promotion]:
    """The decisions already made for a request, newest first, with what was made of an answer that came after them."""
    return [row for row in _rows(connection, task) if row.request_id in (request_id, f"{request_id}{_LATE}")]


# After the name of a request: an answer that came when it had a decision already.
_LATE = " answer"


def decisions_of_run(connection: Connection, run_id: str) -> list[Promotion]:
    """The decisions that a run of Airflow made, about any task, newest first, detached."""
    statement = (
        select(Promotion)
        .where(
            (Promotion.request_id == run_id) | Promotion.request_id.startswith(f"{run_id} ", autoescape=True)
        )
        .order_by(Promotion.promotion_id.desc())
    )
    return _detached(connection, statement)


def record_decision(
    connection: Connection,
    task: str,
    action: str,
    *,
    training_id: str,
    previous: str | None,
    manifest_digest: str | None = None,
    reason: str,
    figures: DecisionFigures | None = None,
    decided_by: str,
    request_id: str | None = None,
) -> str:
    """Write a decision under the next number of its task; returns its reason, which names a question that it overtakes.

    The open question about the training ends: that of the request itself, and one of another run unless the decision
    says that nothing was decided; that is the rule's doing, whoever decided. The caller holds the lock on the task's
    promotion.
    """
    figures = figures or DecisionFigures()
    question = find_question(connection, task, training_id)
    if question is not None and question.request_id == request_id:
        close_question(connection, question)
    elif question is not None and action != "expired":
        title = outcome_title(outcome_of(action, figures.model_dump()))
        by = f"{training_id}: {title}, decided by {decider(decided_by)} before this run decided about it."
        reason = sentences(reason, supersede_question(connection, question, reason=by))
        figures = figures.model_copy(update={"runs": [run_of(question)]})
    _insert(
        connection,
        task=task,
        action=action,
        training_id=training_id,
        previous=previous,
        digest=manifest_digest,
        reason=reason,
        figures=figures.as_json(),
        decided_by=decided_by,
        request_id=request_id,
    )
    return reason


def record_answer(
    connection: Connection,
    task: str,
    action: str,
    *,
    training_id: str,
    previous: str | None,
    reason: str,
    figures: DecisionFigures | None,
    decided_by: str,
    request_id: str,
) -> None:
    """Write what a person answered as a decision of its own; `figures` None: it ends no candidacy.

    It stands beside what was decided for its request before. The caller holds the lock on the task's promotion.
    """
    late = f"{request_id}{_LATE}"
    known = {row.request_id for row in find_request(connection, task, request_id)}
    if late in known:
        return
    about: dict[str, Any] = {
        "training_id": training_id,
        "previous": previous,
        "reason": reason,
        "decided_by": decided_by,
        "request_id": late if known else request_id,
    }
    if figures is not None:
        record_decision(connection, task, action, figures=figures, **about)
        return
    # It overtakes nothing, such as the question of the run that overtook its own.
    alone = DecisionFigures(is_question_alone=True)
    _insert(connection, task=task, action=action, digest=None, figures=alone.as_json(), **about)


def supersede_question(
    connection: Connection, question: OpenQuestion, *, reason: str, runs: Collection[str] = ()
) -> str:
    """End a question that something overtakes, with a row under the run that asks; returns a sentence that says so.

    Its candidate stays one, for what overtakes it. `runs`: those that the reason names. The caller holds the lock on
    the task's promotion.
    """
    close_question(connection, question)
    said = f"The question about it that run {run_of(question)} asked ends as superseded."
    log.info("%s: %s", question.training_id, said)
    if any(
        row.training_id == question.training_id
        for row in find_request(connection, question.task, question.request_id)
    ):
        return said  # of a run that had decided, and was cleared
    _insert(
        connection,
        task=question.task,
        action="superseded",
        training_id=question.training_id,
        previous=question.previous_training_id,
        digest=None,
        reason=sentences(reason, question.approved_by and f"{question.approved_by} had approved it."),
        figures=DecisionFigures(is_question_alone=True, runs=list(runs)).as_json(),
        decided_by=RULE,
        request_id=question.request_id,
    )
    return said


def _insert(connection: Connection, **values: Any) -> None:
    connection.execute(
        text("""
            INSERT INTO promotion (task, sequence, action, training_id, previous_training_id, manifest_digest, reason,
                                   figures, decided_by, request_id)
            SELECT :task, coalesce(max(sequence), 0) + 1, :action, :training_id, :previous, :digest, :reason,
                   CAST(:figures AS jsonb), :decided_by, :request_id
            FROM promotion WHERE task = :task
        """),
        values,
    )
