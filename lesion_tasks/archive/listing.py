"""What every source of records offers, whether an API or a folder: a scope that can be listed.

A listing is a part of an archive (a query, optionally collections). It is read in pages, or by prefix: all ids that
start with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from lesion_tasks.archive.client import ArchiveUnavailableError, Body


@dataclass(frozen=True, kw_only=True)
class Poll:
    """What one cheap request reveals."""

    n_records: int | None  # None: the archive did not say
    newest_created_at: datetime | None  # None: the source has no such time
    newest_isic_id: str | None
    findings: tuple[str, ...] = ()  # what somebody should know before anything is read: one sentence each


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some items of a listing, as sent, and where to continue."""

    items: list[Any]
    n_records: int | None  # all items of the listing; only first pages say so
    next_cursor: str | None  # None: this was the last page
    previous_cursor: str | None = None


class RefusedCursorError(ArchiveUnavailableError):
    """The archive rejects this cursor, even though it may have issued it."""


class Listing(Protocol):
    """One scope of one source."""

    source: str  # the base URL without credentials, or the folder's absolute path
    query: str
    collections: str
    has_prefixes: bool  # False: only the empty prefix can be asked for
    namespace: str | None  # of ids that are not the archive's; None: all are

    async def poll(self) -> Poll:
        """Return size and newest record."""

    async def page(self, cursor: str | None, prefix: str = "") -> Page:
        """Return the page at a cursor (None: the first page) of all ids that start with `prefix`.

        Raises RefusedCursorError.
        """

    async def count(self, prefix: str) -> int | None:
        """Return how many ids start with `prefix`; None if the archive does not say."""

    async def items_among(self, isic_ids: Sequence[str]) -> list[Any]:
        """Return the listing's items among up to 100 ids."""

    async def item(self, isic_id: str) -> Any | None:
        """Return one item, whether or not it is in this scope; None if the source says that it does not exist."""

    async def file(self, url: str, *, max_bytes: int) -> Body:
        """Return the body behind a record's file URL."""

    async def etag(self, url: str) -> str | None:
        """Return the ETag of a file's current state; None if the server does not send one."""
