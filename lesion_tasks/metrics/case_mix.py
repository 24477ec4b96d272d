"""Rows of a test set and of a cohort -> how their case mix differs, and the figure that a like case mix would give.

Standardized differences: Austin 2009, doi:10.1002/sim.3697. A membership model turns the cohort into one that resembles
the test set (Debray et al. 2015, doi:10.1016/j.jclinepi.2014.06.018; weights by the odds of belonging to it): within
each class, so that prevalence, on which an AUC does not depend, plays no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from lesion_tasks.metrics.binary import MIN_GROUPS
from lesion_tasks.metrics.cohort_document import CaseMixRow, Fall, Reweighting
from lesion_tasks.metrics.degrees_of_freedom import effective_groups
from lesion_tasks.metrics.figure import Interval
from lesion_tasks.metrics.resample import Resampling, auc_of
from lesion_tasks.metrics.scored import Scored

# A class is weighted by these; a value that is missing is a value of its own.
NUMBERS = ("age_years",)
CATEGORIES = ("sex", "anatom_site", "diagnosis_kind")
COVARIATES = (*NUMBERS, *CATEGORIES)
MISSINGNESS = (
    "age_years",
    "sex",
    "size_mm",
    "anatom_site",
    "fitzpatrick_skin_type",
    "patient_id",
    "lesion_id",
)
MISSING = "missing"
N_VALUES_SHOWN = 10  # of one attribute: the commonest of both together
PENALTY = 1.0  # inverse strength of the membership model's ridge
# A weight above this many times the mean would let a few images stand for everything.
MAX_WEIGHT = 20.0
# Beyond these the cohort cannot be made to resemble the test set, and the weighted figure answers another question.
MAX_UNCOVERED_SHARE = 0.2
MAX_IMBALANCE_LEFT = 0.25


def case_mix(test: pd.DataFrame, cohort: pd.DataFrame, facts: Sequence[str] = ()) -> list[CaseMixRow]:
    """Compare labels, age, sex, site, skin type, diagnoses, missing values and `facts` (numbers about the pictures)."""
    rows = list(_shares(test, cohort, "label"))
    rows.append(_mean(test, cohort, "age_years"))
    for attribute in ("sex", "anatom_site", "fitzpatrick_skin_type", "diagnosis_kind", "diagnosis"):
        rows += _shares(test, cohort, attribute)
    for attribute in MISSINGNESS:
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

    The rows stand in the order of the scored images. Intervals resample groups with the weights as they are. `reason`
    says why the result cannot be relied on: too few effective groups, diagnoses that the cohort does not have, or a
    mix that still differs under the weights.
    """
    resampling = resampling or Resampling()
    if not test.is_binary:
        return _without("it is told of two classes only")
    if fall is None:
        return _without("the figure is undefined on one side")
    weights = np.zeros(cohort.n_images)
    uncovered, before, after = 0, 0.0, 0.0
    for is_positive in (False, True):
        ours, theirs = test.is_positive == is_positive, cohort.is_positive == is_positive
        own, other = test_rows[ours], cohort_rows[theirs]
        kinds = set(_filled(other["diagnosis_kind"]))
        is_covered = _filled(own["diagnosis_kind"]).isin(kinds).to_numpy()
        uncovered += int((~is_covered).sum())
        if not is_covered.any():
            return _without("the cohort has none of the test set's kinds of diagnosis in one class")
        design_own, design_other = _design(own[is_covered], other)
        weights[theirs] = _odds(design_own, design_other)
        before = max(before, _imbalance(design_own, design_other, np.ones(len(other))))
        after = max(after, _imbalance(design_own, design_other, weights[theirs]))
    auc, samples = _weighted(cohort, weights, resampling)
    plain = _weighted(cohort, np.ones(cohort.n_images), resampling)[1]
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
    reason = _unreliable(min(n_even), uncovered_share, after)
    if min(n_even) < MIN_GROUPS:
        interval = explained = None
    return Reweighting(
        covariates=list(COVARIATES),
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
        words=_words(fall, auc, explained, reason),
    )


def _without(reason: str) -> Reweighting:
    return Reweighting(
        covariates=list(COVARIATES),
        reason=reason,
        words=f"What the case mix explains cannot be told: {reason}.",
    )


