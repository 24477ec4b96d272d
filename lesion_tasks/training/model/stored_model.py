"""A trained model -> the model that is stored: calibrated, and averaged over flips if the variant says so."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from lesion_tasks.catalog import Variant

# Probabilities are kept this far from 0 and 1 before taking their logarithm.
EPSILON = 1e-7
# A picture and its mirror images, as axes of (b, side, side, 3).
FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))
MEAN_OF_FLIPS = "mean_of_flips"  # the layer by which a flip-averaged model is recognized


def as_views(inputs: Mapping[str, Any], views: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """A model's inputs, view after view in one batch: pictures mirrored along each view's axes, the rest unchanged."""
    return {
        name: ops.concatenate(
            [ops.flip(value, axis=axes) if axes and name == "pixels" else value for axes in views], axis=0
        )
        for name, value in inputs.items()
    }


def mean_of_views(p: Any, n_views: int) -> Any:
    """Probabilities (n_views * b, K) of such a batch -> their mean for each picture, (b, K)."""
    return ops.mean(ops.reshape(p, (n_views, -1, p.shape[-1])), axis=0)


def average_over_flips(model: keras.Model) -> keras.Model:
    """A model with the same inputs that outputs the mean probabilities of a picture and its three mirror images."""
    inputs = {tensor.name: keras.Input(tensor.shape[1:], name=tensor.name) for tensor in model.inputs}
    # All views in one batch: the model is in the graph once, and is compiled once.
    mean = mean_of_views(model(as_views(inputs, FLIPS), training=False), len(FLIPS))
    named = layers.Activation("linear", name=MEAN_OF_FLIPS, dtype="float32")(mean)
    return keras.Model(inputs, named, name=model.name)


def fit_calibration(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Scale and shift of the logit on validation rows: Platt scaling for two classes, temperature for more.

    `probabilities` float (n, 2) or (n, K), `labels` int (n,). With more than two classes the shift is 0.
    """
    from scipy.optimize import minimize, minimize_scalar
    from scipy.special import expit, log_softmax

    clipped = np.clip(probabilities, EPSILON, 1 - EPSILON)
    if probabilities.shape[1] == 2:
        logit = np.log(clipped[:, 1]) - np.log1p(-clipped[:, 1])
        # Platt's targets prevent an infinite slope on a perfectly ranked validation set.
        n_positive = labels.sum()
        target = np.where(
            labels == 1, (n_positive + 1) / (n_positive + 2), 1 / (len(labels) - n_positive + 2)
        )

        def cross_entropy(x: np.ndarray) -> tuple[float, np.ndarray]:
            """Of scale and shift, with its gradient: convex, so that there is one minimum and a way down to it."""
            scaled = x[0] * logit + x[1]
            apart = expit(scaled) - target
            loss = np.mean(np.logaddexp(0, scaled) - target * scaled)
            return float(loss), np.array([np.mean(apart * logit), np.mean(apart)])

        found = minimize(cross_entropy, np.array([1.0, 0.0]), method="BFGS", jac=True)
        # A slope below 0 would reverse the ranking: then the scores are meaningless, and stay unchanged.
        return (float(found.x[0]), float(found.x[1])) if found.x[0] > 0 else (1.0, 0.0)
    logs = np.log(clipped)
    rows = np.arange(len(labels))
    best = minimize_scalar(
        lambda scale: float(-np.mean(log_softmax(scale * logs, axis=1)[rows, labels])),
        bounds=(0.05, 20.0),
        method="bounded",
    )
    return float(best.x), 0.0


def with_calibration(model: keras.Model, scale: float, shift: float) -> keras.Model:
    """The same model, its logit scaled and shifted. The ranking of images does not change."""
    output = _calibrate(model.outputs[0], scale, shift)
    return keras.Model(inputs_of(model), output, name=model.name)


def calibrated(probabilities: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """The calibrated model's probabilities, from the model's own, (n, 2) or (n, K), without reading a picture."""
    if probabilities.shape[1] != 2:
        return np.asarray(_calibrate(probabilities.astype(np.float32), scale, shift), dtype=np.float64)
    p = np.asarray(_calibrate(probabilities[:, 1:].astype(np.float32), scale, shift), dtype=np.float64)
    return np.column_stack([1.0 - p, p])


def _calibrate(p: Any, scale: float, shift: float) -> Any:
    """Probabilities (b, 1) of the second of two classes, or (b, K), as a tensor or an array -> the same, calibrated."""
    if p.shape[-1] == 1:
        scaled = layers.Rescaling(scale, offset=shift, name="calibrate", dtype="float32")(logits_of(p))
        return layers.Activation("sigmoid", name="calibrated", dtype="float32")(scaled)
    scaled = layers.Rescaling(scale, name="calibrate", dtype="float32")(logits_of(p))
    return layers.Softmax(name="calibrated", dtype="float32")(scaled)


def logits_of(p: Any) -> Any:
    """The logit of probabilities (b, 1) of the second of two classes; of (b, K) the logarithm of each."""
    clipped = ops.clip(p, EPSILON, 1 - EPSILON)
    return ops.log(clipped) - ops.log1p(-clipped) if p.shape[-1] == 1 else ops.log(clipped)


def inputs_of(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """A model's inputs by name."""
    return {tensor.name: tensor for tensor in model.inputs}


def finish_model(variant: Variant, model: keras.Model) -> keras.Model:
    """The model that a variant serves, before calibration."""
    return average_over_flips(model) if variant.is_flip_averaged else model
