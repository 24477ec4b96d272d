"""Counts by id prefix -> what became public behind the watermark, and what is gone.

Only prefixes whose count differs from ours are read. A record that a complete read does not return is requested by its
id; a 404 in each of two runs makes it withdrawn. Faults are never taken for absence, and if too many records are gone
at once, none is marked.
"""

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, bindparam, text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.api import PAGE_LENGTH
from lesion_tasks.archive.client import N_CONNECTIONS, RETRY, Retry
from lesion_tasks.archive.listing import Listing
from lesion_tasks.catalog.printed_numbers import percent
from lesion_tasks.ingest.id_prefixes import (
    EVERYTHING,
    PrefixReads,
    digits_for,
    pieces,
    prefixes,
    read_prefix,
    split,
)
from lesion_tasks.ingest.scope import (
    ScopeKey,
    Trust,
    n_listed,
    n_listed_by_prefix,
    open_listing,
    polled_scope,
    scope_key,
    scope_lock,
)
from lesion_tasks.ingest.write_records import check_items, write_records
from lesion_tasks.progress import progress
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# Unequal prefixes with more ids than this are counted again with one more digit before they are read.
MAX_IDS_TO_REREAD = 1_000
# Records are rarely withdrawn, and by hand. More than this at once is far more likely a fault, the archive's or ours.
MAX_VANISHED_SHARE = 0.02
MIN_VANISHED = 10
# Between the first 404 and the one that confirms it: a retry of the same run is not a second observation.
CONFIRM_AFTER = timedelta(minutes=10)


def reconcile_records(
    workspace: Workspace,
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
    max_vanished_share: float = MAX_VANISHED_SHARE,
    confirm_after: timedelta = CONFIRM_AFTER,
    n_connections: int = N_CONNECTIONS,
    retry: Retry = RETRY,
) -> dict[str, Any]:
    """Compare counts by id prefix, read what differs, and follow up on what is missing; return counts.

    Reads the scope's records; writes records, versions, `missing_since`, withdrawals. Repeating it costs 10 or 100
    requests and changes nothing. Raises UnusableInputError and marks nothing if more than `max_vanished_share` of the
    scope has gone since the last run.
    """
    key = scope_key(workspace, source, query, collections, trust)
    polled_scope(key)
    if key.settings.max_records is not None:
        # With a limit, most of the archive is deliberately unread: comparing would read it all.
        return PrefixReads().report()
    with scope_lock(key, "reconcile"):
        return asyncio.run(_reconcile(key, max_vanished_share, confirm_after, n_connections, retry))


async def _reconcile(
    key: ScopeKey, max_share: float, confirm_after: timedelta, n_connections: int, retry: Retry
) -> dict[str, Any]:
    started_at = datetime.now(UTC)
    async with open_listing(key, n_connections=n_connections, retry=retry) as listing:
        reads = PrefixReads()
        unequal = await _unequal_prefixes(key, listing, n_connections)
        with progress(f"reading unequal prefixes of {key.title}", len(unequal)) as advance:
            for prefix in unequal:
                await read_prefix(key, listing, prefix, reads)
                advance(1, note=f"{reads.counts['new']:,} new")
        counts = await follow_up(
            key, listing, reads.missing, max_share=max_share, asked_before=started_at - confirm_after
        )
    reads.counts.update(counts)
    return reads.report()


async def _unequal_prefixes(key: ScopeKey, listing: Listing, n_connections: int) -> list[str]:
    """Return the prefixes whose count differs from ours, as narrow as possible."""
    if not listing.has_prefixes:
        return [EVERYTHING]  # reading a folder costs less than a wrong guess
    asked = prefixes(digits_for(await asyncio.to_thread(n_listed, key)))
    unequal: list[str] = []
    # One level deeper for large prefixes. Prefixes that still differ after three digits are read whole.
    for n_digits in range(len(asked[0]) - 5, 4):
        ours = await asyncio.to_thread(n_listed_by_prefix, key, n_digits)
        theirs = await _counts(listing, asked, n_connections)
        asked = []
        for prefix, n_theirs in theirs.items():
            n_ours = ours.get(prefix, 0)
            if n_theirs == n_ours:
                continue
            is_large = max(n_theirs or 0, n_ours) > MAX_IDS_TO_REREAD
            if is_large and n_theirs is not None and n_digits < 3:
                asked += split(prefix)
            else:
                unequal.append(prefix)
        if not asked:
            break
    return unequal


