"""Small, seeded versions of `benchmarks/simulate_evaluation.py`; the bounds are four standard errors wide."""

import numpy as np
import pytest

from benchmarks.simulate_evaluation import coverage, false_alarms, hard_coverage, optimism, rejections
from lesion_tasks import UnusableInputError
from lesion_tasks.metrics.winners_curse import correct_for_looks


def test_honest_evaluations_are_hardly_ever_blocked():
    share, names = false_alarms(20)
    assert share <= 0.05, names


@pytest.mark.parametrize(("auc", "likeness"), [(0.75, 0.8), (0.95, 0.5)])
def test_intervals_of_grouped_images_contain_the_true_auc_nineteen_times_in_twenty(auc, likeness):
    found = coverage(500, n_images=400, auc=auc, prevalence=0.2, likeness=likeness, n_resamples=0)
    assert 0.915 <= found["delong_by_group"] <= 0.985


def test_ignoring_groups_would_be_too_sure():
    found = coverage(400, n_images=400, auc=0.8, prevalence=0.2, likeness=0.8, n_resamples=0)
    assert found["delong_ignoring_groups"] < 0.9


def test_the_paired_test_holds_its_level_and_sees_a_large_gain():
    assert rejections(100, gain=0) <= 0.14
    assert rejections(40, gain=0.05) >= 0.6


@pytest.mark.parametrize("name", ["15 groups", "group sizes by Pareto", "one group has 30 %", "AUC 0.99"])
def test_intervals_that_are_shown_in_hard_settings_cover(name):
    found = hard_coverage(100, name, n_resamples=100)
    for measure in ("auc", "specificity", "calibration_slope"):
        covered, shown = found[measure]
        assert shown > 0.4, measure
        assert covered >= 0.86, (
            measure
        )  # one dominant group: 0.82 to 0.86 of 400 with groups - 1 degrees of freedom


def test_the_best_of_a_years_looks_is_corrected_to_what_it_would_be():
    found = optimism(60, n_looks=52)
    assert found["naive"] > 0.008
    assert abs(found["corrected"]) < 0.01  # standard error 0.003
    assert found["corrected_coverage"] > found["naive_coverage"] - 0.02


def test_without_earlier_figures_looks_count_as_independent_and_a_single_look_stays():
    alone = correct_for_looks(0.85, 0.02, 1)
    assert (alone.value, alone.luck) == (pytest.approx(0.85), 0)
    unknown = correct_for_looks(0.85, 0.02, 52)
    known = correct_for_looks(
        0.85, 0.02, 52, list(np.linspace(0.83, 0.84, 51) + 0.003 * np.sin(np.arange(51)))
    )
    assert unknown.luck > 0.035 > 0.01 > known.luck > 0
    lower = correct_for_looks(0.85, 0.02, 3, [0.84, 0.86])
    assert lower.value == pytest.approx(0.85)
    with pytest.raises(UnusableInputError, match="3 looks, 3 other figures"):
        correct_for_looks(0.85, 0.02, 3, [0.84, 0.86, 0.83])


def test_a_figure_that_was_not_the_best_is_left_exactly_as_it_is() -> None:
    for auc in np.linspace(0.5, 0.99, 491):
        found = correct_for_looks(float(auc), 0.02, 3, (0.995, 0.6))
        assert (found.value, found.luck) == (auc, 0.0)
