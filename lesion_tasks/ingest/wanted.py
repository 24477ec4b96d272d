"""Which files of a scope are wanted: missing, renamed in their record, replaced, or refused and due for a retry."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.ingest.idle import Look
from lesion_tasks.ingest.scope import ScopeKey

ISIC_ID_LENGTH = len("ISIC_0000000")
THUMBNAIL_PX = 256
RENDITIONS = ("thumbnail_256", "full")

# A refused file is tried again after 1, 4, 16, ... hours: five attempts in all, unless only the network was at fault.
RETRY_REFUSED_AFTER = timedelta(hours=1)
MAX_TRIES = 5


def wanted_rendition() -> str:
    """Return `thumbnail_256` if no variant uses more than 256 px, else `full`."""
    largest_px = max((variant.side_px or 0 for variant in VARIANTS.values()), default=0)
    return "thumbnail_256" if largest_px <= THUMBNAIL_PX else "full"


_DUE_AT = "stored.fetched_at + :retry_after * power(4, least(stored.n_attempts, :max_tries) - 1)"
_IS_RETRIED = (
    "stored.reason IS NOT NULL AND (stored.n_attempts < :max_tries OR stored.reason = 'unreachable')"
)

# The files of records that this scope is responsible for: listed, not withdrawn, and the current version is the one
# that this scope sent (another source's version has another source's file).
WANTED = f"""
    SELECT record.isic_id, file.url AS url, file.size_bytes AS record_size_bytes,
           stored.isic_id IS NOT NULL AND stored.reason IS NULL AS has_file,
           CASE WHEN stored.reason IS NOT NULL AND stored.url = coalesce(file.plain_url, '')
                THEN stored.n_attempts ELSE 0 END AS n_attempts
    FROM scope_record
    JOIN record ON record.isic_id = scope_record.isic_id AND record.withdrawn_at IS NULL
    JOIN record_version AS current
        ON current.isic_id = record.isic_id AND current.version = record.version
        AND current.record_hash = scope_record.record_hash
    CROSS JOIN LATERAL (
        SELECT entry ->> 'url' AS url, split_part(entry ->> 'url', '?', 1) AS plain_url,
               CASE WHEN jsonb_typeof(entry -> 'size') = 'number' AND (entry ->> 'size') ~ '^[0-9]{{1,15}}$'
                    THEN (entry ->> 'size')::bigint END AS size_bytes
        -- A folder has one file for each record, and smaller renditions are made of it.
        FROM (SELECT coalesce(document -> 'files' -> :rendition, document -> 'files' -> 'full') AS entry) AS one
    ) AS file
    LEFT JOIN stored_file AS stored
        ON stored.isic_id = record.isic_id AND stored.rendition = :rendition
    WHERE scope_record.scope_id = :scope_id AND scope_record.missing_since IS NULL
        AND (:first = '' OR record.isic_id BETWEEN :first AND :last)
        AND (stored.isic_id IS NULL
            OR stored.url <> coalesce(file.plain_url, '')
            OR stored.record_size_bytes IS DISTINCT FROM file.size_bytes
            OR stored.is_replaced
            OR (stored.reason IS NOT NULL AND :retries_all)
            OR ({_IS_RETRIED} AND {_DUE_AT} < :now))
"""  # noqa: S608 - our own text


COUNT_WANTED = text(f"SELECT count(*) FROM ({WANTED}) AS wanted")  # noqa: S608 - our own text


def wanted_values(
    key: ScopeKey, id_range: str, rendition: str | None, retry_after: timedelta | None = RETRY_REFUSED_AFTER
) -> dict[str, Any]:
    """The parameters of `WANTED`. With `retry_after` None every refused file is wanted, however often it was tried."""
    if rendition not in (None, *RENDITIONS):
        raise UnusableInputError(f"rendition {rendition!r}: expected {' or '.join(RENDITIONS)}")
    first, _, last = id_range.partition(":")
    return {
        "scope_id": key.scope_id,
        "rendition": rendition or wanted_rendition(),
        "first": _filled(first, "0"),
        "last": _filled(last or first, "9"),
        "max_tries": MAX_TRIES,
        "retry_after": retry_after or timedelta(0),
        "retries_all": retry_after is None,
        "now": datetime.now(UTC),
    }


def _filled(prefix: str, digit: str) -> str:
    """The lowest or highest ISIC id under a prefix; an own id stands for itself."""
    return prefix.ljust(ISIC_ID_LENGTH, digit) if prefix.startswith("ISIC_") else prefix


def look_for_wanted(key: ScopeKey, rendition: str) -> Look:
    """Count the files that are wanted now, and find when the next refused one is due."""
    values = wanted_values(key, "", rendition)
    due = text(f"""
        SELECT min({_DUE_AT}) FILTER (WHERE {_IS_RETRIED}), count(*)
        FROM stored_file AS stored WHERE rendition = :rendition AND reason IS NOT NULL
    """)  # noqa: S608 - our own text
    with key.workspace.session() as session:
        n_wanted = session.scalar(COUNT_WANTED, values) or 0
        due_at, n_refused = session.execute(due, values).one()
        return Look(n_wanted=n_wanted, due_at=due_at, n_refused=n_refused)
