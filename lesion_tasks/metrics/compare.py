"""Two models on the same images -> the difference of every measure, pair by pair, resampling groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesion_tasks import UnusableInputError
from lesion_tasks.metrics.auc import Auc, weighted_sum
from lesion_tasks.metrics.binary import MIN_GROUPS
from lesion_tasks.metrics.comparison_document import PublishedDifference, PublishedSliceDifference, TwoByTwo
from lesion_tasks.metrics.counted import too_few_groups
from lesion_tasks.metrics.degrees_of_freedom import MIN_DEGREES, effective_groups_of
from lesion_tasks.metrics.figure import Interval, Stated
from lesion_tasks.metrics.headline import headline_auc
from lesion_tasks.metrics.ranking import CURVE_MEASURES, ranking_part, ranking_values, too_few_to_rank
from lesion_tasks.metrics.ranking import MIN_GROUPS as MIN_GROUPS_OF_MEASURE
from lesion_tasks.metrics.resample import CountTable, Part, Resampling, resample
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.slices import slice_masks, too_small

PAIRED_METHOD = "paired DeLong by group"
EXACT_METHOD = "exact limit of no exception among pairs of groups"


LEVEL = 0.95  # of all slices together


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`candidate` minus `champion` on one measure; positive is better for the candidate.

    `p_value` is two-sided for no difference, None for measures without their own test. `interval_reason` says why
    there is no interval.
    """

    measure: str
    candidate: float
    champion: float
    value: float
    interval: Interval | None
    interval_reason: str | None = None
    p_value: float | None = None
    other_intervals: tuple[Interval, ...] = ()

    def published(self) -> PublishedDifference:
        """What is stored of it; `interval_reason` is set only where there is one."""
        why: dict[str, Any] = {"interval_reason": self.interval_reason} if self.interval_reason else {}
        return PublishedDifference(
            measure=self.measure,
            candidate=self.candidate,
            champion=self.champion,
            value=self.value,
            low=self.interval.low if self.interval else None,
            high=self.interval.high if self.interval else None,
            method=self.interval.method if self.interval else None,
            p_value=self.p_value,
            other_intervals=[interval.published() for interval in self.other_intervals],
            **why,
        )


def check_paired(first: Scored, second: Scored) -> None:
    """Raise UnusableInputError unless both hold the same images, labels, groups and classes, in the same order."""
    if first.class_names != second.class_names or first.positive_class != second.positive_class:
        raise UnusableInputError(
            f"models have classes {first.class_names} and {second.class_names}, expected the same"
        )
    if not np.array_equal(first.isic_ids, second.isic_ids):
        n_shared = len(np.intersect1d(first.isic_ids.astype(str), second.isic_ids.astype(str)))
        raise UnusableInputError(
            f"predictions are of {first.n_images} and {second.n_images} images with {n_shared} in common, "
            "expected the same images"
        )
    if not np.array_equal(first.labels, second.labels) or not np.array_equal(
        first.group_ids, second.group_ids
    ):
        raise UnusableInputError("the same images have different labels or groups, expected one manifest")


def auc_difference(candidate: Scored, champion: Scored, level: float = 0.95) -> Difference | None:
    """Paired difference of (macro) AUC with DeLong's test, by group; None if the AUC is undefined.

    If neither model's AUC varies (all pairs ranked correctly, or all scores the same) the variance of 0 is not
    certainty: then `_exact` applies. Identical scores mean one model, and the difference is 0.
    """
    check_paired(candidate, champion)
    first, second = headline_auc(candidate), headline_auc(champion)
    if first is None or second is None:
        return None
    difference = weighted_sum([first, second], [1, -1])
    error, value = difference.standard_error, difference.value
    if np.array_equal(candidate.probabilities, champion.probabilities):
        interval, p_value = Interval(low=0.0, high=0.0, method="none needed: the same scores"), 1.0
    elif error == 0:
        interval, p_value = _exact(difference, level)
    else:
        half = difference.quantile((1 - level) / 2) * error
        interval = Interval(low=max(value - half, -1.0), high=min(value + half, 1.0), method=PAIRED_METHOD)
        p_value = difference.p_value()
    return Difference(
        measure="auc" if candidate.is_binary else "macro_auc",
        candidate=first.value,
        champion=second.value,
        value=value,
        interval=interval,
        p_value=p_value,
    )


