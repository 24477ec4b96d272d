"""Predictions -> verdicts: can the figures of this evaluation be believed?

Each check looks for one named fault and says in one sentence what it found. A failed check with
`is_blocking` refuses promotion.

How strict. A check on bytes, ids or counts is exact. A check on figures weighs two errors: letting a fault pass,
and refusing an honest model. Where the fault makes the AUC 0.5, a 95 % interval is used as it is: it lets
one mispaired evaluation in forty pass on this check alone, and the comparison with the trainer's own figure
catches that one. Simulated honest evaluations (`benchmarks/simulate_evaluation.py`) are refused in fewer than one
of a hundred; nearly all of these are weak models on few positives, which nobody could tell from chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lesion_tasks.metrics.auc import Auc
from lesion_tasks.metrics.compare import auc_difference
from lesion_tasks.metrics.headline import headline_auc
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.verdict import Status, Verdict

# A trainer may stream its AUC over 200 thresholds, which is off by some thousandths; a mispairing by tenths.
TRAINER_TOLERANCE = 0.01
# float32 sums in another order (a batch of one, another machine) differ by about 1e-6; batch norm in training
# mode or another scaling of pixels by whole hundredths.
SERVING_TOLERANCE = 1e-4
MAX_COMMONEST_SHARE = 0.99
# 99.9 %: validation chose the epoch and is a little lucky by design, and this runs on every evaluation.
GAP_LEVEL = 0.999


def ids_differ(prediction_ids: Iterable[str], manifest_ids: Iterable[str]) -> Verdict:
    """Fails unless predictions and manifest name exactly the same images, each once."""
    predicted, wanted = list(prediction_ids), list(manifest_ids)
    predicted_set, wanted_set = set(predicted), set(wanted)
    unknown, absent = predicted_set - wanted_set, wanted_set - predicted_set
    n_repeated = len(predicted) - len(predicted_set) + len(wanted) - len(wanted_set)
    numbers = {
        "n_predictions": len(predicted),
        "n_manifest": len(wanted),
        "n_unknown": len(unknown),
        "n_absent": len(absent),
        "n_repeated": n_repeated,
        "examples": sorted(unknown)[:3] + sorted(absent)[:3],
    }
    if unknown or absent or n_repeated:
        return _verdict(
            "ids_differ",
            "failed",
            f"Predictions are of other images than the manifest's: {len(unknown):,} have no manifest row, "
            f"{len(absent):,} manifest rows have no prediction, {n_repeated:,} ids are repeated.",
            numbers,
        )
    return _verdict(
        "ids_differ",
        "passed",
        f"All {len(wanted):,} images of the manifest have one prediction each.",
        numbers,
    )


def independent_of_labels(
    scored: Scored,
    *,
    threshold: float | None = None,
    trainer_auc: float | None = None,
    trainer_tolerance: float = TRAINER_TOLERANCE,
) -> Verdict:
    """Fails when nothing shows that the predictions belong to these rows. Two grounds, either is enough:

    1. The trainer measured another AUC on the same subset. Both start from the same predictions, one from labels
       in the order of its batches, the other joined by key; they can only differ when one pairing is wrong.
    2. The 95 % interval of the AUC contains 0.5. Given that the trainer agrees, the pairing is right and the
       model knows nothing, or the subset is too small to tell. Such a model must not be promoted either way, and
       its figures mean nothing, so the verdict is the same and the sentence says which it is.

    TPR and FPR at the threshold stand beside it: independence makes them equal at every threshold.
    """
    auc = headline_auc(scored)
    name = "independent_of_labels"
    if auc is None:
        return _verdict(name, "not_applicable", "A class has no image, so there is no AUC.", _counts(scored))
    interval = auc.interval()
    numbers = _counts(scored) | {"auc": auc.value, "low": interval.low, "high": interval.high}
    numbers |= {"trainer_auc": trainer_auc} | _rates(scored, threshold)
    measured = _auc_words(scored, auc)
    rates = ""
    if scored.is_binary:
        rates = (
            f" A share of {numbers['tpr']:.4f} of positives and {numbers['fpr']:.4f} of negatives "
            "is called positive."
        )
    contradicts = trainer_auc is not None and not abs(trainer_auc - auc.value) <= trainer_tolerance
    is_independent = interval.contains(0.5)
    if is_independent:
        sentence = (
            f"The predictions are independent of the labels, as far as this subset can tell: the AUC is {measured}, "
            f"whose interval contains 0.5.{rates}{_cause(trainer_auc, contradicts)}"
        )
    else:
        sentence = (
            f"The predictions do not belong to these labels: the trainer measured an AUC of {trainer_auc} on this "
            f"subset, joined by image id it is {measured}.{rates}"
        )
    if is_independent or contradicts:
        return _verdict(name, "failed", sentence, numbers)
    agreed = "" if trainer_auc is None else f"; the trainer measured {trainer_auc:.4f}"
    return _verdict(
        name, "passed", f"The predictions depend on the labels: the AUC is {measured}{agreed}.", numbers
    )


def inverted(scored: Scored) -> Verdict:
    """Fails when the AUC is below 0.5 beyond its 95 % interval: the score is that of the other class.

    With more than two classes, also when this holds for one class against the rest (an index that was swapped), at
    a level that is divided by the number of classes (Bonferroni).
    """
    auc = headline_auc(scored)
    if auc is None:
        return _verdict(
            "inverted", "not_applicable", "A class has no image, so there is no AUC.", _counts(scored)
        )
    interval = auc.interval()
    numbers = _counts(scored) | {"auc": auc.value, "low": interval.low, "high": interval.high}
    if interval.high < 0.5:
        return _verdict(
            "inverted",
            "failed",
            f"The classes are swapped: the AUC is {_auc_words(scored, auc)}, wholly below 0.5.",
            numbers,
        )
    swapped = [] if scored.is_binary else _inverted_classes(scored)
    numbers["inverted_classes"] = swapped
    if swapped:
        return _verdict(
            "inverted",
            "failed",
            f"Class {', '.join(swapped)} scores lower on its own images than on others: its index is swapped.",
            numbers,
        )
    return _verdict("inverted", "passed", f"The AUC is {_auc_words(scored, auc)}, not below 0.5.", numbers)


def _inverted_classes(scored: Scored) -> list[str]:
    level = 1 - 0.05 / len(scored.class_names)
    found = []
    for name in scored.class_names:
        auc = headline_auc(scored.against(name))
        if auc is not None and auc.interval(level).high < 0.5:
            found.append(name)
    return found


def marginals_differ(
    confusion: np.ndarray, class_names: Iterable[str], manifest_counts: Mapping[str, int]
) -> Verdict:
    """Fails unless the rows of the confusion matrix (true class) sum to the manifest's class counts."""
    measured = dict(zip(class_names, np.asarray(confusion).sum(axis=1).tolist(), strict=True))
    expected = {name: int(manifest_counts.get(name, 0)) for name in {**measured, **manifest_counts}}
    numbers = {"confusion": measured, "manifest": expected}
    wrong = [
        f"{name} {measured.get(name, 0):,} instead of {count:,}"
        for name, count in expected.items()
        if measured.get(name, 0) != count
    ]
    if wrong:
        return _verdict(
            "marginals_differ",
            "failed",
            f"This was evaluated on another set than the manifest's: {'; '.join(wrong)} images.",
            numbers,
        )
    counts = ", ".join(f"{count:,} {name}" for name, count in expected.items())
    return _verdict("marginals_differ", "passed", f"Class counts are the manifest's: {counts}.", numbers)


