"""Sorted keys, a cursor and a limit -> one page, with the archive's own paging quirks.

The scheme is Django REST Framework's cursor pagination as the archive runs it: keyset paging only on `created`, no
tiebreaker, and 101 rows fetched whatever the limit. The resulting defects (records lost inside a tie when the limit is
under 100, endless pages when more than 100 records share one instant, a corrupt cursor that silently restarts) are part
of the contract, because ingestion must survive them.
"""

import base64
import bisect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode

MAX_PAGE = 100
MAX_OFFSET = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOOSE_INSTANT = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
    r"(?:[T ](?P<hour>\d{1,2}):(?P<minute>\d{1,2})(?::(?P<second>\d{1,2}))?)?"
)


class InvalidCursorError(ValueError):
    """The cursor cannot be decoded."""


class InvalidPositionError(ValueError):
    """The cursor decodes, but its position is not a valid value in the listing's order."""


@dataclass(frozen=True)
class Cursor:
    """Where a page starts: `offset` rows beyond `position`, going backwards if `reverse`."""

    offset: int = 0
    reverse: bool = False
    position: str | None = None

    def encode(self) -> str:
        """Return base64(urlencode({o?, r?, p?})), with padding."""
        tokens: dict[str, str] = {}
        if self.offset:
            tokens["o"] = str(self.offset)
        if self.reverse:
            tokens["r"] = "1"
        if self.position is not None:
            tokens["p"] = self.position
        return base64.b64encode(urlencode(tokens).encode()).decode()


def decode_cursor(text: str) -> Cursor:
    """Read a cursor; anything that decodes but has no meaning (such as `AAAA`) is the first page, as upstream.

    Raises InvalidCursorError if it is not base64 of UTF-8, or `o` or `r` is not an integer.
    """
    try:
        tokens = parse_qs(base64.b64decode(text).decode(), keep_blank_values=True)
        offset = int(tokens.get("o", ["0"])[0])
        reverse = bool(int(tokens.get("r", ["0"])[0]))
    except ValueError as error:
        raise InvalidCursorError("Invalid cursor.") from error
    return Cursor(max(0, min(offset, MAX_OFFSET)), reverse, tokens["p"][0] if "p" in tokens else None)


def instant_us(text: str) -> int:
    """Read a date or date-time, naive meaning UTC -> microseconds since 1970.

    Raises InvalidPositionError for anything else.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        loose = _LOOSE_INSTANT.fullmatch(text.strip())
        if loose is None:
            raise InvalidPositionError("Invalid cursor.") from None
        parts = {name: int(value) for name, value in loose.groupdict().items() if value is not None}
        try:
            instant = datetime(**parts, tzinfo=UTC)
        except ValueError:
            raise InvalidPositionError("Invalid cursor.") from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return (instant - EPOCH) // timedelta(microseconds=1)


def instant_text(us: int) -> str:
    """Return `str(created)`: `2020-01-01 12:00:01.123456+00:00`, without a fraction when it is zero."""
    return str(EPOCH + timedelta(microseconds=int(us)))


@dataclass(frozen=True, kw_only=True)
class Order:
    """How a listing is ordered: sortable keys, ascending in listing order, and their spelling in a cursor."""

    key_of: Callable[[str], Any]  # position text -> key; raises InvalidPositionError
    text_of: Callable[[Any], str]


CREATED = Order(key_of=instant_us, text_of=instant_text)
# Collections are listed newest first: the key is the negated instant, so that keys still ascend.
NEWEST_FIRST = Order(key_of=lambda text: -instant_us(text), text_of=lambda key: instant_text(-key))
BY_NAME = Order(key_of=str, text_of=str)


@dataclass(frozen=True, kw_only=True)
class Page:
    """Indices into the keys, ascending, and where to continue (None: nowhere)."""

    indices: range
    count: int | None
    next: Cursor | None
    previous: Cursor | None


def clamp_limit(limit: int | None) -> int:
    """Return the page length: absent or 0 is 100, more is cut to 100, negative is an empty page."""
    return max(0, min(limit or MAX_PAGE, MAX_PAGE))


def paginate(keys: Sequence[Any], cursor: Cursor, limit: int | None, order: Order = CREATED) -> Page:
    """Cut one page out of ascending keys (any sequence that `bisect` can search).

    Raises InvalidPositionError if the cursor's position does not fit the order.
    """
    size = clamp_limit(limit)
    start, stop = 0, len(keys)
    if cursor.position is not None:
        bound = order.key_of(cursor.position)
        if cursor.reverse:
            stop = bisect.bisect_left(keys, bound)
        else:
            start = bisect.bisect_right(keys, bound)
    # Rows as fetched, nearest first. Always one more than the largest page: `beyond` is the last of them, not the
    # row after the page. This is why records inside a tie are lost when the limit is small.
    if cursor.reverse:
        fetched = range(stop - 1, start - 1, -1)[cursor.offset : cursor.offset + MAX_PAGE + 1]
    else:
        fetched = range(start, stop)[cursor.offset : cursor.offset + MAX_PAGE + 1]
    page = fetched[:size]
    has_more = len(fetched) > len(page)
    has_behind = cursor.position is not None or (cursor.offset > 0)
    beyond = order.text_of(keys[fetched[-1]]) if has_more else None

    def link(*, reverse: bool) -> Cursor | None:
        onward = reverse == cursor.reverse
        if not (has_more if onward else has_behind):
            return None
        walk = page[::-1] if onward else page
        return _link(
            [order.text_of(keys[index]) for index in walk],
            cursor=cursor,
            reverse=reverse,
            limit=size,
            ahead=beyond if onward else cursor.position,
            behind=cursor.position if onward else beyond,
            has_opposite=has_behind if onward else has_more,
        )

    return Page(
        indices=page[::-1] if cursor.reverse else page,
        count=len(keys) if cursor.position is None else None,
        next=link(reverse=False),
        previous=link(reverse=True),
    )


def _link(
    walk: list[str],
    *,
    cursor: Cursor,
    reverse: bool,
    limit: int,
    ahead: str | None,
    behind: str | None,
    has_opposite: bool,
) -> Cursor:
    """Find the nearest item of the page whose position differs from its neighbour's, and start after it.

    `walk` holds the page's positions, the one nearest to the link's direction first.
    """
    if not walk:
        return Cursor(0, reverse, ahead)
    turning = reverse != cursor.reverse
    compare = walk[0] if turning and cursor.offset else ahead
    for offset, position in enumerate(walk):
        if position != compare:
            return Cursor(offset, reverse, position)
        compare = position
    if not has_opposite:  # at the edge of the listing: an offset and no position
        return Cursor(limit, reverse, None)
    if turning:
        return Cursor(0, reverse, behind)
    return Cursor(cursor.offset + limit, reverse, behind)
