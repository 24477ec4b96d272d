import dataclasses
import json
import re

import jsonschema
import numpy as np
import pytest
from evaluation_data import binary, drawn, drawn_multiclass, multiclass
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    auc,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
    roc_curve,
)

from lesion_tasks.metrics import calibration, names
from lesion_tasks.metrics.auc import measure_auc
from lesion_tasks.metrics.binary import (
    binary_figures,
    probability_figures,
    ranking_figures,
    threshold_figures,
)
from lesion_tasks.metrics.counted import too_few_groups
from lesion_tasks.metrics.degrees_of_freedom import effective_groups, satterthwaite
from lesion_tasks.metrics.document import evaluation_document
from lesion_tasks.metrics.document_schema import (
    DominantGroup,
    SubsetDocument,
)
from lesion_tasks.metrics.multiclass import multiclass_figures
from lesion_tasks.metrics.proportion import wilson
from lesion_tasks.metrics.ranking import CURVE_MEASURES, ranking_values, resampled_ranking
from lesion_tasks.metrics.resample import Resampling, resampled_auc
from lesion_tasks.metrics.slices import slice_figures
from lesion_tasks.metrics.threshold import Threshold

FEW = Resampling(n_resamples=200)
RANKING_NAMES = ("auc", "average_precision", *CURVE_MEASURES)


def tied(n_images=400, seed=0, decimals=2, n_groups=150):
    scored = drawn(n_images, seed=seed, n_groups=n_groups)
    return binary(scored.labels, np.round(scored.scores, decimals), scored.groups)


def values(scored, threshold=0.5, resampling=FEW):
    figures = binary_figures(scored, threshold=threshold, resampling=resampling)
    return {name: figure.value for name, figure in figures.items()}


# --- AUC ---------------------------------------------------------------------------------------------------------


def test_an_auc_with_a_tie_is_worked_out_on_paper():
    # Positives 0.8, 0.4; negatives 0.4, 0.2, 0.6. Pairs won: 3 of 0.8, 1 of 0.4, half of the tie: 4.5 of 6.
    found = measure_auc(
        np.array([True, True, False, False, False]), np.array([0.8, 0.4, 0.4, 0.2, 0.6]), np.arange(5)
    )
    assert found.value == pytest.approx(0.75)
    # Placement values 1 and 0.5, and 0.75, 1, 0.5: variances 0.125 / 2 + 0.0625 / 3.
    assert found.standard_error**2 == pytest.approx(0.125 / 2 + 0.0625 / 3)


def mann_whitney(is_positive, scores):
    """(M, N) one where the positive wins, one half where it ties."""
    above = scores[is_positive][:, None] - scores[~is_positive][None, :]
    return (above > 0) + 0.5 * (above == 0)


@pytest.mark.parametrize("decimals", [1, 6])
def test_the_standard_error_is_delongs_from_all_pairs(decimals):
    scored = tied(decimals=decimals)
    won = mann_whitney(scored.is_positive, scored.scores)
    variance = won.mean(axis=1).var(ddof=1) / len(won) + won.mean(axis=0).var(ddof=1) / won.shape[1]
    found = measure_auc(scored.is_positive, scored.scores, np.arange(scored.n_images))
    assert found.value == pytest.approx(won.mean(), abs=1e-14)
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_the_standard_error_by_group_is_obuchowskis_from_all_pairs():
    scored = tied()
    won = mann_whitney(scored.is_positive, scored.scores)
    theta, (m, n) = won.mean(), won.shape
    groups = range(scored.n_groups)
    of_positive, of_negative = scored.groups[scored.is_positive], scored.groups[~scored.is_positive]
    positive = np.array([(won.mean(axis=1)[of_positive == g] - theta).sum() for g in groups])
    negative = np.array([(won.mean(axis=0)[of_negative == g] - theta).sum() for g in groups])
    i10, i01, i = len(set(of_positive)), len(set(of_negative)), scored.n_groups
    s10 = i10 / ((i10 - 1) * m) * (positive**2).sum()
    s01 = i01 / ((i01 - 1) * n) * (negative**2).sum()
    s11 = i / (i - 1) * (positive * negative).sum()
    variance = s10 / m + s01 / n + 2 * s11 / (m * n)
    found = measure_auc(scored.is_positive, scored.scores, scored.groups)
    assert found.standard_error**2 == pytest.approx(variance, rel=0.03)  # groups of unequal size


