"""A fault plan -> which answer is disturbed and how, by chance (seeded) or by script.

Kinds: `429` (with Retry-After), `500`, `502`, `503`, `reset` (the connection is reset), `truncate` (half the body,
then the end), `wrong` (damaged bytes of the right length), `html200` and `html502` (an error page), `slow`.
"""

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from aiohttp import web

from lesion_tasks import UnusableInputError

KINDS = ("429", "500", "502", "503", "reset", "truncate", "wrong", "html200", "html502", "slow")
ERROR_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_REASONS = {
    "429": "Too Many Requests",
    "500": "Server Error",
    "502": "Bad Gateway",
    "503": "Service Unavailable",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(kw_only=True)
class FaultPlan:
    """The probability of each kind per answer, and a script that is played first."""

    probability_by_kind: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    retry_after_s: int = 1
    slow_ms: int = 500
    script: deque[str] = field(default_factory=deque)  # kinds, or "ok"; one is taken per answer

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._noise = random.Random(
            self.seed
        )  # its own, so that it does not alter which answers are disturbed

    def next_fault(self) -> str | None:
        """Return the kind of fault for the next answer; None for none."""
        if self.script:
            kind = self.script.popleft()
            return None if kind == "ok" else kind
        if not self.probability_by_kind:
            return None
        chance = self._random.random()
        for kind, probability in self.probability_by_kind.items():
            if chance < probability:
                return kind
            chance -= probability
        return None

    def noise(self, n_bytes: int) -> bytes:
        """Bytes to damage a body with: others each time, as on a line, where equal ones twice are the server's own."""
        return self._noise.randbytes(n_bytes)


def parse_faults(text: str) -> FaultPlan:
    """Read `429=0.02,reset=0.01,seed=3,retry_after=1,slow_ms=500`; empty is no faults.

    Raises UnusableInputError for anything else.
    """
    plan: dict[str, int] = {"seed": 0, "retry_after": 1, "slow_ms": 500}
    probabilities: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            if name in plan:
                plan[name] = int(value)
            elif name in KINDS and 0 <= float(value) <= 1:
                probabilities[name] = float(value)
            else:
                raise ValueError
        except ValueError:
            raise UnusableInputError(
                f"faults: found {part!r}; expected KIND=PROBABILITY with one of {', '.join(KINDS)}, "
                "or seed, retry_after or slow_ms with a whole number"
            ) from None
    if sum(probabilities.values()) > 1:
        raise UnusableInputError(
            f"faults: probabilities sum to {sum(probabilities.values()):g}, expected at most 1"
        )
    return FaultPlan(
        probability_by_kind=probabilities,
        seed=plan["seed"],
        retry_after_s=plan["retry_after"],
        slow_ms=plan["slow_ms"],
    )


def scripted(kinds: Iterable[str]) -> deque[str]:
    """Check a script; raises UnusableInputError for an unknown kind."""
    script = deque(kinds)
    for kind in script:
        if kind not in (*KINDS, "ok"):
            raise UnusableInputError(f"fault {kind!r}: expected ok or one of {', '.join(KINDS)}")
    return script


async def answer(request: web.Request, handler: Handler, plan: FaultPlan) -> web.StreamResponse:
    """Answer a request, disturbed as the plan says."""
    kind = plan.next_fault()
    match kind:
        case None:
            return await handler(request)
        case "429" | "503":
            headers = {"Retry-After": str(plan.retry_after_s)}
            return error_page(int(kind), headers=headers)
        case "500" | "502":
            return error_page(int(kind))
        case "html502":
            return error_page(502)
        case "html200":
            return web.Response(text=ERROR_PAGE.format("Maintenance"), content_type="text/html")
        case "reset":
            return _reset(request)
        case "slow":
            await asyncio.sleep(plan.slow_ms / 1000)
            return await handler(request)
    response = await handler(request)
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes) or not response.body:
        return response
    if kind == "wrong":
        return _damaged(response, response.body, plan)
    return await _truncated(request, response, response.body)


def error_page(status: int, headers: dict[str, str] | None = None) -> web.Response:
    """Return an HTML error page, as a proxy or framework writes it."""
    reason = _REASONS.get(str(status), "Not Found")
    return web.Response(
        status=status, text=ERROR_PAGE.format(reason), content_type="text/html", headers=headers
    )


def _reset(request: web.Request) -> web.Response:
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        # Lingering for zero seconds makes the kernel send RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


def _damaged(response: web.Response, body: bytes, plan: FaultPlan) -> web.Response:
    start, stop = len(body) // 3, 2 * len(body) // 3
    noise = plan.noise(stop - start)
    headers = {name: value for name, value in response.headers.items() if name != "Content-Length"}
    return web.Response(status=response.status, body=body[:start] + noise + body[stop:], headers=headers)


async def _truncated(request: web.Request, response: web.Response, body: bytes) -> web.StreamResponse:
    cut = web.StreamResponse(status=response.status, headers=response.headers)
    cut.content_length = len(body)
    await cut.prepare(request)
    await cut.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return cut
