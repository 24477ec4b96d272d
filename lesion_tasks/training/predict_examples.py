"""A model and examples -> predictions, every row under its image id."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd

from lesion_tasks.training.examples import Examples

BATCH_IMAGES = 64  # a model that averages over mirror images makes four times as many of them
# Every new batch length is compiled again: lengths are rounded up to a multiple of this, and the results cut.
BATCH_STEP = 32


def predict_examples(
    model: keras.Model,
    examples: Examples,
    *,
    classes: Sequence[str],
    order: np.ndarray | None = None,
    batch_images: int = BATCH_IMAGES,
) -> pd.DataFrame:
    """Score examples: a frame indexed by `isic_id` with one float64 column of probabilities for each class.

    `order` (row numbers) selects which examples are scored, and in which order; the result is keyed either way.
    """
    rows = np.arange(len(examples)) if order is None else order
    length = min(batch_images, math.ceil(len(rows) / BATCH_STEP) * BATCH_STEP)
    parts = []
    for start in range(0, len(rows), batch_images):
        batch = rows[start : start + batch_images]
        full = np.resize(batch, length)
        parts.append(np.asarray(model.predict_on_batch(examples.inputs(full)))[: len(batch)])
        if examples.pixels is not None:
            examples.pixels.release()  # memory does not grow with what is predicted
    return probabilities_by_id(parts, examples.isic_ids[rows], classes)


def probabilities_by_id(
    parts: Sequence[np.ndarray], isic_ids: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """What a model said of batches, (b, K) or of two classes (b, 1), as `predict_examples` returns it."""
    raw = np.concatenate(parts).astype(np.float64) if parts else np.empty((0, len(classes)))
    if parts and len(classes) == 2:
        raw = np.column_stack([1.0 - raw[:, 0], raw[:, 0]])
    return pd.DataFrame(raw, index=pd.Index(isic_ids, name="isic_id"), columns=list(classes))
