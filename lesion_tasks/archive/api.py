"""The ISIC Archive API v2 -> a listing.

Pages always have 100 items: shorter ones lose records that share a `created`. Only the cursor of a `next` link is
used, so that no answer can send us elsewhere.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from lesion_tasks import UnusableInputError
from lesion_tasks.addresses import shown
from lesion_tasks.archive.client import ArchiveClient, ArchiveUnavailableError, Body
from lesion_tasks.archive.listing import Page, Poll, RefusedCursorError
from lesion_tasks.archive.page_cursor import NEWEST, cursor_of, decode_cursor
from lesion_tasks.archive.vocabulary import ISIC_ID

PAGE_LENGTH = 100
MAX_REQUEST_LINE = 8_000  # the archive refuses request lines over 8192 bytes


class ApiListing:
    """The images of an API that match a query and, optionally, belong to collections."""

    has_prefixes = True
    namespace: str | None = None

    def __init__(self, client: ArchiveClient, base_url: str, *, query: str, collections: str) -> None:
        self.client = client
        self.base_url = base_url
        self.source = shown(base_url)
        self.query = query.strip()
        self.collections = collections

    async def poll(self) -> Poll:
        """Ask for the newest item.

        Raises UnusableInputError if no ISIC Archive API answers, or if it does not accept this query.
        """
        page = await self._search(limit=1, cursor=NEWEST)
        newest = page.items[-1].get("isic_id") if page.items and isinstance(page.items[-1], dict) else None
        position = decode_cursor(page.previous_cursor)
        return Poll(
            n_records=page.n_records,
            newest_created_at=position.created_at if position else None,
            newest_isic_id=newest if isinstance(newest, str) and ISIC_ID.fullmatch(newest) else None,
        )

    async def page(self, cursor: str | None, prefix: str = "") -> Page:
        return await self._search(limit=PAGE_LENGTH, cursor=cursor, prefix=prefix)

    async def count(self, prefix: str) -> int | None:
        return (await self._search(limit=1, prefix=prefix)).n_records

    async def items_among(self, isic_ids: Sequence[str]) -> list[Any]:
        if len(isic_ids) > PAGE_LENGTH:
            raise ValueError(f"{len(isic_ids)} ids, expected at most {PAGE_LENGTH}")
        term = " OR ".join(f"isic_id:{isic_id}" for isic_id in isic_ids)
        return (await self._search(limit=PAGE_LENGTH, term=f"({term})")).items

    async def item(self, isic_id: str) -> Any | None:
        if not ISIC_ID.fullmatch(isic_id):
            raise ValueError(f"{isic_id!r} is not an ISIC id")
        status, answer = await self.client.get_json(f"{self.base_url}images/{isic_id}/")
        if status == 200:
            return answer
        if status == 404 and isinstance(answer, dict) and "detail" in answer:
            return None
        raise ArchiveUnavailableError(f"{self.source}images/{isic_id}/: status {status}, expected 200 or 404")

    async def file(self, url: str, *, max_bytes: int) -> Body:
        return await self.client.get_bytes(url, max_bytes=max_bytes)

    async def etag(self, url: str) -> str | None:
        return await self.client.get_etag(url)

    async def _search(
        self, *, limit: int, cursor: str | None = None, prefix: str = "", term: str = ""
    ) -> Page:
        query = _narrowed(self.query, f"isic_id:{prefix}*" if prefix else term)
        given = {"query": query, "collections": self.collections, "cursor": cursor}
        url = f"{self.base_url}images/search/?" + urlencode(
            {"limit": limit} | {name: value for name, value in given.items() if value}, quote_via=quote
        )
        if len(url) > MAX_REQUEST_LINE:
            raise UnusableInputError(
                f"query {self.query[:200]!r}...: {len(url)} characters including the address, "
                f"expected at most {MAX_REQUEST_LINE}"
            )
        status, answer = await self.client.get_json(url)
        if status == 200:
            return self._checked_page(answer)
        raise self._refusal(status, answer, cursor)

    def _checked_page(self, answer: Any) -> Page:
        if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
            found = ", ".join(sorted(answer)[:5]) if isinstance(answer, dict) else type(answer).__name__
            raise UnusableInputError(
                f"archive {self.source}: answered with {found or 'an empty object'}, "
                "expected the results of an ISIC Archive API v2"
            )
        count = answer.get("count")
        next_url, previous_url = answer.get("next"), answer.get("previous")
        next_cursor = cursor_of(next_url) if isinstance(next_url, str) else None
        if isinstance(next_url, str) and next_url and not next_cursor:
            raise ArchiveUnavailableError(f"{self.source}: a next link without a cursor")
        return Page(
            items=answer["results"],
            n_records=count
            if isinstance(count, int) and not isinstance(count, bool) and count >= 0
            else None,
            next_cursor=next_cursor,
            previous_cursor=cursor_of(previous_url) if isinstance(previous_url, str) else None,
        )

    def _refusal(self, status: int, answer: Any, cursor: str | None) -> Exception:
        if status == 422 and cursor and "cursor" in str(answer).lower():
            return RefusedCursorError(f"{self.source}: status 422 for cursor {cursor[:80]!r}")
        if status == 400 and isinstance(answer, dict) and "query" in str(answer.get("message", "")):
            return UnusableInputError(
                f"query {self.query!r}: archive {self.source} answers {answer['message']!r}, "
                "expected a query in its search language, such as image_type:dermoscopic"
            )
        return UnusableInputError(
            f"archive {self.source}: status {status} with {str(answer)[:200]!r} for a search "
            f"(query {self.query!r}, collections {self.collections!r}), expected an ISIC Archive API v2"
        )


def _narrowed(query: str, term: str) -> str:
    """Return a query for what satisfies both. A group needs an explicit operator next to it."""
    if not query or not term:
        return query or term
    return f"({query}) AND {term}"


def is_api(source: str) -> bool:
    """Tell a URL from a path."""
    return source.lower().startswith(("http://", "https://"))
