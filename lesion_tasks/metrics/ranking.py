"""Measures that depend on the order of scores: one value from scikit-learn's curves, and all resamples at once.

Each measure is defined twice: on the ROC curve of the images themselves, and on counts of positives and negatives in
bins of falling score, for r resamples. The tests check that the two agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lesion_tasks.metrics.counted import too_few_groups
from lesion_tasks.metrics.resample import Part, Resampling, rank, resample
from lesion_tasks.metrics.scored import Scored

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

# Rates are quotients of counts; a bound like 0.9 counts as met if it is met up to rounding.
ROUNDING = 1e-9
SENSITIVITY_FLOOR = 0.8


def partial_auc_above(false_positive_rate: np.ndarray, sensitivity: np.ndarray, floor: float) -> float:
    """Area between the ROC curve and `floor`: ISIC 2024, at most 1 - floor.

    McClish 1989 (doi:10.1177/0272989X8900900307) without her rescaling, on the axis of sensitivity.
    """
    height = np.maximum(sensitivity - floor, 0.0)
    width = np.diff(false_positive_rate)
    # The segment that crosses the floor counts from the crossing only.
    point, share = _crossing(sensitivity, floor)
    return float((height[:-1] + height[1:]) @ width - height[point] * width[point - 1] * share) / 2


def full_auc_above(false_positive_rate: np.ndarray, sensitivity: np.ndarray, floor: float) -> float:
    """Area under the ROC curve right of where sensitivity reaches `floor`: isic-challenge-scoring.

    It includes the rectangle below the floor, and is at most 1.
    """
    point, share = _crossing(sensitivity, floor)
    left = float(false_positive_rate[point - 1])
    start = left + share * (float(false_positive_rate[point]) - left)
    return partial_auc_above(false_positive_rate, sensitivity, floor) + floor * (1 - start)


def _crossing(sensitivity: np.ndarray, floor: float) -> tuple[int, float]:
    """First point at or above the floor, and the floor's position on the segment before it, 0 to 1."""
    point = int((sensitivity < floor).sum())  # sensitivity only rises; the origin is below every floor
    before = float(sensitivity[point - 1])
    return point, (floor - before) / (float(sensitivity[point]) - before)


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


class _Curves:
    """The ROC curves of r resamples, each a running sum down the bins, from the counts of `RankedBins`."""

    def __init__(self, positives: np.ndarray, negatives: np.ndarray, *, is_precise: bool) -> None:
        """(n_steps, n_blocks, r) positives and negatives; `is_precise`: average precision is wanted too."""
        self.positives, self.negatives = positives, negatives
        # (n_blocks + 1, r) of each class before each block, and at the end.
        self.true, self.false = (
            _before(side.sum(axis=0, dtype=np.float64)) for side in (positives, negatives)
        )
        true, false = self.true[:-1].copy(), self.false[:-1].copy()
        areas, precisions, term, called = np.zeros((4, *true.shape))
        for above, below in zip(positives, negatives, strict=True):
            hits, misses = above.astype(np.float64), below.astype(np.float64)
            true += hits
            # Images in the same bin have the same score: ties count half.
            np.multiply(hits, -0.5, out=term)
            term += true
            term *= misses
            areas += term
            if is_precise:
                false += misses
                np.add(true, false, out=called)
                # If a resample left the top bins empty, nothing has been called there yet, and they add nothing.
                np.maximum(called, 1.0, out=called)
                hits *= true
                hits /= called
                precisions += hits
        self.areas = areas  # (n_blocks, r) pairs of a positive and a negative that are in order
        self.precisions = precisions  # (n_blocks, r) precision, summed over positives

    @property
    def n_positives(self) -> np.ndarray:
        return self.true[-1]

    @property
    def n_negatives(self) -> np.ndarray:
        return self.false[-1]

    def auc(self) -> np.ndarray:
        return np.asarray(self.areas.sum(axis=0) / (self.n_positives * self.n_negatives))

    def average_precision(self) -> np.ndarray:
        return np.asarray(self.precisions.sum(axis=0) / self.n_positives)

    @cached_property
    def areas_above_floor(self) -> tuple[np.ndarray, np.ndarray]:
        """Area between the curve and `SENSITIVITY_FLOOR`, and all of the area right of where the curve reaches it."""
        floor, crossing = SENSITIVITY_FLOOR, self.first_reaching(SENSITIVITY_FLOOR)
        before, at = (count / self.n_positives for count in crossing.true)
        left, right = (count / self.n_negatives for count in crossing.false)
        share = (floor - before) / (at - before)
        after = crossing.pairs_after / (self.n_positives * self.n_negatives) - floor * (1 - right)
        above = after + (at - floor) * (right - left) * (1 - share) / 2
        start = left + share * (right - left)
        return above, above + floor * (1 - start)

    def first_reaching(self, sensitivity: float) -> _Bin:
        """The first bin of each resample with which at least this sensitivity is reached."""
        return self._first(self.true, self.n_positives, self.positives, lambda rate: rate >= sensitivity)

    def first_beyond(self, false_positive_rate: float) -> _Bin:
        """The first bin of each resample with which this false positive rate is exceeded."""
        return self._first(
            self.false, self.n_negatives, self.negatives, lambda rate: rate > false_positive_rate
        )

    def _first(
        self,
        before: np.ndarray,
        total: np.ndarray,
        counts: np.ndarray,
        is_reached: Callable[[np.ndarray], np.ndarray],
    ) -> _Bin:
        columns = np.arange(len(total))
        # Rates only rise: first the block, then the bin within it. (Without a class there is no rate, and no bin.)
        block = np.minimum((~is_reached(before[1:] / total)).sum(axis=0), len(before) - 2)
        true, false = (
            _before(side[:, block, columns]) + start[block, columns]
            for side, start in ((self.positives, self.true), (self.negatives, self.false))
        )
        side = true if counts is self.positives else false
        step = np.minimum((~is_reached(side[1:] / total)).sum(axis=0), len(side) - 2)
        # Pairs in order of the rest of the block, and of the blocks after it.
        pairs = (true[:-1] + true[1:]) / 2 * np.diff(false, axis=0)
        rest = np.where(np.arange(len(pairs))[:, None] > step, pairs, 0.0).sum(axis=0)
        after = self.areas.sum(axis=0) - _before(self.areas)[block + 1, columns]
        return _Bin(
            true=(true[step, columns], true[step + 1, columns]),
            false=(false[step, columns], false[step + 1, columns]),
            pairs_after=rest + after,
        )


