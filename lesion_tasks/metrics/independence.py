"""A `Scored` -> how often randomly permuted labels reach its AUC: a permutation test by group.

Pesarin & Salmaso 2010, doi:10.1002/9780470689516. An interval estimates the AUC and needs a variance, which a few
positive groups hardly have; the test asks only whether chance explains it, and is exact with a single positive lesion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from lesion_tasks.metrics.scored import Scored

N_PERMUTATIONS = 999
LEVEL = 0.05
# A model below this AUC is useless; one at this AUC must not be called independent more than once in a hundred.
WORTHWHILE_AUC = 0.75
MAX_MISSED = 0.01
# Entries of one chunk of permutations, 8 bytes each.
CHUNK_ENTRIES = 2**21


SEED = 7


@dataclass(frozen=True, kw_only=True)
class Independence:
    """`p_value` is two-sided. `error` is the standard deviation of the AUC under randomly permuted labels."""

    p_value: float
    error: float
    n_permutations: int

    @property
    def is_rejected(self) -> bool:
        return self.p_value <= LEVEL

    @property
    def could_tell(self) -> bool:
        """Whether a worthwhile model would nearly always have been distinguished from chance."""
        return self.times_needed <= 1

    @property
    def times_needed(self) -> float:
        """How many times as many images of the same kind would be enough: the variance falls with their number."""
        reach = float(norm.isf(LEVEL / 2) + norm.isf(MAX_MISSED)) * self.error
        return (reach / (WORTHWHILE_AUC - 0.5)) ** 2


def independence(scored: Scored) -> Independence | None:
    """Test whether scores are independent of labels; None if a class has no image.

    Images of a group resemble each other, so whole groups are permuted: each takes the class shares of another group.
    If a group holds several classes, its labels are also permuted among its own images. The deviation of an AUC from
    one half is the sum of both parts. With several classes the statistic is the mean over classes of the AUC against
    the rest, weighted by the number of pairs that each compares, so that one of five classes with a single lesion does
    not count for a fifth.
    """
    if scored.n_images == 0 or min(scored.class_counts.values()) == 0:
        return None
    if scored.is_binary:
        sides = [_Side.of(scored.is_positive, scored.scores, scored.groups)]
    else:
        sides = [
            _Side.of(scored.labels == index, column, scored.groups)
            for index, column in enumerate(scored.probabilities.T)
        ]
    auc = float(np.average([side.auc for side in sides], weights=[side.n_pairs for side in sides]))
    dealt = _dealt_aucs(sides, scored.labels, scored.groups, N_PERMUTATIONS, SEED)
    # The tolerance also counts permutations with the same AUC that differ only in the order of summation.
    n_as_far = int((np.abs(dealt - 0.5) >= abs(auc - 0.5) - 1e-12).sum())
    return Independence(
        p_value=(1 + n_as_far) / (1 + N_PERMUTATIONS),
        error=float(np.sqrt(np.mean((dealt - 0.5) ** 2))),
        n_permutations=N_PERMUTATIONS,
    )


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One class against the rest, by group and by image; `rank` has mean 0, `excess` is the label minus the share."""

    share: np.ndarray  # (G,)
    rank_sum: np.ndarray  # (G,)
    rank: np.ndarray  # (n,)
    excess: np.ndarray  # (n,)
    auc: float
    n_pairs: float  # of one image of the class and one of the rest

    @classmethod
    def of(cls, is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> _Side:
        rank = rankdata(scores) - (len(scores) + 1) / 2
        share = np.bincount(groups, is_positive) / np.bincount(groups)
        n_pairs = float(is_positive.sum()) * float((~is_positive).sum())
        return cls(
            auc=0.5 + float(rank[is_positive].sum()) / n_pairs,
            n_pairs=n_pairs,
            share=share,
            rank_sum=np.bincount(groups, rank),
            rank=rank,
            excess=is_positive - share[groups],
        )


def _dealt_aucs(
    sides: Sequence[_Side], labels: np.ndarray, groups: np.ndarray, n_permutations: int, seed: int
) -> np.ndarray:
    """(n_permutations,) mean AUC of the sides with randomly permuted labels."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups).astype(np.float64)
    mixed = _images_of_mixed_groups(labels, groups)
    chunk = max(CHUNK_ENTRIES // max(len(sizes), len(mixed)), 1)
    parts = []
    for start in range(0, n_permutations, chunk):
        n = min(chunk, n_permutations - start)
        places = rng.permuted(np.tile(np.arange(len(sizes)), (n, 1)), axis=1)
        # Sorting by group plus a random fraction shuffles the images within each group.
        order = np.argsort(groups[mixed] + rng.random((n, len(mixed))), axis=1)
        aucs = np.zeros(n)
        for side in sides:
            share = side.share[places]
            n_positives = share @ sizes
            deviation = share @ side.rank_sum + side.excess[mixed][order] @ side.rank[mixed]
            aucs += side.n_pairs * (0.5 + deviation / (n_positives * (len(groups) - n_positives)))
        parts.append(aucs / sum(side.n_pairs for side in sides))
    return np.concatenate(parts)


def _images_of_mixed_groups(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows of the groups that hold several classes, by group."""
    order = np.argsort(groups, kind="stable")
    first = labels[order][np.searchsorted(groups[order], np.arange(groups.max() + 1))]
    is_mixed = np.zeros(len(first), dtype=bool)
    is_mixed[groups[labels != first[groups]]] = True
    return order[is_mixed[groups[order]]]
