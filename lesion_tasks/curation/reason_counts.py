"""Refused records, refused files and rejects in the database -> how many for each reason, each with an example."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

NO_IMAGE = "records that are not images"
# What was left out, and the table that has it; ordered by the second key where one image has several files.
_TABLES = {
    "records that were refused": ("refused_record", "refusal_id"),
    "files that cannot be used": ("stored_file", "rendition"),
    NO_IMAGE: ("reject", "isic_id"),
}
KINDS = tuple(_TABLES)


@dataclass(frozen=True)
class ReasonCount:
    """How many were left out for one reason."""

    reason: str
    n: int
    example: str | None  # an image id
    detail: str  # of one of them: what was found and what was expected


@dataclass(frozen=True)
class LeftOut:
    """One of what was left out."""

    isic_id: str | None
    detail: str  # what was found and what was expected


def count_reasons(connection: Connection) -> dict[str, list[ReasonCount]]:
    """What ingestion and curation left out, by what it is; the commonest reason first."""
    return {
        what: [
            ReasonCount(*row)
            for row in connection.execute(
                text(f"""
                    SELECT reason, count(*) AS n, min(isic_id) AS example, min(detail) AS detail
                    FROM {table} WHERE reason IS NOT NULL GROUP BY reason ORDER BY n DESC, reason
                """)  # noqa: S608 - our own words
            )
        ]
        for what, (table, _) in _TABLES.items()
    }


def count_left_out(connection: Connection, what: str, reason: str) -> int:
    """How much was left out for a reason."""
    n: int = connection.execute(
        text(f"SELECT count(*) FROM {_TABLES[what][0]} WHERE reason = :reason"),  # noqa: S608 - our own words
        {"reason": reason},
    ).scalar_one()
    return n


def list_left_out(connection: Connection, what: str, reason: str, *, n: int, first: int) -> list[LeftOut]:
    """`n` of what was left out for a reason, from the one at `first`, by image id."""
    table, key = _TABLES[what]
    rows = connection.execute(
        text(f"""
            SELECT isic_id, detail FROM {table} WHERE reason = :reason
            ORDER BY isic_id, {key} LIMIT :n OFFSET :first
        """),  # noqa: S608 - our own words
        {"reason": reason, "n": n, "first": first},
    ).all()
    return [LeftOut(row.isic_id, row.detail) for row in rows]
