"""The whole path through Airflow's scheduler, against the same steps in one process on the same archive.

A demo of its own runs from nothing to a decision; its services' start is not counted. Then one process calls the same
functions on another empty database and bucket, reading from the same archive server. Airflow's share is the difference,
in all and for each task: what a task needs beside its work (a process of its own, its imports, a scheduler's look). The
last line is a JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lesion_tasks.catalog import InputSize
from lesion_tasks.database.connection import database_url, migrate
from lesion_tasks.database.embedded import postgres
from lesion_tasks.laptop import airflow, chain
from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import open_workspace

N_IMAGES = 1_500
VARIANT = "smoke"
MAX_TIMES = 2.5  # of the one process


def through_airflow(home: Path) -> tuple[float, float, int, str]:
    """Seconds from the first task's start to the last one's end, seconds in which a task ran, tasks, archive."""
    command = [sys.executable, "-m", "lesion_tasks.laptop.demo"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AIRFLOW"))}
    environment = {**inherited, "LESION_HOME": str(home)}
    wanted = ["--images", str(N_IMAGES), "--variants", VARIANT, "--weights", "none"]
    subprocess.run([*command, *wanted], env=environment, check=True, stdout=subprocess.DEVNULL)
    api = airflow.connect(home)
    stages = []
    for dag_id in chain.STAGES:
        run = api.runs(dag_id)[-1]
        tasks = api.task_instances(dag_id, run["dag_run_id"])
        stages.append(chain.Stage(dag_id=dag_id, run_id=run["dag_run_id"], state=run["state"], tasks=tasks))
    timings = chain.timings(stages)
    total_s = sum(one.total_s for one in timings)
    return (
        total_s,
        total_s - sum(one.airflow_s for one in timings),
        sum(len(s.spans()) for s in stages),
        archive_of(home),
    )


def archive_of(home: Path) -> str:
    """The address of the archive server that a demo has started."""
    log = (home / "run" / "archive-server.log").read_text()
    return log.partition(" at ")[2].split()[0]


def in_one_process(home: Path, archive: str) -> dict[str, float]:
    """Seconds of each step."""
    os.environ.update(
        LESION_HOME=str(home), LESION_ARCHIVE_URL=archive, LESION_VARIANTS=VARIANT, LESION_WEIGHTS="none"
    )
    for name in ("LESION_DATABASE_URL", "LESION_BUCKET_URL"):
        os.environ.pop(name, None)
    taken: dict[str, float] = {}

    def timed(name: str, step: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        started = time.perf_counter()
        found = step(*arguments, **more)
        taken[name] = taken.get(name, 0.0) + time.perf_counter() - started
        return found

    migrate(database_url(read_settings()))
    # Imported when it is their turn, as tasks do: that is part of the work here too, once.
    timed("ingest", _ingest)
    timed("build splits", _build_splits)
    timed("train and evaluate", _train)
    timed("promote", _promote)
    return taken


def _ingest() -> None:
    from lesion_tasks.ingest.passes import ingest

    ingest(open_workspace())


def _build_splits() -> None:
    from lesion_tasks.curation.curate import curate_images
    from lesion_tasks.pixels.materialize import materialize_manifest
    from lesion_tasks.splits.plan import plan_splits
    from lesion_tasks.splits.split import build_split

    curate_images(open_workspace())
    for one in plan_splits(open_workspace(), ()):
        digest = build_split(open_workspace(), one.name)
        for size in one.sizes:
            materialize_manifest(open_workspace(), digest, InputSize.parse(str(size)))


def _train() -> None:
    from lesion_tasks.evaluation.evaluate import evaluate_training
    from lesion_tasks.training.train import train_variant

    evaluate_training(open_workspace(), train_variant(open_workspace(), VARIANT))


def _promote() -> None:
    from lesion_tasks.catalog import TASKS
    from lesion_tasks.promotion.promote import plan_promotion, promote_model

    for task in TASKS:
        plan_promotion(open_workspace(), task=task)
        promote_model(open_workspace(), task=task)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home, own = Path(folder) / "airflow", Path(folder) / "process"
        own.mkdir()
        try:
            total_s, busy_s, n_tasks, archive = through_airflow(home)
            airflow.stop_all(home)  # the archive server stays, for the process
            steps = in_one_process(own, archive)
        finally:
            subprocess.run(
                [sys.executable, "-m", "lesion_tasks.laptop.demo", "--stop"],
                env={**os.environ, "LESION_HOME": str(home)},
                check=False,
                stdout=subprocess.DEVNULL,
            )
            postgres.stop(own)
    process_s = sum(steps.values())
    for name, seconds in steps.items():
        print(f"in one process, {name}: {seconds:.1f} s")
    print(f"through Airflow: {total_s:.1f} s, in {busy_s:.1f} s of which one of {n_tasks} tasks ran")
    passed = total_s <= MAX_TIMES * process_s
    print(
        json.dumps(
            {
                "name": f"orchestration: {N_IMAGES:,} images and {VARIANT} through the scheduler",
                "ours": round(total_s, 1),
                "peer": round(process_s, 1),
                "unit": "s",
                "ratio": round(total_s / process_s, 2),
                "target": MAX_TIMES,
                "n_tasks": n_tasks,
                "per_task_s": round((total_s - process_s) / n_tasks, 2),
                "no_task_ran_s": round(total_s - busy_s, 1),
                "passed": passed,
            }
        )
    )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
