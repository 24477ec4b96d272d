"""A download folder -> a listing, so that a folder takes the same way as the API.

A folder has no `created` and no shards: it is read from its first row to its last. Its records get a `files` entry
whose URL is relative to the folder, so a folder that moves stays the same archive.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import Body, OversizedError, RefusedUrlError
from lesion_tasks.archive.folder import DownloadFolder, open_folder, read_records
from lesion_tasks.archive.identifiers import IdSet
from lesion_tasks.archive.listing import Page, Probe, RefusedCursorError
from lesion_tasks.archive_server.query import Expression, QueryCrashError, QueryError, parse, satisfies
from lesion_tasks.vocabulary import ISIC_ID

PAGE_LENGTH = 500


class FolderListing:
    """The rows of a download folder that satisfy a query."""

    has_shards = False

    def __init__(self, path: str | Path, *, query: str, collections: str) -> None:
        if collections:
            raise UnusableInputError(
                f"download folder {path}: collections {collections!r} found, expected none"
            )
        self.folder: DownloadFolder = open_folder(path)
        self.source = str(Path(path).absolute())
        self.query = query.strip()
        self.collections = ""
        self._wanted: Expression | None = self._parsed_query()
        self._rows: Iterator[Any] = iter(())
        self._next_row = -1  # where `_rows` stands; -1: nowhere

    def _parsed_query(self) -> Expression | None:
        try:
            return parse(self.query)
        except (QueryError, QueryCrashError) as error:
            raise UnusableInputError(
                f"query {self.query!r}: {error}, expected the archive's search language"
            ) from error

    async def probe(self) -> Probe:
        """Count what is listed. Raises UnusableInputError where no row satisfies the query."""
        n_listed, n_rows = await asyncio.to_thread(self._count)
        if n_listed == 0:
            raise UnusableInputError(
                f"download folder {self.source}: none of {n_rows} rows satisfies query {self.query!r}"
            )
        return Probe(n_records=n_listed, newest_created_at=None, newest_isic_id=None)

    def _count(self) -> tuple[int, int]:
        ids = IdSet()
        n_refused = n_rows = 0
        for record in read_records(self.folder):
            n_rows += 1
            if not self._is_listed(record):
                continue
            if ISIC_ID.fullmatch(record["isic_id"]):
                ids.add(record["isic_id"])
            else:
                n_refused += 1
        return len(ids) + n_refused, n_rows

    def _is_listed(self, record: dict[str, Any]) -> bool:
        return self._wanted is None or satisfies(record, self._wanted)

    async def page(self, cursor: str | None, prefix: str = "") -> Page:
        if prefix:
            raise ValueError("a folder has no shards")
        try:
            first_row = int((cursor or "row:0").removeprefix("row:"))
        except ValueError:
            raise RefusedCursorError(f"cursor {cursor!r}: expected row: and a number") from None
        return await asyncio.to_thread(self._page, first_row)

    def _page(self, first_row: int) -> Page:
        if first_row != self._next_row:
            self._rows = read_records(self.folder)
            self._next_row = sum(1 for _ in zip(range(first_row), self._rows, strict=False))
        items: list[Any] = []
        for record in self._rows:
            self._next_row += 1
            if self._is_listed(record):
                items.append(self._with_file(record))
            if len(items) == PAGE_LENGTH:
                return Page(items=items, n_records=None, next_cursor=f"row:{self._next_row}")
        self._next_row = -1
        return Page(items=items, n_records=None, next_cursor=None)

    def _with_file(self, record: dict[str, Any]) -> dict[str, Any]:
        path = self.folder.path_of(record["isic_id"])
        if path is None:
            return record
        url = "file:" + path.relative_to(self.folder.root).as_posix()
        return record | {"files": {"full": {"url": url, "size": path.stat().st_size}}}

    async def count(self, prefix: str) -> int | None:
        if prefix:
            raise ValueError("a folder has no shards")
        return (await asyncio.to_thread(self._count))[0]

    async def items_among(self, isic_ids: Sequence[str]) -> list[Any]:
        return await asyncio.to_thread(self._find, frozenset(isic_ids), True)

    async def item(self, isic_id: str) -> Any | None:
        found = await asyncio.to_thread(self._find, frozenset([isic_id]), False)
        return found[0] if found else None

    def _find(self, isic_ids: frozenset[str], only_listed: bool) -> list[Any]:
        return [
            self._with_file(record)
            for record in read_records(self.folder)
            if record["isic_id"] in isic_ids and (self._is_listed(record) or not only_listed)
        ]

    async def file(self, url: str, *, max_bytes: int) -> Body:
        return await asyncio.to_thread(self._file, url, max_bytes)

    def _file(self, url: str, max_bytes: int) -> Body:
        path = (self.folder.root / url.removeprefix("file:")).resolve()
        if not url.startswith("file:") or not path.is_relative_to(self.folder.root.resolve()):
            raise RefusedUrlError(f"{url[:200]!r}: expected a file: URL inside {self.source}")
        try:
            size_bytes = path.stat().st_size
            if size_bytes > max_bytes:
                raise OversizedError(f"{size_bytes} bytes, expected at most {max_bytes}")
            return Body(status=200, content_type="", data=path.read_bytes(), etag=None)
        except (FileNotFoundError, IsADirectoryError):
            return Body(status=404, content_type="", data=b"", etag=None)
