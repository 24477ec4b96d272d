"""A catalogue variant -> a Keras model, preprocessing included: pixels 0..255 and raw metadata in, probabilities out.

Pure Keras 3: nothing of a back end is called, so a model runs on any of them and loads in safe mode. A model of
a task with two classes gives (b, 1), P(second class); of K classes (b, K).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import BACKBONES, Backbone, Variant


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Pretrained weights of a backbone: where they are, and which ones they are."""

    origin: str  # "imagenet", or the file's name
    path: Path
    sha256: str


def find_weights(variant: Variant, location: str) -> Weights | None:
    """Find the pretrained weights of a variant; None when it starts from random weights on purpose.

    `location` is "imagenet" (Keras fetches its own file), a weights file, or a folder in which one file starts
    with the backbone's stem. Weights that are not there are an error, never a silent random start.
    """
    if variant.backbone is None or not variant.is_pretrained:
        return None
    backbone = BACKBONES[variant.backbone]
    if location == "imagenet":
        path = _download_imagenet(variant, backbone)
    else:
        path = _local_weights(variant, backbone, Path(location))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Weights(origin="imagenet" if location == "imagenet" else path.name, path=path, sha256=sha256)


def _local_weights(variant: Variant, backbone: Backbone, path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob(f"{backbone.weights_stem}*.h5")) if path.is_dir() else []
    if len(found) != 1:
        there = f"{len(found)} files" if path.is_dir() else "no such file or folder"
        raise UnusableInputError(
            f"variant {variant.name!r}: weights {path}: found {there}, expected a weights file for "
            f"{backbone.keras_class} or a folder with one {backbone.weights_stem}*.h5"
        )
    return found[0]


def _download_imagenet(variant: Variant, backbone: Backbone) -> Path:
    if backbone.alpha is None:
        raise UnusableInputError(f"variant {variant.name!r}: give LESION_WEIGHTS as a file or folder")
    # The file Keras Applications publishes for the input side nearest to ours.
    side = min((96, 128, 160, 192, 224), key=lambda s: abs(s - (variant.side_px or 224)))
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(backbone.alpha)}_{side}_no_top.h5"
    base = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
    try:
        return Path(keras.utils.get_file(name, base + name, cache_subdir="models"))
    except Exception as error:  # Keras wraps every network error in a bare Exception
        raise UnusableInputError(
            f"variant {variant.name!r}: weights 'imagenet' of {backbone.keras_class} cannot be fetched ({error}); "
            "set LESION_WEIGHTS to a file or folder that holds them"
        ) from error


def build_model(variant: Variant, weights: Weights | None = None) -> keras.Model:
    """Build the untrained classifier of a variant.

    Inputs, as the variant asks: `pixels` uint8 or float (b, side, side, 3) in 0..255, `metadata` float32
    (b, fields) with NaN where missing. Output float32 (b, 1) or (b, K) in 0..1.
    The layer `standardize` must be adapted to train rows before the first step when there is metadata.
    """
    keras.utils.set_random_seed(variant.seed)
    inputs: dict[str, keras.KerasTensor] = {}
    features = []
    if variant.side_px is not None:
        pixels = keras.Input((variant.side_px, variant.side_px, 3), name="pixels")
        inputs["pixels"] = pixels
        features.append(_pixel_features(variant, pixels, weights))
    if variant.metadata:
        metadata = keras.Input((len(variant.metadata),), name="metadata")
        inputs["metadata"] = metadata
        features.append(_metadata_features(metadata))
    x = features[0] if len(features) == 1 else layers.Concatenate(name="join")(features)
    for i, units in enumerate(variant.dense_units):
        x = layers.Dense(units, activation="relu", name=f"dense_{i + 1}")(x)
        if variant.dropout_rate:
            x = layers.Dropout(variant.dropout_rate, name=f"dropout_{i + 1}")(x)
    n_classes = len(variant.task.classes)
    # float32 even under mixed precision: half-precision probabilities tie.
    head = {"name": "probabilities", "dtype": "float32"}
    if n_classes == 2:
        output = layers.Dense(1, activation="sigmoid", **head)(x)  # (b, 1)
    else:
        output = layers.Dense(n_classes, activation="softmax", **head)(x)  # (b, K)
    return keras.Model(inputs, output, name=variant.name)