@dataclass(frozen=True, kw_only=True)
class _Bin:
    """A bin of each of r resamples: images of each class before it and with it, and the pairs in order after it."""

    true: tuple[np.ndarray, np.ndarray]
    false: tuple[np.ndarray, np.ndarray]
    pairs_after: np.ndarray


def _before(counts: np.ndarray) -> np.ndarray:
    """(n + 1, r) float64 sums of the rows before each row of (n, r), and of all."""
    sums = np.zeros((counts.shape[0] + 1, *counts.shape[1:]))
    np.cumsum(counts, axis=0, dtype=np.float64, out=sums[1:])
    return sums


def _sensitivities(curves: _Curves, specificity: float) -> np.ndarray:
    return np.asarray(curves.first_beyond(1 - specificity + ROUNDING).true[0] / curves.n_positives)


def _specificities(curves: _Curves, min_sensitivity: float) -> np.ndarray:
    return np.asarray(1 - curves.first_reaching(min_sensitivity - ROUNDING).false[1] / curves.n_negatives)


def ranking_part(
    is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray, names: tuple[str, ...]
) -> Part:
    """The named measures of this module in every resample, (len(names), r); NaN where a resample lacks a class."""
    ranked = rank(is_positive, scores, groups)

    def measure(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            curves = _Curves(*ranked.counted(counts), is_precise="average_precision" in names)
            found = np.stack([OF_CURVES[name](curves) for name in names])
        found[:, (curves.n_positives == 0) | (curves.n_negatives == 0)] = np.nan
        return found

    return Part(measure=measure, n_rows=2 * ranked.n_bins)


OF_CURVES: dict[str, Callable[[_Curves], np.ndarray]] = {
    "auc": _Curves.auc,
    "average_precision": _Curves.average_precision,
    "partial_auc_above_80_sensitivity": lambda curves: curves.areas_above_floor[0],
    "auc_above_80_sensitivity": lambda curves: curves.areas_above_floor[1],
    "sensitivity_at_90_specificity": partial(_sensitivities, specificity=0.90),
    "sensitivity_at_95_specificity": partial(_sensitivities, specificity=0.95),
    "specificity_at_90_sensitivity": partial(_specificities, min_sensitivity=0.90),
    "specificity_at_95_sensitivity": partial(_specificities, min_sensitivity=0.95),
}


def resampled_ranking(
    is_positive: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    resampling: Resampling,
    names: tuple[str, ...],
) -> np.ndarray:
    """(len(names), n_resamples) measures of images with both classes; NaN where a resample lacks one."""
    part = ranking_part(is_positive, scores, groups, names)
    return resample({"ranking": part}, int(groups.max()) + 1, resampling)["ranking"]


def resampled_means(sides: Sequence[Scored], names: tuple[str, ...], resampling: Resampling) -> np.ndarray:
    """(len(names), n_resamples) means over the classes, each as a binary `Scored` of the same images."""
    parts = {
        str(index): ranking_part(side.is_positive, side.scores, sides[0].groups, names)
        for index, side in enumerate(sides)
    }
    found = resample(parts, sides[0].n_groups, resampling)
    return np.asarray(np.mean([found[name] for name in parts], axis=0))
