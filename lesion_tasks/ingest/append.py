"""An archive -> its newest records: polling it, and the append pass.

The archive lists by `created`, oldest first, and accepts a hand-made cursor that starts at any time. A pass starts one
hour before the time up to which the last one was complete, and commits the cursor together with the rows before it.
It does not find edits, or records that became public behind it: reconciling and sweeping do.
"""

import asyncio
import itertools
import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text, update

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.api import PAGE_LENGTH, is_api
from lesion_tasks.archive.client import N_CONNECTIONS, RETRY, Retry
from lesion_tasks.archive.identifiers import IdSet
from lesion_tasks.archive.listing import Listing, Page, Poll, RefusedCursorError
from lesion_tasks.archive.page_cursor import EARLIEST, Position, decode_cursor, encode_cursor
from lesion_tasks.archive.record import CheckedRecord, Refusal
from lesion_tasks.database.schema import Scope
from lesion_tasks.ingest.idle import idle
from lesion_tasks.ingest.refusal_counts import RefusalTally
from lesion_tasks.ingest.scope import (
    ScopeKey,
    Trust,
    n_listed,
    open_listing,
    polled_scope,
    read_scope,
    save_scope,
    scope_key,
    scope_lock,
)
from lesion_tasks.ingest.snapshot_handover import hand_over
from lesion_tasks.ingest.write_records import check_items, write_records
from lesion_tasks.progress import Advance, progress
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# Publishing holds an exclusive lock, so records become visible in the order of `created`; an hour is ample.
OVERLAP = timedelta(hours=1)
RECORDS_PER_COMMIT = 4_000
PAGES_AHEAD = 10  # read while the previous batch is being written
BEFORE_EVERYTHING = EARLIEST
N_IDS = 10_000_000  # "ISIC_" and seven digits
SPARE_PAGES = 100  # allowed beyond what was announced: this much may arrive while a pass runs


def poll_archive(
    workspace: Workspace,
    *,
    query: str | None = None,
    source: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
    retry: Retry = RETRY,
) -> dict[str, Any]:
    """Ask a source for its size and newest record, and note the answer in the scope's row.

    Raises UnusableInputError for an address where no ISIC Archive API answers, and for a query that it rejects.
    """
    key = scope_key(workspace, source, query, collections, trust)
    return told(key, poll_scope(key, read_scope(key), retry=retry))


def poll_scope(key: ScopeKey, known: Scope | None, *, retry: Retry = RETRY) -> Poll:
    """Poll a scope and note the answer. `known` is the scope's row, or None if it has none yet."""
    is_first = known is None or known.polled_at is None

    async def ask() -> Poll:
        # An address that worked before is not wrong, only down.
        async with open_listing(key, retry=retry, is_first_contact=is_first) as listing:
            return await listing.poll()

    poll = asyncio.run(ask())
    save_scope(key, poll=_noted(poll), polled_at=datetime.now(UTC))
    for finding in poll.findings:
        log.warning("%s: %s", key.title, finding)
    return poll


def told(key: ScopeKey, poll: Poll) -> dict[str, Any]:
    """Return the answer in the form that is shown."""
    return {
        "scope_id": key.scope_id,
        "source": key.stored_source,
        "query": key.query,
        **_noted(poll),
    }


def _noted(poll: Poll) -> dict[str, Any]:
    newest_at = poll.newest_created_at
    return {
        "n_records": poll.n_records,
        "newest_created_at": newest_at.isoformat() if newest_at else None,
        "newest_isic_id": poll.newest_isic_id,
    } | ({"findings": list(poll.findings)} if poll.findings else {})


def append_records(
    workspace: Workspace,
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
    n_connections: int = N_CONNECTIONS,
    retry: Retry = RETRY,
    newest: Poll | None = None,
) -> dict[str, Any]:
    """Read what is newer than the scope's watermark and return counts.

    Reads and writes the scope's row; writes records, versions and refusals. A killed pass continues from its last
    commit; a complete one moves the watermark, and repeating it changes nothing. `newest` is what the archive answered
    a moment ago; if it proves that nothing is new, no other request is made. If records were refused, `refusals` holds
    the number for each reason, with examples. Raises UnusableInputError if all were refused.
    """
    key = scope_key(workspace, source, query, collections, trust)
    scope = read_scope(key)
    if scope is None:
        newest = poll_scope(key, scope, retry=retry)
    elif newest is not None and is_api(key.source) and _nothing_new(key, scope, newest):
        return dict(_NOTHING_NEW)
    with scope_lock(key, "append"):
        counts = asyncio.run(_append(key, n_connections, retry))
        if counts["is_complete"]:
            hand_over(key)
        return counts


