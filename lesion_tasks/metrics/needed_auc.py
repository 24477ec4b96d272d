"""A floor and the groups of a test set -> the AUC at which the interval begins at the floor: what so few can show.

Before anything is trained nothing is known of the scores, so the variance is that of Hanley & McNeil 1982,
doi:10.1148/radiology.143.1.7063747, of one image for each group; the interval is that of `auc.py`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from lesion_tasks.metrics.auc import LEVEL


def needed_auc(floor: float, n_first: int, n_second: int) -> float | None:
    """The lowest AUC, to two digits, whose interval begins at `floor` or above; None if none below 1 does."""
    if min(n_first, n_second) < 2:
        return None
    found = (auc for auc in np.arange(0.51, 1, 0.01) if _lower_limit(float(auc), n_first, n_second) >= floor)
    return next((round(float(auc), 2) for auc in found), None)


def _lower_limit(auc: float, n_first: int, n_second: int) -> float:
    variance = (
        auc * (1 - auc)
        + (n_first - 1) * (auc / (2 - auc) - auc**2)
        + (n_second - 1) * (2 * auc**2 / (1 + auc) - auc**2)
    ) / (n_first * n_second)
    quantile = float(student.isf((1 - LEVEL) / 2, min(n_first, n_second) - 1))
    logit = math.log(auc / (1 - auc)) - quantile * math.sqrt(variance) / (auc * (1 - auc))
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
