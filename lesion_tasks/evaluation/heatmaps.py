"""A model and its most confident predictions -> pictures of what it looked at (Grad-CAM, Selvaraju et al. 2017)."""

import base64
import io
import math
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd
from PIL import Image

from lesion_tasks.reports.bundle import Example
from lesion_tasks.training.examples import Examples
from lesion_tasks.training.model.averaging import members_in
from lesion_tasks.training.model.stored_model import FLIPS, MEAN_OF_FLIPS, as_views, mean_of_views

N_EACH = 4
SHOWN_PX = 192


def confident_examples(
    model: keras.Model, examples: Examples, predictions: pd.DataFrame, labels: pd.Series
) -> list[Example]:
    """The most confident mistakes and hits with a heat map each; empty for a model without pixel input.

    `predictions` (index isic_id, a column for each class) and `labels` (index isic_id, class names) are keyed.
    Pictures and heat maps are data URLs.
    """
    if examples.pixels is None:
        return []
    position = {isic_id: i for i, isic_id in enumerate(examples.isic_ids)}
    said = predictions.idxmax(axis=1)
    confidence = predictions.max(axis=1)
    is_hit = said == labels.reindex(predictions.index)
    chosen = [
        (kind, isic_id)
        for kind, mask in (("confident mistake", ~is_hit), ("confident hit", is_hit))
        for isic_id in confidence[mask].nlargest(N_EACH).index
    ]
    if not chosen:
        return []
    rows = np.array([position[isic_id] for _, isic_id in chosen])
    class_indices = np.array([list(predictions.columns).index(said[isic_id]) for _, isic_id in chosen])
    heats = grad_cam(model, examples.inputs(rows), class_indices, n_classes=predictions.shape[1])
    return [
        Example(
            isic_id=str(isic_id),
            label=str(labels[isic_id]),
            called=str(said[isic_id]),
            probability=float(confidence[isic_id]),
            kind=kind,
            picture=_data_url(Image.fromarray(pixels)),
            heatmap=None if heats is None else _data_url(_overlay(pixels, heats[i])),
        )
        for i, ((kind, isic_id), pixels) in enumerate(zip(chosen, examples.pixels.take(rows), strict=True))
    ]


def grad_cam(
    model: keras.Model, inputs: dict[str, np.ndarray], class_indices: np.ndarray, *, n_classes: int
) -> np.ndarray | None:
    """Where one class's score rises with the last feature map: float (n, h, w), 0 to 1, all 0 if nowhere.

    None for a model that has no feature map.

    `inputs` hold n images, `class_indices` int (n,) the class of interest for each. The score is the class's logit;
    its gradient is averaged over the map for each channel, and the weighted sum of channels is clipped at 0
    (Selvaraju et al. 2017, equations 1 and 2). A model that averages over mirror images has a map for each of them:
    their heat is mirrored back and averaged. Its score is taken before calibration, whose scaling changes the heat
    for two classes only by a factor. A model that averages others has the mean of their heats, each from 0 to 1.
    """
    import tensorflow as tf  # gradients are the one thing that Keras leaves to its back end

    if members := members_in(model):
        return _mean_heat(members, inputs, class_indices, n_classes)
    watched, views = _with_feature_map(model)
    if watched is None:
        return None
    # Everything in one batch, view after view: images do not affect each other, so neither do their gradients.
    known = {name: tf.convert_to_tensor(value, tf.float32) for name, value in inputs.items()}
    tensors = as_views(known, views)
    with tf.GradientTape() as tape:
        # Under a frozen base nothing before the map is trainable: without this, nothing would be recorded.
        tape.watch(tensors)
        maps, answers = watched(tensors, training=False)
        probabilities = mean_of_views(answers, len(views))
        columns = np.zeros_like(class_indices) if n_classes == 2 else class_indices
        p = tf.gather(probabilities, columns, axis=1, batch_dims=1)  # (n,)
        p = tf.clip_by_value(p, 1e-6, 1 - 1e-6)
        score = tf.math.log(p) - tf.math.log(1 - p)
        if n_classes == 2:
            score = tf.where(class_indices == 0, -score, score)
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2))  # (views * n, C)
    heat = np.asarray(tf.nn.relu(tf.einsum("bhwc,bc->bhw", maps, weights)))
    by_view = np.split(heat, len(views))
    turned = sum(np.flip(some, axis=axes) for some, axes in zip(by_view, views, strict=True))  # (n, h, w)
    peak = np.max(turned, axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(turned, peak, out=np.zeros_like(turned), where=peak > 0))


def _mean_heat(
    members: Sequence[keras.Model], inputs: dict[str, np.ndarray], class_indices: np.ndarray, n_classes: int
) -> np.ndarray | None:
    """The mean of the members' heats, (n, h, w), at the size of the largest; None if no member has any."""
    heats = []
    for member in members:
        own = {tensor.name: inputs[tensor.name] for tensor in member.inputs}
        heat = grad_cam(member, own, class_indices, n_classes=n_classes)
        if heat is not None:
            heats.append(heat)
    if not heats:
        return None
    sides = max((heat.shape[1:] for heat in heats), key=math.prod)
    mean = np.mean([_resized(heat, sides) for heat in heats], axis=0)
    peak = np.max(mean, axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(mean, peak, out=np.zeros_like(mean), where=peak > 0))


def _resized(heat: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    resized = keras.ops.image.resize(heat[..., None].astype(np.float32), sides, interpolation="bilinear")
    return np.asarray(resized)[..., 0]


def _with_feature_map(model: keras.Model) -> tuple[keras.Model | None, tuple[tuple[int, ...], ...]]:
    """The model with its last feature map (b, h, w, C) as an additional first output, and the views it averages over.

    The map is the input of the last layer that pools or flattens. It is taken from that layer because a backbone is a
    model inside the model, and its own output is a tensor of another graph. A model that averages over mirror images
    wraps the model that has the map. None if there is no map.
    """
    if MEAN_OF_FLIPS in [layer.name for layer in model.layers]:
        (inner,) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
        return _with_feature_map(inner)[0], FLIPS
    for layer in reversed(model.layers):
        if isinstance(layer, keras.layers.GlobalAveragePooling2D | keras.layers.Flatten):
            return keras.Model(model.inputs, [layer.input, model.outputs[0]]), ((),)
    return None, ((),)


def _overlay(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """The picture in grey, tinted in a warm colour where the heat is: uint8 (side, side, 3)."""
    side = pixels.shape[0]
    veil = Image.fromarray((heat * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    strength = np.asarray(veil, dtype=np.float32)[..., None] / 255 * 0.65
    grey = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    warm = np.array([230.0, 80.0, 20.0])
    return Image.fromarray((grey * (1 - strength) + warm * strength).astype(np.uint8))


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.resize((SHOWN_PX, SHOWN_PX), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
