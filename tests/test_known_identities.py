"""Of whose images nobody knows anything nobody may claim anything: what is known of patients and lesions, in words."""

import pandas as pd
import pytest

from lesion_tasks.metrics.known_identities import Identities, KnownIdentities, count_known


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
            "the patient is known of 3 of 1,000 images (under 1 %), the lesion is known of 930 of 1,000 images (93 %)",
        ),
        (
            known(1_000, 999, 5, 999),
            "the patient is known of 999 of 1,000 images (over 99 %), the lesion is known of 5",
        ),
        (FEW, "the patient is known of 2 of 1,000 images (under 1 %), lesions are unknown"),
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
    ("learned", "test", "said"),
    [
        (ALL, ALL, "None of these patients or lesions is in the training set."),
        (LESIONS, LESIONS, "None of these lesions is in the training set; patients are unknown"),
        (SOME, SOME, "No patient or lesion that is known is in the training set as well."),
        (ALL, LESIONS, "No patient or lesion that is known is in the training set as well."),
        # One side alone is enough: nobody can be told apart from strangers.
        (
            NONE,
            ALL,
            "Patients and lesions are unknown, so that nobody can tell whether any of these patients",
        ),
        (
            ALL,
            NONE,
            "Patients and lesions are unknown, so that nobody can tell whether any of these patients",
        ),
    ],
)
def test_nobody_is_said_to_be_apart_from_whom_nobody_knows(
    learned: KnownIdentities, test: KnownIdentities, said: str
) -> None:
    assert Identities(learned=learned, test=test).apart.startswith(said)
