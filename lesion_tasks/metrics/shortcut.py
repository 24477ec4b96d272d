"""A model and the probes beside it -> the verdict `shortcut`: does it know more than the camera does?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lesion_tasks.metrics.auc import Auc
from lesion_tasks.metrics.compare import auc_difference, check_paired
from lesion_tasks.metrics.headline import auc_within, headline_auc
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.verdict import Verdict

MAX_STRATA = 10
# With fewer groups of a class in comparable strata, even a perfect ranking has an interval near 0.5.
MIN_GROUPS_WITHIN = 10


def shortcut(model: Scored, probes: Mapping[str, Scored], *, own_inputs: Collection[str] = ()) -> Verdict:
    """Fails when the model knows no more than a probe, or nothing within one image type.

    `probes`: name -> the probe's predictions on the same images (`probes.fit_probes`). `own_inputs`: probes whose
    columns the model is meant to use (`metadata` for a model of metadata alone); shown and not judged.

    A probe convicts only when its own AUC is above 0.5 beyond its interval: a probe that knows nothing is no
    explanation of anything. It then convicts on either of two grounds:

    1. The model's AUC is not above the probe's.
    2. Among images that the probe finds alike (tenths of its score), the 95 % interval of the model's AUC contains 0.5:
       all it knows, the probe knows too. A model that learned the camera perfectly ties with the probe, and
       a tie is won half of the time; this ground catches the other half.

    The same second ground holds for images of one image type, whatever the probes know. It is not judged where the
    strata leave fewer than ten groups of a class to compare: that would refuse a small test set, not a model.
    """
    numbers: dict[str, Any] = {"probes": {}}
    auc = headline_auc(model)
    if auc is None:
        return _verdict("not_applicable", "A class has no image, so there is no AUC.", numbers)
    numbers["auc"] = auc.value
    reasons, shown = [], []
    for name, probe in probes.items():
        found = _beside(model, probe)
        found["is_judged"] = name not in own_inputs
        numbers["probes"][name] = found
        shown.append(f"{name} {found['auc']:.4f}")
        if found["is_judged"] and found["low"] > 0.5:
            reasons += _objections(name, found)
    within_type = _within_image_type(model)
    numbers["within_image_type"] = within_type
    if within_type is not None and within_type["is_judged"] and within_type["low"] <= 0.5:
        reasons.append(
            f"within one image type its AUC is {within_type['auc']:.4f} [{within_type['low']:.4f}, "
            f"{within_type['high']:.4f}]"
        )
    if not probes and within_type is None:
        return _verdict("not_applicable", "No probe could be fitted and there is one image type.", numbers)
    beside = f"AUC {auc.value:.4f}; {', '.join(shown) or 'no probe'}"
    if reasons:
        return _verdict(
            "failed",
            f"The model may know the camera and not the lesion: {'; '.join(reasons)} ({beside}).",
            numbers,
        )
    return _verdict("passed", f"The model knows more than the probes do ({beside}).", numbers)


def _verdict(status: Any, sentence: str, numbers: Mapping[str, Any]) -> Verdict:
    return Verdict(name="shortcut", status=status, sentence=sentence, numbers=numbers)


def _objections(name: str, found: Mapping[str, Any]) -> list[str]:
    reasons = []
    if found["difference"] <= 0:
        reasons.append(f"it does not beat the probe {name} (difference {found['difference']:+.4f})")
    within = found["within"]
    if within is not None and within["is_judged"] and within["low"] <= 0.5 <= within["high"]:
        reasons.append(
            f"among images that the probe {name} finds alike its AUC is {within['auc']:.4f} "
            f"[{within['low']:.4f}, {within['high']:.4f}]"
        )
    return reasons


def _beside(model: Scored, probe: Scored) -> dict[str, Any]:
    check_paired(model, probe)
    own, difference = headline_auc(probe), auc_difference(model, probe)
    if own is None or difference is None or difference.interval is None:
        raise AssertionError("the model has an AUC on these images, so the probe has one")
    interval = own.interval()
    return {
        "auc": own.value,
        "low": interval.low,
        "high": interval.high,
        "difference": difference.value,
        "difference_low": difference.interval.low,
        "difference_high": difference.interval.high,
        "within": _numbers(auc_within(model, _strata(probe))),
    }


def _strata(probe: Scored) -> np.ndarray:
    """Tenths of the probe's score; (n, K), a column per class, with more than two classes."""
    if probe.is_binary:
        return _tenths(probe.scores)
    return np.column_stack([_tenths(column) for column in probe.probabilities.T])


def _tenths(scores: np.ndarray) -> np.ndarray:
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, MAX_STRATA + 1)[1:-1]))
    return np.searchsorted(edges, scores, side="right")


def _within_image_type(model: Scored) -> dict[str, Any] | None:
    """The AUC among images of one image type; None when there is a single type, or none known."""
    image_type = model.attributes["image_type"].astype(object).fillna("missing").astype(str)
    codes, values = image_type.factorize()
    if len(values) < 2:
        return None
    strata = codes if model.is_binary else np.column_stack([codes] * len(model.class_names))
    return _numbers(auc_within(model, strata))


def _numbers(auc: Auc | None) -> dict[str, Any] | None:
    if auc is None:
        return None
    interval = auc.interval()
    return {
        "auc": auc.value,
        "low": interval.low,
        "high": interval.high,
        "n_groups_by_class": list(auc.n_groups_by_class),
        "is_judged": min(auc.n_groups_by_class) >= MIN_GROUPS_WITHIN,
    }
