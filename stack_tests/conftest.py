"""One stack for the whole run, on a port of its own."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack_tests.compose import Stack

N_IMAGES = 1_500  # fewer give no champion


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two CPU workers, one trainer, and an archive of drawn images, healthy and switched on."""
    if shutil.which("docker") is None:
        pytest.fail("this needs a Docker engine: there is no command `docker` on the PATH")
    with socket.socket() as poll:
        poll.bind(("127.0.0.1", 0))
        port = poll.getsockname()[1]
    found = Stack(
        project=os.environ.get("LESION_STACK_PROJECT", "lesion-test"),
        folder=Path(os.environ.get("LESION_STACK_FOLDER") or tmp_path_factory.mktemp("stack")),
        port=int(os.environ.get("LESION_STACK_PORT") or port),
        settings={
            "LESION_ARCHIVE_URL": "http://archive:8000/api/v2/",
            "LESION_WEIGHTS": "none",
            "TASK_HEARTBEAT_TIMEOUT_S": "30",  # a dead worker is noticed sooner than with the default
            "TASK_QUEUED_TIMEOUT_S": "60",
            "TEST_ARCHIVE_SOURCE": f"synthetic:{N_IMAGES}",
            **{name: value for name, value in os.environ.items() if name.startswith(("TEST_", "LESION_"))},
        },
        scale={"worker": 2},
    )
    try:
        print(f"started in {found.up():.0f} s")
        yield found
    finally:
        if not os.environ.get("LESION_STACK_KEEP"):
            found.down()
