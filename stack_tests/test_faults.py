"""What a team's machines do to a pipeline: workers, scheduler, broker, database and bucket die, and it ends right.

Each test grows the archive, starts the path, breaks something while it runs, and waits for the end by itself. Then
nothing may be lost or half-published, and Airflow must say what happened.

    LESION_FAULT_ROUNDS     how often each is tried; 1 unless told otherwise
"""

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lesion_tasks.laptop import chain
from lesion_tasks.laptop.airflow_api import AirflowUnreachableError
from stack_tests.compose import ROOT, Stack, wait_until
from stack_tests.in_worker import ask_worker, whole_state

ROUNDS = range(int(os.environ.get("LESION_FAULT_ROUNDS", "1")))
GROWTH = 40  # images for each round: enough for a new manifest
PATH_TIMEOUT_S = 900.0
# Kinds of tasks: (DAG, task id, a task before it, the service whose worker takes it).
KINDS = (
    ("ingest_isic", "append", "ingest_isic probe", "worker"),
    ("ingest_isic", "fetch", "ingest_isic divide", "worker"),
    ("build_splits", "curate", "ingest_isic divide", "worker"),
    ("build_splits", "each.split", "build_splits choose", "worker"),
    ("build_splits", "each.materialize", "build_splits each.split", "worker"),
    ("train_variants", "each.train", "", "trainer"),
    ("train_variants", "each.evaluate", "", "trainer"),
    ("promote_model", "promote", "promote_model name_tasks", "worker"),
)
PASSES = {"passes": ["append", "reconcile", "fetch"], "fetch_tasks": 2}


def grow(stack: Stack, n_images: int = GROWTH) -> None:
    code = (
        "from urllib.request import Request, urlopen; "
        f"urlopen(Request('http://127.0.0.1:8000/admin/grow?images={n_images}', method='POST'), timeout=60)"
    )
    stack.run_in("archive", "python", "-c", code)


def begin(stack: Stack) -> list[chain.Stage]:
    """A grown archive, and the path started on it, once what an earlier test left has ended."""
    wait_until(lambda: not _active(stack), PATH_TIMEOUT_S, "nothing runs any more")
    grow(stack)
    return chain.begin(stack.api, PASSES)


def _active(stack: Stack) -> list[dict[str, Any]]:
    return [run for name in chain.STAGES for run in stack.api.runs(name) if run["state"] in chain.ACTIVE]


def end(stack: Stack, stages: list[chain.Stage]) -> list[chain.Stage]:
    """Follow the path to its end, over an API that may be away for a while."""
    deadline = time.monotonic() + PATH_TIMEOUT_S
    while True:
        try:
            for _ in chain.follow(stack.api, stages, pause_s=1):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the path did not end: {[(s.dag_id, s.state) for s in stages]}")
            return stages
        except (OSError, RuntimeError, AirflowUnreachableError):
            if time.monotonic() > deadline:
                raise
            time.sleep(2)


def running(stack: Stack, dag_id: str, task_id: str, not_in: set[str] = frozenset()) -> dict[str, Any] | None:
    """A running instance of a task in the newest run, or None."""
    runs = stack.api.runs(dag_id, 1)
    if not runs or runs[0]["dag_run_id"] in not_in or runs[0]["state"] != "running":
        return None
    tasks = stack.api.task_instances(dag_id, runs[0]["dag_run_id"])
    found = [t for t in tasks if t["task_id"] == task_id and t["state"] == "running" and t["hostname"]]
    return found[0] if found else None


@contextlib.contextmanager
def blocked(stack: Stack, table: str = "%") -> Iterator[Callable[[], None]]:
    """Every task waits at its first statement on these tables until the yielded function is called."""
    named = stack.query(
        "SELECT count(*), string_agg(quote_ident(tablename), ', ') FROM pg_tables "
        f"WHERE schemaname = 'public' AND tablename <> 'alembic_version' AND tablename LIKE '{table}'"
    )
    n_tables, tables = named[0]
    name = f"blocked{random.randrange(10**9)}"
    lock = f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"
    command = f"SET application_name = '{name}'; BEGIN; {lock}; SELECT pg_sleep(120)"
    thread = threading.Thread(target=_quietly, args=(stack, command))
    thread.start()
    mine = f"FROM pg_stat_activity WHERE application_name = '{name}'"
    held = (
        f"SELECT 1 FROM pg_locks WHERE pid IN (SELECT pid {mine}) AND granted "
        f"AND mode = 'AccessExclusiveLock' HAVING count(*) >= {n_tables}"
    )

    def release() -> None:
        stack.query(f"SELECT pg_terminate_backend(pid) {mine}")

    try:
        wait_until(lambda: stack.query(held), 60, "the tables are locked", 0.2)
        yield release
    finally:
        release()
        thread.join()


