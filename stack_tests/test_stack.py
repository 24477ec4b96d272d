"""The whole stack, built and started, with the path run through it by Airflow's API."""

import json
import os
import subprocess
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lesion_tasks.laptop import chain
from stack_tests.compose import ROOT, Stack
from stack_tests.in_worker import ask_worker, bucket_digest, log_keys

SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer", "worker", "trainer", "postgres", "redis")


@pytest.fixture(scope="module")
def stages(stack: Stack) -> list[chain.Stage]:
    """The four DAGs of the path, ended; each started by what the one before announced."""
    api = stack.api
    found = chain.begin(api, {"passes": ["append", "reconcile", "fetch"], "fetch_tasks": 4})
    for _ in chain.follow(api, found, pause_s=2):
        pass
    report(stack, found)
    return found


def report(stack: Stack, stages: list[chain.Stage]) -> None:
    """Write down what was measured, where LESION_STACK_REPORT says."""
    path = os.environ.get("LESION_STACK_REPORT")
    if path is None:
        return
    measured: dict[str, Any] = {
        "stages": {t.dag_id: [round(t.total_s, 1), round(t.airflow_s, 1)] for t in chain.timings(stages)},
        "counts": {stage.dag_id: stage.counts for stage in stages},
        "memory_mib": stack.memory_mib(),
        "champion": stack.query("SELECT training_id, action, reason FROM promotion ORDER BY decided_at"),
    }
    Path(path).write_text(json.dumps(measured, indent=1, default=str))


def inspected(container: str) -> dict[str, Any]:
    out = subprocess.run(["docker", "inspect", container], check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(out)[0]
    return found


def test_the_path_ends_with_a_decision(stages: list[chain.Stage], stack: Stack) -> None:
    assert [(stage.dag_id, stage.state) for stage in stages] == [(name, "success") for name in chain.STAGES]
    assert stack.query("SELECT count(*) FROM promotion") != [["0"]]


def test_tasks_ran_on_at_least_two_workers_and_models_on_the_trainer_alone(
    stages: list[chain.Stage], stack: Stack
) -> None:
    tasks = [task for stage in stages for task in stage.tasks if task["start_date"] and task["hostname"]]
    by_queue = {queue: {t["hostname"] for t in tasks if t["queue"] == queue} for queue in ("default", "gpu")}
    hosts = {name: inspected(name)["Config"]["Hostname"] for name in stack.containers("trainer")}
    assert by_queue["gpu"] == set(hosts.values())
    assert len(by_queue["default"]) >= 2
    assert not by_queue["default"] & by_queue["gpu"]


def test_one_model_is_worked_on_at_a_time(stages: list[chain.Stage]) -> None:
    spans = sorted(
        (datetime.fromisoformat(task["start_date"]), datetime.fromisoformat(task["end_date"]))
        for stage in stages
        for task in stage.tasks
        if task["queue"] == "gpu" and task["start_date"] and task["end_date"]
    )
    assert len(spans) >= 2
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans)), spans


def test_every_log_is_in_the_bucket_and_shown_by_the_ui(stages: list[chain.Stage], stack: Stack) -> None:
    stored = ask_worker(stack, log_keys)
    ran = [
        task for stage in stages for task in stage.tasks if task["hostname"] and task["state"] == "success"
    ]
    assert len(ran) >= 15
    for task in ran:
        place = f"run_id={task['dag_run_id']}/task_id={task['task_id']}/"
        assert any(place in key for key in stored), place
        assert stack.api.log(task), task["task_id"]


def test_nothing_secret_stands_in_a_log(stages: list[chain.Stage], stack: Stack) -> None:
    names = (
        "POSTGRES_PASSWORD",
        "AIRFLOW_DB_PASSWORD",
        "LESIONS_DB_PASSWORD",
        "REDIS_PASSWORD",
        "S3_SECRET_KEY",
    )
    secrets = [stack.secrets[name] for name in (*names, "AIRFLOW_SECRET_KEY", "AIRFLOW_JWT_SECRET")]
    texts = [
        "\n".join(stack.api.log(task, 10_000)) for stage in stages for task in stage.tasks if task["hostname"]
    ]
    texts.append(stack.compose("logs", "--no-color"))
    assert [secret[:4] for secret in secrets for text in texts if secret in text] == []


def test_tasks_hand_on_ids_and_counts_alone(stages: list[chain.Stage], stack: Stack) -> None:
    found = stack.query("SELECT max(length(value::text)) FROM xcom", "airflow")
    assert int(found[0][0]) < 4_000