def _pixel_features(
    variant: Variant, pixels: keras.KerasTensor, weights: Weights | None
) -> keras.KerasTensor:
    x = pixels
    if variant.is_augmented:
        x = _augment(x, variant.seed)
    if variant.architecture == "cnn":
        x = layers.Rescaling(1 / 255, name="scale")(x)
        for i, filters in enumerate(variant.conv_filters):
            x = layers.Conv2D(filters, 3, activation="relu", padding="same", name=f"conv_{i + 1}")(x)
            x = layers.MaxPooling2D(name=f"pool_{i + 1}")(x)
        return layers.Flatten(name="flatten")(x)
    backbone = BACKBONES[str(variant.backbone)]
    base = _backbone_model(variant, backbone, weights)
    base.trainable = not variant.is_backbone_frozen
    # training=False: a frozen base keeps its batch-norm statistics, in training as in serving.
    x = base(preprocess(x, backbone.preprocessing), training=False if variant.is_backbone_frozen else None)
    return layers.GlobalAveragePooling2D(name="pool")(x)  # (b, C)


def _backbone_model(variant: Variant, backbone: Backbone, weights: Weights | None) -> keras.Model:
    options = {} if backbone.alpha is None else {"alpha": backbone.alpha}
    base = getattr(keras.applications, backbone.keras_class)(
        include_top=False,
        weights=None,
        input_shape=(variant.side_px, variant.side_px, 3),
        name=backbone.name,
        **options,
    )
    if weights is not None:
        try:
            base.load_weights(weights.path)
        except (ValueError, OSError, KeyError) as error:
            raise UnusableInputError(
                f"variant {variant.name!r}: weights {weights.path} do not fit {backbone.keras_class} "
                f"(alpha {backbone.alpha}): {str(error).splitlines()[0]}"
            ) from error
    return base


def preprocess(pixels: keras.KerasTensor, how: str) -> keras.KerasTensor:
    """Turn pixels 0..255 into what a backbone was trained on (`keras.applications.imagenet_utils`)."""
    if how == "none":
        return pixels
    if how == "symmetric":
        return layers.Rescaling(1 / 127.5, offset=-1, name="symmetric")(pixels)
    raise ValueError(f"unknown preprocessing {how!r}, expected none or symmetric")


def _augment(x: keras.KerasTensor, seed: int) -> keras.KerasTensor:
    """Flips, rotation up to 18 degrees, zoom up to 10 %, in training only. The paper states no magnitudes."""
    x = layers.RandomFlip("horizontal_and_vertical", seed=seed, name="flip")(x)
    x = layers.RandomRotation(0.05, seed=seed + 1, name="rotate")(x)
    return layers.RandomZoom(0.1, seed=seed + 2, name="zoom")(x)


def _metadata_features(metadata: keras.KerasTensor) -> keras.KerasTensor:
    """Standardize, put the train mean (0 by then) where a value is missing, and say where: (b, 2 * fields)."""
    standardized = layers.Normalization(name="standardize")(metadata)
    is_missing = ops.isnan(standardized)
    filled = ops.where(is_missing, 0.0, standardized)
    return layers.Concatenate(name="with_indicators")([filled, ops.cast(is_missing, "float32")])


def adapt_metadata(model: keras.Model, metadata: np.ndarray) -> None:
    """Fit the imputation and scaling of a model's metadata on train rows, float32 (n, fields), NaN where missing."""
    standardize = model.get_layer("standardize")
    known = ~np.isnan(metadata)
    n = known.sum(axis=0)
    # A field that train never knows stays at 0 with variance 1: it is "missing" for every row.
    mean = np.where(n > 0, np.nansum(metadata, axis=0) / np.maximum(n, 1), 0.0)
    squared = np.where(known, metadata - mean, 0.0) ** 2
    variance = np.where(n > 1, squared.sum(axis=0) / np.maximum(n, 1), 1.0)
    # The layer's own statistics, so that they are stored with the model; its `adapt` would spread the NaN.
    standardize.adapt(np.zeros((2, metadata.shape[1]), dtype=np.float32))
    standardize.adapt_mean.assign(mean.astype(np.float32))
    standardize.adapt_variance.assign(np.maximum(variance, 1e-6).astype(np.float32))
    standardize.finalize_state()
