"""Examples small enough to fit in memory -> an epoch as one graph, without returning to Python for each batch.

A head on stored features has so little to compute that feeding it costs thirty times as much as computing. Here
features and targets are converted to tensors once, and an epoch is a loop in the graph over the model's own
`train_step`: the same batches in the same order as `examples.Batches`, and so the same training.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from lesion_tasks.training.examples import Batches, Examples

# Float32 features of half a million images at 1,280 each are 2.6 GB.
MAX_BYTES = 3_000_000_000


def has_room_in_memory(examples: Examples) -> bool:
    """Whether these examples' inputs may be held as tensors, on the only back end that this supports."""
    row = examples.inputs(np.arange(min(1, len(examples))))
    size_bytes = len(examples) * sum(values.nbytes for values in row.values())
    return keras.backend.backend() == "tensorflow" and size_bytes <= MAX_BYTES


class InMemory:
    """Runs the epochs of a compiled model on train and val examples in memory."""

    def __init__(
        self,
        model: keras.Model,
        train: Examples,
        val: Examples,
        *,
        batch_size: int,
        n_classes: int,
        seed: int,
        weights: Mapping[int, float] | None = None,
    ) -> None:
        import tensorflow as tf

        self.model, self.seed, self.n_train = model, seed, len(train)
        arrays = [_arrays(some, n_classes, weights) for some in (train, val)]
        learned, judged = ([tf.nest.map_structure(tf.constant, part) for part in some] for some in arrays)

        def step(start: tf.Tensor, order: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = order[start : start + batch_size]
            model.train_step(tf.nest.map_structure(partial(tf.gather, indices=rows), tuple(learned)))
            return start + batch_size, order

        def train_epoch(order: tf.Tensor) -> None:
            tf.while_loop(lambda start, order: start < self.n_train, step, (tf.constant(0), order))

        def judge() -> None:
            model.test_step(tuple(judged))

        train_epoch = tf.function(train_epoch, autograph=False)
        judge = tf.function(judge, autograph=False)
        self._train_epoch, self._judge, self._tf = train_epoch, judge, tf

    def train(self, epoch: int) -> dict[str, float]:
        """Run one epoch in the order given by seed and epoch; returns its figures."""
        order = np.random.default_rng((self.seed, epoch)).permutation(np.arange(self.n_train))
        self.model.reset_metrics()
        self._train_epoch(self._tf.constant(order))
        return _figures(self.model)

    def validate(self) -> dict[str, float]:
        """Compute the figures of the val examples."""
        self.model.reset_metrics()
        self._judge()
        return _figures(self.model)


def _arrays(examples: Examples, n_classes: int, weights: Mapping[int, float] | None) -> list[Any]:
    """Inputs by name, targets as in `Batches`, and a weight for each example if weights are given."""
    inputs, targets = Batches(examples, max(1, len(examples)), n_classes=n_classes)[0]
    if weights is None:
        return [dict(inputs), targets]
    return [dict(inputs), targets, np.array([weights[int(x)] for x in examples.labels], dtype=np.float32)]


def _figures(model: keras.Model) -> dict[str, float]:
    found = model.get_metrics_result()
    return {name: float(value) for name, value in found.items()}