def test_without_secrets_nothing_starts(stack: Stack, tmp_path: Path) -> None:
    empty = tmp_path / ".env"
    empty.write_text("COMPOSE_PROFILES=postgres,s3,cpu\n")
    result = subprocess.run(
        ["docker", "compose", "--project-name", "lesion-none", "--env-file", str(empty), "up", "--no-build"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "run `make env` first" in result.stderr


def test_ports_are_published_on_this_machine_alone(stack: Stack) -> None:
    entries = [json.loads(line) for line in stack.compose("ps", "--format", "json").splitlines()]
    published = [p for entry in entries for p in entry["Publishers"] or [] if p["PublishedPort"]]
    assert {(p["URL"], p["TargetPort"]) for p in published} == {("127.0.0.1", 8080)}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_healthy_and_can_write_nowhere_else(stack: Stack, service: str) -> None:
    for name in stack.containers(service):
        found = inspected(name)
        assert found["State"]["Health"]["Status"] == "healthy"
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
        assert not found["HostConfig"]["Privileged"]
        if service not in ("postgres", "redis"):  # their own images; Postgres steps down by itself
            assert found["Config"]["User"] == "50000:50000"


def test_only_workers_can_change_the_data_and_the_api_server_reads_it(stack: Stack) -> None:
    for service in ("api-server", "scheduler", "dag-processor", "triggerer"):
        given = dict(
            entry.split("=", 1) for entry in inspected(stack.containers(service)[0])["Config"]["Env"]
        )
        assert "POSTGRES_PASSWORD" not in given, service
        assert not any(stack.secrets["LESIONS_DB_PASSWORD"] in value for value in given.values()), service
        assert ("LESION_DATABASE_URL" in given) == (service == "api-server"), service
    rows = stack.query(
        "SELECT has_table_privilege('lesions_reader', 'image', 'SELECT'), "
        "has_table_privilege('lesions_reader', 'image', 'INSERT, UPDATE, DELETE, TRUNCATE')",
        "lesions",
    )
    assert rows == [["t", "f"]]


def test_each_role_sees_its_own_database_alone(stack: Stack) -> None:
    rows = stack.query(
        "SELECT r, d, has_database_privilege(r, d, 'CONNECT') FROM unnest(ARRAY['airflow', 'lesions']) r, "
        "unnest(ARRAY['airflow', 'lesions']) d ORDER BY 1, 2",
        "postgres",
    )
    assert [row[2] for row in rows] == ["t", "f", "f", "t"]


@pytest.mark.parametrize("image", ["lesion-airflow", "lesion-worker-cpu"])
def test_an_image_is_labelled_and_holds_no_secret(stack: Stack, image: str) -> None:
    config = inspected(image)["Config"]
    assert config["Labels"]["org.opencontainers.image.title"] == image
    assert config["Labels"]["org.opencontainers.image.revision"]
    assert config["Healthcheck"]
    assert config["User"] == "50000:50000"
    history = subprocess.run(
        ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    text = history + json.dumps(config)
    assert [name for name, value in stack.secrets.items() if len(value) > 12 and value in text] == []


def test_airflow_s_image_has_no_tensorflow(stack: Stack) -> None:
    code = "import importlib.util as u; print([n for n in ('tensorflow', 'keras') if u.find_spec(n)])"
    assert stack.run_in("scheduler", "python", "-c", code).strip() == "[]"


def _left(stack: Stack) -> dict[str, Any]:
    """What a restore has to bring back."""
    tables = ("record_version", "stored_file", "image", "training", "prediction", "evaluation", "promotion")
    left: dict[str, Any] = {name: stack.query(f"SELECT count(*) FROM {name}") for name in tables}
    left["champion"] = stack.query("SELECT training_id, sequence FROM promotion ORDER BY sequence")
    left["runs"] = stack.query("SELECT dag_id, run_id, state FROM dag_run ORDER BY 1, 2", "airflow")
    left["bucket"] = ask_worker(stack, bucket_digest)
    return left


def test_a_backup_brings_everything_back_into_an_empty_stack(
    stages: list[chain.Stage], stack: Stack, tmp_path: Path
) -> None:
    before = _left(stack)
    stack.script("docker/backup.sh", str(tmp_path / "backup"))
    stack.down()
    stack.up()
    assert stack.query("SELECT count(*) FROM record_version") == [["0"]]
    stack.script("docker/restore.sh", str(tmp_path / "backup"))
    assert _left(stack) == before
    stack.compose("up", "--wait", "--no-build", *stack.up_options)
    task = next(task for task in stages[0].tasks if task["task_id"] == "append")
    assert stack.api.log(task), "the UI shows logs of before"