def _unreliable(n_even: float, uncovered_share: float, imbalance_left: float) -> str | None:
    if n_even < MIN_GROUPS:
        return f"under the weights a class counts as {n_even:.0f} groups of equal size, floor {MIN_GROUPS}"
    if uncovered_share > MAX_UNCOVERED_SHARE:
        return f"{uncovered_share:.0%} of the test set have a kind of diagnosis that the cohort does not have"
    if imbalance_left > MAX_IMBALANCE_LEFT:
        return (
            f"even weighted, the two differ by {imbalance_left:.2f} standard deviations, at most "
            f"{MAX_IMBALANCE_LEFT:g} expected"
        )
    return None


def _words(fall: Fall, auc: float, explained: Interval | None, reason: str | None) -> str:
    if reason is not None:
        return f"How much of it the case mix explains cannot be told: {reason}."
    moved = f"Weighted to the test set's age, sex, site and kinds of diagnosis, the cohort gives {auc:.3f}"
    value = auc - fall.cohort
    share = f" of {fall.value:+.3f}" if fall.value < 0 else ""
    if explained is None or explained.low <= 0 <= explained.high:
        return f"{moved}: the case mix is not shown to explain any of it ({value:+.3f})."
    side = "explains" if value > 0 else "hides"
    return (
        f"{moved}: the case mix {side} {abs(value):.3f}{share} "
        f"(95 % interval {explained.low:+.3f} to {explained.high:+.3f})."
    )


def _design(test: pd.DataFrame, cohort: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Covariates of both: standardized numbers and their squares, and a column for each value of the others."""
    both = pd.concat([test, cohort])
    columns = []
    for name in NUMBERS:
        values = both[name].to_numpy(dtype=np.float64)
        known = values[np.isfinite(values)]
        spread = float(known.std()) if len(known) else 0.0
        scaled = np.where(np.isfinite(values), values - (known.mean() if len(known) else 0.0), 0.0)
        scaled = scaled / spread if spread else scaled
        columns += [scaled, scaled**2, ~np.isfinite(values)]
    for name in CATEGORIES:
        filled = _filled(both[name]).to_numpy(dtype=object)
        columns += [filled == value for value in np.unique(filled)]
    design = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    return design[: len(test)], design[len(test) :]


def _odds(test: np.ndarray, cohort: np.ndarray) -> np.ndarray:
    """(n,) weight of each image of a cohort: its odds of belonging to the test set, mean 1, cut at `MAX_WEIGHT`."""
    design = np.concatenate([test, cohort])
    is_test = np.r_[np.ones(len(test), dtype=bool), np.zeros(len(cohort), dtype=bool)]
    fitted = LogisticRegression(C=PENALTY, max_iter=500).fit(design, is_test)
    share = np.clip(fitted.predict_proba(cohort)[:, 1], 1e-9, 1 - 1e-9)
    odds = share / (1 - share)
    odds = np.minimum(odds / odds.mean(), MAX_WEIGHT)
    return np.asarray(odds / odds.mean())


def _imbalance(test: np.ndarray, cohort: np.ndarray, weights: np.ndarray) -> float:
    """The largest standardized difference of a covariate, in standard deviations of the test set and the cohort."""
    means = test.mean(axis=0), np.average(cohort, axis=0, weights=weights)
    spread = np.sqrt((test.var(axis=0) + cohort.var(axis=0)) / 2)
    is_varying = spread > 0
    if not is_varying.any():
        return 0.0
    return float(np.abs((means[1] - means[0])[is_varying] / spread[is_varying]).max())


def _weighted(scored: Scored, weights: np.ndarray, resampling: Resampling) -> tuple[float, np.ndarray]:
    """The AUC of weighted images, and (n_resamples,) the same of every resample of groups."""
    distinct, bins = np.unique(-scored.scores, return_inverse=True)
    shape = (len(distinct), scored.n_groups)

    def matrix(mask: np.ndarray) -> csr_array:
        return csr_array((weights[mask], (bins[mask], scored.groups[mask])), shape=shape)

    positives, negatives = matrix(scored.is_positive), matrix(~scored.is_positive)
    everyone = np.ones((scored.n_groups, 1))
    value = float(auc_of(positives @ everyone, negatives @ everyone)[0])
    chunks = [
        auc_of(positives @ drawn, negatives @ drawn)
        for drawn in resampling.weights(scored.n_groups, len(distinct))
    ]
    return value, np.concatenate(chunks)
