"""The AUCs of several sites -> their mean, how much they differ beyond chance, and where a new site's may fall.

A random-effects meta-analysis on the logit scale, as Snell et al. 2018 (doi:10.1177/0962280217705678) find right for an
AUC: each site's true value is drawn from a normal distribution of unknown mean and variance. Each site's own variance
is the one by group of `auc`.

That all sites have one AUC is the same claim on the AUC's own scale, and what trainings differ by is normal on neither.
On the logit's it was given up too often where small networks were trained, on the AUC's own where sites are many and
models have no luck, so they are said to differ if they do on both.

Trained twice, the same recipe gives two models, and one of them is better. Where a site has several trainings, their
mean is its figure, and what they differ by beyond the chance of who was tested is the variance of training: one for all
sites, nested in them (Searle, Casella & McCulloch 1992, doi:10.1002/9780470316856, chapter 3). With one training of
each, nothing tells it apart from a variance between sites.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtr
from scipy.stats import chi2, f, norm
from scipy.stats import t as student

from lesion_tasks.metrics.auc import LEVEL, Auc, weighted_sum
from lesion_tasks.metrics.figure import Interval

# With two sites the variance between them rests on one difference: an interval says nothing.
MIN_SITES = 3
SITE_METHOD = "mean of trainings, DeLong by group and the variance of training, logit scale"
# Points at which the distributions of the variance of training, of that between sites and of the mean are taken: with
# three times as many, an interval is wider by 0.2 % at most.
_N_OF_TRAINING, _N_BETWEEN, _N_OF_T = 24, 48, 16
_N_HALVINGS = 40
_LEAST = 1e-9  # of a chi-square: sites that agree to the last digit have a Q of 0


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteFigure:
    """One site's figure on the logit scale, the mean of its trainings; its variance by the chance of who was tested.

    `degrees`: of freedom of that variance. `squares`: of the trainings' figures around their mean; `expected`: the
    squares that the chance of who was tested brings by itself. Both are 0 with one training.
    """

    y: float
    variance: float
    degrees: float
    n_trainings: int
    squares: float
    expected: float

    @property
    def mean(self) -> float:
        """On the AUC's own scale."""
        return float(expit(self.y))


@dataclass(frozen=True, kw_only=True)
class Training:
    """How much a recipe's trainings differ on one site's people, on the logit scale; the same at every site.

    `degrees`: trainings beyond the first of each site. `squares`: their mean square; `expected`: the part of it that
    the chance of who was tested brings.
    """

    degrees: int
    squares: float
    expected: float

    @property
    def variance(self) -> float:
        return max(0.0, self.squares - self.expected)


@dataclass(frozen=True, kw_only=True)
class BetweenSites:
    """What several sites say together. Shares are on the AUC's own scale, `tau` (a standard deviation) on the logit's.

    `q`: Cochran's. `p_value`: of the test that all sites have one true AUC. `i2`: the share of the variance of the
    sites' figures that is not chance (Higgins & Thompson 2002, doi:10.1002/sim.1186). These three are of one test, on
    the scale on which the sites differ less surely. `training_sd`: standard deviation
    of trainings, on the logit scale; None where each site has one training, and it is part of `tau`. `new_site_low` and
    `new_site_high` are about the model of one training.
    """

    n_sites: int
    n_trainings: int
    mean: float
    mean_low: float
    mean_high: float
    tau: float
    training_sd: float | None
    q: float
    p_value: float
    i2: float
    new_site_low: float
    new_site_high: float

    @property
    def differ(self) -> bool:
        """Whether the sites differ by more than chance does in one of twenty such tables."""
        return self.p_value < 1 - LEVEL


