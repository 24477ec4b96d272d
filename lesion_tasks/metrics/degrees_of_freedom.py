"""Deviations of images that come in groups -> the degrees of freedom of their variance, and the dominant groups.

A variance estimated from few or unequal groups is itself uncertain, and groups - 1 degrees of freedom count a patient
with three pictures as much as one with three hundred. Satterthwaite 1946 (doi:10.2307/3002019) derives the degrees from
how the variance is distributed over groups, Bell & McCaffrey 2002 (Survey Methodology 28(2), 169-181) from a working
model of it, and Imbens & Kolesar 2016 (doi:10.1162/REST_a_00552) let images of a group be correlated in that model, as
much as is estimated from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

# A group that dominates an estimate's error dominates its standard error too, so below this the approximation makes
# intervals too wide: coverage was 98 to 100 % with one group of 30 % of the images (benchmarks/simulate_evaluation.py).
MIN_DEGREES = 6.0
# The correlation of images within groups is shrunk towards a half with the weight of two large groups: one or two
# groups of many images say little about it.
PRIOR_LIKENESS = 0.5
PRIOR_N_GROUPS = 2
# A group of very many images says no more about the correlation than 1 / LIKENESS_NOISE pairs of images.
LIKENESS_NOISE = 0.09
# A group with more than this of a class's images is named: without it, a fifth of the evidence is gone.
DOMINANT_SHARE = 0.20


def effective_groups(sizes: np.ndarray) -> float:
    """The effective number of groups of `sizes`, as if of equal size (Kish 1965): (sum)^2 / sum of squares."""
    squares = float(np.square(sizes, dtype=np.float64).sum())
    return float(sizes.sum()) ** 2 / squares if squares else 0.0


def effective_groups_of(mask: np.ndarray, groups: np.ndarray) -> float:
    """`effective_groups` of the images in `mask` (n,) bool, with `groups` (n,) int from 0."""
    return effective_groups(np.bincount(groups[mask])) if mask.any() else 0.0


def satterthwaite(
    deviations: np.ndarray,
    groups: np.ndarray,
    strata: np.ndarray | None = None,
    loadings: np.ndarray | None = None,
) -> float:
    """Degrees of freedom of the sum over groups of (sum of `deviations` (n,))^2, with `groups` (n,) int from 0.

    Working model: deviation = loading x error. Errors have variance 1 and one correlation within a group and a
    stratum, another within a group between strata; both are estimated, each group weighted by the information in its
    pairs. `strata` (n,) int: the class of each image. `loadings` (n,): by default the spread of the stratum. With L_g
    the variance of group g's sum, the degrees are (sum L)^2 / sum L^2; infinite if nothing deviates.
    """
    if strata is None:
        strata = np.zeros(len(deviations), dtype=np.intp)
    n_strata, n_groups = int(strata.max()) + 1, int(groups.max()) + 1
    if loadings is None:
        n_images = np.maximum(np.bincount(strata, minlength=n_strata), 1)
        loadings = np.sqrt(np.bincount(strata, deviations**2, n_strata) / n_images)[strata]
    is_varying = loadings != 0
    if not is_varying.any():
        return np.inf
    cell = (groups * n_strata + strata)[is_varying]
    loading = loadings[is_varying]
    error = deviations[is_varying] / loading

    def sums(values: np.ndarray | None) -> np.ndarray:
        return np.bincount(cell, values, n_groups * n_strata).reshape(n_groups, n_strata)

    count, total, square = sums(None).astype(np.float64), sums(error), sums(error**2)
    within = np.clip(
        _likeness(count * (count - 1), total**2 - square, PRIOR_N_GROUPS / LIKENESS_NOISE), 0.0, 1.0
    )
    between = np.clip(_likeness(_off_diagonal(count), _off_diagonal(total), 0.0), -within, within)
    load, load_square = sums(loading), sums(loading**2)
    variance = (load_square + within * (load**2 - load_square)).sum(axis=1) + between * _off_diagonal(load)
    variance = np.maximum(variance, 0.0)
    squares = float(variance @ variance)
    return float(variance.sum()) ** 2 / squares if squares else np.inf


def _off_diagonal(cells: np.ndarray) -> np.ndarray:
    """(G,) sum of products of different columns of (G, K)."""
    return np.asarray(cells.sum(axis=1) ** 2 - (cells**2).sum(axis=1))


def _likeness(n_pairs: np.ndarray, products: np.ndarray, prior_weight: float) -> float:
    """Mean product of a pair of errors, over groups weighted by the inverse variance of each group's mean."""
    has_pairs = n_pairs > 0
    mean = products[has_pairs] / n_pairs[has_pairs]
    weight = 1 / (1 / n_pairs[has_pairs] + LIKENESS_NOISE)
    total = float(weight.sum()) + prior_weight
    return (float(weight @ mean) + prior_weight * PRIOR_LIKENESS) / total if total else 0.0


def tail_degrees(influence: np.ndarray) -> float:
    """Degrees of freedom of the sum of squares of `influence` (G,) from its fourth moment, 2 V^2 / Var(V).

    Placement values near a perfect ranking are nearly all zero: a few groups then make up the variance, whatever
    their size. Infinite if nothing varies.
    """
    square = influence[influence != 0] ** 2
    if not len(square):
        return np.inf
    total = float(square.sum())
    spread = float(square @ square) - total**2 / len(square)
    return 2 * total**2 / spread if spread > 0 else np.inf


def degrees_of_freedom(found: Sequence[float], n_groups: int, floor: float = MIN_DEGREES) -> float:
    """The smallest of the degrees `found`, at least `floor`, at most `n_groups` - 1 and never under 1."""
    return max(min(max(min(found), floor), n_groups - 1), 1.0)


def dominant_groups(
    labels: np.ndarray, group_ids: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Groups with more than `DOMINANT_SHARE` of the images of a class, largest share first.

    `labels` (n,) index into `class_names`, `group_ids` (n,) str. Each has class_name, group_id, share (0 to 1) and
    n_images. A class of a handful of images is dominated by any of its groups; the number of images shows this.
    """
    found = []
    groups, ids = pd.factorize(group_ids)
    for index, name in enumerate(class_names):
        counts = np.bincount(groups[labels == index])
        for group in np.flatnonzero(counts > max(1.0, DOMINANT_SHARE * counts.sum())):
            found.append(
                {
                    "class_name": name,
                    "group_id": str(ids[group]),
                    "share": float(counts[group] / counts.sum()),
                    "n_images": int(counts[group]),
                }
            )
    of_class = {name: index for index, name in enumerate(class_names)}
    return sorted(found, key=lambda one: (-one["share"], of_class[one["class_name"]], one["group_id"]))
