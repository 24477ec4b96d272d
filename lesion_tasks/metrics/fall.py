"""A model on its own test set and on other data -> how far its leading figure falls, and whether that is chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lesion_tasks.catalog.titles import size_of_change
from lesion_tasks.metrics.auc import Auc
from lesion_tasks.metrics.binary import MIN_GROUPS, called_positive, resampled_rates
from lesion_tasks.metrics.cohort_document import Fall
from lesion_tasks.metrics.counted import plural, too_few_groups
from lesion_tasks.metrics.degrees_of_freedom import MIN_DEGREES, effective_groups_of
from lesion_tasks.metrics.figure import Interval, Stated
from lesion_tasks.metrics.headline import headline_auc
from lesion_tasks.metrics.resample import Resampling, resampled_auc
from lesion_tasks.metrics.scored import Scored


def measure_fall(
    test: Scored, cohort: Scored, resampling: Resampling | None = None, *, name: str = "the cohort"
) -> Fall | None:
    """The leading figure on `cohort` minus that on `test`; None if it is undefined on one of them.

    With more than two classes the mean is over the classes that both have. The two must share no group: each is
    resampled on its own, by group, and the interval is that of the difference, with the degrees of freedom of a
    difference of two independent means (Welch 1947, doi:10.1093/biomet/34.1-2.28).
    `name`: what words call the other data.
    """
    resampling = resampling or Resampling()
    sides = common_sides(test, cohort)
    aucs = [headline_auc(one) for one in sides]
    if aucs[0] is None or aucs[1] is None:
        return None
    measure = "auc" if test.is_binary else "macro_auc"
    stated = _stated(sides, (aucs[0], aucs[1]), resampling, name)
    return _fall(measure, aucs[0].value, aucs[1].value, stated, resampling.level)


def threshold_falls(
    test: Scored, cohort: Scored, threshold: float | None, resampling: Resampling | None = None
) -> list[Fall]:
    """Sensitivity and specificity at `threshold` (None: one half), the same way; none where a class has no image.

    Empty with more than two classes.
    """
    if not test.is_binary:
        return []
    resampling = resampling or Resampling()
    other = replace(resampling, seed=resampling.seed + 1)
    called = [called_positive(side, threshold) for side in (test, cohort)]
    samples = [
        resampled_rates(side, calls, draws)
        for side, calls, draws in zip((test, cohort), called, (resampling, other), strict=True)
    ]
    found = []
    for index, (name, is_positive) in enumerate((("sensitivity", True), ("specificity", False))):
        masks = [side.is_positive == is_positive for side in (test, cohort)]
        if not all(mask.any() for mask in masks):
            continue
        rates = [
            float((calls == is_positive)[mask].mean()) for calls, mask in zip(called, masks, strict=True)
        ]
        even = [
            effective_groups_of(mask, side.groups) for mask, side in zip(masks, (test, cohort), strict=True)
        ]
        stated: Stated = too_few_groups("images of the class", min(even), MIN_GROUPS)
        if min(even) >= MIN_GROUPS:
            stated = resampling.stated(samples[1][index] - samples[0][index], max(min(even) - 1, MIN_DEGREES))
        at = "0.5" if threshold is None else "the stored threshold"
        found.append(
            _fall(name, rates[0], rates[1], stated, resampling.level, f"{name.capitalize()} at {at}")
        )
    return found


def _fall(
    measure: str, test: float, cohort: float, stated: Stated, level: float, subject: str = "It"
) -> Fall:
    interval = stated if isinstance(stated, Interval) else None
    return Fall(
        measure=measure,
        test=test,
        cohort=cohort,
        value=cohort - test,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        method="bootstrap by group of both samples, percentile" if interval else None,
        interval_reason=None if interval else str(stated),
        words=_words(subject, cohort - test, stated, level),
    )


def common_sides(test: Scored, cohort: Scored) -> tuple[Scored, Scored]:
    """Both, with the classes that both have; for two classes as they are."""
    if test.is_binary:
        return test, cohort
    common = np.intersect1d(test.labels, cohort.labels)
    return _of_classes(test, common), _of_classes(cohort, common)


def _of_classes(scored: Scored, classes: np.ndarray) -> Scored:
    if len(classes) == len(scored.class_names):
        return scored
    kept = scored.where(np.isin(scored.labels, classes))
    return replace(
        kept,
        labels=np.searchsorted(classes, kept.labels),
        probabilities=kept.probabilities[:, classes],
        class_names=tuple(scored.class_names[i] for i in classes),
    )


def _stated(sides: tuple[Scored, Scored], aucs: tuple[Auc, Auc], resampling: Resampling, name: str) -> Stated:
    for side, auc in zip(("the test set", name), aucs, strict=True):
        if (fewest := min(auc.n_groups_by_class)) < MIN_GROUPS:
            return f"{plural(fewest, 'group')} with the rarer class in {side}, floor {MIN_GROUPS}"
        if auc.value in (0.0, 1.0) or auc.no_interval_reason:
            return f"no variance in {side}"
    # Another seed for the other sample: the same draws would make them look dependent.
    other = replace(resampling, seed=resampling.seed + 1)
    samples = resampled_headline(sides[1], other) - resampled_headline(sides[0], resampling)
    return resampling.stated(samples, _welch(*aucs))


def resampled_headline(scored: Scored, resampling: Resampling) -> np.ndarray:
    """(n_resamples,) AUC, or the mean over classes of the AUC of one class against the rest."""
    if scored.is_binary:
        return resampled_auc(scored.is_positive, scored.scores, scored.groups, resampling)
    by_class = [
        resampled_auc(scored.labels == i, scored.probabilities[:, i], scored.groups, resampling)
        for i in range(len(scored.class_names))
    ]
    return np.asarray(np.mean(by_class, axis=0))


def _welch(first: Auc, second: Auc) -> float:
    variances = np.array([auc.standard_error**2 for auc in (first, second)])
    degrees = np.array([auc.degrees for auc in (first, second)])
    found = float(variances.sum() ** 2 / (variances**2 / degrees).sum())
    return max(found, MIN_DEGREES)


def _words(subject: str, value: float, stated: Stated, level: float) -> str:
    moved = f"{subject} {'falls' if value < 0 else 'rises'} by"
    if not isinstance(stated, Interval):
        return f"{moved} {abs(value):.3f}; whether that is more than chance cannot be determined: {stated}."
    size = size_of_change(value, stated.low, stated.high, interval=f"{100 * level:.0f} % interval")
    if stated.low <= 0 <= stated.high:
        return f"{moved} {size}: no more than chance may do."
    return f"{moved} {size}: more than chance."
