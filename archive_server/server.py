"""HTTP requests -> the answers of the ISIC Archive API, version 2, from what it holds.

Everything is on one origin: the API under `/api/v2/`, files under `/images/` and `/thumbnails/`, and additions of a
local archive under `/admin/`.
"""

import asyncio
import ipaddress
import re
import weakref
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
from aiohttp import web
from aiohttp.web_response import ContentCoding

from archive_server import admin, faults, files
from archive_server.facets import count_facets
from archive_server.holdings import Collection, Holdings
from archive_server.paging import (
    BY_NAME,
    CREATED,
    NEWEST_FIRST,
    Cursor,
    InvalidCursorError,
    InvalidPositionError,
    Page,
    decode_cursor,
    paginate,
)
from lesion_tasks.archive.query import QueryCrashError, QueryError
from lesion_tasks.archive.vocabulary import LICENCES

API = "/api/v2/"
_INTEGER = re.compile(r"\s*[+-]?\d{1,18}\s*")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _InvalidError(Exception):
    """A parameter is wrong; holds the parts of the 422 body."""

    def __init__(self, *details: dict[str, Any]) -> None:
        self.details = list(details)


def build_app(
    holdings: Holdings,
    *,
    fault_plan: faults.FaultPlan | None = None,
    latency_ms: float = 0,
    has_unstable_ties: bool = False,
    names: frozenset[str] = frozenset(),
) -> web.Application:
    """Return the application that serves holdings.

    `latency_ms` is one round trip: it is added to every answer, and once more to the first on a connection, for the
    handshake on a real network. With `has_unstable_ties`, the order among equal `created` differs from request to
    request, as it may in the real archive. Only requests to loopback names and to `names` are answered: links and file
    URLs repeat the host of a request, and any web page can make a browser send one.
    """
    plan = fault_plan or faults.FaultPlan()
    connected: weakref.WeakSet[Any] = weakref.WeakSet()

    @web.middleware
    async def disturbed(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/admin/"):
            return await handler(request)
        if latency_ms:
            n_round_trips = 1 if request.transport in connected else 2
            connected.add(request.transport)
            await asyncio.sleep(n_round_trips * latency_ms / 1000)
        return await faults.answer(request, handler, plan)

    @web.middleware
    async def from_here(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_known(request.host, names):
            return web.Response(status=421, text="This archive does not answer to that name.")
        if request.path.startswith("/admin/") and not _is_same_origin(request):
            return web.Response(
                status=403, text="Changes are accepted only from here, not from pages of other sites."
            )
        return await handler(request)

    app = web.Application(middlewares=[from_here, disturbed, _worded])
    routes = _Routes(holdings, has_unstable_ties=has_unstable_ties)
    for path, handler in (
        ("images/", routes.images),
        ("images/search/", routes.search),
        ("images/search/size/", routes.search_size),
        ("images/facets/", routes.facets),
        ("images/{isic_id}/", routes.image),
        ("images/{isic_id}/similar/", routes.login_required),
        ("collections/", routes.list_collections),
        (r"collections/{id:\d+}/", routes.collection),
        ("stats/", routes.stats),
        ("users/me/", routes.login_required),
        ("zip-download/license-file/{licence}/", routes.licence),
    ):
        app.router.add_get(API + path, handler, allow_head=False)
    files.add_routes(app, holdings)
    admin.add_routes(app, holdings, plan)
    return app


def _is_known(host: str, names: frozenset[str]) -> bool:
    """Tell whether the Host header of a request is a loopback name, or one of `names`, with any port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in names or name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_same_origin(request: web.Request) -> bool:
    """Tell whether a request is from this origin or not from a browser: browsers send the origin of the page."""
    origin = request.headers.get("Origin")
    return origin in {None, _origin(request)} and request.headers.get("Sec-Fetch-Site") in {
        None,
        "none",
        "same-origin",
    }


@web.middleware
async def _worded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors with the archive's own bodies."""
    is_api = request.path.startswith(API)
    if is_api and not request.path.endswith("/"):
        query = f"?{request.query_string}" if request.query_string else ""
        return web.Response(status=301, headers={"Location": request.path + "/" + query})
    try:
        return await handler(request)
    except _InvalidError as error:
        return _json(request, {"detail": error.details}, status=422)
    except QueryError:
        return _json(request, {"message": "Could not parse search query."}, status=400)
    except QueryCrashError:
        return faults.error_page(500)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return web.Response(status=405, text="Method not allowed", headers={"Allow": allowed})
    except web.HTTPNotFound:
        return faults.error_page(404)


class _Routes:
    def __init__(self, holdings: Holdings, *, has_unstable_ties: bool) -> None:
        self.holdings = holdings
        self.has_unstable_ties = has_unstable_ties

    async def images(self, request: web.Request) -> web.Response:
        cursor, limit = _paging(request)
        return self._image_page(request, *self.holdings.select(), cursor, limit)

    async def search(self, request: web.Request) -> web.Response:
        cursor, limit = _paging(request)
        return self._image_page(request, *self._selected(request), cursor, limit)

    async def search_size(self, request: web.Request) -> web.Response:
        positions, _ = self._selected(request)
        return _json(request, {"size": self.holdings.source.total_bytes(positions)})

    async def facets(self, request: web.Request) -> web.Response:
        positions, _ = self._selected(request)
        return _json(request, count_facets(self.holdings, positions))

    async def image(self, request: web.Request) -> web.Response:
        position = self.holdings.position_of(request.match_info["isic_id"])
        if position is None:
            return _not_found(request)
        return _json(request, self.holdings.record(position, _origin(request)))

    async def list_collections(self, request: web.Request) -> web.Response:
        cursor, limit = _paging(request)
        chosen = list(self.holdings.source.collections)
        if (pinned := _last(request, "pinned")) is not None:
            chosen = [entry for entry in chosen if entry.is_pinned == (pinned.lower() in ("true", "1"))]
        sort = _last(request, "sort")
        if sort not in (None, "name", "created"):
            expected = "'name' or 'created'"
            raise _InvalidError(
                {
                    "type": "literal_error",
                    "loc": ["query", "sort"],
                    "msg": f"Input should be {expected}",
                    "ctx": {"expected": expected},
                }
            )
        if sort == "name":
            order, key = BY_NAME, _collection_name
        elif sort == "created":
            order, key = CREATED, _collection_age
        else:
            order, key = NEWEST_FIRST, _collection_newness
        chosen.sort(key=key)
        page = _page([key(entry) for entry in chosen], cursor, limit, order)
        return _page_json(request, page, [_collection_json(chosen[index]) for index in page.indices])

    async def collection(self, request: web.Request) -> web.Response:
        for entry in self.holdings.source.collections:
            if entry.id == int(request.match_info["id"]):
                return _json(request, _collection_json(entry))
        return _not_found(request)

    async def stats(self, request: web.Request) -> web.Response:
        holdings = self.holdings
        n_collections = len(holdings.source.collections)
        n_dois = sum(entry.doi is not None for entry in holdings.source.collections)
        image = {
            "images_count": int(holdings.table.n_records),
            "public_images_count": len(holdings.visible),
            "annotated_images_count": 0,
        }
        counts = {
            "image": image,
            "collection": {"collections_count": n_collections, "public_collections_count": n_collections},
            "doi": {"dois_count": n_dois},
            "study": {"studies_count": 0, "public_studies_count": 0},
            "user": {"users_count": 0},
            "engagement": {"30_day_sessions_count": 0},
        }
        return _json(request, counts)

    async def licence(self, request: web.Request) -> web.Response:
        name = request.match_info["licence"]
        if name not in LICENCES:
            return _not_found(request)
        return web.Response(
            text=f"{name}\n\nThe text of this licence is at https://creativecommons.org/licenses/\n"
        )

    async def login_required(self, request: web.Request) -> web.Response:
        return _json(request, {"detail": "Unauthorized"}, status=401)

    def _selected(self, request: web.Request) -> tuple[np.ndarray, np.ndarray]:
        text = ",".join(filter(None, request.query.getall("collections", [])))
        try:
            collections = tuple(int(part) for part in text.split(",")) if text else ()
        except ValueError as error:
            detail: dict[str, Any] = {
                "type": "value_error",
                "loc": ["query", "collections"],
                "msg": f"Value error, {error}",
                "ctx": {"error": str(error)},
            }
            raise _InvalidError(detail) from error
        return self.holdings.select(_last(request, "query") or "", collections)

    def _image_page(
        self,
        request: web.Request,
        positions: np.ndarray,
        created_us: np.ndarray,
        cursor: Cursor,
        limit: int | None,
    ) -> web.Response:
        page = _page(created_us, cursor, limit, CREATED)
        indices = _with_unstable_ties(page.indices, created_us) if self.has_unstable_ties else page.indices
        origin = _origin(request)
        records = [self.holdings.record(int(positions[index]), origin) for index in indices]
        return _page_json(request, page, records)


def _with_unstable_ties(indices: range, created_us: np.ndarray) -> list[int]:
    """Reorder equal `created` differently for each page: records move between pages, as upstream."""
    reordered = []
    for index in indices:
        first = int(np.searchsorted(created_us, created_us[index], "left"))
        last = int(np.searchsorted(created_us, created_us[index], "right"))
        order = np.random.default_rng((indices[0], first)).permutation(last - first)
        reordered.append(first + int(order[index - first]))
    return reordered


def _collection_name(entry: Collection) -> Any:
    return entry.name


def _collection_age(entry: Collection) -> Any:
    return entry.created_us


def _collection_newness(entry: Collection) -> Any:
    return -entry.created_us


def _collection_json(entry: Collection) -> dict[str, Any]:
    return {
        "doi": entry.doi,
        "doi_url": f"https://doi.org/{entry.doi}" if entry.doi else None,
        "id": entry.id,
        "name": entry.name,
        "description": entry.description,
        "public": True,
        "pinned": entry.is_pinned,
        "locked": entry.is_locked,
    }


def _origin(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _last(request: web.Request, name: str) -> str | None:
    """Return a parameter; of several, the last one."""
    values = request.query.getall(name, [])
    return values[-1] if values else None


def _paging(request: web.Request) -> tuple[Cursor, int | None]:
    """Read `cursor` and `limit`; raises _InvalidError that names each one that is wrong."""
    details: list[dict[str, Any]] = []
    text = _last(request, "limit")
    if text is not None and not _INTEGER.fullmatch(text):
        details.append(
            {
                "type": "int_parsing",
                "loc": ["query", "limit"],
                "msg": "Input should be a valid integer, unable to parse string as an integer",
            }
        )
    cursor = Cursor()
    try:
        cursor = decode_cursor(_last(request, "cursor") or "")
    except InvalidCursorError as error:
        details.append(
            {
                "type": "value_error",
                "loc": ["query", "cursor"],
                "msg": f"Value error, {error}",
                "ctx": {"error": str(error)},
            }
        )
    if details:
        raise _InvalidError(*details)
    return cursor, None if text is None else int(text)


def _page(keys: Any, cursor: Cursor, limit: int | None, order: Any) -> Page:
    try:
        return paginate(keys, cursor, limit, order)
    except InvalidPositionError as error:
        raise _InvalidError({"loc": ["query", "cursor"], "msg": f"Value error, {error}"}) from error


def _page_json(request: web.Request, page: Page, results: list[dict[str, Any]]) -> web.Response:
    envelope = {
        "results": results,
        "count": page.count,
        "next": _link(request, page.next),
        "previous": _link(request, page.previous),
    }
    return _json(request, envelope)


def _link(request: web.Request, cursor: Cursor | None) -> str | None:
    """Return this request's URL with another cursor, parameters sorted by name."""
    if cursor is None:
        return None
    query = parse_qs(request.query_string, keep_blank_values=True)
    query["cursor"] = [cursor.encode()]
    return f"{_origin(request)}{request.path}?{urlencode(sorted(query.items()), doseq=True)}"


def _json(request: web.Request, body: Any, status: int = 200) -> web.Response:
    response = web.json_response(body, status=status)
    response.headers["Access-Control-Allow-Origin"] = "*"
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression(ContentCoding.gzip)
    return response


def _not_found(request: web.Request) -> web.Response:
    return _json(request, {"detail": "Not Found"}, status=404)
