"""Records and files -> images or rejects, and the groups that must stay together."""

from typing import Any

import pytest
from catalogue import MELANOMA, NEVUS, add_records, archive_record, rows_of

from lesion_tasks.curate import CuratedImage, Rejected, curate_images, curate_record
from lesion_tasks.settings import Settings

STORED = {"rendition": "thumbnail_256", "sha256": "ab", "reason": None, "detail": None}


def curated(**known: Any) -> CuratedImage:
    image = curate_record(archive_record(**known), 1, STORED)
    assert isinstance(image, CuratedImage)
    return image


@pytest.mark.parametrize(
    ("sent", "age_years"),
    [(55, 55.0), ("55", 55.0), (0, 0.0), (None, None), ("old", None), (-5, None), (400, None), (True, None)],
)
def test_an_age_is_a_number_in_range_or_missing(sent: Any, age_years: float | None) -> None:
    assert curated(age_approx=sent).age_years == age_years


@pytest.mark.parametrize(
    ("sent", "size_mm"),
    [("3.50", 3.5), (3.5, 3.5), ("0.00", None), ("nan", None), ("1e9", None), ("6 mm", None), ([], None)],
)
def test_a_size_is_in_millimetres_or_missing(sent: Any, size_mm: float | None) -> None:
    assert curated(clin_size_long_diam_mm=sent).size_mm == size_mm


@pytest.mark.parametrize(
    ("known", "site"),
    [
        ({"anatom_site_1": "Trunk"}, "Trunk"),
        ({"anatom_site_general": "posterior torso"}, "Trunk"),
        ({"anatom_site_1": "Head and neck", "anatom_site_general": "posterior torso"}, "Head and neck"),
        ({"anatom_site_general": "elsewhere"}, None),
        ({}, None),
    ],
)
def test_both_site_vocabularies_are_understood(known: dict[str, str], site: str | None) -> None:
    assert curated(**known).anatom_site == site


def test_a_diagnosis_path_ends_at_the_first_missing_level() -> None:
    assert curated(diagnosis_1="Benign", diagnosis_3="Nevus").diagnosis == ("Benign",)
    assert curated(**MELANOMA).diagnosis == tuple(MELANOMA.values())
    assert curated().diagnosis == ()


@pytest.mark.parametrize(
    ("file", "is_withdrawn", "reason"),
    [
        (STORED, True, "withdrawn"),
        (None, False, "no_file"),
        ({**STORED, "reason": "not_an_image", "detail": "HTML"}, False, "file_refused"),
    ],
)
def test_a_record_without_a_usable_picture_is_rejected_by_name(
    file: dict[str, Any] | None, is_withdrawn: bool, reason: str
) -> None:
    rejected = curate_record(archive_record(), 1, file, is_withdrawn=is_withdrawn)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == reason


def test_damaged_metadata_is_missing_values_and_not_a_crash() -> None:
    record = {"isic_id": "ISIC_0000001", "metadata": None}
    assert isinstance(curate_record(record, 1, STORED), CuratedImage)


def test_curating_again_touches_nothing(settings: Settings) -> None:
    add_records(settings, [archive_record(f"ISIC_{i:07d}", **NEVUS) for i in range(1, 6)])
    assert curate_images()["images"] == 5
    before = rows_of(settings, "SELECT * FROM image ORDER BY isic_id")
    counts = curate_images()
    assert (counts["images"], counts["rejects"], counts["regrouped"]) == (0, 0, 0)
    assert rows_of(settings, "SELECT * FROM image ORDER BY isic_id") == before


def test_an_edited_record_is_curated_again(settings: Settings) -> None:
    add_records(settings, [archive_record("ISIC_0000001", **NEVUS)])
    curate_images()
    add_records(settings, [archive_record("ISIC_0000001", **MELANOMA)], version=2)
    assert curate_images()["images"] == 1
    ((diagnosis, version),) = rows_of(settings, "SELECT diagnosis[1], record_version FROM image")
    assert (diagnosis, version) == ("Malignant", 2)


def test_a_record_without_file_waits_as_a_reject(settings: Settings) -> None:
    records = [archive_record("ISIC_0000001", **NEVUS), archive_record("ISIC_0000002", **NEVUS)]
    add_records(settings, records, picture_by_id={"ISIC_0000002": b""})
    counts = curate_images()
    assert (counts["images"], counts["rejected_no_file"]) == (1, 1)
    assert rows_of(settings, "SELECT isic_id, reason FROM reject") == [("ISIC_0000002", "no_file")]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_a_lesion_under_two_patients_is_used_by_nobody_whichever_came_first(
    settings: Settings, order: tuple[int, ...]
) -> None:
    known = {
        1: {"patient_id": "IP_0000001"},
        2: {"patient_id": "IP_0000002"},
        3: {},
    }
    for i in order:
        add_records(settings, [archive_record(f"ISIC_{i:07d}", lesion_id="IL_0000001", **NEVUS, **known[i])])
        curate_images()
    assert rows_of(settings, "SELECT count(*) FROM image") == [(0,)]
    assert rows_of(settings, "SELECT isic_id, reason FROM reject ORDER BY 1") == [
        (f"ISIC_{i:07d}", "lesion_of_two_patients") for i in (1, 2, 3)
    ]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_patient_named_on_one_image_of_a_lesion_holds_for_all(
    settings: Settings, order: tuple[int, ...]
) -> None:
    known = {1: {"patient_id": "IP_0000001"}, 2: {}}
    for i in order:
        add_records(settings, [archive_record(f"ISIC_{i:07d}", lesion_id="IL_0000001", **NEVUS, **known[i])])
        curate_images()
    assert rows_of(settings, "SELECT DISTINCT patient_id, atom_id, group_id FROM image") == [
        ("IP_0000001", "IP_0000001", "IP_0000001")
    ]


def test_identical_bytes_join_two_lesions_into_one_group(settings: Settings) -> None:
    records = [archive_record(f"ISIC_{i:07d}", lesion_id=f"IL_000000{i}", **NEVUS) for i in (1, 2, 3)]
    from catalogue import draw

    same = draw(7, is_malignant=False)
    add_records(settings, records, picture_by_id={"ISIC_0000001": same, "ISIC_0000003": same})
    curate_images()
    assert rows_of(settings, "SELECT isic_id, group_id FROM image ORDER BY 1") == [
        ("ISIC_0000001", "IL_0000001"),
        ("ISIC_0000002", "IL_0000002"),
        ("ISIC_0000003", "IL_0000001"),
    ]
