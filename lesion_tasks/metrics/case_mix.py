"""Rows of a test set and of a cohort -> how their case mix differs, and the figure that a like case mix would give.

Standardized differences: Austin 2009, doi:10.1002/sim.3697. A membership model turns the cohort into one that resembles
the test set (Debray et al. 2015, doi:10.1016/j.jclinepi.2014.06.018; weights by the odds of belonging to it): within
each class, so that prevalence, on which an AUC does not depend, plays no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lesion_tasks.catalog.image_columns import MAY_BE_MISSING
from lesion_tasks.catalog.printed_numbers import percent, signed
from lesion_tasks.catalog.titles import size_of_change
from lesion_tasks.metrics.binary import MIN_GROUPS
from lesion_tasks.metrics.cohort_document import CaseMixRow, Fall, Reweighting
from lesion_tasks.metrics.counted import too_few_groups
from lesion_tasks.metrics.degrees_of_freedom import effective_groups
from lesion_tasks.metrics.figure import Interval
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored

# A class is weighted by these; a value that is missing is a value of its own.
NUMBERS = ("age_years",)
CATEGORIES = ("sex", "anatom_site", "diagnosis_kind")
COVARIATES = (*NUMBERS, *CATEGORIES)
MISSING = "missing"
N_VALUES_SHOWN = 10  # of one attribute: the commonest of both together
# Each fits the membership model anew, whose errors are part of the interval.
N_RESAMPLES = 300
N_STEPS, N_STEPS_AGAIN = 50, 4  # of Newton's method: at first, and from there for each resample
PENALTY = 1.0  # inverse strength of the membership model's ridge
# A weight above this many times the mean would let a few images stand for everything.
MAX_WEIGHT = 20.0
NAMES = {"age_years": "age", "sex": "sex", "anatom_site": "site", "diagnosis_kind": "kind of diagnosis"}
# These alone may be left aside where the two have too little in common: what an image shows is never.
LEFT_ASIDE = ("sex", "anatom_site")
# Beyond these the cohort cannot be made to resemble the test set, and the weighted figure answers another question.
MAX_UNCOVERED_SHARE = 0.2
MAX_IMBALANCE_LEFT = 0.25


def case_mix(test: pd.DataFrame, cohort: pd.DataFrame, facts: Sequence[str] = ()) -> list[CaseMixRow]:
    """Compare labels, age, sex, site, skin type, diagnoses, missing values and `facts` (numbers about the pictures)."""
    rows = list(_shares(test, cohort, "label"))
    rows.append(_mean(test, cohort, "age_years"))
    for attribute in ("sex", "anatom_site", "fitzpatrick_skin_type", "diagnosis_kind", "diagnosis"):
        rows += _shares(test, cohort, attribute)
    for attribute in MAY_BE_MISSING:
        shares = (float(side[attribute].isna().mean()) for side in (test, cohort))
        rows.append(_share_row("missing", attribute, *shares))
    rows += [_mean(test, cohort, name) for name in facts]
    return rows


def _shares(test: pd.DataFrame, cohort: pd.DataFrame, attribute: str) -> Iterator[CaseMixRow]:
    sides = [_filled(side[attribute]) for side in (test, cohort)]
    common = pd.concat([side.value_counts(normalize=True) for side in sides], axis=1).fillna(0.0)
    common.columns = pd.Index(["test", "cohort"])
    order = common.sum(axis=1).sort_values(ascending=False, kind="stable").index
    if list(order) == [MISSING]:
        return
    for value in order[:N_VALUES_SHOWN]:
        yield _share_row(attribute, str(value), *(float(share) for share in common.loc[value]))


def _filled(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), MISSING).astype(str)


def _share_row(attribute: str, value: str, test: float, cohort: float) -> CaseMixRow:
    spread = np.sqrt((test * (1 - test) + cohort * (1 - cohort)) / 2)
    difference = (cohort - test) / spread if spread else (0.0 if test == cohort else None)
    return CaseMixRow(attribute=attribute, value=value, test=test, cohort=cohort, difference=difference)


def _mean(test: pd.DataFrame, cohort: pd.DataFrame, attribute: str) -> CaseMixRow:
    known = [side[attribute].dropna().to_numpy(dtype=np.float64) for side in (test, cohort)]
    means = [float(side.mean()) if len(side) else None for side in known]
    difference = None
    if means[0] is not None and means[1] is not None:
        spread = float(np.sqrt(np.mean([side.var() for side in known])))
        difference = (means[1] - means[0]) / spread if spread else None
    return CaseMixRow(attribute=attribute, value=None, test=means[0], cohort=means[1], difference=difference)


def reweight(
    test: Scored,
    cohort: Scored,
    test_rows: pd.DataFrame,
    cohort_rows: pd.DataFrame,
    fall: Fall | None,
    resampling: Resampling | None = None,
) -> Reweighting:
    """The AUC of a cohort under weights that give each class the test set's mix of `COVARIATES`.

    Where the cohort lacks what much of the test set is, as one of heads lacks trunks, no weight makes up for it: site
    or sex is then left aside, and what the others explain is stated without it.

    The rows stand in the order of the scored images. Intervals resample the groups of both and weight anew. `reason`
    says why the result cannot be relied on: too few effective groups, diagnoses that the cohort does not have, or a
    mix that still differs under the weights.
    """
    resampling = resampling or Resampling(n_resamples=N_RESAMPLES)
    if not test.is_binary:
        return _without("it is defined for two classes only")
    if fall is None:
        return _without("the figure is undefined on one side")
    classes = [
        (np.flatnonzero(test.is_positive == is_positive), np.flatnonzero(cohort.is_positive == is_positive))
        for is_positive in (False, True)
    ]
    parts = [(test_rows.iloc[ours], cohort_rows.iloc[theirs]) for ours, theirs in classes]
    aside = [name for name in LEFT_ASIDE if _lacking(parts, name) > MAX_UNCOVERED_SHARE]
    categories = [name for name in CATEGORIES if name not in aside]
    sides = []
    uncovered = 0
    for (ours, theirs), (own, other) in zip(classes, parts, strict=True):
        kinds = set(_filled(other["diagnosis_kind"]))
        is_covered = _filled(own["diagnosis_kind"]).isin(kinds).to_numpy()
        uncovered += int((~is_covered).sum())
        if not is_covered.any():
            return _without("the cohort has none of the test set's kinds of diagnosis in one class")
        sides.append(Membership.of(own[is_covered], other, ours[is_covered], theirs, categories))
    everyone = np.ones(test.n_images), np.ones(cohort.n_images)
    weights = _weights(sides, *everyone)
    bins = np.unique(-cohort.scores, return_inverse=True)[1]
    auc = _weighted_auc(cohort.is_positive, bins, weights)
    samples, plain = _resampled(sides, test, cohort, bins, resampling)
    n_even = [
        effective_groups(np.bincount(cohort.groups[side], weights[side], cohort.n_groups))
        for side in (cohort.is_positive, ~cohort.is_positive)
    ]
    degrees = max(min(n_even) - 1, 1.0)
    interval, explained = resampling.interval(samples, degrees), resampling.interval(samples - plain, degrees)
    n_effective = {
        name: effective_groups(weights[cohort.labels == index])
        for index, name in enumerate(cohort.class_names)
    }
    uncovered_share = uncovered / test.n_images
    before, _ = max(side.imbalance(np.ones(len(side.cohort))) for side in sides)
    after, least_alike = max(side.imbalance(weights[side.cohort_rows]) for side in sides)
    reason = _unreliable(min(n_even), uncovered_share, after, NAMES[least_alike])
    if min(n_even) < MIN_GROUPS:
        interval = explained = None
    return Reweighting(
        covariates=[*NUMBERS, *categories],
        left_aside=aside,
        reason=reason,
        auc=auc,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        value=auc - fall.cohort,
        value_low=explained.low if explained else None,
        value_high=explained.high if explained else None,
        n_effective=n_effective,
        uncovered_share=uncovered_share,
        imbalance=before,
        imbalance_left=after,
        words=_words(fall, auc, explained, reason, aside),
    )


def _without(reason: str) -> Reweighting:
    return Reweighting(
        covariates=list(COVARIATES),
        reason=reason,
        words=f"What the case mix explains cannot be determined: {reason}.",
    )


def _unreliable(n_even: float, uncovered_share: float, imbalance_left: float, least_alike: str) -> str | None:
    if n_even < MIN_GROUPS:
        return too_few_groups("images of a class under the weights", n_even, MIN_GROUPS)
    if uncovered_share > MAX_UNCOVERED_SHARE:
        return f"{percent(uncovered_share, 0)} of the test set have a kind of diagnosis that the cohort does not have"
    if imbalance_left > MAX_IMBALANCE_LEFT:
        return (
            f"even weighted, the two differ in {least_alike} by {imbalance_left:.2f} standard deviations, at most "
            f"{MAX_IMBALANCE_LEFT:g} expected"
        )
    return None


def _lacking(classes: Sequence[tuple[pd.DataFrame, pd.DataFrame]], name: str) -> float:
    """The share of the test set with a value that no image of its class in the cohort has."""
    n_lacking = sum(
        int((~_filled(own[name]).isin(set(_filled(other[name])))).sum()) for own, other in classes
    )
    return n_lacking / sum(len(own) for own, _ in classes)


def _words(
    fall: Fall, auc: float, explained: Interval | None, reason: str | None, aside: Sequence[str]
) -> str:
    if reason is not None:
        return f"How much of it the case mix explains cannot be determined: {reason}."
    names = [NAMES[name] for name in COVARIATES if name not in aside]
    mix = f"{', '.join(names[:-1])} and {names[-1]}"
    moved = f"Weighted to the test set's mix of {mix}, the cohort gives {auc:.3f}"
    value = auc - fall.cohort
    amount = signed(value)
    # What the weights take away is part of a fall that they lift, or of a rise that they lower.
    is_part = value * fall.value < 0
    change = f"{'fall' if fall.value < 0 else 'rise'} of {abs(fall.value):.3f}"
    if explained is None or explained.low <= 0 <= explained.high:
        said = f"{moved}: the case mix is not shown to explain any of it ({amount})."
    else:
        said = (
            f"{moved}: the case mix {'explains' if is_part else 'hides'} "
            f"{size_of_change(value, explained.low, explained.high)}{f', of the {change}' if is_part else ''}."
        )
    if aside:
        left = " and ".join(NAMES[name] for name in aside)
        said += (
            f" That leaves the {left} aside, in which the two have too little in common to be weighted: what is not "
            f"explained may be the {left}."
        )
    return said


def _design(
    test: pd.DataFrame, cohort: pd.DataFrame, categories: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Covariates of both: standardized numbers and their squares, and a column for each value of the others.

    The third: of which covariate each column is, after the constant.
    """
    both = pd.concat([test, cohort])
    columns: list[np.ndarray] = []
    names: list[str] = []
    for name in NUMBERS:
        values = both[name].to_numpy(dtype=np.float64)
        known = values[np.isfinite(values)]
        spread = float(known.std()) if len(known) else 0.0
        scaled = np.where(np.isfinite(values), values - (known.mean() if len(known) else 0.0), 0.0)
        scaled = scaled / spread if spread else scaled
        columns += [scaled, scaled**2, ~np.isfinite(values)]
        names += [name] * 3
    for name in categories:
        filled = _filled(both[name]).to_numpy(dtype=object)
        columns += [filled == value for value in np.unique(filled)]
        names += [name] * (len(columns) - len(names))
    constant = np.ones(len(both))
    design = np.column_stack([constant, *(np.asarray(column, dtype=np.float64) for column in columns)])
    return design[: len(test)], design[len(test) :], names


