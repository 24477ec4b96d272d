"""Raw metadata with NaN where missing -> numbers a network can use, and ways to join them with pixel features."""

import keras
import numpy as np
from keras import layers, ops


def metadata_features(metadata: keras.KerasTensor) -> keras.KerasTensor:
    """Standardize, replace missing values by the train mean (0 by then), and append indicators: (b, 2 * fields)."""
    standardized = layers.Normalization(name="standardize", dtype="float32")(metadata)
    is_missing = ops.isnan(standardized)
    filled = ops.where(is_missing, 0.0, standardized)
    return layers.Concatenate(name="with_indicators", dtype="float32")(
        [filled, ops.cast(is_missing, "float32")]
    )


def adapt_metadata(model: keras.Model, metadata: np.ndarray) -> None:
    """Fit the imputation and scaling of a model's metadata on train rows, float32 (n, fields), NaN where missing."""
    standardize = model.get_layer("standardize")
    known = ~np.isnan(metadata)
    n = known.sum(axis=0)
    # A field without any value in train keeps mean 0 and variance 1: it is "missing" in every row.
    mean = np.where(n > 0, np.nansum(metadata, axis=0) / np.maximum(n, 1), 0.0)
    squared = np.where(known, metadata - mean, 0.0) ** 2
    variance = np.where(n > 1, squared.sum(axis=0) / np.maximum(n, 1), 1.0)
    # The layer's own statistics, so that they are stored with the model; its `adapt` would propagate NaN.
    standardize.adapt(np.zeros((2, metadata.shape[1]), dtype=np.float32))
    standardize.adapt_mean.assign(mean.astype(np.float32))
    standardize.adapt_variance.assign(np.maximum(variance, 1e-6).astype(np.float32))
    standardize.finalize_state()


def join_metadata(features: keras.KerasTensor, metadata: keras.KerasTensor, fusion: str) -> keras.KerasTensor:
    """Join pixel features (b, C) with metadata features (b, M).

    concatenate: side by side, (b, C + M). gated: metadata decides how much of each feature passes, and is also
    concatenated with them, (b, C + M). film: metadata scales and shifts each feature (Perez et al. 2018), (b, C);
    it starts as the identity.
    """
    n_features = features.shape[-1]
    if fusion == "concatenate":
        return layers.Concatenate(name="join")([features, metadata])
    hidden = layers.Dense(32, activation="relu", name="metadata_hidden")(metadata)
    if fusion == "gated":
        gate = layers.Dense(n_features, activation="sigmoid", name="metadata_gate")(hidden)
        return layers.Concatenate(name="join")([layers.Multiply(name="gated")([features, gate]), metadata])
    if fusion == "film":
        scale = layers.Dense(
            n_features, kernel_initializer="zeros", bias_initializer="ones", name="film_scale"
        )(hidden)
        shift = layers.Dense(n_features, kernel_initializer="zeros", name="film_shift")(hidden)
        return layers.Add(name="join")([layers.Multiply(name="scaled")([features, scale]), shift])
    raise ValueError(f"unknown fusion {fusion!r}, expected concatenate, gated or film")
