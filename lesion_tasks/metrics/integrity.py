"""The integrity checks but leaks and shortcuts: predictions -> a verdict on whether their figures can be trusted.

`leaks` and `shortcut` are longer and have modules of their own.

Each check looks for one named fault and says in one sentence what it found. A failed check with
`is_blocking` prevents promotion.

Strictness: a check on bytes, ids or counts is exact. A check on figures balances two errors: letting a fault pass,
and refusing an honest model. If the fault makes the AUC 0.5, a permutation test at 5 % is used: alone, it would let
one mispaired evaluation in twenty pass, and the comparison with the trainer's own figure catches that one. If there are
too few images to tell, the verdict is `too_few` and not `failed`. Of simulated honest evaluations
(`benchmarks/simulate_evaluation.py`), fewer than one in a hundred is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lesion_tasks.catalog.printed_numbers import number, percent, signed, span
from lesion_tasks.metrics.auc import Auc
from lesion_tasks.metrics.compare import auc_difference
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.headline import headline_auc
from lesion_tasks.metrics.independence import WORTHWHILE_AUC, independence
from lesion_tasks.metrics.known_identities import KnownIdentities, sentence
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.threshold import choose_threshold
from lesion_tasks.metrics.verdict import Status, Verdict

# A trainer may stream its AUC over 200 thresholds, which is off by a few thousandths; a mispairing is off by tenths.
TRAINER_TOLERANCE = 0.01
# float32 sums in another order (a batch of one, another machine) differ by about 1e-6; batch norm in training
# mode or a different scaling of pixels makes differences of whole hundredths.
SERVING_TOLERANCE = 1e-4
# Both come from the same stored numbers; only parsing them from text can round them.
THRESHOLD_TOLERANCE = 1e-9
# Decoder versions differ by a few grey levels at an edge; a different picture, or a mark in it, by many.
PIXEL_TOLERANCE = 8
# A difference of AUCs needs this many groups of each class; a figure of fewer is one of a few patients.
MIN_GROUPS_OF_A_CLASS = 5
MAX_COMMONEST_SHARE = 0.99
# 99.9 %: the epoch was chosen on validation, whose figure is therefore a little lucky, and every evaluation is tested.
GAP_LEVEL = 0.999
N_EXAMPLES = 5


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
            f"The predictions are not for the manifest's images: {len(unknown):,} have no manifest row, "
            f"{len(absent):,} manifest rows have no prediction, {n_repeated:,} ids are repeated.",
            numbers,
        )
    return _verdict(
        "ids_differ",
        "passed",
        f"All {len(wanted):,} images of the manifest have one prediction each.",
        numbers,
    )


def predictions_altered(altered: Mapping[str, str]) -> Verdict:
    """Fails if predictions were changed after they were stored. `altered`: subset -> what was found."""
    sentence = (
        "; ".join(f"Of {subset}: {found}" for subset, found in altered.items()) + "."
        if altered
        else "The stored predictions match the digest under which they were stored."
    )
    return _verdict(
        "predictions_altered", "failed" if altered else "passed", sentence, {"altered": dict(altered)}
    )


def few_groups(scored: Scored, known: KnownIdentities | None = None) -> Verdict:
    """Too few to tell anything unless each class has images of at least `MIN_GROUPS_OF_A_CLASS` groups.

    One patient may have hundreds of images, and they say how a model does with one patient. `known`: of how many of the
    images patient and lesion are known. Cautions if that is less than half: each patient may then count as several.
    """
    n_groups = {
        name: len(np.unique(scored.groups[scored.labels == index]))
        for index, name in enumerate(scored.class_names)
    }
    fewest = min(n_groups, key=lambda name: n_groups[name])
    numbers = {"n_groups": n_groups, "needed": MIN_GROUPS_OF_A_CLASS}
    if n_groups[fewest] < MIN_GROUPS_OF_A_CLASS:
        return _verdict(
            "few_groups",
            "too_few",
            f"The images of {fewest} come from {plural(n_groups[fewest], 'group')}"
            f"{'' if known is None else f' ({known.group})'}, expected at least {MIN_GROUPS_OF_A_CLASS}.",
            numbers,
        )
    words = f"Each class has images of at least {n_groups[fewest]} groups."
    if known is None or known.state != "unknown":
        return _verdict("few_groups", "passed", words, numbers)
    words = f"{words} {sentence(known.intervals)}"
    return _verdict("few_groups", "caution", words, numbers)


def independent_of_labels(
    scored: Scored,
    *,
    threshold: float | None = None,
    trainer_auc: float | None = None,
) -> Verdict:
    """Fails if nothing shows that the predictions belong to these rows. Either of two grounds is enough:

    1. The trainer measured a different AUC on the same subset. Both start from the same predictions, one with labels
       in the order of its batches, the other joined by key; they can only differ if one pairing is wrong.
    2. Labels permuted at random among groups reach the AUC in more than 5 % of permutations, on a subset where a
       worthwhile model would nearly always stand out. If the trainer agrees, the pairing is right and the model knows
       nothing. Such a model must not be promoted either way, and its figures mean nothing.

    If even a worthwhile model could look like this, the verdict is `too_few`: nothing is proven, and nothing alleged.
    TPR and FPR at the threshold are shown beside it: independence makes them equal at every threshold.
    """
    auc, test = headline_auc(scored), independence(scored)
    name = "independent_of_labels"
    if auc is None or test is None:
        return _verdict(name, "not_applicable", "A class has no image, so there is no AUC.", _counts(scored))
    interval = auc.interval()
    numbers = _counts(scored) | {"auc": auc.value, "low": interval.low, "high": interval.high}
    numbers |= {"p_value": test.p_value, "n_permutations": test.n_permutations, "chance_error": test.error}
    numbers |= {"trainer_auc": trainer_auc} | _rates(scored, threshold)
    measured = _auc_words(scored, auc)
    dealt = f"labels permuted at random among groups give one as far from 0.5 in {percent(test.p_value)} of trials"
    if _disagree(trainer_auc, auc.value, TRAINER_TOLERANCE):
        sentence = (
            f"The predictions do not belong to these labels and may be paired with the wrong rows: the trainer "
            f"measured an AUC of {number(trainer_auc)} on this subset; "
            f"joined by image id it is {measured}.{_rates_words(numbers)}"
        )
        return _verdict(name, "failed", sentence, numbers)
    if test.is_rejected:
        agreed = "" if trainer_auc is None else f"; the trainer measured {number(trainer_auc)}"
        sentence = f"The predictions depend on the labels: the AUC is {measured}, and {dealt}{agreed}."
        return _verdict(name, "passed", sentence, numbers)
    if not test.could_tell:
        needed = math.ceil(scored.n_images * test.times_needed)
        sentence = (
            f"Too few images to tell whether the predictions depend on the labels: there are {scored.n_images:,}, and "
            f"it takes about {needed:,} such images. The AUC is {measured}, and {dealt}. "
            f"A model with a true AUC of {WORTHWHILE_AUC} could look like this."
        )
        return _verdict(name, "too_few", sentence, numbers | {"n_images_needed": needed})
    cause = (
        "They may be paired with the wrong rows."
        if trainer_auc is None
        else f"The trainer also measured {number(trainer_auc)}: the model knows nothing."
    )
    sentence = (
        f"The predictions are independent of the labels: the AUC is {measured}, and {dealt}."
        f"{_rates_words(numbers)} {cause}"
    )
    return _verdict(name, "failed", sentence, numbers)


def is_paired_wrongly(verdict: Verdict) -> bool:
    """Whether a verdict of `independent_of_labels` rests on the trainer's figure: a fault, however good the model."""
    return _disagree(verdict.numbers.get("trainer_auc"), verdict.numbers.get("auc"), TRAINER_TOLERANCE)


