"""A model in training and batches -> the mean and variance that its batch norm is served with.

In training batch norm uses each batch's own mean and variance; a model that is judged or served uses averages of them.
The averages that training keeps are of weights that have changed since, and where a network came with momentum 0.999
some dozen steps hardly move them: what is served is then another function than what was learned. So they are measured
anew for the weights as they are ("precise BN", Wu and Johnson 2021, "Rethinking Batch in BatchNorm", section 3).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from lesion_tasks.training.model.weights import all_layers

# Wu and Johnson find 1,000 to 10,000 enough; the fewest of them, since every epoch pays for it.
MAX_IMAGES = 1_024


class BatchStatistics:
    """Measures the statistics of those batch-norm layers of a model that learn."""

    def __init__(self, model: keras.Model) -> None:
        self._layers = [
            layer
            for layer in all_layers(model)
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        self._learner = InTraining(model)
        self._learner.compile(jit_compile=False)  # see accelerator.py

    def measure(self, batches: keras.utils.PyDataset) -> None:
        """Give batch norm its mean and variance over the first `MAX_IMAGES` of these batches.

        Each layer sees what the layers before it make of a batch in training. Without batch norm that learns, nothing
        is computed.
        """
        if not self._layers:
            return
        n_images = 0
        means, squares = ([np.zeros(1)] * len(self._layers) for _ in range(2))  # sums over images
        for i in range(len(batches)):
            inputs = batches[i][0]
            n = len(next(iter(inputs.values())))
            for at, (mean, variance) in enumerate(self._of_batch(inputs)):
                means[at] = means[at] + n * mean
                squares[at] = squares[at] + n * (variance + mean**2)
            n_images += n
            if n_images >= MAX_IMAGES:
                break
        for layer, mean, square in zip(self._layers, means, squares, strict=True):
            layer.moving_mean.assign(mean / n_images)
            layer.moving_variance.assign(np.maximum(square / n_images - (mean / n_images) ** 2, 0.0))

    def _of_batch(self, inputs: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The mean and variance of one batch in each layer, float64 (channels,)."""
        momenta = [layer.momentum for layer in self._layers]
        try:
            for layer in self._layers:
                layer.momentum = 0.0  # what it then keeps is this batch's alone
            self._learner.predict_on_batch(inputs)
        finally:
            for layer, momentum in zip(self._layers, momenta, strict=True):
                layer.momentum = momentum
        return [(_float64(layer.moving_mean), _float64(layer.moving_variance)) for layer in self._layers]


def _float64(variable: keras.Variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), np.float64)


class InTraining(keras.Model):
    """A model that answers as it does in training. (Keras overrides the mode of a model inside a functional one.)"""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def call(self, inputs: Any) -> Any:
        """The model's answer, its batch norm from the batch, its dropout and augmentation at work."""
        return self.model(inputs, training=True)
