"""A `Scored` by image -> the same by lesion: the images of one lesion asked as a whole, by the mean of their logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lesion_tasks.metrics.scored import Scored

# Probabilities are kept this far from 0 and 1 before taking their logarithm.
_EPSILON = 1e-7


def by_lesion(scored: Scored, lesion_by_id: Mapping[str, str]) -> Scored:
    """One row for each lesion, under the id of its first image; an image without a lesion is one of its own.

    The probabilities are those of the mean logits, for K classes the softmax of the mean logarithms. A lesion whose
    images have different labels is left out. Groups and attributes are those of the first image.
    """
    lesions = np.array([lesion_by_id.get(i) or f"image {i}" for i in scored.isic_ids], dtype=object)
    numbers = pd.factorize(lesions)[0]
    n = int(numbers.max()) + 1 if len(numbers) else 0
    first = np.full(n, len(numbers), dtype=np.intp)
    np.minimum.at(first, numbers, np.arange(len(numbers)))
    logs = np.log(np.clip(scored.probabilities, _EPSILON, 1.0))
    mean = np.zeros((n, logs.shape[1]))
    np.add.at(mean, numbers, logs)
    mean /= np.bincount(numbers, minlength=n)[:, None]
    # For two classes, the softmax of mean logarithms is the logistic function of the mean logit.
    mean = np.exp(mean - mean.max(axis=1, keepdims=True, initial=-np.inf))
    lowest, highest = np.full(n, len(scored.class_names)), np.full(n, -1)
    np.minimum.at(lowest, numbers, scored.labels)
    np.maximum.at(highest, numbers, scored.labels)
    agrees = lowest == highest
    rows = first[agrees]
    return Scored(
        isic_ids=scored.isic_ids[rows],
        labels=scored.labels[rows],
        probabilities=(mean / mean.sum(axis=1, keepdims=True))[agrees],
        group_ids=scored.group_ids[rows],
        class_names=scored.class_names,
        positive_class=scored.positive_class,
        attributes=scored.attributes.iloc[rows].reset_index(drop=True),
    )
