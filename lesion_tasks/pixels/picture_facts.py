"""Decoded pictures -> numbers about everything but the lesion: the frame, the light, the camera and the file.

A ruler at the edge, a vignette, a colour cast or a different JPEG quality can tell the classes apart if one institution
sent the malignant lesions and another the benign ones. A model that knows no more than these has learned the archive.
Only the rim of the picture is measured: its middle is the lesion, which a model is meant to see.
"""

import numpy as np

BATCH_PICTURES = 64
# The rim is this share of a side on every side; the corners are squares twice as wide.
RIM = 1 / 12
NEARLY_WHITE = 225
NEARLY_BLACK = 30

FACTS = (
    "brightness", "contrast", "red_cast", "blue_cast", "saturation", "white_share", "black_share",
    "brightest_edge", "darkest_edge", "corner_darkness", "sharpness", "fine_noise", "blockiness",
)  # fmt: skip


def picture_facts(pixels: np.ndarray) -> np.ndarray:
    """Measure uint8 (n, side, side, 3), side at least 16: float32 (n, len(FACTS)), in levels from 0 to 255 or shares.

    Apart from the result, memory does not grow with n.
    """
    facts = np.empty((len(pixels), len(FACTS)), dtype=np.float32)
    for start in range(0, len(pixels), BATCH_PICTURES):
        batch = pixels[start : start + BATCH_PICTURES]
        facts[start : start + len(batch)] = np.column_stack(list(_measure(batch).values()))
    return facts


def _measure(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Every fact of a few pictures, in the order of `FACTS`."""
    width = max(round(pixels.shape[1] * RIM), 3)
    edges = [_strip(pixels, edge, width) for edge in range(4)]
    greys = [edge.mean(axis=3, dtype=np.float32) for edge in edges]  # (n, width, side)
    rim = np.concatenate([edge.reshape(len(pixels), -1, 3) for edge in edges], axis=1)
    grey = np.concatenate([edge.reshape(len(pixels), -1) for edge in greys], axis=1)
    red, green, blue = np.moveaxis(rim.mean(axis=1, dtype=np.float32), 1, 0)
    by_edge = np.stack([edge.mean(axis=(1, 2)) for edge in greys])
    along = [np.abs(np.diff(edge, axis=2)) for edge in greys]
    fine = np.concatenate([_fine(edge) for edge in greys], axis=1)
    return {
        "brightness": grey.mean(axis=1),
        "contrast": grey.std(axis=1),
        "red_cast": red - green,
        "blue_cast": blue - green,
        "saturation": (rim.max(axis=2) - rim.min(axis=2)).mean(axis=1),
        "white_share": (grey >= NEARLY_WHITE).mean(axis=1),
        "black_share": (grey <= NEARLY_BLACK).mean(axis=1),
        "brightest_edge": by_edge.max(axis=0),
        "darkest_edge": by_edge.min(axis=0),
        "corner_darkness": _corner_darkness(greys, width),
        "sharpness": np.mean([edge.mean(axis=(1, 2)) for edge in along], axis=0),
        "fine_noise": fine.mean(axis=1),
        "blockiness": _blockiness(along),
    }


def _strip(pixels: np.ndarray, edge: int, width: int) -> np.ndarray:
    """(n, width, side, 3) one of the four edges, laid out horizontally."""
    level = pixels if edge < 2 else pixels.transpose(0, 2, 1, 3)
    return level[:, :width] if edge % 2 == 0 else level[:, -width:]


def _fine(grey: np.ndarray) -> np.ndarray:
    """(n, m) how much each pixel differs from the mean of its four neighbours, times four."""
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.abs(4 * grey[:, 1:-1, 1:-1] - around).reshape(len(grey), -1)


def _corner_darkness(greys: list[np.ndarray], width: int) -> np.ndarray:
    """(n,) how much darker the ends of the edges are than their middles: a vignette."""
    ends = np.mean([edge[:, :, part].mean(axis=(1, 2)) for edge in greys for part in _ends(width)], axis=0)
    middles = np.mean([edge[:, :, 2 * width : -2 * width].mean(axis=(1, 2)) for edge in greys], axis=0)
    return np.asarray(middles - ends)


def _ends(width: int) -> tuple[slice, slice]:
    return slice(None, 2 * width), slice(-2 * width, None)


def _blockiness(along: list[np.ndarray]) -> np.ndarray:
    """(n,) how much larger steps between neighbours are at the borders of 8 x 8 blocks, as JPEG leaves them."""
    at_blocks = np.mean([steps[:, :, 7::8].mean(axis=(1, 2)) for steps in along], axis=0)
    return np.asarray(at_blocks - np.mean([steps.mean(axis=(1, 2)) for steps in along], axis=0))
