"""A snapshot that was read completely -> a scope of the archive's API that continues where it ends.

A snapshot lists every image that was public when it was made. Its records are copied into the same scope of the
settings' archive, and that scope's watermark is set to the time of the snapshot: its first append pass starts an hour
before it, its first reconciliation finds equal counts, and no file that came with the snapshot is fetched again.
"""

import logging
from dataclasses import replace

from sqlalchemy import text

from lesion_tasks.archive.api import is_api
from lesion_tasks.ingest.scope import ScopeKey, read_scope, scope_lock

log = logging.getLogger(__name__)


def hand_over(key: ScopeKey) -> None:
    """Let the archive's API continue from the end of a snapshot; do nothing for other sources.

    A scope that the API has already read beyond that end is left unchanged. Repeating it changes nothing.
    """
    if is_api(key.source):
        return
    from lesion_tasks.archive.snapshot import is_snapshot

    if not is_snapshot(key.source):
        return
    scope = read_scope(key)
    if scope is None or scope.watermark_at is None:
        return  # it does not say when it was made: the API reads everything
    heir = replace(key, source=key.settings.archive_url)
    values = {
        "scope_id": heir.scope_id,
        "source": heir.stored_source,
        "query": heir.query,
        "made_at": scope.watermark_at,
        "snapshot_id": key.scope_id,
    }
    with scope_lock(heir, "append"), key.workspace.session() as session:
        session.execute(
            text("""
                INSERT INTO scope (scope_id, source, query, collections, watermark_at)
                VALUES (:scope_id, :source, :query, '', :made_at)
                ON CONFLICT (scope_id) DO UPDATE
                SET watermark_at = excluded.watermark_at, next_watermark_at = NULL, next_cursor = NULL
                WHERE scope.watermark_at IS NULL OR scope.watermark_at < excluded.watermark_at
            """),
            values,
        )
        # Without a hash: the API itself has not sent these records yet.
        n_taken = session.execute(  # type: ignore[attr-defined]
            text("""
                INSERT INTO scope_record (scope_id, isic_id, record_hash)
                SELECT :scope_id, isic_id, '' FROM scope_record
                WHERE scope_id = :snapshot_id AND missing_since IS NULL ORDER BY isic_id
                ON CONFLICT DO NOTHING
            """),
            values,
        ).rowcount
    log.info(
        "%s: continues from the snapshot of %s, %d records copied", heir.title, scope.watermark_at, n_taken
    )


# A record that the API sends for the first time says where its file is; the file itself came with the snapshot. Only
# the ETag of a full file is known: that of a thumbnail never was.
_ADOPT = """
    UPDATE stored_file SET url = split_part(entry ->> 'url', '?', 1),
        record_size_bytes = CASE WHEN jsonb_typeof(entry -> 'size') = 'number'
            AND (entry ->> 'size') ~ '^[0-9]{1,15}$' THEN (entry ->> 'size')::bigint END,
        etag = CASE WHEN stored_file.rendition = 'full' THEN stored_file.etag END
    FROM scope_record JOIN record USING (isic_id) JOIN record_version AS current USING (isic_id, version)
    CROSS JOIN LATERAL (SELECT current.document -> 'files' -> :rendition AS entry) AS file
    WHERE scope_record.scope_id = :scope_id AND stored_file.isic_id = scope_record.isic_id
        AND stored_file.rendition = :rendition AND stored_file.reason IS NULL AND stored_file.url LIKE 'zip:%'
        AND current.record_hash = scope_record.record_hash AND entry ->> 'url' LIKE 'http%'
"""


def adopt_files(key: ScopeKey, rendition: str) -> None:
    """Match the files that came with a snapshot to those that the API's records name now."""
    if not is_api(key.source):
        return
    with key.workspace.session() as session:
        session.execute(text(_ADOPT), {"scope_id": key.scope_id, "rendition": rendition})
