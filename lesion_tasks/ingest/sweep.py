"""A share of all id prefixes -> their records read again: the only way to see an edit.

The archive does not announce changes, so records are verified in turn: with one seventh each night, every record is
compared within seven days.
"""

import asyncio
import math
from datetime import UTC, datetime
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import RETRY, Retry
from lesion_tasks.catalog.ingest_passes import SWEEP_SHARE
from lesion_tasks.catalog.pools import N_CONNECTIONS
from lesion_tasks.ingest.id_prefixes import EVERYTHING, PrefixReads, digits_for, prefixes, read_prefix
from lesion_tasks.ingest.reconcile import CONFIRM_AFTER, MAX_VANISHED_SHARE, follow_up
from lesion_tasks.ingest.scope import (
    ScopeKey,
    Trust,
    n_listed,
    open_listing,
    polled_scope,
    save_scope,
    scope_key,
    scope_lock,
)
from lesion_tasks.progress import progress
from lesion_tasks.workspace import Workspace


def sweep_records(
    workspace: Workspace,
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
    sweep_share: float = SWEEP_SHARE,
    max_vanished_share: float = MAX_VANISHED_SHARE,
    n_connections: int = N_CONNECTIONS,
    retry: Retry = RETRY,
) -> dict[str, Any]:
    """Read the next `sweep_share` (above 0, up to 1) of the scope's prefixes again and return counts.

    Reads and writes the scope's row; writes records, versions and `missing_since`. A killed sweep continues with the
    prefix that it was reading.
    """
    if not 0 < sweep_share <= 1:
        raise UnusableInputError(f"sweep_share {sweep_share}: expected more than 0 and at most 1")
    key = scope_key(workspace, source, query, collections, trust)
    polled_scope(key)
    if key.settings.max_records is not None:
        # With a limit, most of the archive is deliberately unread: comparing would read it all.
        return PrefixReads().report()
    with scope_lock(key, "sweep"):
        return asyncio.run(_sweep(key, sweep_share, max_vanished_share, n_connections, retry))


async def _sweep(
    key: ScopeKey, sweep_share: float, max_vanished_share: float, n_connections: int, retry: Retry
) -> dict[str, Any]:
    started_at = datetime.now(UTC)
    reads = PrefixReads()
    async with open_listing(key, n_connections=n_connections, retry=retry) as listing:
        every = (
            prefixes(digits_for(await asyncio.to_thread(n_listed, key)))
            if listing.has_prefixes
            else [EVERYTHING]
        )
        todo = _next(every, polled_scope(key).sweep_prefix, math.ceil(sweep_share * len(every)))
        with progress(f"verifying records of {key.title}", len(todo)) as advance:
            for prefix, next_prefix in todo:
                await read_prefix(key, listing, prefix, reads)
                save_scope(key, sweep_prefix=next_prefix)
                advance(1, note=f"{reads.counts['changed']:,} changed")
        counts = await follow_up(
            key,
            listing,
            reads.missing,
            max_share=max_vanished_share,
            asked_before=started_at - CONFIRM_AFTER,
        )
    reads.counts.update(counts)
    return reads.report()


def _next(every: list[str], start: str | None, n_prefixes: int) -> list[tuple[str, str]]:
    """Return the next prefixes from `start` on, wrapping around, each with the one after it."""
    first = next((index for index, prefix in enumerate(every) if prefix >= (start or "")), 0)
    turn = every[first:] + every[:first]
    return list(zip(turn, turn[1:] + turn[:1], strict=True))[:n_prefixes]