@dataclass(kw_only=True)
class _Pass:
    """The state of a running append pass."""

    n_expected: int | None
    is_full: bool
    is_resumed: bool
    ids: IdSet = field(default_factory=IdSet)
    counts: Counter[str] = field(default_factory=Counter)
    refusals: RefusalTally = field(default_factory=RefusalTally)
    stopped_early: bool = False
    n_wanted: int | None = None  # records still wanted under a limit; None: all


async def _append(key: ScopeKey, n_connections: int, retry: Retry) -> dict[str, Any]:
    async with open_listing(key, n_connections=n_connections, retry=retry) as listing:
        scope = polled_scope(key)
        start = scope.next_cursor
        watermark_at = scope.next_watermark_at
        if start is None:
            poll = await listing.poll()
            if _nothing_new(key, scope, poll):
                return dict(_NOTHING_NEW)
            watermark_at = poll.newest_created_at
            since = scope.watermark_at if listing.has_prefixes else None  # a download has no `created`
            start = encode_cursor(Position(since - OVERLAP)) if since else ""
            save_scope(key, next_cursor=start, next_watermark_at=watermark_at)
        pass_ = _Pass(
            n_expected=(scope.poll or {}).get("n_records"),
            is_full=scope.watermark_at is None,
            is_resumed=scope.next_cursor is not None,
            n_wanted=_still_wanted(key),
        )
        if pass_.n_wanted == 0:
            return _report(key, pass_)
        with progress(f"reading records of {key.title}", _expected(key, pass_)) as advance:
            try:
                await _read_all(key, listing, start or None, pass_, advance)
            except RefusedCursorError as error:
                log.warning("%s: %s; reading everything from the first page", key.title, error)
                pass_.is_full = True
                save_scope(key, next_cursor="")
                await _read_all(key, listing, None, pass_, advance)
        if pass_.stopped_early and pass_.n_wanted is not None:
            return _report(key, pass_)  # the committed cursor says where to continue without the limit
        if pass_.counts["refused"] == pass_.counts["read"] > 0 and not _lists_records(key):
            # Not complete up to any time: the next pass requests everything again.
            save_scope(key, next_cursor=None, next_watermark_at=None)
            raise UnusableInputError(
                f"{key.title}: all {pass_.counts['read']:,} records were refused, expected some to be usable: "
                f"{pass_.refusals.in_words()}"
            )
        save_scope(key, next_cursor=None, next_watermark_at=None, watermark_at=watermark_at)
        return _report(key, pass_)


def _lists_records(key: ScopeKey) -> bool:
    statement = text("SELECT EXISTS (SELECT FROM scope_record WHERE scope_id = :scope_id)")
    with key.workspace.session() as session:
        return bool(session.scalar(statement, {"scope_id": key.scope_id}))


def _still_wanted(key: ScopeKey) -> int | None:
    limit = key.settings.max_records
    return None if limit is None else max(limit - n_listed(key), 0)


def _nothing_new(key: ScopeKey, scope: Scope, poll: Poll) -> bool:
    """Tell whether one answer is proof enough: no newer record, and as many records as this scope lists."""
    if scope.next_cursor is not None:
        return False  # a pass was stopped
    if scope.watermark_at is None or poll.newest_created_at != scope.watermark_at:
        return False
    note = idle(key, scope)
    return poll.n_records is not None and poll.n_records == (note.n_listed if note else n_listed(key))


_NOTHING_NEW = {"read": 0, "new": 0, "changed": 0, "returned": 0, "refused": 0, "is_complete": True}


def _expected(key: ScopeKey, pass_: _Pass) -> int | None:
    if pass_.n_expected is None:
        return None
    return pass_.n_expected if pass_.is_full and not pass_.is_resumed else None


