"""Measures that depend on the order of scores: one value from scikit-learn's curves, and all resamples at once.

Each measure is defined twice: `of_curve` on the ROC curve of the images themselves, and `of_bins` on class weights
(B, r) in bins of falling score, for r resamples. The tests check that the two agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lesion_tasks.metrics.counted import too_few_groups
from lesion_tasks.metrics.resample import auc_of, cumulate

# Groups of each class (of equal size) below which a measure's bootstrap interval covers less than 93 %, simulated with
# AUCs of 0.85 and 0.95 (benchmarks/simulate_evaluation.py): a bound near 1 depends on the last few positives.
MIN_GROUPS: dict[str, int] = {
    "auc": 2,
    "average_precision": 20,
    "partial_auc_above_80_sensitivity": 200,
    "auc_above_80_sensitivity": 20,
    "sensitivity_at_90_specificity": 20,
    "sensitivity_at_95_specificity": 30,
    "specificity_at_90_sensitivity": 40,
    "specificity_at_95_sensitivity": 100,
}

# The same for those of the other side of the cut: with fewer, the bound is decided by the last one or two, and the
# bootstrap covers 98 % (simulated with an AUC of 0.99).
MIN_GROUPS_BEYOND = 5

Bins = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Rates are quotients of counts; a bound like 0.9 counts as met if it is met up to rounding.
ROUNDING = 1e-9
SENSITIVITY_FLOOR = 0.8


def partial_auc_above(false_positive_rate: np.ndarray, sensitivity: np.ndarray, floor: float) -> float:
    """Area between the ROC curve and `floor`: ISIC 2024, at most 1 - floor.

    McClish 1989 (doi:10.1177/0272989X8900900307) without her rescaling, on the axis of sensitivity.
    """
    return float(_area_above(sensitivity[:, None], false_positive_rate[:, None], floor)[0])


def full_auc_above(false_positive_rate: np.ndarray, sensitivity: np.ndarray, floor: float) -> float:
    """Area under the ROC curve right of where sensitivity reaches `floor`: isic-challenge-scoring.

    It includes the rectangle below the floor, and is at most 1.
    """
    return float(_full_area(sensitivity[:, None], false_positive_rate[:, None], floor)[0])


def sensitivity_at(false_positive_rate: np.ndarray, sensitivity: np.ndarray, specificity: float) -> float:
    """Highest sensitivity of a threshold with at least this specificity; not interpolated between thresholds."""
    return float(sensitivity[false_positive_rate <= 1 - specificity + ROUNDING].max())


def specificity_at(false_positive_rate: np.ndarray, sensitivity: np.ndarray, min_sensitivity: float) -> float:
    """Highest specificity of a threshold with at least this sensitivity; not interpolated between thresholds."""
    return float(1 - false_positive_rate[sensitivity >= min_sensitivity - ROUNDING].min())


CURVE_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "partial_auc_above_80_sensitivity": partial(partial_auc_above, floor=SENSITIVITY_FLOOR),
    "auc_above_80_sensitivity": partial(full_auc_above, floor=SENSITIVITY_FLOOR),
    "sensitivity_at_90_specificity": partial(sensitivity_at, specificity=0.90),
    "sensitivity_at_95_specificity": partial(sensitivity_at, specificity=0.95),
    "specificity_at_90_sensitivity": partial(specificity_at, min_sensitivity=0.90),
    "specificity_at_95_sensitivity": partial(specificity_at, min_sensitivity=0.95),
}


def ranking_values(is_positive: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Every measure of this module on (n,) images with both classes."""
    false_positive_rate, sensitivity, _ = roc_curve(is_positive, scores, drop_intermediate=False)
    return {
        "auc": float(roc_auc_score(is_positive, scores)),
        "average_precision": float(average_precision_score(is_positive, scores)),
        **{name: measure(false_positive_rate, sensitivity) for name, measure in CURVE_MEASURES.items()},
    }


def too_few_to_rank(name: str, positives: float, negatives: float, value: float | None = None) -> str | None:
    """Why a measure has no interval with these effective numbers of groups of each class, or None.

    `value`: of one model; None for a difference, which is not judged by how near the limit it is.
    """
    for side, count in (("positives", positives), ("negatives", negatives)):
        if count < MIN_GROUPS[name]:
            return too_few_groups(side, count, MIN_GROUPS[name])
    if value is not None and name.startswith(("sensitivity_at", "specificity_at")):
        side, count = ("positives", positives) if name.startswith("sens") else ("negatives", negatives)
        beyond = (1 - value) * count
        if beyond < MIN_GROUPS_BEYOND:
            return too_few_groups(f"{side} on the wrong side of the cut", beyond, MIN_GROUPS_BEYOND)
    return None


