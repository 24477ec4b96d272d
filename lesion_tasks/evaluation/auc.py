"""Labels, scores, groups -> AUC with its standard error, exact with ties, in O(n log n).

Placement values ("structural components") by midranks: Sun & Xu 2014, doi:10.1109/LSP.2014.2337313.
Variance: DeLong, DeLong & Clarke-Pearson 1988, doi:10.2307/2531595; for images that come in groups
Obuchowski 1997, doi:10.2307/2533958, which is DeLong's when every group is a single image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from lesion_tasks.evaluation.figure import Interval

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Auc:
    """An AUC and what its variance needs.

    `deviations` (G, 2): by group, the sum over its positives, and over its negatives, of placement value
    minus AUC. `group_sizes` (G, 2): positives and negatives in each group.
    """

    value: float
    deviations: np.ndarray
    group_sizes: np.ndarray

    @property
    def influence(self) -> np.ndarray:
        """(G,) what each group adds to the AUC's deviation from its mean: A_g / M + B_g / N."""
        return (self.deviations / self.group_sizes.sum(axis=0)).sum(axis=1)

    @property
    def standard_error(self) -> float:
        return math.sqrt(max(covariance(self, self), 0.0))

    def interval(self, level: float = LEVEL) -> Interval:
        """Interval on the logit scale, where the AUC of a good model is closer to normal (Pepe 2003, 5.2.4)."""
        return logit_interval(self, level, method="DeLong by group (Obuchowski 1997), logit scale")


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
    deviation = values - auc
    n_groups = int(groups.max()) + 1
    by_class = [
        (np.bincount(groups[mask], deviation[mask], n_groups), np.bincount(groups[mask], minlength=n_groups))
        for mask in (is_positive, ~is_positive)
    ]
    return Auc(
        value=auc,
        deviations=np.column_stack([deviations for deviations, _ in by_class]),
        group_sizes=np.column_stack([sizes for _, sizes in by_class]),
    )


def covariance(first: Auc, second: Auc) -> float:
    """Covariance of two AUCs on the same images and groups; the variance when both are the same one.

    Obuchowski 1997: S10/M + S01/N + 2 S11/(MN), each S a sum over groups of products of their deviations.
    A class with one group has no variance of its own: the result is then infinite.
    """
    n_positives, n_negatives = first.group_sizes.sum(axis=0)
    n_with_positives, n_with_negatives = (first.group_sizes > 0).sum(axis=0)
    if n_with_positives < 2 or n_with_negatives < 2:
        return math.inf
    positive, negative = first.deviations.T
    other_positive, other_negative = second.deviations.T
    n_groups = len(positive)
    within_positives = n_with_positives / (n_with_positives - 1) * (positive @ other_positive)
    within_negatives = n_with_negatives / (n_with_negatives - 1) * (negative @ other_negative)
    between = n_groups / (n_groups - 1) * (positive @ other_negative + other_positive @ negative)
    return float(
        within_positives / n_positives**2
        + within_negatives / n_negatives**2
        + between / (n_positives * n_negatives)
    )


def logit_interval(auc: Auc, level: float, *, method: str) -> Interval:
    """logit(AUC) +- z SE / (AUC (1 - AUC)), transformed back.

    At an AUC of exactly 1 the standard error is 0 and says nothing. Then the limit comes from m pairs of one
    positive and one negative group, m the smaller number of groups: all of them were ranked rightly, which has
    probability AUC^m, so the lower limit is ((1 - level) / 2)^(1/m). The same, mirrored, at 0.
    """
    if auc.value in (0.0, 1.0):
        n_pairs = int((auc.group_sizes > 0).sum(axis=0).min())
        limit = ((1 - level) / 2) ** (1 / n_pairs)
        low, high = (limit, 1.0) if auc.value == 1.0 else (0.0, 1 - limit)
        return Interval(low=low, high=high, method="exact limit at perfect ranking")
    if not math.isfinite(auc.standard_error):
        return Interval(low=0.0, high=1.0, method=f"{method}; one group of a class, no variance")
    return logit_scale_interval(auc.value, auc.standard_error, level, method=method)


def logit_scale_interval(value: float, standard_error: float, level: float, *, method: str) -> Interval:
    """Interval of a value between 0 and 1 (exclusive), normal on the logit scale."""
    logit = math.log(value / (1 - value))
    half = float(norm.isf((1 - level) / 2)) * standard_error / (value * (1 - value))
    return Interval(low=_expit(logit - half), high=_expit(logit + half), method=method)


def mean_interval(aucs: Sequence[Auc], weights: Sequence[float], level: float, *, method: str) -> Interval:
    """Interval of a weighted mean of AUCs on the same groups, from the sum of their influences."""
    value = float(sum(weight * auc.value for weight, auc in zip(weights, aucs, strict=True)))
    influence = np.sum([weight * auc.influence for weight, auc in zip(weights, aucs, strict=True)], axis=0)
    n_groups = int((influence != 0).sum())
    if n_groups < 2 or not 0 < value < 1:
        return Interval(low=0.0, high=1.0, method=f"{method}; no variance")
    error = math.sqrt(n_groups / (n_groups - 1) * float(influence @ influence))
    return logit_scale_interval(value, error, level, method=method)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
