"""A `Scored` -> how far its figures differ between skin types, sexes and ages, and what of that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t as student

from lesion_tasks.catalog.printed_numbers import signed
from lesion_tasks.metrics.auc import LEVEL
from lesion_tasks.metrics.binary import MIN_GROUPS, called_positive, figure_of, stated_auc
from lesion_tasks.metrics.counted import plural, too_few_groups
from lesion_tasks.metrics.degrees_of_freedom import degrees_of_freedom, effective_groups_of, satterthwaite
from lesion_tasks.metrics.document_schema import Figures
from lesion_tasks.metrics.fairness_document import (
    AttributeFairness,
    Fairness,
    FairnessGap,
    FairnessPart,
    PartGap,
)
from lesion_tasks.metrics.figure import Interval, Stated
from lesion_tasks.metrics.headline import headline_auc
from lesion_tasks.metrics.proportion import proportion_interval
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.slices import MISSING, slice_masks, too_small

ATTRIBUTES = ("fitzpatrick_skin_type", "sex", "age_years")
WALD = "Wald with the variance by group (CR2), Student's t"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Estimate:
    """A measure on one part. `influence` (G,): each group's share in its deviation, over all groups of the sample.

    `joint`: its interval at the level at which those of all pairs of parts hold together.
    """

    value: float
    influence: np.ndarray
    interval: Stated
    joint: Stated


def measure_fairness(scored: Scored, threshold: float | None, *, sample: str, n_shared: int = 0) -> Fairness:
    """Discrimination, calibration and error rates of each part, and the largest gap of each measure between two parts.

    `threshold`: the stored one; None: one half. A part that is too small for a slice is listed and not measured; images
    without a value are not part of it. The interval of a gap combines those of its two parts (Zou & Donner 2008,
    doi:10.1002/sim.3095), with the correlation that groups in both parts bring. Its level is Bonferroni's for the pairs
    of parts, since the largest of many is looked at. It is not corrected for the number of measures and attributes,
    which is told.
    `n_shared`: images that are left out, since the sample has them already.
    """
    attributes = [_attribute(scored, name, threshold) for name in ATTRIBUTES]
    return Fairness(
        sample=sample,
        n_images=scored.n_images,
        n_groups=scored.n_groups,
        attributes=attributes,
        n_shared=n_shared,
        words=" ".join(filter(None, [_looks(attributes, sample), _shared(n_shared)])),
    )


def _looks(attributes: Sequence[AttributeFairness], sample: str) -> str:
    n_looks = sum(gap.largest.low is not None for one in attributes for gap in one.gaps)
    if n_looks == 0:
        return ""
    words = (
        f"{n_looks} largest gaps are looked at, each at {100 * (1 - LEVEL):.0f} %: were there none at all, about "
        f"{(1 - LEVEL) * n_looks:.1f} would still be called more than chance."
    )
    if sample == "pooled":
        words += (
            " Some people come from one data set more than from another: a gap may be one between data sets."
        )
    return words


def _shared(n_shared: int) -> str:
    if not n_shared:
        return ""
    verb = "is" if n_shared == 1 else "are"
    return f"{plural(n_shared, 'image')} of one data set {verb} in another too, and counted once."


def pool(samples: Mapping[str, Scored], contents: Mapping[str, str] | None = None) -> Scored:
    """All images of several samples of one task as one sample; an image in several of them counts once.

    `contents`: image id -> a hash of its bytes, where one picture may have several names.
    """
    parts, seen = [], set[str]()
    for scored in samples.values():
        known = [(contents or {}).get(isic_id, isic_id) for isic_id in scored.isic_ids]
        is_new = ~np.array([one in seen for one in known], dtype=bool) & ~pd.Index(known).duplicated()
        seen.update(known)
        parts.append(scored.where(is_new))
    return Scored(
        isic_ids=np.concatenate([one.isic_ids for one in parts]),
        labels=np.concatenate([one.labels for one in parts]),
        probabilities=np.concatenate([one.probabilities for one in parts]),
        group_ids=np.concatenate([one.group_ids for one in parts]),
        class_names=parts[0].class_names,
        positive_class=parts[0].positive_class,
        # As objects: where one sample knows nothing, its column has no type to agree on.
        attributes=pd.concat([one.attributes.astype(object) for one in parts], ignore_index=True),
    )


def _attribute(scored: Scored, attribute: str, threshold: float | None) -> AttributeFairness:
    masks = {
        value: mask for _, value, mask in slice_masks(scored.attributes[[attribute]]) if value != MISSING
    }
    if attribute == "fitzpatrick_skin_type":
        masks = dict(sorted(masks.items()))
    reasons = {value: _why_not(scored.where(mask)) for value, mask in masks.items()}
    measured = [value for value, reason in reasons.items() if reason is None]
    n_pairs = math.comb(len(measured), 2)
    joint = 1 - (1 - LEVEL) / max(n_pairs, 1)
    found = {value: dict(_estimates(scored, masks[value], threshold, joint)) for value in measured}
    names = list(dict.fromkeys(name for some in found.values() for name in some))
    reason = None
    if n_pairs == 0:
        reason = (
            f"{len(measured)} of {len(masks)} parts large enough, expected two"
            if masks
            else "no value is known"
        )
    return AttributeFairness(
        attribute=attribute,
        parts=[
            _part(scored.where(mask), value, reasons[value], found.get(value, {}))
            for value, mask in masks.items()
        ],
        gaps=[]
        if reason
        else [_gap(name, {value: found[value][name] for value in measured}) for name in names],
        reason=reason,
    )


def _why_not(part: Scored) -> str | None:
    absent = [name for name, n in part.class_counts.items() if n == 0]
    return too_small(part) or (f"no image of class {', '.join(absent)}" if absent else None)


def _part(part: Scored, value: str, reason: str | None, found: Mapping[str, _Estimate]) -> FairnessPart:
    build = figure_of(part)
    figures: Figures = {name: build(one.value, one.interval).published() for name, one in found.items()}
    return FairnessPart(
        value=value,
        n_images=part.n_images,
        n_groups=part.n_groups,
        n_positives=part.n_positives,
        reason=reason,
        figures=figures,
    )


def _estimates(
    scored: Scored, mask: np.ndarray, threshold: float | None, joint: float
) -> Iterator[tuple[str, _Estimate]]:
    """Each measure on the images in `mask`; every class has images there."""
    part = scored.where(mask)
    place = scored.groups[mask][
        np.unique(part.groups, return_index=True)[1]
    ]  # of the part's groups in the sample

    def estimate(value: float, influence: np.ndarray, low_level: Stated, high_level: Stated) -> _Estimate:
        spread = np.zeros(scored.n_groups)
        spread[place] = influence
        return _Estimate(value=value, influence=spread, interval=low_level, joint=high_level)

    auc = headline_auc(part)
    if auc is not None:
        name = "auc" if part.is_binary else "macro_auc"
        yield name, estimate(auc.value, auc.influence, stated_auc(auc, LEVEL), stated_auc(auc, joint))
    everyone = np.ones(part.n_images, dtype=bool)
    if part.is_binary:
        called = called_positive(part, threshold)
        rates = {"sensitivity": (called, part.is_positive), "specificity": (~called, ~part.is_positive)}
    else:
        rates = {"accuracy": (part.predicted() == part.labels, everyone)}
    for name, (hits, trials) in rates.items():
        value, influence = _mean(hits.astype(np.float64), trials, part.groups)
        few = _few(trials, part.groups)
        both = [few or proportion_interval(hits & trials, trials, part.groups, at) for at in (LEVEL, joint)]
        yield name, estimate(value, influence, *both)
    if part.is_binary:
        excess = part.scores - part.is_positive
        value, influence = _mean(excess, everyone, part.groups)
        few = _few(everyone, part.groups)
        both = [few or _wald(value, influence, excess, part.groups, at) for at in (LEVEL, joint)]
        yield "risk_overstated", estimate(value, influence, *both)


def _few(trials: np.ndarray, groups: np.ndarray) -> str | None:
    even = effective_groups_of(trials, groups)
    return too_few_groups("images", even, MIN_GROUPS) if even < MIN_GROUPS else None


def _mean(values: np.ndarray, trials: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of `values` over `trials`, and (G,) each group's influence, corrected for leverage (CR2)."""
    n_groups, n_trials = int(groups.max()) + 1, int(trials.sum())
    value = float(values[trials].mean())
    deviations = np.bincount(groups[trials], values[trials] - value, n_groups)
    share = np.bincount(groups[trials], minlength=n_groups) / n_trials
    return value, deviations / n_trials / np.sqrt(1 - np.minimum(share, 0.99))


