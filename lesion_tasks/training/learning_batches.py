"""Batches -> what a recipe of learning makes of them: distorted, mixed in pairs, with auxiliary targets.

Everything random in a batch follows from seed, epoch and the batch's number, so a resumed training sees the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from lesion_tasks.catalog import Learning
from lesion_tasks.training.distortions import distort
from lesion_tasks.training.examples import Batches


@dataclass(frozen=True, kw_only=True)
class Diagnoses:
    """The deeper diagnosis of images, as far as it is known: what a second head learns."""

    names: tuple[str, ...]  # its classes
    number_by_id: Mapping[str, int]

    def targets(self, isic_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One-hot float32 (b, K), and how much each counts, float32 (b,): 0 where the diagnosis is not known."""
        numbers = np.array([self.number_by_id.get(isic_id, -1) for isic_id in isic_ids])
        return np.eye(len(self.names), dtype=np.float32)[numbers], (numbers >= 0).astype(np.float32)


class LearningBatches(keras.utils.PyDataset):
    """Train batches of one epoch, with weights of classes and of rows, float32 (n,), if any are given.

    Targets and weights are dictionaries, `probabilities` and `auxiliary`, where there are diagnoses to learn.
    """

    def __init__(
        self,
        batches: Batches,
        how: Learning,
        *,
        seed: int,
        epoch: int,
        weights: Mapping[int, float] | None = None,
        row_weights: np.ndarray | None = None,
        diagnoses: Diagnoses | None = None,
    ) -> None:
        super().__init__()
        self.batches, self.how, self.seed, self.epoch = batches, how, seed, epoch
        self.weights = None if weights is None else np.array(list(weights.values()), dtype=np.float32)
        self.row_weights, self.diagnoses = row_weights, diagnoses

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        generator = np.random.default_rng((self.seed, self.epoch, index))
        rows = self.batches.rows(index)
        found, targets = self.batches[index]
        inputs = dict(found)
        labels = self.batches.examples.labels[rows]
        weights = np.ones(len(rows), np.float32) if self.weights is None else self.weights[labels]
        parts = {"probabilities": (targets, weights)}
        if self.diagnoses is not None:
            parts["auxiliary"] = self.diagnoses.targets(self.batches.examples.isic_ids[rows])
        if (by_row := self.row_weights) is not None:
            parts = {name: (t, w * by_row[rows]) for name, (t, w) in parts.items()}
        if self.how.n_distortions:
            inputs["pixels"] = distort(
                inputs["pixels"], generator, self.how.n_distortions, self.how.distortion_strength
            )
        if self.how.mixup_alpha:
            share = np.float32(generator.beta(self.how.mixup_alpha, self.how.mixup_alpha))
            partner = generator.permutation(len(rows))

            def mixed(values: np.ndarray) -> np.ndarray:
                return np.asarray(share * values + (1 - share) * values[partner], dtype=np.float32)

            inputs = {name: mixed(values) for name, values in inputs.items()}
            # An example counts by its weight, mixed or not.
            parts = {
                name: (mixed(t * w[:, None]) / np.maximum(mixed(w), 1e-7)[:, None], mixed(w))
                for name, (t, w) in parts.items()
            }
        if self.diagnoses is None:
            return inputs, *parts["probabilities"]
        return inputs, {n: t for n, (t, _) in parts.items()}, {n: w for n, (_, w) in parts.items()}
