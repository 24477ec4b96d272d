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
from lesion_tasks.metrics.counted import plural

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
        """(n,) scores -> (n,) bool; what is not a number is strange too."""
        return np.asarray(~(scores <= 1))


def require_enough(groups: np.ndarray) -> None:
    """Raise `NoNoveltyError` if there are too few groups for `NOVELTY_RATE`."""
    n_groups = len(np.unique(groups))
    if n_groups < (needed := max(least_groups(1 - NOVELTY_RATE), N_FOLDS)):
        raise NoNoveltyError(
            f"it would rest on {plural(n_groups, 'group')} of val, and a rate of {NOVELTY_RATE:g} needs {needed}"
        )


def fit_novelty(features: Sequence[np.ndarray], groups: np.ndarray) -> Novelty:
    """Fit on the features of val, (n, C) for each depth, and the group (n,) of each picture.

    Raises `NoNoveltyError` if there are too few groups for the rate, features that are not numbers, or no distance to
    measure by.
    """
    require_enough(groups)
    if n_unfit := int(np.any([~np.isfinite(some).all(axis=1) for some in features], axis=0).sum()):
        raise NoNoveltyError(
            f"what the model sees of {n_unfit:,} of {len(groups):,} pictures of val is not a finite number"
        )
    names, number = np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(_SEED).permutation(len(names)) % N_FOLDS)[number]
    units, left_out = [], []
    for some in features:
        distances = np.empty(len(some))
        for one in range(N_FOLDS):
            distances[fold == one] = _Spread(some[fold != one]).distances(some[fold == one])
        # The greatest of n distances is within reach of the next picture; a unit must not be infinite.
        unit = group_quantile(distances, groups, 1 - NOVELTY_RATE)
        units.append(unit if math.isfinite(unit) and unit > 0 else max(float(distances.max()), 1e-9))
        left_out.append(distances / units[-1])
    threshold = group_quantile(np.max(left_out, axis=0), groups, 1 - NOVELTY_RATE)
    if not math.isfinite(threshold) or threshold <= 0:
        raise NoNoveltyError("all pictures of val look alike to the model")
    return Novelty(
        rate=NOVELTY_RATE,
        depths=tuple(
            _Spread(some).depth(unit * threshold) for some, unit in zip(features, units, strict=True)
        ),
    )


class _Spread:
    """How features (n, C) scatter around their mean, by a Ledoit-Wolf covariance of the scaled channels."""

    def __init__(self, features: np.ndarray) -> None:
        values = features.astype(np.float64)
        self.mean, spread = values.mean(axis=0), values.std(axis=0)
        # A channel that is silent on val says something when it speaks, but is not a measure of its own.
        loudest = float(spread.max(initial=0.0)) or 1.0
        self.scale = np.where(spread > 1e-6 * loudest, spread, loudest)
        covariance = ledoit_wolf_of((values - self.mean) / self.scale)
        self.lower = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance)))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """(n, C) -> (n,): what `depth(1.0).distances` gives, without inverting anything."""
        from scipy.linalg import solve_triangular

        scaled = ((features - self.mean) / self.scale).T
        return np.asarray(np.linalg.norm(solve_triangular(self.lower, scaled, lower=True), axis=0))

    def depth(self, unit: float) -> Depth:
        """What is stored of it."""
        from scipy.linalg import solve_triangular

        inverse = solve_triangular(self.lower, np.eye(len(self.lower)), lower=True)
        whitening = inverse.T / self.scale[:, None]
        return Depth(mean=self.mean.astype(np.float32), whitening=whitening.astype(np.float32), unit=unit)


def ledoit_wolf_of(centred: np.ndarray) -> np.ndarray:
    """The shrunk covariance (C, C) of values (n, C) with mean 0 (Ledoit & Wolf, doi:10.1016/S0047-259X(03)00096-4).

    As scikit-learn's `ledoit_wolf`, whose sums of squares take two further products of the same size: of the fourth
    powers only the squared lengths of the rows are needed.
    """
    n, width = centred.shape
    covariance = centred.T @ centred / n
    scatter = float((covariance**2).sum())
    noise = float((np.einsum("ij,ij->i", centred, centred) ** 2).sum()) / n
    level = float(np.trace(covariance)) / width
    farness = scatter - width * level**2
    shrinkage = min((noise - scatter) / n, farness) / farness if farness > 0 else 0.0
    covariance *= 1 - shrinkage
    covariance.flat[:: width + 1] += shrinkage * level
    return np.asarray(covariance)
