"""A small U-Net (Ronneberger et al. 2015): pixels 0 to 255 -> P(lesion) of each pixel, at the pictures' own size."""

import keras
from keras import layers

# Outlines are found at this side and enlarged: a lesion's border needs no more, at a quarter of the cost of 128 px.
INNER_SIDE_PX = 64
FILTERS = (16, 32, 64, 128)
SEGMENTER_NAME = "segmenter"


def build_unet(side_px: int, seed: int) -> keras.Model:
    """Input (b, side, side, 3), 0 to 255; output (b, side, side, 1), 0 to 1."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((side_px, side_px, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    inner = min(side_px, INNER_SIDE_PX) // 8 * 8  # three halvings
    x = layers.Resizing(inner, inner, interpolation="bilinear", name="reduce")(x)
    skipped = []
    for filters in FILTERS[:-1]:
        x = _convolve(x, filters)
        skipped.append(x)
        x = layers.MaxPooling2D()(x)
    x = _convolve(x, FILTERS[-1])
    for filters, skip in zip(reversed(FILTERS[:-1]), reversed(skipped), strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = _convolve(layers.Concatenate()([x, skip]), filters)
    x = layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(x)
    outline = layers.Resizing(side_px, side_px, interpolation="bilinear", name="enlarge")(x)
    return keras.Model(pixels, outline, name=SEGMENTER_NAME)


def _convolve(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
    return x
