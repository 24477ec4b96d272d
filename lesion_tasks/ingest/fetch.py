"""Records without a usable file -> verified objects in the bucket, and rows that name them.

A file is downloaded, checked against its length and ETag, decoded, hashed, stored under its id and digest, and only
then named in the database. A file that cannot be used becomes a row with a reason, and is tried again later.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import N_CONNECTIONS, RETRY, Retry
from lesion_tasks.catalog.pools import FILES_PER_RANGE, MAX_RANGES
from lesion_tasks.ingest.idle import is_fetched, note_idle
from lesion_tasks.ingest.scope import Trust, polled_scope, scope_key, scope_lock
from lesion_tasks.ingest.snapshot_handover import adopt_files
from lesion_tasks.ingest.wanted import RETRY_REFUSED_AFTER, WANTED, look_for_wanted, wanted_values
from lesion_tasks.workspace import Workspace

PREFIX_DIGITS = 4  # at most a thousand ids under each prefix, so that the crowded low ones can be divided too


def fetch_ranges(
    workspace: Workspace,
    *,
    ranges: int | None = None,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
    retry_refused_after: timedelta | None = RETRY_REFUSED_AFTER,
    rendition: str | None = None,
) -> list[str]:
    """Divide the ids whose files are wanted into at most `ranges` ranges of id prefixes with about equal work.

    None derives their number from the number of wanted files: FILES_PER_RANGE each, at most MAX_RANGES. A range is
    its first and last prefix, as in "ISIC_0024:ISIC_0029"; an own id stands for itself. No range is empty. With
    `retry_refused_after` None every refused file is wanted.
    """
    if ranges is not None and ranges < 1:
        raise UnusableInputError(f"{ranges} ranges found, expected at least 1")
    key = scope_key(workspace, source, query, collections, trust)
    values = wanted_values(key, "", rendition, retry_refused_after)
    retries_all = retry_refused_after is None
    if is_fetched(key, polled_scope(key), values["rendition"], retries_refused=retries_all):
        return []
    adopt_files(key, values["rendition"])
    statement = text(
        f"SELECT CASE WHEN starts_with(isic_id, 'ISIC_') THEN left(isic_id, {len('ISIC_') + PREFIX_DIGITS}) "  # noqa: S608 - our own text
        f"ELSE isic_id END AS prefix, count(*) FROM ({WANTED}) AS wanted GROUP BY 1 ORDER BY 1"
    )
    with key.workspace.session() as session:
        found = [(row[0], row[1]) for row in session.execute(statement, values)]
    n_wanted = sum(count for _, count in found)
    if not n_wanted:
        note_idle(key, values["rendition"], lambda: look_for_wanted(key, values["rendition"]))
    return _cut(found, ranges or min(MAX_RANGES, -(-n_wanted // FILES_PER_RANGE)))


def _cut(counts: Sequence[tuple[str, int]], n_prefixes: int) -> list[str]:
    """Divide prefixes, in order, into ranges; a prefix belongs to the range in which its middle falls."""
    n_wanted = sum(count for _, count in counts)
    ranges: dict[int, list[str]] = {}
    n_before = 0
    for prefix, count in counts:
        ranges.setdefault((2 * n_before + count) * n_prefixes // (2 * n_wanted), []).append(prefix)
        n_before += count
    return [f"{prefixes[0]}:{prefixes[-1]}" for prefixes in ranges.values()]


def fetch_files(
    workspace: Workspace,
    id_range: str = "",
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
    n_connections: int = N_CONNECTIONS,
    retry: Retry = RETRY,
    retry_refused_after: timedelta | None = RETRY_REFUSED_AFTER,
    rendition: str | None = None,
) -> dict[str, Any]:
    """Fetch the wanted files of one range (empty: all) into the bucket and return counts.

    `rendition` is `thumbnail_256` or `full`; None is what the catalogue's variants need. With `retry_refused_after`
    None every refused file is tried once more: its source may just have been repaired.

    Reads records; writes objects, then stored_file rows. Repeating it does nothing for files already stored.
    Raises UnusableInputError if more than MAX_FAILED_SHARE of the files cannot be used, and ArchiveUnavailableError
    if they cannot be fetched; files stored before that are kept.
    """
    key = scope_key(workspace, source, query, collections, trust)
    values = wanted_values(key, id_range, rendition, retry_refused_after)
    retries_all = retry_refused_after is None
    is_whole = not id_range and (retries_all or retry_refused_after == RETRY_REFUSED_AFTER)
    if is_whole and is_fetched(key, polled_scope(key), values["rendition"], retries_refused=retries_all):
        return {"stored": 0, "refused": 0, "size_bytes": 0, "reasons": {}}
    # Loading the picture decoders takes longer than a run with nothing to do.
    from lesion_tasks.ingest.download import Downloading

    with scope_lock(key, f"files {id_range}"):
        adopt_files(key, values["rendition"])
        done = asyncio.run(Downloading(key, values).run(n_connections, retry))
    if is_whole:
        note_idle(key, values["rendition"], lambda: look_for_wanted(key, values["rendition"]))
    return done
