"""Airflow's REST API v2 -> runs, their tasks and states. Standard library only."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
TOKEN_LIFETIME_S = 3600.0
TIMEOUT_S = 30.0
N_PATIENT = 5  # how often a question is asked again when the machine is too busy to answer
PAGE_SIZE = 100  # the most that the server returns at once by default
MAX_ERROR_LINES, MAX_LINE_LENGTH = 6, 400  # of one error's text


class AirflowUnreachableError(Exception):
    """The API server does not answer, or not as an API server does."""


class AirflowBusyError(AirflowUnreachableError):
    """The API server is there and does not answer in time."""


@dataclass(kw_only=True)
class AirflowApi:
    """One user's session with an API server on this machine."""

    url: str  # without a trailing slash
    username: str
    password: str
    _token: str = field(default="", init=False, repr=False)
    _token_at: float = field(default=0.0, init=False, repr=False)
    # Never through a proxy: the server is on this machine.
    _opener: OpenerDirector = field(
        default_factory=lambda: build_opener(ProxyHandler({})), init=False, repr=False
    )

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON at `/api/v2/<path>`."""
        asked = f"?{urlencode(query, doseq=True)}" if query else ""
        return self._call("GET", f"/api/v2/{path}{asked}")

    def post(self, path: str, body: Any) -> Any:
        """Create something; return it as the server created it."""
        return self._call("POST", f"/api/v2/{path}", body)

    def patch(self, path: str, body: Any) -> Any:
        """Change something; return it as it is afterwards."""
        return self._call("PATCH", f"/api/v2/{path}", body)

    def health(self) -> dict[str, str]:
        """Return the state of each component: "healthy", "unhealthy", or "absent" when it never reported."""
        try:
            found = self._send("GET", "/api/v2/monitor/health", None, {})
        except (AirflowUnreachableError, HTTPError):
            return dict.fromkeys(COMPONENTS, "absent")
        return {name: (found.get(name) or {}).get("status") or "absent" for name in COMPONENTS}

    def warm_up(self) -> None:
        """Make the server build the routes that tasks use, which takes 3 s at the first request."""
        _patiently(lambda: self._send("GET", "/execution/health", None, {}))

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool unless one with this name exists; its size may have been changed by hand."""
        try:
            self.get(f"pools/{quote(name)}")
        except HTTPError as error:
            if error.code != 404:
                raise
            self._create(
                "pools",
                {"name": name, "slots": slots, "description": description, "include_deferred": True},
            )

    def dag_ids(self) -> set[str]:
        """Return the DAGs that have been parsed."""
        return {dag["dag_id"] for dag in self.get("dags", limit=100, exclude_stale=True)["dags"]}

    def import_errors(self) -> dict[str, str]:
        """Return the traceback of each DAG file that could not be read, by file name."""
        found = self.get("importErrors", limit=100)["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in found}

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run by hand and return its id: one run, however often a busy server has to be asked."""
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self._create(f"dags/{quote(dag_id)}/dagRuns", body)
        return run_id

    def runs(self, dag_id: str, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest runs of a DAG, newest first."""
        found: list[dict[str, Any]] = self.get(
            f"dags/{quote(dag_id)}/dagRuns", limit=limit, order_by="-run_after"
        )["dag_runs"]
        return found

    def task_instances(self, dag_id: str, dag_run_id: str) -> list[dict[str, Any]]:
        """Return every task instance of a run, mapped ones included."""
        path = f"dags/{quote(dag_id)}/dagRuns/{quote(dag_run_id)}/taskInstances"
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(path, limit=PAGE_SIZE, offset=len(found), order_by="id")
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def log(self, task: dict[str, Any], n_lines: int = 15) -> list[str]:
        """Return the last lines of a task instance's newest log."""
        path = (
            f"dags/{quote(task['dag_id'])}/dagRuns/{quote(task['dag_run_id'])}/taskInstances/"
            f"{quote(task['task_id'])}/logs/{max(task['try_number'], 1)}"
        )
        lines = []
        for entry in self.get(path, map_index=task["map_index"], full_content=True).get("content") or []:
            lines += _log_lines(entry)
        return lines[-n_lines:]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        if time.monotonic() - self._token_at > TOKEN_LIFETIME_S or not self._token:
            login = {"username": self.username, "password": self.password}
            self._token = _patiently(lambda: self._send("POST", "/auth/token", login, {}))["access_token"]
            self._token_at = time.monotonic()
        headers = {"Authorization": f"Bearer {self._token}"}
        if method not in ("GET", "PATCH"):
            return self._send(method, path, body, headers)
        # A question, or a change that is the same when made twice.
        return _patiently(lambda: self._send(method, path, body, headers))

    def _create(self, path: str, body: dict[str, Any]) -> None:
        """Create what has a name of its own: a busy server that answers too late has it when it is asked again."""
        attempts = iter(range(N_PATIENT + 1))

        def create() -> None:
            attempt = next(attempts)
            try:
                self.post(path, body)
            except HTTPError as error:
                if error.code != 409 or not attempt:
                    raise

        _patiently(create)

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        request = Request(self.url + path, data=data, headers=headers, method=method)  # noqa: S310 - ours, http
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                content = answer.read()
        except HTTPError:
            raise
        except TimeoutError as error:
            raise AirflowBusyError(f"{self.url}: no answer within {TIMEOUT_S:.0f} s") from error
        except (URLError, OSError) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise AirflowBusyError(f"{self.url}: no connection within {TIMEOUT_S:.0f} s") from error
            raise AirflowUnreachableError(f"{self.url}: {error}") from error
        return json.loads(content) if content else None


def _patiently(do: Callable[[], Any]) -> Any:
    """Do what may be done twice, again and again while the server is too busy to answer."""
    for _ in range(N_PATIENT):
        try:
            return do()
        except AirflowBusyError:
            continue
    return do()


def _log_lines(entry: Any) -> list[str]:
    """A structured log entry -> the lines that a person needs to read."""
    if isinstance(entry, str):
        return entry.splitlines()
    lines = str(entry.get("event", "")).splitlines()
    for error in entry.get("error_detail") or []:
        said = f"{error.get('exc_type')}: {error.get('exc_value')}".splitlines()
        # An error of the database repeats the whole statement and its values.
        lines += [line[:MAX_LINE_LENGTH] for line in said[:MAX_ERROR_LINES]]
    return [line for line in lines if line.strip() and not line.startswith("::")]
