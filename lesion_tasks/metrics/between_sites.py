"""The AUCs of several sites -> their mean, how much they differ beyond chance, and where a new site's may fall.

A random-effects meta-analysis on the logit scale, as Snell et al. 2018 (doi:10.1177/0962280217705678) find right for an
AUC: each site's true value is drawn from a normal distribution of unknown mean and variance. Each site's own variance
is the one by group of `auc`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import f, norm
from scipy.stats import t as student

from lesion_tasks.metrics.auc import LEVEL, Auc

# With two sites the variance between them rests on one difference: an interval says nothing.
MIN_SITES = 3
N_DRAWS = 5_000
SEED = 20_260
_GRID = 240  # values of the variance at which its distribution is tabulated


@dataclass(frozen=True, kw_only=True)
class BetweenSites:
    """What several sites say together. Shares are on the AUC's own scale, `tau` (a standard deviation) on the logit's.

    `q`: Cochran's. `p_value`: of the test that all sites have one true AUC. `i2`: the share of the variance of the
    sites' figures that is not chance (Higgins & Thompson 2002, doi:10.1002/sim.1186).
    """

    n_sites: int
    mean: float
    mean_low: float
    mean_high: float
    tau: float
    q: float
    p_value: float
    i2: float
    new_site_low: float
    new_site_high: float

    @property
    def differ(self) -> bool:
        """Whether the sites differ by more than chance does in one of twenty such tables."""
        return self.p_value < 1 - LEVEL


def combine_sites(aucs: Sequence[Auc], level: float = LEVEL) -> BetweenSites | str:
    """Combine the AUCs of sites that share no group, or say in words why they cannot be combined.

    Variance between sites: Paule & Mandel 1982 (doi:10.6028/jres.087.022). Interval of the mean: Hartung & Knapp 2001
    (doi:10.1002/sim.1009), Student's t with one degree fewer than sites, and never narrower than the usual one, which
    rests on the sites' own errors and the normal distribution (Jackson et al. 2017, doi:10.1002/sim.7411): sites that
    agree by luck are not more certain than that. The floor of Knapp & Hartung 2003 (doi:10.1002/sim.1482), with
    Student's t on these errors, holds the truth nearly always where sites are few. Test of heterogeneity: Welch 1951
    (doi:10.1093/biomet/38.3-4.330), which is Cochran's with the degrees of freedom of each
    site's variance; with a few dozen groups Cochran's own gives half as many false alarms again. Prediction interval
    for the true AUC of a new site: by the confidence distribution of the variance (Nagashima, Noma & Furukawa 2019,
    doi:10.1177/0962280218773520), because the usual one (Higgins, Thompson & Spiegelhalter 2009,
    doi:10.1111/j.1467-985X.2008.00552.x) takes that variance as known and holds the truth too rarely.
    """
    told = [auc for auc in aucs if 0 < auc.value < 1 and auc.no_interval_reason is None]
    if len(told) < MIN_SITES:
        return f"{len(told)} sites with an AUC between 0 and 1 and an interval, floor {MIN_SITES}"
    values = np.array([auc.value for auc in told])
    y = logit(values)
    variance = np.array([auc.standard_error for auc in told]) ** 2 / (values * (1 - values)) ** 2
    degrees = len(y) - 1
    q = _q(y, variance, 0.0)
    tau2 = between_variance(y, variance)
    tail = (1 - level) / 2
    weight = 1 / (variance + tau2)
    mean = float(weight @ y / weight.sum())
    half = max(
        float(student.isf(tail, degrees)) * math.sqrt(_q(y, variance, tau2) / degrees / float(weight.sum())),
        float(norm.isf(tail)) / math.sqrt(float(weight.sum())),
    )
    new = _new_site(y, variance, mean, tail)
    return BetweenSites(
        n_sites=len(y),
        mean=float(expit(mean)),
        mean_low=float(expit(mean - half)),
        mean_high=float(expit(mean + half)),
        tau=math.sqrt(tau2),
        q=q,
        p_value=heterogeneity_p(y, variance, np.array([auc.degrees for auc in told])),
        i2=max(0.0, 1 - degrees / q) if q > 0 else 0.0,
        new_site_low=float(expit(new[0])),
        new_site_high=float(expit(new[1])),
    )


def between_variance(y: np.ndarray, variance: np.ndarray) -> float:
    """Paule and Mandel's: the variance between sites at which the weighted squares are what is expected, or 0.

    `y`, `variance` (k,): each site's figure, and the variance of its own error.
    """
    degrees = len(y) - 1
    if _q(y, variance, 0.0) <= degrees:
        return 0.0
    high = float(np.var(y)) + 1.0
    while _q(y, variance, high) > degrees:
        high *= 2
    return float(brentq(lambda tau2: _q(y, variance, tau2) - degrees, 0.0, high))


def heterogeneity_p(y: np.ndarray, variance: np.ndarray, degrees: np.ndarray) -> float:
    """The p-value of Welch's test that all true values are one; `degrees` (k,): of freedom of each site's variance."""
    k, weight = len(variance), 1 / variance
    lacking = float(((1 - weight / weight.sum()) ** 2 / degrees).sum())
    statistic = _q(y, variance, 0.0) / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * lacking)
    return float(f.sf(statistic, k - 1, (k**2 - 1) / (3 * lacking)))


def _q(y: np.ndarray, variance: np.ndarray, tau2: float) -> float:
    """Weighted squares around the weighted mean; Cochran's Q without a variance between sites."""
    weight = 1 / (variance + tau2)
    return float(weight @ (y - weight @ y / weight.sum()) ** 2)


