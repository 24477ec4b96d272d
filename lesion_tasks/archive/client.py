"""URLs -> complete, checked bodies: the asynchronous HTTP door to an archive.

One keep-alive session with a bounded number of connections. Whatever the network or a busy server causes (timeouts,
resets, 429, 5xx, pages of HTML, truncated bodies) is a fault: it is retried with back-off and then raised, and never
taken for an answer. Only hosts and schemes that the settings allow are contacted, also after redirects, and no
link-local, multicast or unspecified address, whatever name resolves to it. Every wait is bounded.
"""

import asyncio
import json
import logging
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from lesion_tasks import UnavailableError, UnusableInputError, __version__
from lesion_tasks.addresses import MalformedAddressError, masked, never_asked, shown, split_address
from lesion_tasks.catalog.pools import N_CONNECTIONS

log = logging.getLogger(__name__)

MAX_JSON_BYTES = 32 * 2**20  # a page of 100 records has 0.1 MB
MAX_REDIRECTS = 5
MAX_UNREACHABLE_IN_A_ROW = 20  # files that could not be fetched: then the server is gone, not the files
FOREIGN_ANSWERS_TO_BELIEVE = 3  # if the first answers are all foreign, the address is wrong
MAX_URL_CHARACTERS = 8_000  # the archive's request line ends at 8192 bytes
BUSY_STATUSES = frozenset({408, 413, 425, 429})  # and every 5xx


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a fault is tried again, and how long between tries."""

    n_attempts: int = 8
    first_delay_s: float = 0.25
    max_delay_s: float = 30.0
    # A longer Retry-After is cut to this: to wait for an hour is better left to the scheduler's own retry.
    max_retry_after_s: float = 120.0
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 35.0  # between two pieces of a body; the archive's router gives up after 30
    # Until status and headers have arrived, however slowly they trickle in: that router's limit and a proxy's on top.
    answer_timeout_s: float = 70.0
    # A body may be slow for this long; after that, a rate below the minimum is a fault. Ten connections that share a
    # line of 160 kbit/s still reach it, and no hospital's line is slower.
    slow_for_s: float = 60.0
    min_bytes_per_s: float = 2_000.0
    # Whatever its rate: the largest file that is accepted, 256 MiB, takes an hour at 75 kB/s.
    max_body_s: float = 3_600.0

    def delay_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Return the pause after failed attempt 1, 2, ...: doubling, with jitter, never under Retry-After."""
        delay_s = min(self.max_delay_s, self.first_delay_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        if retry_after_s is None:
            return delay_s
        return max(delay_s, min(retry_after_s, self.max_retry_after_s))


RETRY = Retry()


class ArchiveUnavailableError(UnavailableError):
    """The archive did not answer properly despite retries."""


class RefusedUrlError(Exception):
    """A URL names a host or scheme that the settings do not allow."""


class _FaultError(Exception):
    """One failed attempt."""

    def __init__(self, words: str, retry_after_s: float | None = None, *, is_foreign: bool = False) -> None:
        super().__init__(words)
        self.retry_after_s = retry_after_s
        self.is_foreign = is_foreign  # an answer, but not one that an archive's API gives


class OversizedError(Exception):
    """A body is longer than allowed: another attempt will not change that."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """A complete answer: status 200, or 4xx other than the busy ones."""

    status: int
    content_type: str  # without parameters, lower case
    data: bytes
    etag: str | None


class _PublicResolver(AbstractResolver):
    """Host names -> addresses that may be contacted. The session connects to exactly these: nothing resolves again."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for address in found:
            _check_ip(host, address["host"])
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _check_ip(host: str, ip_address: str) -> None:
    if kind := never_asked(ip_address):
        raise RefusedUrlError(f"host {host!r} is at the {kind} address {ip_address}: no archive can be there")


class ArchiveClient:
    """One session with one archive. Use as an asynchronous context manager."""

    def __init__(
        self,
        *,
        hosts: frozenset[str],
        allow_http: bool,
        n_connections: int = N_CONNECTIONS,
        retry: Retry = RETRY,
        fails_at_first_contact: bool = False,
    ) -> None:
        """Allow `hosts` (names without port); plain http only if `allow_http`.

        With `fails_at_first_contact`, a refused connection, an unknown host or repeated pages of HTML before the
        first answer mean a wrong address (UnusableInputError) and are not retried as faults.
        """
        self.hosts = hosts
        self.schemes = frozenset({"https", "http"} if allow_http else {"https"})
        self.n_connections = n_connections
        self.retry = retry
        self.n_faults = 0  # failed attempts so far, for the log
        self._fails_at_contact = fails_at_first_contact
        self._paused_until = 0.0  # monotonic; one 429 slows all requests down

    async def __aenter__(self) -> Self:
        # So that no request waits inside the session for a connection: that would count as time without an answer.
        self._free_connections = asyncio.Semaphore(self.n_connections)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self.n_connections, keepalive_timeout=30, resolver=_PublicResolver()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"lesion-tasks/{__version__}"},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self.retry.connect_timeout_s, sock_read=self.retry.read_timeout_s
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get_json(self, url: str) -> tuple[int, Any]:
        """GET -> (status, parsed JSON), for status 200 and for 4xx whose body is JSON.

        Raises ArchiveUnavailableError after the last attempt; HTML and broken JSON count as failed attempts.
        Raises UnusableInputError for an address that is not allowed, a redirect to one, and a body over
        MAX_JSON_BYTES, counted after decompression.
        """
        try:
            return await self._attempts(url, self._json_once)
        except RefusedUrlError as error:
            raise UnusableInputError(f"archive {shown(url)} cannot be queried: {error}") from error
        except OversizedError as error:
            raise UnusableInputError(f"archive {shown(url)}: {error}, expected a page of records") from error

    async def get_bytes(self, url: str, *, max_bytes: int) -> Body:
        """GET -> the whole body, as the server stored it, for status 200 and 4xx.

        Raises ArchiveUnavailableError after the last attempt, and OversizedError at once.
        """
        return await self._attempts(url, lambda each: self._once(each, max_bytes, "identity"))

    async def get_etag(self, url: str) -> str | None:
        """HEAD -> the ETag of a file; None if the server has no such file or sends no ETag.

        Raises ArchiveUnavailableError after the last attempt.
        """
        body: Body = await self._attempts(url, lambda each: self._once(each, 2**62, "identity", "HEAD"))
        return body.etag if body.status == 200 else None

    def check_url(self, url: str) -> None:
        """Raise RefusedUrlError unless a URL's scheme and host are allowed."""
        if len(url) > MAX_URL_CHARACTERS:
            raise RefusedUrlError(
                f"{shown(url)[:200]!r}... is not a URL: over {MAX_URL_CHARACTERS} characters"
            )
        try:
            parts = split_address(url)
        except MalformedAddressError as error:
            raise RefusedUrlError(f"{shown(url)[:200]!r} is not a URL: {error}") from None
        host, scheme = parts.hostname or "", parts.scheme
        if scheme not in self.schemes:
            raise RefusedUrlError(f"scheme {scheme!r} of {shown(url)[:200]}: expected {sorted(self.schemes)}")
        if host not in self.hosts:
            raise RefusedUrlError(
                f"host {host!r} of {shown(url)[:200]}: expected one of {sorted(self.hosts)}"
            )
        _check_ip(host, host)

    async def _json_once(self, url: str) -> tuple[int, Any]:
        body = await self._once(url, MAX_JSON_BYTES, "gzip")
        if not body.content_type.endswith("json"):
            found = body.content_type or "no content type"
            raise _FaultError(f"status {body.status} with {found}, expected JSON", is_foreign=True)
        try:
            return body.status, json.loads(body.data)
        except (ValueError, RecursionError) as error:
            raise _FaultError(f"status {body.status} with broken JSON: {error}") from None

    async def _attempts(self, url: str, once: Any) -> Any:
        self.check_url(url)
        for attempt in range(1, self.retry.n_attempts + 1):
            await self._wait_for_pause()
            try:
                async with self._free_connections:
                    answer = await once(url)
            except (_FaultError, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                self.n_faults += 1
                self._raise_if_wrong_address(url, error, attempt)
                words = masked(str(error)) or type(error).__name__
                if attempt == self.retry.n_attempts:
                    raise ArchiveUnavailableError(
                        f"{shown(url)}: {words}, after {attempt} attempts"
                    ) from error
                await self._back_off(url, attempt, error, words)
            else:
                self._fails_at_contact = False
                return answer
        raise AssertionError("a retry policy has at least one attempt")

    async def _back_off(self, url: str, attempt: int, error: Exception, words: str) -> None:
        retry_after_s = error.retry_after_s if isinstance(error, _FaultError) else None
        delay_s = self.retry.delay_s(attempt, retry_after_s)
        log.log(
            logging.INFO if attempt > 2 else logging.DEBUG,
            "%s: %s; attempt %d of %d, next in %.1f s",
            shown(url),
            words,
            attempt,
            self.retry.n_attempts,
            delay_s,
        )
        if retry_after_s is not None:
            self._paused_until = max(self._paused_until, time.monotonic() + delay_s)
        else:
            await asyncio.sleep(delay_s)

    async def _wait_for_pause(self) -> None:
        while (wait_s := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(wait_s + random.uniform(0, 0.05))

    def _raise_if_wrong_address(self, url: str, error: Exception, attempt: int) -> None:
        if not self._fails_at_contact:
            return
        expected = "expected an ISIC Archive API v2 there"
        if isinstance(error, aiohttp.ClientConnectorError):
            reason = error.os_error.strerror or str(error.os_error)
            raise UnusableInputError(
                f"archive {shown(url)} cannot be reached: {reason}; {expected}"
            ) from error
        # A proxy in trouble answers in HTML too, so one such answer is not enough.
        if isinstance(error, _FaultError) and error.is_foreign and attempt >= FOREIGN_ANSWERS_TO_BELIEVE:
            raise UnusableInputError(f"archive {shown(url)}: {error}; {expected}") from error

    async def _once(self, url: str, max_bytes: int, accept_encoding: str, method: str = "GET") -> Body:
        """Send one request and follow redirects to allowed places."""
        for _ in range(MAX_REDIRECTS + 1):
            headers = {"Accept-Encoding": accept_encoding}
            try:
                async with asyncio.timeout(self.retry.answer_timeout_s):
                    # encoded=True: a signed URL must be sent byte for byte.
                    response = await self._session.request(
                        method, URL(url, encoded=True), headers=headers, allow_redirects=False
                    )
            except TimeoutError:
                raise _FaultError("no answer in time") from None
            async with response:
                if response.status in {301, 302, 303, 307, 308}:
                    url = self._redirected(url, response.headers.get("Location", ""))
                    continue
                _raise_if_busy(response.status, response.headers)
                return Body(
                    status=response.status,
                    content_type=response.content_type if "Content-Type" in response.headers else "",
                    data=await self._read(response, max_bytes),
                    etag=response.headers.get("ETag"),
                )
        raise _FaultError(f"more than {MAX_REDIRECTS} redirects")

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
        except ValueError:
            target = location
        self.check_url(target)
        return target

    async def _read(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        """Read a body; raise if it is too long or too slow."""
        if (response.content_length or 0) > max_bytes:
            raise OversizedError(f"{response.content_length} bytes announced, expected at most {max_bytes}")
        pieces = bytearray()
        started = time.monotonic()
        # Counted after decompression: a small body can unpack to a large one. A body shorter than its Content-Length
        # raises inside aiohttp.
        async for piece in response.content.iter_any():
            pieces += piece
            if len(pieces) > max_bytes:
                raise OversizedError(f"more than {max_bytes} bytes")
            self._raise_if_slow(len(pieces), time.monotonic() - started)
        return bytes(pieces)

    def _raise_if_slow(self, n_bytes: int, took_s: float) -> None:
        allowed_s = self.retry.slow_for_s + n_bytes / self.retry.min_bytes_per_s
        if took_s > min(allowed_s, self.retry.max_body_s):
            raise _FaultError(f"only {n_bytes} bytes of a body in {took_s:.0f} s")


def _raise_if_busy(status: int, headers: Mapping[str, str]) -> None:
    if status in BUSY_STATUSES or status >= 500:
        raise _FaultError(f"status {status}", _retry_after_s(headers.get("Retry-After")))
    if status != 200 and not 400 <= status < 500:
        raise _FaultError(f"status {status}, expected 200")


def _retry_after_s(header: str | None) -> float | None:
    """Read Retry-After: seconds, or an HTTP date."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
