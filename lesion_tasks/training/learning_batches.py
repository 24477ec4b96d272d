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
        if self.how.is_mixing:
            inputs, parts = self._mixed(inputs, parts, generator)
        if self.diagnoses is None:
            return inputs, *parts["probabilities"]
        return inputs, {n: t for n, (t, _) in parts.items()}, {n: w for n, (_, w) in parts.items()}

    def _mixed(
        self,
        inputs: dict[str, np.ndarray],
        parts: dict[str, tuple[np.ndarray, np.ndarray]],
        generator: np.random.Generator,
    ) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Each example of a batch mixed with another: their inputs, and the targets and weights of each output."""
        is_cut = self.how.cutmix_alpha > 0 and (self.how.mixup_alpha == 0 or generator.random() < 0.5)
        alpha = self.how.cutmix_alpha if is_cut else self.how.mixup_alpha
        share = np.float32(generator.beta(alpha, alpha))
        order = generator.permutation(len(next(iter(inputs.values()))))
        inputs, found = dict(inputs), {}
        if is_cut:
            found["pixels"], share = cut_mix(inputs.pop("pixels"), order, share, generator)

        def mixed(values: np.ndarray) -> np.ndarray:
            return np.asarray(share * values + (1 - share) * values[order], dtype=np.float32)

        # An example counts by its weight, mixed or not.
        return found | {name: mixed(values) for name, values in inputs.items()}, {
            name: (mixed(t * w[:, None]) / np.maximum(mixed(w), 1e-7)[:, None], mixed(w))
            for name, (t, w) in parts.items()
        }


def cut_mix(
    pixels: np.ndarray, order: np.ndarray, share: float | np.floating, generator: np.random.Generator
) -> tuple[np.ndarray, np.float32]:
    """Put the same rectangle of other pictures into each: pixels (b, side, side, 3), and the share that is left.

    `order` int (b,) says which picture each gets a part of, `share` how much of its own is to be left. The rectangle
    may lie partly outside, so that more is left (Yun et al. 2019, equation 2).
    """
    side = pixels.shape[1]
    half = round(side * float(1 - share) ** 0.5) / 2
    top, left = (int(centre) for centre in generator.integers(0, side, 2))
    rows, columns = (
        slice(max(0, round(centre - half)), min(side, round(centre + half))) for centre in (top, left)
    )
    cut = np.array(pixels)
    cut[:, rows, columns] = pixels[order][:, rows, columns]
    n_cut = (rows.stop - rows.start) * (columns.stop - columns.start)
    return cut, np.float32(1 - n_cut / side**2)