def _wald(
    value: float, influence: np.ndarray, values: np.ndarray, groups: np.ndarray, level: float
) -> Interval:
    degrees = degrees_of_freedom([satterthwaite(values - value, groups)], len(influence))
    half = float(student.isf((1 - level) / 2, degrees)) * math.sqrt(float(influence @ influence))
    return Interval(low=value - half, high=value + half, method=WALD)


def _gap(measure: str, found: Mapping[str, _Estimate]) -> FairnessGap:
    """The largest gap of a measure, and the largest that is more than chance, which need not be the same."""
    untold = {name: one.joint for name, one in found.items() if isinstance(one.joint, str)}
    told = [name for name in found if name not in untold]
    pairs = [
        _difference(one, other, found) for one, other in combinations(told if len(told) > 1 else found, 2)
    ]
    pairs.sort(key=lambda pair: -pair.value)
    certain = next((pair for pair in pairs if pair.low is not None and pair.low > 0), None)
    return FairnessGap(
        measure=measure,
        n_pairs=len(pairs),
        largest=pairs[0],
        untold=untold,
        certain=certain,
        words=_words(pairs[0], certain, found, untold),
    )


def _difference(one: str, other: str, found: Mapping[str, _Estimate]) -> PartGap:
    higher, lower = (one, other) if found[one].value >= found[other].value else (other, one)
    a, b = found[higher], found[lower]
    value = a.value - b.value
    if not isinstance(a.joint, Interval) or not isinstance(b.joint, Interval):
        lacking, why = next(
            (name, found[name].joint) for name in (higher, lower) if isinstance(found[name].joint, str)
        )
        return PartGap(
            higher=higher, lower=lower, value=value, low=None, high=None, interval_reason=f"{lacking}: {why}"
        )
    return PartGap(
        higher=higher,
        lower=lower,
        value=value,
        low=value - _joined(a.value - a.joint.low, b.joint.high - b.value, a, b),
        high=value + _joined(a.joint.high - a.value, b.value - b.joint.low, a, b),
    )


