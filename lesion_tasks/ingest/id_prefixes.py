"""Id prefixes -> complete reads of them, and the ids that a complete read did not return.

All ids that start with a prefix are read together. A prefix of at most 100 ids is one page, which none of the
archive's paging defects can affect, so a prefix whose read does not add up is split until it does.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from lesion_tasks.archive.api import PAGE_LENGTH
from lesion_tasks.archive.identifiers import IdSet
from lesion_tasks.archive.listing import Listing
from lesion_tasks.archive.record import Refusal
from lesion_tasks.ingest.append import RECORDS_PER_COMMIT, pages_from
from lesion_tasks.ingest.refusal_counts import RefusalTally
from lesion_tasks.ingest.scope import ScopeKey
from lesion_tasks.ingest.write_records import check_items, write_records

log = logging.getLogger(__name__)

MAX_DIGITS = 7
EVERYTHING = ""  # the prefix of every id: the only one of a source that cannot be asked by prefix


@dataclass(kw_only=True)
class PrefixReads:
    """The results of reading prefixes."""

    counts: Counter[str] = field(default_factory=Counter)
    refusals: RefusalTally = field(default_factory=RefusalTally)
    n_prefixes: int = 0
    n_incomplete: int = 0  # prefixes that could not be made to add up: nothing is concluded from them
    missing: list[str] = field(default_factory=list)  # listed by us, but not returned by a complete read

    def report(self) -> dict[str, Any]:
        """The counts that a pass returns."""
        named = ("read", "new", "changed", "returned", "refused", "missing", "left_scope", "withdrawn")
        counts = {name: self.counts[name] for name in named} | {
            "prefixes_read": self.n_prefixes,
            "prefixes_incomplete": self.n_incomplete,
        }
        return counts | self.refusals.report()


def prefixes(n_digits: int) -> list[str]:
    """Return every prefix of the archive's ids that has `n_digits` digits, in order."""
    return [f"ISIC_{number:0{n_digits}d}" for number in range(10**n_digits)] if n_digits else ["ISIC_"]


def digits_for(n_records: int | None) -> int:
    """Return how many digits keep prefixes to a few thousand ids: 1 up to 5,000 records, then 2."""
    return 1 if n_records is not None and n_records <= 5_000 else 2


def split(prefix: str) -> list[str]:
    """Return the ten prefixes that are one digit longer."""
    return [f"{prefix}{digit}" for digit in range(10)]


async def read_prefix(key: ScopeKey, listing: Listing, prefix: str, reads: PrefixReads) -> None:
    """Read one prefix completely, write the records that it has, and note the ids that it lacks.

    If the number of unique ids differs from the archive's own count, the prefix is split, down to single pages.
    """
    before = datetime.now(UTC)
    ids = IdSet()
    n_expected, n_refused = await _read_pages(key, listing, prefix, reads, ids)
    reads.n_prefixes += 1
    if n_expected is not None and len(ids) + n_refused == n_expected:
        reads.missing += await asyncio.to_thread(_not_returned, key, prefix, ids, before)
        return
    # A single page cannot contradict itself: it changed while it was read, and the next run will deal with it.
    can_split = listing.has_prefixes and len(prefix) < len("ISIC_") + MAX_DIGITS
    if can_split and n_expected is not None and max(n_expected, len(ids)) > PAGE_LENGTH:
        for part in split(prefix):
            await read_prefix(key, listing, part, reads)
        return
    reads.n_incomplete += 1
    log.warning(
        "%s: prefix %s* has %d ids, %s announced; nothing in it counts as missing",
        key.title,
        prefix,
        len(ids),
        n_expected,
    )


async def _read_pages(
    key: ScopeKey, listing: Listing, prefix: str, reads: PrefixReads, ids: IdSet
) -> tuple[int | None, int]:
    """Read and write all pages of a prefix -> (the count on the first page, records that were refused)."""
    n_expected: int | None = None
    n_refused = 0
    batch: list[Any] = []

    async def write() -> None:
        nonlocal n_refused
        counts, refusals = await asyncio.to_thread(_write, key, listing.namespace, batch, ids)
        n_refused += len({refusal.isic_id or refusal.document for refusal in refusals})
        reads.refusals.note(refusals)
        reads.counts.update(counts)
        batch.clear()

    api_prefix = prefix if listing.has_prefixes else ""
    is_first = True
    async with aclosing(pages_from(listing, None, prefix=api_prefix)) as pages:
        async for page in pages:
            if is_first:
                n_expected, is_first = page.n_records, False
            batch += page.items
            if len(batch) >= RECORDS_PER_COMMIT:
                await write()
    await write()
    if n_expected is None and not listing.has_prefixes:
        n_expected = await listing.count("")
    return n_expected, n_refused


def _write(
    key: ScopeKey, namespace: str | None, items: list[Any], ids: IdSet
) -> tuple[Counter[str], list[Refusal]]:
    records, refusals = check_items(items, namespace)
    for isic_id in records:
        ids.add(isic_id)
    with key.workspace.session() as session:
        return write_records(session.connection(), key.scope_id, list(records.values()), refusals), refusals


def _not_returned(key: ScopeKey, prefix: str, ids: IdSet, before: datetime) -> list[str]:
    """Return the ids that the scope listed before the read began and that the read did not return."""
    statement = text("""
        SELECT isic_id FROM scope_record JOIN record USING (isic_id)
        WHERE scope_id = :scope_id AND isic_id LIKE :pattern AND scope_record.missing_since IS NULL
            AND last_seen_at < :before
        ORDER BY isic_id
    """)
    values = {"scope_id": key.scope_id, "pattern": f"{prefix}%", "before": before}
    with key.workspace.session() as session:
        rows = session.execute(statement, values, execution_options={"yield_per": 5_000})
        return [isic_id for (isic_id,) in rows if isic_id not in ids]


def pieces(isic_ids: list[str], length: int) -> Iterator[list[str]]:
    """Cut a list into pieces of at most `length`."""
    for start in range(0, len(isic_ids), length):
        yield isic_ids[start : start + length]