def _exact(difference: Auc, level: float) -> tuple[Interval, float]:
    """Interval and p value of a difference without variance: no pair of groups is an exception to it.

    m pairs (see `Auc.interval`) without an exception allow a share of exceptions up to 1 - ((1 - level) / 2)^(1/m). The
    p value is that of a sign test on m pairs that all favour one model; 1 if they favour neither.
    """
    slack = 1 - difference.limit_of_no_exception((1 - level) / 2)
    value = difference.value
    low, high = max(value - slack, -1.0), min(value + slack, 1.0)
    # limit_of_no_exception(1/2) is 0.5^(1/m).
    n_pairs = math.log(0.5) / math.log(difference.limit_of_no_exception(0.5))
    p_value = 1.0 if value == 0 else min(2 * 0.5**n_pairs, 1.0)
    return Interval(low=low, high=high, method=EXACT_METHOD), p_value


@dataclass(frozen=True, kw_only=True)
class SliceDifference:
    """The (macro) AUC of both models on the images with one value of one attribute; `reason` says why there is none."""

    attribute: str
    value: str
    n_images: int
    n_groups: int
    n_positives: int | None
    reason: str | None
    difference: Difference | None

    def published(self) -> PublishedSliceDifference:
        difference = self.difference.published() if self.difference else None
        return PublishedSliceDifference(**vars(self) | {"difference": difference})


def compare_slices(candidate: Scored, champion: Scored) -> list[SliceDifference]:
    """Paired difference of AUC on every slice that is large enough to be scored.

    The intervals hold jointly: each has the level 1 - (1 - `LEVEL`) / number of slices compared (Bonferroni), so that
    one model in twenty, not one slice in twenty, looks worse somewhere by chance.
    """
    check_paired(candidate, champion)
    # A value that all images share does not divide them, and would only widen the others' intervals.
    masks = [part for part in slice_masks(candidate.attributes) if not part[2].all()]
    reasons = [_not_compared(candidate.where(mask)) for _, _, mask in masks]
    joint = 1 - (1 - LEVEL) / max(reasons.count(None), 1)
    found = []
    for (attribute, value, mask), reason in zip(masks, reasons, strict=True):
        part = candidate.where(mask)
        found.append(
            SliceDifference(
                attribute=attribute,
                value=value,
                n_images=part.n_images,
                n_groups=part.n_groups,
                n_positives=part.n_positives,
                reason=reason,
                difference=None if reason else auc_difference(part, champion.where(mask), joint),
            )
        )
    return found


def _not_compared(part: Scored) -> str | None:
    if reason := too_small(part):
        return reason
    absent = [name for name, count in part.class_counts.items() if count == 0]
    return f"no image of class {', '.join(absent)}" if absent else None


def compare(
    candidate: Scored,
    champion: Scored,
    *,
    threshold: float | None = None,
    champion_threshold: float | None = None,
    resampling: Resampling | None = None,
) -> dict[str, Difference]:
    """Every ranking measure, and sensitivity, specificity and (balanced) accuracy at each model's own threshold.

    Both models are measured on the same draws of groups. A measure that is undefined on these images is left out.
    """
    check_paired(candidate, champion)
    resampling = resampling or Resampling()
    first, second = (
        _values(candidate, threshold, resampling),
        _values(champion, champion_threshold, resampling),
    )
    found = {}
    even = _even_groups(candidate)
    is_same = np.array_equal(candidate.probabilities, champion.probabilities)
    is_same = is_same and threshold == champion_threshold
    for name in first:
        (value, samples), (other, other_samples) = first[name], second[name]
        stated: Stated = _too_few(name, even) or resampling.stated(
            samples - other_samples, max(min(even) - 1, MIN_DEGREES)
        )
        if is_same:
            stated = Interval(low=0.0, high=0.0, method="none needed: the same scores")
        found[name] = Difference(
            measure=name,
            candidate=value,
            champion=other,
            value=value - other,
            interval=stated if isinstance(stated, Interval) else None,
            interval_reason=stated if isinstance(stated, str) else None,
        )
    test = auc_difference(candidate, champion, resampling.level)
    if test is not None:
        bootstrap = found[test.measure].interval
        found[test.measure] = Difference(
            measure=test.measure,
            candidate=test.candidate,
            champion=test.champion,
            value=test.value,
            interval=test.interval,
            p_value=test.p_value,
            other_intervals=(bootstrap,) if bootstrap else (),
        )
    return found


def _even_groups(scored: Scored) -> list[float]:
    """The effective number of groups of each class, the positive one first."""
    order = [index for index, _ in enumerate(scored.class_names)]
    if scored.positive_class is not None:
        order.sort(key=lambda index: scored.class_names[index] != scored.positive_class)
    return [effective_groups_of(scored.labels == index, scored.groups) for index in order]


