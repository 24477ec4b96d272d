"""The numbers of a split and of its funnel -> what each of them counts, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One record, or the place of one image in a split."""

    isic_id: str
    place: str | None  # its subset; None: left out, or a record
    label: str | None
    reason: str | None  # why it is left out
    has_picture: bool  # whether it is an image: a record that was rejected, or not curated yet, is none


_MEMBERS = """
    FROM split_member WHERE split = :split AND (CAST(:reason AS text) IS NULL OR reason = :reason)
        AND (CAST(:subset AS text) IS NULL OR subset = :subset) AND (is_balanced OR NOT :is_drawn)
"""
_COUNT_RECORDS = text("SELECT count(*) FROM record")
_COUNT_MEMBERS = text(f"SELECT count(*) {_MEMBERS}")
_RECORDS = text("""
    SELECT isic_id, NULL AS subset, NULL AS label, NULL AS reason, i.isic_id IS NOT NULL AS has_picture
    FROM record LEFT JOIN image i USING (isic_id) ORDER BY isic_id LIMIT :n OFFSET :first
""")
_LISTED = text(f"""
    SELECT isic_id, subset, label, reason,
           EXISTS (SELECT FROM image i WHERE i.isic_id = split_member.isic_id) AS has_picture
    {_MEMBERS} ORDER BY isic_id LIMIT :n OFFSET :first
""")  # noqa: S608 - our own text


def count_listed(connection: Connection, split: str | None, *, subset: str | None, reason: str | None) -> int:
    """How many images of a split are in a subset or left out for a reason; without a split, how many records.

    A subset may be a balanced draw, such as `test_balanced`.
    """
    statement = _COUNT_RECORDS if split is None else _COUNT_MEMBERS
    n: int = connection.execute(statement, _values(split, subset, reason)).scalar_one()
    return n


def list_listed(
    connection: Connection, split: str | None, *, subset: str | None, reason: str | None, n: int, first: int
) -> list[Listed]:
    """`n` of them, from the one at `first`, by id."""
    statement = _RECORDS if split is None else _LISTED
    rows = connection.execute(statement, _values(split, subset, reason) | {"n": n, "first": first})
    return [
        Listed(
            isic_id=row.isic_id,
            place=row.subset,
            label=row.label,
            reason=row.reason,
            has_picture=row.has_picture,
        )
        for row in rows
    ]


def find_pictures(connection: Connection, isic_ids: Sequence[str]) -> set[str]:
    """Which of these records have a picture."""
    found = connection.execute(
        text("SELECT isic_id FROM image WHERE isic_id = ANY(:ids)"), {"ids": list(isic_ids)}
    )
    return set(found.scalars())


def _values(split: str | None, subset: str | None, reason: str | None) -> dict[str, Any]:
    if split is None:
        return {}
    base, _, drawn = (subset or "").partition("_")
    return {"split": split, "subset": base or None, "reason": reason, "is_drawn": drawn == "balanced"}
