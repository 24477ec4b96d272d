"""A stored model -> the same model that also tells its features of a picture: summaries of its maps.

The features are the model's own, at several depths (Lee et al. 2018, arXiv:1807.03888): the last map of each spatial
size, summed up by mean and spread over its places, and the vector that the last layer reads. A fine-tuned network
forgets in its last layers what does not help to tell its classes apart, so that a slide of histology can look there
like any lesion; its early layers still see the colours and textures.
"""

from collections.abc import Iterable

import keras
from keras import ops

from lesion_tasks.training.model.averaging import FEATURES_OF_ALL, members_in
from lesion_tasks.training.model.stored_model import MEAN_OF_FLIPS

LAST_LAYER = "probabilities"
# A longer vector, such as a flattened map, has more directions than val has pictures: its map stands for it.
MAX_WIDTH = 2_048


def with_features(model: keras.Model) -> keras.Model | None:
    """The model with its features as further outputs: [probabilities, (b, C1), (b, C2) ...].

    None without pixels, and for a network that is none of ours, whose last layer is not to be found. A model that
    averages over mirror images tells those of the picture as it stands, an average those of each member.
    """
    inputs = {tensor.name: tensor for tensor in model.inputs}
    if "pixels" not in inputs:
        return None
    alone = _alone(model)
    if any(
        _sees_pixels(inner) and not (_has(inner, LAST_LAYER) or _has(inner, FEATURES_OF_ALL))
        for inner in alone
    ):
        return None
    features = []
    for number, inner in enumerate(alone, 1):
        own = {tensor.name: tensor for tensor in inner.inputs}
        if inner is model:
            features += _feature_tensors(inner)
        elif _sees_pixels(inner):
            telling = keras.Model(own, _feature_tensors(inner), name=f"features_{number}")
            features += telling({name: inputs[name] for name in own})
    return keras.Model(inputs, [model.outputs[0], *features])


def _alone(model: keras.Model) -> list[keras.Model]:
    """The networks of a model, each as it looks at one picture: its members and theirs, or itself."""
    members = members_in(model)
    if members and _has(model, FEATURES_OF_ALL):
        return members[:1]  # the others see the same
    return [one for member in members for one in _alone(member)] if members else [_before_flips(model)]


def _before_flips(model: keras.Model) -> keras.Model:
    if not _has(model, MEAN_OF_FLIPS):
        return model
    (inner,) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return inner


def _feature_tensors(model: keras.Model) -> list[keras.KerasTensor]:
    """Summaries of the last map of each spatial size, largest map first, and what the last layer reads."""
    is_shared = _has(model, FEATURES_OF_ALL)
    last = model.get_layer(FEATURES_OF_ALL).output if is_shared else model.get_layer(LAST_LAYER).input
    maps = _maps(model)
    found = [_Summary(name=f"summary_{number}")(one) for number, one in enumerate(maps, 1)]
    # Without layers in between, the last layer reads the average of the last map.
    is_average = bool(maps) and not _has_dense(model) and last.shape[-1] == maps[-1].shape[-1]
    if last.shape[-1] <= MAX_WIDTH and not is_average:
        found.append(_Summary(name="summary_of_last")(last))
    return found


def _sees_pixels(model: keras.Model) -> bool:
    return any(tensor.name == "pixels" for tensor in model.inputs)


def _has(model: keras.Model, name: str) -> bool:
    return any(layer.name == name for layer in model.layers)


class _Summary(keras.Layer):
    """Maps (b, h, w, C) -> mean and spread of each channel over its places, (b, 2 C); of many the mean alone.

    A vector (b, C) stays as it is. A layer with a name, because operations without one are numbered anew in each
    process, and might then be called like one that the stored model has already.
    """

    def call(self, maps: keras.KerasTensor) -> keras.KerasTensor:
        maps = ops.cast(maps, "float32")
        if len(maps.shape) == 2:
            return maps
        mean = _average(maps)
        if 2 * maps.shape[-1] <= MAX_WIDTH:
            mean = ops.concatenate([mean, ops.sqrt(_average(ops.square(maps - mean)))], axis=-1)
        return ops.squeeze(mean, axis=(1, 2))


def _average(maps: keras.KerasTensor) -> keras.KerasTensor:
    """(b, h, w, C) -> (b, 1, 1, C): pooling, which a processor does in half the time of a mean over two axes."""
    return ops.average_pool(maps, pool_size=maps.shape[1:3], strides=1, padding="valid")


def _has_dense(model: keras.Model) -> bool:
    return any(isinstance(layer, keras.layers.Dense) and layer.name != LAST_LAYER for layer in model.layers)


def _maps(model: keras.Model) -> list[keras.KerasTensor]:
    """The last map (b, h, w, C) of each spatial size, largest first; those of the backbone, if there is one."""
    nested = [
        layer for layer in model.layers if isinstance(layer, keras.Model) and len(layer.outputs[0].shape) == 4
    ]
    if not nested:
        return _last_of_each_size(_maps_of_layers(model))
    base = nested[-1]
    # Called anew: a backbone that takes any size tells those of its maps only here.
    inside = keras.Model(base.inputs[0], _maps_of_layers(base), name=f"maps_of_{base.name}")
    return _last_of_each_size(inside(_input_within(model, base)))


def _maps_of_layers(model: keras.Model) -> list[keras.KerasTensor]:
    # A map that is only padded is the same one at another size.
    found = [layer.output for layer in model.layers if not isinstance(layer, keras.layers.ZeroPadding2D)]
    return [
        tensor
        for tensor in found
        if isinstance(tensor, keras.KerasTensor) and len(tensor.shape) == 4 and tensor.shape[-1] > 3
    ]


def _last_of_each_size(maps: Iterable[keras.KerasTensor]) -> list[keras.KerasTensor]:
    by_side = {tensor.shape[1]: tensor for tensor in maps}
    return [by_side[side] for side in sorted(by_side, reverse=True)]


def _input_within(model: keras.Model, base: keras.Model) -> keras.KerasTensor:
    """The tensor of a model that a model inside it is called with."""
    # Not only of layers: what stands before a backbone may be plain arithmetic.
    inside = {id(tensor) for one in model.operations if one is not base for tensor in _outputs(one)}
    for node in base._inbound_nodes:
        for tensor in node.input_tensors:
            if id(tensor) in inside:
                return tensor
    raise ValueError(f"model {model.name!r}: nothing in it calls {base.name!r}")


def _outputs(operation: keras.Operation) -> list[keras.KerasTensor]:
    found = operation.output
    return list(found) if isinstance(found, list | tuple) else [found]