@dataclass(frozen=True, kw_only=True, eq=False)
class Membership:
    """Images of one class: their covariates in the test set (n, p) and in the cohort (m, p), and their row numbers."""

    test: np.ndarray
    cohort: np.ndarray
    test_rows: np.ndarray
    cohort_rows: np.ndarray
    coefficients: np.ndarray  # (p,) of the model of belonging to the test set, on all images
    names: list[str]  # (p - 1,) of which covariate each column after the constant is

    @classmethod
    def of(
        cls,
        test: pd.DataFrame,
        cohort: pd.DataFrame,
        test_rows: np.ndarray,
        cohort_rows: np.ndarray,
        categories: Sequence[str],
    ) -> Membership:
        ours, theirs, names = _design(test, cohort, categories)
        start = np.zeros(ours.shape[1])
        return cls(
            test=ours,
            cohort=theirs,
            test_rows=test_rows,
            cohort_rows=cohort_rows,
            coefficients=_fit(ours, theirs, np.ones(len(test)), np.ones(len(cohort)), start, N_STEPS),
            names=names,
        )

    def odds(self, of_test: np.ndarray, of_cohort: np.ndarray) -> np.ndarray:
        """(m,) odds of each image of the cohort, times how often it was drawn; mean 1 per draw, cut at `MAX_WEIGHT`."""
        drawn = of_test[self.test_rows], of_cohort[self.cohort_rows]
        if min(side.sum() for side in drawn) == 0:
            return np.full(len(self.cohort), np.nan)
        fitted = _fit(self.test, self.cohort, *drawn, self.coefficients, N_STEPS_AGAIN)
        odds = np.exp(np.clip(self.cohort @ fitted, -20, 20))
        odds = np.minimum(odds / np.average(odds, weights=drawn[1]), MAX_WEIGHT)
        return np.asarray(odds / np.average(odds, weights=drawn[1]) * drawn[1])

    def imbalance(self, weights: np.ndarray) -> tuple[float, str]:
        """The largest standardized difference of a covariate, in standard deviations of both, and which one it is."""
        means = self.test.mean(axis=0), np.average(self.cohort, axis=0, weights=weights)
        spread = np.sqrt((self.test.var(axis=0) + self.cohort.var(axis=0)) / 2)
        differences = np.divide(
            np.abs(means[1] - means[0]), spread, out=np.zeros_like(spread), where=spread > 0
        )
        largest = int(differences[1:].argmax())
        return float(differences[1 + largest]), self.names[largest]


