"""Our figures against judges that know nothing of us: the official challenge scorer, and a published example."""

import numpy as np
import pandas as pd
import pytest
from evaluation_data import binary, drawn, drawn_multiclass
from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore

from lesion_tasks.metrics.auc import measure_auc, weighted_sum
from lesion_tasks.metrics.document import evaluation_document
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.threshold import Threshold

# The scorer is older than pandas 3 and NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
    pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors"),
]

FEW = Resampling(n_resamples=50)

# 43 patients with ovarian cancer: albumin, total protein, Krebs-Goplerud score, and whether surgery helped. Example of
# DeLong, DeLong & Clarke-Pearson 1988 (doi:10.2307/2531595), as the manual of SAS/STAT prints it ("Comparing Receiver
# Operating Characteristic Curves"), where the K-G score counts as 10 - score.
OVARIAN_CANCER = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1   3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1   4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1   4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1   3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1   3.7 6.9 5 1  3.6 6.6 5 1
"""


def official_score(scored, metric=ClassificationMetric.AUC):
    """The challenge scorer on tables: its reader of CSV files needs an older pandas."""
    names, ids = list(scored.class_names), pd.Index(scored.isic_ids, name="image")
    truth = pd.DataFrame(np.eye(len(names))[scored.labels], index=ids, columns=names)
    predictions = pd.DataFrame(scored.probabilities, index=ids, columns=names)
    weights = pd.DataFrame(1.0, index=ids, columns=["score_weight", "validation_weight"])
    return ClassificationScore(truth, predictions, weights, metric)


def document(scored, threshold=None):
    return evaluation_document(scored, threshold=threshold, subset="test", resampling=FEW)


def value_of(figures, name):
    return figures[name].value


def test_binary_figures_equal_the_official_scorers():
    tied = drawn(700, n_groups=250)
    # Many ties, but none at one half: the scorer calls what is above it, we call what reaches it.
    scored = binary(tied.labels, np.floor(tied.scores * 100) / 100 + 0.005, tied.groups)
    found = document(scored, Threshold(value=0.5, rule="the scorer's", chosen_on="nothing"))
    official = official_score(scored).per_category.loc["malignant"]
    ours = found.figures
    for name, theirs in {
        "auc": "auc",
        "average_precision": "ap",
        "auc_above_80_sensitivity": "auc_sens_80",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "accuracy": "accuracy",
        "ppv": "ppv",
        "npv": "npv",
    }.items():
        assert value_of(ours, name) == pytest.approx(official[theirs], abs=1e-12), name


def test_multiclass_figures_equal_the_official_scorers():
    scored = drawn_multiclass(600)
    found = document(scored)
    official = official_score(scored, ClassificationMetric.BALANCED_ACCURACY)
    assert value_of(found.figures, "balanced_accuracy") == pytest.approx(official.overall, abs=1e-12)
    assert value_of(found.figures, "macro_auc") == pytest.approx(official.macro_average["auc"], abs=1e-12)
    assert value_of(found.figures, "macro_average_precision") == pytest.approx(
        official.macro_average["ap"], abs=1e-12
    )
    for name in scored.class_names:
        row = official.per_category.loc[name]
        assert value_of(found.by_class[name], "auc") == pytest.approx(row["auc"], abs=1e-12)
        assert value_of(found.by_class[name], "average_precision") == pytest.approx(row["ap"], abs=1e-12)


def test_delongs_own_example_has_the_published_areas_errors_and_contrasts():
    table = np.array(OVARIAN_CANCER.split(), float).reshape(-1, 4)
    albumin, protein, helped = table[:, 0], table[:, 1], table[:, 3] == 1
    one_each = np.arange(len(table))
    areas = {
        name: measure_auc(helped, scores, one_each)
        for name, scores in {"albumin": albumin, "protein": protein, "score": 10 - table[:, 2]}.items()
    }
    published = {"albumin": (0.7366, 0.0927), "score": (0.7258, 0.1028), "protein": (0.6478, 0.1000)}
    for name, (area, error) in published.items():
        assert round(areas[name].value, 4) == area, name
        assert round(areas[name].standard_error, 4) == error, name
    for name, (difference, error, chi_square) in {
        "albumin": (0.0108, 0.0953, 0.0127),
        "protein": (-0.0780, 0.1046, 0.5554),
    }.items():
        found = weighted_sum([areas[name], areas["score"]], [1, -1])
        assert round(found.value, 4) == difference, name
        assert round(found.standard_error, 4) == error, name
        assert round((found.value / found.standard_error) ** 2, 4) == chi_square, name
