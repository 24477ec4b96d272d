"""A download folder, or the archive's own snapshot -> a listing, so that both are ingested like the API.

A download has no `created` and no prefixes: it is read from its first row to its last. Its records get a `files` entry
whose URL points into the download.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import Body
from lesion_tasks.archive.folder import open_folder
from lesion_tasks.archive.identifiers import IdSet
from lesion_tasks.archive.image_ids import is_id_of
from lesion_tasks.archive.listing import Page, Poll, RefusedCursorError
from lesion_tasks.archive.mapped_folder import MappedFolder
from lesion_tasks.archive.printable import printable
from lesion_tasks.archive.query import Expression, QueryCrashError, QueryError, parse, satisfies
from lesion_tasks.archive.recognition import mapping_of
from lesion_tasks.archive.record import RefusedRow
from lesion_tasks.archive.snapshot import METADATA_NAME, Snapshot, is_snapshot

PAGE_LENGTH = 500


class Download(Protocol):
    """Records with their files on this machine."""

    @property
    def made_at(self) -> datetime | None:
        """When the archive made it; None if it does not say."""

    @property
    def namespace(self) -> str | None:
        """Of ids that are not the archive's; None: all are."""

    @property
    def continues(self) -> str | None:
        """The folder with whose namespace this one goes on, if any."""

    def findings(self) -> tuple[str, ...]:
        """Return what somebody should know before anything is read, one sentence each."""

    def records(self, first_row: int = 0) -> Iterator[dict[str, Any]]:
        """Yield API-shaped records from a given row on; with `files` only if `file_of` knows none."""

    def file_of(self, isic_id: str) -> dict[str, Any] | None:
        """Return what a record's `files.full` says; None where there is no file."""

    def read_file(self, url: str, *, max_bytes: int) -> bytes:
        """Return the bytes behind a URL of `file_of`; raises FileNotFoundError, OversizedError, RefusedUrlError."""


