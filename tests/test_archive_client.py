import asyncio
import contextlib
import gzip
import logging
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from aiohttp import web

from archive_server.hosting import running
from lesion_tasks import UnusableInputError
from lesion_tasks.addresses import shown
from lesion_tasks.archive.client import (
    ArchiveClient,
    ArchiveUnavailableError,
    OversizedError,
    RefusedUrlError,
    Retry,
)

FAST = Retry(n_attempts=4, first_delay_s=0.01, max_delay_s=0.02, read_timeout_s=0.3)
MAX_BYTES = 1_000_000


@contextmanager
def answering(handler):
    """A server whose every answer is `handler(request)`; gives its origin and the requests per path."""
    asked = Counter()

    async def count_and_answer(request):
        asked[request.path] += 1
        return await handler(request, asked[request.path])

    app = web.Application()
    app.router.add_get("/{path:.*}", count_and_answer)
    with running(app) as origin:
        yield origin, asked


def json_of(url, **options):
    async def ask():
        async with client_for(**options) as client:
            return await client.get_json(url)

    return asyncio.run(ask())


def bytes_of(url, max_bytes=MAX_BYTES, **options):
    async def ask():
        async with client_for(**options) as client:
            return await client.get_bytes(url, max_bytes=max_bytes)

    return asyncio.run(ask())


def client_for(hosts=("127.0.0.1",), allow_http=True, retry=FAST, **options):
    return ArchiveClient(hosts=frozenset(hosts), allow_http=allow_http, retry=retry, **options)


async def break_off(request):
    response = web.StreamResponse()
    response.content_length = 100
    await response.prepare(request)
    await response.write(b"0123456789")
    request.transport.close()
    return response


async def hang(request):
    await asyncio.sleep(1)
    return web.Response()


async def chunked_break_off(request):
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(b'{"a":')
    request.transport.abort()
    return response


FAULTS = {
    "429": lambda request: web.Response(status=429),
    "500": lambda request: web.Response(status=500),
    "502 in HTML": lambda request: web.Response(status=502, text="<html>", content_type="text/html"),
    "200 in HTML": lambda request: web.Response(text="<html>", content_type="text/html"),
    "404 in HTML": lambda request: web.Response(status=404, text="<html>", content_type="text/html"),
    "broken JSON": lambda request: web.Response(text='{"results": [', content_type="application/json"),
    "no UTF-8": lambda request: web.Response(body=b'{"a": "\xff"}', content_type="application/json"),
    "deep JSON": lambda request: web.Response(text="[" * 100_000, content_type="application/json"),
    "cut": break_off,
    "cut chunks": chunked_break_off,
    "hang": hang,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again_and_never_taken_for_an_answer(fault):
    async def answer(request, n):
        if n == 3:
            return web.json_response({"ok": True})
        response = FAULTS[fault](request)
        return response if isinstance(response, web.StreamResponse) else await response

    with answering(answer) as (origin, asked):
        assert json_of(f"{origin}/x") == (200, {"ok": True})
        assert asked["/x"] == 3


def test_after_the_last_attempt_the_archive_is_unavailable():
    async def answer(request, n):
        return web.Response(status=503)

    with answering(answer) as (origin, asked):
        with pytest.raises(ArchiveUnavailableError, match=r"/x: status 503, after 4 attempts"):
            json_of(f"{origin}/x")
        assert asked["/x"] == 4


def test_404_with_a_body_of_the_api_is_an_answer():
    async def answer(request, n):
        return web.json_response({"detail": "Not Found"}, status=404)

    with answering(answer) as (origin, asked):
        assert json_of(f"{origin}/x") == (404, {"detail": "Not Found"})
        assert asked["/x"] == 1


def test_retry_after_holds_back_every_request():
    async def answer(request, n):
        if request.path == "/busy" and n == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.json_response({"path": request.path})

    async def ask(origin):
        async with client_for() as client:
            busy = asyncio.create_task(client.get_json(f"{origin}/busy"))
            await asyncio.sleep(0.2)
            started = time.monotonic()
            await client.get_json(f"{origin}/other")
            await busy
            return time.monotonic() - started

    with answering(answer) as (origin, _):
        assert asyncio.run(ask(origin)) > 0.4


def test_an_endless_retry_after_is_cut():
    assert Retry(max_retry_after_s=120).delay_s(1, 86_400) == 120
    assert Retry(first_delay_s=1, max_delay_s=8).delay_s(10, None) <= 8


def test_connections_are_kept_and_bounded():
    peers, at_once, most = set(), 0, 0

    async def answer(request, n):
        nonlocal at_once, most
        peers.add(request.transport.get_extra_info("peername"))
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return web.json_response({})

    async def ask(origin):
        async with client_for(n_connections=3) as client:
            await asyncio.gather(*(client.get_json(f"{origin}/{n}") for n in range(30)))

    with answering(answer) as (origin, _):
        asyncio.run(ask(origin))
    assert len(peers) == 3
    assert most == 3


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://elsewhere.example/x", "host 'elsewhere.example'"),
        ("ftp://127.0.0.1/x", "scheme 'ftp'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("http://127.0.0.1@elsewhere.example/", "host 'elsewhere.example'"),
        ("http://127.0.0.1/a\r\nHost: evil", "is not a URL"),
        ("http://[::1/x", "its host is malformed"),
        ("http://127.0.0.1:99999/", "its port is not a number from 1 to 65535"),
        ("http://elsewhere.example:99999/", "its port is not a number from 1 to 65535"),
        ("", "is not a URL"),
    ],
)
def test_a_url_that_is_not_allowed_is_refused(url, words):
    with pytest.raises(RefusedUrlError) as refused:
        bytes_of(url)
    assert words in str(refused.value)


