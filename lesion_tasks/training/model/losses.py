"""Training losses: variants of cross-entropy. A stored model needs none of them: it is saved uncompiled."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# Abrahamyan et al. 2021, "Bias Loss for Mobile Neural Networks", section 4: exp(alpha * v) - beta. Their alpha, also
# 0.3, is a variant's `bias_alpha`.
BIAS_BETA = 0.3
# Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1.
FOCAL_GAMMA = 2.0


def loss_for(
    name: str, n_classes: int, label_smoothing: float = 0.0, log_shares: Sequence[float] | None = None
) -> str | keras.losses.Loss:
    """The Keras loss of a variant; "bias" is cross-entropy whose examples `BiasLossModel` weights.

    `log_shares`, one for each class, are added to the logits: `logit_adjustment` times the logarithm of its share.
    """
    if name == "focal":
        if n_classes == 2:
            return keras.losses.BinaryFocalCrossentropy(gamma=FOCAL_GAMMA, label_smoothing=label_smoothing)
        return keras.losses.CategoricalFocalCrossentropy(
            gamma=FOCAL_GAMMA, alpha=1.0, label_smoothing=label_smoothing
        )
    if log_shares is not None:
        return LogitAdjustedCrossEntropy(log_shares, label_smoothing)
    if label_smoothing:
        if n_classes == 2:
            return keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing)
        return keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    return "binary_crossentropy" if n_classes == 2 else "categorical_crossentropy"


class LogitAdjustedCrossEntropy(keras.losses.Loss):
    """Cross-entropy after classes' logits are moved by how frequent they are (Menon et al. 2021, equation 10).

    Takes probabilities (b, 1) or (b, K), as a model gives them; the model itself is not moved.
    """

    def __init__(self, log_shares: Sequence[float], label_smoothing: float = 0.0) -> None:
        super().__init__(name="logit_adjusted")
        self.log_shares, self.label_smoothing = list(log_shares), label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each example, (b,)."""
        p = ops.clip(y_pred, 1e-7, 1 - 1e-7)
        y = ops.cast(y_true, p.dtype)
        if p.shape[-1] == 1:
            logit = ops.log(p) - ops.log1p(-p) + (self.log_shares[1] - self.log_shares[0])
            y = y * (1 - self.label_smoothing) + self.label_smoothing / 2
            return ops.mean(ops.binary_crossentropy(y, logit, from_logits=True), axis=-1)
        y = y * (1 - self.label_smoothing) + self.label_smoothing / len(self.log_shares)
        return ops.categorical_crossentropy(
            y, ops.log(p) + ops.array(self.log_shares, p.dtype), from_logits=True
        )


class BiasLossModel(keras.Model):
    """A classifier in training under bias loss. Outputs (probabilities, feature maps); never stored.

    An example whose feature maps vary little teaches a network little, so it counts less. The variance over each
    example's feature maps is scaled to 0 to 1 within the batch.
    """

    bias_alpha: float

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Cross-entropy of the probabilities, each example weighted by the variance of its feature maps."""
        probabilities, maps = y_pred
        if training:
            variance = ops.var(ops.cast(maps, "float32"), axis=(1, 2, 3))  # (b,)
            low, high = ops.min(variance), ops.max(variance)
            scaled = ops.stop_gradient((variance - low) / (high - low + 1e-7))
            weight = ops.exp(self.bias_alpha * scaled) - BIAS_BETA
            sample_weight = weight if sample_weight is None else weight * ops.reshape(sample_weight, (-1,))
        return super().compute_loss(x, y, probabilities, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Metrics of the probabilities only."""
        figures: dict[str, Any] = super().compute_metrics(x, y, y_pred[0], sample_weight)
        return figures


def with_bias_loss(model: keras.Model, alpha: float) -> keras.Model:
    """The same layers and variables as a model to train with bias loss. It must have a layer `pool`."""
    learner = BiasLossModel(model.inputs, [model.outputs[0], model.get_layer("pool").input], name=model.name)
    learner.bias_alpha = alpha
    return learner


def with_auxiliary_head(model: keras.Model, n_diagnoses: int, seed: int) -> keras.Model:
    """The same layers and variables as a model, with a second head on the same features, to train both.

    Outputs `probabilities`, as before, and `auxiliary` (b, n_diagnoses).
    """
    second = keras.layers.Dense(
        n_diagnoses,
        activation="softmax",
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        dtype="float32",
        name="auxiliary",
    )(model.get_layer("probabilities").input)
    inputs = {tensor.name: tensor for tensor in model.inputs}
    return keras.Model(inputs, {"probabilities": model.outputs[0], "auxiliary": second}, name=model.name)
