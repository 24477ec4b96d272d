"""A lesion with several images is asked as a whole: by the mean of its logits, under one row of its own."""

import numpy as np
import pandas as pd
import pytest

from lesion_tasks.metrics.by_lesion import by_lesion
from lesion_tasks.metrics.scored import Scored, join

LESIONS = {"a": "L1", "b": "L1", "d": "L2", "e": "L2"}  # c and f belong to none that is known


def scored(n_classes: int = 2) -> Scored:
    classes = ("no", "yes", "other")[:n_classes]
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.ones(n_classes), 6)
    rows = pd.DataFrame({"isic_id": list("abcdef"), "label": ["no", "no", "yes", "yes", "yes", "no"],
                         "group_id": ["G1", "G1", "G2", "G1", "G1", "G3"], "sex": list("mmffmf")})  # fmt: skip
    frame = pd.DataFrame(p, index=pd.Index(rows["isic_id"], name="isic_id"), columns=list(classes))
    return join(frame, rows, class_names=classes, positive_class="yes" if n_classes == 2 else None)


def test_the_score_of_a_lesion_is_the_mean_logit_of_its_images() -> None:
    images = scored()
    lesions = by_lesion(images, LESIONS)
    assert list(lesions.isic_ids) == ["a", "c", "d", "f"]
    assert list(lesions.group_ids) == ["G1", "G2", "G1", "G3"]
    logit = np.log(images.scores / (1 - images.scores))
    expected = [logit[:2].mean(), logit[2], logit[3:5].mean(), logit[5]]
    np.testing.assert_allclose(np.log(lesions.scores / (1 - lesions.scores)), expected, rtol=1e-5)
    assert list(lesions.is_positive) == [False, True, True, False]


def test_with_several_classes_it_is_the_softmax_of_mean_logarithms() -> None:
    images = scored(3)
    lesions = by_lesion(images, LESIONS)
    mean = np.exp(np.log(images.probabilities[3:5]).mean(axis=0))
    np.testing.assert_allclose(lesions.probabilities[2], mean / mean.sum(), rtol=1e-6)
    np.testing.assert_allclose(lesions.probabilities.sum(axis=1), 1)


def test_a_lesion_with_two_labels_is_left_out_and_images_without_one_stand_alone() -> None:
    images = scored()
    assert list(by_lesion(images, {**LESIONS, "b": "L2"}).isic_ids) == ["a", "c", "f"]
    alone = by_lesion(images, {})
    np.testing.assert_allclose(alone.probabilities, images.probabilities, rtol=1e-6)
    assert by_lesion(images.where(np.zeros(6, dtype=bool)), LESIONS).n_images == 0


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_certain_image_does_not_break_the_mean(p: float) -> None:
    images = scored()
    images.probabilities[0] = [1 - p, p]
    assert np.isfinite(by_lesion(images, LESIONS).probabilities).all()
