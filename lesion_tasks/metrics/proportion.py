"""Hits and trials by group -> a proportion with an interval that knows that images come in groups."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from lesion_tasks.metrics.figure import Interval

METHOD = "Wilson with the design effect of groups"


def proportion_interval(
    hits: np.ndarray, trials: np.ndarray, groups: np.ndarray, level: float = 0.95
) -> Interval:
    """Wilson 1927 interval of sum(hits) / sum(trials), with the effective number of trials.

    `hits` and `trials` (n,) bool, hits only where trials; `groups` (n,) int from 0. The variance is that of a
    ratio over groups (Rao & Scott 1992, doi:10.2307/2532311): v = I / (I - 1) sum_g (h_g - p t_g)^2 / T^2, and
    p (1 - p) / v trials carry as much as the T that there are, never more than T. At 0 or 1 the variance says
    nothing, and each group counts as one trial.
    """
    n_groups = int(groups.max()) + 1
    hits_by_group = np.bincount(groups[hits & trials], minlength=n_groups)
    trials_by_group = np.bincount(groups[trials], minlength=n_groups)
    n_trials, n_with_trials = int(trials_by_group.sum()), int((trials_by_group > 0).sum())
    share = hits_by_group.sum() / n_trials
    effective = float(n_with_trials)
    if n_with_trials > 1 and 0 < share < 1:
        residual = hits_by_group - share * trials_by_group
        variance = n_with_trials / (n_with_trials - 1) * float(residual @ residual) / n_trials**2
        if variance > 0:
            effective = min(share * (1 - share) / variance, float(n_trials))
    low, high = wilson(float(share), effective, level)
    return Interval(low=low, high=high, method=METHOD)


def wilson(share: float, n_trials: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson 1927 score interval; `n_trials` need not be whole."""
    z = float(norm.isf((1 - level) / 2))
    centre = (share + z * z / (2 * n_trials)) / (1 + z * z / n_trials)
    half = (
        z
        / (1 + z * z / n_trials)
        * math.sqrt(share * (1 - share) / n_trials + z * z / (4 * n_trials * n_trials))
    )
    low = 0.0 if share == 0 else max(0.0, float(centre - half))
    high = 1.0 if share == 1 else min(1.0, float(centre + half))
    return low, high