async def _read_all(
    key: ScopeKey, listing: Listing, start: str | None, pass_: _Pass, advance: Advance
) -> None:
    """Read pages, check each while the archive prepares the next one, and meanwhile write the previous batch."""
    records: dict[str, CheckedRecord] = {}
    refusals: list[Refusal] = []
    n_read = n_read_of_batch = 0
    writing: asyncio.Task[Counter[str]] | None = None
    try:
        async with (
            aclosing(pages_from(listing, start, pass_)) as pages,
            aclosing(_read_ahead(pages)) as ahead,
        ):
            async for page in ahead:
                # In this thread: a second, computing thread would keep requests waiting for Python's lock.
                more_records, more_refusals = check_items(page.items, listing.namespace)
                records |= more_records
                refusals += more_refusals
                pass_.refusals.note(more_refusals)
                n_read += len(page.items)
                n_read_of_batch += len(page.items)
                # Only whole pages, so that the cursor after them can be committed.
                is_enough = pass_.n_wanted is not None and n_read >= pass_.n_wanted
                if n_read_of_batch < RECORDS_PER_COMMIT and page.next_cursor is not None and not is_enough:
                    continue
                if writing is not None:
                    _count(await writing, pass_, advance)
                writing = asyncio.create_task(
                    asyncio.to_thread(_commit, key, records, refusals, page.next_cursor, pass_.ids)
                )
                records, refusals, n_read_of_batch = {}, [], 0
                if is_enough and page.next_cursor is not None:
                    pass_.stopped_early = True
                    break
    finally:
        if writing is not None:
            _count(await writing, pass_, advance)


def _count(counts: Counter[str], pass_: _Pass, advance: Advance) -> None:
    pass_.counts.update(counts)
    advance(counts["read"], note=f"{pass_.counts['new']:,} new, {pass_.counts['changed']:,} changed")


def _commit(
    key: ScopeKey,
    records: dict[str, CheckedRecord],
    refusals: list[Refusal],
    next_cursor: str | None,
    ids: IdSet,
) -> Counter[str]:
    """Write a batch and the cursor after it in one transaction."""
    for isic_id in records:
        ids.add(isic_id)
    with key.workspace.session() as session:
        # If its machine fails, the server may lose the last commits, each as a whole: the pass then resumes earlier.
        session.execute(text("SET LOCAL synchronous_commit = off"))
        counts = write_records(session.connection(), key.scope_id, list(records.values()), refusals)
        if next_cursor is not None:
            session.execute(
                update(Scope).where(Scope.scope_id == key.scope_id).values(next_cursor=next_cursor)
            )
    return counts


async def _read_ahead(pages: AsyncGenerator[Page, None]) -> AsyncGenerator[Page, None]:
    """Yield pages while the next ones are already being read."""
    queue: asyncio.Queue[Page | None] = asyncio.Queue(PAGES_AHEAD)

    async def fill() -> None:
        async for page in pages:
            await queue.put(page)
        await queue.put(None)

    filling = asyncio.create_task(fill())
    try:
        while True:
            taking = asyncio.create_task(queue.get())
            await asyncio.wait({taking, filling}, return_when=asyncio.FIRST_COMPLETED)
            # What was read before a fault is still passed on, so that it is committed.
            if filling.done() and filling.exception() and not taking.done() and queue.empty():
                taking.cancel()
                await filling
            page = await taking
            if page is None:
                return
            yield page
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


