"""Hits and trials by group -> a proportion with an interval that accounts for groups of images."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from lesion_tasks.metrics.degrees_of_freedom import degrees_of_freedom, effective_groups, satterthwaite
from lesion_tasks.metrics.figure import Interval

METHOD = "Wilson with the design effect of groups"
# Fewer groups than this with a hit, or with a miss, give no reliable variance.
MIN_GROUPS_OF_OUTCOME = 5
# Simulated like `degrees.MIN_DEGREES`: shares are bounded, and need a little less caution.
MIN_DEGREES = 8.0


def proportion_interval(
    hits: np.ndarray, trials: np.ndarray, groups: np.ndarray, level: float = 0.95
) -> Interval:
    """Wilson 1927 interval of sum(hits) / sum(trials), with the effective number of trials.

    `hits` and `trials` (n,) bool, hits only where trials; `groups` (n,) int from 0. The variance is that of a
    ratio over groups (Rao & Scott 1992, doi:10.2307/2532311) with the leverage correction CR2 (Bell & McCaffrey 2002):
    v = sum_g (h_g - p t_g)^2 / (1 - t_g / T) / T^2. The effective number of trials is p (1 - p) / v, never more than
    T; it is reduced by (z / t)^2 for the degrees of freedom of v (Korn & Graubard 1998). At 0 or 1 the variance means
    nothing, and with hits or misses in fewer than five groups little: then the trials count as at most the effective
    number of groups, `degrees.effective_groups`.
    """
    n_groups = int(groups.max()) + 1
    hits_by_group = np.bincount(groups[hits & trials], minlength=n_groups)
    trials_by_group = np.bincount(groups[trials], minlength=n_groups)
    n_trials, n_with_trials = int(trials_by_group.sum()), int((trials_by_group > 0).sum())
    share = float(hits_by_group.sum() / n_trials)
    effective = effective_groups(trials_by_group)
    if n_with_trials > 1 and 0 < share < 1:
        leverage = np.minimum(trials_by_group / n_trials, 0.99)
        residual = (hits_by_group - share * trials_by_group) / np.sqrt(1 - leverage)
        variance = float(residual @ residual) / n_trials**2
        by_design = min(share * (1 - share) / variance, float(n_trials)) if variance > 0 else effective
        outcomes = (hits_by_group > 0).sum(), (trials_by_group > hits_by_group).sum()
        effective = by_design if min(outcomes) >= MIN_GROUPS_OF_OUTCOME else min(by_design, effective)
        found = satterthwaite(hits[trials] - share, groups[trials])
        degrees = degrees_of_freedom([found], n_with_trials, MIN_DEGREES)
        tail = (1 - level) / 2
        effective *= float(norm.isf(tail) / student.isf(tail, degrees)) ** 2
    low, high = wilson(share, effective, level)
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
