"""Exit status 0 if the Airflow service of this container works, 1 with one line if it does not.

The image's HEALTHCHECK. The command that the container runs decides what to check. Imports little: it runs all the
time, and starting Airflow's own command costs seconds of a core.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import ProxyHandler, build_opener

TIMEOUT_S = 5.0
# Airflow's API decides after how many seconds without a heartbeat a component is unhealthy; this only asks it.
COMPONENTS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}


def main() -> None:
    """Find out what runs here, and check it."""
    words = Path("/proc/1/cmdline").read_text().split("\0")
    try:
        check_for(words)()
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"unhealthy: {type(error).__name__}: {error}")


def check_for(words: list[str]) -> Callable[[], None]:
    """Command line of the container's first process -> its check; raises ValueError if it is unknown."""
    if "api-server" in words:
        return check_api
    if "celery" in words:
        return check_worker
    for word, component in COMPONENTS.items():
        if word in words:
            return lambda: check_component(component)
    raise ValueError(f"no check for {' '.join(words)!r}")


def check_api() -> None:
    """Check that the API answers on this machine."""
    _get("http://127.0.0.1:8080/api/v2/version")


def check_component(name: str) -> None:
    """Check that the API has seen this component's heartbeat lately, and that tasks could reach the API."""
    found = _get(urljoin(os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"], "/api/v2/monitor/health"))[
        name
    ]
    if found["status"] != "healthy":
        raise ValueError(f"{name} is {found['status']}")


def check_worker() -> None:
    """Check that the worker answers through the broker."""
    from celery import Celery

    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    here = f"celery@{socket.gethostname()}"
    if not app.control.ping(destination=[here], timeout=TIMEOUT_S):
        raise ValueError(f"{here} does not answer")


def _get(url: str) -> dict[str, dict[str, str]]:
    with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S) as answer:
        found: dict[str, dict[str, str]] = json.load(answer)
    return found


if __name__ == "__main__":
    main()