def test_a_perfect_ranking_has_an_interval_that_narrows_with_the_number_of_groups():
    lows = []
    for n_each in (5, 50):
        labels = np.repeat([0, 1], n_each)
        interval = measure_auc(labels == 1, labels + 0.0, np.arange(2 * n_each)).interval()
        assert interval.high == 1
        lows.append(interval.low)
    assert lows[0] == pytest.approx(0.025 ** (1 / 5))
    assert lows[0] < lows[1] < 1


def test_a_class_with_one_group_has_no_variance_and_says_so():
    found = measure_auc(
        np.array([True, True, False, False]), np.array([0.9, 0.1, 0.5, 0.2]), np.array([0, 0, 1, 2])
    )
    assert (found.interval().low, found.interval().high) == (0, 1)
    assert "no variance" in found.interval().method


# --- Resampling --------------------------------------------------------------------------------------------------


def copied_out(scored, resampling):
    """Each resample as rows, the slow way."""
    for weights in resampling.weights(scored.n_groups):
        for weight in weights.T.astype(int):
            rows = np.repeat(np.arange(scored.n_images), weight[scored.groups])
            yield scored.is_positive[rows], scored.scores[rows]


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_every_resampled_measure_equals_the_measure_of_the_copied_out_resample(decimals):
    scored, resampling = tied(decimals=decimals), Resampling(n_resamples=30)
    ours = resampled_ranking(scored.is_positive, scored.scores, scored.groups, resampling, RANKING_NAMES)
    for column, (labels, scores) in zip(ours.T, copied_out(scored, resampling), strict=True):
        expected = ranking_values(labels, scores)
        assert column == pytest.approx([expected[name] for name in RANKING_NAMES], abs=1e-12)


def test_the_fast_auc_equals_scikit_learns_on_every_resample():
    scored, resampling = tied(), Resampling(n_resamples=50)
    ours = resampled_auc(scored.is_positive, scored.scores, scored.groups, resampling)
    peer = [roc_auc_score(labels, scores) for labels, scores in copied_out(scored, resampling)]
    assert np.abs(ours - peer).max() < 1e-12


def test_counts_that_do_not_fit_into_sixteen_bits_are_exact():
    # Eight groups of 10,000 images, nearly all of them negatives below the lowest positive.
    rng = np.random.default_rng(5)
    groups, labels = np.arange(80_000) % 8, np.zeros(80_000, dtype=int)
    labels[:40] = 1
    scores = np.where(labels, 0.5 + rng.random(80_000) / 2, np.round(rng.random(80_000) ** 9, 3))
    scored, resampling = binary(labels, scores, groups), Resampling(n_resamples=10)
    data = scored.is_positive, scored.scores, scored.groups, resampling
    for alone, column, copied in zip(
        resampled_auc(*data),
        resampled_ranking(*data, RANKING_NAMES).T,
        copied_out(scored, resampling),
        strict=True,
    ):
        expected = ranking_values(*copied)
        assert alone == pytest.approx(expected["auc"], abs=1e-12)
        assert column == pytest.approx([expected[name] for name in RANKING_NAMES], abs=1e-12)


def test_figures_that_share_their_draws_are_those_that_are_drawn_one_by_one():
    scored = tied()
    attributes = scored.attributes.assign(image_type="dermoscopic")
    scored = dataclasses.replace(scored, attributes=attributes)  # a slice of all images shares them too
    threshold = Threshold(value=0.4, rule="", chosen_on="val")
    document = evaluation_document(scored, threshold=threshold, subset="test", resampling=FEW)
    apart = (
        ranking_figures(scored, RANKING_NAMES, FEW)
        | threshold_figures(scored, 0.4, FEW)
        | probability_figures(scored, FEW)
    )
    together = {name: figure.model_dump() for name, figure in document.figures.items()}
    (part,) = (part for part in document.slices if part.attribute == "image_type")
    for name, figure in apart.items():
        expected = figure.published().model_dump()
        assert together[name] == expected
        if name in part.figures:
            assert part.figures[name].model_dump() == expected
    data = scored.is_positive, scored.scores, scored.groups, FEW
    assert document.curves.calibration == calibration.calibration_curve(*data)
    assert document.curves.net_benefit == calibration.net_benefit_curve(*data)


