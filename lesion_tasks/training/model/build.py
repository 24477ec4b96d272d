"""A catalogue variant -> an untrained Keras model, preprocessing included.

Pixels 0 to 255 and raw metadata in, probabilities out: (b, 1), P(second class), for a task of two classes; (b, K)
for K. Pure Keras 3: it calls no specific back end, so a model runs on any of them and loads in safe mode.
"""

from collections.abc import Sequence

import keras
from keras import layers, ops

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import Variant
from lesion_tasks.catalog.backbones import PresetBackbone, find_backbone
from lesion_tasks.training.model.metadata import join_metadata, metadata_features
from lesion_tasks.training.model.mobilenet_v3_eca import mobilenet_v3_eca
from lesion_tasks.training.model.preprocessing import augment, keep_lesion, preprocess, remove_hair
from lesion_tasks.training.model.presets import vector_of
from lesion_tasks.training.model.unet import SEGMENTER_NAME
from lesion_tasks.training.model.weights import Weights, all_layers, load_base, title_of, told_of


def build_model(
    variant: Variant, weights: Weights | None = None, segmenter: keras.Model | None = None
) -> keras.Model:
    """Build the untrained classifier of a variant.

    Inputs, depending on the variant: `pixels` uint8 or float (b, side, side, 3), 0 to 255, and `metadata` float32
    (b, fields) with NaN where missing. Output float32 (b, 1) or (b, K), 0 to 1.
    `segmenter` is a trained U-Net, for variants that look only at the lesion. With metadata, the layer `standardize`
    must be adapted to train rows before the first step.
    """
    keras.utils.set_random_seed(variant.seed)
    inputs: dict[str, keras.KerasTensor] = {}
    features = None
    if variant.side_px is not None:
        inputs["pixels"] = keras.Input((variant.side_px, variant.side_px, 3), name="pixels")
        features = _pixel_features(variant, inputs["pixels"], weights, segmenter)
    return _with_head(variant, inputs, features)


def build_extractor(
    variant: Variant, weights: Weights | None, segmenter: keras.Model | None = None
) -> keras.Model:
    """The part of a frozen variant that never learns: pixels (b, side, side, 3) -> features (b, C)."""
    keras.utils.set_random_seed(variant.seed)
    pixels = keras.Input((variant.side_px, variant.side_px, 3), name="pixels")
    return keras.Model({"pixels": pixels}, _pixel_features(variant, pixels, weights, segmenter))


def build_head(variant: Variant, n_features: int) -> keras.Model:
    """The part of a frozen variant that learns: `features` (b, C), and metadata if it uses any, to probabilities.

    Its layers have the names and, through the seed, the initial weights that `build_model` gives them.
    """
    keras.utils.set_random_seed(variant.seed)
    features = keras.Input((n_features,), name="features")
    return _with_head(variant, {"features": features}, features)


def copy_head(head: keras.Model, model: keras.Model) -> None:
    """Copy the weights of a trained head into the whole model of the same variant."""
    for layer in head.layers:
        if layer.name != "standardize" and layer.get_weights():
            model.get_layer(layer.name).set_weights(layer.get_weights())


def head_of(variant: Variant, model: keras.Model, n_features: int) -> keras.Model:
    """The head of a whole trained model of a variant, as `build_head` makes it, with the model's weights."""
    head = build_head(variant, n_features)
    for layer in head.layers:
        if layer.get_weights():
            layer.set_weights(model.get_layer(layer.name).get_weights())
        if layer.name == "standardize":
            layer.finalize_state()
    return head


def _with_head(
    variant: Variant, inputs: dict[str, keras.KerasTensor], features: keras.KerasTensor | None
) -> keras.Model:
    # Seeds per layer and not by order of construction: a head alone starts like the head of a whole model.
    seeds = iter(range(variant.seed + 100, variant.seed + 200))
    x = features
    if variant.metadata:
        inputs["metadata"] = keras.Input((len(variant.metadata),), name="metadata")
        metadata = metadata_features(inputs["metadata"])
        x = metadata if x is None else join_metadata(x, metadata, variant.fusion)
    if variant.feature_dropout_rate:
        x = layers.Dropout(variant.feature_dropout_rate, seed=next(seeds), name="dropout_0")(x)
    for i, units in enumerate(variant.dense_units):
        x = layers.Dense(
            units, activation="relu", kernel_initializer=_glorot(next(seeds)), name=f"dense_{i + 1}"
        )(x)
        if variant.dropout_rate:
            x = layers.Dropout(variant.dropout_rate, seed=next(seeds), name=f"dropout_{i + 1}")(x)
    n_classes = len(variant.task.classes)
    # float32 even under mixed precision: half-precision probabilities have ties.
    output = layers.Dense(
        1 if n_classes == 2 else n_classes,
        activation="sigmoid" if n_classes == 2 else "softmax",
        kernel_initializer=_glorot(next(seeds)),
        dtype="float32",
        name="probabilities",
    )(x)
    return keras.Model(inputs, output, name=variant.name)


def _glorot(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=seed)


