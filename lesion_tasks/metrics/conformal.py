"""A `Scored` on val -> conformal sets: the classes that a picture may show, wrong at most at a stated rate.

Class-conditional split conformal prediction (Vovk 2012, doi:10.1007/s10994-013-5355-6) with the score 1 - p of the true
class (Sadinle et al. 2019, doi:10.1080/01621459.2017.1395341). Many pictures of one patient or lesion count together as
one: each group has the same weight, shared among its pictures of the class (Lee, Barber & Willett 2023,
arXiv:2306.06342). What is promised is therefore about a random picture of a random new group.

crepes and MAPIE have class-conditional sets, but weigh every picture alike; with the weights of groups, what they would
save is one weighted quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesion_tasks.metrics.figure import Figure, Interval
from lesion_tasks.metrics.proportion import wilson
from lesion_tasks.metrics.scored import Scored

# Of each class, at most this share of groups may lack the true class in its set.
ERROR_RATE = 0.1
METHOD = "Wilson, each group once"


@dataclass(frozen=True, kw_only=True)
class ConformalSets:
    """The largest score 1 - p, for each class, at which it is still in a set; infinite where val has too few groups."""

    error_rate: float
    class_names: tuple[str, ...]
    bounds: tuple[float, ...]
    n_groups: tuple[int, ...]  # of val, for each class

    def sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (n, K) -> (n, K) bool: the classes in each set."""
        return np.asarray(1 - probabilities <= np.array(self.bounds))

    def answers(self, probabilities: np.ndarray) -> np.ndarray:
        """(n,) int: the class of a set of one class; -1 where it holds none or several."""
        sets = self.sets(probabilities)
        return np.where(sets.sum(axis=1) == 1, sets.argmax(axis=1), -1)


def fit_sets(val: Scored, error_rate: float = ERROR_RATE) -> ConformalSets:
    """Fit the bounds of every class on val."""
    bounds, counts = [], []
    for index in range(len(val.class_names)):
        here = val.labels == index
        groups = val.groups[here]
        counts.append(len(np.unique(groups)))
        bounds.append(group_quantile(1 - val.probabilities[here, index], groups, 1 - error_rate))
    return ConformalSets(
        error_rate=error_rate, class_names=val.class_names, bounds=tuple(bounds), n_groups=tuple(counts)
    )


def group_quantile(values: np.ndarray, groups: np.ndarray, level: float) -> float:
    """The least value below or at which a random value of a random new group falls with probability `level`.

    Each of K groups has the weight 1 / (K + 1), shared among its values (n,); the new one could lie anywhere. Infinite
    if K is too small for the level.
    """
    _, number, n_of_group = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(1 / n_of_group[number][order]) / (len(n_of_group) + 1)
    # The sum of many equal weights misses a level that it reaches exactly by a rounding error.
    place = int(np.searchsorted(reached, level - 1e-12))
    return float(values[order][place]) if place < len(values) else math.inf


def least_groups(level: float) -> int:
    """How many groups a level needs."""
    return math.ceil(level / (1 - level) - 1e-9)


def share_of_groups(hits: np.ndarray, groups: np.ndarray, *, why_none: str = "no image") -> Figure:
    """The mean over groups of the share of a group's images (n,) that are hits, with its interval.

    Wilson 1927 with as many trials as their variance among groups says, at most the number of groups.
    """
    if not len(hits):
        return Figure(value=None, reason=why_none, n_images=0, n_groups=0)
    _, number, n_of_group = np.unique(groups, return_inverse=True, return_counts=True)
    shares = np.bincount(number, hits.astype(np.float64)) / n_of_group
    mean, n = float(shares.mean()), len(shares)
    variance = float(shares.var(ddof=1)) / n if n > 1 else 0.0
    trials = min(mean * (1 - mean) / variance, n) if variance > 0 else float(n)
    low, high = wilson(mean, trials)
    return Figure(
        value=mean, interval=Interval(low=low, high=high, method=METHOD), n_images=len(hits), n_groups=n
    )


def answered_at(val: Scored, other: Scored, rates: Sequence[float]) -> list[tuple[float, np.ndarray]]:
    """Sets fitted on val at several error rates -> each with its answers (n,) on the other `Scored`."""
    return [(rate, fit_sets(val, rate).answers(other.probabilities)) for rate in rates]