def open_download(path: str | Path) -> Download:
    """Open a download folder in any layout, or a folder of somebody's own. Raises UnusableInputError."""
    if not is_snapshot(path):
        mapping = mapping_of(Path(path))
        return open_folder(path) if mapping is None else MappedFolder(Path(path), mapping)
    if not (Path(path) / METADATA_NAME).is_file():
        raise UnusableInputError(f"snapshot {path}: found a zip file, expected {METADATA_NAME} beside it")
    return Snapshot(Path(path))


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first field in which two records differ, with both values."""
    flat = [
        {**each, **each["metadata"]["acquisition"], **each["metadata"]["clinical"], "metadata": None}
        for each in (one, other)
    ]
    name = next(
        name for name in sorted(flat[0].keys() | flat[1].keys()) if flat[0].get(name) != flat[1].get(name)
    )
    found = " and ".join(printable(repr(each.get(name)), 80) for each in flat)
    return f"{printable(name, 60)} {found}"


class LocalListing:
    """The rows of a download that satisfy a query."""

    has_prefixes = False

    def __init__(self, path: str | Path, *, query: str, collections: str) -> None:
        if collections:
            raise UnusableInputError(
                f"download folder {path}: collections {collections!r} found, expected none"
            )
        self.download = open_download(path)
        self.namespace = self.download.namespace
        self.source = str(Path(path).absolute())
        self.query = query.strip()
        self.collections = ""
        self._wanted: Expression | None = self._parsed_query()
        self._rows: Iterator[Any] = iter(())
        self._next_row = -1  # the row that `_rows` yields next; -1: none
        # A resume point in one snapshot is meaningless for the next one under the same path.
        self._cursor = f"row@{made_at:%Y%m%d%H%M%S}:" if (made_at := self.download.made_at) else "row:"

    def _parsed_query(self) -> Expression | None:
        try:
            return parse(self.query)
        except (QueryError, QueryCrashError) as error:
            raise UnusableInputError(
                f"query {self.query!r}: {error}, expected the archive's search language"
            ) from error

    async def poll(self) -> Poll:
        """Count what is listed.

        Raises UnusableInputError if no row satisfies the query, or if two rows of one id contradict each other.
        """
        n_listed, n_rows = await asyncio.to_thread(self._count)
        if n_rows == 0:
            raise UnusableInputError(
                f"download folder {self.source}: found a table with column names only, expected a row for each image"
            )
        if n_listed == 0:
            raise UnusableInputError(
                f"download folder {self.source}: none of {n_rows} rows satisfies query {self.query!r}"
                f"{self._why_none()}"
            )
        findings = await asyncio.to_thread(self.download.findings)
        return Poll(
            n_records=n_listed,
            newest_created_at=self.download.made_at,
            newest_isic_id=None,
            findings=findings,
        )

    def _why_none(self) -> str:
        """The usual reason: these are other pictures, or nothing says what kind they are."""
        if not isinstance(self.download, MappedFolder):
            return ""
        mapping = self.download.mapping
        if "image_type" not in mapping.fields:
            return f"; {mapping.path} says nothing about image_type, in [columns] or in [constants]"
        if kind := mapping.constants.get("image_type"):
            return f"; all have image_type {kind!r}, and an empty query (--query '') takes every kind"
        return ""

    def _count(self) -> tuple[int, int]:
        ids, listed = IdSet(), IdSet()
        repeated: set[str] = set()
        n_refused = n_rows = 0
        for record in self.download.records():
            n_rows += 1
            isic_id = record["isic_id"]
            is_well_formed = is_id_of(self.namespace, isic_id)
            # Refused rows contradict nobody.
            if is_well_formed and not isinstance(record, RefusedRow) and not ids.add(isic_id):
                repeated.add(isic_id)
            if not self._is_listed(record):
                continue
            if is_well_formed:
                listed.add(isic_id)
            else:
                n_refused += 1
        if repeated:
            self._refuse_contradictions(repeated)
        return len(listed) + n_refused, n_rows

    def _refuse_contradictions(self, repeated: Set[str]) -> None:
        """Raise UnusableInputError if rows of one id differ: nothing here can tell which one is meant."""
        first: dict[str, tuple[int, bytes]] = {}
        for row, record in enumerate(self.download.records(), 1):
            isic_id = record["isic_id"]
            if isic_id not in repeated or isinstance(record, RefusedRow):
                continue
            digest = hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).digest()
            row_before, digest_before = first.setdefault(isic_id, (row, digest))
            if digest != digest_before:
                before = next(islice(self.download.records(row_before - 1), 1))
                raise UnusableInputError(
                    f"download folder {self.source}: {isic_id} is in rows {row_before} and {row} below the header "
                    f"with {_difference(before, record)}; expected one row for each id"
                )

    def _is_listed(self, record: dict[str, Any]) -> bool:
        return self._wanted is None or isinstance(record, RefusedRow) or satisfies(record, self._wanted)

    async def page(self, cursor: str | None, prefix: str = "") -> Page:
        if prefix:
            raise ValueError("a folder cannot be read by prefix")
        row = (cursor or f"{self._cursor}0").removeprefix(self._cursor)
        if not row.isdecimal():
            raise RefusedCursorError(f"cursor {cursor!r}: expected {self._cursor} and a number")
        return await asyncio.to_thread(self._page, int(row))

    def _page(self, first_row: int) -> Page:
        if first_row != self._next_row:
            self._rows, self._next_row = self.download.records(first_row), first_row
        items: list[Any] = []
        for record in self._rows:
            self._next_row += 1
            if self._is_listed(record):
                items.append(self._with_file(record))
            if len(items) == PAGE_LENGTH:
                return Page(items=items, n_records=None, next_cursor=f"{self._cursor}{self._next_row}")
        self._next_row = -1
        return Page(items=items, n_records=None, next_cursor=None)

    def _with_file(self, record: dict[str, Any]) -> dict[str, Any]:
        entry = self.download.file_of(record["isic_id"])
        return record if entry is None else record | {"files": {"full": entry}}

    async def count(self, prefix: str) -> int | None:
        if prefix:
            raise ValueError("a folder cannot be read by prefix")
        return (await asyncio.to_thread(self._count))[0]

    async def items_among(self, isic_ids: Sequence[str]) -> list[Any]:
        return await asyncio.to_thread(self._find, frozenset(isic_ids), True)

    async def item(self, isic_id: str) -> Any | None:
        found = await asyncio.to_thread(self._find, frozenset([isic_id]), False)
        return found[0] if found else None

    def _find(self, isic_ids: frozenset[str], only_listed: bool) -> list[Any]:
        return [
            self._with_file(record)
            for record in self.download.records()
            if record["isic_id"] in isic_ids and (self._is_listed(record) or not only_listed)
        ]

    async def file(self, url: str, *, max_bytes: int) -> Body:
        return await asyncio.to_thread(self._file, url, max_bytes)

    async def etag(self, url: str) -> str | None:
        return None

    def _file(self, url: str, max_bytes: int) -> Body:
        try:
            data = self.download.read_file(url, max_bytes=max_bytes)
        except (FileNotFoundError, IsADirectoryError):
            return Body(status=404, content_type="", data=b"", etag=None)
        # The ETag that the archive's bucket gives a file uploaded in one piece: it identifies a snapshot's file there.
        is_archives_own = url.startswith("zip:")
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"' if is_archives_own else None
        return Body(status=200, content_type="", data=data, etag=etag)