def site_figure(aucs: Sequence[Auc]) -> SiteFigure | None:
    """One site's figure from the AUCs of its trainings, all on the same groups; None if one has no variance."""
    if not aucs or any(not 0 < auc.value < 1 or auc.no_interval_reason is not None for auc in aucs):
        return None
    values = np.array([auc.value for auc in aucs])
    y, slopes = logit(values), 1 / (values * (1 - values))
    # The trainings were tested on the same people: their errors are alike, and add up group by group.
    influence = np.array([slope * auc.influence for slope, auc in zip(slopes, aucs, strict=True)])
    mean = influence.mean(axis=0)
    return SiteFigure(
        y=float(y.mean()),
        variance=float(mean @ mean),
        degrees=weighted_sum(aucs, [float(slope) / len(aucs) for slope in slopes]).degrees,
        n_trainings=len(aucs),
        squares=float(((y - y.mean()) ** 2).sum()),
        expected=float(((influence - mean) ** 2).sum()),
    )


def training_variance(sites: Sequence[SiteFigure]) -> Training | None:
    """How much trainings of one site differ beyond chance, over all sites; None if each has a single one."""
    degrees = sum(site.n_trainings - 1 for site in sites)
    if not degrees:
        return None
    return Training(
        degrees=degrees,
        squares=sum(site.squares for site in sites) / degrees,
        expected=sum(site.expected for site in sites) / degrees,
    )


def site_interval(site: SiteFigure, training: Training | None) -> Interval:
    """A site's figure on the AUC's scale, with the chance of who was tested and of training in its interval.

    Student's t with the degrees of freedom of both variances together (Satterthwaite 1946, doi:10.2307/3002019).
    """
    of_training = (training.variance if training else 0.0) / site.n_trainings
    error = site.variance**2 / site.degrees
    if training is not None:
        error += (training.squares / site.n_trainings) ** 2 / training.degrees
    variance = site.variance + of_training
    half = float(student.isf((1 - LEVEL) / 2, max(1.0, variance**2 / error))) * math.sqrt(variance)
    return Interval(low=float(expit(site.y - half)), high=float(expit(site.y + half)), method=SITE_METHOD)


def combine_sites(trainings_of: Sequence[Sequence[Auc]]) -> BetweenSites | str:
    """Combine the AUCs of sites that share no group, or say in words why they cannot be combined.

    `trainings_of`: the AUCs of each site's trainings, one or more, on the same groups.

    Variance between sites: Paule & Mandel 1982 (doi:10.6028/jres.087.022), beside each site's own, which is that of who
    was tested and a share of the variance of training. Interval of the mean: Hartung & Knapp 2001
    (doi:10.1002/sim.1009), Student's t with one degree fewer than sites, and never narrower than the usual one, which
    rests on the sites' own errors and the normal distribution (Jackson et al. 2017, doi:10.1002/sim.7411): sites that
    agree by luck are not more certain than that. The floor of Knapp & Hartung 2003 (doi:10.1002/sim.1482), with
    Student's t on these errors, holds the truth nearly always where sites are few.
    Test of heterogeneity: `heterogeneity`. Prediction interval for the true AUC of one training's model at a new site:
    by the confidence distribution of the variance between sites, as Nagashima, Noma & Furukawa 2019
    (doi:10.1177/0962280218773520) do, but with the Q profile (Viechtbauer 2007, doi:10.1002/sim.2514) for that
    distribution, and by that of the variance of training, because the usual one (Higgins, Thompson & Spiegelhalter
    2009, doi:10.1111/j.1467-985X.2008.00552.x) takes the first as known and holds the truth too rarely.
    """
    told = [site for aucs in trainings_of if (site := site_figure(aucs)) is not None]
    if len(told) < MIN_SITES:
        return f"{len(told)} sites with an AUC between 0 and 1 and an interval, floor {MIN_SITES}"
    return combine_figures(told)


