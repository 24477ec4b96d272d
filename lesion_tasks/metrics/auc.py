"""Labels, scores, groups -> AUC with its interval, exact with ties, in O(n log n).

Placement values ("structural components") by midranks: Sun & Xu 2014, doi:10.1109/LSP.2014.2337313.
Variance: DeLong, DeLong & Clarke-Pearson 1988, doi:10.2307/2531595; for images that come in groups
Obuchowski 1997, doi:10.2307/2533958, which is DeLong's when every group is a single image. Where she multiplies by
I / (I - 1), I the number of groups, we divide each group's part by the root of 1 - its share of the class (the leverage
correction CR2, Bell & McCaffrey 2002): the same for groups of equal size, and closer to the truth when one patient
has many images. Degrees of freedom: `degrees`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from lesion_tasks.metrics.degrees_of_freedom import (
    degrees_of_freedom,
    effective_groups,
    satterthwaite,
    tail_degrees,
)
from lesion_tasks.metrics.figure import Interval

LEVEL = 0.95
METHOD = "DeLong by group, logit scale"


@dataclass(frozen=True, kw_only=True, eq=False)
class ByImage:
    """Each image's part in the deviation: `influence` (n,), `groups` (n,) int, `strata` (n,) int (its class)."""

    influence: np.ndarray
    groups: np.ndarray
    strata: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Auc:
    """An AUC, or a weighted sum of AUCs on the same images.

    `influence` (G,): each group's contribution to the deviation from the true value. The variance is its sum of
    squares, and every sum or difference of AUCs on the same groups is the sum or difference of influences.
    `n_groups_by_class`: groups with a positive, groups with a negative. `n_even_groups`: the effective number of groups
    (of equal size) of the class with fewer. `by_image` is None if only groups are known: their number then gives the
    degrees of freedom.
    """

    value: float
    influence: np.ndarray
    n_groups_by_class: tuple[int, int]
    n_even_groups: float | None = None
    by_image: ByImage | None = None

    @property
    def standard_error(self) -> float:
        """Infinite if a class has a single group: one group has no spread."""
        if min(self.n_groups_by_class) < 2:
            return math.inf
        return math.sqrt(float(self.influence @ self.influence))

    @cached_property
    def degrees(self) -> float:
        """Satterthwaite's, or those of the tails if they are fewer; at most the rarer class's groups - 1."""
        found = [math.inf]
        if self.by_image is not None:
            images = self.by_image
            found = [
                satterthwaite(images.influence, images.groups, images.strata),
                tail_degrees(self.influence),
            ]
        return degrees_of_freedom(found, min(self.n_groups_by_class))

    def quantile(self, tail: float) -> float:
        """Student's quantile: with few or unequal groups the standard error is itself uncertain."""
        return float(student.isf(tail, self.degrees))

    def p_value(self) -> float:
        """Two-sided, for a true value of 0: intended for a difference."""
        return float(2 * student.sf(abs(self.value) / self.standard_error, self.degrees))

    @property
    def no_interval_reason(self) -> str | None:
        """Why `interval` is meaningless, or None."""
        if self.value <= 0 or self.value >= 1:
            return None
        if math.isinf(self.standard_error):
            return "one group of a class has no variance"
        return "all images have the same score" if self.standard_error == 0 else None

    def limit_of_no_exception(self, tail: float) -> float:
        """tail^(1/m): the lowest share of pairs with which m pairs have no exception with probability `tail`.

        m is the effective number of groups of the class with fewer: a group's images are not independent pairs.
        """
        m = min(self.n_groups_by_class) if self.n_even_groups is None else self.n_even_groups
        return float(tail ** (1 / m))

    def interval(self, level: float = LEVEL) -> Interval:
        """logit(AUC) +- t SE / (AUC (1 - AUC)), transformed back (Pepe 2003, section 5.2.4).

        At an AUC of exactly 1 the standard error is 0 and meaningless. Then the limit comes from m pairs of one
        positive and one negative group, m the smaller effective number of groups: all were ranked correctly, which has
        probability AUC^m, so the lower limit is ((1 - level) / 2)^(1/m). The same, mirrored, at 0. Without any
        variance the interval is 0 to 1, and `no_interval_reason` says why.
        """
        tail = (1 - level) / 2
        if self.value <= 0 or self.value >= 1:
            limit = self.limit_of_no_exception(tail)
            low, high = (limit, 1.0) if self.value >= 1 else (0.0, 1 - limit)
            return Interval(low=low, high=high, method="exact limit at perfect ranking")
        if reason := self.no_interval_reason:
            return Interval(low=0.0, high=1.0, method=f"none: {reason}")
        logit = math.log(self.value / (1 - self.value))
        half = self.quantile(tail) * self.standard_error / (self.value * (1 - self.value))
        return Interval(low=_expit(logit - half), high=_expit(logit + half), method=METHOD)