async def pages_from(
    listing: Listing, cursor: str | None, pass_: "_Pass | None" = None, prefix: str = ""
) -> AsyncGenerator[Page, None]:
    """Yield the pages of a listing from a cursor on, and stop at some point, whatever the archive's paging does.

    A cursor that is ignored or leads back raises RefusedCursorError; a run of more than 100 records with the same
    `created`, which the archive would repeat endlessly, is skipped.
    """
    guard = _LoopGuard()
    seen_before_jump: frozenset[str] = frozenset()
    n_announced = pass_.n_expected if pass_ else None
    for n_pages in itertools.count(1):
        page = await listing.page(cursor, prefix)
        n_announced = n_announced if page.n_records is None else page.n_records
        position = decode_cursor(cursor)
        if position is not None and page.n_records is not None:
            # Only a first page holds the total: the archive did not use the cursor that we sent.
            raise RefusedCursorError(f"cursor {cursor!r} was answered with the first page")
        if not seen_before_jump.isdisjoint(_ids(page)):
            _give_up(listing, pass_)  # the jump skipped one record and no tie: `next` itself is broken
            return
        yield page
        if page.next_cursor is None:
            return
        if listing.has_prefixes and n_pages >= _most_pages(n_announced):
            log.warning("%s: %d pages for %s records announced", listing.source, n_pages, n_announced)
            _give_up(listing, pass_)
            return
        cursor, seen_before_jump = page.next_cursor, frozenset()
        if guard.repeats(cursor):
            cursor = await _beyond_tie(listing, position, prefix)
            if cursor is None or guard.repeats(cursor):
                _give_up(listing, pass_)
                return
            seen_before_jump = _ids(page)


def _ids(page: Page) -> frozenset[str]:
    return frozenset(str(item.get("isic_id")) for item in page.items if isinstance(item, dict))


def _most_pages(n_announced: int | None) -> int:
    """How many pages a listing may have: twice what its records fill, for ties and growth, and never more than
    all possible ids would fill."""
    n_records = N_IDS if n_announced is None else min(n_announced, N_IDS)
    return 2 * math.ceil(n_records / PAGE_LENGTH) + SPARE_PAGES


def _give_up(listing: Listing, pass_: "_Pass | None") -> None:
    log.warning("%s: its pages do not end; stopped reading them", listing.source)
    if pass_ is not None:
        pass_.stopped_early = True


async def _beyond_tie(listing: Listing, position: Position | None, prefix: str) -> str | None:
    """Return a cursor after the run of equal `created` that follows a position; None if it cannot be determined.

    The `previous` link of the page after a position names the `created` of the page's first item.
    """
    before = position.created_at if position else BEFORE_EVERYTHING
    page = await listing.page(encode_cursor(Position(before)), prefix)
    tie = decode_cursor(page.previous_cursor)
    if tie is None or tie.created_at <= before:
        return None
    log.info("%s: over 100 records created at %s; continuing after them", listing.source, tie.created_at)
    return encode_cursor(Position(tie.created_at))


class _LoopGuard:
    """Notices pages that lead back, in constant memory."""

    def __init__(self) -> None:
        self._last: Position | None = None
        # For cursors without a position: Brent's cycle detection keeps one cursor, at growing distances.
        self._kept: str | None = None
        self._n_since = 0
        self._n_until = 1

    def repeats(self, cursor: str) -> bool:
        """Tell whether a cursor fails to lead forward from the one before; note it if it does lead forward."""
        position = decode_cursor(cursor)
        if position is not None:
            if self._last is not None and position <= self._last:
                return True
            self._last = position
            return False
        if cursor == self._kept:
            return True
        self._n_since += 1
        if self._n_since >= self._n_until:
            self._kept, self._n_since, self._n_until = cursor, 0, 2 * self._n_until
        return False


def _report(key: ScopeKey, pass_: _Pass) -> dict[str, Any]:
    """Return the counts; warn if a full pass saw fewer ids than the archive announced."""
    is_complete = not pass_.stopped_early
    n_seen = n_listed(key) if pass_.is_resumed else len(pass_.ids) + pass_.counts["refused"]
    if pass_.is_full and pass_.n_expected is not None:
        n_missed = pass_.n_expected - n_seen
        is_complete = is_complete and n_missed <= 0
        if n_missed > 0:
            log.warning(
                "%s: read %d ids of %d announced; reconciling will find the others",
                key.title,
                n_seen,
                pass_.n_expected,
            )
    if pass_.counts["refused"]:
        log.warning("%s: refused %s", key.title, pass_.refusals.in_words())
    named = ["read", "new", "changed", "returned", "refused"]
    if n_elsewhere := pass_.counts["described_elsewhere"]:
        log.warning(
            "%s: %d images of the archive stay as another source describes them", key.title, n_elsewhere
        )
        named.append("described_elsewhere")
    counts = {name: pass_.counts[name] for name in named} | {"is_complete": is_complete}
    return counts | pass_.refusals.report()