def test_draws_do_not_depend_on_how_many_are_made_at_once():
    together = np.concatenate(list(FEW.counts(70)), axis=1)
    apart = np.concatenate(list(FEW.counts(70, n_rows=10**6)), axis=1)
    assert np.array_equal(together, apart)
    assert (together.sum(axis=0) == 70).all()


@pytest.mark.parametrize("n_groups", [1, 2, 7, 70, 5_461])
def test_draws_are_those_that_stored_figures_were_made_with(n_groups):
    """Each resample takes the next words of the generator, two groups to a word, the lower half first."""
    raw = np.random.SFC64(FEW.seed).random_raw
    counts = np.concatenate(list(FEW.counts(n_groups)), axis=1)
    for row in range(FEW.n_resamples):
        words = np.atleast_1d(raw(-(-n_groups // 2)))
        halves = np.stack([words & np.uint64(2**32 - 1), words >> np.uint64(32)], axis=1).reshape(-1)[
            :n_groups
        ]
        drawn = (halves * np.uint64(n_groups)) >> np.uint64(32)
        assert np.array_equal(counts[:, row], np.bincount(drawn.astype(np.int64), minlength=n_groups))


def test_a_draw_takes_every_group_equally_often():
    counts = np.concatenate(list(Resampling(n_resamples=4_000).weights(11)), axis=1).mean(axis=1)
    assert np.abs(counts - 1).max() < 0.08  # standard error 0.015


def test_a_resample_without_positives_is_undefined_and_left_out():
    scored = binary([1, 0, 0, 0, 0], [0.9, 0.1, 0.2, 0.3, 0.95])
    samples = resampled_auc(scored.is_positive, scored.scores, scored.groups, FEW)
    n_undefined = int(np.isnan(samples).sum())
    assert 0 < n_undefined < 200
    assert FEW.interval(samples) is None  # a third of the draws lack the one positive
    assert np.array_equal(
        np.isnan(samples),
        np.isnan(resampled_ranking(scored.is_positive, scored.scores, scored.groups, FEW, RANKING_NAMES)[0]),
    )


# --- Measures read from curves -----------------------------------------------------------------------------------


def test_values_equal_those_of_scikit_learn():
    scored = tied(1_000)
    y, p = scored.is_positive, scored.scores
    found = values(scored, threshold=0.4)
    assert found["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-14)
    assert found["average_precision"] == pytest.approx(average_precision_score(y, p), abs=1e-14)
    assert found["brier_score"] == pytest.approx(brier_score_loss(y, p), abs=1e-14)
    assert found["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, p >= 0.4), abs=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_partial_auc_is_the_isic_2024_measure(seed):
    scored = tied(300, seed=seed)
    # The challenge flips labels and scores, and undoes scikit-learn's McClish scaling.
    scaled = roc_auc_score(~scored.is_positive, 1 - scored.scores, max_fpr=0.2)
    expected = 0.5 * 0.2**2 + (0.2 - 0.5 * 0.2**2) * (2 * scaled - 1)
    found = ranking_values(scored.is_positive, scored.scores)["partial_auc_above_80_sensitivity"]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_full_auc_above_sensitivity_is_the_area_right_of_the_crossing(seed):
    scored = tied(300, seed=seed)
    fpr, tpr, _ = roc_curve(scored.is_positive, scored.scores, drop_intermediate=False)
    first = int(np.argmax(tpr >= 0.8))
    start = fpr[first - 1] + (0.8 - tpr[first - 1]) / (tpr[first] - tpr[first - 1]) * (
        fpr[first] - fpr[first - 1]
    )
    expected = auc(np.r_[start, fpr[first:]], np.r_[0.8, tpr[first:]])
    found = ranking_values(scored.is_positive, scored.scores)["auc_above_80_sensitivity"]
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_perfect_ranking_has_every_ranking_measure_at_its_best():
    found = ranking_values(np.arange(20) >= 15, np.arange(20.0))
    assert found.pop("partial_auc_above_80_sensitivity") == pytest.approx(0.2)
    assert set(found.values()) == {1.0}


def test_sensitivity_at_a_specificity_is_worked_out_on_paper():
    # Ten negatives 0.0 to 0.9, five positives. One negative (0.9) may be called: three positives are at 0.85 or more.
    labels = np.repeat([0, 1], [10, 5])
    scores = np.r_[np.arange(10) / 10, 0.95, 0.88, 0.85, 0.55, 0.05]
    found = ranking_values(labels == 1, scores)
    assert found["sensitivity_at_90_specificity"] == pytest.approx(0.6)
    assert found["sensitivity_at_95_specificity"] == pytest.approx(0.2)
    # All five positives are called from 0.05 on, where 9 of 10 negatives are too.
    assert found["specificity_at_90_sensitivity"] == pytest.approx(0.1)


# --- The 2x2 table -----------------------------------------------------------------------------------------------


def test_the_two_by_two_table_is_worked_out_on_paper():
    # Called: 0.9 (hit), 0.6 (hit), 0.5 (wrong; at the threshold); not called: 0.4 (missed), 0.3, 0.2, 0.1 (right).
    found = values(binary([1, 1, 0, 1, 0, 0, 0], [0.9, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]), threshold=0.5)
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert found["specificity"] == pytest.approx(3 / 4)
    assert found["ppv"] == pytest.approx(2 / 3)
    assert found["npv"] == pytest.approx(3 / 4)
    assert found["accuracy"] == pytest.approx(5 / 7)
    # Bayes at a prevalence of 0.1: 0.1 x 2/3 / (0.1 x 2/3 + 0.9 x 1/4).
    assert found["ppv_at_prevalence_0.1"] == pytest.approx((0.2 / 3) / (0.2 / 3 + 0.225))


def test_wilsons_interval_is_the_published_one():
    # Newcombe 1998, table I: 81 of 263, score method without continuity correction: 0.2553 to 0.3662.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_repeating_every_image_within_its_group_does_not_narrow_an_interval():
    once = drawn(200)
    thrice = binary(np.tile(once.labels, 3), np.tile(once.scores, 3), np.tile(once.groups, 3))
    narrow, wide = (binary_figures(scored, threshold=0.5, resampling=FEW) for scored in (thrice, once))
    for name in ("auc", "sensitivity", "specificity", "ppv", "brier_score", "calibration_slope"):
        first, second = narrow[name].interval, wide[name].interval
        assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=0.003), name


# --- Probabilities -----------------------------------------------------------------------------------------------


def test_calibration_slope_and_intercept_are_those_of_logistic_regression():
    scored = drawn(2_000, distance=1.2)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(
        calibration.logits(scored.scores)[:, None], scored.is_positive
    )
    slope = calibration.calibration_slope(scored.is_positive, scored.scores, scored.groups)
    assert slope.value == pytest.approx(model.coef_[0, 0], abs=1e-4)
    intercept = calibration.calibration_intercept(scored.is_positive, scored.scores, scored.groups).value
    shifted = 1 / (1 + np.exp(-(calibration.logits(scored.scores) + intercept)))
    assert shifted.mean() == pytest.approx(scored.is_positive.mean(), abs=1e-9)


def test_scores_drawn_as_probabilities_are_calibrated_and_doubled_logits_are_not():
    rng = np.random.default_rng(0)
    scores = rng.beta(1, 3, 20_000)
    labels = rng.random(20_000) < scores
    right = calibration.calibration_slope(labels, scores, np.arange(20_000))
    assert right.interval.low <= 1 <= right.interval.high
    extreme = 1 / (1 + np.exp(-2 * calibration.logits(scores)))
    assert calibration.calibration_slope(labels, extreme, np.arange(20_000)).value == pytest.approx(
        right.value / 2, abs=1e-3
    )


def test_expected_calibration_error_is_worked_out_on_paper():
    # Bin 0.2 to 0.3: mean score 0.25, half are positive, 2 images. Bin 0.9 to 1: mean 0.95, all positive, 2 images.
    error = calibration.expected_calibration_error(np.array([0, 1, 1, 1]), np.array([0.24, 0.26, 0.9, 1.0]))
    assert error == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)


def test_expected_calibration_error_of_honest_scores_has_no_interval_that_leaves_it_out():
    random = np.random.default_rng(3)
    scores = random.random(400)
    honest = binary(random.random(400) < scores, scores)
    figure = probability_figures(honest, FEW)["expected_calibration_error"]
    assert figure.value is not None
    assert figure.interval is None
    assert "noisier" in (figure.interval_reason or "")


def test_net_benefit_is_worked_out_on_paper():
    scored = binary([1, 1, 0, 0, 0], [0.9, 0.2, 0.6, 0.2, 0.1])
    curve = calibration.net_benefit_curve(
        scored.is_positive, scored.scores, scored.groups, FEW, thresholds=np.array([0.2, 0.5])
    )
    assert curve.model == pytest.approx([2 / 5 - 2 / 5 * 0.25, 1 / 5 - 1 / 5 * 1.0])
    assert curve.treat_all == pytest.approx([0.4 - 0.6 * 0.25, 0.4 - 0.6])


# --- Undefined ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([0, 0, 0], "no positives among 3 images"), ([1, 1, 1], "no negatives among 3 images")],
)
def test_a_missing_class_makes_measures_null_with_the_reason(labels, reason):
    figures = binary_figures(binary(labels, [0.1, 0.6, 0.7]), threshold=0.5, resampling=FEW)
    for name in (
        *RANKING_NAMES,
        "balanced_accuracy",
        "ppv_at_prevalence_0.02",
        "calibration_slope",
        "brier_skill",
    ):
        assert (figures[name].value, figures[name].reason) == (None, reason)
    assert figures["brier_score"].value is not None


def test_a_ppv_without_calls_is_null_and_not_one():
    found = binary_figures(binary([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]), threshold=0.9, resampling=FEW)
    assert (found["ppv"].value, found["ppv"].reason) == (None, "no image was called positive")
    assert found["sensitivity"].value == 0
    assert found["ppv_at_prevalence_0.1"].value is None


def test_a_perfect_separation_has_no_calibration_slope():
    found = binary_figures(binary([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]), threshold=0.5, resampling=FEW)
    assert found["calibration_slope"].value is None
    assert "separate" in found["calibration_slope"].reason


# --- More than two classes ---------------------------------------------------------------------------------------


def test_multiclass_values_equal_those_of_scikit_learn():
    scored = drawn_multiclass(600)
    found = {name: figure.value for name, figure in multiclass_figures(scored, FEW).items()}
    y, p = scored.labels, scored.probabilities
    assert found["macro_auc"] == pytest.approx(
        roc_auc_score(y, p, multi_class="ovr", average="macro"), abs=1e-12
    )
    assert found["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(y, p.argmax(axis=1)), abs=1e-12
    )
    assert found["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-12)
    assert found["brier_score"] == pytest.approx(brier_score_loss(y, p, scale_by_half=False), abs=1e-12)
    expected = np.mean([average_precision_score(y == k, p[:, k]) for k in range(4)])
    assert found["macro_average_precision"] == pytest.approx(expected, abs=1e-12)


def test_the_macro_auc_interval_agrees_with_its_bootstrap():
    figure = multiclass_figures(drawn_multiclass(600), Resampling(n_resamples=1_000))["macro_auc"]
    (bootstrap,) = figure.other_intervals
    assert (figure.interval.low, figure.interval.high) == pytest.approx(
        (bootstrap.low, bootstrap.high), abs=0.004
    )


def test_an_absent_class_makes_class_means_null_with_its_name():
    scored = drawn_multiclass(200)
    present = scored.labels != 2
    found = multiclass_figures(multiclass(scored.labels[present], scored.probabilities[present]), FEW)
    assert (found["macro_auc"].value, found["macro_auc"].reason) == (None, "no images of class c")
    assert found["balanced_accuracy"].value is None
    assert found["accuracy"].value is not None


# --- Slices and the document -------------------------------------------------------------------------------------


def test_slices_are_scored_above_the_floor_and_named_below_it():
    scored = drawn(400, seed=3)
    age = np.where(np.arange(400) < 200, 50.0, np.where(np.arange(400) < 390, 70.0, np.nan))
    sliced = binary(
        scored.labels,
        scored.scores,
        age_years=age,
        sex=["female"] * 20 + ["male"] * 380,
        diagnosis_confirm_type=["histopathology"] * 150 + ["single image expert consensus"] * 250,
    )
    found = {(s.attribute, s.value): s for s in slice_figures(sliced, threshold=0.5, resampling=FEW)}
    assert set(found) == {
        ("sex", "male"),
        ("sex", "female"),
        ("age_years", "45 to under 60"),
        ("age_years", "60 to under 75"),
        ("age_years", "missing"),
        ("diagnosis_confirm_type", "histopathology"),
    }
    assert found["sex", "female"].reason == "20 images, floor 50"
    assert found["sex", "female"].figures == {}
    older = found["age_years", "60 to under 75"]
    mask = age == 70
    assert older.figures["auc"].value == pytest.approx(
        roc_auc_score(scored.labels[mask], scored.scores[mask])
    )
    assert (older.n_images, older.n_positives) == (190, int(scored.labels[mask].sum()))


@pytest.mark.parametrize("subject", ["binary", "multiclass", "no positives", "one image"])
def test_the_document_is_what_its_schema_says(subject):
    scored = {
        "binary": lambda: tied(600),
        "multiclass": lambda: drawn_multiclass(300),
        "no positives": lambda: binary([0] * 60, np.linspace(0, 1, 60), sex=["female"] * 60),
        "one image": lambda: binary([1], [0.5]),
    }[subject]()
    threshold = Threshold(value=0.4, rule="by hand", chosen_on="val") if scored.is_binary else None
    document = evaluation_document(
        scored, threshold=threshold, subset="test", training_id="t1", resampling=FEW
    )
    published = json.loads(json.dumps(document.model_dump(), allow_nan=False))
    schema = SubsetDocument.model_json_schema(mode="serialization")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(published)
    assert SubsetDocument.model_validate(published) == document
    expected = names.BINARY_FIGURES if scored.is_binary else names.MULTICLASS_FIGURES
    assert set(expected) <= set(document.figures)
    assert sum(map(sum, document.confusion.counts)) == scored.n_images


def test_curves_of_many_points_are_thinned_and_keep_their_ends():
    document = evaluation_document(
        drawn(4_000), threshold=None, subset="test", resampling=Resampling(n_resamples=20)
    )
    roc = document.curves.roc["malignant"]
    assert roc is not None
    assert 100 < len(roc.threshold) <= 502
    assert (roc.false_positive_rate[0], roc.true_positive_rate[0]) == (0, 0)
    assert (roc.false_positive_rate[-1], roc.true_positive_rate[-1]) == (1, 1)
    assert auc(roc.false_positive_rate, roc.true_positive_rate) == pytest.approx(
        document.figures["auc"].value, abs=0.002
    )
    curves = dict(document.curves)
    for curve in (roc, curves["precision_recall"]["malignant"], curves["calibration"], curves["net_benefit"]):
        assert len({len(column) for _, column in curve}) == 1


# --- Few, unequal and dominant groups ----------------------------------------------------------------------------


def test_measures_read_from_the_last_few_positives_have_no_interval_and_say_why():
    few = binary(np.repeat([0, 1], [300, 12]), np.random.default_rng(2).random(312))
    figures = binary_figures(few, threshold=0.5, resampling=FEW)
    for name, floor in (("sensitivity_at_90_specificity", 20), ("specificity_at_90_sensitivity", 40)):
        shown = figures[name].published()
        assert shown.value is not None
        assert (shown.low, shown.high, shown.method) == (None, None, None)
        assert shown.interval_reason == (f"too few positives: effective number of groups 12, needed {floor}")
    assert figures["auc"].interval is not None


def test_a_limit_that_the_last_few_decide_has_no_interval():
    """Simulated with an AUC of 0.99, the bootstrap of the sensitivity at 90 % specificity covered 98 %."""
    is_positive = np.repeat([0, 1], [400, 100])
    near = binary(is_positive, norm.cdf(np.random.default_rng(3).normal(is_positive * 3.3)))
    figures = binary_figures(near, threshold=0.5, resampling=FEW)
    for name in ("sensitivity_at_90_specificity", "specificity_at_90_sensitivity"):
        shown = figures[name]
        n_beyond = (1 - shown.value) * (100 if name.startswith("sens") else 400)
        assert (shown.interval is None) == (n_beyond < 5), name
    reason = figures["sensitivity_at_90_specificity"].interval_reason
    assert re.fullmatch(
        r"too few positives on the wrong side of the cut: effective number of groups [\d.]+, needed 5", reason
    )


def test_a_number_below_what_is_needed_never_reads_as_enough():
    assert (
        too_few_groups("positives", 19.96, 20)
        == "too few positives: effective number of groups 19.9, needed 20"
    )


def test_constant_scores_have_no_interval_of_no_width():
    constant = binary(np.repeat([0, 1], [60, 40]), np.full(100, 0.3))
    for name, figure in binary_figures(constant, threshold=0.5, resampling=FEW).items():
        if figure.value is not None and figure.interval is not None:
            assert figure.interval.high > figure.interval.low, name
    figure = binary_figures(constant, threshold=0.5, resampling=FEW)["auc"]
    assert figure.interval_reason == "all images have the same score"


def test_one_group_with_most_images_leaves_few_degrees_of_freedom():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1_000)
    alike = np.r_[np.zeros(300, int), np.arange(1, 701)]
    effect = np.r_[np.full(300, 2.0), np.zeros(700)]
    assert satterthwaite(values, np.arange(1_000)) == pytest.approx(1_000, rel=0.01)
    assert satterthwaite(values, np.repeat(np.arange(20), 50)) == pytest.approx(20, rel=0.01)
    assert satterthwaite(values + effect, alike) < 1.5
    assert effective_groups(np.bincount(alike)) == pytest.approx(1_000**2 / (300**2 + 700))


def test_the_leverage_corrected_variance_of_a_slope_is_that_of_the_whole_matrices():
    scored = drawn(80, n_groups=25)
    design = np.column_stack([calibration.logits(scored.scores), np.ones(80)])
    slope = LogisticRegression(C=np.inf, tol=1e-12).fit(design[:, :1], scored.is_positive)
    expected = slope.predict_proba(design[:, :1])[:, 1]
    weight = expected * (1 - expected)
    bread = np.linalg.inv((design * weight[:, None]).T @ design)
    residual = scored.is_positive - expected
    scaled = design * np.sqrt(weight)[:, None]
    found = calibration._leverage_corrected(design, weight, residual, bread, scored.groups)
    for group in range(scored.n_groups):
        rows = scored.groups == group
        values, vectors = np.linalg.eigh(np.eye(rows.sum()) - scaled[rows] @ bread @ scaled[rows].T)
        adjusted = (vectors / np.sqrt(values)) @ vectors.T @ (residual[rows] / np.sqrt(weight[rows]))
        assert found[group] == pytest.approx((bread @ scaled[rows].T @ adjusted)[0], abs=1e-9)


def test_a_group_with_more_than_a_fifth_of_a_class_is_named_in_the_document():
    labels = np.repeat([0, 1], [60, 40])
    groups = np.arange(100)
    groups[60:75] = 60  # 15 of 40 positives
    document = evaluation_document(
        binary(labels, np.random.default_rng(0).random(100), groups),
        threshold=None,
        subset="test",
        resampling=FEW,
    )
    assert document.subset.dominant_groups == [
        DominantGroup(class_name="malignant", group_id="G60", share=0.375, n_images=15)
    ]
