"""A file request -> the bytes of one rendition, as the archive's public bucket serves them."""

import asyncio
import hashlib
import re
from email.utils import format_datetime

from aiohttp import web

from archive_server.holdings import Holdings, StoredFile

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_FILE_NAMES = {
    "/images/": re.compile(r"(?P<isic_id>ISIC_[0-9]{7})\.[a-z]{3,4}"),
    "/thumbnails/": re.compile(r"(?P<isic_id>ISIC_[0-9]{7})_thumbnail\.jpg"),
}
_NO_SUCH_KEY = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>'
    "<Message>The specified key does not exist.</Message></Error>"
)


def add_routes(app: web.Application, holdings: Holdings) -> None:
    """Add `/images/...` and `/thumbnails/...` to an app."""

    async def file(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        prefix = request.path[: -len(name)]
        found = _FILE_NAMES[prefix].fullmatch(name)
        stored = None
        if found:
            rendition = "full" if prefix == "/images/" else "thumbnail_256"
            if holdings.has_at_hand(found["isic_id"], rendition):
                stored = holdings.file(found["isic_id"], rendition)
            else:  # drawing and resizing take milliseconds: off the event loop
                stored = await asyncio.to_thread(holdings.file, found["isic_id"], rendition)
        if stored is None:
            return web.Response(status=404, text=_NO_SUCH_KEY, content_type="application/xml")
        return _sent(request, stored)

    for prefix in _FILE_NAMES:
        app.router.add_get(prefix + "{name}", file)


def _sent(request: web.Request, stored: StoredFile) -> web.Response:
    """Answer with a whole file, a part of it, or that the client's copy is current."""
    digest = hashlib.md5(stored.content, usedforsecurity=False).hexdigest()
    etag = f'"{digest}"'
    headers = {
        "ETag": etag,
        "Last-Modified": format_datetime(stored.modified_at, usegmt=True),
        "Content-Disposition": "attachment",
        "Accept-Ranges": "bytes",
    }
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers=headers)
    content, status = stored.content, 200
    if asked := _RANGE.fullmatch(request.headers.get("Range", "")):
        first = int(asked[1])
        last = min(int(asked[2]) if asked[2] else len(content), len(content) - 1)
        if first > last:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        content, status = content[first : last + 1], 206
    return web.Response(status=status, body=content, content_type=stored.media_type, headers=headers)
