"""Images per second of our training against bare Keras on arrays in memory: what our loop costs.

The same model, the same batches. Ours is the loop of the package: batches cut from memory-mapped shards in the order
that seed and epoch decide, figures after each epoch, a checkpoint in the bucket. The peer is `fit` on arrays. Both take
turns by the epoch and the medians are compared; the epoch in which everything is compiled is not counted. Without a
GPU time is that of the processor, over all threads, so that a busy machine does not matter; with one it is wall time,
and both use mixed precision. Twice: a plain variant, and the same network by the recipe of a tuned one, distorted, with
scheduled AdamW, averages of the weights and an epoch judged by AUC. There the peer hands the same distorted pictures to
Keras' own AdamW with its averages. The ratio is the lower of the two; the last line is a JSON object.

    python benchmarks/train.py [--variant cnn_scratch] [--recipe efficientnet_lite0_tuned] [--images 1024] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np

from lesion_tasks.bucket import DirectoryBucket
from lesion_tasks.catalog import VARIANTS, Learning, Variant
from lesion_tasks.pixels.shards import PixelSource
from lesion_tasks.training.accelerator import find_accelerator
from lesion_tasks.training.distortions import distort
from lesion_tasks.training.examples import Batches, Examples
from lesion_tasks.training.judge import Judgement, judge_probabilities
from lesion_tasks.training.learning_batches import LearningBatches
from lesion_tasks.training.loop import Stage, train_stage
from lesion_tasks.training.model import build_model
from lesion_tasks.training.optimizers import make_optimizer
from lesion_tasks.training.predict_examples import predict_examples

MIN_RATIO_CPU, MIN_RATIO_GPU = 0.97, 0.95
N_VAL = 64


def clock() -> float:
    """Seconds: of the processor without a GPU, else of the wall."""
    return time.perf_counter() if find_accelerator().n_gpus else time.process_time()


def main() -> int:
    """Measure, print the ratio, and return 0 when it is what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="cnn_scratch", choices=sorted(VARIANTS))
    parser.add_argument("--recipe", default="efficientnet_lite0_tuned", choices=sorted(VARIANTS))
    parser.add_argument("--images", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    variant, learning = VARIANTS[asked.variant], VARIANTS[asked.recipe].learning
    if learning is None:
        raise SystemExit(f"--recipe {asked.recipe}: it says nothing of how it learns")
    # A second head needs diagnoses and a solved one features: neither is of the loop.
    recipe = replace(learning, is_head_solved=False, auxiliary_weight=0.0)
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
        ratios, rates = {}, {}
        with accelerator.training():
            for name, how in (("plain", None), ("recipe", recipe)):
                peer = Peer(variant, pixels, labels, how)
                seconds = measure(variant, train, peer, Path(folder) / name, asked.rounds, how)
                rates[name] = {
                    side: round(asked.images / median(all_of), 1) for side, all_of in seconds.items()
                }
                ratios[name] = median(seconds["peer"]) / median(seconds["ours"])
                print(f"{name}: {rates[name]} images per second; ratio {ratios[name]:.3f}", flush=True)
    floor = MIN_RATIO_GPU if accelerator.n_gpus else MIN_RATIO_CPU
    worst = min(ratios, key=lambda name: ratios[name])
    result = {
        "name": "train: our engine against bare Keras",
        "variant": asked.variant,
        "n_gpus": accelerator.n_gpus,
        "precision": accelerator.training_policy,
        "ours": rates[worst]["ours"],
        "peer": rates[worst]["peer"],
        "unit": "images/s",
        "ratio": round(ratios[worst], 4),
        "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "target": floor,
        "passed": ratios[worst] >= floor,
    }
    print(json.dumps(result))
    return 0 if result["passed"] else 1


def measure(
    variant: Variant, train: Examples, peer: Peer, folder: Path, n_rounds: int, how: Learning | None
) -> dict[str, list[float]]:
    """Seconds of each epoch: our loop runs, and after each of its epochs the peer runs one.

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
    model = build_model(variant)
    stage = Stage(
        name="benchmark",
        learning_rate=variant.learning_rate,
        max_epochs=n_rounds + 1,
        patience=n_rounds + 1,
        loss="binary_crossentropy",
        metrics=("auc",),
    )

    def plain(epoch: int) -> Batches:
        return Batches(train, variant.batch_size, n_classes=2, seed=variant.seed, epoch=epoch)

    if how is None:
        batches, judge = plain, None
    else:
        n_steps = stage.max_epochs * len(plain(1))
        rate = stage.learning_rate
        stage = replace(
            stage, make_optimizer=lambda: make_optimizer(how, model, learning_rate=rate, n_steps=n_steps)
        )

        def batches(epoch: int) -> LearningBatches:
            return LearningBatches(plain(epoch), how, seed=variant.seed, epoch=epoch)

        def judge() -> Judgement:
            found = predict_examples(model, few, classes=variant.task.classes, batch_images=N_VAL)
            return judge_probabilities(found.to_numpy(), few.labels)

    train_stage(
        model,
        stage,
        batches,
        Batches(few, N_VAL, n_classes=2),
        bucket=DirectoryBucket(folder / "bucket"),
        folder="trainings/benchmark",
        on_epoch=on_epoch,
        judge=judge,
    )
    return seconds


class Distorted(keras.utils.PyDataset):
    """What a user would write for a recipe that distorts: batches in a random order, each distorted when asked for."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, batch_size: int, how: Learning) -> None:
        super().__init__()
        self.pixels, self.labels, self.batch_size, self.how = pixels, labels, batch_size, how
        self.generator = np.random.default_rng(1)
        self.order = self.generator.permutation(len(labels))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        how = self.how
        pictures = distort(self.pixels[rows], self.generator, how.n_distortions, how.distortion_strength)
        return {"pixels": pictures}, self.labels[rows]


class Peer:
    """What a user would write: `fit` on arrays, or on distorted ones, with the same validation."""

    def __init__(
        self, variant: Variant, pixels: np.ndarray, labels: np.ndarray, how: Learning | None
    ) -> None:
        self.batch_size, self.how = variant.batch_size, how
        self.model = build_model(variant)
        self.model.compile(
            self._optimizer(variant.learning_rate),
            "binary_crossentropy",
            metrics=[keras.metrics.AUC(name="auc")],
            jit_compile=False,
        )
        self.pixels, self.y = pixels, labels.astype(np.float32)[:, None]
        self.x = {"pixels": pixels.astype(np.float32)}
        self.val = ({"pixels": self.x["pixels"][:N_VAL]}, self.y[:N_VAL])

    def _optimizer(self, rate: float) -> keras.optimizers.Optimizer:
        if (how := self.how) is None:
            return keras.optimizers.Adam(rate)
        falling = keras.optimizers.schedules.CosineDecay(0.0, 1_000, warmup_target=rate, warmup_steps=50)
        return keras.optimizers.AdamW(
            falling, weight_decay=how.weight_decay, use_ema=True, ema_momentum=how.ema_momentum
        )

    def epoch(self) -> float:
        started = clock()
        if self.how is None:
            self.model.fit(self.x, self.y, batch_size=self.batch_size, validation_data=self.val, verbose=0)
        else:
            batches = Distorted(self.pixels, self.y, self.batch_size, self.how)
            self.model.fit(batches, shuffle=False, validation_data=self.val, verbose=0)
        return clock() - started


if __name__ == "__main__":
    sys.exit(main())
