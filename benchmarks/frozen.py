"""A frozen variant at 50 epochs against plain Keras `fit` on the same data; then a second frozen variant.

The peer is what a user would write: the whole model, its backbone frozen, `fit` on arrays in memory. It is timed on
its first epochs and scaled up to 50, each epoch costing the same (`--full` runs all of them). Ours runs all 50,
from pixels to stored features, checkpoints after each epoch and predictions for val and test included; the peer
predicts nothing. Wall time of both, on the same machine in turn. The last line is a JSON object.

    python benchmarks/frozen.py [--full] [--weights FILE_OR_FOLDER]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from sqlalchemy import make_url

from lesion_tasks.bucket import DirectoryBucket
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.database.connection import engine_for, migrate
from lesion_tasks.database.embedded import postgres
from lesion_tasks.pixels.shards import PixelSource
from lesion_tasks.training.examples import Data, Examples
from lesion_tasks.training.loop import load_model, model_bytes
from lesion_tasks.training.model import build_model, find_weights
from lesion_tasks.training.predict_examples import predict_examples
from lesion_tasks.training.stages import train_model

N_TRAIN, N_VAL, N_TEST = 2_048, 256, 256
EPOCHS = 50
N_TIMED = 1
MIN_RATIO, MIN_SECOND_RATIO = 20.0, 50.0
MAX_DIFFERENCE = 1e-5


def pictures(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, 128, 128, 3) and labels (n,): noise around a disc that is darker for label 1."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    y, x = np.mgrid[:128, :128]
    disc = (x - 64) ** 2 + (y - 64) ** 2 < 40**2
    pixels = generator.integers(90, 200, (n, 128, 128, 3)).astype(np.int16)
    pixels[:, disc] -= (20 + 20 * labels)[:, None, None].astype(np.int16)
    return pixels.astype(np.uint8), labels


def examples(n: int, seed: int, first: int) -> Examples:
    """Pictures as our loop takes them."""
    pixels, labels = pictures(n, seed)
    return Examples(
        isic_ids=np.array([f"ISIC_{i:07d}" for i in range(first, first + n)], dtype=object),
        labels=labels,
        pixels=PixelSource(
            shards=(pixels,), shard_of_row=np.zeros(n, dtype=np.int64), row_in_shard=np.arange(n)
        ),
        metadata=None,
    )


def main() -> int:
    """Measure, print the ratios, and return 0 when they are what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--weights", default="none")
    asked = parser.parse_args()
    variant = replace(VARIANTS["mobilenet_v2_frozen"], max_epochs=EPOCHS, patience=EPOCHS)
    weights = find_weights(variant, asked.weights)
    data = Data(
        train=examples(N_TRAIN, 1, 0),
        val_drawn=(val := examples(N_VAL, 2, N_TRAIN)),
        val=val,
        test=examples(N_TEST, 3, N_TRAIN + N_VAL),
        sha256_by_id={f"ISIC_{i:07d}": f"{i:064x}" for i in range(N_TRAIN + N_VAL + N_TEST)},
    )
    n_timed = EPOCHS if asked.full else N_TIMED
    epoch_s = plain_epoch_seconds(variant, weights, data, n_timed)
    plain_s = epoch_s * EPOCHS
    print(f"plain Keras: {epoch_s:.2f} s an epoch over {n_timed}, {plain_s:.0f} s for {EPOCHS}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        url = make_url(postgres.ensure_running(home)).set(database="lesions")
        try:
            migrate(url.render_as_string(hide_password=False))
            engine = engine_for(url.render_as_string(hide_password=False))
            seconds, difference = [], 0.0
            for name, changed in (("first", {}), ("second", {"dense_units": (64,), "dropout_rate": 0.2})):
                some = replace(variant, name=f"frozen_{name}", **changed)  # type: ignore[arg-type]
                started = time.perf_counter()
                trained = train_model(
                    some,
                    weights,
                    data,
                    engine=engine,
                    bucket=DirectoryBucket(Path(folder) / "bucket"),
                    folder=f"trainings/{name}",
                    on_epoch=lambda epoch, figures, duration_s: None,
                )
                stored = model_bytes(trained.model)
                seconds.append(time.perf_counter() - started)
                print(f"ours, {name}: {seconds[-1]:.1f} s, {plain_s / seconds[-1]:.0f} times faster")
                again = predict_examples(load_model(stored), data.test, classes=some.task.classes)
                apart = np.abs(again.to_numpy() - trained.predictions["test"].to_numpy()).max()
                difference = max(difference, float(apart))
        finally:
            postgres.stop(home)
    print(f"largest difference between predictions from features and from the stored model: {difference:.1e}")
    ratios = [plain_s / s for s in seconds]
    is_kept = ratios[0] >= MIN_RATIO and ratios[1] >= MIN_SECOND_RATIO and difference <= MAX_DIFFERENCE
    result = {
        "name": "frozen: a first and a second variant on one base against fit",
        "ours": round(seconds[0], 1),
        "peer": round(plain_s, 1),
        "unit": "s",
        "ratio": round(ratios[0], 1),
        "target": MIN_RATIO,
        "ours_second": round(seconds[1], 1),
        "ratio_second": round(ratios[1], 1),
        "target_second": MIN_SECOND_RATIO,
        "largest_difference": difference,
        "n_images": [N_TRAIN, N_VAL, N_TEST],
        "passed": is_kept,
    }
    print(json.dumps(result))
    return 0 if is_kept else 1


def plain_epoch_seconds(variant, weights, data: Data, n_epochs: int) -> float:  # type: ignore[no-untyped-def]
    """Seconds of an epoch of `fit` on arrays; the epoch in which everything is compiled is not counted."""
    model = build_model(variant, weights)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    arrays = [
        (
            some.inputs(np.arange(len(some)))["pixels"].astype(np.float32),
            some.labels.astype(np.float32)[:, None],
        )
        for some in (data.train, data.val_drawn)
    ]
    (x, y), val = arrays[0], arrays[1]

    def fit(epochs: int) -> float:
        started = time.perf_counter()
        model.fit(
            {"pixels": x},
            y,
            validation_data=({"pixels": val[0]}, val[1]),
            batch_size=variant.batch_size,
            epochs=epochs,
            verbose=0,
        )
        return time.perf_counter() - started

    fit(1)
    seconds = fit(n_epochs) / n_epochs
    keras.utils.clear_session()
    return seconds


if __name__ == "__main__":
    sys.exit(main())
