"""A model and its probes -> the verdict `shortcut`: does it know more than the archive's traces reveal?

A fact that is correlated with the class proves nothing: one institution may really see more melanomas. What counts is
whether the model knows anything at equal facts. A model that knows the lesion does; one that took a shortcut does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lesion_tasks.catalog.printed_numbers import number, signed, span
from lesion_tasks.metrics.auc import Auc
from lesion_tasks.metrics.beyond_probe import Beyond, beyond
from lesion_tasks.metrics.compare import Difference, auc_difference, check_paired
from lesion_tasks.metrics.headline import auc_within, headline_auc
from lesion_tasks.metrics.independence import WORTHWHILE_AUC
from lesion_tasks.metrics.probes import Probe
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.verdict import Verdict

# With fewer groups of a class to compare, even a perfect ranking has an interval near 0.5.
MIN_GROUPS = 10
# A model whose AUC at equal facts is certainly below this is useless.
MIN_BEYOND = 0.6
# If the facts leave less than this of the labels' variance open, there is nothing to compare at equal facts.
MIN_OPEN_SHARE = 0.1
# Age, sex and size together tell honest labels apart far less well than this.
SETTLING_AUC = 0.99


def shortcut(
    model: Scored,
    probes: Mapping[str, Probe],
    *,
    unjudged: Mapping[str, str] | None = None,
    n_images_of_train: int | None = None,
) -> Verdict:
    """Fails if the model knows no more than a probe, or nothing within one image type.

    `probes`: name -> probe on the same images (`probes.fit_probes`). `unjudged`: probes that are shown but not
    judged, with the reason (`metadata` for a model that is meant to use them). `n_images_of_train`: all that there are,
    of which probes may have been fitted on some alone.

    A probe counts against the model only if its own AUC is above 0.5 beyond its interval: a probe that knows nothing
    explains nothing. Then:

    1. At equal facts (`beyond`) the model's AUC must not be certainly below 0.6. If it may be 0.5 as well as more, and
       the model does not beat the probe either, there are too few images to tell.
    2. If the facts settle nearly every label there are no equal facts to compare at, and a model that ties with the
       probe may be the probe. One that is clearly worse knows something else, and nothing shows what.

    Within one image type, whatever the probes know, the AUC must not be certainly about 0.5 either.
    """
    unjudged = unjudged or {}
    auc = headline_auc(model)
    if auc is None:
        return _verdict("not_applicable", "A class has no image, so there is no AUC.", {"probes": {}})
    compared = {
        name: _Compared.of(model, probe, is_judged=name not in unjudged) for name, probe in probes.items()
    }
    n_fitted = max((probe.n_fitted for probe in probes.values()), default=0)
    within_type = _within_image_type(model)
    numbers = {
        "auc": auc.value,
        "probes": {name: asdict(one.numbers) for name, one in compared.items()},
        "unjudged": dict(unjudged),
        "n_images_fitted": n_fitted,
        "n_images_of_train": n_images_of_train,
        "within_image_type": within_type and asdict(within_type),
    }
    if not probes and within_type is None:
        return _verdict(
            "not_applicable", "No probe could be fitted and there is only one image type.", numbers
        )
    reasons = [reason for name, one in compared.items() if (reason := one.objection(name))]
    if within_type is not None and within_type.is_judged and within_type.is_about_half:
        reasons.append(
            f"within one image type its AUC is {number(within_type.auc)} ({span(within_type.low, within_type.high)})"
        )
    account = _account(auc, compared, unjudged)
    if n_images_of_train is not None and 0 < n_fitted < n_images_of_train:
        account += f" The probes were fitted on {n_fitted:,} of {n_images_of_train:,} train images."
    if reasons:
        return _verdict(
            "failed",
            f"The model may know the archive and not the lesion: {'; '.join(reasons)}. {account}",
            numbers,
        )
    doubts = [doubt for name, one in compared.items() if (doubt := one.doubt(name))]
    if doubts:
        return _verdict(
            "too_few",
            f"Too few images to tell whether the model knows more than the archive: there are {model.n_images:,}, and "
            f"{'; '.join(doubts)}. {account}",
            numbers,
        )
    settled = [f"{name} (AUC {number(one.auc)})" for name, one in compared.items() if one.settles_unjudged]
    if settled:
        return _verdict(
            "caution",
            f"The probe {' and '.join(settled)} alone settles the labels, as honest facts hardly do: was the diagnosis "
            f"read from one of its fields? {account}",
            numbers,
        )
    return _verdict("passed", account, numbers)


def _verdict(status: Any, sentence: str, numbers: Mapping[str, Any]) -> Verdict:
    return Verdict(name="shortcut", status=status, sentence=sentence, numbers=numbers)


@dataclass(frozen=True, kw_only=True)
class ProbeNumbers:
    """What a verdict stores of one probe; `difference`: the model's AUC minus the probe's."""

    auc: float
    low: float
    high: float
    difference: float
    difference_low: float | None
    difference_high: float | None
    is_judged: bool
    at_equal_facts: Beyond | None


@dataclass(frozen=True, kw_only=True)
class WithinImageType:
    """What a verdict stores of the AUC among images of the same image type."""

    auc: float
    low: float
    high: float
    n_groups_by_class: list[int]
    is_judged: bool
    is_constant: bool  # the same score for all images of a type: no variance, but no knowledge either

    @property
    def is_about_half(self) -> bool:
        """Whether the interval includes 0.5, or is below it, and excludes every worthwhile AUC."""
        return bool(self.is_constant or (self.low <= 0.5 and self.high < WORTHWHILE_AUC))


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """One probe compared with the model. `beyond` is None if the probe is not judged or knows nothing."""

    auc: float
    low: float
    high: float
    difference: Difference
    beyond: Beyond | None
    is_judged: bool
    n_groups: int  # of the class with fewer

    @classmethod
    def of(cls, model: Scored, probe: Probe, *, is_judged: bool) -> _Compared:
        check_paired(model, probe.scored)
        own, difference = headline_auc(probe.scored), auc_difference(model, probe.scored)
        if own is None or difference is None:
            raise AssertionError("the model has an AUC on these images, so the probe has one")
        interval = own.interval()
        is_informative = interval.low > 0.5
        return cls(
            auc=own.value,
            low=interval.low,
            high=interval.high,
            difference=difference,
            beyond=beyond(model, probe) if is_judged and is_informative else None,
            is_judged=is_judged,
            n_groups=min(own.n_groups_by_class),
        )

    @property
    def is_informative(self) -> bool:
        return self.low > 0.5

    @property
    def settles_unjudged(self) -> bool:
        """Whether facts that the model is meant to use leave nothing to ask: they may be the label itself."""
        return not self.is_judged and self.auc >= SETTLING_AUC and self.low > WORTHWHILE_AUC

    @property
    def has_equal_facts(self) -> bool:
        """Whether the facts leave enough labels open to compare images with the same facts."""
        return self.beyond is not None and self.beyond.open_share >= MIN_OPEN_SHARE

    @property
    def _is_tie(self) -> bool:
        interval = self.difference.interval
        return interval is None or interval.low <= 0 <= interval.high

    def objection(self, name: str) -> str | None:
        """Why this probe explains the model, or None."""
        if not (self.is_judged and self.is_informative):
            return None
        if self.has_equal_facts and self.beyond is not None:
            if self.beyond.high >= MIN_BEYOND or self.n_groups < MIN_GROUPS:
                return None
            return (
                f"among images that look alike to the probe {name} its AUC is {number(self.beyond.value)} "
                f"({span(self.beyond.low, self.beyond.high)})"
            )
        if self._is_tie:
            return (
                f"it ties with the probe {name} (difference {signed(self.difference.value)}), which alone settles "
                "nearly every label"
            )
        return None

    def doubt(self, name: str) -> str | None:
        """What too few images leave open about this probe, or None."""
        if not (self.is_judged and self.is_informative) or self.difference.value > 0:
            return None
        if self.has_equal_facts and self.beyond is not None:
            if self.beyond.low > 0.5:
                return None
            above, below = self.beyond.value - 0.5, self.beyond.value - self.beyond.low
            # The variance falls with the number of images.
            needed = f"; it takes about {(below / above) ** 2:.1f} times as many" if above > 0 else ""
            return (
                f"it does not beat the probe {name} (difference {signed(self.difference.value)}), and among images "
                f"that look alike to it the AUC is {number(self.beyond.value)} "
                f"({span(self.beyond.low, self.beyond.high)}){needed}"
            )
        return (
            f"the probe {name} settles nearly every label and the model does not beat it (difference "
            f"{signed(self.difference.value)})"
        )

    @property
    def numbers(self) -> ProbeNumbers:
        interval = self.difference.interval
        return ProbeNumbers(
            auc=self.auc,
            low=self.low,
            high=self.high,
            difference=self.difference.value,
            difference_low=interval.low if interval else None,
            difference_high=interval.high if interval else None,
            is_judged=self.is_judged and self.is_informative,
            at_equal_facts=self.beyond,
        )


def _account(auc: Auc, compared: Mapping[str, _Compared], unjudged: Mapping[str, str]) -> str:
    """What the model was judged against and what it was not, in words."""
    judged, idle = [], []
    for name, one in compared.items():
        if not one.is_judged:
            continue
        if not one.is_informative:
            idle.append(f"{name} {number(one.auc)}")
        elif one.has_equal_facts and one.beyond is not None:
            judged.append(
                f"{name} {number(one.auc)} (at equal facts the model has {number(one.beyond.value)})"
            )
        else:
            judged.append(f"{name} {number(one.auc)}")
    aside = [
        f"{name} {number(compared[name].auc)} ({why})" for name, why in unjudged.items() if name in compared
    ]
    parts = [
        f"AUC {number(auc.value)}; judged against {', '.join(judged)}"
        if judged
        else f"AUC {number(auc.value)}; no probe that is judged can tell the classes apart, so nothing was judged"
    ]
    if idle:
        parts.append(f"these probes know nothing: {', '.join(idle)}")
    if aside:
        parts.append(f"not judged: {', '.join(aside)}")
    return "; ".join(parts) + "."


def _within_image_type(model: Scored) -> WithinImageType | None:
    """The AUC among images of the same image type; None if there is a single type, or none is known."""
    image_type = model.attributes["image_type"].astype(object).fillna("missing").astype(str)
    codes, values = image_type.factorize()
    if len(values) < 2:
        return None
    strata = codes if model.is_binary else np.column_stack([codes] * len(model.class_names))
    auc = auc_within(model, strata)
    if auc is None:
        return None
    interval = auc.interval()
    return WithinImageType(
        auc=auc.value,
        low=interval.low,
        high=interval.high,
        n_groups_by_class=list(auc.n_groups_by_class),
        is_judged=min(auc.n_groups_by_class) >= MIN_GROUPS,
        is_constant=auc.standard_error == 0 and auc.value == 0.5,
    )