def _average_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    true = cumulate(positives)
    called = true + cumulate(negatives)
    # If a resample left the top bins empty, nothing has been called there yet, and they add nothing.
    np.maximum(called, 1.0, out=called)
    total = true[-1].copy()
    true *= positives
    true /= called
    return true.sum(axis=0) / total


def _rates(counts: np.ndarray) -> np.ndarray:
    """(B + 1, r) cumulative rates from (B, r) counts, starting at 0."""
    rates = np.zeros((counts.shape[0] + 1, counts.shape[1]))
    rates[1:] = cumulate(counts)
    rates /= rates[-1]
    return rates


def _area_above(sensitivity: np.ndarray, false_positive_rate: np.ndarray, floor: float) -> np.ndarray:
    """(r,) area between each column's ROC curve and `floor`, by trapezoids."""
    height = np.maximum(sensitivity - floor, 0.0)
    width = np.diff(false_positive_rate, axis=0)
    area = (np.einsum("br,br->r", height[:-1], width) + np.einsum("br,br->r", height[1:], width)) / 2
    # The segment that crosses the floor counts from the crossing only.
    point, columns, share = _crossing(sensitivity, floor)
    return area - height[point, columns] * width[point - 1, columns] * share / 2


def _full_area(sensitivity: np.ndarray, false_positive_rate: np.ndarray, floor: float) -> np.ndarray:
    point, columns, share = _crossing(sensitivity, floor)
    left = false_positive_rate[point - 1, columns]
    start = left + share * (false_positive_rate[point, columns] - left)
    return _area_above(sensitivity, false_positive_rate, floor) + floor * (1 - start)


def _crossing(sensitivity: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First point at or above the floor in each column, and the floor's position on the segment before it, 0 to 1."""
    columns = np.arange(sensitivity.shape[1])
    point = (sensitivity < floor).sum(axis=0)  # sensitivity only rises; the origin is below every floor
    before = sensitivity[point - 1, columns]
    return point, columns, (floor - before) / (sensitivity[point, columns] - before)


def _resampled_curve(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _rates(positives), _rates(negatives)


def resampled_measures(names: tuple[str, ...]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of class weights (B, r) that gives the named measures, (len(names), r).

    The cumulative rates are computed once for all of them.
    """
    on_counts: dict[str, Bins] = {"auc": auc_of, "average_precision": _average_precision}
    on_rates: dict[str, Bins] = {
        "partial_auc_above_80_sensitivity": partial(_area_above, floor=SENSITIVITY_FLOOR),
        "auc_above_80_sensitivity": partial(_full_area, floor=SENSITIVITY_FLOOR),
        "sensitivity_at_90_specificity": partial(_sensitivities, specificity=0.90),
        "sensitivity_at_95_specificity": partial(_sensitivities, specificity=0.95),
        "specificity_at_90_sensitivity": partial(_specificities, min_sensitivity=0.90),
        "specificity_at_95_sensitivity": partial(_specificities, min_sensitivity=0.95),
    }

    def measure(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        has_both = (positives.sum(axis=0) > 0) & (negatives.sum(axis=0) > 0)
        result = np.full((len(names), positives.shape[1]), np.nan)
        if not has_both.all():
            positives, negatives = positives[:, has_both], negatives[:, has_both]
        rates = _resampled_curve(positives, negatives) if set(names) & set(on_rates) else None
        for row, name in enumerate(names):
            if name in on_counts:
                result[row, has_both] = on_counts[name](positives, negatives)
            elif rates is not None:
                result[row, has_both] = on_rates[name](*rates)
        return result

    return measure


def _sensitivities(
    sensitivity: np.ndarray, false_positive_rate: np.ndarray, specificity: float
) -> np.ndarray:
    is_allowed = false_positive_rate <= 1 - specificity + ROUNDING
    last = is_allowed.sum(axis=0) - 1  # both rates only rise, so the allowed points come first
    return sensitivity[last, np.arange(sensitivity.shape[1])]


def _specificities(
    sensitivity: np.ndarray, false_positive_rate: np.ndarray, min_sensitivity: float
) -> np.ndarray:
    first = (sensitivity < min_sensitivity - ROUNDING).sum(axis=0)
    return 1 - false_positive_rate[first, np.arange(sensitivity.shape[1])]
