"""The product's counters reach both of Airflow's metric systems, from a process that ends as that of a task does."""

import gzip
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[1] / "plugins"
# Airflow ends the process of a task in this way: nothing that waits for an ordinary end is run.
TASK = "import os; from lesion_airflow import count; count({'new': 3, 'changed': 0}); os._exit(0)"


def run_task(home: Path, **metrics: str) -> None:
    environment = {f"AIRFLOW__METRICS__{name.upper()}": value for name, value in metrics.items()}
    here = {"AIRFLOW_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(PLUGINS), str(PLUGINS.parent)])}
    command = [sys.executable, "-c", TASK]
    done = subprocess.run(
        command, env=os.environ | environment | here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_statsd_receives_them(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        run_task(tmp_path, statsd_on="True", statsd_port=str(receiver.getsockname()[1]))
        received: list[bytes] = []
        while not any(b"lesion" in packet for packet in received):
            received.append(receiver.recv(4096))
    assert received[-1] == b"airflow.lesion.new:3|c"


@pytest.mark.parametrize("is_up", [True, False])
def test_opentelemetry_receives_them_and_no_task_fails_without_it(tmp_path: Path, is_up: bool) -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200 if is_up else 400)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run_task(tmp_path, otel_on="True", otel_host="127.0.0.1", otel_port=str(server.server_port))
        server.shutdown()
    assert [b"airflow.lesion.new" in body for body in bodies] == [True]