def placement_values(is_positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) share of the other class against which each image is ranked correctly; ties count half."""
    n_positives = int(is_positive.sum())
    n_negatives = len(is_positive) - n_positives
    rank = rankdata(scores)  # midranks over all images, then within each class
    values = np.empty(len(scores))
    values[is_positive] = (rank[is_positive] - rankdata(scores[is_positive])) / n_negatives
    values[~is_positive] = 1 - (rank[~is_positive] - rankdata(scores[~is_positive])) / n_positives
    return values


def measure_auc(is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Auc | None:
    """AUC of `scores` (n,) for `is_positive` (n,) bool, with images grouped by `groups` (n,) int from 0.

    None if one class is missing. Pass `groups` = arange(n) for DeLong's own variance.
    """
    if is_positive.all() or not is_positive.any():
        return None
    values = placement_values(is_positive, scores)
    auc = float(values[is_positive].mean())
    influence = np.zeros(int(groups.max()) + 1)
    by_image = np.empty(len(values))
    n_groups_by_class, n_even_groups = [], []
    for mask in (is_positive, ~is_positive):
        deviations = np.bincount(groups[mask], values[mask] - auc, len(influence))
        share = np.bincount(groups[mask], minlength=len(influence)) / mask.sum()
        # A group pulls the mean towards itself by its share, which makes its deviation that much too small.
        influence += deviations / mask.sum() / np.sqrt(1 - np.minimum(share, 0.99))
        by_image[mask] = (values[mask] - auc) / mask.sum()
        n_groups_by_class.append(int((share > 0).sum()))
        n_even_groups.append(effective_groups(share))
    return Auc(
        value=auc,
        influence=influence,
        n_groups_by_class=(n_groups_by_class[0], n_groups_by_class[1]),
        n_even_groups=min(n_even_groups),
        by_image=ByImage(influence=by_image, groups=groups, strata=is_positive.astype(np.intp)),
    )


def weighted_sum(aucs: Sequence[Auc], weights: Sequence[float]) -> Auc:
    """Sum of weight x AUC, for AUCs on the same groups; weights that sum to 1 give a mean, (1, -1) a difference."""
    return Auc(
        value=float(sum(weight * auc.value for weight, auc in zip(weights, aucs, strict=True))),
        influence=np.sum([weight * auc.influence for weight, auc in zip(weights, aucs, strict=True)], axis=0),
        n_groups_by_class=(
            min(auc.n_groups_by_class[0] for auc in aucs),
            min(auc.n_groups_by_class[1] for auc in aucs),
        ),
        n_even_groups=min((auc.n_even_groups for auc in aucs if auc.n_even_groups is not None), default=None),
        by_image=_sum_by_image(aucs, weights),
    )


def _sum_by_image(aucs: Sequence[Auc], weights: Sequence[float]) -> ByImage | None:
    """The images of a weighted sum; images share a stratum if they do in every AUC."""
    images = [auc.by_image for auc in aucs if auc.by_image is not None]
    if len(images) < len(aucs):
        return None
    strata = images[0].strata
    for one in images[1:]:
        if one.strata is not strata and not np.array_equal(one.strata, strata):
            strata = np.unique(strata * (int(one.strata.max()) + 1) + one.strata, return_inverse=True)[1]
    influence = np.sum([weight * one.influence for weight, one in zip(weights, images, strict=True)], axis=0)
    return ByImage(influence=influence, groups=images[0].groups, strata=strata)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
