"""Of whose images nobody knows anything nobody may claim anything: what is known of patients and lesions, in words."""

import pandas as pd
import pytest

from lesion_tasks.metrics.known_identities import (
    Identities,
    KnownIdentities,
    count_known,
    find_unknown,
    note_of,
)
from lesion_tasks.metrics.leaks import leaks


def known(n_images: int, n_with_patient: int, n_with_lesion: int, n_with_either: int) -> KnownIdentities:
    return KnownIdentities(
        n_images=n_images,
        n_with_patient=n_with_patient,
        n_with_lesion=n_with_lesion,
        n_with_either=n_with_either,
    )


ALL = known(100, 100, 40, 100)
LESIONS = known(100, 0, 100, 100)  # HAM10000
SOME = known(1_000, 3, 930, 931)  # the archive
FEW = known(1_000, 2, 0, 2)
NONE = known(100, 0, 0, 0)
HALF = known(100, 50, 100, 100)  # every lesion, and the patient of each second image
THIRD = known(100, 20, 15, 30)


def test_rows_are_counted_by_what_they_tell_and_a_missing_column_tells_nothing() -> None:
    rows = pd.DataFrame({"patient_id": ["a", None, None, None], "lesion_id": ["x", "y", None, float("nan")]})
    assert count_known(rows) == known(4, 1, 2, 2)
    assert count_known(rows[["lesion_id"]]) == known(4, 0, 2, 2)
    assert count_known(rows[[]]) == known(4, 0, 0, 0)


@pytest.mark.parametrize(
    ("some", "words"),
    [
        (ALL, "the patient of every image is known"),
        (LESIONS, "patients are unknown, the lesion of every image is known"),
        (
            SOME,
            "the patient is known for 3 of 1,000 images (under 1 %), the lesion is known for 930 of 1,000 images (93",
        ),
        (
            known(1_000, 999, 5, 999),
            "the patient is known for 999 of 1,000 images (over 99 %), the lesion is known for 5",
        ),
        (FEW, "the patient is known for 2 of 1,000 images (under 1 %), lesions are unknown"),
        (NONE, "patients and lesions are unknown"),
    ],
)
def test_what_is_known_is_said_with_its_share(some: KnownIdentities, words: str) -> None:
    assert some.words.startswith(words)


def test_a_caution_is_said_where_most_images_are_of_nobody_known_and_only_there() -> None:
    assert [one.caution is None for one in (ALL, LESIONS, SOME, FEW, NONE)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert "a model may be tested on patients from whom it learned" in (NONE.caution or "")
    assert ALL.note is None
    assert "another lesion of a patient" in (LESIONS.note or "")
    assert "the intervals are too narrow" in NONE.intervals
    assert "the intervals account for it" in SOME.intervals


@pytest.mark.parametrize(
    ("some", "note", "intervals"),
    [
        (
            HALF,
            "the lesion of every image is known: another lesion of a patient may be in another subset",
            "not every patient is known, and where one has several lesions the intervals are a little too narrow",
        ),
        (
            SOME,
            "of the 69 images for which neither is known, only copies of one picture are kept together, and another "
            "lesion of a patient may be in another subset",
            "where one has several images that do not say so the intervals are a little too narrow",
        ),
        (
            LESIONS,
            "the lesion of every image is known: another lesion of a patient may be in another subset",
            "patients are unknown, and where one has several lesions the intervals are a little too narrow",
        ),
        (
            THIRD,
            "of the 70 images for which neither is known, only copies of one picture are kept together, and a model",
            "patients and lesions are mostly unknown, so that most groups are hardly more",
        ),
        (
            NONE,
            "unknown: only copies of one picture are kept together, and a model",
            "so that a group is hardly",
        ),
    ],
)
def test_data_known_less_well_get_no_fewer_words(some: KnownIdentities, note: str, intervals: str) -> None:
    assert note in (some.note or "")
    assert intervals in some.intervals
    assert ("neither" in (some.note or "")) == (0 < some.n_with_neither < some.n_images)


@pytest.mark.parametrize(
    ("some", "group"),
    [
        (ALL, "patients or lesions"),
        (LESIONS, "lesions; patients are unknown"),
        (HALF, "patients or lesions"),
        (SOME, "patients or lesions where these are known"),
        (known(100, 0, 70, 70), "lesions where these are known; patients are unknown"),
        (THIRD, "mostly copies of one picture; patients and lesions are mostly unknown"),
        (NONE, "copies of one picture; patients and lesions are unknown"),
    ],
)
def test_a_group_is_called_what_it_is(some: KnownIdentities, group: str) -> None:
    assert some.group == group


def test_the_words_of_one_side_are_not_given_to_another() -> None:
    found = find_unknown({"train": NONE, "val": NONE, "test": ALL})
    assert found is not None
    assert found.caution.startswith("in train and val, patients and lesions are unknown:")
    assert found.in_short == "in train and val, patients and lesions are unknown"
    assert (note_of({"its own train": ALL, "test": NONE}) or "").startswith("in test, patients and")
    assert (note_of({"train": NONE, "test": NONE}) or "").startswith("patients and lesions are unknown:")
    assert (note_of({"train": ALL, "test": LESIONS}) or "").startswith(
        "the patient is known for 100 of 200 images"
    )
    assert find_unknown({"train": SOME, "test": LESIONS}) is None


def test_one_small_subset_of_strangers_is_told_wherever_it_is_asked() -> None:
    """The check, the evaluation and the split ask the same function of the same subsets."""
    subsets = {"train": known(900, 900, 0, 900), "val": NONE, "test": ALL}
    identities = Identities(**subsets)
    assert identities.unknown is not None and identities.unknown.subsets == ("val",)
    rows = {name: pd.DataFrame(index=range(one.n_images)) for name, one in subsets.items()}
    for name, frame in rows.items():
        frame["patient_id"] = None if name == "val" else [f"{name}{i}" for i in frame.index]
    verdict = leaks(rows)
    assert verdict.status == "caution"
    assert identities.unknown.caution[1:] in verdict.sentence


@pytest.mark.parametrize(
    ("learned", "test", "said"),
    [
        (ALL, ALL, "None of these patients or lesions is in train or val."),
        (LESIONS, LESIONS, "None of these lesions is in train or val; patients are unknown"),
        (
            SOME,
            SOME,
            "No patient or lesion that is known is in train or val as well; a patient who is not",
        ),
        (
            ALL,
            LESIONS,
            "No patient or lesion that is known is in train or val as well; a patient who is not",
        ),
        # One side alone is enough: nobody can be told apart from strangers.
        (
            NONE,
            ALL,
            "In train and val, patients and lesions are unknown, so that nobody can",
        ),
        (
            ALL,
            NONE,
            "In test, patients and lesions are unknown, so that nobody can tell whether it learned",
        ),
        (
            NONE,
            NONE,
            "Patients and lesions are unknown, so that nobody can tell whether it learned from any of these",
        ),
    ],
)
def test_nobody_is_said_to_be_apart_from_whom_nobody_knows(
    learned: KnownIdentities, test: KnownIdentities, said: str
) -> None:
    assert Identities(train=learned, val=learned, test=test).apart.startswith(said)
