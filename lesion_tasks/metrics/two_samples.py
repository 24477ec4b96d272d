"""Two samples of independent units -> whether they come from one distribution, and how far they differ.

Both tests are permutation tests: if both samples come from one distribution, every division of the units into two
samples of these sizes was as likely as the one that was found. Their p-values, with the division that was found counted
among the others (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585), hold for any number of units. A unit is a group of
images, never an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from lesion_tasks.metrics.auc import measure_auc

N_PERMUTATIONS = 1_999
SEED = 20_261
N_FOLDS = 5
MAX_DIRECTIONS = 64
UNITS_A_DIRECTION = 10  # a classifier of fewer units for each of its numbers learns chance
RIDGE = 0.1  # times the number of units
# A value that fewer units of both samples have counts together with the other rare ones.
MIN_UNITS_OF_VALUE = 5
OTHERS = "other values"


@dataclass(frozen=True, kw_only=True)
class ValueShare:
    """A value, the share of units of each sample that have it, and their difference as `share_difference` has it."""

    value: str
    reference: float
    new: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the values of an attribute differ: all of them by one p-value, each by its shares, the most changed first."""

    p_value: float
    values: tuple[ValueShare, ...]

    @property
    def effect(self) -> float:
        """The largest difference of a value's share."""
        return abs(self.values[0].difference)


@dataclass(frozen=True, kw_only=True)
class ToldApart:
    """With which AUC a classifier tells units of one sample from those of the other that it did not learn from."""

    p_value: float
    auc: float


def compare_values(reference: Sequence[str], new: Sequence[str]) -> Shares | None:
    """Compare the values of an attribute: chi-squared over values, its distribution under permutation drawn.

    None where all units have one value.
    """
    values, codes = np.unique(np.concatenate([_texts(reference), _texts(new)]), return_inverse=True)
    totals = np.bincount(codes)
    is_rare = totals < MIN_UNITS_OF_VALUE
    if is_rare.sum() > 1:
        values = np.append(values[~is_rare], OTHERS)
        codes = np.where(is_rare[codes], len(values) - 1, (np.cumsum(~is_rare) - 1)[codes])
        totals = np.bincount(codes, minlength=len(values))
    if len(values) < 2:
        return None
    n_new = len(new)
    found = np.bincount(codes[len(reference) :], minlength=len(values))
    expected = totals * (n_new / totals.sum())
    drawn = np.random.default_rng(SEED).multivariate_hypergeometric(totals, n_new, size=N_PERMUTATIONS)
    # With both margins given, the whole table's chi-squared is proportional to that of its one row.
    beyond = ((drawn - expected) ** 2 / totals).sum(axis=1) >= _least((found - expected) ** 2 @ (1 / totals))
    shares = [
        ValueShare(
            value=str(value),
            reference=float((total - n) / len(reference)),
            new=float(n / n_new),
            difference=share_difference(float((total - n) / len(reference)), float(n / n_new)),
        )
        for value, total, n in zip(values, totals, found, strict=True)
    ]
    shares.sort(key=lambda one: (-abs(one.difference), one.value))
    return Shares(p_value=_p_value(beyond), values=tuple(shares))


def share_difference(reference: float, new: float) -> float:
    """The difference of two shares, in standard deviations of both samples together: -2 to 2."""
    middle = (reference + new) / 2
    spread = float(np.sqrt(middle * (1 - middle)))
    return (new - reference) / spread if spread else 0.0


