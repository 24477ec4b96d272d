"""Groups -> bootstrap resamples of whole groups, as counts; measures on all of them at once.

Images of one patient or lesion resemble each other, so the unit that is drawn with replacement is the group
(Field & Welsh 2007). A resample is never copied out: each group has the number of times it was drawn, and
each measure is computed from counts. Thus 2,000 resamples of 50,000 predictions cost about as much as fifteen AUCs.

The same groups, seed and number of resamples give the same draws, whatever the chunk size: two models on the
same images are compared draw by draw. Drawing is much of the work, so measures of the same groups share their draws
(`resample`). Counts are whole numbers, multiplied and added as such, in the narrowest type that holds them: exactly,
and many at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import norm
from scipy.stats import t as student

from lesion_tasks.metrics.figure import Interval, Stated

N_RESAMPLES = 2_000
SEED = 20_260
# Resamples are worked on in chunks: their tables of 16-bit counts have about this size, unless rows become shorter than
# a line of the cache, or so long that the running sums no longer fit into it.
CHUNK_BYTES = 4 * 2**20
MIN_CHUNK, MAX_CHUNK = 32, 512
# A row of this many blocks stays in the cache while it is added to the next.
MAX_BLOCKS = 512
# Groups whose counts are made into float64 at once: more would leave the cache.
N_WEIGHED = 2_048
# Groups that are drawn at once: few groups are drawn for many resamples together.
N_DRAWN = 16_384


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How often and from which seed groups are drawn."""

    n_resamples: int = N_RESAMPLES
    seed: int = SEED
    level: float = 0.95

    def counts(self, n_groups: int, n_rows: int = 0) -> Iterator[np.ndarray]:
        """Yield (n_groups, r) uint16 chunks: how often each group is in each of r resamples.

        `n_rows` is the number of rows of the tables that the caller makes per resample.
        """
        raw = np.random.SFC64(self.seed).random_raw
        chunk = CHUNK_BYTES // (2 * (n_groups + n_rows) or 1)
        chunk = min(self.n_resamples, max(MIN_CHUNK, min(MAX_CHUNK, chunk - chunk % MIN_CHUNK)))
        together = max(1, N_DRAWN // max(n_groups, 1))
        n_words = -(-n_groups // 2)
        offsets = np.arange(together, dtype=np.uint64)[:, None] * np.uint64(n_groups)
        for start in range(0, self.n_resamples, chunk):
            size = min(chunk, self.n_resamples - start)
            # A group that is drawn more than 65,535 times in one resample would not fit, and has a chance of
            # less than 1 / 65,536!.
            counts = np.empty((size, n_groups), dtype=np.uint16)
            for row in range(0, size, together):
                n = min(together, size - row)
                # A 32-bit number times n_groups, shifted right by 32 bits: uniform to within n_groups / 2^32.
                bits = raw(n * n_words).view(np.uint32).reshape(n, 2 * n_words)[:, :n_groups]
                drawn = bits * np.uint64(n_groups)
                drawn >>= np.uint64(32)
                if n > 1:
                    drawn += offsets[:n]
                found = np.bincount(drawn.ravel().view(np.int64), minlength=n * n_groups)
                counts[row : row + n] = found.reshape(n, n_groups)
            yield np.ascontiguousarray(counts.T)

    def weights(self, n_groups: int) -> Iterator[np.ndarray]:
        """The same draws as float64."""
        return (counts.astype(np.float64) for counts in self.counts(n_groups))

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


class CountTable:
    """Images by bin and group: from (G, r) counts of groups, the images in each bin of each resample, exactly."""

    def __init__(self, bins: np.ndarray, groups: np.ndarray, n_bins: int, n_groups: int) -> None:
        """`bins` and `groups` (n,) int, one of each for every image."""
        ones = np.ones(len(bins), dtype=np.uint32)
        matrix = csr_array((ones, (bins, groups)), shape=(n_bins, n_groups))
        self.n_bins = n_bins
        self._by_type = {matrix.dtype: matrix}
        self._most = int(np.bincount(bins, minlength=1).max()) if len(bins) else 0

    def most(self, counts: np.ndarray) -> int:
        """No bin has more images in any of these resamples."""
        return self._most * int(counts.max(initial=0))

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """(n_bins, r) unsigned integers: the narrowest type that holds them, of 16, 32 and 64 bits."""
        kind = np.promote_types(np.min_scalar_type(self.most(counts)), np.uint16)
        if kind not in self._by_type:
            self._by_type[kind] = next(iter(self._by_type.values())).astype(kind)
        return np.asarray(self._by_type[kind] @ counts.astype(kind, copy=False))


def weigh(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(k, r) float64: the sums by group in `table` (k, G) of every resample, from (G, r) counts of groups."""
    sums = np.zeros((len(table), counts.shape[1]))
    for start in range(0, len(counts), N_WEIGHED):
        groups = slice(start, start + N_WEIGHED)
        sums += table[:, groups] @ counts[groups].astype(np.float64)
    return sums


@dataclass(frozen=True, kw_only=True)
class Part:
    """A measure of resamples: (G, r) counts of groups -> (..., r). `n_rows`: of the tables that it makes."""

    measure: Callable[[np.ndarray], np.ndarray]
    n_rows: int


def resample(parts: Mapping[str, Part], n_groups: int, resampling: Resampling) -> dict[str, np.ndarray]:
    """Every part on the same draws: name -> (..., n_resamples)."""
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    if not parts:
        return {}
    for counts in resampling.counts(n_groups, sum(part.n_rows for part in parts.values())):
        for name, part in parts.items():
            chunks[name].append(part.measure(counts))
    return {name: np.concatenate(found, axis=-1) for name, found in chunks.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedBins:
    """Images in bins of falling score, positives and negatives apart.

    Neighbouring scores that only negatives have form one bin: the steps of the ROC curve and of the precision-recall
    curve, and every measure read from them, stay exactly the same, and a rare class makes for few bins.

    The bins are cut into `n_blocks` blocks of `n_steps`, the last filled up with empty ones, and the tables hold the
    first bin of every block, then the second of every block, and so on: running sums down the bins are then additions
    of long rows, each block's own and all at once.
    """

    positives: CountTable
    negatives: CountTable
    n_steps: int
    n_blocks: int

    def counted(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n_steps, n_blocks, r) positives and negatives of every bin in each resample."""
        shape = self.n_steps, self.n_blocks, counts.shape[1]
        return self.positives(counts).reshape(shape), self.negatives(counts).reshape(shape)

    @property
    def n_bins(self) -> int:
        return self.n_steps * self.n_blocks


def in_blocks(is_positive: np.ndarray, bins: np.ndarray, groups: np.ndarray, n_bins: int) -> RankedBins:
    """(n,) bins from 0 in order of falling score -> the tables of `RankedBins`."""
    n_steps = max(1, math.isqrt(n_bins) // 4, -(-n_bins // MAX_BLOCKS))
    n_blocks = -(-n_bins // n_steps)
    rows = (bins % n_steps) * n_blocks + bins // n_steps
    positives, negatives = (
        CountTable(rows[mask], groups[mask], n_steps * n_blocks, int(groups.max()) + 1)
        for mask in (is_positive, ~is_positive)
    )
    return RankedBins(positives=positives, negatives=negatives, n_steps=n_steps, n_blocks=n_blocks)


def rank(is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> RankedBins:
    """Sort (n,) scores once for all resamples."""
    distinct, bins = np.unique(-scores, return_inverse=True)
    has_positive = np.bincount(bins[is_positive], minlength=len(distinct)) > 0
    # A bin starts at a score with positives, or at the first of a run of scores without.
    starts = has_positive.copy()
    starts[1:] |= has_positive[:-1]
    starts[:1] = True
    bins = (np.cumsum(starts) - 1)[bins]
    return in_blocks(is_positive, bins, groups, n_bins=int(starts.sum()))


def called_part(is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray, cuts: np.ndarray) -> Part:
    """Negatives and positives of every resample with a score of at least each of the rising `cuts`, and all of them.

    (2, len(cuts) + 1, r), all in the first row.
    """
    n_cells = len(cuts) + 1
    cells = np.searchsorted(cuts, scores, side="right")
    table = CountTable(cells + n_cells * is_positive, groups, 2 * n_cells, int(groups.max()) + 1)

    def measure(counts: np.ndarray) -> np.ndarray:
        by_cell = table(counts).astype(np.float64).reshape(2, n_cells, -1)
        return np.cumsum(by_cell[:, ::-1], axis=1)[:, ::-1]

    return Part(measure=measure, n_rows=table.n_bins)


def auc_part(is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Part:
    """The AUC of every resample; NaN where a resample lacks a class.

    One bin per distinct score of a positive, falling: its positives, and the negatives from there down to the
    next. AUC = (sum over bins of positives so far x negatives, minus half of the tied pairs) / all pairs.
    """
    n_groups = int(groups.max()) + 1
    falling = -scores
    steps = np.unique(falling[is_positive])
    bins = np.searchsorted(steps, falling, side="right")  # 0: above every positive
    is_tied = ~is_positive & (bins > 0)
    is_tied[is_tied] = steps[bins[is_tied] - 1] == falling[is_tied]
    ranked = in_blocks(is_positive, bins, groups, n_bins=len(steps) + 1)
    tied_bins = np.unique(bins[is_tied])
    ties = [
        CountTable(np.searchsorted(tied_bins, bins[mask]), groups[mask], len(tied_bins), n_groups)
        for mask in (is_tied, is_positive & np.isin(bins, tied_bins))
    ]

    def measure(counts: np.ndarray) -> np.ndarray:
        positives, negatives = ranked.counted(counts)
        # Pairs of a block number at most its positives times its negatives.
        largest = ranked.positives.most(counts) * ranked.negatives.most(counts) * ranked.n_steps**2
        kind = np.uint32 if largest < 2**32 else np.float64
        above, below, pairs = np.zeros((3, *positives.shape[1:]), dtype=kind)
        for step in range(ranked.n_steps):
            above += positives[step].astype(kind)
            fallen = negatives[step].astype(kind)
            below += fallen
            fallen *= above
            pairs += fallen
        before = np.cumsum(above[:-1], axis=0, dtype=np.float64)
        found = pairs.sum(axis=0, dtype=np.float64)
        found += np.einsum("br,br->r", before, below[1:].astype(np.float64))
        if len(tied_bins):
            found -= 0.5 * np.einsum("br,br->r", *(table(counts).astype(np.float64) for table in ties))
        with np.errstate(invalid="ignore"):
            return np.asarray(found / (above.sum(axis=0, dtype=float) * below.sum(axis=0, dtype=float)))

    return Part(measure=measure, n_rows=2 * ranked.n_bins)


def resampled_auc(
    is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray, resampling: Resampling
) -> np.ndarray:
    """(n_resamples,) AUC of every resample; NaN where a resample lacks a class."""
    if is_positive.all() or not is_positive.any():
        return np.full(resampling.n_resamples, np.nan)
    part = auc_part(is_positive, scores, groups)
    return resample({"auc": part}, int(groups.max()) + 1, resampling)["auc"]