def _disagree(trainer_auc: float | None, auc: float | None, tolerance: float) -> bool:
    return trainer_auc is not None and auc is not None and not abs(trainer_auc - auc) <= tolerance


def inverted(scored: Scored) -> Verdict:
    """Fails if the whole 95 % interval of the AUC is below 0.5: the score is that of the other class.

    With more than two classes, also if this holds for one class against the rest (a swapped index), at a level
    divided by the number of classes (Bonferroni).
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
            f"The classes are swapped: the AUC is {_auc_words(scored, auc)}, entirely below 0.5.",
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
            f"This was evaluated on a set other than the manifest's: {'; '.join(wrong)} images.",
            numbers,
        )
    counts = ", ".join(f"{count:,} {name}" for name, count in expected.items())
    return _verdict("marginals_differ", "passed", f"Class counts are the manifest's: {counts}.", numbers)


def degenerate(scored: Scored, *, threshold: float | None = None) -> Verdict:
    """Fails if more than 99 % of images are called the same class, or all have the same score.

    If a class really is that common, the limit is higher: an honest model of a rare class calls few images
    positive. It then fails if the other classes are called less than half as often as they occur.
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
        f"{100 * share:.1f} % of images are called {name}; in truth {100 * true_share:.1f} % are, and the limit is "
        f"{100 * limit:.1f} %."
    )
    # A single image has one prediction and proves nothing.
    is_failed = (share > limit or is_constant) and scored.n_images > 1
    if is_failed and is_constant:
        sentence = f"Every image has the same scores. {sentence}"
    return _verdict("degenerate", "failed" if is_failed else "passed", sentence, numbers)