def test_plain_http_is_refused_where_the_archive_is_on_https():
    with pytest.raises(RefusedUrlError, match="scheme 'http'"):
        bytes_of("http://127.0.0.1/x", allow_http=False)


TARGETS = (
    "http://elsewhere.example/x",
    "file:///etc/passwd",
    "//elsewhere.example/",
    "http://[::1",
    "http://127.0.0.1:99999/",
    "http://169.254.169.254/latest",
    "/x\u00e9",
)


def redirecting_to(target):
    async def answer(request, n):
        return web.Response(status=302, headers={"Location": target})

    return answering(answer)


@pytest.mark.parametrize("target", TARGETS)
def test_a_redirect_leads_to_allowed_places_only(target):
    with redirecting_to(target) as (origin, _), pytest.raises(RefusedUrlError):
        bytes_of(f"{origin}/x")


@pytest.mark.parametrize("target", TARGETS)
def test_a_page_of_records_that_is_redirected_elsewhere_is_named_in_one_line(target):
    expected = r"^archive http://127.0.0.1:\d+/x cannot be queried: .+"
    with redirecting_to(target) as (origin, _), pytest.raises(UnusableInputError, match=expected) as red:
        json_of(f"{origin}/x")
    assert "\n" not in str(red.value)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "0.0.0.0", "224.0.0.1", "[fe80::1]", "[::ffff:169.254.169.254]"],  # noqa: S104
)
def test_an_address_where_no_archive_can_be_is_not_asked_even_if_it_is_allowed(host):
    with pytest.raises(RefusedUrlError, match="no archive can be there"):
        bytes_of(f"http://{host}/x", hosts=[host.strip("[]")])


def test_a_name_that_leads_to_such_an_address_is_not_asked_either(monkeypatch):
    def resolve(host, port, *rest, **more):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(
        RefusedUrlError, match=r"'rebound\.example' is at the link-local address 169\.254\.169\.254"
    ):
        bytes_of("http://rebound.example/x", hosts=["rebound.example"])


def dripping(pause_s, n_pieces):
    async def answer(request, n):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = n_pieces
        await response.prepare(request)
        for _ in range(n_pieces):
            await response.write(b" ")
            await asyncio.sleep(pause_s)
        return response

    return answering(answer)


@pytest.mark.parametrize(
    "limits", [{"slow_for_s": 0.2, "min_bytes_per_s": 1_000}, {"max_body_s": 0.2}], ids=["rate", "total"]
)
def test_a_body_that_drips_is_a_fault_and_does_not_hang(limits):
    retry = Retry(n_attempts=2, first_delay_s=0.01, read_timeout_s=1, **limits)
    with dripping(0.05, 400) as (origin, asked):
        started = time.monotonic()
        with pytest.raises(
            ArchiveUnavailableError, match=r"only \d+ bytes of a body in 0 s, after 2 attempts"
        ):
            bytes_of(f"{origin}/x", retry=retry)
        assert time.monotonic() - started < 5
        assert asked["/x"] == 2


