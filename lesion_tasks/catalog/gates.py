"""A candidate's figures, beside the champion's on the same images -> what speaks against promoting it.

Floors and margins are data, each with its reason. What the rule lets through and stops, by the size of the test
set: `docs/promotion.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a candidate must show on one measure of the natural test set.

    `margin`: the largest loss against the champion that is accepted; the leading measure must gain instead. The
    measured loss is held against it, or, where `is_exclusion_needed`, the far end of its 95 % interval: proof of
    non-inferiority, which takes hundreds of positives for a margin of 0.05.
    """

    measure: str
    floor: float
    margin: float
    is_leading: bool = False
    is_exclusion_needed: bool = False
    reason: str


@dataclass(frozen=True, kw_only=True)
class SliceGuard:
    """No part of the test set may lose more than `margin` in AUC, where a loss is shown at all.

    Shown: the interval, widened for the number of slices, lies below zero. A part is small and there are many of
    them, so the measured loss alone would refuse most honest candidates.
    """

    attributes: tuple[str, ...]
    margin: float
    reason: str


GATES = {
    "malignancy": (
        Gate(
            measure="auc",
            floor=0.70,
            margin=0.0,
            is_leading=True,
            reason="Below 0.70 a model says little more than age and sex do.",
        ),
        Gate(
            measure="sensitivity_at_90_specificity",
            floor=0.20,
            margin=0.05,
            reason="Random guessing reaches 0.10; a better ranking elsewhere must not be paid for here.",
        ),
    ),
    "five_classes": (
        Gate(
            measure="macro_auc",
            floor=0.70,
            margin=0.0,
            is_leading=True,
            reason="One-vs-rest, the multiclass sibling of the binary floor.",
        ),
        Gate(
            measure="balanced_accuracy",
            floor=0.25,
            margin=0.05,
            reason="Guessing one class reaches 0.20 of five.",
        ),
    ),
}

SLICE_GUARD = SliceGuard(
    attributes=(
        "sex",
        "age_years",
        "anatom_site",
        "fitzpatrick_skin_type",
        "image_type",
        "diagnosis_confirm_type",
    ),
    margin=0.05,
    reason="A gain on average must not be paid for by one group of patients.",
)


def objections(
    test: Mapping[str, Any], comparison: Mapping[str, Any] | None, gates: Sequence[Gate]
) -> list[str]:
    """Return why a candidate may not become champion; empty means that it may.

    `test`: figures of the natural test set. `comparison`: candidate minus champion as `compare_contenders` returns it;
    None for the first champion, to which only the floors apply.
    """
    found = []
    for gate in gates:
        figure = test.get(gate.measure) or {"value": None, "reason": "it was not measured"}
        value = figure["value"]
        if value is None:
            found.append(f"{gate.measure} is undefined: {figure.get('reason')}")
            continue
        if value < gate.floor:
            found.append(f"{gate.measure} {value:.4f} is under the floor {gate.floor:.4f} ({gate.reason})")
        if comparison is not None:
            found += _losses(gate, comparison["differences"].get(gate.measure))
    return found + _slice_losses(comparison)


def cautions(comparison: Mapping[str, Any] | None, gates: Sequence[Gate]) -> list[str]:
    """Return the losses beyond a margin that these test images cannot exclude: read them with the decision."""
    if comparison is None:
        return []
    differences = [(gate, comparison["differences"].get(gate.measure)) for gate in gates]
    return [
        f"a loss of up to {-difference['low']:.3f} in {gate.measure} is not excluded"
        for gate, difference in differences
        if difference is not None
        and difference["low"] is not None
        and difference["low"] < -gate.margin
        and not (gate.is_leading or gate.is_exclusion_needed)
    ]


def standing(task: str, test: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the gates of a task say of a candidate today, for its report: every gate, objections and cautions."""
    gates = GATES[task]
    return {
        "gates": [asdict(gate) for gate in gates],
        "slice_guard": asdict(SLICE_GUARD),
        "objections": objections(test, comparison, gates),
        "cautions": cautions(comparison, gates),
    }


def interval_words(difference: Mapping[str, Any]) -> str:
    """The difference and its interval, as a reason quotes them."""
    if difference["low"] is None:
        return f"difference {difference['value']:+.4f}"
    return f"difference {difference['value']:+.4f}, 95 % interval {difference['low']:+.4f} to {difference['high']:+.4f}"


def _losses(gate: Gate, difference: Mapping[str, Any] | None) -> list[str]:
    if difference is None:
        return [f"{gate.measure} cannot be compared with the champion's"]
    both = f"{difference['candidate']:.4f} against the champion's {difference['champion']:.4f}"
    if gate.is_leading and difference["value"] <= 0:
        return [f"{gate.measure} does not gain: {both} ({interval_words(difference)})"]
    if gate.is_leading:
        return []
    if gate.is_exclusion_needed and (difference["low"] is None or difference["low"] < -gate.margin):
        return [
            f"{gate.measure} may be worse than the champion's by more than {gate.margin:.3f}: {both} "
            f"({interval_words(difference)})"
        ]
    if difference["value"] < -gate.margin:
        return [f"{gate.measure} loses more than {gate.margin:.3f}: {both} ({interval_words(difference)})"]
    return []


def _slice_losses(comparison: Mapping[str, Any] | None) -> list[str]:
    found = []
    for part in comparison["slices"] if comparison else ():
        difference = part["difference"]
        if part["attribute"] not in SLICE_GUARD.attributes or difference is None:
            continue
        if difference["value"] < -SLICE_GUARD.margin and difference["high"] < 0:
            found.append(
                f"{difference['measure']} falls where {part['attribute']} is {part['value']} "
                f"({part['n_images']:,} images): {difference['candidate']:.4f} against the champion's "
                f"{difference['champion']:.4f}, difference {difference['value']:+.4f} ({difference['low']:+.4f} to "
                f"{difference['high']:+.4f}, widened for the number of slices)"
            )
    return found
