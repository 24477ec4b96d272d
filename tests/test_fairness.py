"""Gaps between skin types, sexes and ages: found where they are planted, told as chance or not at all elsewhere."""

import numpy as np
import pandas as pd
import pytest
from evaluation_data import binary, drawn_multiclass

from lesion_tasks.metrics.fairness import measure_fairness, pool
from lesion_tasks.metrics.fairness_document import AttributeFairness, FairnessGap
from lesion_tasks.metrics.scored import Scored

SKIN_TYPES = ("I", "II", "III", "IV")


def people(n_images: int, *, seed: int = 0, worse: float = 1.0, group_of: int = 2) -> Scored:
    """Images of people with a skin type, sex and age; on skin of type IV the classes are `worse` times as far apart."""
    random = np.random.default_rng(seed)
    groups = np.arange(n_images) // group_of
    n_groups = int(groups[-1]) + 1
    skin = random.choice(SKIN_TYPES, n_groups)[groups]
    labels = (random.random(n_groups) < 0.35)[groups]
    distance = 2.0 * np.where(skin == "IV", worse, 1.0)
    noise = 0.8 * random.normal(size=n_groups)[groups] + 0.6 * random.normal(size=n_images)
    odds = 0.35 / 0.65 * np.exp(2.0 * (distance * labels + noise) - 2.0)
    return binary(
        labels,
        odds / (1 + odds),
        groups,
        fitzpatrick_skin_type=skin.tolist(),
        sex=random.choice(["male", "female"], n_groups)[groups].tolist(),
        age_years=random.integers(20, 80, n_groups)[groups].astype(float).tolist(),
    )


def of_attribute(scored: Scored, name: str, threshold: float | None = 0.35) -> AttributeFairness:
    found = measure_fairness(scored, threshold, sample="test")
    return next(one for one in found.attributes if one.attribute == name)


def gap_of(one: AttributeFairness, measure: str) -> FairnessGap:
    return next(gap for gap in one.gaps if gap.measure == measure)


def test_a_planted_gap_is_found_and_no_other() -> None:
    scored = people(4_000, worse=0.3)
    skin = of_attribute(scored, "fitzpatrick_skin_type")
    assert [part.value for part in skin.parts] == list(SKIN_TYPES)
    assert [gap.measure for gap in skin.gaps] == ["auc", "sensitivity", "specificity", "risk_overstated"]
    for measure in ("auc", "sensitivity"):
        gap = gap_of(skin, measure)
        assert gap.largest.lower == "IV"
        assert gap.certain == gap.largest
        assert gap.n_pairs == 6
        assert "more than chance." in gap.words
        parts = {part.value: part.figures[measure].value or 0.0 for part in skin.parts}
        assert gap.largest.value == pytest.approx(max(parts.values()) - parts["IV"])
    # Malignant lesions are given too little there.
    assert gap_of(skin, "risk_overstated").largest.lower == "IV"
    for gap in of_attribute(scored, "sex").gaps:
        assert gap.certain is None
        assert "no more than chance may do" in gap.words


def test_the_number_of_looks_is_told() -> None:
    found = measure_fairness(people(4_000), 0.35, sample="test")
    n_told = sum(gap.largest.low is not None for one in found.attributes for gap in one.gaps)
    assert n_told == 12
    assert found.words.startswith(
        "12 largest gaps are looked at, each at 5 %: were there none at all, about 0.6 "
    )
    assert "data sets" not in found.words


def test_what_cannot_be_told_is_said() -> None:
    scored = people(300)
    scored.attributes["fitzpatrick_skin_type"] = None
    skin = of_attribute(scored, "fitzpatrick_skin_type")
    assert skin.parts == []
    assert skin.reason == "no value is known"
    # One type has nearly all images: the other parts are listed and not measured.
    scored.attributes["fitzpatrick_skin_type"] = ["I"] * 280 + ["II"] * 20
    skin = of_attribute(scored, "fitzpatrick_skin_type")
    assert skin.reason == "1 of 2 parts large enough, expected two"
    assert [part.reason is None for part in skin.parts] == [True, False]
    # Large enough for a slice, and few patients: a gap without an interval.
    gap = gap_of(of_attribute(people(1_200, group_of=50), "sex"), "sensitivity")
    assert gap.largest.low is None
    assert gap.certain is None
    assert "cannot be determined" in gap.words

    # One part without an interval does not hide what can be determined of the others.
    scored = people(4_000, worse=0.3)
    few = [
        np.unique(scored.groups[side])[:n] for side, n in ((scored.is_positive, 7), (~scored.is_positive, 25))
    ]
    scored.attributes.loc[np.isin(scored.groups, np.concatenate(few)), "fitzpatrick_skin_type"] = "V"
    gap = gap_of(of_attribute(scored, "fitzpatrick_skin_type"), "auc")
    assert gap.certain is not None
    assert gap.certain.lower == "IV"
    assert list(gap.untold) == ["V"]
    assert "Cannot be determined for V" in gap.words


def test_images_of_several_samples_are_pooled_once() -> None:
    test = people(800, seed=1)
    other = people(800, seed=2, worse=0.3)
    renamed = Scored(
        **{
            name: getattr(other, name)
            for name in ("labels", "probabilities", "class_names", "positive_class")
        },
        isic_ids=np.array([f"X{isic_id}" for isic_id in other.isic_ids], dtype=object),
        group_ids=np.array([f"X{group}" for group in other.group_ids], dtype=object),
        attributes=other.attributes.assign(sex=None),
    )
    pooled = pool({"test": test, "one": renamed, "the same": renamed})
    assert pooled.n_images == 1_600
    # One picture under two names is one picture.
    contents = {f"X{isic_id}": f"bytes of {isic_id}" for isic_id in other.isic_ids[:50]}
    contents |= {
        isic_id: f"bytes of {there}"
        for isic_id, there in zip(test.isic_ids[:50], other.isic_ids[:50], strict=True)
    }
    once = pool({"test": test, "one": renamed}, contents)
    assert once.n_images == 1_550
    told = measure_fairness(once, 0.35, sample="pooled", n_shared=50)
    assert told.n_shared == 50
    assert told.words.endswith("50 images of one data set are in another too, and counted once.")
    assert pooled.n_groups == test.n_groups + other.n_groups
    assert isinstance(pooled.attributes, pd.DataFrame)
    found = measure_fairness(pooled, 0.35, sample="pooled")
    by_name = {one.attribute: one for one in found.attributes}
    assert "a gap may be one between data sets" in found.words
    # Who tells no sex is no part of a gap.
    assert sum(part.n_images for part in by_name["sex"].parts) == 800
    assert sum(part.n_images for part in by_name["fitzpatrick_skin_type"].parts) == 1_600


def test_more_than_two_classes_have_gaps_too() -> None:
    scored = drawn_multiclass(1_200)
    scored.attributes["sex"] = np.where(np.arange(1_200) % 2, "male", "female")
    sex = of_attribute(scored, "sex", None)
    assert [gap.measure for gap in sex.gaps] == ["macro_auc", "accuracy"]
