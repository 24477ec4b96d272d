"""Pictures per second from files to rows, against plain Keras on arrays that are decoded already; and the memory.

    make bench-predict
    python benchmarks/predict.py --variant mobilenet_v2_tuned --images 512 --most 20000

Models have random weights, and tell where they do not know: they cost as much as trained champions. Pictures are
drawn and stored as JPEG; of the larger numbers most are links to others. Memory is measured with the smallest model,
which leaves most to the rest.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lesion_tasks.bucket import Bucket, DirectoryBucket
from lesion_tasks.catalog import VARIANTS, Variant
from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import Workspace

SIZE_PX = (450, 300)
SMALL_PX = (96, 64)  # where memory is measured: more pictures are in flight, and each costs little
N_DRAWN = 500  # different files; further pictures are links to them
N_REPEATS = 5  # of which the fastest counts: a busy machine only makes it slower
N_FITTED = 80  # pictures of noise on which doubt is fitted
MEASURED = ("mobilenet_v2_tuned", "mobilenet_v2_unfrozen_augmented")


def draw(folder: Path, n: int, size_px: tuple[int, int]) -> None:
    """Pictures with a dark disc on a mottled ground; only the first N_DRAWN are files of their own."""
    folder.mkdir(parents=True)
    width, height = size_px
    random = np.random.default_rng(0)
    ground = random.integers(90, 210, (height // 4, width // 4, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(ground).resize(size_px, Image.Resampling.BICUBIC)).astype(np.int16)
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
    from lesion_tasks.training.model.stored_model import finish_model, with_calibration

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


def store_doubt(bucket: Bucket, task: str) -> None:
    """Fit on noise where the champion of a task does not know, and name it in the champion's entry."""
    from lesion_tasks.evaluation.doubt import StoredDoubt, to_bytes
    from lesion_tasks.evaluation.model_features import with_features
    from lesion_tasks.metrics.conformal import ConformalSets
    from lesion_tasks.metrics.novelty import fit_novelty
    from lesion_tasks.serving.served_model import find_champion, load_served

    served = load_served(bucket, find_champion(bucket, task))
    watched, size = with_features(served.model), served.input_size
    assert watched is not None and size is not None
    shape = (N_FITTED, size.side_px, size.side_px, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    metadata = np.full((N_FITTED, len(served.metadata_fields)), np.nan, dtype=np.float32)
    given = {"pixels": noise, "metadata": metadata}
    _, *features = watched.predict_on_batch({one.name: given[one.name] for one in watched.inputs})
    novelty = fit_novelty([np.asarray(some) for some in features], np.arange(N_FITTED))
    sets = ConformalSets(error_rate=0.1, class_names=served.classes, bounds=(0.9, 0.05), n_groups=(40, 40))
    data = to_bytes(StoredDoubt(sets=sets, novelty=novelty))
    bucket.put("reports/doubt.npz", data)
    entry = json.loads(bucket.get("champion.json"))
    entry[task] |= {"doubt_key": "reports/doubt.npz", "doubt_sha256": hashlib.sha256(data).hexdigest()}
    bucket.put("champion.json", json.dumps(entry).encode())


def measure_rates(workspace: Workspace, task: str, folder: Path, n: int) -> list[float]:
    """Pictures per second of Keras's `predict` on decoded arrays, and of a job from files to stored rows.

    In turns and in one process, each the fastest of several; without the start of TensorFlow and the compilation. By
    the clock, and by the processor's time, which other programs of a busy machine do not share.
    """
    from lesion_tasks.pixels.decode import decode_picture
    from lesion_tasks.serving import predict_job
    from lesion_tasks.serving.predict_pictures import BATCH_IMAGES
    from lesion_tasks.serving.served_model import find_champion, load_served

    served = load_served(workspace.bucket, find_champion(workspace.bucket, task))
    predict_job.load_served = lambda bucket, file: served
    drawn = [
        decode_picture((folder / f"{i:06d}.jpg").read_bytes(), served.input_size)
        for i in range(min(n, N_DRAWN))
    ]
    pixels = np.stack([drawn[i % N_DRAWN] for i in range(n)])

    def plain(pixels: np.ndarray) -> None:
        served.model.predict({"pixels": pixels}, batch_size=BATCH_IMAGES, verbose=0)

    def job() -> None:
        job_id = predict_job.plan_predictions(workspace, str(folder), task=task)
        predict_job.run_predictions(workspace, job_id)
        predict_job.finish_predictions(workspace, job_id)
        for key in list(workspace.bucket.list_keys(f"predictions/{job_id}/")):
            workspace.bucket.delete(key)

    plain(pixels[:BATCH_IMAGES])
    served.predict(pixels[:BATCH_IMAGES], np.zeros((BATCH_IMAGES, 0), np.float32))
    wall: dict[str, list[float]] = {"plain": [], "job": []}
    cpu: dict[str, list[float]] = {"plain": [], "job": []}
    for _ in range(N_REPEATS):
        for name, work in (("plain", lambda: plain(pixels)), ("job", job)):
            started = time.perf_counter(), time.process_time()
            work()
            wall[name].append(time.perf_counter() - started[0])
            cpu[name].append(time.process_time() - started[1])
    return [n / min(times[name]) for times in (wall, cpu) for name in ("plain", "job")]


def measure_memory(workspace: Workspace, task: str, folder: Path, n: int) -> list[float]:
    """The peak of this process's memory after a whole job, in MiB, and the job's seconds."""
    from lesion_tasks.serving.predict_job import predict_source

    started = time.perf_counter()
    assert predict_source(workspace, str(folder), task=task).n_predicted == n
    # Not `ru_maxrss`, which begins with what the process had that started this one.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return [int(peak) / 1024, time.perf_counter() - started]


MEASURES = {"rates": measure_rates, "memory": measure_memory}


def in_process(what: str, root: Path, variant: str, n: int, size_px: tuple[int, int]) -> list[float]:
    """Draw, and measure one thing in a process of its own."""
    if not (root / variant).exists():
        store_champion(root / variant, dataclasses.replace(VARIANTS[variant], is_pretrained=False))
        store_doubt(DirectoryBucket(root / variant), VARIANTS[variant].task.name)
    if not (root / f"pictures-{n}").exists():
        draw(root / f"pictures-{n}", n, size_px)
    environment = os.environ | {"LESION_BUCKET_URL": str(root / variant), "LESION_HOME": str(root / "home")}
    command = [sys.executable, __file__, "--measure", what, "--root", str(root), "--images", str(n)]
    done = subprocess.run(
        [*command, "--variant", variant], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", help=f"whose rate is measured; by default {' and '.join(MEASURED)}")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--most", type=int, default=20_000, help="pictures by which memory is measured")
    parser.add_argument("--measure", choices=MEASURES, help="only this, in this process")
    parser.add_argument("--root", type=Path)
    given = parser.parse_args()
    if given.measure:
        folder = given.root / f"pictures-{given.images}"
        task = VARIANTS[given.variant].task.name
        print(json.dumps(MEASURES[given.measure](Workspace(read_settings()), task, folder, given.images)))
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for variant in (given.variant,) if given.variant else MEASURED:
            plain, job, cpu_plain, cpu_job = in_process("rates", root, variant, given.images, SIZE_PX)
            size = f"{SIZE_PX[0]} x {SIZE_PX[1]} px"
            print(f"{variant}, {given.images:,} JPEGs of {size}, {os.cpu_count()} cores")
            print(f"  Keras predict on decoded arrays  {plain:8.1f} pictures/s  {cpu_plain:8.1f} by CPU time")
            print(f"  files to rows                    {job:8.1f} pictures/s  {cpu_job:8.1f} by CPU time")
            print(
                f"  share                            {job / plain:8.2f}             {cpu_job / cpu_plain:8.2f}",
                flush=True,
            )
        print(f"smoke, JPEGs of {SMALL_PX[0]} x {SMALL_PX[1]} px: the peak of memory", flush=True)
        for n in sorted({100, 2_000, given.most}):
            peak_mib, seconds = in_process("memory", root, "smoke", n, SMALL_PX)
            print(f"  {n:7,} pictures  {peak_mib:8,.0f} MiB  {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
