"""A person's decision about a label or a pair -> a row, and the groups that follow from it; and taken back again."""

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog.approvals import LABEL_DECISIONS, PAIR_DECISIONS
from lesion_tasks.catalog.lookup import did_you_mean, find_task
from lesion_tasks.curation.assign_groups import NEXT_NUMBER, regroup
from lesion_tasks.curation.corrections import (
    Asked,
    find_correction,
    find_in_force,
    insert_correction,
    mark_withdrawn,
)
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.workspace import Workspace


def correct(
    workspace: Workspace,
    decision: str,
    isic_id: str,
    *,
    other_isic_id: str | None = None,
    task: str | None = None,
    reason: str,
    decided_by: str,
) -> int:
    """Decide about the label of an image for a task, or about a pair of images; returns the decision's number.

    Groups are computed at once; splits follow when they are next built. The same decision again changes nothing. Raises
    `UnusableInputError` for an unknown decision, image or task, for what does not go together, and for a decision that
    contradicts one in force.
    """
    asked = read_asked(
        decision,
        isic_id=isic_id,
        other=other_isic_id,
        task=task,
        reason=reason,
        decided_by=decided_by,
        request_id=None,
    )
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.CURATION)
        return apply_correction(connection, workspace.bucket, asked)


def apply_correction(connection: Connection, bucket: Bucket, asked: Asked) -> int:
    """The same by whoever holds the lock of curation."""
    check_images(connection, asked.isic_id, asked.other_isic_id)
    if find_in_force(connection, asked.isic_id, asked.other_isic_id, asked.task) is None:
        check_groups(connection, asked.decision, asked.isic_id, asked.other_isic_id)
    number, is_new = insert_correction(connection, asked)
    if is_new:
        _follow(connection, bucket, asked.decision, asked.isic_id, asked.other_isic_id)
    return number


def withdraw_correction(workspace: Workspace, correction_id: int, *, withdrawn_by: str) -> None:
    """Take a decision back: labels and groups are as they were before it. Its row stays."""
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.CURATION)
        apply_withdrawal(connection, workspace.bucket, correction_id, withdrawn_by=withdrawn_by)


def apply_withdrawal(
    connection: Connection, bucket: Bucket, correction_id: int, *, withdrawn_by: str
) -> None:
    """The same by whoever holds the lock of curation."""
    found = find_correction(connection, correction_id)
    mark_withdrawn(connection, correction_id, withdrawn_by)
    _follow(connection, bucket, found.decision, found.isic_id, found.other_isic_id)


def read_asked(
    decision: str,
    *,
    isic_id: str,
    other: str | None,
    task: str | None,
    reason: str,
    decided_by: str,
    request_id: str | None,
) -> Asked:
    """What somebody asks for, checked but for its images."""
    known = [*LABEL_DECISIONS, *PAIR_DECISIONS]
    if decision not in known:
        raise UnusableInputError(
            f"decision {decision!r}{did_you_mean(decision, known)}: expected one of {', '.join(known)}"
        )
    if not reason.strip():
        raise UnusableInputError(f"{decision} of {isic_id}: the reason is empty, expected one in words")
    other = other or None
    if (decision in PAIR_DECISIONS) != (other is not None):
        raise UnusableInputError(
            f"{decision} of {isic_id}: found {'a second image' if other else 'one image'}, expected "
            f"{'one image' if other else 'a pair'}"
        )
    if decision in LABEL_DECISIONS:
        find_task(task or "")
    if other == isic_id:
        raise UnusableInputError(f"{decision}: found {isic_id} twice, expected two images")
    first, second = (isic_id, None) if other is None else sorted((isic_id, other))
    return Asked(
        decision=decision,
        isic_id=first,
        other_isic_id=second,
        task=task if decision in LABEL_DECISIONS else None,
        reason=reason.strip(),
        decided_by=decided_by,
        request_id=request_id,
    )


def check_groups(connection: Connection, decision: str, isic_id: str, other: str | None) -> None:
    """Raise `UnusableInputError` if two images are to be joined whose group is one already."""
    if (
        decision == "lesions_joined"
        and connection.execute(
            text("""
            SELECT EXISTS (SELECT FROM image i JOIN image o USING (group_id)
                           WHERE i.isic_id = :one AND o.isic_id = :other)
        """),
            {"one": isic_id, "other": other},
        ).scalar_one()
    ):
        raise UnusableInputError(f"{isic_id} and {other} are in one group already: there is nothing to join")


def check_images(connection: Connection, *isic_ids: str | None) -> None:
    """Raise `UnusableInputError` unless the database has the images."""
    for isic_id in filter(None, isic_ids):
        if not connection.execute(
            text("SELECT EXISTS (SELECT FROM image WHERE isic_id = :id)"), {"id": isic_id}
        ).scalar_one():
            raise UnusableInputError(f"image {isic_id[:200]!r}: the database has no image of this id")


def _follow(connection: Connection, bucket: Bucket, decision: str, isic_id: str, other: str | None) -> None:
    """What a decision, made or withdrawn, changes: splits judge the image again, or groups are computed anew."""
    if decision not in ("label_set_aside", "lesions_joined"):
        return
    # An image whose group keeps its name is judged again too: its group may have had another member.
    connection.execute(
        text("UPDATE image SET curated_in = :number WHERE isic_id IN (:one, :other)"),
        {"one": isic_id, "other": other, "number": int(connection.execute(NEXT_NUMBER).scalar_one())},
    )
    if decision == "lesions_joined":
        # Images that nothing else noted have been compared: a decision changes no picture.
        noted = connection.execute(
            text("""
                INSERT INTO ungrouped (isic_id, old_group_id)
                SELECT isic_id, group_id FROM image WHERE isic_id IN (:one, :other) ON CONFLICT DO NOTHING
                RETURNING isic_id
            """),
            {"one": isic_id, "other": other},
        )
        regroup(connection, bucket, compared=noted.scalars().all())
