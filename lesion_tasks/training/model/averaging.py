"""Trained models of one question -> one model that serves the mean of their logits."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from lesion_tasks.training.model.stored_model import EPSILON, inputs_of, logits_of

MEAN_OF_MEMBERS = "mean_of_members"  # the layer by which an average is recognized
FEATURES_OF_ALL = "features_of_all"  # what all members read, if they have all but their heads in common


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
    said = []
    for number, member in enumerate(members, start=1):
        # Under a name of its own: folds of one variant have the same.
        inner = keras.Model(inputs_of(member), member.outputs[0], name=_name(number))
        said.append(inner({name: inputs[name] for name in inputs_of(member)}, training=False))
    return _mean_of(said, inputs, name)


def average_heads(extractor: keras.Model, heads: Sequence[keras.Model], name: str) -> keras.Model:
    """The same of members that have all but their heads in common: the extractor looks at a picture once.

    Heads take its output as `features`, and metadata if they use any.
    """
    inputs = inputs_of(extractor)
    features = layers.Identity(name=FEATURES_OF_ALL, dtype="float32")(extractor.outputs[0])
    said = []
    for number, head in enumerate(heads, start=1):
        own = inputs_of(head)
        for tensor in own.values():
            if tensor.name != "features":
                inputs.setdefault(tensor.name, keras.Input(tensor.shape[1:], name=tensor.name))
        read = {**inputs, "features": features}
        inner = keras.Model(own, head.outputs[0], name=_name(number))
        answer = inner({name: read[name] for name in own}, training=False)
        said.append(layers.Identity(name=_answer(number), dtype="float32")(answer))
    return _mean_of(said, inputs, name)


def _mean_of(
    said: Sequence[keras.KerasTensor], inputs: dict[str, keras.KerasTensor], name: str
) -> keras.Model:
    mean = layers.Average(name="mean_of_logits", dtype="float32")([logits_of(p) for p in said])
    activation = "sigmoid" if mean.shape[-1] == 1 else "softmax"
    return keras.Model(
        inputs, layers.Activation(activation, name=MEAN_OF_MEMBERS, dtype="float32")(mean), name=name
    )


def _name(number: int) -> str:
    return f"member_{number}"


def _answer(number: int) -> str:
    """The layer with the answer of a member that shares its extractor."""
    return f"{_name(number)}_says"


def members_in(model: keras.Model) -> list[keras.Model]:
    """The members of an average, in order, each with the inputs it takes; none of another model."""
    names = {layer.name for layer in model.layers}
    if MEAN_OF_MEMBERS not in names:
        return []
    if FEATURES_OF_ALL in names:
        n_heads = sum(_answer(number) in names for number in range(1, len(names)))
        return [
            keras.Model(inputs_of(model), model.get_layer(_answer(number)).output, name=_name(number))
            for number in range(1, n_heads + 1)
        ]
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
