"""Labels, scores, groups -> AUC with its standard error, exact with ties, in O(n log n).

Placement values ("structural components") by midranks: Sun & Xu 2014, doi:10.1109/LSP.2014.2337313.
Variance: DeLong, DeLong & Clarke-Pearson 1988, doi:10.2307/2531595; for images that come in groups
Obuchowski 1997, doi:10.2307/2533958, which is DeLong's when every group is a single image. Where she multiplies with
I / (I - 1), I the number of groups, we divide each group's part by the root of 1 - its share of the class (the leverage
correction CR2, Bell & McCaffrey 2002): the same for groups of one size, and nearer the truth when one patient
has many images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from lesion_tasks.metrics.figure import Interval

LEVEL = 0.95
METHOD = "DeLong by group, logit scale"


@dataclass(frozen=True, kw_only=True, eq=False)
class Auc:
    """An AUC, or a weighted sum of AUCs on the same images.

    `influence` (G,): what each group adds to the deviation from the true value. The variance is its sum of
    squares, and every sum or difference of AUCs on the same groups is the sum or difference of influences.
    `n_groups_by_class`: groups with a positive, groups with a negative.
    """

    value: float
    influence: np.ndarray
    n_groups_by_class: tuple[int, int]

    @property
    def standard_error(self) -> float:
        """Infinite where a class has a single group: one group has no spread."""
        if min(self.n_groups_by_class) < 2:
            return math.inf
        return math.sqrt(float(self.influence @ self.influence))

    def quantile(self, tail: float) -> float:
        """Student's quantile with the rarer class's number of groups: with few groups the error is itself uncertain."""
        return float(student.isf(tail, max(min(self.n_groups_by_class) - 1, 1)))

    def p_value(self) -> float:
        """Two-sided, for a true value of 0: meant for a difference."""
        degrees = max(min(self.n_groups_by_class) - 1, 1)
        return float(2 * student.sf(abs(self.value) / self.standard_error, degrees))

    def interval(self, level: float = LEVEL) -> Interval:
        """logit(AUC) +- t SE / (AUC (1 - AUC)), transformed back (Pepe 2003, section 5.2.4).

        At an AUC of exactly 1 the standard error is 0 and says nothing. Then the limit comes from m pairs of one
        positive and one negative group, m the smaller number of groups: all were ranked rightly, which has
        probability AUC^m, so the lower limit is ((1 - level) / 2)^(1/m). The same, mirrored, at 0.
        """
        tail = (1 - level) / 2
        if self.value <= 0 or self.value >= 1:
            limit = tail ** (1 / min(self.n_groups_by_class))
            low, high = (limit, 1.0) if self.value >= 1 else (0.0, 1 - limit)
            return Interval(low=low, high=high, method="exact limit at perfect ranking")
        if math.isinf(self.standard_error):
            return Interval(low=0.0, high=1.0, method="none: one group of a class has no variance")
        logit = math.log(self.value / (1 - self.value))
        half = self.quantile(tail) * self.standard_error / (self.value * (1 - self.value))
        return Interval(low=_expit(logit - half), high=_expit(logit + half), method=METHOD)


def placement_values(is_positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) share of the other class that each image is ranked rightly against; ties count half."""
    n_positives = int(is_positive.sum())
    n_negatives = len(is_positive) - n_positives
    rank = rankdata(scores)  # midranks over all images, then within each class
    values = np.empty(len(scores))
    values[is_positive] = (rank[is_positive] - rankdata(scores[is_positive])) / n_negatives
    values[~is_positive] = 1 - (rank[~is_positive] - rankdata(scores[~is_positive])) / n_positives
    return values


def measure_auc(is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Auc | None:
    """AUC of `scores` (n,) for `is_positive` (n,) bool, with images grouped by `groups` (n,) int from 0.

    None where one class is missing. Give `groups` = arange(n) for DeLong's own variance.
    """
    if is_positive.all() or not is_positive.any():
        return None
    values = placement_values(is_positive, scores)
    auc = float(values[is_positive].mean())
    influence = np.zeros(int(groups.max()) + 1)
    n_groups_by_class = []
    for mask in (is_positive, ~is_positive):
        deviations = np.bincount(groups[mask], values[mask] - auc, len(influence))
        share = np.bincount(groups[mask], minlength=len(influence)) / mask.sum()
        # A group pulls the mean towards itself by its share, and its deviation is that much too small.
        influence += deviations / mask.sum() / np.sqrt(1 - np.minimum(share, 0.99))
        n_groups_by_class.append(int((share > 0).sum()))
    return Auc(value=auc, influence=influence, n_groups_by_class=(n_groups_by_class[0], n_groups_by_class[1]))


def weighted_sum(aucs: Sequence[Auc], weights: Sequence[float]) -> Auc:
    """Sum of weight x AUC, for AUCs on the same groups; weights that sum to 1 give a mean, (1, -1) a difference."""
    return Auc(
        value=float(sum(weight * auc.value for weight, auc in zip(weights, aucs, strict=True))),
        influence=np.sum([weight * auc.influence for weight, auc in zip(weights, aucs, strict=True)], axis=0),
        n_groups_by_class=(
            min(auc.n_groups_by_class[0] for auc in aucs),
            min(auc.n_groups_by_class[1] for auc in aucs),
        ),
    )


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
