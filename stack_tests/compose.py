"""The compose file -> a running stack that tests can use, break and read.

Needs a Docker engine. Everything has a project name of its own, so a stack that is in use is never touched.

    LESION_STACK_FILES    more compose files, with `:` between, such as one that names another S3 server
    LESION_STACK_UP       more arguments for `docker compose up`, such as `--pull never`
    LESION_STACK_KEEP     leave the stack running at the end. With a new image the next run starts the archive anew,
                          smaller than what was read of it, which ingestion refuses: take the stack down first
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesion_tasks.laptop.airflow_api import AirflowApi

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 900
DAGS = sorted(path.stem for path in (ROOT / "dags").glob("*.py"))


@dataclass(kw_only=True)
class Stack:
    """One compose project."""

    project: str
    folder: Path  # for .env
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    scale: dict[str, int] = field(default_factory=dict)

    def compose(self, *arguments: str, check: bool = True, timeout_s: float = START_TIMEOUT_S) -> str:
        """Run `docker compose` on this project and return what it printed."""
        return self._run(["docker", "compose", *arguments], check=check, timeout_s=timeout_s)

    def script(self, path: str, *arguments: str) -> str:
        """Run a script of the repository that calls `docker compose`; return what it printed."""
        return self._run([str(ROOT / path), *arguments], check=True, timeout_s=START_TIMEOUT_S)

    def _run(self, command: list[str], *, check: bool, timeout_s: float) -> str:
        extra = [name for name in os.environ.get("LESION_STACK_FILES", "").split(":") if name]
        files = ["docker-compose.yaml", "docker/compose.test.yaml", *extra]
        environment = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": ":".join(files),
            "COMPOSE_ENV_FILES": str(self.env_file),
            "LESION_PORT": str(self.port),
        }
        result = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **self.settings, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if check and result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}:\n{result.stdout}{result.stderr}"[-6000:])
        return result.stdout

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    @property
    def secrets(self) -> dict[str, str]:
        """What .env holds."""
        return dict(line.split("=", 1) for line in self.env_file.read_text().splitlines() if "=" in line)

    @property
    def up_options(self) -> list[str]:
        """How many of each service, and what LESION_STACK_UP says."""
        scale = [word for name, n in self.scale.items() for word in ("--scale", f"{name}={n}")]
        return [*scale, *os.environ.get("LESION_STACK_UP", "").split()]

    def up(self) -> float:
        """Write secrets, build and start everything; return the seconds until all of it is healthy."""
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, str(ROOT / "docker" / "write_env.py"), str(self.env_file)],
            check=True,
            capture_output=True,
        )
        self.compose("build", timeout_s=3600)
        begun = time.monotonic()
        self.compose("up", "--wait", "--no-build", *self.up_options)
        seconds = time.monotonic() - begun
        for dag in DAGS:
            wait_until(lambda dag=dag: dag in self.api.dag_ids(), 120, f"DAG {dag} is read")
            self.api.patch(f"dags/{dag}", {"is_paused": False})
        return seconds

    def down(self) -> None:
        """Remove the containers and the data of this project."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "20")

    @property
    def api(self) -> AirflowApi:
        """A session as the user of .env."""
        return AirflowApi(
            url=f"http://127.0.0.1:{self.port}",
            username="admin",
            password=self.secrets["AIRFLOW_UI_PASSWORD"],
        )

    def containers(self, service: str) -> list[str]:
        """Names of a service's containers."""
        return sorted(self.compose("ps", "--all", "--format", "{{.Name}}", service).split())

    def kill(self, container: str) -> None:
        """End every process of a container at once, as a machine that is switched off does."""
        subprocess.run(["docker", "kill", container], check=True, capture_output=True)

    def start(self, container: str) -> None:
        """Start a container that was killed."""
        subprocess.run(["docker", "start", container], check=True, capture_output=True)

    def run_in(self, service: str, *command: str) -> str:
        """Run a command in a running container of a service; return what it printed."""
        return self.compose("exec", "--no-TTY", service, *command)

    def query(self, statement: str, database: str = "lesions") -> list[list[str]]:
        """Rows of a statement, as text, under the superuser of the server."""
        out = self.run_in(
            "postgres", "sh", "-c", 'PGPASSWORD="$POSTGRES_PASSWORD" exec psql -h 127.0.0.1 -U postgres "$@"', "psql",
            "--no-align", "--tuples-only", "--field-separator", "\t", "--dbname", database, "--command", statement,
        )  # fmt: skip
        return [line.split("\t") for line in out.splitlines()]

    def memory_mib(self) -> dict[str, float]:
        """Memory that each container uses now."""
        names = self.compose("ps", "--format", "{{.Name}}").split()
        out = subprocess.run(
            ["docker", "stats", "--no-stream", "--format", "{{json .}}", *names],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        found = {}
        for line in out.splitlines():
            entry = json.loads(line)
            found[entry["Name"]] = _mib(entry["MemUsage"].split("/")[0].strip())
        return found


def _mib(text: str) -> float:
    units = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0, "B": 1 / 1024**2}
    unit = next(name for name in units if text.endswith(name))
    return float(text.removesuffix(unit)) * units[unit]


def wait_until(is_so: Callable[[], Any], timeout_s: float, what: str, pause_s: float = 1.0) -> Any:
    """Ask again and again; return the first answer that is true, or raise TimeoutError naming what was awaited."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := is_so():
            return found
        time.sleep(pause_s)
    raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
