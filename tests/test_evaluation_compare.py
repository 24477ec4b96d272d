import numpy as np
import pytest
from evaluation_data import binary, drawn, drawn_multiclass
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from lesion_tasks import UnusableInputError
from lesion_tasks.metrics.auc import measure_auc
from lesion_tasks.metrics.compare import auc_difference, compare, compare_slices, two_by_two
from lesion_tasks.metrics.resample import Resampling

RESAMPLING = Resampling(n_resamples=1_000)


def sibling(scored, noise, seed=1):
    """The same images scored by a noisier model."""
    latent = np.log(scored.scores / (1 - scored.scores))
    latent = latent + noise * np.random.default_rng(seed).normal(size=scored.n_images)
    return binary(scored.labels, 1 / (1 + np.exp(-latent)), [group[1:] for group in scored.group_ids])


def test_a_model_compared_with_itself_differs_by_nothing():
    scored = drawn(300, n_groups=120)
    for name, difference in compare(scored, scored, resampling=RESAMPLING).items():
        assert difference.value == 0, name
        assert (difference.interval.low, difference.interval.high) == (0, 0), name
    assert auc_difference(scored, scored).p_value == 1


def test_the_paired_interval_is_narrower_than_two_intervals_apart_and_agrees_with_the_bootstrap():
    champion = drawn(800, n_groups=300)
    models = champion, sibling(champion, 0.5)
    difference = compare(*models, resampling=RESAMPLING)["auc"]
    (bootstrap,) = difference.other_intervals
    assert difference.value == pytest.approx(difference.candidate - difference.champion)
    assert (difference.interval.low, difference.interval.high) == pytest.approx(
        (bootstrap.low, bootstrap.high), abs=0.004
    )
    apart = np.hypot(*(measure_auc(m.is_positive, m.scores, m.groups).standard_error for m in models))
    assert difference.interval.high - difference.interval.low < 2 * 1.96 * apart


def test_the_test_of_two_models_is_delongs_from_all_pairs():
    first = drawn(120)
    second = sibling(first, 1.0)
    positive = first.is_positive
    placements = []
    for scored in (first, second):
        above = scored.scores[positive][:, None] - scored.scores[~positive][None, :]
        placements.append((above > 0) + 0.5 * (above == 0))
    gap = placements[0] - placements[1]
    variance = (
        gap.mean(axis=1).var(ddof=1) / positive.sum() + gap.mean(axis=0).var(ddof=1) / (~positive).sum()
    )
    found = auc_difference(first, second)
    degrees = min(positive.sum(), (~positive).sum()) - 1
    half = student.isf(0.025, degrees) * np.sqrt(variance)
    assert found.interval.low == pytest.approx(gap.mean() - half, abs=1e-10)


def test_measures_at_each_models_own_threshold_are_those_of_the_tables():
    candidate = drawn(300)
    champion = sibling(candidate, 1.0)
    found = compare(candidate, champion, threshold=0.4, champion_threshold=0.6, resampling=RESAMPLING)
    positive = candidate.is_positive
    assert found["sensitivity"].candidate == pytest.approx((candidate.scores[positive] >= 0.4).mean())
    assert found["sensitivity"].champion == pytest.approx((champion.scores[positive] >= 0.6).mean())
    assert found["specificity"].champion == pytest.approx((champion.scores[~positive] < 0.6).mean())


def test_models_of_more_than_two_classes_are_compared_by_macro_auc_and_recall():
    first, second = drawn_multiclass(400), drawn_multiclass(400, signal=0.5)
    found = compare(first, second, resampling=Resampling(n_resamples=100))
    assert found["macro_auc"].interval.low > 0
    expected = roc_auc_score(first.labels, first.probabilities, multi_class="ovr")
    assert found["macro_auc"].candidate == pytest.approx(expected)
    assert {"balanced_accuracy", "recall_a", "recall_d"} <= set(found)


def test_models_scored_on_different_images_are_refused():
    scored = drawn(100)
    with pytest.raises(UnusableInputError, match="100 and 60 images with 60 in common"):
        compare(scored, scored.where(np.arange(100) < 60))


def test_models_scored_under_different_labels_are_refused():
    scored = drawn(100)
    with pytest.raises(UnusableInputError, match="different labels or groups"):
        compare(scored, binary(1 - scored.labels, scored.scores))


def test_the_move_of_a_figure_is_the_models_part_plus_the_datas_part():
    old_data, new_data = drawn(300, seed=1), drawn(300, seed=2, distance=0.8)
    found = two_by_two(
        old_model_old_data=sibling(old_data, 1.0),
        old_model_new_data=sibling(new_data, 1.0),
        new_model_old_data=old_data,
        new_model_new_data=new_data,
    )
    assert found.move == pytest.approx(found.model_effect + found.data_effect)
    assert found.model_effect > 0 > found.data_effect  # a better model on harder data