def degenerate(scored: Scored, *, threshold: float | None = None) -> Verdict:
    """Fails when more than 99 % of images are called the same class, or all have the same score.

    Where a class really is that common, the limit is higher: an honest model of a rare class calls few images
    positive. It fails when the other classes are called less than half as often as they occur.
    """
    if scored.n_images == 0:
        return _verdict("degenerate", "not_applicable", "There are no images.", {})
    cut = (0.5 if threshold is None else threshold) if scored.is_binary else None
    called = np.bincount(scored.predicted(cut), minlength=len(scored.class_names))
    commonest = int(called.argmax())
    share = float(called[commonest] / scored.n_images)
    true_share = float((scored.labels == commonest).mean())
    limit = max(MAX_COMMONEST_SHARE, 1 - (1 - true_share) / 2)
    is_constant = bool((np.ptp(scored.probabilities, axis=0) == 0).all())
    name = scored.class_names[commonest]
    numbers = {
        "class": name,
        "share": share,
        "true_share": true_share,
        "limit": limit,
        "is_constant": is_constant,
    }
    sentence = (
        f"A share of {share:.4f} of images is called {name}, which {true_share:.4f} are; "
        f"the limit is {limit:.4f}."
    )
    # A single image has one prediction and proves nothing.
    is_failed = (share > limit or is_constant) and scored.n_images > 1
    if is_failed and is_constant:
        sentence = f"Every image has the same scores. {sentence}"
    return _verdict("degenerate", "failed" if is_failed else "passed", sentence, numbers)


