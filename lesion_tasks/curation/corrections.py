"""Decisions of people about labels and pairs, and what they asked for, as rows in Postgres.

The only module that writes `correction` and `correction_request`. Queries of groups and of members join the first
themselves. A decision is in force until it is withdrawn.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, or_, select, text
from sqlalchemy.orm import Session

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.approvals import WITHDRAWN
from lesion_tasks.database.schema import Correction, CorrectionRequest


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A decision that somebody asks for."""

    decision: str
    isic_id: str
    other_isic_id: str | None
    task: str | None
    reason: str
    decided_by: str
    request_id: str | None = None


def list_corrections(
    connection: Connection, *, has_withdrawn: bool = False, n: int | None = None, first: int = 0
) -> list[Correction]:
    """Every decision in force, or ever made, the newest first, or `n` of them from the one at `first`; detached."""
    statement = select(Correction).order_by(Correction.correction_id.desc()).limit(n).offset(first)
    if not has_withdrawn:
        statement = statement.where(Correction.withdrawn_at.is_(None))
    return _detached(connection, statement)


def count_corrections(connection: Connection) -> int:
    """How many decisions are in force."""
    statement = select(func.count()).select_from(Correction).where(Correction.withdrawn_at.is_(None))
    return int(connection.execute(statement).scalar_one())


def corrections_at(connection: Connection, moment: datetime) -> list[Correction]:
    """Every decision that was in force at a moment, the newest first; detached."""
    statement = select(Correction).order_by(Correction.correction_id.desc())
    return _detached(
        connection,
        statement.where(
            Correction.decided_at <= moment,
            or_(Correction.withdrawn_at.is_(None), Correction.withdrawn_at > moment),
        ),
    )


def _detached(connection: Connection, statement: Any) -> list[Any]:
    with Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(statement))
        session.expunge_all()
    return rows


def find_correction(connection: Connection, correction_id: int) -> Correction:
    """A decision in force; raises `UnusableInputError` if there is none of this number, or it was withdrawn."""
    found = find_ever_made(connection, correction_id)
    if found.withdrawn_at is not None:
        raise UnusableInputError(
            f"correction {correction_id}: withdrawn {found.withdrawn_at:%Y-%m-%d} by {found.withdrawn_by}, "
            "expected one in force"
        )
    return found


def find_ever_made(connection: Connection, correction_id: int) -> Correction:
    """A decision, withdrawn or not; raises `UnusableInputError` if there is none of this number."""
    found = _detached(connection, select(Correction).where(Correction.correction_id == correction_id))
    if not found:
        raise UnusableInputError(f"correction {correction_id}: there is none of this number")
    return found[0]


def find_in_force(
    connection: Connection, isic_id: str, other_isic_id: str | None, task: str | None
) -> Correction | None:
    """The decision in force about a label or a pair."""
    same = (
        Correction.isic_id == isic_id,
        Correction.other_isic_id.is_not_distinct_from(other_isic_id),
        Correction.task.is_not_distinct_from(task),
    )
    statement = select(Correction).where(Correction.withdrawn_at.is_(None), *same)
    return next(iter(_detached(connection, statement)), None)


def insert_correction(connection: Connection, asked: Asked) -> tuple[int, bool]:
    """Write a decision; returns its number and whether it is new. The same one again is found, not repeated.

    Raises `UnusableInputError` if another decision about the same label or pair is in force.
    """
    values = vars(asked)
    found = connection.execute(
        text("""
            SELECT correction_id, decision FROM correction
            WHERE request_id = :request_id OR (withdrawn_at IS NULL AND isic_id = :isic_id
                AND other_isic_id IS NOT DISTINCT FROM CAST(:other_isic_id AS text)
                AND task IS NOT DISTINCT FROM CAST(:task AS text))
        """),
        values,
    ).first()
    if found is not None and found.decision != asked.decision:
        raise UnusableInputError(
            f"{asked.isic_id}: correction {found.correction_id} ({found.decision}) is in force, expected none: "
            "withdraw it first"
        )
    if found is not None:
        return found.correction_id, False
    number: int = connection.execute(
        text("""
            INSERT INTO correction (decision, isic_id, other_isic_id, task, reason, decided_by, request_id)
            VALUES (:decision, :isic_id, :other_isic_id, :task, :reason, :decided_by, :request_id)
            RETURNING correction_id
        """),
        values,
    ).scalar_one()
    return number, True


