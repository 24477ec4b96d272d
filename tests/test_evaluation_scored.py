import numpy as np
import pandas as pd
import pytest
from evaluation_data import CLASSES, binary, drawn

from lesion_tasks import UnusableInputError
from lesion_tasks.metrics.scored import join
from lesion_tasks.metrics.threshold import choose_threshold

ROWS = [
    {"isic_id": "ISIC_2", "label": "malignant", "group_id": "IP_1"},
    {"isic_id": "ISIC_1", "label": "benign", "group_id": "IP_2"},
    {"isic_id": "ISIC_3", "label": "benign", "group_id": "IP_1"},
]


def joined(predictions, rows=ROWS):
    return join(predictions, rows, class_names=CLASSES, positive_class="malignant")


def test_predictions_meet_their_rows_by_id_in_whatever_order_they_come():
    scored = joined({"ISIC_3": 0.3, "ISIC_1": 0.1, "ISIC_2": 0.2})
    assert scored.isic_ids.tolist() == ["ISIC_1", "ISIC_2", "ISIC_3"]
    assert scored.scores.tolist() == [0.1, 0.2, 0.3]
    assert scored.is_positive.tolist() == [False, True, False]
    assert scored.group_ids.tolist() == ["IP_2", "IP_1", "IP_1"]
    assert scored.n_groups == 2


def test_columns_of_a_frame_are_found_by_class_name_and_not_by_position():
    ids = ["ISIC_1", "ISIC_2", "ISIC_3"]
    frame = pd.DataFrame({"malignant": [0.1, 0.2, 0.3], "benign": [0.9, 0.8, 0.7]}, index=ids)
    assert joined(frame).scores.tolist() == [0.1, 0.2, 0.3]
    assert joined(frame[["benign", "malignant"]]).scores.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({"ISIC_1": 0.1, "ISIC_2": 0.2}, "1 manifest rows have no prediction.*ISIC_3"),
        (
            {"ISIC_1": 0.1, "ISIC_2": 0.2, "ISIC_3": 0.3, "ISIC_4": 0.4},
            "1 predictions have no manifest row.*ISIC_4",
        ),
        (
            {"ISIC_1": 0.1, "ISIC_2": float("nan"), "ISIC_3": 0.3},
            "1 predictions are not probabilities.*ISIC_2",
        ),
        ({"ISIC_1": 0.1, "ISIC_2": 1.2, "ISIC_3": 0.3}, "not probabilities"),
        (
            {"ISIC_1": [0.1, 0.2], "ISIC_2": [0.5, 0.5], "ISIC_3": [1, 0]},
            "not probabilities summing to 1.*ISIC_1",
        ),
        ({"ISIC_1": 0.1, "ISIC_2": [0.5, 0.5], "ISIC_3": 0.3}, "not all of the same length"),
    ],
)
def test_unusable_predictions_are_refused_with_an_example(predictions, message):
    with pytest.raises(UnusableInputError, match=message):
        joined(predictions)


def test_an_image_that_stands_twice_in_the_manifest_is_refused():
    with pytest.raises(UnusableInputError, match=r"more than once.*ISIC_1"):
        joined({"ISIC_1": 0.1, "ISIC_2": 0.2, "ISIC_3": 0.3}, [*ROWS, ROWS[1]])


def test_a_label_that_the_model_does_not_know_is_refused():
    rows = [*ROWS[:2], ROWS[2] | {"label": "indeterminate"}]
    with pytest.raises(UnusableInputError, match="indeterminate"):
        joined({"ISIC_1": 0.1, "ISIC_2": 0.2, "ISIC_3": 0.3}, rows)


def test_the_threshold_of_highest_balanced_accuracy_is_found_on_paper():
    # At 0.6: sensitivity 2/2, specificity 2/3; at 0.8: 1/2 and 3/3; at 0.7: 1/2 and 2/3.
    chosen = choose_threshold(binary([0, 0, 0, 1, 1], [0.1, 0.2, 0.7, 0.6, 0.8]))
    assert chosen.value == 0.6
    assert chosen.chosen_on == "val"


def test_a_threshold_cannot_be_chosen_from_one_class():
    with pytest.raises(UnusableInputError, match="0 positives in 3 images"):
        choose_threshold(binary([0, 0, 0], [0.1, 0.2, 0.3]))


def test_a_part_keeps_rows_together():
    scored = drawn(50, n_groups=20)
    part = scored.where(scored.scores > 0.5)
    assert part.n_images == int((scored.scores > 0.5).sum())
    assert np.array_equal(part.isic_ids, scored.isic_ids[scored.scores > 0.5])
    assert part.n_groups == len(set(part.group_ids)) == part.groups.max() + 1