def tell_apart(reference: np.ndarray, new: np.ndarray, plain: int = 0, seed: int = SEED) -> ToldApart | None:
    """Try to tell two samples apart by their numbers, (n, C) and (m, C): a classifier two-sample test.

    A linear discriminant is fitted anew for every division of the units, on four fifths of them, and asked about the
    rest; the AUC of its answers says how far the samples differ (Lopez-Paz & Oquab 2017, arXiv:1610.06545; Kim et al.
    2021, doi:10.1214/20-AOS1962), and the difference of their means is compared with that of every other division. The
    `plain` first columns are taken as they are, the others by their main directions, which depend on both samples
    together and thus on no division. None where all units have the same numbers.
    """
    rng = np.random.default_rng(seed)
    values = _directions(np.concatenate([reference, new]).astype(np.float64), plain)
    if values is None:
        return None
    n_units, n_new = len(values), len(new)
    labels = np.zeros((n_units, N_PERMUTATIONS + 1), dtype=np.float32)
    labels[len(reference) :, 0] = 1
    for column in range(1, N_PERMUTATIONS + 1):
        labels[rng.permutation(n_units)[:n_new], column] = 1
    answers = np.empty_like(labels)
    fold = rng.permutation(n_units) % N_FOLDS
    for one in range(N_FOLDS):
        is_left = fold == one
        known, mean = values[~is_left], values[~is_left].mean(axis=0)
        known = known - mean
        square = known.T @ known + RIDGE * len(known) * np.eye(known.shape[1])
        weights = np.linalg.solve(square, known.T).astype(np.float32) @ labels[~is_left]
        answers[is_left] = (values[is_left] - mean).astype(np.float32) @ weights
    means = [
        np.einsum("np,np->p", answers, side) / side.sum(axis=0, dtype=np.float64)
        for side in (labels, 1 - labels)
    ]
    spread = answers.std(axis=0, dtype=np.float64)
    differences = (means[0] - means[1]) / np.where(spread > 0, spread, 1.0)
    auc = measure_auc(labels[:, 0] > 0, answers[:, 0].astype(np.float64), np.arange(n_units))
    is_beyond = differences[1:] >= _least(float(differences[0]))
    return ToldApart(p_value=_p_value(is_beyond), auc=0.5 if auc is None else float(auc.value))


def _directions(values: np.ndarray, plain: int) -> np.ndarray | None:
    """(n, C) -> (n, d) numbers of mean 0 and spread 1; none that is the same for all units.

    What is not a finite number is taken for the usual one, and that a unit has such is a column of its own.
    """
    is_known = np.isfinite(values)
    usual = np.where(is_known, values, 0.0).sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
    values = np.column_stack([~is_known.all(axis=1), np.where(is_known, values, usual)])
    plain += 1  # that column is taken as it is
    spread = values.std(axis=0)
    is_varying = spread > 1e-9 * np.maximum(np.abs(values).max(axis=0), 1e-9)
    scaled = np.clip((values - values.mean(axis=0)) / np.where(is_varying, spread, 1.0), -5, 5)
    as_they_are = scaled[:, :plain][:, is_varying[:plain]]
    others = scaled[:, plain:][:, is_varying[plain:]]
    n_left = min(MAX_DIRECTIONS, len(values) // UNITS_A_DIRECTION - as_they_are.shape[1], others.shape[1])
    if n_left > 0:
        # The main directions from the smaller of the two products of the matrix with itself.
        centred = others - others.mean(axis=0)
        if centred.shape[1] <= len(centred):
            _, axes = np.linalg.eigh(centred.T @ centred)
            found = centred @ axes[:, ::-1][:, :n_left]
        else:
            _, found = np.linalg.eigh(centred @ centred.T)
            found = found[:, ::-1][:, :n_left]
        scale = found.std(axis=0)
        found = found[:, scale > 1e-9 * scale.max(initial=1e-12)]
        as_they_are = np.column_stack([as_they_are, found / found.std(axis=0)])
    return as_they_are if as_they_are.shape[1] else None


def _texts(values: Sequence[str]) -> np.ndarray:
    return np.asarray(list(values), dtype=str)


def _least(found: float) -> float:
    """What counts as at least as much as `found`: divisions that are equal must not differ by their rounding."""
    return found - 1e-9 * max(abs(found), 1e-9)


def _p_value(is_beyond: np.ndarray) -> float:
    return float((1 + is_beyond.sum()) / (1 + len(is_beyond)))


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm 1979 (Scandinavian Journal of Statistics 6:65), in the order given.

    Whatever the tests have to do with each other: where no sample differs, any of them falls to `error` or below with
    at most that probability.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def detectable_difference(n_reference: int, n_new: int, error: float, power: float = 0.8) -> float:
    """The difference of a share, in standard deviations, that a test at level `error` finds with probability `power`.

    By the normal approximation for two means.
    """
    z = norm.isf(error / 2) + norm.isf(1 - power)
    return float(z * np.sqrt(1 / n_reference + 1 / n_new))
