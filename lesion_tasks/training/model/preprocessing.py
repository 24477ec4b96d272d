"""Pixels 0 to 255 -> a network's input: backbone preprocessing, hair removal, the lesion alone, augmentation."""

from typing import Any

import keras
from keras import layers, ops

# Closings along lines of this length fill whatever is thinner, such as hairs: 9 px of 128 is 1.4 mm of a 20 mm picture.
HAIR_LENGTH_PX = 9
# A pixel that a closing brightens by more than this (0 to 255) is on a hair. DullRazor's own threshold is 10 of 256
# grey levels on full-size pictures; hairs become fainter when a picture is reduced, noise does not.
HAIR_CONTRAST = 14.0
# Mean and deviation of ImageNet, RGB from 0 to 1, as `keras.applications.imagenet_utils` uses them.
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def preprocess(pixels: keras.KerasTensor, how: str) -> keras.KerasTensor:
    """Convert RGB pixels 0 to 255 (b, side, side, 3) to the input that a backbone was trained on.

    The same numbers as `keras.applications.imagenet_utils.preprocess_input` in its modes tf ("symmetric"), caffe
    and torch, as layers, so that they are stored with the model.
    """
    if how == "none":
        return pixels
    if how == "symmetric":
        return layers.Rescaling(1 / 127.5, offset=-1, name="symmetric")(pixels)
    if how == "caffe":
        bgr = ops.flip(pixels, axis=-1)
        return layers.Rescaling(1.0, offset=[-mean for mean in _CAFFE_MEAN_BGR], name="caffe")(bgr)
    if how == "torch":
        scale = [1 / (255 * deviation) for deviation in _TORCH_DEVIATION]
        offset = [-mean / dev for mean, dev in zip(_TORCH_MEAN, _TORCH_DEVIATION, strict=True)]
        return layers.Rescaling(scale, offset=offset, name="torch")(pixels)
    raise ValueError(f"unknown preprocessing {how!r}, expected none, symmetric, caffe or torch")


def augment(x: keras.KerasTensor, seed: int, *, is_strong: bool = False) -> keras.KerasTensor:
    """Random views of the same lesion, in training only; pixels stay between 0 and 255.

    Paper: flips, rotation up to 18 degrees, zoom up to 10 % (it states no magnitudes). Strong: any rotation,
    zoom up to 20 %, shifts up to 10 %, brightness and contrast by up to 20 %.
    """
    # float32 even under mixed precision: a GPU cannot rotate or zoom bfloat16.
    exact: dict[str, Any] = {"dtype": "float32"}
    x = layers.RandomFlip("horizontal_and_vertical", seed=seed, name="flip", **exact)(x)
    x = layers.RandomRotation(0.5 if is_strong else 0.05, seed=seed + 1, name="rotate", **exact)(x)
    x = layers.RandomZoom(0.2 if is_strong else 0.1, seed=seed + 2, name="zoom", **exact)(x)
    if is_strong:
        x = layers.RandomTranslation(0.1, 0.1, seed=seed + 3, name="shift", **exact)(x)
        x = layers.RandomBrightness(0.2, seed=seed + 4, name="brightness", **exact)(x)
        x = layers.RandomContrast(0.2, value_range=(0, 255), seed=seed + 5, name="contrast", **exact)(x)
    return x


def remove_hair(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Replace dark hairs by their surroundings, after DullRazor (Lee et al. 1997).

    A grey-level closing along four directions fills whatever is dark and thin; if it changes a pixel by more than
    `HAIR_CONTRAST`, the pixel is on a hair and takes the closed value, smoothed. All other pixels stay unchanged.
    """
    closed = pixels
    for direction in ("horizontal", "vertical", "falling", "rising"):
        closed = ops.maximum(closed, _close_along(pixels, direction))
    on_hair = ops.max(closed - pixels, axis=-1, keepdims=True) > HAIR_CONTRAST  # (b, side, side, 1)
    # A hair's soft rim does not exceed the threshold: one more pixel on each side.
    on_hair = layers.MaxPooling2D(3, strides=1, padding="same", name="hair")(ops.cast(on_hair, pixels.dtype))
    smooth = layers.AveragePooling2D(3, strides=1, padding="same", name="beside_hair")(closed)
    return on_hair * smooth + (1.0 - on_hair) * pixels


def _close_along(pixels: keras.KerasTensor, direction: str) -> keras.KerasTensor:
    """Closing along a line: the brightest value on the line, then the darkest of those."""
    return -_brightest_along(-_brightest_along(pixels, direction), direction)


def _brightest_along(x: keras.KerasTensor, direction: str) -> keras.KerasTensor:
    if direction in {"horizontal", "vertical"}:
        size = (1, HAIR_LENGTH_PX) if direction == "horizontal" else (HAIR_LENGTH_PX, 1)
        return layers.MaxPooling2D(size, strides=1, padding="same")(x)
    reach = HAIR_LENGTH_PX // 2
    side = x.shape[1]
    # Edges repeat, so that a line that leaves the picture adds no new values.
    padded = ops.pad(x, [[0, 0], [reach, reach], [reach, reach], [0, 0]], mode="symmetric")
    brightest = None
    for step in range(-reach, reach + 1):
        top = reach + step
        left = reach + (step if direction == "falling" else -step)
        moved = padded[:, top : top + side, left : left + side, :]
        brightest = moved if brightest is None else ops.maximum(brightest, moved)
    return brightest


def keep_lesion(pixels: keras.KerasTensor, outline: keras.KerasTensor) -> keras.KerasTensor:
    """Fade everything outside the lesion to the picture's own mean colour.

    `outline` is P(lesion) for each pixel, (b, side, side, 1), 0 to 1.
    """
    mean = ops.mean(pixels, axis=(1, 2), keepdims=True)
    return outline * pixels + (1.0 - outline) * mean