def _fit(
    test: np.ndarray,
    cohort: np.ndarray,
    of_test: np.ndarray,
    of_cohort: np.ndarray,
    start: np.ndarray,
    n_steps: int,
) -> np.ndarray:
    """Weighted ridge logistic regression of belonging to the test set, by Newton's method; column 0 is constant."""
    design = np.concatenate([test, cohort])
    outcome = np.r_[np.ones(len(test)), np.zeros(len(cohort))]
    weight = np.r_[of_test, of_cohort]
    penalty = np.full(design.shape[1], 1 / PENALTY)
    penalty[0] = 1e-9
    beta = start.copy()
    for _ in range(n_steps):
        expected = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weight * (outcome - expected)) - penalty * beta
        information = (design * (weight * expected * (1 - expected))[:, None]).T @ design
        step = np.linalg.solve(information + np.diag(penalty), gradient)
        beta += np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-8:
            break
    return beta


def _weights(sides: Sequence[Membership], of_test: np.ndarray, of_cohort: np.ndarray) -> np.ndarray:
    """(n,) weight of each image of the cohort, with how often each image of both was drawn."""
    weights = np.zeros(len(of_cohort))
    for side in sides:
        weights[side.cohort_rows] = side.odds(of_test, of_cohort)
    return weights


def _weighted_auc(is_positive: np.ndarray, bins: np.ndarray, weights: np.ndarray) -> float:
    """The AUC of weighted images; `bins` (n,) number their scores, the highest first. NaN where a class is missing."""
    positives, negatives = (np.bincount(bins, weights * side) for side in (is_positive, ~is_positive))
    # Images in the same bin have the same score: ties count half.
    pairs = (np.cumsum(positives) - 0.5 * positives) @ negatives
    with np.errstate(invalid="ignore"):
        return float(np.float64(pairs) / (positives.sum() * negatives.sum()))


def _resampled(
    sides: Sequence[Membership], test: Scored, cohort: Scored, bins: np.ndarray, resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """(n_resamples,) the weighted and the plain AUC of every resample of groups of both, weighted anew each time."""
    other = replace(resampling, seed=resampling.seed + 1)
    own = (column for chunk in resampling.weights(test.n_groups) for column in chunk.T)
    their = (column for chunk in other.weights(cohort.n_groups) for column in chunk.T)
    weighted, plain = [], []
    for ours, theirs in zip(own, their, strict=True):
        of_test, of_cohort = ours[test.groups], theirs[cohort.groups]
        weighted.append(_weighted_auc(cohort.is_positive, bins, _weights(sides, of_test, of_cohort)))
        plain.append(_weighted_auc(cohort.is_positive, bins, of_cohort))
    return np.array(weighted), np.array(plain)