def serving_differs(
    stored: Mapping[str, Any],
    rescored: Mapping[str, Mapping[str, Any]],
) -> Verdict:
    """Fails unless the reloaded model reproduces the stored probabilities.

    `stored`: image id -> probability or probabilities. `rescored`: a name such as `alone`, `batch`, `permuted` -> the
    same by image id, for some or all of the stored images.
    """
    if not any(rescored.values()):
        return _verdict(
            "serving_differs",
            "not_applicable",
            "No image was scored again.",
            {"tolerance": SERVING_TOLERANCE},
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
    failed = {way: value for way, value in worst.items() if not value <= SERVING_TOLERANCE}
    numbers = {
        "tolerance": SERVING_TOLERANCE,
        "max_difference": {way: value if math.isfinite(value) else None for way, value in worst.items()},
        "n_images": n_images,
    }
    if failed:
        words = ", ".join(f"{way} by up to {value:.2g}" for way, value in failed.items())
        return _verdict(
            "serving_differs",
            "failed",
            f"The stored model does not reproduce the stored predictions: {words}, tolerance {SERVING_TOLERANCE:g}.",
            numbers,
        )
    words = ", ".join(f"{way} ({n_images[way]:,} images)" for way in rescored)
    return _verdict(
        "serving_differs",
        "passed",
        f"The stored model reproduces the predictions, {words}: largest difference {max(worst.values()):.2g}.",
        numbers,
    )


def pixels_differ(differences: Mapping[str, float], unreadable: Mapping[str, str]) -> Verdict:
    """Fails unless pictures decoded again give the pixels that the model was shown.

    `differences`: image id -> largest difference of a pixel, in grey levels from 0 to 255, for the pictures that were
    decoded again. `unreadable`: image id -> why its picture could not be decoded.
    """
    far = {isic_id: value for isic_id, value in differences.items() if not value <= PIXEL_TOLERANCE}
    n_asked = len(differences) + len(unreadable)
    numbers = {
        "n_images": n_asked,
        "n_different": len(far),
        "n_unreadable": len(unreadable),
        "max_difference": max(differences.values(), default=None),
        "tolerance": PIXEL_TOLERANCE,
        "examples": sorted(far)[:N_EXAMPLES] + sorted(unreadable)[:N_EXAMPLES],
    }
    if not n_asked:
        return _verdict("pixels_differ", "not_applicable", "The model uses no pictures.", numbers)
    if far or unreadable:
        why = f" ({next(iter(unreadable.values()))})" if unreadable else ""
        return _verdict(
            "pixels_differ",
            "failed",
            f"The pixels are not those of the stored pictures: of {n_asked:,} decoded again, {len(far):,} differ by "
            f"more than {PIXEL_TOLERANCE} grey levels, {len(unreadable):,} cannot be read{why}.",
            numbers,
        )
    return _verdict(
        "pixels_differ",
        "passed",
        f"{n_asked:,} pictures decoded again give the pixels that the model was shown.",
        numbers,
    )


def threshold_differs(stored: float | None, validation: Scored) -> Verdict:
    """Fails unless the threshold stored with the model is the one that its predictions on val give.

    `validation` is val of the manifest that the model was trained on: the threshold was chosen there.
    """
    name = "threshold_differs"
    if not validation.is_binary:
        if stored is None:
            return _verdict(
                name, "not_applicable", "With more than two classes the most likely is called.", {}
            )
        sentence = (
            f"A threshold of {stored:.6g} is stored with a model for {len(validation.class_names)} classes."
        )
        return _verdict(name, "failed", sentence, {"stored": stored})
    if not 0 < (validation.n_positives or 0) < validation.n_images:
        return _verdict(name, "not_applicable", "A class has no image on val, so there is no threshold.", {})
    chosen = choose_threshold(validation).value
    numbers = {"stored": stored, "chosen": chosen, "tolerance": THRESHOLD_TOLERANCE}
    if stored is None or not abs(stored - chosen) <= THRESHOLD_TOLERANCE:
        words = "No threshold is" if stored is None else f"A threshold of {stored:.6g} is"
        sentence = f"{words} stored with the model; the predictions on val give {chosen:.6g}."
        return _verdict(name, "failed", sentence, numbers)
    sentence = f"The stored threshold of {stored:.6g} is the one that the predictions on val give."
    return _verdict(name, "passed", sentence, numbers)


def labels_changed(manifest: Mapping[str, str], today: Mapping[str, str | None]) -> Verdict:
    """Cautions if images have a different label today than in the manifest, or none.

    `manifest`: image id -> label; `today`: image id -> the label that the task gives the image now, None if no rule of
    the task matches; a missing id is no longer in the database. The measured figures stay unchanged.
    """
    gone = sorted(set(manifest) - set(today))
    changed = sorted(
        isic_id for isic_id, label in manifest.items() if isic_id in today and today[isic_id] != label
    )
    numbers = {
        "n_images": len(manifest),
        "n_changed": len(changed),
        "n_gone": len(gone),
        "examples": {isic_id: [manifest[isic_id], today[isic_id]] for isic_id in changed[:N_EXAMPLES]},
        "examples_gone": gone[:N_EXAMPLES],
    }
    if not changed and not gone:
        sentence = f"All {len(manifest):,} labels of test are the same in the archive today."
        return _verdict("labels_changed", "passed", sentence, numbers, is_blocking=False)
    parts = []
    if changed:
        shown = ", ".join(f"{i} from {manifest[i]} to {today[i] or 'none'}" for i in changed[:N_EXAMPLES])
        parts.append(
            f"{len(changed):,} of {len(manifest):,} labels of test have changed since: {shown}"
            + (" and others" if len(changed) > N_EXAMPLES else "")
        )
    if gone:
        parts.append(f"{len(gone):,} of {len(manifest):,} images of test are no longer in the database")
    return _verdict("labels_changed", "caution", f"{'; '.join(parts)}.", numbers, is_blocking=False)


def no_better_than_random_weights(
    model: Scored, baseline: Scored | None, *, is_pretrained: bool = True
) -> Verdict:
    """Compares with the same recipe from random weights, on the same images; if nothing is pretrained, with none.

    Blocks if the model is not better at all: then its weights were probably not loaded. A gain whose interval includes
    0 fails too but does not block: on a small subset a true gain can look like that.
    """
    name = "no_better_than_random_weights"
    if not is_pretrained:
        return _verdict(
            name, "not_applicable", "Nothing of this recipe is pretrained: it learns from scratch.", {}
        )
    difference = None if baseline is None else auc_difference(model, baseline)
    if difference is None or difference.interval is None:
        return _verdict(name, "not_applicable", "No random-weight baseline of this recipe was trained.", {})
    numbers = difference.published().model_dump(exclude_unset=True)
    low, high = difference.interval.low, difference.interval.high
    words = (
        f"AUC {number(difference.candidate)} against {number(difference.champion)} from random weights, "
        f"a difference of {signed(difference.value)} ({signed(low)} to {signed(high)})."
    )
    if difference.value <= 0:
        return _verdict(name, "failed", f"Pretraining does nothing: {words}", numbers)
    if low <= 0:
        return _verdict(
            name, "failed", f"Pretraining is not shown to help: {words}", numbers, is_blocking=False
        )
    return _verdict(name, "passed", f"Pretraining helps: {words}", numbers)


def gap(validation: Scored | None, test: Scored | None) -> Verdict:
    """Fails if validation and test AUC differ beyond the 99.9 % interval of their difference.

    The two subsets share no group, so the variances add.
    """
    first = None if validation is None else headline_auc(validation)
    second = None if test is None else headline_auc(test)
    if first is None or second is None:
        return _verdict("gap", "not_applicable", "Fewer than two subsets have an AUC.", {})
    difference = first.value - second.value
    error = math.hypot(first.standard_error, second.standard_error)
    half = max(auc.quantile((1 - GAP_LEVEL) / 2) for auc in (first, second)) * error
    numbers = {
        "val_auc": first.value,
        "test_auc": second.value,
        "difference": difference,
        "allowed": half if math.isfinite(half) else None,
        "level": GAP_LEVEL,
    }
    if not math.isfinite(half):
        return _verdict(
            "gap", "not_applicable", "A subset has only one group of a class, so no interval.", numbers
        )
    words = (
        f"AUC {number(first.value)} on val and {number(second.value)} on test, "
        f"{number(abs(difference))} apart where chance alone explains {number(half)}."
    )
    if abs(difference) > half:
        return _verdict("gap", "failed", f"Val and test tell different stories: {words}", numbers)
    return _verdict("gap", "passed", f"Val and test agree: {words}", numbers)


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
    return f"{number(auc.value)} ({span(interval.low, interval.high)}; {scored.n_images:,} images{positives})"


def _rates_words(numbers: Mapping[str, Any]) -> str:
    if "tpr" not in numbers:
        return ""
    shares = [percent(numbers[name]) for name in ("tpr", "fpr")]
    return f" {shares[0]} of positives and {shares[1]} of negatives are called positive."
