"""A model's features of val -> how far a picture lies from everything that the model was judged on.

At each depth of the model the distance is Mahalanobis's, with the covariance of Ledoit & Wolf 2004
(doi:10.1016/S0047-259X(03)00096-4); a picture is as strange as at the depth where it is strangest, after Lee et al.
2018 (arXiv:1807.03888), but without a mean for each class and without strange pictures to learn from. Distances that
the threshold rests on are of pictures whose group was left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesion_tasks.metrics.conformal import group_quantile, least_groups

# Of honest pictures, this share is called strange.
NOVELTY_RATE = 0.02
N_FOLDS = 5
_SEED = 7


class NoNoveltyError(ValueError):
    """No picture can be called strange; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Depth:
    """Where val lies at one depth: `mean` (C,), `whitening` (C, C), and the distance `unit` that few of it pass."""

    mean: np.ndarray
    whitening: np.ndarray
    unit: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """(n, C) -> (n,) in units."""
        return np.asarray(np.linalg.norm((features - self.mean) @ self.whitening, axis=1) / self.unit)


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """`rate`: the share of honest pictures above a score of 1."""

    rate: float
    depths: tuple[Depth, ...]

    def scores(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """The features of n pictures at each depth, (n, C) each -> (n,); above 1 is out of distribution."""
        return np.max(
            [depth.distances(some) for depth, some in zip(self.depths, features, strict=True)], axis=0
        )

    @staticmethod
    def is_strange(scores: np.ndarray) -> np.ndarray:
        """(n,) scores -> (n,) bool; what is no number is strange too."""
        return np.asarray(~(scores <= 1))


def require_enough(groups: np.ndarray, rate: float = NOVELTY_RATE) -> None:
    """Raise `NoNoveltyError` if there are too few groups for a rate."""
    n_groups = len(np.unique(groups))
    if n_groups < (needed := max(least_groups(1 - rate), N_FOLDS)):
        raise NoNoveltyError(
            f"it would rest on {n_groups:,} groups of val, and a rate of {rate:g} needs {needed}"
        )


def fit_novelty(features: Sequence[np.ndarray], groups: np.ndarray, rate: float = NOVELTY_RATE) -> Novelty:
    """Fit on the features of val, (n, C) for each depth, and the group (n,) of each picture.

    Raises `NoNoveltyError` if there are too few groups for the rate, or no distance to measure by.
    """
    require_enough(groups, rate)
    names, number = np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(_SEED).permutation(len(names)) % N_FOLDS)[number]
    units, left_out = [], []
    for some in features:
        distances = np.empty(len(some))
        for one in range(N_FOLDS):
            distances[fold == one] = _fit(some[fold != one]).distances(some[fold == one])
        # The greatest of n distances is within reach of the next picture; a unit must not be infinite.
        unit = group_quantile(distances, groups, 1 - rate)
        units.append(unit if math.isfinite(unit) and unit > 0 else max(float(distances.max()), 1e-9))
        left_out.append(distances / units[-1])
    threshold = group_quantile(np.max(left_out, axis=0), groups, 1 - rate)
    if not math.isfinite(threshold) or threshold <= 0:
        raise NoNoveltyError("all pictures of val look alike to the model")
    return Novelty(
        rate=rate,
        depths=tuple(_fit(some, unit * threshold) for some, unit in zip(features, units, strict=True)),
    )


def _fit(features: np.ndarray, unit: float = 1.0) -> Depth:
    from scipy.linalg import solve_triangular
    from sklearn.covariance import ledoit_wolf

    values = features.astype(np.float64)
    mean, spread = values.mean(axis=0), values.std(axis=0)
    # A channel that is silent on val says something when it speaks, but is no measure of its own.
    loudest = float(spread.max(initial=0.0)) or 1.0
    scale = np.where(spread > 1e-6 * loudest, spread, loudest)
    covariance, _ = ledoit_wolf((values - mean) / scale, assume_centered=True)
    width = len(covariance)
    lower = np.linalg.cholesky(covariance + 1e-9 * np.eye(width))
    whitening = solve_triangular(lower, np.eye(width), lower=True).T / scale[:, None]
    return Depth(mean=mean.astype(np.float32), whitening=whitening.astype(np.float32), unit=unit)