def combine_figures(told: Sequence[SiteFigure]) -> BetweenSites:
    """The same of three or more sites, by their figures."""
    training = training_variance(told)
    y = np.array([site.y for site in told])
    sampling, n = np.array([site.variance for site in told]), np.array([site.n_trainings for site in told])
    variance = sampling + (training.variance if training else 0.0) / n
    degrees = len(y) - 1
    tau2 = between_variance(y, variance)
    tail = (1 - LEVEL) / 2
    weight = 1 / (variance + tau2)
    mean = float(weight @ y / weight.sum())
    half = max(
        float(student.isf(tail, degrees)) * math.sqrt(_q(y, variance, tau2) / degrees / float(weight.sum())),
        float(norm.isf(tail)) / math.sqrt(float(weight.sum())),
    )
    new = _new_site(y, sampling, n, training, mean, tail)
    q, p_value = heterogeneity(told)
    return BetweenSites(
        n_sites=len(y),
        n_trainings=int(n.sum()),
        mean=float(expit(mean)),
        mean_low=float(expit(mean - half)),
        mean_high=float(expit(mean + half)),
        tau=math.sqrt(tau2),
        training_sd=math.sqrt(training.variance) if training else None,
        q=q,
        p_value=p_value,
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


def heterogeneity(sites: Sequence[SiteFigure]) -> tuple[float, float]:
    """Cochran's Q and the p-value of the test that all sites have one true AUC, with the luck of training in each.

    On the logit scale and on the AUC's own, by the delta method; of the two tests, the one with the larger p. No margin
    is in it for what models differ by that learned from other people.
    """

    def test(figures: Sequence[SiteFigure]) -> tuple[float, float]:
        training = training_variance(figures)
        y, sampling, degrees, n = (
            np.array([getattr(one, name) for one in figures])
            for name in ("y", "variance", "degrees", "n_trainings")
        )
        variance = sampling + (training.variance if training else 0.0) / n
        return _q(y, variance, 0.0), heterogeneity_p(y, sampling, degrees, n, training)

    return max(test(sites), test([_on_own_scale(one) for one in sites]), key=lambda one: one[1])


def _on_own_scale(site: SiteFigure) -> SiteFigure:
    """A figure on the logit scale -> the AUC's own."""
    slope = site.mean * (1 - site.mean)
    return replace(
        site,
        y=site.mean,
        variance=site.variance * slope**2,
        squares=site.squares * slope**2,
        expected=site.expected * slope**2,
    )


def heterogeneity_p(
    y: np.ndarray,
    sampling: np.ndarray,
    degrees: np.ndarray,
    n_trainings: np.ndarray | None = None,
    training: Training | None = None,
) -> float:
    """The p-value of the test that all true values are one; `degrees` (k,): of freedom of each `sampling` variance.

    `n_trainings` (k,): of which each site's figure is the mean.

    Cochran's Q / (k - 1) against F, its scale and its degrees of freedom by Kenward & Roger 1997
    (doi:10.2307/2533558) to the first order in 1 / degrees. Without a variance of training that is the test of Welch
    1951 (doi:10.1093/biomet/38.3-4.330); with nothing else, the F test of the analysis of variance. With a few dozen
    groups Cochran's own test gives half as many false alarms again.
    """
    lost = len(y) - 1  # degrees of freedom of what is tested
    variance, pooled = sampling, np.zeros_like(sampling)
    if training is not None and n_trainings is not None:
        pooled = 1 / n_trainings
        variance = sampling + training.variance * pooled
    weight = 1 / variance
    hat = np.diag(weight) - np.outer(weight, weight) / weight.sum()
    # How much the error of each variance moves Q on average, and how much Q varies by it.
    moved = 2 * sampling**2 / degrees * np.diag(hat) ** 2
    mean_part = varying = float(moved.sum())
    if training is not None:
        error = 2 * training.squares**2 / training.degrees
        mean_part += error * float(np.diag(hat) @ pooled) ** 2
        varying += error * float(np.einsum("ij,j,ji,i->", hat, pooled, hat, pooled))
    spread = (mean_part + 2 * varying) / (lost * (lost + 2))
    statistic = _q(y, variance, 0.0) / lost / (1 + varying / lost - spread)
    return float(f.sf(statistic, lost, 2 / spread))


def _q(y: np.ndarray, variance: np.ndarray, tau2: float) -> float:
    """Weighted squares around the weighted mean; Cochran's Q without a variance between sites."""
    return float(_weighted(y, variance + tau2)[0])


def _new_site(
    y: np.ndarray,
    sampling: np.ndarray,
    n_trainings: np.ndarray,
    training: Training | None,
    mean: float,
    tail: float,
) -> tuple[float, float]:
    """Quantiles of where one training's true value falls at a new site, with the uncertainty of variances and mean.

    Both variances are averaged over their confidence distributions, by Gauss and Legendre's rule on shares of
    confidence: no draws, so the same figures give the same interval to the last digit.
    """
    degrees = len(y) - 1
    of_training, confidence = _training_variances(training)
    variance = sampling + of_training[:, None] / n_trainings
    tau2, share = _between_variances(y, variance)
    squares, total = _weighted(y, variance[:, None] + tau2[..., None])
    # As in the interval of the mean: the wider of Student's t on the squares that were found, and of the normal.
    ratio = squares / degrees
    is_wider = np.sqrt(ratio) * student.isf(tail, degrees) > norm.isf(tail)
    # Student's t is a normal distribution whose variance is one of these.
    shares, parts = _nodes(_N_OF_T)
    of_t = degrees / chi2.isf(shares, degrees)
    error = np.where(is_wider[..., None], ratio[..., None] * of_t, 1.0) / total[..., None]
    deviations = np.sqrt((tau2 + of_training[:, None])[..., None] + error)
    weight = (confidence[:, None] * share)[..., None] * parts

    def beyond(half: float) -> float:
        return float((weight * ndtr(-half / deviations)).sum()) - tail

    # The share beyond is a half at nothing and falls.
    high = float(deviations.mean())
    while beyond(high) > 0:
        high *= 2
    half = float(brentq(beyond, 0.0, high))
    return mean - half, mean + half


@cache
def _gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(n)
    return (points + 1) / 2, weights / 2


def _nodes(n: int, low: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Points between `low` and 1 and their weights, which add up to 1 - `low`: Gauss and Legendre's rule."""
    points, weights = _gauss_legendre(n)
    return low + (1 - low) * points, (1 - low) * weights


def _training_variances(training: Training | None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) values for the variance of training, and the share of confidence of each."""
    if training is None:
        return np.zeros(1), np.ones(1)
    shares, weights = _nodes(_N_OF_TRAINING)
    mean_squares = training.squares * training.degrees / chi2.isf(shares, training.degrees)
    return np.maximum(0.0, mean_squares - training.expected), weights


def _between_variances(y: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, m) values for the variance between sites, the first 0, and the share of confidence of each in its row.

    `variance` (n, k): of each site's own error, in each row. Cochran's Q at the true variance between sites is
    chi-square, and falls as that variance rises: each value of the chi-square gives one (Viechtbauer 2007,
    doi:10.1002/sim.2514), and 0 has all beyond what Q is without any.
    """
    degrees = len(y) - 1
    none = chi2.sf(_weighted(y, variance)[0], degrees)[:, None]
    shares, weights = _nodes(_N_BETWEEN, none)
    wanted = np.maximum(chi2.isf(shares, degrees), _LEAST)
    squares = float(((y - y.mean()) ** 2).sum())
    # With every variance the smallest, or the largest, of all, Q would be `squares` divided by it and tau2.
    low = np.maximum(0.0, squares / wanted - variance.max(axis=1)[:, None])
    high = squares / wanted
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        is_above = _weighted(y, variance[:, None] + middle[..., None])[0] > wanted
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    return np.hstack([np.zeros_like(none), (low + high) / 2]), np.hstack([none, weights])


def _weighted(y: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted squares around the weighted mean, and the sum of the weights, over the last axis of `variance`."""
    weight = 1 / variance
    total = weight.sum(axis=-1)
    deviation = y - ((weight @ y) / total)[..., None]
    return (weight * deviation**2).sum(axis=-1), total
