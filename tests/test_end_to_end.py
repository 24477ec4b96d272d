"""The whole path on a real scheduler: from a synthetic archive to a champion, twice, and stopped cleanly."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from sqlalchemy import text
from test_notices import Received, webhook

from lesion_tasks.database.connection import engine_for
from lesion_tasks.database.embedded import postgres
from lesion_tasks.laptop import airflow, chain, stack
from lesion_tasks.laptop.airflow_api import AirflowApi

ROOT = Path(__file__).parents[1]
N_FIRST, N_SECOND = 400, 440

__all__ = ["webhook"]  # a fixture

# What the path leaves; a run that is repeated adds nothing to it.
TABLES = ("record_version", "image", "manifest", "training", "evaluation", "test_opening", "promotion")

pytestmark = pytest.mark.scheduler


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A demo that ran to its end, and its Airflow, still running."""

    home: Path
    first: subprocess.CompletedProcess[str]

    @property
    def api(self) -> AirflowApi:
        return airflow.connect(self.home)

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The newest runs of a DAG, newest first, without those of its timetable: one may come at any moment."""
        return [run for run in self.api.runs(dag_id) if run["run_type"] != "scheduled"]

    def announced(self, dag_id: str) -> Any:
        """What the newest run of a DAG announced."""
        run = self.runs(dag_id)[0]
        path = f"dags/{dag_id}/dagRuns/{run['dag_run_id']}/taskInstances/announce/xcomEntries/return_value"
        return self.api.get(path, stringify=False)["value"]

    def rows(self) -> dict[str, int]:
        """Rows of each table that the path fills."""
        with engine_for(postgres.database_url(self.home, "lesions")).connect() as connection:
            return {name: connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0 for name in TABLES}

    def await_rest(self) -> None:
        """Wait until no run of the path is under way, nor about to begin."""
        n_quiet = 0
        deadline = time.monotonic() + 300
        while n_quiet < 5 and time.monotonic() < deadline:
            states = [run["state"] for dag_id in chain.STAGES for run in self.api.runs(dag_id)]
            n_quiet = 0 if set(states) & set(chain.ACTIVE) else n_quiet + 1
            time.sleep(1)
        assert n_quiet == 5


def demo(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("LESION_", "AIRFLOW"))
    }
    return subprocess.run(
        [sys.executable, "-m", "lesion_tasks.laptop.demo", *arguments],
        cwd=ROOT,
        env={**inherited, "LESION_HOME": str(home), "LESION_NOTIFY": "people"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=550,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    home = tmp_path_factory.mktemp("demo") / "home"
    try:
        yield Demo(home=home, first=demo(home, "--images", str(N_FIRST), "--variants", "smoke"))
    finally:
        demo(home, "--stop")


def test_a_demo_from_nothing_ends_without_a_red_task(finished: Demo) -> None:
    assert finished.first.returncode == 0, finished.first.stdout
    assert "failed" not in finished.first.stdout
    assert f"report:   {finished.home}/bucket/reports/index.html" in finished.first.stdout


def test_every_dag_was_read_without_an_error(finished: Demo) -> None:
    assert finished.api.import_errors() == {}
    assert finished.api.dag_ids() == {path.stem for path in (ROOT / "dags").glob("*.py")}


def test_each_stage_was_started_by_what_the_one_before_announced(finished: Demo) -> None:
    kinds = [finished.runs(dag_id)[-1]["run_type"] for dag_id in chain.STAGES]
    assert kinds == ["manual", "asset_triggered", "asset_triggered", "asset_triggered"]


def test_the_path_ends_with_an_evaluated_training_and_a_decision(finished: Demo) -> None:
    assert finished.announced("train_variants") == 1
    index = (finished.home / "bucket" / "reports" / "index.html").read_text()
    assert "smoke" in index
    run = finished.runs("promote_model")[-1]
    tasks = finished.api.task_instances("promote_model", run["dag_run_id"])
    decided = dict(t["rendered_map_index"].split(": ") for t in tasks if t["task_id"] == "decide")
    # So few test images may not tell whether the model knows anything; another task has no candidate.
    assert decided.pop("malignancy") in {"promoted", "refused"}
    assert decided == {"five_classes": "none"}


def test_trainings_waited_in_the_gpu_queue_and_pool(finished: Demo) -> None:
    run = finished.runs("train_variants")[-1]
    tasks = finished.api.task_instances("train_variants", run["dag_run_id"])
    assert {(t["queue"], t["pool"]) for t in tasks if t["task_id"].startswith("each.")} == {("gpu", "gpu")}


def test_every_task_may_be_cleared_and_run_again(finished: Demo) -> None:
    before = finished.rows()
    runs = {dag_id: finished.runs(dag_id)[-1]["dag_run_id"] for dag_id in chain.STAGES}
    for dag_id, run_id in runs.items():
        everything = {"dag_run_id": run_id, "dry_run": False, "only_failed": False, "reset_dag_runs": True}
        finished.api.post(f"dags/{dag_id}/clearTaskInstances", everything)
    finished.await_rest()
    for dag_id, run_id in runs.items():
        tasks = finished.api.task_instances(dag_id, run_id)
        # A mapped task for which nothing is left to do, such as a file to fetch, is removed by Airflow.
        assert {task["state"] for task in tasks} <= {"success", "skipped", "removed"}, dag_id
        assert min(task["try_number"] for task in tasks if task["state"] == "success") >= 2, dag_id
    assert finished.rows() == before


def test_bad_input_is_a_red_task_that_is_not_retried_and_people_are_told(
    finished: Demo, webhook: Received
) -> None:
    address = {"host": f"http://{webhook.address}", "conn_type": "http", "connection_id": "people"}
    finished.api.post("connections", address)
    stages = [chain.Stage(dag_id="ingest_isic")]
    stages[0].run_id = finished.api.trigger("ingest_isic", {"source": "/no/such/folder"})
    for _ in chain.follow(finished.api, stages):
        pass
    assert stages[0].state == "failed"
    assert [(task["task_id"], task["try_number"]) for task in stages[0].failed] == [("poll", 1)]
    assert any("/no/such/folder" in line for line in finished.api.log(stages[0].failed[0]))
    run = quote(stages[0].run_id, safe="")
    kept = f"dags/ingest_isic/dagRuns/{run}/taskInstances/poll/xcomEntries/ended_because"
    assert "/no/such/folder" in finished.api.get(kept, stringify=False)["value"]
    deadline = time.monotonic() + 60
    while not webhook.bodies and time.monotonic() < deadline:
        time.sleep(0.2)
    (told,) = [json.loads(body) for body in webhook.bodies]
    assert (told["event"], told["subject"]) == ("failed", "1 Ingest images: a run failed")
    assert stages[0].run_id in told["text"]
    assert told["link"].startswith(f"{finished.api.url}/dags/ingest_isic/runs/")


def test_more_images_are_taken_in_alone(finished: Demo) -> None:
    again = demo(finished.home, "--images", str(N_SECOND))
    assert again.returncode == 0, again.stdout
    assert f"growing the synthetic archive from {N_FIRST} to {N_SECOND} images" in again.stdout
    new = finished.announced("ingest_isic")["new"]
    assert 0 < new <= N_SECOND - N_FIRST


def test_stopping_ends_every_process_that_was_started(finished: Demo) -> None:
    finished.runs("ingest_isic")  # it runs
    stopped = demo(finished.home, "--stop")
    assert stopped.stdout.split()[0] == "stopped"
    assert "postgres" in stopped.stdout
    place = str(finished.home)
    left = [
        p.info
        for p in psutil.process_iter(["pid", "cwd", "cmdline"])
        if place in (p.info["cwd"] or "") or any(place in part for part in p.info["cmdline"] or [])
    ]
    assert left == []
    assert "nothing was running" in demo(finished.home, "--stop").stdout


def test_what_was_asked_for_is_remembered(finished: Demo) -> None:
    assert stack.remembered(finished.home).variants == "smoke"
    assert json.loads((finished.home / "demo.json").read_text())["images"] == N_SECOND


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variants", "no_such"), "VARIANTS: unknown no_such; expected some of"),
        (("--archive", "/no/such/folder"), "ARCHIVE /no/such/folder: there is no such folder; expected"),
        (("--weights", "/no/such/file"), "WEIGHTS /no/such/file: there is no such file or folder; expected"),
        (("--images", "0"), "IMAGES=0: expected at least 1"),
    ],
)
def test_bad_wishes_end_at_once_with_a_message(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    result = demo(tmp_path / "home", *arguments)
    assert result.returncode == 1
    assert message in result.stdout
    assert not (tmp_path / "home").exists()
