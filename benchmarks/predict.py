"""Pictures per second from files to rows, against plain Keras on arrays that are decoded already; and the memory.

    make bench-predict
    python benchmarks/predict.py --variant mobilenet_v2_unfrozen_augmented --images 2000 --most 20000

The model has random weights: they cost as much as trained ones. Pictures are drawn, 450 x 300 px, and stored as JPEG.
Memory is the peak of a process of its own for each number of pictures; the files of the larger numbers are links.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lesion_tasks.catalog import VARIANTS, InputSize, Variant
from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import Workspace

SIZE_PX = (450, 300)
N_DRAWN = 500  # different files; further pictures are links to them
N_REPEATS = 3  # of which the fastest counts: a busy machine only makes it slower


def draw(folder: Path, n: int) -> None:
    """Pictures with a dark disc on a mottled ground; only the first N_DRAWN are files of their own."""
    folder.mkdir(parents=True)
    width, height = SIZE_PX
    random = np.random.default_rng(0)
    ground = random.integers(90, 210, (height // 4, width // 4, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(ground).resize(SIZE_PX, Image.Resampling.BICUBIC)).astype(np.int16)
    y, x = np.mgrid[0:height, 0:width]
    for i in range(n):
        path = folder / f"{i:06d}.jpg"
        if i >= N_DRAWN:
            os.link(folder / f"{i % N_DRAWN:06d}.jpg", path)
            continue
        is_inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (random.uniform(0.1, 0.4) * height) ** 2
        drawn = np.roll(pixels, 11 * i, axis=1) - 60 * is_inside[..., None]
        Image.fromarray(drawn.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def store_champion(root: Path, variant: Variant, **said: Any) -> str:
    """A bucket with one untrained model of a variant as the champion of its task; returns the training id.

    `said`: what the model's own file says besides.
    """
    from lesion_tasks.training.loop import model_bytes
    from lesion_tasks.training.model import adapt_metadata
    from lesion_tasks.training.model.build import build_model
    from lesion_tasks.training.model.serving import finish_model, with_calibration

    model = build_model(variant)
    if variant.metadata:
        adapt_metadata(model, np.arange(6 * len(variant.metadata), dtype=np.float32).reshape(6, -1) * 5)
    model = with_calibration(finish_model(variant, model), 0.7, -0.1)
    training_id = f"{variant.name}-0123456789"
    path = root / "models" / training_id / "model.keras"
    path.parent.mkdir(parents=True)
    path.write_bytes(model_bytes(model))
    own = {"variant": variant.as_recipe, "classes": list(variant.task.classes), "threshold": 0.5}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("lesion.json", json.dumps(own | said))
    entry = {
        "training_id": training_id,
        "model_key": f"models/{training_id}/model.keras",
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (root / "champion.json").write_text(json.dumps({variant.task.name: entry}))
    return training_id


def measure_plain(workspace: Workspace, task: str, folder: Path, n: int) -> float:
    """Pictures per second of Keras's own `predict` on decoded arrays, without reading, decoding or writing anything."""
    from lesion_tasks.pixels.decode import decode_picture
    from lesion_tasks.serving.predict_pictures import BATCH_IMAGES
    from lesion_tasks.serving.served_model import find_champion, load_served

    served = load_served(workspace.bucket, find_champion(workspace.bucket, task))
    size: InputSize = served.input_size
    drawn = [decode_picture((folder / f"{i:06d}.jpg").read_bytes(), size) for i in range(min(n, N_DRAWN))]
    pixels = np.stack([drawn[i % N_DRAWN] for i in range(n)])
    served.model.predict({"pixels": pixels[:BATCH_IMAGES]}, batch_size=BATCH_IMAGES, verbose=0)  # compiled
    return n / fastest(lambda: served.model.predict({"pixels": pixels}, batch_size=BATCH_IMAGES, verbose=0))


def fastest(work: Callable[[], Any]) -> float:
    """The seconds of the fastest of several runs."""
    found = []
    for _ in range(N_REPEATS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def measure_job(workspace: Workspace, task: str, folder: Path, n: int) -> float:
    """Pictures per second from files to stored rows, without the start of TensorFlow and the model's compilation."""
    from lesion_tasks.serving import predict_job
    from lesion_tasks.serving.predict_pictures import BATCH_IMAGES

    job_id = predict_job.plan_predictions(workspace, str(folder), task=task)
    loaded = predict_job.load_served(workspace.bucket, predict_job.find_model(workspace, task))
    size = loaded.input_size
    loaded.probabilities(
        np.zeros((BATCH_IMAGES, size.side_px, size.side_px, 3), np.uint8),
        np.zeros((BATCH_IMAGES, 0), np.float32),
    )
    predict_job.load_served = lambda bucket, file: loaded

    def run() -> None:
        for key in list(workspace.bucket.list_keys(f"predictions/{job_id}/")):
            if not key.endswith(("job.json", "pictures.parquet")):
                workspace.bucket.delete(key)
        predict_job.run_predictions(workspace, job_id)
        predict_job.finish_predictions(workspace, job_id)

    return n / fastest(run)


def child(what: str, root: Path, task: str, n: int) -> None:
    """Measure one thing in this process and print it with the peak of its memory."""
    workspace = Workspace(read_settings())
    measured = {"plain": measure_plain, "job": measure_job}[what](workspace, task, root / f"pictures-{n}", n)
    print(json.dumps([measured, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def run_child(what: str, root: Path, task: str, n: int) -> tuple[float, float]:
    environment = os.environ | {"LESION_BUCKET_URL": str(root / "bucket"), "LESION_HOME": str(root / "home")}
    command = [
        sys.executable,
        __file__,
        "--child",
        what,
        "--root",
        str(root),
        "--task",
        task,
        "--images",
        str(n),
    ]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    rate, peak_mib = json.loads(done.stdout.splitlines()[-1])
    return rate, peak_mib


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", default="mobilenet_v2_unfrozen_augmented")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument(
        "--most", type=int, default=20_000, help="of the pictures by which memory is measured"
    )
    parser.add_argument("--child")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--task")
    given = parser.parse_args()
    if given.child:
        child(given.child, given.root, given.task, given.images)
        return
    with tempfile.TemporaryDirectory() as folder:
        root, task = Path(folder), VARIANTS[given.variant].task.name
        store_champion(root / "bucket", dataclasses.replace(VARIANTS[given.variant], is_pretrained=False))
        draw(root / f"pictures-{given.images}", given.images)
        plain, _ = run_child("plain", root, task, given.images)
        job, _ = run_child("job", root, task, given.images)
        print(
            f"{given.variant}, {given.images:,} pictures of {SIZE_PX[0]} x {SIZE_PX[1]} px, {os.cpu_count()} cores"
        )
        print(f"  Keras predict on decoded arrays  {plain:8.1f} pictures/s")
        print(f"  files to rows                    {job:8.1f} pictures/s, {job / plain:.2f} of it")
        for n in sorted({100, 2_000, given.most}):
            if n != given.images:
                draw(root / f"pictures-{n}", n)
            _, peak_mib = run_child("job", root, task, n)
            print(f"  {n:7,} pictures: at most {peak_mib:,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
