"""A champion judged on a cohort of 20,000 pictures, materializing included, against Keras `predict` on decoded arrays.

Everything is made in a folder of its own: drawn pictures of 160 x 120 px, a database, a small training. Ours is the
evaluation of that training on the cohort: its manifest, its pixels, its scores, every check and figure, the report.
The peer is `predict` alone, with the same model and the first 4,000 of such arrays, decoded beforehand: once before
ours and once after it, since a machine may become busy. Each runs in a process of its own. Time is that of the
processor, over all threads, so that a busy machine matters little; the clock's stands beside it. Memory is the largest
that the process ever had, on the cohort and on another, a quarter as large. The last line is JSON.

    python benchmarks/cohort.py [--images 20000] [--variant mobilenet_v2_random_augmented]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from lesion_tasks.settings import read_settings  # noqa: E402
from lesion_tasks.workspace import open_workspace  # noqa: E402

MIN_RATIO, MAX_GROWTH = 0.5, 1.25
N_OWN = (
    800  # pictures of the training's own archive: of fewer, val has too few groups to tell strange pictures
)
# Without a picture in common: one that was materialized for the first is not materialized again for the second.
COHORTS = {"quarter": ("Quarter",), "whole": ("Whole",)}
BATCH_IMAGES = 64
N_PREDICTED = 4_000  # a rate needs no more


def fill(n_images: int) -> None:
    """A database of the training's own archive and of both cohorts, as ingestion leaves it."""
    from database_of_pictures import DrawnImage, add_pictures, as_jpeg, skin_with_spot

    rng = np.random.default_rng(1)
    n_quarter = n_images // 4

    def images() -> Iterator[DrawnImage]:
        for i in range(N_OWN + n_quarter + n_images):
            is_malignant = i // 2 % 4 == 0
            yield DrawnImage(
                number=i,
                picture=as_jpeg(skin_with_spot(rng, darkness=3 if is_malignant else 2)),
                is_malignant=is_malignant,
                attribution="Own" if i < N_OWN else "Quarter" if i < N_OWN + n_quarter else "Whole",
            )

    add_pictures(open_workspace(), images(), rng)


def prepare(n_images: int, variant: str) -> str:
    """Pictures, database, split and training; returns the training's id."""
    from lesion_tasks.curation.curate import curate_images
    from lesion_tasks.database.connection import database_url, migrate
    from lesion_tasks.evaluation.evaluate import evaluate_training
    from lesion_tasks.training.prepare import prepare_training
    from lesion_tasks.training.train import train_variant

    migrate(database_url(read_settings()))
    began = time.perf_counter()
    fill(n_images)
    workspace = open_workspace()
    curate_images(workspace)
    print(f"{n_images:,} pictures drawn and curated: {time.perf_counter() - began:.0f} s", flush=True)
    declare()
    prepare_training(workspace, variant)
    training_id = train_variant(workspace, variant, max_epochs=1)
    evaluate_training(workspace, training_id, cohorts=[])
    return training_id


def declare() -> None:
    """The cohorts, in this process alone."""
    from lesion_tasks.catalog import COHORTS as DECLARED
    from lesion_tasks.catalog import Cohort

    for name, attribution in COHORTS.items():
        DECLARED[name] = Cohort(name=name, title=name, tasks=("malignancy",), attribution=attribution)


