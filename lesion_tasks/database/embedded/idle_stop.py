"""A server that nobody asks anything -> stopped. The next command that needs it starts it again.

    python -m lesion_tasks.database.embedded.idle_stop HOME

Started with the server, and ends with it: a restarted one has its own watch.
"""

import sys
import time
from pathlib import Path

import psutil

from lesion_tasks.database.embedded import postgres

IDLE_S = 4 * 3600.0
LOOK_S = 60.0


def stop_when_idle(home: Path, *, idle_s: float = IDLE_S, look_s: float = LOOK_S) -> bool:
    """Watch the server under `home`, and stop it once it has had no session for `idle_s`.

    Looks every `look_s`. A session that began and ended between two looks counts. Returns whether this stopped the
    server; False: it had ended already, or another process is the server by now.
    """
    watched = postgres.running_server(home)
    used_at, n_before = time.monotonic(), None
    while watched is not None and postgres.running_server(home) == watched:
        use = postgres.read_use(home)
        # A server that does not answer is starting, ending, or full.
        if use is None or use.n_open or use.n_ever != n_before:
            used_at, n_before = time.monotonic(), None if use is None else use.n_ever
        elif time.monotonic() - used_at >= idle_s:
            return postgres.stop(home, only=watched)
        try:
            watched.wait(timeout=look_s)  # a pause that ends with the server
        except psutil.TimeoutExpired:
            continue
    return False


if __name__ == "__main__":
    stop_when_idle(Path(sys.argv[1]))
