"""Scores and outcomes -> how well the scores can be read as probabilities.

Van Calster et al. 2019, doi:10.1186/s12916-019-1466-7: calibration in the large, slope, curve. Net benefit:
Vickers & Elkin 2006, doi:10.1177/0272989X06295361. Expected calibration error: Naeini et al. 2015, ten bins of
equal width; it has no interval, since noise adds to the distance in every bin and a resample has more of it than the
sample: its percentiles lie too high, often above the figure itself (Roelofs et al. 2022, arXiv:2012.08668).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.degrees_of_freedom import degrees_of_freedom, satterthwaite, tail_degrees
from lesion_tasks.metrics.document_schema import CalibrationCurve, NetBenefitCurve
from lesion_tasks.metrics.figure import Interval, Stated
from lesion_tasks.metrics.resample import Resampling, called_part, resample

N_BINS = 10
NO_INTERVAL_OF_ERROR = "resamples are noisier than the sample, so theirs lies too high"
WALD = "Wald with the sandwich variance by group (CR2), Student's t"
# Beyond these the logit of a float32 score is noise.
CLIP = 1e-6
# A slope this large comes from scores that separate the classes (nearly) perfectly: there is no slope.
MAX_SLOPE = 100.0
# With fewer groups of the rarer class the slope is far from normally distributed (simulated coverage: 87 to 92 %).
MIN_GROUPS_OF_CLASS = 10
# The intercept compares a count of outcomes with its expectation, and needs more of them (90 % coverage with ten).
MIN_GROUPS_OF_CLASS_OF_INTERCEPT = 20
# With fewer degrees of freedom a single patient decides the observed share of outcomes.
MIN_DEGREES_OF_INTERCEPT = 2.0
NET_BENEFIT_THRESHOLDS = np.round(np.arange(0.01, 0.51, 0.01), 2)


LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A coefficient, with its interval or the reason why there is none."""

    value: float
    stated: Stated

    @property
    def interval(self) -> Interval | None:
        return self.stated if isinstance(self.stated, Interval) else None