def _new_site(y: np.ndarray, variance: np.ndarray, mean: float, tail: float) -> tuple[float, float]:
    """Quantiles of where a new site's true value falls, with the uncertainty of the variance and of the mean."""
    degrees = len(y) - 1
    random = np.random.default_rng(SEED)
    tau2 = _drawn_variances(y, variance, random)
    weight = 1 / (variance + tau2[:, None])
    total = weight.sum(axis=1)
    deviation = y - (weight @ y / total)[:, None]
    # As in the interval of the mean: the wider of Student's t on the squares that were found, and of the normal.
    ratio = np.sqrt((weight * deviation**2).sum(axis=1) / degrees)
    is_wider = ratio * student.isf(tail, degrees) > norm.isf(tail)
    error = np.where(
        is_wider, ratio * random.standard_t(degrees, N_DRAWS), random.normal(size=N_DRAWS)
    ) / np.sqrt(total)
    new = mean + np.sqrt(tau2) * random.normal(size=N_DRAWS) - error
    low, high = np.quantile(new, [tail, 1 - tail])
    return float(low), float(high)


def _drawn_variances(y: np.ndarray, variance: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N_DRAWS,) draws from the confidence distribution of the variance between sites.

    Cochran's Q is a sum of chi-squares whose weights rise with the variance between sites: each draw of the chi-squares
    gives the variance at which they add up to the Q that was found, or 0 if they exceed it without any.
    """
    weight = 1 / variance
    centred = np.diag(weight) - np.outer(weight, weight) / weight.sum()
    q = _q(y, variance, 0.0)
    squares = random.chisquare(1, (N_DRAWS, len(y) - 1))
    # Far enough that hardly any draw lies beyond it: there its smallest possible sum still exceeds Q.
    top = max(1.0, float(np.var(y))) * 1_000
    grid = np.concatenate([[0.0], np.geomspace(1e-5, top, _GRID)])
    found = np.full(N_DRAWS, top)
    below = np.zeros(N_DRAWS)
    last = 0.0
    is_open = np.ones(N_DRAWS, dtype=bool)
    for tau2 in grid:
        root = np.sqrt(variance + tau2)
        eigenvalues = np.linalg.eigvalsh(root[:, None] * centred * root)[1:]
        sums = squares @ eigenvalues
        crossed = is_open & (sums >= q)
        # Between two neighbours of the grid the sum is all but a straight line.
        share = np.divide(q - below, sums - below, out=np.zeros(N_DRAWS), where=sums > below)
        found[crossed] = last + np.clip(share[crossed], 0, 1) * (tau2 - last)
        is_open &= ~crossed
        below, last = sums, float(tau2)
    return found
