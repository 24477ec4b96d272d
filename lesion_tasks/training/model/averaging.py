"""Trained models of one question -> one model that serves the mean of their logits."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from lesion_tasks.training.model.serving import EPSILON, inputs_of, logits_of

MEAN_OF_MEMBERS = "mean_of_members"  # the layer by which an average is recognized


def average_members(members: Sequence[keras.Model], name: str) -> keras.Model:
    """A model that takes what any of its members takes, and outputs the mean of their logits as probabilities.

    Of more than two classes it is the mean of log-probabilities, normalized again. The members are inside, each as a
    model of its own. Raises ValueError if two take inputs of one name in different shapes.
    """
    inputs: dict[str, keras.KerasTensor] = {}
    for tensor in (tensor for member in members for tensor in member.inputs):
        known = inputs.setdefault(tensor.name, keras.Input(tensor.shape[1:], name=tensor.name))
        if tuple(known.shape) != tuple(tensor.shape):
            raise ValueError(f"members take {tensor.name} as {tensor.shape} and as {known.shape}")
    logits = []
    for number, member in enumerate(members, start=1):
        # Under a name of its own: folds of one variant have the same.
        inner = keras.Model(inputs_of(member), member.outputs[0], name=_name(number))
        logits.append(logits_of(inner({name: inputs[name] for name in inputs_of(member)}, training=False)))
    mean = layers.Average(name="mean_of_logits", dtype="float32")(logits)
    activation = "sigmoid" if mean.shape[-1] == 1 else "softmax"
    return keras.Model(
        inputs, layers.Activation(activation, name=MEAN_OF_MEMBERS, dtype="float32")(mean), name=name
    )


def _name(number: int) -> str:
    return f"member_{number}"


def members_in(model: keras.Model) -> list[keras.Model]:
    """The members of an average, in order; none of another model."""
    if MEAN_OF_MEMBERS not in [layer.name for layer in model.layers]:
        return []
    n_members = sum(isinstance(layer, keras.Model) for layer in model.layers)
    return [model.get_layer(_name(number)) for number in range(1, n_members + 1)]


def mean_of_probabilities(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """What an average says where its members say these, each float (n, K): float64 (n, K), rows sum to 1."""
    logs = np.mean([np.log(np.clip(some, EPSILON, 1 - EPSILON)) for some in probabilities], axis=0)
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def calibration_of(model: keras.Model) -> tuple[float, float] | None:
    """Scale and shift of a stored model's last logit; None if it is not calibrated."""
    found = [layer for layer in model.layers if layer.name == "calibrate"]
    return (float(found[0].scale), float(found[0].offset)) if found else None