def serving_differs(
    stored: Mapping[str, Any],
    rescored: Mapping[str, Mapping[str, Any]],
    *,
    tolerance: float = SERVING_TOLERANCE,
) -> Verdict:
    """Fails unless the model, loaded afresh, gives the stored probabilities again.

    `stored`: image id -> probability or probabilities. `rescored`: a name such as `alone`, `batch`, `permuted` -> the
    same by image id, for some or all of the stored images.
    """
    if not any(rescored.values()):
        return _verdict(
            "serving_differs", "not_applicable", "No image was scored again.", {"tolerance": tolerance}
        )
    worst: dict[str, float] = {}
    for way, again in rescored.items():
        differences = [
            math.inf if isic_id not in stored else float(np.max(np.abs(np.subtract(stored[isic_id], values))))
            for isic_id, values in again.items()
        ]
        worst[way] = float(np.max(differences, initial=0.0))
    n_images = {way: len(again) for way, again in rescored.items()}
    # NaN fails too: it is not at or below the tolerance.
    failed = {way: value for way, value in worst.items() if not value <= tolerance}
    numbers = {
        "tolerance": tolerance,
        "max_difference": {way: value if math.isfinite(value) else None for way, value in worst.items()},
        "n_images": n_images,
    }
    if failed:
        words = ", ".join(f"{way} by up to {value:.2g}" for way, value in failed.items())
        return _verdict(
            "serving_differs",
            "failed",
            f"The stored model does not give the stored predictions again: {words}, tolerance {tolerance:g}.",
            numbers,
        )
    words = ", ".join(f"{way} ({n_images[way]:,} images)" for way in rescored)
    return _verdict(
        "serving_differs",
        "passed",
        f"The stored model gives the same predictions again, {words}: largest difference {max(worst.values()):.2g}.",
        numbers,
    )


def no_better_than_random_weights(model: Scored, baseline: Scored | None) -> Verdict:
    """Compares with the same recipe from random weights, on the same images.

    Blocks when the model is not better at all: then its weights were probably not loaded. A gain within its
    interval is failed too, but only told: on a small subset a true gain can look like that.
    """
    name = "no_better_than_random_weights"
    difference = None if baseline is None else auc_difference(model, baseline)
    if difference is None or difference.interval is None:
        return _verdict(name, "not_applicable", "No random-weight baseline of this recipe was trained.", {})
    numbers = difference.as_dict()
    low, high = difference.interval.low, difference.interval.high
    words = (
        f"AUC {difference.candidate:.4f} against {difference.champion:.4f} from random weights, "
        f"a difference of {difference.value:+.4f} [{low:+.4f}, {high:+.4f}]."
    )
    if difference.value <= 0:
        return _verdict(name, "failed", f"Pretraining does nothing: {words}", numbers)
    if low <= 0:
        return _verdict(
            name, "failed", f"Pretraining is not shown to help: {words}", numbers, is_blocking=False
        )
    return _verdict(name, "passed", f"Pretraining helps: {words}", numbers)


def gap(validation: Scored | None, test: Scored | None) -> Verdict:
    """Fails when validation and test AUC differ beyond the 99.9 % interval of their difference.

    The two subsets share no group, so the variances add.
    """
    first = None if validation is None else headline_auc(validation)
    second = None if test is None else headline_auc(test)
    if first is None or second is None:
        return _verdict("gap", "not_applicable", "There are not two subsets with an AUC.", {})
    difference = first.value - second.value
    error = math.hypot(first.standard_error, second.standard_error)
    half = max(auc.quantile((1 - GAP_LEVEL) / 2) for auc in (first, second)) * error
    numbers = {
        "validation_auc": first.value,
        "test_auc": second.value,
        "difference": difference,
        "allowed": half if math.isfinite(half) else None,
        "level": GAP_LEVEL,
    }
    if not math.isfinite(half):
        return _verdict(
            "gap", "not_applicable", "A subset has one group of a class, so no interval.", numbers
        )
    words = (
        f"AUC {first.value:.4f} on validation and {second.value:.4f} on test, "
        f"{abs(difference):.4f} apart where chance alone explains {half:.4f}."
    )
    if abs(difference) > half:
        return _verdict("gap", "failed", f"Validation and test tell different stories: {words}", numbers)
    return _verdict("gap", "passed", f"Validation and test agree: {words}", numbers)


def _verdict(
    name: str, status: Status, sentence: str, numbers: Mapping[str, Any], *, is_blocking: bool = True
) -> Verdict:
    return Verdict(name=name, status=status, sentence=sentence, numbers=numbers, is_blocking=is_blocking)


def _counts(scored: Scored) -> dict[str, Any]:
    return {"n_images": scored.n_images, "n_groups": scored.n_groups, "n_positives": scored.n_positives}


def _rates(scored: Scored, threshold: float | None) -> dict[str, float]:
    if not scored.is_binary:
        return {}
    called = scored.scores >= (0.5 if threshold is None else threshold)
    return {"tpr": float(called[scored.is_positive].mean()), "fpr": float(called[~scored.is_positive].mean())}


def _auc_words(scored: Scored, auc: Auc) -> str:
    interval = auc.interval()
    positives = "" if scored.n_positives is None else f", {scored.n_positives:,} positives"
    return (
        f"{auc.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] ({scored.n_images:,} images{positives})"
    )


def _cause(trainer_auc: float | None, contradicts: bool) -> str:
    if trainer_auc is None:
        return " They may be paired with the wrong rows."
    if contradicts:
        return f" The trainer measured {trainer_auc:.4f}, so they are paired with the wrong rows."
    return (
        f" The trainer measured {trainer_auc:.4f} too: the model knows nothing, or there are too few images."
    )