def test_an_answer_whose_headers_drip_is_a_fault_and_does_not_hang():
    """One byte each 50 ms is inside the limit between two pieces."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            for _ in range(2):
                peer, _ = listener.accept()
                with peer, contextlib.suppress(OSError):
                    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 4_000:
                        peer.send(bytes([byte]))
                        time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        retry = Retry(n_attempts=2, first_delay_s=0.01, read_timeout_s=1, answer_timeout_s=0.3)
        with pytest.raises(ArchiveUnavailableError, match="no answer in time, after 2 attempts"):
            bytes_of(f"http://127.0.0.1:{listener.getsockname()[1]}/x", retry=retry)


def test_a_redirect_within_the_archive_is_followed():
    async def answer(request, n):
        if request.path == "/slash/":
            return web.json_response({"ok": True})
        return web.Response(status=301, headers={"Location": "/slash/"})

    with answering(answer) as (origin, _):
        assert json_of(f"{origin}/slash") == (200, {"ok": True})


def test_redirects_in_a_circle_end():
    async def answer(request, n):
        return web.Response(status=302, headers={"Location": "/x"})

    with answering(answer) as (origin, _), pytest.raises(ArchiveUnavailableError, match="redirects"):
        bytes_of(f"{origin}/x")


def test_a_body_over_the_cap_is_refused_at_once():
    async def answer(request, n):
        if request.path == "/announced":
            return web.Response(body=b"x" * 2_000)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"x" * 2_000)
        return response

    with answering(answer) as (origin, asked):
        for path in ("/announced", "/chunked"):
            with pytest.raises(OversizedError, match=r"at most 1000|more than 1000 bytes"):
                bytes_of(origin + path, max_bytes=1_000)
            assert asked[path] == 1


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(monkeypatch):
    monkeypatch.setattr("lesion_tasks.archive.client.MAX_JSON_BYTES", 10_000)

    async def answer(request, n):
        packed = gzip.compress(b"[" + b" " * 1_000_000 + b"]")
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=packed, headers=headers)

    with answering(answer) as (origin, asked):
        with pytest.raises(
            UnusableInputError, match=r"/x: more than 10000 bytes, expected a page of records"
        ):
            json_of(f"{origin}/x")
        assert asked["/x"] == 1


def unused_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_nothing_there_at_first_contact_is_a_wrong_address():
    url = f"http://127.0.0.1:{unused_port()}/api/v2/images/"
    with pytest.raises(UnusableInputError, match=r"127\.0\.0\.1:\d+/api/v2/images/ cannot be reached"):
        json_of(url, fails_at_first_contact=True)


def test_an_unknown_host_at_first_contact_is_a_wrong_address():
    with pytest.raises(UnusableInputError, match=r"nowhere\.invalid"):
        json_of("http://nowhere.invalid/", hosts=["nowhere.invalid"], fails_at_first_contact=True)


def test_a_web_site_at_first_contact_is_a_wrong_address():
    async def answer(request, n):
        return web.Response(text="<html>", content_type="text/html")

    with (
        answering(answer) as (origin, _),
        pytest.raises(UnusableInputError, match="status 200 with text/html"),
    ):
        json_of(f"{origin}/x", fails_at_first_contact=True)


def test_nothing_there_later_is_a_fault():
    with pytest.raises(ArchiveUnavailableError, match="after 4 attempts"):
        json_of(f"http://127.0.0.1:{unused_port()}/x")


def test_credentials_are_in_no_message(caplog):
    async def answer(request, n):
        return web.Response(status=500)

    caplog.set_level(logging.DEBUG)
    with answering(answer) as (origin, _):
        url = origin.replace("http://", "http://user:secret@") + "/x?Signature=secret&Key-Pair-Id=secret"
        with pytest.raises(ArchiveUnavailableError) as failed:
            bytes_of(url)
    assert "attempt 3" in caplog.text
    assert "secret" not in caplog.text + str(failed.value)


def test_shown_keeps_what_identifies_a_place():
    assert shown("https://user:secret@host:8443/a/b?c=d#e") == "https://host:8443/a/b"


def etag_of(url):
    async def ask():
        async with client_for() as client:
            return await client.get_etag(url)

    return asyncio.run(ask())


def test_the_state_of_a_file_is_asked_for_without_the_file():
    methods = []

    async def answer(request, n):
        methods.append(request.method)
        return web.Response(body=b"x" * 10_000, headers={"ETag": '"abc"'})

    with answering(answer) as (origin, _):
        assert etag_of(f"{origin}/x") == '"abc"'
    assert methods == ["HEAD"]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_cannot_be_asked_for_has_no_state(status):
    async def answer(request, n):
        return web.Response(status=status, headers={"ETag": '"of the error page"'})

    with answering(answer) as (origin, _):
        assert etag_of(f"{origin}/x") is None


def test_a_question_for_the_state_of_a_file_is_not_led_elsewhere():
    async def answer(request, n):
        return web.Response(status=302, headers={"Location": "http://elsewhere.example/x"})

    with answering(answer) as (origin, _), pytest.raises(RefusedUrlError):
        etag_of(f"{origin}/x")
