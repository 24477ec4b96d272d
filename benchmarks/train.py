"""Images per second of our training against bare Keras on arrays in memory: the engine's overhead.

The same model, the same batches. Ours is the engine's loop: batches cut from memory-mapped shards in the order that
seed and epoch decide, figures after each epoch, a checkpoint in the bucket. The peer is `fit` on arrays. Both take
turns by the epoch and the medians are compared; the epoch in which everything is compiled is not counted. Without a
GPU time is that of the processor, over all threads, so that a busy machine does not matter; with one it is wall time,
and both use mixed precision. The last line is a JSON object.

    python benchmarks/train.py [--variant cnn_scratch] [--images 1024] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np

from lesion_tasks.bucket import DirectoryBucket
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.pixels.shards import PixelSource
from lesion_tasks.training.accelerator import find_accelerator
from lesion_tasks.training.examples import Batches, Examples
from lesion_tasks.training.loop import Stage, fit_stage
from lesion_tasks.training.model import build_model

MIN_RATIO_CPU, MIN_RATIO_GPU = 0.97, 0.95
N_VAL = 64


def clock() -> float:
    """Seconds: of the processor without a GPU, else of the wall."""
    return time.perf_counter() if find_accelerator().n_gpus else time.process_time()


def main() -> int:
    """Measure, print the ratio, and return 0 when it is what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="cnn_scratch", choices=sorted(VARIANTS))
    parser.add_argument("--images", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    variant = VARIANTS[asked.variant]
    accelerator = find_accelerator()
    generator = np.random.default_rng(1)
    side = int(variant.side_px or 0)
    pixels = generator.integers(0, 256, (asked.images, side, side, 3)).astype(np.uint8)
    labels = generator.integers(0, 2, asked.images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.npy"
        np.save(path, pixels)
        train = Examples(
            isic_ids=np.array([f"ISIC_{i:07d}" for i in range(asked.images)], dtype=object),
            labels=labels,
            pixels=PixelSource(
                shards=(np.load(path, mmap_mode="r"),),
                shard_of_row=np.zeros(asked.images, dtype=np.int64),
                row_in_shard=np.arange(asked.images),
            ),
            metadata=None,
        )
        with accelerator.training():
            peer = Peer(variant, pixels, labels)
            seconds = measure(variant, train, peer, Path(folder), asked.rounds)
    rates = {name: asked.images / median(values) for name, values in seconds.items()}
    ratio = rates["ours"] / rates["peer"]
    floor = MIN_RATIO_GPU if accelerator.n_gpus else MIN_RATIO_CPU
    print(f"ours {rates['ours']:.0f}, bare Keras {rates['peer']:.0f} images per second; ratio {ratio:.3f}")
    result = {
        "name": "train: our engine against bare Keras",
        "variant": asked.variant,
        "n_gpus": accelerator.n_gpus,
        "precision": accelerator.training_policy,
        "ours": round(rates["ours"], 1),
        "peer": round(rates["peer"], 1),
        "unit": "images/s",
        "ratio": round(ratio, 4),
        "target": floor,
        "passed": ratio >= floor,
    }
    print(json.dumps(result))
    return 0 if ratio >= floor else 1


def measure(variant, train: Examples, peer: Peer, folder: Path, n_rounds: int):  # type: ignore[no-untyped-def]
    """Seconds of each epoch: the engine's loop runs, and after each of its epochs the peer runs one.

    An epoch of ours reaches from one report to the next, so it has the checkpoint of the epoch before in it.
    """
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    resumed_at = clock()

    def on_epoch(epoch: int, figures: dict[str, float], duration_s: float) -> None:
        nonlocal resumed_at
        ended_at = clock()
        in_peer = peer.epoch()
        if epoch > 1:  # the first compiles
            seconds["ours"].append(ended_at - resumed_at)
            seconds["peer"].append(in_peer)
        resumed_at = clock()

    few = Examples(
        isic_ids=train.isic_ids[:N_VAL], labels=train.labels[:N_VAL], pixels=train.pixels, metadata=None
    )
    fit_stage(
        build_model(variant),
        Stage(
            name="benchmark",
            learning_rate=variant.learning_rate,
            max_epochs=n_rounds + 1,
            patience=n_rounds + 1,
            loss="binary_crossentropy",
            metrics=("auc",),
        ),
        lambda epoch: Batches(train, variant.batch_size, n_classes=2, seed=variant.seed, epoch=epoch),
        Batches(few, N_VAL, n_classes=2),
        bucket=DirectoryBucket(folder / "bucket"),
        folder="trainings/benchmark",
        on_epoch=on_epoch,
    )
    return seconds


class Peer:
    """What a user would write: `fit` on arrays, with the same validation."""

    def __init__(self, variant, pixels: np.ndarray, labels: np.ndarray) -> None:  # type: ignore[no-untyped-def]
        self.batch_size = variant.batch_size
        self.model = build_model(variant)
        self.model.compile(
            keras.optimizers.Adam(variant.learning_rate),
            "binary_crossentropy",
            metrics=[keras.metrics.AUC(name="auc")],
            jit_compile=False,
        )
        self.x, self.y = {"pixels": pixels.astype(np.float32)}, labels.astype(np.float32)[:, None]
        self.val = ({"pixels": self.x["pixels"][:N_VAL]}, self.y[:N_VAL])

    def epoch(self) -> float:
        started = clock()
        self.model.fit(self.x, self.y, batch_size=self.batch_size, validation_data=self.val, verbose=0)
        return clock() - started


if __name__ == "__main__":
    sys.exit(main())
