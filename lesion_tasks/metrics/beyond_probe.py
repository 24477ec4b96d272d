"""A model and a probe -> whether the model knows something about the labels that the probe's facts do not explain.

The generalised covariance measure (Shah & Peters 2020, doi:10.1214/19-AOS1857): regress the model's ranks on the facts
and the labels on the facts, and test whether the residuals of both are still correlated. Each regression may be rough:
the error is the product of both errors. Comparing within strata of a probe's score is not enough: a model that uses a
continuous fact, such as a vignette, knows more about it than the stratum shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logit
from scipy.stats import rankdata
from scipy.stats import t as student
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression

from lesion_tasks.metrics.probes import Probe, fit_trees, one_thread
from lesion_tasks.metrics.scored import Scored

N_FOLDS = 5
MIN_LEAF_IMAGES = 10
LEVEL = 0.95
_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """`value`: the AUC at equal facts: 0.5 if the model knows nothing beyond them, its own AUC if they say nothing.

    More precisely one half plus the mean difference of rank, 0 to 1, between images of a class and others with the
    same facts, each weighted by how open the facts leave its label. `open_share`: the share of the labels' variance
    that the facts do not explain. `explained_share`: the share of the variance of the model's ranks that they explain.
    """

    value: float
    low: float
    high: float
    open_share: float
    explained_share: float


def beyond(model: Scored, probe: Probe) -> Beyond | None:
    """Measure it on the images of both, by group; None if the facts leave no label open."""
    fold = _folds(model.groups)
    covariance = np.zeros(model.n_images)
    open_variance = np.zeros(model.n_images)
    variance, rank_variance, rank_left = 0.0, 0.0, 0.0
    for index in range(1 if model.is_binary else len(model.class_names)):
        if model.is_binary:
            label, score, told = model.is_positive, model.scores, probe.scored.scores
        else:
            label = model.labels == index
            score, told = model.probabilities[:, index], probe.scored.probabilities[:, index]
        rank = rankdata(score) / model.n_images
        label_left = label - _calibrated(told, label)
        left = rank - _from_facts(probe.seen, rank, fold)
        covariance += left * label_left
        open_variance += label_left**2
        variance += float(np.var(label))
        rank_variance += float(np.var(rank))
        rank_left += float(np.mean(left**2))
    total = float(open_variance.sum())
    if total <= 0 or variance == 0 or rank_variance == 0:
        return None
    slope = float(covariance.sum()) / total
    by_group = np.bincount(model.groups, covariance - slope * open_variance) / total
    half = _quantile(by_group) * math.sqrt(float(by_group @ by_group))
    return Beyond(
        value=0.5 + slope,
        low=0.5 + slope - half,
        high=0.5 + slope + half,
        open_share=total / model.n_images / variance,
        explained_share=1 - rank_left / rank_variance,
    )


def _quantile(by_group: np.ndarray) -> float:
    """Student's quantile; the degrees of freedom are the effective number of groups in the variance."""
    squares = by_group**2
    n_even = float(squares.sum() ** 2 / (squares**2).sum()) if squares.any() else 1.0
    return float(student.isf((1 - LEVEL) / 2, max(n_even - 1, 1)))


def _folds(groups: np.ndarray) -> np.ndarray:
    """(n,) fold of each image; a group stays in one."""
    return np.random.default_rng(7).permutation(int(groups.max()) + 1)[groups] % N_FOLDS


def _calibrated(told: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(n,) P(label) from the probe's score: train may have a different share of the class (Platt 1999)."""
    evidence = logit(np.clip(told, _EPSILON, 1 - _EPSILON))[:, None]
    fitted = LogisticRegression(C=1e6, max_iter=200).fit(evidence, label)
    return np.asarray(fitted.predict_proba(evidence)[:, 1])


@one_thread
def _from_facts(seen: np.ndarray, rank: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(n,) rank expected from the facts, learned from the other folds."""
    expected = np.full(len(rank), rank.mean())
    for one in np.unique(fold):
        here = fold == one
        if (~here).sum() < 2 * MIN_LEAF_IMAGES:
            continue
        trees = fit_trees(
            HistGradientBoostingRegressor, seen[~here], rank[~here], min_leaf_images=MIN_LEAF_IMAGES
        )
        expected[here] = trees.predict(seen[here])
    return expected