def _too_few(name: str, even: list[float]) -> str | None:
    """Why a difference has no interval with these effective numbers of groups by class, or None."""
    ranked = name.removeprefix("macro_")
    if ranked in MIN_GROUPS_OF_MEASURE:
        return too_few_to_rank(ranked, even[0], min(even[1:]))
    if min(even) < MIN_GROUPS:
        return too_few_groups("images of a class", min(even), MIN_GROUPS)
    return None


Sampled = tuple[float, np.ndarray]


def _values(scored: Scored, threshold: float | None, resampling: Resampling) -> dict[str, Sampled]:
    """Measure -> its value and its (n_resamples,) resamples."""
    if scored.n_images == 0 or min(scored.class_counts.values()) == 0:
        return {}
    sides = {"": scored} if scored.is_binary else {name: scored.against(name) for name in scored.class_names}
    names = ("auc", "average_precision", *(CURVE_MEASURES if scored.is_binary else ()))
    hits = _hits_part(scored, threshold)
    rankings = {
        f"ranking {name}": ranking_part(side.is_positive, side.scores, scored.groups, names)
        for name, side in sides.items()
    }
    sampled = resample({"hits": hits} | rankings, scored.n_groups, resampling)
    rows = np.mean([sampled[name] for name in rankings], axis=0)
    values = [ranking_values(side.is_positive, side.scores) for side in sides.values()]
    prefix = "" if scored.is_binary else "macro_"
    found = {
        f"{prefix}{name}": (float(np.mean([value[name] for value in values])), row)
        for name, row in zip(names, rows, strict=True)
    }
    once = hits.measure(np.ones((scored.n_groups, 1), dtype=np.uint16))[:, 0]
    by_hits = zip(_hit_names(scored), once, sampled["hits"], strict=True)
    return found | {name: (float(value), row) for name, value, row in by_hits}


def _hit_names(scored: Scored) -> list[str]:
    if scored.is_binary:
        return ["balanced_accuracy", "accuracy", "sensitivity", "specificity"]
    return ["balanced_accuracy", "accuracy", *(f"recall_{name}" for name in scored.class_names)]


def _hits_part(scored: Scored, threshold: float | None) -> Part:
    """The measures `_hit_names` of every resample, (measures, r)."""
    n_classes = len(scored.class_names)
    cut = (0.5 if threshold is None else threshold) if scored.is_binary else None
    is_hit = scored.predicted(cut) == scored.labels
    table = CountTable(scored.labels + n_classes * is_hit, scored.groups, 2 * n_classes, scored.n_groups)

    def measure(counts: np.ndarray) -> np.ndarray:
        misses, hits = table(counts).astype(np.float64).reshape(2, n_classes, -1)
        trials = hits + misses
        with np.errstate(invalid="ignore"):
            recall = hits / trials
        by_class = recall
        if scored.positive_class is not None:
            positive = scored.class_names.index(scored.positive_class)
            by_class = recall[[positive, 1 - positive]]
        accuracy = hits.sum(axis=0) / trials.sum(axis=0)
        return np.vstack([recall.mean(axis=0), accuracy, by_class])

    return Part(measure=measure, n_rows=table.n_bins)


def two_by_two(
    *,
    old_model_old_data: Scored,
    old_model_new_data: Scored,
    new_model_old_data: Scored,
    new_model_new_data: Scored,
) -> TwoByTwo:
    """Why the (macro) AUC changed: both models on both data sets, and how much each contributed to the change.

    The change from the old model on old data to the new model on new data is
    `model_effect` + `data_effect`, each the mean over both orders of changing one thing at a time (Shapley 1953); None
    if a figure is undefined.
    """
    check_paired(old_model_old_data, new_model_old_data)
    check_paired(old_model_new_data, new_model_new_data)
    cells = {
        "old_model_old_data": old_model_old_data,
        "old_model_new_data": old_model_new_data,
        "new_model_old_data": new_model_old_data,
        "new_model_new_data": new_model_new_data,
    }
    value = {name: _headline_value(scored) for name, scored in cells.items()}
    effects: dict[str, float | None] = {"move": None, "model_effect": None, "data_effect": None}
    known = {name: number for name, number in value.items() if number is not None}
    if len(known) == len(cells):
        old_old, old_new, new_old, new_new = (known[name] for name in cells)
        effects = {
            "move": new_new - old_old,
            "model_effect": ((new_old - old_old) + (new_new - old_new)) / 2,
            "data_effect": ((old_new - old_old) + (new_new - new_old)) / 2,
        }
    return TwoByTwo(**value, **effects)


def _headline_value(scored: Scored) -> float | None:
    auc = headline_auc(scored)
    return None if auc is None else auc.value
