"""A position in time <-> the archive's paging cursor.

A cursor is base64(urlencode({o?, r?, p?})): `p` is the `created` of an item, `o` an offset after it, `r` = 1 pages
backwards. Nothing guarantees this form, so every reader here returns None for what it does not understand.
"""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

# No image is older than Unix time, and none is newer than a clock that runs a day ahead.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
CLOCK_SKEW = timedelta(days=1)
# Answered with the newest item, the total, and a `previous` link whose position is that item's `created`.
NEWEST = base64.b64encode(b"r=1").decode()


@dataclass(frozen=True, order=True)
class Position:
    """Everything created up to `created_at`, plus `offset` more items, has been read."""

    created_at: datetime
    offset: int = 0


def encode_cursor(position: Position) -> str:
    """Return the cursor of the page that starts after a position."""
    tokens: dict[str, str | int] = {"o": position.offset} if position.offset else {}
    tokens["p"] = str(position.created_at.astimezone(UTC))
    return base64.b64encode(urlencode(tokens).encode()).decode()


def decode_cursor(cursor: str | None) -> Position | None:
    """Return where a cursor points; None if its position is missing or impossible, or its form unknown."""
    if not cursor:
        return None
    try:
        tokens = parse_qs(base64.b64decode(cursor, validate=True).decode())
        created_at = as_possible_time(datetime.fromisoformat(tokens["p"][0]))
        offset = int(tokens.get("o", ["0"])[0])
    except (binascii.Error, ValueError, KeyError):
        return None
    return None if created_at is None or offset < 0 else Position(created_at, offset)


def as_possible_time(moment: datetime) -> datetime | None:
    """Return a time in UTC (assumed if it has no zone); None if no archive can have created anything then."""
    try:
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:  # in the first or last year that Python knows, and outside it in UTC
        return None
    return moment if EARLIEST <= moment <= datetime.now(UTC) + CLOCK_SKEW else None


def cursor_of(url: str | None) -> str | None:
    """Return the cursor in a `next` or `previous` link; None if there is no link or no cursor in it."""
    if not url:
        return None
    try:
        return parse_qs(urlsplit(url).query).get("cursor", [None])[0]
    except ValueError:
        return None