def calibration_slope(is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Estimate | None:
    """Slope of the logistic regression of the outcome on the logit of the score; None if it does not exist.

    The interval is Wald's with the sandwich variance by group (Liang & Zeger 1986), corrected for leverage (CR2) and
    with degrees of freedom by Bell & McCaffrey 2002 (see `degrees`).
    """
    logit = logits(scores)
    if np.ptp(logit) == 0:
        return None
    return _logistic_fit(
        np.column_stack([logit, np.ones_like(logit)]), np.zeros_like(logit), is_positive, groups
    )


def calibration_intercept(is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Estimate | None:
    """Calibration in the large: the intercept that the scores' logits miss, with the slope held at 1."""
    return _logistic_fit(
        np.ones((len(scores), 1)),
        logits(scores),
        is_positive,
        groups,
        min_groups=MIN_GROUPS_OF_CLASS_OF_INTERCEPT,
        min_degrees=MIN_DEGREES_OF_INTERCEPT,
    )


def logits(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def _logistic_fit(
    design: np.ndarray,
    offset: np.ndarray,
    is_positive: np.ndarray,
    groups: np.ndarray,
    *,
    min_groups: int = MIN_GROUPS_OF_CLASS,
    min_degrees: float = 0.0,
) -> Estimate | None:
    """First coefficient of an unpenalised logistic regression, by Newton's method.

    No interval with fewer groups of a class than `min_groups`, or fewer degrees of freedom than `min_degrees`.
    """
    if is_positive.all() or not is_positive.any():
        return None
    outcome = is_positive.astype(np.float64)
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        expected = 1 / (1 + np.exp(-np.clip(design @ beta + offset, -500, 500)))
        information = (design * (expected * (1 - expected))[:, None]).T @ design
        if not np.isfinite(np.linalg.cond(information)) or np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, design.T @ (outcome - expected))
        # Go back half-way from a step that would overshoot far beyond any slope worth reporting.
        beta += np.clip(step, -5, 5)
        if np.abs(beta).max() > MAX_SLOPE:
            return None
        if np.abs(step).max() < 1e-10:
            break
    else:
        return None
    value = float(beta[0])
    few = [_n_groups(groups[side]) for side in (is_positive, ~is_positive)]
    if min(few) < min_groups:
        return Estimate(
            value=value,
            stated=f"{plural(few[0], 'group')} with a positive and {few[1]} with a negative, needed {min_groups}",
        )
    weight = expected * (1 - expected)
    bread = np.linalg.inv(information)
    direction = design @ bread[0]
    residual = outcome - expected
    influence = _leverage_corrected(design, weight, residual, bread, groups)
    by_model = satterthwaite(direction * residual, groups, loadings=direction * np.sqrt(weight))
    if by_model < min_degrees:
        return Estimate(value=value, stated="nearly all of its variance comes from one group")
    degrees = degrees_of_freedom([by_model, tail_degrees(influence)], _n_groups(groups))
    half = float(student.isf((1 - LEVEL) / 2, degrees)) * math.sqrt(float(influence @ influence))
    return Estimate(value=value, stated=Interval(low=value - half, high=value + half, method=WALD))


def _n_groups(groups: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(groups)))


def _leverage_corrected(
    design: np.ndarray, weight: np.ndarray, residual: np.ndarray, bread: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """(G,) each group's contribution to the first coefficient, by CR2: its residuals times (1 - its leverage)^(-1/2).

    With M the bread and K the information of a group, X' (I - X M X')^(-1/2) e = (I - K M)^(-1/2) X' e: a matrix whose
    size is the number of coefficients, however many images a group has.
    """
    n_groups, columns = int(groups.max()) + 1, range(design.shape[1])
    gradient = np.column_stack([np.bincount(groups, column * residual, n_groups) for column in design.T])
    information = np.empty((n_groups, len(columns), len(columns)))
    for i in columns:
        for j in columns:
            information[:, i, j] = np.bincount(groups, design[:, i] * design[:, j] * weight, n_groups)
    values, vectors = np.linalg.eigh(bread)
    root = (vectors * np.sqrt(values)) @ vectors.T
    leverage, axes = np.linalg.eigh(root @ information @ root)
    scaled = np.einsum("gij,gi->gj", axes, gradient @ root) / np.sqrt(1 - np.clip(leverage, 0.0, 0.99))
    return np.asarray(np.einsum("gij,gj->gi", axes, scaled) @ root[0])


def expected_calibration_error(outcome: np.ndarray, scores: np.ndarray) -> float:
    """Mean over images of |mean score - share of hits| in their bin of equal width; `outcome` (n,) 0 or 1."""
    return float(_error_of_sums(_equal_width_sums(outcome, scores, N_BINS))[0])


def _equal_width_sums(outcome: np.ndarray, scores: np.ndarray, n_bins: int) -> np.ndarray:
    bins = equal_width_bins(scores, n_bins)
    columns = [np.bincount(bins, value, n_bins) for value in (np.ones_like(scores), scores, outcome)]
    return np.stack(columns)[:, :, None]


def _error_of_sums(sums: np.ndarray) -> np.ndarray:
    """Count, score and outcome (3, bins, r) -> (r,)."""
    n_images, score, outcome = sums
    return np.abs(score - outcome).sum(axis=0) / n_images.sum(axis=0)


def equal_width_bins(scores: np.ndarray, n_bins: int) -> np.ndarray:
    return np.minimum((scores * n_bins).astype(np.intp), n_bins - 1)


def equal_count_edges(scores: np.ndarray) -> np.ndarray:
    """Rising scores above which each bin but the first begins: `N_BINS` with equal numbers of images, fewer if tied."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, N_BINS + 1)[1:-1]))
    # A score at an edge is in the bin below it.
    return np.asarray(np.nextafter(edges, np.inf))


def calibration_curve(
    is_positive: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    resampling: Resampling,
    called: np.ndarray | None = None,
) -> CalibrationCurve:
    """Ten bins with equal numbers of images: mean score, observed share with its interval, number of images.

    `called`: `called_part` at `equal_count_edges`, if it has been drawn already.
    """
    edges, n_groups = equal_count_edges(scores), int(groups.max()) + 1
    bins = np.searchsorted(edges, scores, side="right")
    n_images = np.bincount(bins, minlength=len(edges) + 1)
    is_used = n_images > 0  # tied scores can leave a bin without an image
    if called is None:
        part = called_part(is_positive, scores, groups, edges)
        called = resample({"called": part}, n_groups, resampling)["called"]
    misses, hits = called - np.pad(called[:, 1:], ((0, 0), (0, 1), (0, 0)))
    with np.errstate(invalid="ignore"):
        shares = (hits / (hits + misses))[is_used]
    tail = (1 - resampling.level) / 2
    low, high = np.nanquantile(shares, [tail, 1 - tail], axis=1)
    score, outcome = (
        np.bincount(bins, value, len(edges) + 1)[is_used] / n_images[is_used]
        for value in (scores, is_positive)
    )
    return CalibrationCurve(
        mean_score=score.tolist(),
        observed_share=outcome.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        n_images=n_images[is_used].tolist(),
    )


def net_benefit_curve(
    is_positive: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    resampling: Resampling,
    thresholds: np.ndarray = NET_BENEFIT_THRESHOLDS,
    called: np.ndarray | None = None,
) -> NetBenefitCurve:
    """Net benefit = TP / n - FP / n x t / (1 - t), at each threshold t (0 < t < 1), with treat-all and treat-none.

    The range is one where the harm of a missed cancer is 1 to 99 times that of a needless excision. `called`:
    `called_part` at the thresholds, if it has been drawn already.
    """
    odds = (thresholds / (1 - thresholds))[:, None]

    def benefit(called: np.ndarray) -> np.ndarray:
        false, true = called
        return np.asarray((true[1:] - odds * false[1:]) / (true[0] + false[0]))

    part, n_groups = called_part(is_positive, scores, groups, thresholds), int(groups.max()) + 1
    if called is None:
        called = resample({"called": part}, n_groups, resampling)["called"]
    model = benefit(part.measure(np.ones((n_groups, 1), dtype=np.uint16)))[:, 0]
    tail = (1 - resampling.level) / 2
    low, high = np.quantile(benefit(called), [tail, 1 - tail], axis=1)
    prevalence = float(is_positive.mean())
    return NetBenefitCurve(
        threshold=thresholds.tolist(),
        model=model.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        treat_all=(prevalence - (1 - prevalence) * odds[:, 0]).tolist(),
        treat_none=np.zeros(len(thresholds)).tolist(),
    )