def _quietly(stack: Stack, command: str) -> None:
    with contextlib.suppress(RuntimeError):  # ended by release()
        stack.query(command)


def container_of(stack: Stack, task: dict[str, Any]) -> str:
    for service in ("worker", "trainer"):
        for name in stack.containers(service):
            out = subprocess.run(
                ["docker", "inspect", "--format", "{{.Config.Hostname}}", name],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            if out.strip() == task["hostname"]:
                return name
    raise LookupError(f"no container is {task['hostname']}")


def assert_whole(stack: Stack, stages: list[chain.Stage]) -> None:
    """The path ended green, every file is there, nothing is half-published."""
    assert [(stage.dag_id, stage.state) for stage in stages] == [(name, "success") for name in chain.STAGES]
    assert stack.query("SELECT count(*) FROM training WHERE status NOT IN ('finished', 'failed')") == [["0"]]
    n_keys, missing, champion, published, n_double = ask_worker(stack, whole_state)
    assert n_keys > 1_000
    assert missing == []
    assert champion == published
    assert n_double == 0
    n_listed = int(stack.query("SELECT count(*) FROM record WHERE missing_since IS NULL")[0][0])
    n_files = int(stack.query("SELECT count(DISTINCT isic_id) FROM stored_file")[0][0])
    assert n_files == n_listed


@pytest.fixture(scope="module", autouse=True)
def whole(stack: Stack) -> None:
    """The path has run once undisturbed, so that every test has a champion to lose."""
    if not stack.api.runs("promote_model"):
        assert_whole(stack, end(stack, chain.begin(stack.api, PASSES)))


@pytest.mark.parametrize("attempt", ROUNDS)
@pytest.mark.parametrize(
    ("dag_id", "task_id", "task_before", "service"), KINDS, ids=[f"{kind[0]}.{kind[1]}" for kind in KINDS]
)
def test_a_worker_killed_in_each_kind_of_task(
    stack: Stack, dag_id: str, task_id: str, task_before: str, service: str, attempt: int
) -> None:
    before = {run["dag_run_id"] for name in chain.STAGES for run in stack.api.runs(name)}
    stages = begin(stack)
    # Trainings take long enough to be hit by chance; the others wait at their first statement until they are hit.
    if service == "trainer":
        task = wait_until(lambda: running(stack, dag_id, task_id, before), 600, f"{task_id} runs", 0.2)
        time.sleep(random.Random(attempt).uniform(1, 5))
        killed = container_of(stack, task)
        stack.kill(killed)
    else:
        wait_until(lambda: _is_next(stack, task_before, before), 600, f"{task_id} is next", 0.2)
        # Curation begins at once: it is blocked in a table that nothing before it uses.
        with blocked(stack, "image" if task_id == "curate" else "%") as release:
            task = wait_until(lambda: running(stack, dag_id, task_id, before), 100, f"{task_id} runs", 0.3)
            time.sleep(4)  # in the middle of a statement
            killed = container_of(stack, task)
            stack.kill(killed)
            release()
    time.sleep(3)
    stack.start(killed)
    stages = end(stack, stages)
    assert_whole(stack, stages)
    again = [
        found
        for stage in stages
        for found in stage.tasks
        if (found["dag_id"], found["task_id"], found["map_index"]) == (dag_id, task_id, task["map_index"])
    ]
    assert again[0]["try_number"] > task["try_number"], "it was killed too late to matter"
    assert _says(stack, task)


def _new_run(stack: Stack, dag_id: str, before: set[str]) -> bool:
    return any(run["dag_run_id"] not in before for run in stack.api.runs(dag_id, 1))


def _is_next(stack: Stack, task_before: str, earlier_runs: set[str]) -> bool:
    """Whether the task before the wanted one has succeeded in a new run."""
    dag_id, task_id = task_before.split()
    runs = stack.api.runs(dag_id, 1)
    if not runs or runs[0]["dag_run_id"] in earlier_runs:
        return False
    tasks = stack.api.task_instances(dag_id, runs[0]["dag_run_id"])
    return any(t["task_id"] == task_id and t["state"] == "success" for t in tasks)


def _says(stack: Stack, task: dict[str, Any]) -> bool:
    """Whether the UI's event log says that this try lost its worker."""
    events = stack.api.get("eventLogs", dag_id=task["dag_id"], run_id=task["dag_run_id"], limit=200)[
        "event_logs"
    ]
    said = {event["event"] for event in events if event["task_id"] == task["task_id"]}
    return bool(said & {"heartbeat timeout", "state mismatch", "stuck in queued reschedule", "failed"})


# Which service, in the middle of what, and for how many seconds it is away.
AWAY = (
    ("scheduler", "train_variants", 20),
    ("redis", "ingest_isic", 5),
    ("postgres", "ingest_isic", 10),
    ("postgres", "train_variants", 10),
    ("s3", "ingest_isic", 10),
    ("s3", "train_variants", 10),
    ("api-server", "train_variants", 10),
)


@pytest.mark.parametrize("attempt", ROUNDS)
@pytest.mark.parametrize(("service", "dag_id", "away_s"), AWAY)
def test_a_service_killed_in_the_middle_and_started_again(
    stack: Stack, service: str, dag_id: str, away_s: float, attempt: int
) -> None:
    before = {run["dag_run_id"] for run in stack.api.runs(dag_id)}
    stages = begin(stack)
    wait_until(lambda: _new_run(stack, dag_id, before), 600, f"{dag_id} starts", 0.3)
    time.sleep(random.Random(attempt).uniform(3, 12))
    name = stack.containers(service)[0]
    stack.kill(name)
    time.sleep(away_s)
    stack.start(name)
    assert_whole(stack, end(stack, stages))


def test_a_worker_that_is_stopped_ends_its_task_first(stack: Stack) -> None:
    """What an upgrade relies on: old tasks finish on the old code."""
    before = {run["dag_run_id"] for run in stack.api.runs("train_variants")}
    stages = begin(stack)
    task = wait_until(
        lambda: running(stack, "train_variants", "each.train", before), 600, "a training runs", 0.3
    )
    time.sleep(2)
    stack.compose("stop", "--timeout", "600", "trainer")
    stack.compose("start", "trainer")
    stages = end(stack, stages)
    assert_whole(stack, stages)
    same = [t for stage in stages for t in stage.tasks if t["id"] == task["id"]]
    assert [(t["state"], t["try_number"]) for t in same] == [("success", 1)]


def at_once(stack: Stack, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """The same `lesion` command in both workers at the same moment."""
    running = [
        subprocess.Popen(
            ["docker", "exec", name, "python", "-m", "lesion_tasks", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in stack.containers("worker")
    ]
    found = []
    for process in running:
        out, error = process.communicate(timeout=600)
        found.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
    return found


@pytest.mark.parametrize("attempt", ROUNDS)
def test_two_ingest_runs_at_once_do_the_work_once(stack: Stack, attempt: int) -> None:
    grow(stack)
    before = int(stack.query("SELECT count(*) FROM record_version")[0][0])
    found = at_once(stack, "ingest", "--pass", "append", "--pass", "fetch")
    assert [result.returncode for result in found] == [0, 0], found
    n_new = int(stack.query("SELECT count(*) FROM record_version")[0][0]) - before
    assert n_new == int(stack.query("SELECT count(DISTINCT isic_id) FROM record_version")[0][0]) - before
    assert n_new > 0
    rows = stack.query(
        "SELECT count(*), count(DISTINCT isic_id), sum((n_attempts > 1)::int) FROM stored_file WHERE reason IS NULL"
    )
    assert rows[0][0] == rows[0][1]


@pytest.mark.parametrize("attempt", ROUNDS)
def test_two_promotions_at_once_decide_once(stack: Stack, attempt: int) -> None:
    stack.query("DELETE FROM promotion")
    found = at_once(stack, "promote", "--task", "malignancy")
    assert [result.returncode for result in found] == [0, 0], found
    rows = stack.query("SELECT sequence, action, training_id FROM promotion")
    assert len({row[0] for row in rows}) == len(rows)
    assert len({row[2] for row in rows}) == len(rows), "one training was decided on twice"
    assert [row[1] for row in rows].count("promoted") == 1


@pytest.mark.parametrize("attempt", ROUNDS)
def test_a_full_disk_is_a_red_task_that_names_it_and_goes_on_afterwards(stack: Stack, attempt: int) -> None:
    """The trainer's only scratch space, a file system of its own, is filled up; then it is emptied."""
    (trainer,) = stack.containers("trainer")
    fill = "f = open('/tmp/full', 'wb', buffering=0)\nwhile f.write(bytes(1 << 16)): pass"
    stages = begin(stack)
    wait_until(lambda: _trainings(stack, stages, {"queued", "running"}), 600, "a training is next", 0.3)
    filled = subprocess.run(
        ["docker", "exec", trainer, "python", "-c", fill], capture_output=True, text=True, check=False
    )
    assert "No space left on device" in filled.stderr
    stopped = {"up_for_retry", "failed"}
    red = wait_until(lambda: _trainings(stack, stages, stopped), 300, "a training meets the full disk", 0.5)
    said = "\n".join(stack.api.log(red[0], 200))
    subprocess.run(["docker", "exec", trainer, "rm", "/tmp/full"], check=True)
    assert "disk full" in said or "No space left on device" in said, said[-2000:]
    run_id = red[0]["dag_run_id"]
    wait_until(
        lambda: stack.api.runs("train_variants", 1)[0]["state"] in ("success", "failed"), 600, "it ends"
    )
    stack.api.post(
        "dags/train_variants/clearTaskInstances",
        {"dry_run": False, "dag_run_id": run_id, "only_failed": True, "include_downstream": True},
    )
    assert_whole(stack, end(stack, stages))


def _trainings(stack: Stack, stages: list[chain.Stage], states: set[str]) -> list[dict[str, Any]]:
    """Trainings of a run that the given path has started, in one of these states."""
    begun = next(run for run in stack.api.runs("ingest_isic") if run["dag_run_id"] == stages[0].run_id)[
        "start_date"
    ]
    found = [
        run for run in stack.api.runs("train_variants", 1) if run["start_date"] and run["start_date"] > begun
    ]
    return [
        task
        for run in found
        for task in stack.api.task_instances("train_variants", run["dag_run_id"])
        if task["task_id"] == "each.train" and task["state"] in states
    ]


LIBFAKETIME = os.environ.get("LIBFAKETIME", "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.mark.parametrize("offset_s", [-50, 50])
def test_a_worker_whose_clock_differs(stack: Stack, offset_s: int, tmp_path: Any) -> None:
    """A minute off is within what tokens allow."""
    if not os.path.exists(LIBFAKETIME):  # noqa: PTH110
        pytest.skip(f"{LIBFAKETIME} is missing: install libfaketime, or set LIBFAKETIME")
    override = tmp_path / "clock.yaml"
    service = {
        "volumes": [f"{LIBFAKETIME}:/usr/lib/libfaketime.so.1:ro"],
        "environment": {
            "LD_PRELOAD": "/usr/lib/libfaketime.so.1",
            "FAKETIME": f"{offset_s:+d}",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
    }
    override.write_text(json.dumps({"services": {"worker": service, "trainer": service}}))
    files = os.environ.get("LESION_STACK_FILES", "")
    scale = ("--scale", "worker=2")
    options = (
        "up",
        "--no-build",
        "--no-deps",
        "--wait",
        *os.environ.get("LESION_STACK_UP", "").split(),
        *scale,
    )
    try:
        os.environ["LESION_STACK_FILES"] = ":".join(filter(None, [files, str(override)]))
        stack.compose(*options, "worker", "trainer")
        skew = float(stack.run_in("worker", "python", "-c", "import time; print(time.time())")) - time.time()
        assert abs(skew - offset_s) < 10
        assert_whole(stack, end(stack, begin(stack)))
    finally:
        os.environ["LESION_STACK_FILES"] = files
        stack.compose(*options, "worker", "trainer")


def test_the_checkout_is_what_was_built(stack: Stack) -> None:
    """Guards the tests above against an old image."""
    here = (ROOT / "plugins" / "lesion_airflow.py").read_text()
    assert stack.run_in("worker", "cat", "/opt/lesion/app/plugins/lesion_airflow.py") == here