def mark_withdrawn(connection: Connection, correction_id: int, withdrawn_by: str) -> None:
    """Take a decision back; its row stays."""
    connection.execute(
        text("UPDATE correction SET withdrawn_at = now(), withdrawn_by = :by WHERE correction_id = :id"),
        {"id": correction_id, "by": withdrawn_by},
    )


def insert_request(connection: Connection, request_id: str, **values: Any) -> CorrectionRequest:
    """Keep how a request ended; returns it, detached."""
    connection.execute(insert(CorrectionRequest).values(request_id=request_id, **values))
    found = find_request(connection, request_id)
    if found is None:
        raise AssertionError(f"request {request_id}: just written, and not there")
    return found


def find_request(connection: Connection, request_id: str) -> CorrectionRequest | None:
    """How a request ended; None: it has not."""
    statement = select(CorrectionRequest).where(CorrectionRequest.request_id == request_id)
    return next(iter(_detached(connection, statement)), None)


def find_requests(connection: Connection, request_ids: Collection[str]) -> dict[str, CorrectionRequest]:
    """How those of some requests ended that have."""
    statement = select(CorrectionRequest).where(CorrectionRequest.request_id.in_(request_ids))
    return {one.request_id: one for one in _detached(connection, statement)}


# Requests about which somebody was asked, that withdrew, or that were not done.
_IS_TOLD = or_(
    CorrectionRequest.answered_by.is_not(None),
    CorrectionRequest.outcome != "applied",
    CorrectionRequest.decision == WITHDRAWN,
)


def list_answered(connection: Connection, n: int, *, first: int = 0) -> list[CorrectionRequest]:
    """`n` requests about which somebody was asked, that withdrew, or that were not done, from the one at `first`.

    The newest first; detached.
    """
    newest = CorrectionRequest.ended_at.desc(), CorrectionRequest.request_id
    return _detached(
        connection, select(CorrectionRequest).where(_IS_TOLD).order_by(*newest).limit(n).offset(first)
    )


def count_answered(connection: Connection) -> int:
    """How many such requests there are."""
    statement = select(func.count()).select_from(CorrectionRequest).where(_IS_TOLD)
    return int(connection.execute(statement).scalar_one())


def list_rejected(
    connection: Connection, isic_id: str, other_isic_id: str | None, task: str | None, *, n: int
) -> list[CorrectionRequest]:
    """What a person rejected about the same label or pair, the newest first, at most n; detached."""
    return _detached(
        connection,
        select(CorrectionRequest)
        .where(
            CorrectionRequest.outcome == "rejected",
            CorrectionRequest.isic_id == isic_id,
            CorrectionRequest.other_isic_id.is_not_distinct_from(other_isic_id),
            CorrectionRequest.task.is_not_distinct_from(task),
        )
        .order_by(CorrectionRequest.ended_at.desc())
        .limit(n),
    )


def joined_pairs(connection: Connection) -> list[tuple[str, str]]:
    """Every pair of images that a person found to show one lesion."""
    rows = connection.execute(
        text("""
            SELECT isic_id, other_isic_id FROM correction
            WHERE decision = 'lesions_joined' AND withdrawn_at IS NULL ORDER BY isic_id, other_isic_id
        """)
    )
    return [(row.isic_id, row.other_isic_id) for row in rows]


def decided_labels(connection: Connection, task: str) -> set[str]:
    """Images about whose label of a task a person has decided."""
    return set(
        connection.execute(
            text("SELECT isic_id FROM correction WHERE task = :task AND withdrawn_at IS NULL"), {"task": task}
        ).scalars()
    )


def digest_in_force(connection: Connection, task: str, split: str) -> str | None:
    """SHA-256 over the decisions in force that change a split of a task; None if there is none.

    A joined pair changes a split that has an image of their group, in a subset or in quarantine.
    """
    rows: Sequence[Any] = connection.execute(
        text("""
            SELECT decision, isic_id, other_isic_id FROM correction c
            WHERE withdrawn_at IS NULL AND (
                (decision = 'label_set_aside' AND task = :task)
                OR (decision = 'lesions_joined' AND EXISTS (
                    SELECT FROM image i JOIN image o USING (group_id) JOIN split_member m ON m.isic_id = o.isic_id
                    WHERE i.isic_id IN (c.isic_id, c.other_isic_id)
                      AND m.split = :split AND m.group_id IS NOT NULL)))
            ORDER BY decision, isic_id, other_isic_id
        """),
        {"task": task, "split": split},
    ).all()
    return hashlib.sha256(json.dumps([tuple(row) for row in rows]).encode()).hexdigest() if rows else None
