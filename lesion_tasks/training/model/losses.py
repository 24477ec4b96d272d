"""Training losses: variants of cross-entropy. A stored model needs none of them: it is saved uncompiled."""

from typing import Any

import keras
from keras import ops

# Abrahamyan et al. 2021, "Bias Loss for Mobile Neural Networks", section 4: exp(alpha * v) - beta. Their alpha, also
# 0.3, is a variant's `bias_alpha`.
BIAS_BETA = 0.3
# Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1.
FOCAL_GAMMA = 2.0


def loss_for(name: str, n_classes: int) -> str | keras.losses.Loss:
    """The Keras loss of a variant; "bias" is cross-entropy whose examples `BiasLossModel` weights."""
    if name == "focal":
        if n_classes == 2:
            return keras.losses.BinaryFocalCrossentropy(gamma=FOCAL_GAMMA)
        return keras.losses.CategoricalFocalCrossentropy(gamma=FOCAL_GAMMA, alpha=1.0)
    return "binary_crossentropy" if n_classes == 2 else "categorical_crossentropy"


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