def _joined(first: float, second: float, a: _Estimate, b: _Estimate) -> float:
    """The margins of two estimates as one of their difference, with the correlation of the two."""
    norm = math.sqrt(float(a.influence @ a.influence) * float(b.influence @ b.influence))
    likeness = float(a.influence @ b.influence) / norm if norm else 0.0
    return math.sqrt(max(first**2 + second**2 - 2 * likeness * first * second, 0.0))


def _words(
    largest: PartGap, certain: PartGap | None, found: Mapping[str, _Estimate], untold: Mapping[str, str]
) -> str:
    told = (
        f"Largest gap {largest.value:.3f}: {found[largest.higher].value:.3f} for {largest.higher}, "
        f"{found[largest.lower].value:.3f} for {largest.lower}"
    )
    if largest.low is None or largest.high is None:
        told += f"; whether that is more than chance cannot be determined ({largest.interval_reason})."
    else:
        told += f" (95 % interval {signed(largest.low)} to {signed(largest.high)})"
        told += ": more than chance." if certain == largest else ": no more than chance may do."
    if certain is not None and certain != largest:
        told += (
            f" Between {certain.higher} and {certain.lower} it is {certain.value:.3f}, at least {certain.low:.3f}: "
            "more than chance."
        )
    elsewhere = [
        f"{name} ({why})" for name, why in untold.items() if name not in (largest.higher, largest.lower)
    ]
    if elsewhere:
        told += f" Cannot be determined for {', '.join(elsewhere)}."
    return told
