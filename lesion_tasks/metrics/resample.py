"""Groups -> bootstrap resamples of whole groups, as weights; a measure on all of them at once.

Images of one patient or lesion resemble each other, so the unit that is drawn with replacement is the group
(Field & Welsh 2007). A resample is never copied out: each group has the number of times it was drawn, and
each measure is computed from weighted counts. Thus 2,000 resamples of 50,000 predictions cost about as much as a few
hundred AUCs.

The same groups, seed and number of resamples give the same draws, whatever the chunk size: two models on the
same images are compared draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import norm
from scipy.stats import t as student

from lesion_tasks.metrics.figure import Interval, Stated

N_RESAMPLES = 2_000
SEED = 20_260
# Size of one table for a chunk of resamples: fits a core's own cache, unless rows would become too short.
CHUNK_BYTES = 2 * 2**20
MIN_CHUNK = 8


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How often and from which seed groups are drawn."""

    n_resamples: int = N_RESAMPLES
    seed: int = SEED
    level: float = 0.95

    def weights(self, n_groups: int, n_rows: int = 0) -> Iterator[np.ndarray]:
        """Yield (n_groups, r) float64 chunks: how often each group is in each of r resamples.

        `n_rows` is the number of rows of the largest table that the caller makes per resample.
        """
        raw = np.random.SFC64(self.seed).random_raw
        chunk = min(self.n_resamples, max(MIN_CHUNK, CHUNK_BYTES // (8 * max(n_groups, n_rows, 1))))
        for start in range(0, self.n_resamples, chunk):
            size = min(chunk, self.n_resamples - start)
            counts = np.empty((size, n_groups), dtype=np.float64)
            for row in range(size):
                # A 32-bit number times n_groups, shifted right by 32 bits: uniform to within n_groups / 2^32.
                bits = raw(-(-n_groups // 2)).view(np.uint32)[:n_groups]
                drawn = (bits * np.uint64(n_groups)) >> np.uint64(32)
                counts[row] = np.bincount(drawn.view(np.int64), minlength=n_groups)
            yield np.ascontiguousarray(counts.T)

    def stated(self, values: np.ndarray, degrees: float = np.inf) -> Stated:
        """Percentile interval of the resampled `values` (n_resamples,), or why there is none.

        Undefined values (NaN) are left out; if there are more than one in twenty, the others are no longer a
        sample. With few `degrees` of freedom the tails are moved out to where Student's t would have them, because a
        resample varies too little by (n - 1) / n (Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 5.3).
        """
        defined = values[np.isfinite(values)]
        if len(defined) < 0.95 * len(values):
            return "undefined in more than one resample in twenty"
        tail = (1 - self.level) / 2
        if np.isfinite(degrees):
            tail = float(norm.sf(np.sqrt((degrees + 1) / degrees) * student.isf(tail, degrees)))
        low, high = np.quantile(defined, [tail, 1 - tail])
        if low == high:
            return "every resample has the same value"
        return Interval(low=float(low), high=float(high), method="bootstrap by group, percentile")

    def interval(self, values: np.ndarray, degrees: float = np.inf) -> Interval | None:
        """The interval of `stated`, or None."""
        found = self.stated(values, degrees)
        return found if isinstance(found, Interval) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedBins:
    """Images in bins of falling score, as matrices that turn group weights into class weights per bin.

    `positives` and `negatives` are (B, G) sparse: images of the class of a group in a bin. Neighbouring scores
    that only negatives have form one bin: the steps of the ROC curve and of the precision-recall curve, and
    every measure read from them, stay exactly the same, and a rare class makes B small.
    """

    positives: csr_array
    negatives: csr_array

    @property
    def n_bins(self) -> int:
        return self.positives.shape[0]


def rank(is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> RankedBins:
    """Sort (n,) scores once for all resamples."""
    n_groups = int(groups.max()) + 1
    distinct, bins = np.unique(-scores, return_inverse=True)
    has_positive = np.bincount(bins[is_positive], minlength=len(distinct)) > 0
    # A bin starts at a score with positives, or at the first of a run of scores without.
    starts = has_positive.copy()
    starts[1:] |= has_positive[:-1]
    starts[:1] = True
    bins = (np.cumsum(starts) - 1)[bins]
    shape = (int(starts.sum()), n_groups)

    def matrix(mask: np.ndarray) -> csr_array:
        return csr_array((np.ones(int(mask.sum())), (bins[mask], groups[mask])), shape=shape)

    return RankedBins(positives=matrix(is_positive), negatives=matrix(~is_positive))


def resampled_auc(
    is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray, resampling: Resampling
) -> np.ndarray:
    """(n_resamples,) AUC of every resample; NaN where a resample lacks a class.

    One row per distinct score of a positive, falling: its positives, and the negatives from there down to the
    next. AUC = (sum over rows of positives so far x negatives, minus half of the tied pairs) / all pairs.
    """
    if is_positive.all() or not is_positive.any():
        return np.full(resampling.n_resamples, np.nan)
    n_groups = int(groups.max()) + 1
    falling = -scores
    steps = np.unique(falling[is_positive])
    row = np.searchsorted(steps, falling, side="right") - 1  # -1: above every positive
    is_tied = ~is_positive & (row >= 0) & (steps[row] == falling)

    def matrix(mask: np.ndarray) -> csr_array:
        shape = (len(steps), n_groups)
        return csr_array((np.ones(int(mask.sum())), (row[mask], groups[mask])), shape=shape)

    positives, negatives = matrix(is_positive), matrix(~is_positive & (row >= 0))
    tied_rows = np.unique(row[is_tied])
    tied = matrix(is_tied)[tied_rows]
    n_negatives_of_group = np.bincount(groups[~is_positive], minlength=n_groups).astype(np.float64)
    chunks = []
    for weights in resampling.weights(n_groups, len(steps)):
        weight = positives @ weights
        above = cumulate(weight)
        pairs = np.einsum("br,br->r", above, negatives @ weights)
        pairs -= 0.5 * np.einsum("br,br->r", weight[tied_rows], tied @ weights)
        n_pairs = above[-1] * (n_negatives_of_group @ weights)
        with np.errstate(invalid="ignore"):
            chunks.append(pairs / n_pairs)
    return np.concatenate(chunks)


def resampled(
    is_positive: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    resampling: Resampling,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Run `measure` on every resample.

    `measure` takes the weights of positives and of negatives by bin of falling score, both (B, r), and returns
    (..., r). The result has all resamples in its last axis.
    """
    ranked = rank(is_positive, scores, groups)
    chunks = []
    for weights in resampling.weights(ranked.positives.shape[1], ranked.n_bins):
        chunks.append(measure(ranked.positives @ weights, ranked.negatives @ weights))
    return np.concatenate(chunks, axis=-1)


def auc_of(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """(r,) AUC from class weights (B, r) by bin; NaN where a class is missing."""
    above = cumulate(positives)
    above -= 0.5 * positives  # images in the same bin have the same score: ties count half
    with np.errstate(invalid="ignore"):
        return np.einsum("br,br->r", above, negatives) / (positives.sum(axis=0) * negatives.sum(axis=0))


def cumulate(counts: np.ndarray, block: int = 128) -> np.ndarray:
    """Cumulative sums down the columns of (B, r).

    The same as NumPy's cumsum, which takes three times as long down columns: here whole rows are added, in blocks.
    """
    n_bins, width = counts.shape
    n_blocks = -(-n_bins // block)
    sums = np.zeros((n_blocks, block, width))
    sums.reshape(-1, width)[:n_bins] = counts
    for row in range(1, block):
        sums[:, row] += sums[:, row - 1]
    sums[1:] += np.cumsum(sums[:-1, -1], axis=0)[:, None]
    return sums.reshape(-1, width)[:n_bins]