async def _counts(listing: Listing, asked: list[str], n_connections: int) -> dict[str, int | None]:
    limit = asyncio.Semaphore(n_connections)

    async def count(prefix: str) -> int | None:
        async with limit:
            return await listing.count(prefix)

    return dict(zip(asked, await asyncio.gather(*map(count, asked)), strict=True))


async def follow_up(
    key: ScopeKey, listing: Listing, missing: list[str], *, max_share: float, asked_before: datetime
) -> Counter[str]:
    """Request each missing id, including those of earlier runs -> counts: missing, left_scope, withdrawn.

    An id that still exists but that the scope's query no longer lists has left the scope. An id for which the archive
    answers 404 is missing; if a run before `asked_before` saw the same, it is withdrawn.
    """
    pending = await asyncio.to_thread(_pending, key)
    _raise_if_mass_disappearance(key, len(missing), await asyncio.to_thread(n_listed, key), max_share)
    counts: Counter[str] = Counter()
    gone: list[str] = []
    for some in pieces(sorted({*missing, *pending}), PAGE_LENGTH):
        listed, refusals = check_items(await listing.items_among(some), listing.namespace)
        listed = {isic_id: record for isic_id, record in listed.items() if isic_id in some}
        elsewhere = []
        for isic_id in some:
            if isic_id not in listed:
                item = await listing.item(isic_id)
                if item is None:
                    gone.append(isic_id)
                elif isinstance(item, dict) and item.get("isic_id") == isic_id:
                    elsewhere.append(item)
        left, more_refusals = check_items(elsewhere, listing.namespace)
        with key.workspace.session() as session:
            connection = session.connection()
            counts += write_records(connection, key.scope_id, list(listed.values()), refusals)
            counts += write_records(
                connection, key.scope_id, list(left.values()), more_refusals, is_listed=False
            )
        counts["left_scope"] += len(left)
    return counts + await asyncio.to_thread(_mark, key, gone, asked_before)


def _raise_if_mass_disappearance(key: ScopeKey, n_vanished: int, n_ours: int, max_share: float) -> None:
    is_few = n_vanished <= max(MIN_VANISHED, max_share * n_ours) and n_vanished < n_ours
    if not n_vanished or is_few or max_share >= 1:
        return
    raise UnusableInputError(
        f"{key.title}: {n_vanished} of {n_ours} records have gone since the last run, expected at most "
        f"{percent(max_share, 0)}; nothing was marked. If they are really gone, reconcile with max_vanished_share=1"
    )


def _pending(key: ScopeKey) -> list[str]:
    """Return the ids of this scope whose absence was seen once but is not yet confirmed."""
    statement = text("""
        SELECT isic_id FROM scope_record JOIN record USING (isic_id)
        WHERE scope_id = :scope_id AND scope_record.missing_since IS NOT NULL
            AND record.missing_since IS NOT NULL AND withdrawn_at IS NULL
    """)
    with key.workspace.session() as session:
        return list(session.scalars(statement, {"scope_id": key.scope_id}))


def _mark(key: ScopeKey, gone: list[str], asked_before: datetime) -> Counter[str]:
    """Note the first 404 of each id, or confirm it."""
    if not gone:
        return Counter()
    values = {"now": datetime.now(UTC), "scope_id": key.scope_id, "before": asked_before, "ids": gone}
    ids: BindParameter[Any] = bindparam("ids", expanding=True)
    with key.workspace.session() as session:
        withdrawn = session.scalars(
            text("""
                UPDATE record SET withdrawn_at = :now
                WHERE isic_id IN :ids AND missing_since < :before AND withdrawn_at IS NULL
                RETURNING isic_id
            """).bindparams(ids),
            values,
        ).all()
        session.execute(
            text(
                "INSERT INTO withdrawal (isic_id, withdrawn_at) SELECT isic_id, withdrawn_at FROM record "
                "WHERE isic_id IN :ids AND withdrawn_at = :now"
            ).bindparams(ids),
            values,
        )
        n_missing = session.execute(  # type: ignore[attr-defined]
            text(
                "UPDATE record SET missing_since = :now WHERE isic_id IN :ids AND missing_since IS NULL"
            ).bindparams(ids),
            values,
        ).rowcount
        session.execute(
            text("""
                UPDATE scope_record SET missing_since = :now
                WHERE scope_id = :scope_id AND isic_id IN :ids AND missing_since IS NULL
            """).bindparams(ids),
            values,
        )
    return Counter(missing=n_missing, withdrawn=len(withdrawn))