def clocks() -> np.ndarray:
    """Seconds of the processor, and by the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def judge(training_id: str, cohort: str) -> dict[str, Any]:
    """Evaluate a training on one cohort; seconds and the peak of memory."""
    import keras

    from lesion_tasks.evaluation.evaluate import evaluate_training
    from lesion_tasks.evaluation.evaluation_record import find_evaluation
    from lesion_tasks.training.run_record import find_finished

    assert keras
    declare()
    workspace = open_workspace()
    began = clocks()
    evaluate_training(workspace, training_id, cohorts=[cohort])
    spent = clocks() - began
    with workspace.engine.connect() as connection:
        training = find_finished(connection, training_id)
        found = find_evaluation(connection, training_id, training.manifest_digest)
    assert found is not None
    assert found.document["doubt"]["novelty_reason"] is None, found.document["doubt"]["novelty_reason"]
    judged = next(one for one in found.document["other_data"]["cohorts"] if one["name"] == cohort)
    assert judged["reason"] is None, judged["reason"]
    return measured(spent, judged["subset"]["subset"]["n_images"])


def predict(training_id: str, cohort: str) -> dict[str, Any]:
    """`predict` of the same model on the same pictures, already decoded; seconds."""
    import keras

    from lesion_tasks.catalog import InputSize
    from lesion_tasks.catalog.lookup import find_cohort
    from lesion_tasks.evaluation.unjudged import cohort_manifest_in_force
    from lesion_tasks.splits.manifest import find_manifest, read_manifest
    from lesion_tasks.training.examples import load_examples
    from lesion_tasks.training.loop import load_model
    from lesion_tasks.training.run_record import find_finished, read_model

    declare()
    workspace = open_workspace()
    with workspace.engine.connect() as connection:
        training = find_finished(connection, training_id)
        in_force = cohort_manifest_in_force(connection, find_cohort(cohort), training.task)
        assert in_force is not None
        rows = read_manifest(workspace.bucket, find_manifest(connection, in_force.digest).object_key)
        examples = load_examples(
            connection,
            workspace.bucket,
            rows,
            classes=training.classes,
            input_size=InputSize.of_recipe(training.recipe),
            metadata_fields=training.recipe["metadata"],
        )
    inputs = examples.inputs(np.arange(min(len(examples), N_PREDICTED)))
    model: keras.Model = load_model(read_model(workspace.bucket, training))
    began = clocks()
    scores = model.predict(inputs, batch_size=BATCH_IMAGES, verbose=0)
    spent = clocks() - began
    return measured(spent, len(scores))


def measured(spent: np.ndarray, n_images: int) -> dict[str, Any]:
    """What a process prints last. Linux reports kilobytes."""
    return {
        "cpu_s": float(spent[0]),
        "wall_s": float(spent[1]),
        "n_images": n_images,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def in_own_process(step: str, *words: str) -> dict[str, Any]:
    """Run a step of this file in a process of its own: memory is counted by process."""
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Measure, print the ratio, and return 0 when it is what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--variant", default="mobilenet_v2_random_augmented")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        step, *words = asked.step
        done = {"prepare": lambda: prepare(int(words[0]), words[1]), "judge": lambda: judge(*words)}
        done["predict"] = lambda: predict(*words)
        print(json.dumps(done[step]()))
        return 0
    with tempfile.TemporaryDirectory(prefix="cohort-") as home:
        Path(home).chmod(0o755)  # as root, the database server runs as another user
        for name in [name for name in os.environ if name.startswith("LESION_")]:
            del os.environ[name]
        os.environ["LESION_HOME"] = home
        from lesion_tasks.database.embedded import postgres

        try:
            training_id = str(in_own_process("prepare", str(asked.images), asked.variant))
            few = in_own_process("judge", training_id, "quarter")
            before = in_own_process("predict", training_id, "quarter")
            ours = in_own_process("judge", training_id, "whole")
            after = in_own_process("predict", training_id, "whole")
        finally:
            postgres.stop(Path(home))
    peer = {name: before[name] + after[name] for name in ("cpu_s", "wall_s", "n_images")}
    peer["peak_gb"] = max(before["peak_gb"], after["peak_gb"])
    rates = {name: one["n_images"] / one["cpu_s"] for name, one in (("ours", ours), ("peer", peer))}
    ratio, growth = rates["ours"] / rates["peer"], ours["peak_gb"] / few["peak_gb"]
    passed = ratio >= MIN_RATIO and growth <= MAX_GROWTH
    for name, one in (
        ("ours, a quarter", few),
        ("ours", ours),
        ("predict alone, before", before),
        ("predict alone, after", after),
    ):
        print(
            f"{name}: {one['n_images']:,} images, {one['cpu_s']:.1f} s of the processor, {one['wall_s']:.1f} s by the "
            f"clock, {one['peak_gb']:.2f} GB at most"
        )
    print(
        json.dumps(
            {
                "name": "cohort: evaluating with materializing, against predict on decoded arrays",
                "ours": round(rates["ours"], 1),
                "peer": round(rates["peer"], 1),
                "unit": "images per CPU s",
                "ratio": round(ratio, 3),
                "target": MIN_RATIO,
                "passed": bool(passed),
                "ratio_by_the_clock": round(
                    peer["wall_s"] / peer["n_images"] * ours["n_images"] / ours["wall_s"], 3
                ),
                "n_images": ours["n_images"],
                "peak_gb": round(ours["peak_gb"], 2),
                "peak_gb_of_a_quarter": round(few["peak_gb"], 2),
            }
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
