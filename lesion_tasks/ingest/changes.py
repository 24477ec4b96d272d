"""Versions, withdrawals and returns since a time -> what changed, in words.

The times are our own observations: nothing shows when an edit was made upstream.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from lesion_tasks.workspace import Workspace

KINDS = ("new", "edited", "relabelled", "relicensed", "missing", "withdrawn", "returned")
_LABEL = tuple(f"metadata.clinical.diagnosis_{level}" for level in range(1, 6))
_LICENCE = ("copyright_license", "attribution")
_TOLD_DIFFERENTLY = frozenset({"files", "public", "attribution"})  # as the API and as downloads give them


@dataclass(frozen=True, kw_only=True)
class Change:
    """One observed change of one record."""

    isic_id: str
    kind: str  # one of KINDS
    seen_at: datetime
    fields: tuple[str, ...] = ()  # for edits: the fields that differ, as paths


def list_changes(workspace: Workspace, since: datetime) -> list[Change]:
    """Return everything that changed at or after `since` (with time zone), sorted by time and id."""
    return sorted(
        read_changes(workspace, since), key=lambda change: (change.seen_at, change.isic_id, change.kind)
    )


def read_changes(workspace: Workspace, since: datetime) -> Iterator[Change]:
    """Yield the same changes, unsorted and without holding them all in memory."""
    with workspace.session() as session:
        rows = session.execute(
            text("""
                SELECT now.isic_id, now.version, now.seen_at,
                       CASE WHEN now.version > 1 THEN before.document END AS before,
                       CASE WHEN now.version > 1 THEN now.document END AS after
                FROM record JOIN record_version AS now USING (isic_id)
                LEFT JOIN record_version AS before
                    ON before.isic_id = now.isic_id AND before.version = now.version - 1
                -- The former has an index, and is never earlier than any of a record's versions.
                WHERE record.changed_at >= :since AND now.seen_at >= :since
            """),
            {"since": since},
            execution_options={"yield_per": 1_000},
        )
        for row in rows:
            if row.version == 1:
                yield Change(isic_id=row.isic_id, kind="new", seen_at=row.seen_at)
            elif fields := changed_fields(row.before, row.after):
                yield Change(
                    isic_id=row.isic_id, kind=_kind_of_edit(fields), seen_at=row.seen_at, fields=fields
                )
        rows = session.execute(
            text("""
                SELECT isic_id, 'withdrawn' AS kind, withdrawn_at AS seen_at FROM withdrawal
                WHERE withdrawn_at >= :since
                UNION ALL SELECT isic_id, 'returned', returned_at FROM withdrawal WHERE returned_at >= :since
                UNION ALL SELECT isic_id, 'missing', missing_since FROM record
                WHERE missing_since >= :since AND withdrawn_at IS NULL
            """),
            {"since": since},
            execution_options={"yield_per": 1_000},
        )
        for row in rows:
            yield Change(isic_id=row.isic_id, kind=row.kind, seen_at=row.seen_at)


def changed_fields(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """Return the paths of the values that differ between two documents, sorted.

    A download has no addresses, and it attributes each image separately where the API attributes the whole cohort.
    Such differences between the two are different descriptions, not edits.
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    fields = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
    if _is_of_a_download(before) != _is_of_a_download(after):
        fields = {path for path in fields if path.partition(".")[0] not in _TOLD_DIFFERENTLY}
    return tuple(sorted(fields))


def _is_of_a_download(document: dict[str, Any]) -> bool:
    files = document.get("files") or {}
    return not any(str(file.get("url")).startswith("http") for file in files.values())


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _kind_of_edit(fields: tuple[str, ...]) -> str:
    if any(field in _LABEL for field in fields):
        return "relabelled"
    if any(field in _LICENCE for field in fields):
        return "relicensed"
    return "edited"
