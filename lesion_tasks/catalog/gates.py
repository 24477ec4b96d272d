"""A candidate's figures and the champion's on the same images -> objections to promoting it.

Floors and margins are data, each with its reason. What the rule passes and stops, by the size of the test set:
`docs/results.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lesion_tasks.catalog.entries import refuse, unknown
from lesion_tasks.catalog.printed_numbers import number, signed, span
from lesion_tasks.catalog.tasks import TASKS
from lesion_tasks.catalog.titles import label_inside, size_of_change

# What a gate may be about: what is measured of one model and compared with the champion's. The first leads: corrections
# for many looks at a test set and for losses that add up are those of an AUC.
BINARY_MEASURES = (
    "auc", "average_precision", "partial_auc_above_80_sensitivity", "auc_above_80_sensitivity",
    "sensitivity_at_90_specificity", "sensitivity_at_95_specificity", "specificity_at_90_sensitivity",
    "specificity_at_95_sensitivity", "sensitivity", "specificity", "balanced_accuracy", "accuracy",
)  # fmt: skip
MULTICLASS_MEASURES = ("macro_auc", "macro_average_precision", "balanced_accuracy", "accuracy")
RECALL = "recall_"  # and the name of a class, with more than two of them


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a candidate must show on one measure of the natural test set.

    `margin`: the largest loss against the champion that is accepted; the leading measure must gain instead. The
    measured loss is compared with it or, if `is_exclusion_needed`, the far end of its 95 % interval: proof of
    non-inferiority, which takes hundreds of positives for a margin of 0.05.
    """

    measure: str
    floor: float
    margin: float
    is_leading: bool = False
    is_exclusion_needed: bool = False
    reason: str

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1 or not 0 <= self.margin <= 1:
            raise ValueError(
                f"gate {self.measure!r}: floor is {self.floor:g} and margin {self.margin:g}, expected 0 to 1 each"
            )


@dataclass(frozen=True, kw_only=True)
class SliceGuard:
    """No part of the test set may lose more than `margin` in AUC, if a loss is demonstrated at all.

    Demonstrated: the interval, widened for the number of slices, is below zero. Parts are small and there are many of
    them, so the measured loss alone would refuse most honest candidates.
    """

    attributes: tuple[str, ...]
    margin: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class CohortGuard:
    """On no cohort may the leading measure lose more than `margin` against the champion; the worst must reach `floor`.

    Both by the measured values, as with `Gate`; what an interval does not exclude is a caution.
    """

    margin: float
    margin_reason: str
    floor: float
    floor_reason: str


@dataclass(frozen=True, kw_only=True)
class CalibrationGuard:
    """A measure of how far probabilities can be read as risks, and where it should be.

    A candidate is refused if the measure is farther than `tolerance` from `ideal` and its 95 % interval does not hold
    the ideal; with one of the two, it is a caution.
    """

    measure: str
    ideal: float
    tolerance: float
    reason: str


GATES = {
    "malignancy": (
        Gate(
            measure="auc",
            floor=0.70,
            margin=0.0,
            is_leading=True,
            reason="Below 0.70 a model says little more than age and sex.",
        ),
        Gate(
            measure="sensitivity_at_90_specificity",
            floor=0.20,
            margin=0.05,
            reason="Random guessing reaches 0.10; a better ranking elsewhere must not come at the expense of this.",
        ),
    ),
    "five_classes": (
        Gate(
            measure="macro_auc",
            floor=0.70,
            margin=0.0,
            is_leading=True,
            reason="One-vs-rest, the multiclass counterpart of the binary floor.",
        ),
        Gate(
            measure="balanced_accuracy",
            floor=0.25,
            margin=0.05,
            reason="With five classes, always guessing one of them reaches 0.20.",
        ),
    ),
}

# Of tasks with two classes. A model that ranks well may still tell everybody a multiple of the risk: one that was
# trained on balanced classes and not calibrated has an intercept near -2.
CALIBRATION_GUARDS = (
    CalibrationGuard(
        measure="calibration_intercept",
        ideal=0.0,
        tolerance=0.7,
        reason="Beyond 0.7 the odds are on average twice or half of what they should be.",
    ),
    CalibrationGuard(
        measure="calibration_slope",
        ideal=1.0,
        tolerance=0.5,
        reason="Below 0.5 the probabilities are far too extreme, above 1.5 far too moderate.",
    ),
)
BRIER_SKILL_FLOOR = 0.0
BRIER_SKILL_REASON = "Below 0, telling everybody the prevalence would be closer to what happens."

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
    reason="A gain on average must not come at the expense of one group of patients.",
)

