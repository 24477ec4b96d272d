"""Refused records, refused files and rejects in the database -> how many for each reason, each with an example."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

_STATEMENTS = {
    "records that were refused": text("""
        SELECT reason, count(*) AS n, min(isic_id) AS example, min(detail) AS detail
        FROM refused_record GROUP BY reason ORDER BY n DESC, reason
    """),
    "files that cannot be used": text("""
        SELECT reason, count(*) AS n, min(isic_id) AS example, min(detail) AS detail
        FROM stored_file WHERE reason IS NOT NULL GROUP BY reason ORDER BY n DESC, reason
    """),
    "records that are no image": text("""
        SELECT reason, count(*) AS n, min(isic_id) AS example, min(detail) AS detail
        FROM reject GROUP BY reason ORDER BY n DESC, reason
    """),
}


@dataclass(frozen=True)
class ReasonCount:
    """How many were left out for one reason."""

    reason: str
    n: int
    example: str | None  # an image id
    detail: str  # of one of them: what was found and what was expected


def count_reasons(connection: Connection) -> dict[str, list[ReasonCount]]:
    """What ingestion and curation left out, by what it is; the commonest reason first."""
    return {
        what: [ReasonCount(*row) for row in connection.execute(statement)]
        for what, statement in _STATEMENTS.items()
    }
