"""MobileNetV3-Large with efficient channel attention instead of squeeze-and-excite, and dilation at the end.

The blocks are Howard et al. 2019, table 1; the attention is Wang et al. 2020 (ECA-Net). Their combination follows
Lilhore et al. 2024, who publish no code: which convolutions are dilated is our reading of the paper.
"""

import math
from typing import NamedTuple

import keras
from keras import layers, ops


class _Block(NamedTuple):
    """One block of the network, as the paper's table has it."""

    kernel: int
    expanded: int  # filters
    filters: int  # out
    has_attention: bool
    activation: str
    stride: int
    is_dilated: bool


# The last stage keeps its size (stride 1 where MobileNetV3 has 2) and sees as far through dilation, 2 unless a variant
# says otherwise.
_BLOCKS = (
    _Block(3, 16, 16, False, "relu", 1, False),
    _Block(3, 64, 24, False, "relu", 2, False),
    _Block(3, 72, 24, False, "relu", 1, False),
    _Block(5, 72, 40, True, "relu", 2, False),
    _Block(5, 120, 40, True, "relu", 1, False),
    _Block(5, 120, 40, True, "relu", 1, False),
    _Block(3, 240, 80, False, "hard_swish", 2, False),
    _Block(3, 200, 80, False, "hard_swish", 1, False),
    _Block(3, 184, 80, False, "hard_swish", 1, False),
    _Block(3, 184, 80, False, "hard_swish", 1, False),
    _Block(3, 480, 112, True, "hard_swish", 1, False),
    _Block(3, 672, 112, True, "hard_swish", 1, False),
    _Block(5, 672, 160, True, "hard_swish", 1, True),
    _Block(5, 960, 160, True, "hard_swish", 1, True),
    _Block(5, 960, 160, True, "hard_swish", 1, True),
)


def mobilenet_v3_eca(pixels: keras.KerasTensor, dilation_rate: int = 2) -> keras.KerasTensor:
    """Pixels 0 to 255 (b, side, side, 3) -> feature maps (b, side / 16, side / 16, 960)."""
    x = layers.Rescaling(1 / 127.5, offset=-1, name="symmetric")(pixels)
    x = _normalize(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x), "hard_swish")
    for block in _BLOCKS:
        x = _add_block(x, block, dilation=dilation_rate if block.is_dilated else 1)
    return _normalize(layers.Conv2D(960, 1, use_bias=False)(x), "hard_swish")


def _add_block(x: keras.KerasTensor, block: _Block, *, dilation: int) -> keras.KerasTensor:
    shortcut = x
    if block.expanded != x.shape[-1]:
        x = _normalize(layers.Conv2D(block.expanded, 1, use_bias=False)(x), block.activation)
    x = layers.DepthwiseConv2D(
        block.kernel, strides=block.stride, dilation_rate=dilation, padding="same", use_bias=False
    )(x)
    x = _normalize(x, block.activation)
    if block.has_attention:
        x = efficient_channel_attention(x)
    x = _normalize(layers.Conv2D(block.filters, 1, use_bias=False)(x), None)
    return layers.Add()([shortcut, x]) if block.stride == 1 and shortcut.shape[-1] == block.filters else x


def _normalize(x: keras.KerasTensor, activation: str | None) -> keras.KerasTensor:
    x = layers.BatchNormalization(momentum=0.9)(x)
    return x if activation is None else layers.Activation(activation)(x)


def efficient_channel_attention(x: keras.KerasTensor) -> keras.KerasTensor:
    """Weight each channel by its neighbours: one convolution along the channels' means, no reduction.

    Its width grows with the channels: the odd number nearest log2(C) / 2 + 1 / 2 (equation 12 of the paper).
    """
    n_channels = x.shape[-1]
    width = int(abs(math.log2(n_channels) / 2 + 0.5))
    width += 1 - width % 2
    mean = layers.GlobalAveragePooling2D()(x)  # (b, C)
    weight = layers.Conv1D(1, width, padding="same", use_bias=False, activation="sigmoid")(
        ops.expand_dims(mean, -1)
    )  # (b, C, 1)
    return layers.Multiply()([x, layers.Reshape((1, 1, n_channels))(weight)])
