"""Scores on val -> the operating point that is stored with the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

from lesion_tasks import UnusableInputError
from lesion_tasks.metrics.scored import Scored

CHOSEN_ON = "val"


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A score at or above `value` is called positive. `rule` and `chosen_on` say where the value comes from."""

    value: float
    rule: str
    chosen_on: str

    def as_dict(self) -> dict[str, float | str]:
        return {"value": self.value, "rule": self.rule, "chosen_on": self.chosen_on}


def choose_threshold(scored: Scored) -> Threshold:
    """Choose the operating point of a binary task on val: where balanced accuracy is highest (Youden 1950).

    Raises UnusableInputError if only one class is present.
    """
    n_positives = scored.n_positives or 0
    if not 0 < n_positives < scored.n_images:
        raise UnusableInputError(
            f"a threshold needs both classes on {CHOSEN_ON}, found {n_positives} positives in {scored.n_images} images"
        )
    # The curve starts at an infinite threshold, which JSON cannot hold and no score reaches.
    false_positive_rate, sensitivity, thresholds = (
        values[1:] for values in roc_curve(scored.is_positive, scored.scores, drop_intermediate=False)
    )
    best = int(np.argmax(sensitivity - false_positive_rate))
    return Threshold(value=float(thresholds[best]), rule="highest balanced accuracy", chosen_on=CHOSEN_ON)
