"""Every variant, trained and evaluated through a real scheduler, as small as it goes: does all of it run?

    python -m benchmarks.smoke_variants [--images 1500] [--slots 2] [VARIANT...]

Brings up a demo of its own on the synthetic archive, builds every split, and starts `train_variants` as a smoke run
(one epoch of each stage, 32 px, backbones from random weights) for all variants, or the named ones. Prints the
seconds of each training and evaluation; the figures of such models mean nothing. The last line is a JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from lesion_tasks.catalog import SPLITS, VARIANTS
from lesion_tasks.local import airflow, chain
from lesion_tasks.local.airflow_api import AirflowApi

ROOT = Path(__file__).resolve().parents[1]


def environment_of(home: Path) -> dict[str, str]:
    """This process's environment, with the settings of a demo's home in place of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LESION_", "AIRFLOW"))}
    return {**kept, "LESION_HOME": str(home), "PYTHONPATH": str(ROOT)}


def build_splits(home: Path, names: Sequence[str]) -> None:
    """Split what a demo has curated. Not by its DAG, which would start trainings by itself."""
    subprocess.run(
        [sys.executable, "-m", "lesion_tasks", "split", *names],
        env=environment_of(home),
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def smoke(api: AirflowApi, variants: Sequence[str], *, n_trials: int = 0) -> list[dict[str, Any]]:
    """Train and evaluate variants by a run of the DAG; returns state and seconds of each, in the order asked for."""
    wanted = {"variants": list(variants), "policy": "always", "smoke_run": True, "trials": n_trials}
    stage = chain.Stage(dag_id="train_variants", run_id=api.trigger("train_variants", wanted))
    for _ in chain.follow(api, [stage]):
        pass
    tasks = [task for task in stage.tasks if task["task_id"].startswith("each.")]
    found = []
    for index, name in enumerate(variants):
        by_name = {task["task_id"]: task for task in tasks if task["map_index"] == index}
        trained, evaluated = by_name["each.train"], by_name["each.evaluate"]
        failed = next((t for t in (trained, evaluated) if t["state"] != "success"), None)
        found.append(
            {
                "variant": name,
                "state": "success" if failed is None else f"{failed['task_id']} {failed['state']}",
                "train_s": round(trained["duration"] or 0, 1),
                "evaluate_s": round(evaluated["duration"] or 0, 1),
                "why": [] if failed is None else api.log(failed)[-3:],
            }
        )
    return found


def demo(home: Path, *arguments: str) -> None:
    """Run the demo below a home folder."""
    subprocess.run(
        [sys.executable, "-m", "lesion_tasks.local.demo", *arguments],
        env=environment_of(home),
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _table(found: Sequence[Mapping[str, Any]]) -> None:
    width = max(len(one["variant"]) for one in found)
    for one in found:
        print(f"{one['variant']:{width}}  {one['train_s']:7.1f} s {one['evaluate_s']:7.1f} s  {one['state']}")
        for line in one["why"]:
            print(f"    {line}")


@click.command()
@click.argument("variants", nargs=-1)
@click.option(
    "--images", default=1_500, show_default=True, help="Fewer, and the five classes are not all there."
)
@click.option("--slots", default=2, show_default=True, help="How many variants at once.")
def main(variants: Sequence[str], images: int, slots: int) -> None:
    """Smoke-run variants; exit status 1 where one of them fails."""
    names = list(variants or VARIANTS)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        try:
            demo(home, "--images", str(images), "--variants", "metadata_logistic", "--weights", "none")
            build_splits(home, [name for name in SPLITS if name in {VARIANTS[v].split for v in names}])
            api = airflow.connect(home)
            api.patch("pools/gpu", {"name": "gpu", "slots": slots, "include_deferred": True})
            started = time.monotonic()
            found = smoke(api, names)
            seconds = time.monotonic() - started
        finally:
            demo(home, "--stop")
    _table(found)
    failed = [one["variant"] for one in found if one["state"] != "success"]
    print(
        json.dumps(
            {"n_variants": len(found), "n_images": images, "seconds": round(seconds), "failed": failed}
        )
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
