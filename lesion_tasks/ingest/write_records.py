"""A batch of items as an archive sent them -> records, versions and refusals, in one transaction.

Writing the same batch twice changes nothing but `last_seen_at`. A version is added when what a scope sends differs
both from what it sent last and from the current version. Somebody's own table adds none to a picture of the archive
that another source describes: what the archive says stands, whichever was read first.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.archive.record import CheckedRecord, Refusal, check_record
from lesion_tasks.database.bulk import copy_rows, upsert_rows
from lesion_tasks.database.locks import Lock, lock_until_commit

_OTHER_WAYS = ("hashjoin", "mergejoin", "seqscan", "bitmapscan", "material", "memoize")
_LOOK_UP = "; ".join(f"SET LOCAL enable_{way} = off" for way in _OTHER_WAYS)
_AS_USUAL = "; ".join(f"SET LOCAL enable_{way} TO DEFAULT" for way in _OTHER_WAYS)


def check_items(
    items: Iterable[Any], namespace: str | None = None
) -> tuple[dict[str, CheckedRecord], list[Refusal]]:
    """Sort items of a source with this namespace into records (the last one of each id) and refusals."""
    records: dict[str, CheckedRecord] = {}
    refusals = []
    for item in items:
        checked = check_record(item, namespace)
        if isinstance(checked, Refusal):
            refusals.append(checked)
        else:
            records[checked.isic_id] = checked
    return records, refusals


def write_records(
    connection: Connection,
    scope_id: str,
    records: Sequence[CheckedRecord],
    refusals: Sequence[Refusal],
    *,
    is_listed: bool = True,
) -> Counter[str]:
    """Store a batch and return counts: read, new, changed, returned, refused, described_elsewhere.

    With `is_listed` False the records were read outside the scope's listing: they exist, but have left the scope.
    """
    now = datetime.now(UTC)
    counts: Counter[str] = Counter(read=len(records) + len(refusals), refused=len(refusals))
    # Two scopes may list one record, and both would make it version 2.
    lock_until_commit(connection, Lock.RECORD_VERSIONS)
    if records:
        _plan(connection, scope_id, records)
        _add_versions(connection, {record.isic_id: record for record in records}, now)
        counts.update(_apply(connection, scope_id, now, is_listed=is_listed))
        connection.execute(text("DROP TABLE seen, plan"))
    if refusals:
        _write_refusals(connection, scope_id, refusals, now)
    return counts


def _plan(connection: Connection, scope_id: str, records: Sequence[CheckedRecord]) -> None:
    """Join the batch with what is known about its ids. Documents are not sent: in most reads, most are known."""
    connection.execute(
        text("CREATE TEMP TABLE seen (isic_id text, record_hash text, may_replace boolean) ON COMMIT DROP")
    )
    copy_rows(
        connection,
        "seen",
        ("isic_id", "record_hash", "may_replace"),
        ((r.isic_id, r.record_hash, r.may_replace) for r in records),
    )
    # Without statistics the planner may choose to scan all records for a batch of a few hundred.
    connection.execute(text("ANALYZE seen"))
    _execute_by_index(
        connection,
        """
            CREATE TEMP TABLE plan ON COMMIT DROP AS
            SELECT seen.isic_id, seen.record_hash,
                   coalesce(record.version, 0) AS known_version,
                   record.isic_id IS NULL
                       OR (current.record_hash <> seen.record_hash
                           AND listed.record_hash IS DISTINCT FROM seen.record_hash
                           AND (seen.may_replace OR NOT elsewhere.is_described)) AS has_new_version,
                   record.isic_id IS NOT NULL AND NOT seen.may_replace AND elsewhere.is_described
                       AS is_described_elsewhere,
                   -- An old folder that still lists a withdrawn image does not bring it back: only a scope of
                   -- the source that missed it does.
                   (record.withdrawn_at IS NOT NULL OR record.missing_since IS NOT NULL) AND EXISTS (
                       SELECT FROM scope JOIN scope AS same USING (source)
                       JOIN scope_record AS missed ON missed.scope_id = same.scope_id
                       WHERE scope.scope_id = :scope_id AND missed.isic_id = seen.isic_id
                           AND missed.missing_since IS NOT NULL
                   ) AS is_back,
                   record.withdrawn_at IS NOT NULL AS was_withdrawn,
                   listed.record_hash IS NOT DISTINCT FROM seen.record_hash
                       AND listed.missing_since IS NULL AS is_listed_so
            FROM seen
            LEFT JOIN record ON record.isic_id = seen.isic_id
            LEFT JOIN record_version AS current
                ON current.isic_id = record.isic_id AND current.version = record.version
            LEFT JOIN scope_record AS listed
                ON listed.scope_id = :scope_id AND listed.isic_id = seen.isic_id
            CROSS JOIN LATERAL (
                SELECT NOT seen.may_replace AND EXISTS (
                    SELECT FROM scope JOIN scope AS other ON other.source <> scope.source
                    JOIN scope_record AS theirs ON theirs.scope_id = other.scope_id
                    WHERE scope.scope_id = :scope_id AND theirs.isic_id = seen.isic_id
                        AND NOT EXISTS (SELECT FROM namespace WHERE namespace.source = other.source)
                ) AS is_described
            ) AS elsewhere
        """,
        {"scope_id": scope_id},
    )


def _execute_by_index(connection: Connection, statement: str, values: Mapping[str, Any]) -> None:
    """Join a batch with all records by looking up each id.

    A first load outruns the statistics, and the planner would then read the whole table for each batch.
    """
    connection.execute(text(_LOOK_UP))
    connection.execute(text(statement), values)
    connection.execute(text(_AS_USUAL))


def _add_versions(connection: Connection, records: Mapping[str, CheckedRecord], now: datetime) -> None:
    """Send the new documents straight into their table: nothing is written twice."""
    new = connection.execute(
        text("SELECT isic_id, known_version + 1 FROM plan WHERE has_new_version ORDER BY isic_id")
    ).all()
    if new:
        copy_rows(
            connection,
            "record_version",
            ("isic_id", "version", "record_hash", "document", "seen_at"),
            (
                (isic_id, version, record.record_hash, record.document, now)
                for isic_id, version in new
                for record in (records[isic_id],)
            ),
        )


def _apply(connection: Connection, scope_id: str, now: datetime, *, is_listed: bool) -> Counter[str]:
    values = {"now": now, "scope_id": scope_id, "missing_since": None if is_listed else now}
    n_new = connection.execute(
        text("""
            INSERT INTO record (isic_id, version, first_seen_at, last_seen_at, changed_at)
            SELECT isic_id, 1, :now, :now, :now FROM plan WHERE known_version = 0 ORDER BY isic_id
        """),
        values,
    ).rowcount
    _execute_by_index(
        connection,
        """
            UPDATE record SET last_seen_at = :now, version = known_version + has_new_version::int,
                missing_since = CASE WHEN NOT is_back THEN missing_since END,
                withdrawn_at = CASE WHEN NOT is_back THEN withdrawn_at END,
                changed_at = CASE WHEN has_new_version THEN :now ELSE changed_at END
            FROM plan WHERE plan.isic_id = record.isic_id AND known_version > 0
        """,
        values,
    )
    n_changed, n_returned, n_elsewhere = connection.execute(
        text("""
            SELECT count(*) FILTER (WHERE has_new_version AND known_version > 0),
                   count(*) FILTER (WHERE is_back AND was_withdrawn),
                   count(*) FILTER (WHERE is_described_elsewhere) FROM plan
        """)
    ).one()
    if n_returned:
        connection.execute(
            text("""
                UPDATE withdrawal SET returned_at = :now FROM plan
                WHERE plan.isic_id = withdrawal.isic_id AND is_back AND returned_at IS NULL
            """),
            values,
        )
    connection.execute(
        text("""
            INSERT INTO scope_record (scope_id, isic_id, record_hash, missing_since)
            SELECT :scope_id, isic_id, record_hash, :missing_since FROM plan
            WHERE NOT is_listed_so OR :missing_since IS NOT NULL ORDER BY isic_id
            ON CONFLICT (scope_id, isic_id) DO UPDATE
            SET record_hash = excluded.record_hash, missing_since = CASE
                WHEN excluded.missing_since IS NULL THEN NULL
                ELSE coalesce(scope_record.missing_since, excluded.missing_since) END
        """),
        values,
    )
    connection.execute(
        text("""
            DELETE FROM refused_record USING plan
            WHERE refused_record.scope_id = :scope_id AND refused_record.isic_id = plan.isic_id
        """),
        values,
    )
    return Counter(new=n_new, changed=n_changed, returned=n_returned, described_elsewhere=n_elsewhere)


def _write_refusals(
    connection: Connection, scope_id: str, refusals: Sequence[Refusal], now: datetime
) -> None:
    rows = {
        refusal_id: {
            "refusal_id": refusal_id,
            "scope_id": scope_id,
            "isic_id": r.isic_id,
            "reason": r.reason,
            "detail": r.detail,
            "document": r.document,
            "seen_at": now,
        }
        for r in refusals
        for refusal_id in [hashlib.sha256(f"{scope_id}\n{r.document}".encode()).hexdigest()]
    }
    upsert_rows(connection, "refused_record", ("refusal_id",), rows.values())
