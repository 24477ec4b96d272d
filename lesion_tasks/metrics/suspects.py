"""A `Scored` that the model never learned from -> labels that it disagrees with, those by the widest margin first.

Confident learning (Northcutt, Jiang & Chuang 2021, doi:10.1613/jair.1.12125): a class is confident of an image if its
probability is at least the mean of those that are labelled so; an image whose most likely confident class is not its
label is suspect. That is not proof of a wrong label: the model may be wrong. cleanlab does the same and more, under a
licence (AGPL) that would bind whoever uses this package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lesion_tasks.metrics.scored import Scored


@dataclass(frozen=True, kw_only=True)
class SuspectLabel:
    """An image whose label the model disagrees with."""

    isic_id: str
    label: str
    probable: str  # the class that the model is confident of
    p_label: float
    p_probable: float

    @property
    def margin(self) -> float:
        """By how much the other class is more likely: what suspects are ordered by."""
        return self.p_probable - self.p_label


def suspect_labels(scored: Scored) -> list[SuspectLabel]:
    """Every suspect, largest margin first; a class without images is confident of none."""
    p, labels, names = scored.probabilities, scored.labels, scored.class_names
    thresholds = np.array(
        [
            p[labels == index, index].mean() if (labels == index).any() else np.inf
            for index in range(len(names))
        ]
    )
    confident = np.where(p >= thresholds, p, -1.0)
    probable = confident.argmax(axis=1)
    is_suspect = (confident.max(axis=1) >= 0) & (probable != labels)
    found = [
        SuspectLabel(
            isic_id=str(scored.isic_ids[row]),
            label=names[labels[row]],
            probable=names[probable[row]],
            p_label=float(p[row, labels[row]]),
            p_probable=float(p[row, probable[row]]),
        )
        for row in np.flatnonzero(is_suspect)
    ]
    return sorted(found, key=lambda one: (-one.margin, one.isic_id))
