"""An app -> a server, by default on 127.0.0.1, in this event loop or in its own thread."""

import asyncio
import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from lesion_tasks import UnusableInputError

HOST = "127.0.0.1"


async def start(app: web.Application, port: int, host: str = HOST) -> tuple[web.AppRunner, str]:
    """Serve an app on one address of this machine -> (what to clean up, its origin). Port 0 picks a free one.

    Raises UnusableInputError if the port is in use.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        found = "in use by another program" if error.errno == errno.EADDRINUSE else "not permitted"
        raise UnusableInputError(
            f"port {port} of {host}: {found}; expected a free one, or 0 for any"
        ) from error
    return runner, f"http://{host}:{runner.addresses[0][1]}"


@contextmanager
def running(app: web.Application, port: int = 0) -> Iterator[str]:
    """Serve an app from a thread of this process while the block runs; yields its origin."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="archive server", daemon=True)
    thread.start()
    try:
        runner, origin = asyncio.run_coroutine_threadsafe(start(app, port), loop).result()
        try:
            yield origin
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
