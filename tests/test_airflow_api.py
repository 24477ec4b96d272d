"""The demo's client of Airflow's API, against a server that is too busy to answer at once."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from lesion_tasks import UnusableInputError
from lesion_tasks.laptop import airflow_api, stack
from lesion_tasks.laptop.airflow_api import AirflowApi, AirflowBusyError, AirflowUnreachableError
from lesion_tasks.settings import read_settings


class Busy(BaseHTTPRequestHandler):
    """Answers a login only the second time, and anything else only from the third request on.

    What is created has been, though the answer comes too late: asked again it is there already.
    """

    n_asked = n_logins = 0
    created: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/auth/token":
            type(self).n_logins += 1
            self.answer(b'{"access_token": "token"}', is_late=self.n_logins == 1)
            return
        is_known = body in self.created
        self.created.append(body)
        self.ask(409 if is_known else 200)

    def do_GET(self) -> None:
        self.ask()

    def do_PATCH(self) -> None:
        self.ask()

    def ask(self, status: int = 200) -> None:
        type(self).n_asked += 1
        self.answer(b"{}", is_late=self.n_asked <= 2, status=status)

    def answer(self, body: bytes, *, is_late: bool, status: int = 200) -> None:
        if is_late:
            time.sleep(1)
        try:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)
        except BrokenPipeError:
            pass  # nobody waits any longer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowApi]:
    monkeypatch.setattr(airflow_api, "TIMEOUT_S", 0.3)
    Busy.n_asked = Busy.n_logins = 0
    Busy.created.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield AirflowApi(url=f"http://127.0.0.1:{server.server_port}", username="admin", password="x")
        server.shutdown()


def test_a_question_is_asked_again_when_the_server_is_busy(api: AirflowApi) -> None:
    assert api.get("dags") == {}
    assert (Busy.n_logins, Busy.n_asked) == (2, 3)
    Busy.n_asked = 0
    assert api.patch("dags/ingest_isic", {"is_paused": False}) == {}
    assert Busy.n_asked == 3


def test_a_run_is_started_once_however_late_the_server_answers(api: AirflowApi) -> None:
    run_id = api.trigger("ingest_isic", {})
    assert len(set(Busy.created)) == 1
    assert len(Busy.created) == 3
    assert run_id.encode() in Busy.created[0]


def test_a_request_that_changes_something_is_not_repeated(api: AirflowApi) -> None:
    with pytest.raises(AirflowBusyError, match=r"no answer within 0 s"):
        api.post("dags/ingest_isic/dagRuns", {})
    assert Busy.n_asked == 1


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    nobody = AirflowApi(url="http://127.0.0.1:9", username="admin", password="x")
    with pytest.raises(AirflowUnreachableError, match="refused"):
        nobody.get("dags")


def test_a_port_in_use_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESION_HOME", str(tmp_path / "home"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnusableInputError, match=f"port {port} on 127.0.0.1: "):
            stack.bring_up(read_settings(), stack.Wishes(), port=port, say=print)
    assert not (tmp_path / "home").exists()
