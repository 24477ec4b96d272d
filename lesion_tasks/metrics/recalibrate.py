"""Scores on one half of a cohort -> a new intercept and slope, and what they give on the other half."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from lesion_tasks.metrics.binary import probability_figures
from lesion_tasks.metrics.calibration import MIN_GROUPS_OF_CLASS_OF_INTERCEPT, logits
from lesion_tasks.metrics.cohort_document import Recalibration
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import Figures
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored

SEED = 20_261
SHOWN = ("calibration_intercept", "calibration_slope", "brier_score", "brier_skill", "log_loss")


def recalibrate(scored: Scored) -> Recalibration:
    """Fit logit(p') = intercept + slope logit(p) on half of the groups and judge it on the others (Cox 1958).

    It says what local data would give, and changes nothing: the model, its threshold and its figures stay as they are.
    """
    if not scored.is_binary:
        return Recalibration(reason="it is defined for two classes only")
    is_fitted = np.random.default_rng(SEED).permutation(scored.n_groups)[scored.groups] % 2 == 0
    fitted, judged = scored.where(is_fitted), scored.where(~is_fitted)
    for half in (fitted, judged):
        counts = [
            len(np.unique(half.groups[side])) if side.any() else 0
            for side in (half.is_positive, ~half.is_positive)
        ]
        if min(counts) < MIN_GROUPS_OF_CLASS_OF_INTERCEPT:
            return Recalibration(
                reason=(
                    f"half of the cohort has {plural(min(counts), 'group')} of the rarer class, floor "
                    f"{MIN_GROUPS_OF_CLASS_OF_INTERCEPT}"
                )
            )
    evidence = logits(fitted.scores)[:, None]
    if np.ptp(evidence) == 0:
        return Recalibration(reason="all images have the same score")
    model = LogisticRegression(C=1e6, max_iter=500).fit(evidence, fitted.is_positive)
    intercept, slope = float(model.intercept_[0]), float(model.coef_[0, 0])
    return Recalibration(
        n_images_fitted=fitted.n_images,
        n_images_judged=judged.n_images,
        intercept=intercept,
        slope=slope,
        before=_figures(judged),
        after=_figures(_moved(judged, intercept, slope)),
    )


def _moved(scored: Scored, intercept: float, slope: float) -> Scored:
    positive = expit(intercept + slope * logits(scored.scores))
    pair = [1 - positive, positive]
    if scored.class_names[0] == scored.positive_class:
        pair.reverse()
    return replace(scored, probabilities=np.column_stack(pair))


def _figures(scored: Scored) -> Figures:
    found = probability_figures(scored, Resampling())
    return {name: found[name].published() for name in SHOWN}
