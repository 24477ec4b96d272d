from dataclasses import replace
from typing import Any

import pytest

from lesion_tasks.catalog.gates import GATES, SLICE_GUARD, Gate, cautions, objections, standing

LEADING = Gate(measure="auc", floor=0.7, margin=0.0, is_leading=True, reason="a reason")
GUARDED = Gate(measure="sensitivity", floor=0.2, margin=0.05, reason="another reason")
BOTH = (LEADING, GUARDED)
SOUND = {"auc": {"value": 0.85}, "sensitivity": {"value": 0.5}}


def difference(value: float, low: float | None, high: float | None, measure: str = "auc") -> dict[str, Any]:
    return {
        "measure": measure,
        "candidate": 0.8 + value,
        "champion": 0.8,
        "value": value,
        "low": low,
        "high": high,
    }


def against(
    auc: tuple[float, float, float] = (0.02, -0.01, 0.05),
    sensitivity: tuple[float, float, float] = (0.0, -0.03, 0.03),
    slices: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    return {
        "differences": {
            "auc": difference(*auc),
            "sensitivity": difference(*sensitivity, measure="sensitivity"),
        },
        "slices": list(slices),
    }


def part(value: float, low: float, high: float, attribute: str = "sex") -> dict[str, Any]:
    return {
        "attribute": attribute,
        "value": "female",
        "n_images": 400,
        "difference": difference(value, low, high),
    }


def test_a_gain_without_losses_has_no_objection() -> None:
    assert objections(SOUND, against(), BOTH) == []


def test_a_first_champion_needs_only_the_floors() -> None:
    assert objections(SOUND, None, BOTH) == []
    low = {**SOUND, "auc": {"value": 0.65}}
    assert objections(low, None, BOTH) == ["AUC 0.6500 is below the floor 0.7000 (a reason)"]


def test_an_undefined_or_unmeasured_figure_is_an_objection() -> None:
    undefined = {"auc": {"value": None, "reason": "no images of class malignant"}}
    assert objections(undefined, None, BOTH) == [
        "AUC is undefined: no images of class malignant",
        "sensitivity is undefined: it was not measured",
    ]


def test_the_leading_measure_must_gain_and_a_tie_is_no_gain() -> None:
    (found,) = objections(SOUND, against(auc=(0.0, -0.01, 0.01)), BOTH)
    assert found.startswith("AUC does not gain: 0.8000 against the champion's 0.8000")


def test_a_guarded_measure_may_lose_up_to_its_margin_and_no_more() -> None:
    assert objections(SOUND, against(sensitivity=(-0.05, -0.2, 0.1)), BOTH) == []
    (found,) = objections(SOUND, against(sensitivity=(-0.051, -0.2, 0.1)), BOTH)
    assert found.startswith("sensitivity loses more than 0.050: 0.7490 against the champion's 0.8000")


def test_a_gate_that_needs_exclusion_looks_at_the_far_end_of_the_interval() -> None:
    strict = (LEADING, replace(GUARDED, is_exclusion_needed=True))
    assert objections(SOUND, against(sensitivity=(0.01, -0.04, 0.06)), strict) == []
    (found,) = objections(SOUND, against(sensitivity=(0.01, -0.06, 0.08)), strict)
    assert "may be worse than the champion's by more than 0.050" in found


def test_a_loss_that_is_only_possible_is_a_caution_and_no_objection() -> None:
    comparison = against(sensitivity=(-0.01, -0.12, 0.10))
    assert objections(SOUND, comparison, BOTH) == []
    assert cautions(comparison, BOTH) == ["a loss of up to 0.120 in sensitivity is not excluded"]
    assert cautions(None, BOTH) == []


def test_a_measure_that_the_champion_lacks_is_an_objection() -> None:
    comparison = against()
    del comparison["differences"]["sensitivity"]
    assert objections(SOUND, comparison, BOTH) == ["sensitivity cannot be compared with the champion's"]


def test_a_slice_refuses_only_when_its_loss_is_shown_and_beyond_the_margin() -> None:
    unclear = part(-0.2, -0.5, 0.1)
    small = part(-SLICE_GUARD.margin, -0.09, -0.01)
    unguarded = part(-0.2, -0.3, -0.1, attribute="attribution")
    assert objections(SOUND, against(slices=(unclear, small, unguarded)), BOTH) == []
    (found,) = objections(SOUND, against(slices=(part(-0.2, -0.3, -0.1),)), BOTH)
    assert found.startswith(
        "AUC falls where sex is female (400 images): 0.6000 against the champion's 0.8000"
    )


def test_a_slice_too_small_to_compare_is_no_objection() -> None:
    unscored = {**part(0, 0, 0), "difference": None}
    assert objections(SOUND, against(slices=(unscored,)), BOTH) == []


def test_every_task_has_one_leading_gate_and_guards_with_room_to_lose() -> None:
    for gates in GATES.values():
        assert [gate.is_leading for gate in gates].count(True) == 1
        assert all(gate.margin > 0 for gate in gates if not gate.is_leading)


def test_a_standing_tells_gates_objections_and_cautions() -> None:
    found = standing("malignancy", {"auc": {"value": 0.6}}, None)
    assert [gate["measure"] for gate in found["gates"]] == ["auc", "sensitivity_at_90_specificity"]
    assert len(found["objections"]) == 2
    assert found["cautions"] == []


def test_a_first_champion_is_judged_by_the_lower_limit_and_a_later_one_by_the_point() -> None:
    shaky = {"auc": {"value": 0.85, "low": 0.69, "high": 0.93}, "sensitivity": {"value": 0.5, "low": 0.3}}
    (found,) = objections(shaky, None, BOTH)
    assert found == (
        "AUC 0.8500 may be below the floor 0.7000: the 95 % interval begins at 0.6900 (a reason)"
    )
    assert objections(shaky, against(), BOTH) == []


def test_a_guarded_measure_without_an_interval_is_a_caution_and_neither_passed_nor_refused() -> None:
    few = {**SOUND, "sensitivity": {"value": 0.1, "low": None, "interval_reason": "8 positives"}}
    assert objections(few, None, BOTH) == []
    assert cautions(None, BOTH, few) == ["too few images to judge sensitivity (8 positives)"]
    unsure = against(sensitivity=(-0.3, None, None))
    assert objections(SOUND, unsure, BOTH) == []
    assert cautions(unsure, BOTH, SOUND) == ["too few images to judge sensitivity (no interval)"]


def test_a_leading_measure_without_an_interval_is_still_held_to_its_floor() -> None:
    few = {**SOUND, "auc": {"value": 0.6, "low": None, "interval_reason": "one group"}}
    assert objections(few, None, BOTH) == ["AUC 0.6000 is below the floor 0.7000 (a reason)"]
    assert cautions(None, BOTH, few) == ["too few images to judge AUC (one group)"]


def test_a_loss_that_a_slice_cannot_exclude_is_a_caution_with_its_size() -> None:
    comparison = against(slices=(part(-0.02, -0.31, 0.27), part(0.01, -0.04, 0.06)))
    assert objections(SOUND, comparison, BOTH) == []
    assert cautions(comparison, BOTH) == [
        "a loss of up to 0.310 in AUC where sex is female (400 images) is not excluded"
    ]


def test_a_shown_loss_at_the_models_own_thresholds_is_a_caution() -> None:
    comparison = against()
    comparison["differences"]["specificity"] = difference(-0.04, -0.07, -0.01, "specificity")
    comparison["differences"]["recall_nevus"] = difference(-0.04, -0.09, 0.01, "recall_nevus")
    comparison["differences"]["accuracy"] = difference(-0.04, -0.07, -0.01, "accuracy")
    assert cautions(comparison, BOTH) == [
        "specificity at each model's own threshold falls by 0.040 (95 % interval 0.010 to 0.070)"
    ]


def calibration(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("measure", "figure", "refused", "doubted"),
    [
        # What a model trained on balanced classes shows at a prevalence of 18 %.
        ("calibration_intercept", calibration(-2.1, -2.3, -1.9), "farther off than 0.7", None),
        (
            "calibration_intercept",
            calibration(-0.9, -2.0, 0.2),
            None,
            "calibration intercept \N{MINUS SIGN}0.900",
        ),
        ("calibration_intercept", calibration(0.3, 0.1, 0.5), None, "calibration intercept 0.300"),
        ("calibration_intercept", calibration(0.1, -0.1, 0.3), None, None),
        (
            "calibration_intercept",
            calibration(-2.1, None, None),
            None,
            "calibration intercept \N{MINUS SIGN}2.100",
        ),
        ("calibration_slope", calibration(0.3, 0.2, 0.4), "farther off than 0.5", None),
        ("calibration_slope", calibration(1.2, 0.9, 1.5), None, None),
        ("brier_skill", calibration(-0.44, -0.6, -0.3), "telling everybody the prevalence", None),
        ("brier_skill", calibration(-0.02, -0.1, 0.05), None, "Brier skill \N{MINUS SIGN}0.020 is below 0"),
        ("brier_skill", calibration(0.2, 0.1, 0.3), None, None),
    ],
)
def test_probabilities_that_are_no_risks_are_refused_or_doubted(
    measure: str, figure: dict[str, Any], refused: str | None, doubted: str | None
) -> None:
    test = {measure: figure}
    (said,) = objections(test, None, ()) or [""]
    assert (refused in said) if refused else said == ""
    (warned,) = cautions(None, (), test) or [""]
    assert (doubted in warned) if doubted else warned == ""