DEFAULT_FLOOR = 0.70


def leading_measure_of(*, is_binary: bool) -> str:
    """The measure that leads with two classes, or with more."""
    return (BINARY_MEASURES if is_binary else MULTICLASS_MEASURES)[0]


COHORT_GUARD = CohortGuard(
    margin=0.05,
    margin_reason="A gain at home must not come at the expense of other people's patients.",
    floor=0.60,
    floor_reason="Below 0.60 on any of them a model says little outside of the archive it learned from.",
)


def gates_of(task: str) -> Sequence[Gate]:
    """The gates of a task; for one without gates of its own, that it gains and that its AUC clears a floor."""
    if task in GATES:
        return GATES[task]
    return (
        Gate(
            measure=leading_measure_of(is_binary=TASKS[task].positive is not None),
            floor=DEFAULT_FLOOR,
            margin=0.0,
            is_leading=True,
            reason=f"The default of a task without gates: below {DEFAULT_FLOOR:.2f} a model says little.",
        ),
    )


def measures_of(task: str) -> tuple[str, ...]:
    """What a gate of a task may be about; the first leads."""
    if TASKS[task].positive is not None:
        return BINARY_MEASURES
    return (*MULTICLASS_MEASURES, *(f"{RECALL}{name}" for name in TASKS[task].classes))


def check_gates(task: str, gates: Sequence[Gate]) -> None:
    """Raise ValueError unless a task's models can be asked about all of these gates, and the right one leads."""
    if task not in TASKS:
        refuse("gates", [unknown("task", task, TASKS)])
    known = measures_of(task)
    measures = [gate.measure for gate in gates]
    problems = [unknown("measure", name, known) for name in measures if name not in known]
    problems += [
        f"{measures.count(name)} gates on {name}, expected one"
        for name in set(measures)
        if measures.count(name) > 1
    ]
    leading = [gate.measure for gate in gates if gate.is_leading]
    if leading != [known[0]]:
        problems.append(
            f"is_leading is true for {', '.join(leading) or 'no gate'}, expected it for {known[0]} alone"
        )
    refuse(f"gates of {task!r}", problems)


for _task, _gates in GATES.items():
    check_gates(_task, _gates)


def leading_measure(task: str) -> str:
    """The measure on which a champion must lead."""
    return measures_of(task)[0]


def figures_to_judge(subset: Mapping[str, Any]) -> dict[str, Any]:
    """What gates are about in a subset's document: its figures, and the recall of each class as `recall_<class>`."""
    recalls = {f"{RECALL}{name}": found["recall"] for name, found in subset.get("by_class", {}).items()}
    return recalls | subset.get("figures", {})


def objections(
    test: Mapping[str, Any],
    comparison: Mapping[str, Any] | None,
    gates: Sequence[Gate],
    on_cohorts: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return why a candidate may not become champion; empty means that it may.

    `test`: what `figures_to_judge` finds in the natural test set. `comparison`: candidate minus champion as
    `compare_models` returns it; None for the first champion, to which only the floors apply: by the lower limit of the
    interval, since there is no champion to beat. A guarded measure without an interval is not judged, and `cautions`
    says so. `on_cohorts`: what is known of each cohort, as `OtherData` in a published document; None without one.
    """
    found = [words for gate in gates for words in objections_by(gate, test, comparison)]
    return (
        found
        + _miscalibrations(test)[0]
        + _slice_losses(comparison)
        + _on_cohorts(comparison, on_cohorts).refused
    )


def objections_by(gate: Gate, test: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[str]:
    """What one gate objects to, as `objections` does for all of them."""
    figure = test.get(gate.measure) or {"value": None, "reason": "it was not measured"}
    if figure["value"] is None:
        return [f"{label_inside(gate.measure)} is undefined: {figure.get('reason')}"]
    found = _under_floor(gate, figure, is_first=comparison is None)
    if comparison is not None:
        found += _losses(gate, comparison)
    return found


@dataclass(frozen=True)
class _Cohorts:
    """What there is to say about other people's data."""

    refused: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)  # cautions: what nobody knows
    doubted: list[str] = field(default_factory=list)  # cautions: what is not excluded


