"""One run of the first DAG -> the runs that assets start after it, followed to the end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lesion_tasks.laptop.airflow_api import AirflowApi
from lesion_tasks.pages.activity import MIRROR

STAGES = ("ingest_isic", "build_splits", "train_variants", "promote_model")
ANNOUNCE = "announce"  # the task of each DAG that starts the next one
ACTIVE = ("queued", "running")
ASKS = "asks a person"
WAIT_FOR_NEXT_S = 60.0


@dataclass(kw_only=True)
class Stage:
    """What is known about one DAG's part in the chain."""

    dag_id: str
    run_id: str = ""
    state: str = "waiting"  # then queued, running, success, failed, not needed, or "asks a person"
    tasks: list[dict[str, Any]] = field(default_factory=list)
    counts: Any = None  # what the announcing task returned

    @property
    def running(self) -> list[str]:
        """Names of the tasks that run or wait for another attempt, with their map index if they have one."""
        found = []
        for task in self.tasks:
            if task["state"] in ("running", "up_for_retry", "awaiting_input"):
                label = f"[{task['rendered_map_index']}]" if task["map_index"] >= 0 else ""
                waiting = {"up_for_retry": " (tries again)", "awaiting_input": " (asks a person)"}
                found.append(task["task_id"] + label + waiting.get(task["state"], ""))
        return found

    @property
    def is_asking(self) -> bool:
        """Whether it goes on only when a person has answered."""
        open_states = {task["state"] for task in self.tasks if task["end_date"] is None and task["state"]}
        return "awaiting_input" in open_states and open_states <= {"awaiting_input", "scheduled"}

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The tasks that failed themselves, not because of another task."""
        return [task for task in self.tasks if task["state"] == "failed" and task["task_id"] != MIRROR]

    @property
    def n_done(self) -> int:
        """The number of tasks that have ended."""
        return sum(task["end_date"] is not None for task in self.tasks)

    def spans(self) -> list[tuple[float, float]]:
        """When tasks ran: start and end of each, in seconds since 1970."""
        now = datetime.now(UTC).isoformat()
        return [
            (_seconds(task["start_date"]), _seconds(task["end_date"] or now))
            for task in self.tasks
            if task["start_date"] is not None
        ]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where a stage's time went, in seconds. `airflow_s` is the time when none of its tasks ran."""

    dag_id: str
    total_s: float
    airflow_s: float


def begin(api: AirflowApi, conf: dict[str, Any]) -> list[Stage]:
    """Continue the chain that is under way, or start a new one; return its stages.

    A run that waits for a person is not under way: it may wait for days.
    """
    stages = [Stage(dag_id=dag_id) for dag_id in STAGES]
    for position, stage in enumerate(stages):
        for run in reversed([run for run in api.runs(stage.dag_id) if run["state"] in ACTIVE]):
            stage.run_id = run["dag_run_id"]
            _refresh(api, stage)
            if stage.is_asking:
                stages[position] = stage = Stage(dag_id=stage.dag_id)
                continue
            for earlier in stages[:position]:
                earlier.state = "done before"
            return stages
    stages[0].run_id = api.trigger(stages[0].dag_id, conf)
    return stages


def follow(api: AirflowApi, stages: list[Stage], pause_s: float = 0.5) -> Iterator[list[Stage]]:
    """Yield the stages again and again, up to date, until the chain has ended.

    It ends when a stage fails without announcing, has nothing to announce, or asks a person.
    """
    for position, stage in enumerate(stages):
        if stage.state == "done before":
            continue
        before = stages[position - 1] if position else None
        if not stage.run_id and before is not None:
            yield from _wait_for_run(api, before, stage, stages, pause_s)
        while True:
            _refresh(api, stage)
            yield stages
            if stage.state not in ACTIVE:
                break
            if stage.is_asking:
                stage.state = ASKS
                yield stages
                return
            time.sleep(pause_s)
        if not _has_announced(stage):
            for later in stages[position + 1 :]:
                later.state = "not needed" if stage.state == "success" else "not reached"
            yield stages
            return
        stage.counts = _returned(api, stage)
    yield stages


def timings(stages: list[Stage]) -> list[Timing]:
    """Divide each stage's time: from the end of the one before to its own end."""
    found = []
    begun = None
    for stage in stages:
        spans = stage.spans()
        if not spans:
            continue
        ended = max(end for _, end in spans)
        begun = min(start for start, _ in spans) if begun is None else begun
        total = ended - begun
        found.append(Timing(dag_id=stage.dag_id, total_s=total, airflow_s=total - _covered(spans, begun)))
        begun = ended
    return found


def _wait_for_run(
    api: AirflowApi, before: Stage, stage: Stage, stages: list[Stage], pause_s: float
) -> Iterator[list[Stage]]:
    """Wait until the run appears that the announcement of `before` started."""
    deadline = time.monotonic() + WAIT_FOR_NEXT_S
    while time.monotonic() < deadline:
        for run in api.runs(stage.dag_id, limit=5):
            if run["run_type"] == "asset_triggered" and before.run_id in _sources(api, run):
                stage.run_id = run["dag_run_id"]
                return
        yield stages
        time.sleep(pause_s)
    raise RuntimeError(
        f"{stage.dag_id} did not start within {WAIT_FOR_NEXT_S:.0f} s of the end of {before.dag_id}; is it paused?"
    )


def _sources(api: AirflowApi, run: dict[str, Any]) -> set[str]:
    """Return the runs whose announcements started this run."""
    events = api.get(f"dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/upstreamAssetEvents")
    return {event["source_run_id"] for event in events["asset_events"]}


def _refresh(api: AirflowApi, stage: Stage) -> None:
    stage.state = api.get(f"dags/{stage.dag_id}/dagRuns/{stage.run_id}")["state"]
    stage.tasks = api.task_instances(stage.dag_id, stage.run_id)


def _has_announced(stage: Stage) -> bool:
    return any(task["task_id"] == ANNOUNCE and task["state"] == "success" for task in stage.tasks)


def _returned(api: AirflowApi, stage: Stage) -> Any:
    path = f"dags/{stage.dag_id}/dagRuns/{stage.run_id}/taskInstances/{ANNOUNCE}/xcomEntries/return_value"
    return api.get(path, stringify=False)["value"]


def _covered(spans: list[tuple[float, float]], begun: float) -> float:
    """Length of the union of spans, from `begun` on."""
    covered, reached = 0.0, begun
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
