"""Small, seeded versions of `benchmarks/simulate_evaluation.py`; the bounds are four standard errors wide."""

import pytest

from benchmarks.simulate_evaluation import coverage, false_alarms, rejections


def test_honest_evaluations_are_hardly_ever_blocked():
    share, names = false_alarms(40)
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