def _pixel_features(
    variant: Variant, pixels: keras.KerasTensor, weights: Weights | None, segmenter: keras.Model | None
) -> keras.KerasTensor:
    x = pixels
    if variant.is_hair_removed:
        x = remove_hair(x)
    if variant.is_segmented:
        if segmenter is None:
            raise ValueError(f"variant {variant.name!r} looks only at the lesion: a segmenter is needed")
        segmenter.trainable = False
        # The steps before the network learn nothing: neither they nor the augmentation after them need a gradient.
        x = keep_lesion(x, ops.stop_gradient(segmenter(x, training=False)))
    if variant.is_augmented:
        x = augment(x, variant.seed, is_strong=variant.is_augmented_strongly)
    if variant.architecture == "cnn":
        return _convolutions(variant, x)
    if variant.architecture == "mobilenet_v3_eca":
        return layers.GlobalAveragePooling2D(name="pool")(mobilenet_v3_eca(x, variant.dilation_rate))
    return _transferred(variant, x, weights)


def _convolutions(variant: Variant, x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.Rescaling(1 / 255, name="scale")(x)
    for i, filters in enumerate(variant.conv_filters):
        x = layers.Conv2D(filters, 3, activation="relu", padding="same", name=f"conv_{i + 1}")(x)
        x = layers.MaxPooling2D(name=f"pool_{i + 1}")(x)
    return layers.Flatten(name="flatten")(x)


def _transferred(variant: Variant, x: keras.KerasTensor, weights: Weights | None) -> keras.KerasTensor:
    backbone = find_backbone(str(variant.backbone))
    if backbone is None:
        raise ValueError(f"variant {variant.name!r} has no backbone")
    if variant.side_px is None or variant.side_px < backbone.min_side_px:
        raise UnusableInputError(
            f"variant {variant.name!r}: {title_of(backbone)} at {variant.side_px} px, expected at least "
            f"{backbone.min_side_px} px"
        )
    base = load_base(variant, weights)
    set_trainable(
        base,
        variant.unfrozen_from if variant.is_backbone_frozen else "",
        # Batch norm that relearns its statistics needs a base that is trained as a whole.
        has_frozen_statistics=variant.is_backbone_frozen,
    )
    if not isinstance(backbone, PresetBackbone):
        x = base(preprocess(x, backbone.preprocessing))
    elif weights is not None and weights.path is not None:  # else there would be no base
        x = vector_of(base, x, weights.path, told_of(variant, backbone))
    return x if len(x.shape) == 2 else layers.GlobalAveragePooling2D(name="pool")(x)  # (b, C)


def backbone_of(model: keras.Model) -> keras.Model:
    """The pretrained part of a transfer variant's model."""
    found = [x for x in model.layers if isinstance(x, keras.Model) and x.name != SEGMENTER_NAME]
    if len(found) != 1:
        raise ValueError(f"model {model.name!r} has {len(found)} nested models, expected one backbone")
    return found[0]


def set_trainable(base: keras.Model, unfrozen_from: str | None, *, has_frozen_statistics: bool) -> None:
    """Freeze a backbone up to the first layer whose name starts with `unfrozen_from`; None freezes all, "" nothing.

    With `has_frozen_statistics` batch norm keeps its pretrained mean and variance, in training as in serving, and is
    therefore frozen wherever it is. (Calling the inner model with `training=False` is not enough: Keras passes the
    outer model's mode down.)
    """
    base.trainable = unfrozen_from is not None
    for layer in all_layers(base) if base.trainable else ():
        if has_frozen_statistics and isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
        # DINO's stands for hidden patches: it taught the network itself, and no picture has any.
        if (mask_token := getattr(layer, "mask_token", None)) is not None:
            mask_token.trainable = False
    if not unfrozen_from:
        return
    if not (
        _freeze_before(base.layers, unfrozen_from, base) or _freeze_inside(base.layers, unfrozen_from, base)
    ):
        inside = [layer.name for layer in base.layers[-3:] for layer in (layer, *_blocks(layer))]
        raise UnusableInputError(
            f"backbone {base.name!r} has no layer whose name starts with {unfrozen_from!r}; its last: "
            f"{', '.join(inside[-16:])}"
        )


def _freeze_before(within: Sequence[keras.Layer], name: str, base: keras.Model) -> bool:
    """Freeze the layers before the first whose name starts so; False if there is none."""
    # KerasHub puts the name of the network before those of its layers.
    names = [(layer.name, layer.name.removeprefix(f"{base.name}_")) for layer in within]
    first = next((i for i, own in enumerate(names) if any(one.startswith(name) for one in own)), None)
    for layer in within[:first] if first is not None else ():
        layer.trainable = False
    return first is not None


def _freeze_inside(within: Sequence[keras.Layer], name: str, base: keras.Model) -> bool:
    """The same for networks whose blocks are inside of one layer, as those of transformers often are."""
    for i, layer in enumerate(within):
        if _freeze_before(_blocks(layer), name, base):
            for before in within[:i]:
                before.trainable = False
            return True
    return False


def _blocks(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer is made of, in order; none of a model."""
    return (
        []
        if isinstance(layer, keras.Model)
        else list(layer._flatten_layers(include_self=False, recursive=False))
    )