def _on_cohorts(comparison: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> _Cohorts:
    """Objections and cautions about other people's data: the worst cohort, and losses against the champion on any."""
    said = _floor_on_cohorts(other) if other else _Cohorts()
    for one in (comparison or {}).get("cohorts", ()):
        difference = one["difference"]
        if difference is None:
            said.unjudged.append(f"cohort {one['cohort']} cannot be compared: {one['reason']}")
        elif difference["value"] < -COHORT_GUARD.margin:
            said.refused.append(
                f"{label_inside(difference['measure'])} on cohort {one['cohort']} loses more than "
                f"{COHORT_GUARD.margin:.3f}: {difference['candidate']:.4f} against the champion's "
                f"{difference['champion']:.4f} "
                f"({interval_words(difference)}; {COHORT_GUARD.margin_reason})"
            )
        elif difference["low"] is None or difference["low"] < -COHORT_GUARD.margin:
            loss = "" if difference["low"] is None else f" of up to {number(-difference['low'])}"
            said.doubted.append(f"a loss{loss} on cohort {one['cohort']} is not excluded")
    return said


def _floor_on_cohorts(other: Mapping[str, Any]) -> _Cohorts:
    """The same about each cohort alone: whether it could be judged, and whether the worst figure reaches the floor."""
    said = _Cohorts()
    known, too_few = {}, {}
    for one in other["cohorts"]:
        status = {
            verdict["name"]: verdict["status"] for verdict in one["integrity"] if verdict["is_blocking"]
        }
        figure = other["figures"].get(one["name"])
        if "failed" in status.values():
            said.refused.append(f"cohort {one['name']} is {one['reason'].rstrip('.')}")
        elif one["reason"] is not None:
            said.unjudged.append(f"nothing is known of cohort {one['name']}: {one['reason'].rstrip('.')}")
        elif figure is None or figure["value"] is None:
            said.unjudged.append(f"the leading figure on cohort {one['name']} is undefined")
        elif status.get("few_groups") == "too_few" and figure.get("low") is None:
            too_few[one["name"]] = figure
        else:
            known[one["name"]] = figure
    said.unjudged.extend(
        f"the leading figure on cohort {name} is {figure['value']:.4f}, of too few images to tell"
        for name, figure in too_few.items()
    )
    if known:
        worst = min(known, key=lambda name: (known[name]["value"], name))
        value, low = known[worst]["value"], known[worst].get("low")
        words = f"the leading figure on cohort {worst} is {value:.4f}"
        if value < COHORT_GUARD.floor:
            said.refused.append(
                f"{words}, below the floor {COHORT_GUARD.floor:.2f} ({COHORT_GUARD.floor_reason})"
            )
        elif low is None or low < COHORT_GUARD.floor:
            said.doubted.append(f"{words}; less than the floor {COHORT_GUARD.floor:.2f} is not excluded")
    return said


def _miscalibrations(test: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Objections and cautions about probabilities that cannot be read as risks, however well they rank."""
    refused, doubted = [], []
    for guard in CALIBRATION_GUARDS:
        figure = test.get(guard.measure)
        if figure is None or figure["value"] is None:
            continue
        is_far = abs(figure["value"] - guard.ideal) > guard.tolerance
        low, high = figure.get("low"), figure.get("high")
        is_shown = low is not None and not low <= guard.ideal <= high
        words = f"{label_inside(guard.measure)} {number(figure['value'])}, ideal {guard.ideal:g}"
        if is_far and is_shown:
            refused.append(
                f"{words}: farther off than {guard.tolerance:g} (95 % interval {span(low, high)}; {guard.reason})"
            )
        elif is_far or is_shown:
            doubted.append(words if low is None else f"{words} (95 % interval {span(low, high)})")
    skill = test.get("brier_skill")
    if skill is not None and skill["value"] is not None and skill["value"] < BRIER_SKILL_FLOOR:
        words = f"{label_inside('brier_skill')} {number(skill['value'])} is below {BRIER_SKILL_FLOOR:g}"
        if skill.get("high") is not None and skill["high"] < BRIER_SKILL_FLOOR:
            refused.append(f"{words} (95 % interval up to {number(skill['high'])}; {BRIER_SKILL_REASON})")
        else:
            doubted.append(words)
    return refused, doubted


def cautions(
    comparison: Mapping[str, Any] | None,
    gates: Sequence[Gate],
    test: Mapping[str, Any] | None = None,
    on_cohorts: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return losses that no gate refuses, and what these images cannot show: consider them in the decision.

    Losses demonstrated at the models' own thresholds come first; then gates and cohorts that could not be judged
    (`test` as in `objections`); then losses beyond a margin that an interval does not exclude (overall, on cohorts and
    on guarded slices), and doubts about calibration.
    """
    differences = comparison["differences"] if comparison is not None else {}
    others = _on_cohorts(comparison, on_cohorts)
    return [
        *_threshold_losses(differences),
        *(words for gate in gates for words in _unjudged_by(gate, test, comparison)),
        *others.unjudged,
        *(words for gate in gates for words in _possible_losses(gate, test, comparison)),
        *others.doubted,
        *_miscalibrations(test or {})[1],
        *_possible_slice_losses(comparison),
    ]


def cautions_by(
    gate: Gate, test: Mapping[str, Any] | None, comparison: Mapping[str, Any] | None
) -> list[str]:
    """What one gate could not judge or does not exclude, as `cautions` tells it of all of them."""
    return _unjudged_by(gate, test, comparison) + _possible_losses(gate, test, comparison)


def _unjudged_by(
    gate: Gate, test: Mapping[str, Any] | None, comparison: Mapping[str, Any] | None
) -> list[str]:
    figure = (test or {}).get(gate.measure)
    difference = comparison["differences"].get(gate.measure) if comparison is not None else None
    if reason := _too_few(figure) or _too_few(difference):
        return [f"too few images to judge {label_inside(gate.measure)} ({reason})"]
    return []


def _possible_losses(
    gate: Gate, test: Mapping[str, Any] | None, comparison: Mapping[str, Any] | None
) -> list[str]:
    difference = comparison["differences"].get(gate.measure) if comparison is not None else None
    if difference is None or _unjudged_by(gate, test, comparison):
        return []
    if _is_possible_loss(gate, difference):
        return [
            f"a loss of up to {number(-difference['low'])} in {label_inside(gate.measure)} is not excluded"
        ]
    return []


def standing(
    task: str,
    test: Mapping[str, Any],
    comparison: Mapping[str, Any] | None,
    on_cohorts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the gates of a task say about a candidate today, for its report: every gate, objections and cautions."""
    gates = gates_of(task)
    return {
        "gates": [asdict(gate) for gate in gates],
        "slice_guard": asdict(SLICE_GUARD),
        "cohort_guard": None if on_cohorts is None else asdict(COHORT_GUARD),
        "objections": objections(test, comparison, gates, on_cohorts),
        "cautions": cautions(comparison, gates, test, on_cohorts),
    }


def interval_words(difference: Mapping[str, Any]) -> str:
    """The difference and its interval, as quoted in a reason."""
    if difference["low"] is None:
        return f"difference {signed(difference['value'], 4)}"
    low, high = (signed(difference[name], 4) for name in ("low", "high"))
    return f"difference {signed(difference['value'], 4)}, 95 % interval {low} to {high}"


def _too_few(figure: Mapping[str, Any] | None) -> str | None:
    """Why a figure or a difference has a value but no interval, or None."""
    if figure is None or figure["value"] is None or figure.get("low", 0.0) is not None:
        return None
    return str(figure.get("interval_reason") or "no interval")


def _under_floor(gate: Gate, figure: Mapping[str, Any], *, is_first: bool) -> list[str]:
    value, low = figure["value"], figure.get("low")
    if _too_few(figure) and not gate.is_leading:
        return []
    if value < gate.floor:
        return [
            f"{label_inside(gate.measure)} {value:.4f} is below the floor {gate.floor:.4f} ({gate.reason})"
        ]
    if is_first and low is not None and low < gate.floor:
        return [
            f"{label_inside(gate.measure)} {value:.4f} may be below the floor {gate.floor:.4f}: the 95 % interval "
            f"begins at {low:.4f} ({gate.reason})"
        ]
    return []


def _is_possible_loss(gate: Gate, difference: Mapping[str, Any]) -> bool:
    """Whether a loss beyond the margin is not excluded, but is not an objection by the rule."""
    if gate.is_leading or gate.is_exclusion_needed or difference["low"] is None:
        return False
    return bool(difference["low"] < -gate.margin)


def lacking_gain(comparison: Mapping[str, Any] | None, gates: Sequence[Gate]) -> list[str]:
    """Of the objections of some gates those that a candidate gains nothing on the champion."""
    if comparison is None:
        return []
    return [
        words
        for gate in gates
        if gate.is_leading and comparison["differences"].get(gate.measure) is not None
        for words in _losses(gate, comparison)
    ]


def _losses(gate: Gate, comparison: Mapping[str, Any]) -> list[str]:
    difference = comparison["differences"].get(gate.measure)
    if difference is None:
        return [f"{label_inside(gate.measure)} cannot be compared with the champion's"]
    if _too_few(difference) and not (gate.is_leading or gate.is_exclusion_needed):
        return []
    both = f"{difference['candidate']:.4f} against the champion's {difference['champion']:.4f}"
    if gate.is_leading and comparison.get("has_same_predictions"):
        same = f"{label_inside(gate.measure)} {difference['candidate']:.4f} of both"
        return [f"it makes the same predictions as the champion, so it gains nothing: {same}"]
    if gate.is_leading and difference["value"] <= 0:
        return [f"{label_inside(gate.measure)} does not gain: {both} ({interval_words(difference)})"]
    if gate.is_leading:
        return []
    if gate.is_exclusion_needed and (difference["low"] is None or difference["low"] < -gate.margin):
        return [
            f"{label_inside(gate.measure)} may be worse than the champion's by more than {gate.margin:.3f}: {both} "
            f"({interval_words(difference)})"
        ]
    if difference["value"] < -gate.margin:
        return [
            f"{label_inside(gate.measure)} loses more than {gate.margin:.3f}: {both} ({interval_words(difference)})"
        ]
    return []


def _threshold_losses(differences: Mapping[str, Any]) -> list[str]:
    """Losses demonstrated at the models' own thresholds: what a better ranking may mean for patients."""
    return [
        f"{label_inside(name)} at each model's own threshold falls by "
        f"{size_of_change(difference['value'], difference['low'], difference['high'])}"
        for name, difference in differences.items()
        if (name in ("sensitivity", "specificity") or name.startswith("recall_"))
        and difference["high"] is not None
        and difference["high"] < 0
    ]


def _guarded_slices(comparison: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return [
        part
        for part in (comparison["slices"] if comparison else ())
        if part["attribute"] in SLICE_GUARD.attributes
        and part["difference"] is not None
        and part["difference"]["low"] is not None
    ]


def _is_shown_loss(difference: Mapping[str, Any]) -> bool:
    return bool(difference["value"] < -SLICE_GUARD.margin and difference["high"] < 0)


def _possible_slice_losses(comparison: Mapping[str, Any] | None) -> list[str]:
    return [
        f"a loss of up to {number(-part['difference']['low'])} in {label_inside(part['difference']['measure'])} where "
        f"{label_inside(part['attribute'])} is {part['value']} ({part['n_images']:,} images) is not excluded"
        for part in _guarded_slices(comparison)
        if part["difference"]["low"] < -SLICE_GUARD.margin and not _is_shown_loss(part["difference"])
    ]


def _slice_losses(comparison: Mapping[str, Any] | None) -> list[str]:
    found = []
    for part in _guarded_slices(comparison):
        difference = part["difference"]
        if _is_shown_loss(difference):
            found.append(
                f"{label_inside(difference['measure'])} falls where {label_inside(part['attribute'])} is "
                f"{part['value']} "
                f"({part['n_images']:,} images): {difference['candidate']:.4f} against the champion's "
                f"{difference['champion']:.4f}, difference {signed(difference['value'], 4)} "
                f"({signed(difference['low'], 4)} to {signed(difference['high'], 4)}, widened for the number of "
                "slices)"
            )
    return found
