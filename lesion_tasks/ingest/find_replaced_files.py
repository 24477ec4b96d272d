"""Stored files -> those that the archive has replaced: a share of them is checked in turn, by one HEAD each.

A file can change at its address without any change in its record; its ETag is the only sign. A file that is absent at
the moment proves nothing: the archive replaces files in place.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import (
    MAX_UNREACHABLE_IN_A_ROW,
    N_CONNECTIONS,
    RETRY,
    ArchiveUnavailableError,
    RefusedUrlError,
    Retry,
)
from lesion_tasks.archive.listing import Listing
from lesion_tasks.catalog.ingest_passes import CHECK_SHARE
from lesion_tasks.ingest.scope import (
    ScopeKey,
    Trust,
    open_listing,
    polled_scope,
    scope_key,
    scope_lock,
)
from lesion_tasks.progress import progress
from lesion_tasks.workspace import Workspace

OLDER_THAN = timedelta(days=1)  # a file that has just been fetched or checked need not be checked again
FILES_PER_COMMIT = 500

_STORED = """
    FROM stored_file JOIN scope_record USING (isic_id) JOIN record USING (isic_id)
    WHERE scope_record.scope_id = :scope_id AND scope_record.missing_since IS NULL AND record.withdrawn_at IS NULL
        AND stored_file.reason IS NULL AND NOT stored_file.is_replaced AND stored_file.url LIKE 'http%'
"""


def check_files(
    workspace: Workspace,
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
    check_share: float = CHECK_SHARE,
    older_than: timedelta = OLDER_THAN,
    n_connections: int = N_CONNECTIONS,
    retry: Retry = RETRY,
) -> dict[str, Any]:
    """Check the `check_share` (above 0, up to 1) of files whose last check is longest ago; return counts.

    Counts: checked, replaced (the next fetch downloads them), noted (their ETag was not known before), and unknown
    (the server did not send one; checked again next time). Writes `stored_file`. A killed check continues after its
    last commit.
    """
    if not 0 < check_share <= 1:
        raise UnusableInputError(f"check_share {check_share}: expected more than 0 and at most 1")
    key = scope_key(workspace, source, query, collections, trust)
    polled_scope(key)
    with scope_lock(key, "check_files"):
        counts = asyncio.run(_check(key, check_share, older_than, n_connections, retry))
    return {name: counts[name] for name in ("checked", "replaced", "noted", "unknown")}


async def _check(
    key: ScopeKey, share: float, older_than: timedelta, n_connections: int, retry: Retry
) -> Counter[str]:
    counts: Counter[str] = Counter()
    files = await asyncio.to_thread(_oldest, key, share, datetime.now(UTC) - older_than)
    async with open_listing(key, n_connections=n_connections, retry=retry) as listing:
        with progress(f"checking files of {key.title}", len(files)) as advance:
            for start in range(0, len(files), FILES_PER_COMMIT):
                some = files[start : start + FILES_PER_COMMIT]
                counts += await asyncio.to_thread(
                    _commit, key, some, await _etags(listing, some, n_connections)
                )
                advance(len(some), note=f"{counts['replaced']:,} replaced")
    return counts


def _oldest(key: ScopeKey, share: float, before: datetime) -> Sequence[Any]:
    values = {"scope_id": key.scope_id, "before": before}
    with key.workspace.session() as session:
        n_files = session.scalar(text(f"SELECT count(*) {_STORED}"), values) or 0
        return session.execute(
            text(f"""
                SELECT isic_id, rendition, stored_file.url, etag {_STORED}
                    AND coalesce(checked_at, fetched_at) < :before
                ORDER BY coalesce(checked_at, fetched_at), isic_id LIMIT :n
            """),
            values | {"n": math.ceil(share * n_files)},
        ).all()


async def _etags(listing: Listing, files: Sequence[Any], n_connections: int) -> list[str | None]:
    limit = asyncio.Semaphore(n_connections)
    n_unreachable_in_a_row = 0

    async def etag(url: str) -> str | None:
        nonlocal n_unreachable_in_a_row
        async with limit:
            try:
                answer = await listing.etag(url)
            except RefusedUrlError:
                return None
            except ArchiveUnavailableError:
                n_unreachable_in_a_row += 1
                if n_unreachable_in_a_row >= MAX_UNREACHABLE_IN_A_ROW:
                    raise
                return None
            n_unreachable_in_a_row = 0
            return answer

    return await asyncio.gather(*(etag(file.url) for file in files))


def _commit(key: ScopeKey, files: Sequence[Any], etags: Sequence[str | None]) -> Counter[str]:
    counts: Counter[str] = Counter()
    rows = []
    for file, etag in zip(files, etags, strict=True):
        if etag is None:
            counts["unknown"] += 1
            continue
        is_replaced = file.etag is not None and file.etag != etag
        counts["checked"] += 1
        counts["replaced"] += is_replaced
        counts["noted"] += file.etag is None
        rows.append(
            {
                "isic_id": file.isic_id,
                "rendition": file.rendition,
                "known": file.etag,
                # The fetch notes the new ETag together with the new file.
                "etag": file.etag if is_replaced else etag,
                "is_replaced": is_replaced,
                "now": datetime.now(UTC),
            }
        )
    if rows:
        with key.workspace.session() as session:
            # If a fetch has replaced the file in the meantime, its row is right.
            session.execute(
                text("""
                    UPDATE stored_file SET checked_at = :now, etag = :etag, is_replaced = :is_replaced
                    WHERE isic_id = :isic_id AND rendition = :rendition AND etag IS NOT DISTINCT FROM :known
                """),
                rows,
            )
    return counts