def test_a_two_by_two_with_an_undefined_cell_has_no_effects():
    data = drawn(50)
    empty = binary([0, 0], [0.1, 0.2])
    found = two_by_two(
        old_model_old_data=empty, new_model_old_data=empty, old_model_new_data=data, new_model_new_data=data
    )
    assert found.old_model_old_data is None
    assert found.move is None


def by_sex(scored, sexes):
    groups = [group[1:] for group in scored.group_ids]
    return binary(scored.labels, scored.scores, groups, sex=sexes)


def test_a_loss_in_one_slice_is_found_there_and_only_there():
    champion = drawn(3_000, n_groups=1_500)
    sexes = np.where(np.arange(3_000) % 4 == 0, "female", "male")
    blurred = sibling(champion, 3.0)
    scores = np.where(sexes == "female", blurred.scores, champion.scores)
    candidate = binary(champion.labels, scores, [group[1:] for group in champion.group_ids])
    found = {one.value: one for one in compare_slices(by_sex(candidate, sexes), by_sex(champion, sexes))}
    assert found["female"].difference.interval.high < 0
    assert found["male"].difference.value == 0
    assert found["female"].n_images == 750


def test_intervals_of_slices_are_widened_for_their_number():
    champion = drawn(2_000)
    candidate = sibling(champion, 0.5)
    sexes = np.where(np.arange(2_000) % 2 == 0, "female", "male")
    mask = sexes == "female"
    alone = auc_difference(candidate.where(mask), champion.where(mask), level=0.975)
    found = {one.value: one for one in compare_slices(by_sex(candidate, sexes), by_sex(champion, sexes))}
    assert found["female"].difference.interval.low == pytest.approx(alone.interval.low, abs=1e-12)


def test_a_slice_too_small_is_named_and_does_not_widen_the_others():
    champion = drawn(1_000)
    candidate = sibling(champion, 0.5)
    sexes = np.where(np.arange(1_000) < 20, "female", "male")
    found = {one.value: one for one in compare_slices(by_sex(candidate, sexes), by_sex(champion, sexes))}
    assert found["female"].difference is None
    assert found["female"].reason == "20 images, floor 50"
    mask = sexes == "male"
    alone = auc_difference(candidate.where(mask), champion.where(mask))
    assert found["male"].difference.interval.low == pytest.approx(alone.interval.low, abs=1e-12)


def test_perfect_scores_against_constant_ones_are_told_apart_exactly():
    labels = np.repeat([0, 1], [40, 12])
    perfect, constant = binary(labels, labels * 0.8 + 0.1), binary(labels, np.full(52, 0.5))
    found = auc_difference(perfect, constant)
    # Twelve pairs of groups speak for one model: a sign test, and (1 / 40)^(1 / 12) as the lowest share that allows it.
    assert found.p_value == pytest.approx(2 * 0.5**12)
    assert found.interval.low == pytest.approx(0.5 - (1 - 0.025 ** (1 / 12)))
    assert found.interval.high == pytest.approx(0.5 + (1 - 0.025 ** (1 / 12)))


def test_two_perfect_models_may_still_differ():
    labels = np.repeat([0, 1], [40, 40])
    first, second = binary(labels, labels * 0.8 + 0.1), binary(labels, labels * 0.6 + 0.2)
    found = auc_difference(first, second)
    assert (found.value, found.p_value) == (0, 1)
    assert found.interval.low == pytest.approx(-(1 - 0.025 ** (1 / 40)))
    every = compare(first, second, resampling=RESAMPLING)
    assert every["average_precision"].interval is None
    assert every["average_precision"].interval_reason == "every resample has the same value"


def test_a_difference_read_from_few_positives_has_no_interval_and_says_why():
    labels = np.repeat([0, 1], [200, 8])
    rng = np.random.default_rng(1)
    first, second = (binary(labels, 1 / (1 + np.exp(-labels - rng.normal(size=208)))) for _ in range(2))
    found = compare(first, second, resampling=RESAMPLING)["sensitivity_at_90_specificity"]
    assert found.interval is None
    assert found.interval_reason == "too few positives: effective number of groups 8, needed 20"
    # Stored, the reason stands only where there is one.
    stored = found.published().model_dump(exclude_unset=True)
    assert stored["interval_reason"] == found.interval_reason
    known = compare(first, second, resampling=RESAMPLING)["auc"].published().model_dump(exclude_unset=True)
    assert set(stored) - set(known) == {"interval_reason"}
