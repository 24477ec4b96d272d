"""Records and files -> images or rejects, and the groups that must stay together."""

import io
import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from catalogue import MELANOMA, NEVUS, add_records, archive_record, draw, rows_of
from PIL import Image
from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import SPLITS, TASKS
from lesion_tasks.curation import curate
from lesion_tasks.curation.cleaning import (
    DIAGNOSIS_FIELDS,
    FIELDS,
    CuratedImage,
    Field,
    Rejected,
    curate_record,
    unread_values,
)
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.curation.grouping import groups_of
from lesion_tasks.database.connection import engine_for
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace

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


@pytest.mark.parametrize(
    "field",
    [field for some in (*FIELDS.values(), *DIAGNOSIS_FIELDS) for field in some],
    ids=lambda field: field.name,
)
def test_whatever_is_read_of_a_record_is_named_where_it_cannot_be(field: Field) -> None:
    beside: dict[str, Any] = {field.name: ["no value"]}
    document = beside if field.group is None else {"metadata": {field.group: beside}}
    assert list(unread_values(document)) == [(field.name, "['no value']")]


def test_a_size_that_cannot_be_meant_is_named_and_a_site_of_the_older_vocabulary_is_none_the_worse() -> None:
    clinical = {
        "clin_size_long_diam_mm": "-3",
        "anatom_site_1": "unknown",
        "anatom_site_general": "head/neck",
    }
    assert list(unread_values({"metadata": {"clinical": clinical}})) == [("clin_size_long_diam_mm", "-3")]


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
    assert curate_images(open_workspace())["images"] == 5
    before = rows_of(settings, "SELECT * FROM image ORDER BY isic_id")
    counts = curate_images(open_workspace())
    assert (counts["images"], counts["rejects"], counts["regrouped"]) == (0, 0, 0)
    assert rows_of(settings, "SELECT * FROM image ORDER BY isic_id") == before


def waiting(settings: Settings) -> list[str]:
    return [row.isic_id for row in rows_of(settings, "SELECT isic_id FROM uncurated ORDER BY 1")]


def test_curation_says_in_its_log_how_far_it_is_stage_by_stage(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_records(settings, [archive_record(f"ISIC_{i:07d}", **NEVUS) for i in range(1, 31)], hashed=True)
    monkeypatch.setattr("lesion_tasks.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, logger="lesion_tasks.progress"):
        curate_images(open_workspace())
    told = [
        (stage, done)
        for message in caplog.messages
        for stage, done, n in re.findall(r"^([a-z ]+): (\d+) of (\d+)", message)
        if 0 < int(done) < int(n)
    ]
    assert {stage for stage, _ in told} >= {
        "find landmarks",
        "search for shared landmarks",
        "compare pictures that share landmarks",
    }


@pytest.mark.parametrize(
    ("change", "is_news"),
    [
        ("UPDATE record SET last_seen_at = now(), missing_since = now()", False),
        ("UPDATE record SET version = version", False),
        ("UPDATE stored_file SET n_attempts = 2, fetched_at = now(), etag = 'x'", False),
        ("UPDATE record SET withdrawn_at = now()", True),
        ("UPDATE stored_file SET sha256 = md5(sha256) || md5(sha256)", True),
        ("UPDATE stored_file SET object_key = 'images/elsewhere'", True),
        ("UPDATE stored_file SET reason = 'not_an_image', object_key = NULL, sha256 = NULL", True),
    ],
)
def test_only_what_curation_reads_is_news_to_it(settings: Settings, change: str, is_news: bool) -> None:
    add_records(settings, [archive_record("ISIC_0000001", **NEVUS), archive_record("ISIC_0000002", **NEVUS)])
    assert waiting(settings) == ["ISIC_0000001", "ISIC_0000002"]
    curate_images(open_workspace())
    assert waiting(settings) == []
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(text(f"{change} WHERE isic_id = 'ISIC_0000002'"))
    assert waiting(settings) == ["ISIC_0000002"] * is_news


def test_a_file_that_is_deleted_leaves_a_reject(settings: Settings) -> None:
    add_records(settings, [archive_record("ISIC_0000001", **NEVUS)])
    assert curate_images(open_workspace())["images"] == 1
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(text("SET CONSTRAINTS ALL DEFERRED; DELETE FROM image; DELETE FROM stored_file"))
    assert curate_images(open_workspace())["rejected_no_file"] == 1


def test_other_rules_judge_every_record_again_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [archive_record("ISIC_0000001", **NEVUS), archive_record("ISIC_0000002", **NEVUS)]
    add_records(settings, records, picture_by_id={"ISIC_0000002": b""})
    curate_images(open_workspace())
    assert curate_images(open_workspace())["images"] == 0
    monkeypatch.setattr(curate, "CLEANING_VERSION", 99)
    counts = curate_images(open_workspace())
    assert (counts["images"], counts["rejects"]) == (1, 1)
    assert rows_of(settings, "SELECT rules_version FROM image UNION SELECT rules_version FROM reject") == [
        (99,)
    ]
    assert curate_images(open_workspace())["images"] == 0


def test_a_record_that_changes_while_it_is_judged_is_judged_again(settings: Settings) -> None:
    add_records(settings, [archive_record("ISIC_0000001", **NEVUS)])
    engine = engine_for(settings.database_url or "")
    with ThreadPoolExecutor() as pool, engine.begin() as curation:
        curation.execute(text("DELETE FROM uncurated"))  # taken, and its record read
        edit = [archive_record("ISIC_0000001", **MELANOMA)]
        edited = pool.submit(add_records, settings, edit, version=2)
        with pytest.raises(TimeoutError):
            edited.result(timeout=0.3)
        curation.commit()
        edited.result(timeout=30)
    assert waiting(settings) == ["ISIC_0000001"]


def test_an_edited_record_is_curated_again(settings: Settings) -> None:
    add_records(settings, [archive_record("ISIC_0000001", **NEVUS)])
    curate_images(open_workspace())
    add_records(settings, [archive_record("ISIC_0000001", **MELANOMA)], version=2)
    assert curate_images(open_workspace())["images"] == 1
    ((diagnosis, version),) = rows_of(settings, "SELECT diagnosis[1], record_version FROM image")
    assert (diagnosis, version) == ("Malignant", 2)


def test_a_record_without_file_waits_as_a_reject(settings: Settings) -> None:
    records = [archive_record("ISIC_0000001", **NEVUS), archive_record("ISIC_0000002", **NEVUS)]
    add_records(settings, records, picture_by_id={"ISIC_0000002": b""})
    counts = curate_images(open_workspace())
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
        curate_images(open_workspace())
    assert rows_of(settings, "SELECT count(*) FROM image") == [(0,)]
    assert rows_of(settings, "SELECT isic_id, reason FROM reject ORDER BY 1") == [
        (f"ISIC_{i:07d}", "lesion_of_two_patients") for i in (1, 2, 3)
    ]


def correct(settings: Settings, isic_id: str, **known: str | None) -> None:
    """The archive edits one record of a lesion."""
    add_records(
        settings, [archive_record(isic_id, **{"lesion_id": "IL_0000001", **NEVUS, **known})], version=2
    )


@pytest.mark.parametrize(
    ("isic_id", "known", "patient", "n_images"),
    [
        ("ISIC_0000003", {"patient_id": "IP_0000001"}, "IP_0000001", 3),
        ("ISIC_0000001", {"patient_id": "IP_0000002"}, "IP_0000002", 3),
        ("ISIC_0000003", {"patient_id": None}, "IP_0000001", 3),
        ("ISIC_0000003", {"patient_id": "IP_0000002", "lesion_id": "IL_0000002"}, "IP_0000001", 2),
    ],
)
def test_a_lesion_under_two_patients_is_used_again_once_the_archive_corrects_a_record(
    settings: Settings, isic_id: str, known: dict[str, Any], patient: str, n_images: int
) -> None:
    patients = ["IP_0000001", None, "IP_0000002"]
    for i, patient_id in enumerate(patients, 1):
        named = {} if patient_id is None else {"patient_id": patient_id}
        add_records(settings, [archive_record(f"ISIC_{i:07d}", lesion_id="IL_0000001", **NEVUS, **named)])
        curate_images(open_workspace())
    assert rows_of(settings, "SELECT count(*) FROM image") == [(0,)]
    correct(settings, isic_id, **known)
    assert curate_images(open_workspace())["reopened"] == 2
    assert rows_of(
        settings,
        "SELECT patient_id, group_id, count(*) FROM image WHERE lesion_id = 'IL_0000001' GROUP BY 1, 2",
    ) == [(patient, patient, n_images)]
    assert rows_of(settings, "SELECT count(*) FROM reject") == [(0,)]
    assert rows_of(settings, "SELECT count(*) FROM uncurated") == [(0,)]


def test_a_curation_killed_while_a_lesion_is_judged_again_ends_as_one_that_was_not(
    settings: Settings,
) -> None:
    for i, patient_id in ((1, "IP_0000001"), (2, "IP_0000001"), (3, "IP_0000002")):
        record = archive_record(f"ISIC_{i:07d}", lesion_id="IL_0000001", patient_id=patient_id, **NEVUS)
        add_records(settings, [record])
    curate_images(open_workspace())
    correct(settings, "ISIC_0000003", patient_id="IP_0000001")
    # Ends without a word in the second batch: the corrected record is judged, the two others wait.
    code = (
        "import os, lesion_tasks.curation.curate as c; judge, calls = c._curate_batch, []\n"
        "c._curate_batch = lambda *given: os.kill(os.getpid(), 9) if calls else (calls.append(1), judge(*given))[1]\n"
        "from lesion_tasks.workspace import open_workspace; c.curate_images(open_workspace())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert rows_of(settings, "SELECT isic_id FROM image") == [("ISIC_0000003",)]
    assert rows_of(settings, "SELECT count(*) FROM uncurated") == [(2,)]
    curate_images(open_workspace())
    assert rows_of(settings, "SELECT count(*), min(group_id), max(group_id) FROM image") == [
        (3, "IP_0000001", "IP_0000001")
    ]
    assert rows_of(settings, "SELECT count(*) FROM reject") == [(0,)]


def test_another_patient_on_the_only_image_of_a_lesion_that_names_one_holds_for_all(
    settings: Settings,
) -> None:
    for i, named in ((1, {"patient_id": "IP_0000001"}), (2, {})):
        add_records(settings, [archive_record(f"ISIC_{i:07d}", lesion_id="IL_0000001", **NEVUS, **named)])
    curate_images(open_workspace())
    for patient_id, group_id in (("IP_0000002", "IP_0000002"), (None, "IL_0000001")):
        version = 2 if patient_id else 3
        named = {"patient_id": patient_id} if patient_id else {}
        record = archive_record("ISIC_0000001", lesion_id="IL_0000001", **NEVUS, **named)
        add_records(settings, [record], version=version)
        curate_images(open_workspace())
        assert rows_of(settings, "SELECT DISTINCT patient_id, atom_id, group_id FROM image") == [
            (patient_id, group_id, group_id)
        ]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_patient_named_on_one_image_of_a_lesion_holds_for_all(
    settings: Settings, order: tuple[int, ...]
) -> None:
    known = {1: {"patient_id": "IP_0000001"}, 2: {}}
    for i in order:
        add_records(settings, [archive_record(f"ISIC_{i:07d}", lesion_id="IL_0000001", **NEVUS, **known[i])])
        curate_images(open_workspace())
    assert rows_of(settings, "SELECT DISTINCT patient_id, atom_id, group_id FROM image") == [
        ("IP_0000001", "IP_0000001", "IP_0000001")
    ]


def test_identical_bytes_join_two_lesions_into_one_group(settings: Settings) -> None:
    records = [archive_record(f"ISIC_{i:07d}", lesion_id=f"IL_000000{i}", **NEVUS) for i in (1, 2, 3)]
    same = draw(7, is_malignant=False)
    add_records(settings, records, picture_by_id={"ISIC_0000001": same, "ISIC_0000003": same})
    curate_images(open_workspace())
    assert rows_of(settings, "SELECT isic_id, group_id FROM image ORDER BY 1") == [
        ("ISIC_0000001", "IL_0000001"),
        ("ISIC_0000002", "IL_0000002"),
        ("ISIC_0000003", "IL_0000001"),
    ]


def groups_from_scratch(settings: Settings) -> dict[str, str]:
    """The groups that all images together have, computed at once."""
    rows = rows_of(settings, "SELECT isic_id, atom_id, lesion_id, sha256 FROM image ORDER BY isic_id")
    pairs = rows_of(settings, "SELECT sha256, other_sha256 FROM picture_pair WHERE is_copy")
    row_by_sha256 = {row.sha256: i for i, row in enumerate(rows)}
    copies = [
        (row_by_sha256[a], row_by_sha256[b]) for a, b in pairs if a in row_by_sha256 and b in row_by_sha256
    ]
    groups = groups_of(
        atoms=[row.atom_id for row in rows],
        lesions=[row.lesion_id for row in rows],
        sha256s=[row.sha256 for row in rows],
        copies=np.array(copies, dtype=np.int64).reshape(-1, 2),
    )
    return dict(zip((row.isic_id for row in rows), groups, strict=True))


# Few: what changed is asked whom it touches. Many: everything is computed anew.
@pytest.mark.parametrize(("seed", "few"), [(0, 9.0), (1, 9.0), (2, 9.0), (3, 9.0), (4, 0.0)])
def test_groups_kept_up_to_date_day_by_day_are_those_of_all_images_at_once(
    settings: Settings, seed: int, few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records come, are edited, are withdrawn and return, in an order drawn from the seed."""
    monkeypatch.setattr("lesion_tasks.curation.assign_groups._FEW", few)
    generator = np.random.default_rng(seed)
    version_by_number: dict[int, int] = {}
    pictures = [draw(i, is_malignant=False) for i in range(25)]
    for _ in range(6):
        numbers = generator.choice(40, 8, replace=False) + 1
        for number in numbers.tolist():
            version = version_by_number[number] = version_by_number.get(number, 0) + 1
            known: dict[str, Any] = {}
            if generator.random() < 0.4:
                known["patient_id"] = f"IP_{generator.integers(6):07d}"
            if generator.random() < 0.5:
                # A lesion keeps its patient: half of the ids belong to each of two ranges.
                known["lesion_id"] = f"IL_{generator.integers(8):07d}"
            record = archive_record(f"ISIC_{number:07d}", **NEVUS, **known)
            picture = {record["isic_id"]: pictures[int(generator.integers(25))]}
            add_records(settings, [record], picture_by_id=picture, version=version)
        with engine_for(settings.database_url or "").begin() as connection:
            for number in generator.choice(numbers, 2, replace=False).tolist():
                connection.execute(
                    text("""UPDATE record SET withdrawn_at = CASE WHEN withdrawn_at IS NULL THEN now() END
                            WHERE isic_id = :id"""),
                    {"id": f"ISIC_{number:07d}"},
                )
        curate_images(open_workspace())
        assert dict(rows_of(settings, "SELECT isic_id, group_id FROM image")) == groups_from_scratch(settings)
        assert rows_of(settings, "SELECT count(*) FROM ungrouped") == [(0,)]


def test_a_day_touches_only_its_own_groups(settings: Settings) -> None:
    records = [archive_record(f"ISIC_{i:07d}", lesion_id=f"IL_{i // 2:07d}", **NEVUS) for i in range(20)]
    add_records(settings, records)
    curate_images(open_workspace())
    before = dict(rows_of(settings, "SELECT isic_id, curated_in FROM image"))
    add_records(settings, [archive_record("ISIC_0000099", lesion_id="IL_0000003", **NEVUS)])
    curate_images(open_workspace())
    after = dict(rows_of(settings, "SELECT isic_id, curated_in FROM image"))
    assert {i for i in after if after[i] != before.get(i)} == {"ISIC_0000006", "ISIC_0000007", "ISIC_0000099"}


def skin_jpeg(seed: int, quality: int) -> bytes:
    """Mottled skin, the same for the same seed, as one of many files."""
    generator = np.random.default_rng(seed)
    grey = np.kron(generator.normal(150, 30, (48, 64)), np.ones((4, 4)))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB").save(
        buffer, "JPEG", quality=quality
    )
    return buffer.getvalue()


def test_a_copy_under_another_lesion_joins_its_group_and_is_compared_once(settings: Settings) -> None:
    records = [archive_record(f"ISIC_{i:07d}", lesion_id=f"IL_000000{i}", **NEVUS) for i in (1, 2, 3)]
    pictures = {
        "ISIC_0000001": skin_jpeg(1, 95),
        "ISIC_0000002": skin_jpeg(2, 95),
        "ISIC_0000003": skin_jpeg(1, 70),
    }
    add_records(settings, records, picture_by_id=pictures, hashed=True)
    assert curate_images(open_workspace())["compared"] == 1
    assert rows_of(settings, "SELECT isic_id, group_id FROM image ORDER BY 1") == [
        ("ISIC_0000001", "IL_0000001"),
        ("ISIC_0000002", "IL_0000002"),
        ("ISIC_0000003", "IL_0000001"),
    ]
    ((is_copy, detail),) = rows_of(settings, "SELECT is_copy, detail_correlation FROM picture_pair")
    assert is_copy
    assert detail > 0.8
    add_records(settings, [archive_record("ISIC_0000003", lesion_id="IL_0000009", **NEVUS)], version=2)
    assert curate_images(open_workspace())["compared"] == 0


PLACEHOLDERS = (
    *(
        "nan",
        "NaN",
        " NAN ",
        "unknown",
        "Unknown",
        "None",
        "NA",
        "n/a",
        "N/A",
        "<NA>",
        "#N/A",
        "null",
        "NULL",
    ),
    *(
        "",
        " ",
        "\t",
        "-",
        "--",
        "---",
        "?",
        "??",
        ".",
        "_",
        "0",
        "0.0",
        "00",
        "-1",
        "-9",
        "not available",
        "\u2014",
    ),
)


@pytest.mark.parametrize("word", PLACEHOLDERS)
def test_a_word_for_no_value_is_no_patient_no_lesion_and_no_diagnosis(word: str) -> None:
    image = curated(patient_id=word, lesion_id=word, diagnosis_1=word, sex=word, image_type=word)
    assert (image.patient_id, image.lesion_id, image.diagnosis) == (None, None, ())
    assert (image.sex, image.image_type) == (None, None)


@pytest.mark.parametrize("word", ["IP_0000000", "7", "A", "P-1", "Nancy", "unknown1", "0x", "患者"])
def test_an_identity_that_only_resembles_a_placeholder_is_one(word: str) -> None:
    assert curated(patient_id=word, lesion_id=word).patient_id == word


def test_strangers_under_a_placeholder_are_not_tied_together_and_their_number_is_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["nan", "nan", "nan", "unknown"]
    records = [
        archive_record(f"ISIC_{i:07d}", patient_id=word, lesion_id=f"IL_{i:07d}", sex="F", **NEVUS)
        for i, word in enumerate(words, 1)
    ]
    add_records(settings, records)
    counts = curate_images(open_workspace())
    assert (counts["unread_patient_id"], counts["unread_sex"]) == (4, 4)
    assert "patient_id taken as missing in 4 records; found 'nan' 3 times, 'unknown' 1 time" in caplog.text
    assert "sex taken as missing in 4 records; found 'F' 4 times" in caplog.text
    assert rows_of(settings, "SELECT count(DISTINCT group_id), count(patient_id) FROM image") == [(4, 0)]


def test_a_placeholder_on_one_image_of_a_lesion_is_no_second_patient(settings: Settings) -> None:
    for i, patient_id in ((1, "IP_0000001"), (2, "nan"), (3, "IP_0000001"), (4, "unknown")):
        record = archive_record(f"ISIC_{i:07d}", lesion_id="IL_0000001", patient_id=patient_id, **NEVUS)
        add_records(settings, [record])
        curate_images(open_workspace())
    assert rows_of(settings, "SELECT patient_id, count(*) FROM image GROUP BY 1") == [("IP_0000001", 4)]


@pytest.mark.parametrize(
    ("n_of_one", "n_others", "is_told"), [(20, 30, True), (19, 30, False), (20, 380, False), (21, 379, True)]
)
@pytest.mark.parametrize("kind", ["patient", "lesion"])
def test_one_identity_with_many_of_the_images_is_told_by_name_and_count(
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    n_of_one: int,
    n_others: int,
    is_told: bool,
) -> None:
    records = [
        archive_record(f"ISIC_{i:07d}", **{f"{kind}_id": "Clinic A" if i < n_of_one else f"{i}"}, **NEVUS)
        for i in range(n_of_one + n_others)
    ]
    add_records(settings, records)
    curate_images(open_workspace())
    words = f"{n_of_one} of {n_of_one + n_others} images belong to one {kind}, 'Clinic A'"
    assert (words in caplog.text) == is_told
    caplog.clear()
    curate_images(open_workspace())
    assert warnings_of(caplog) == []


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said at a level that people see, whatever level another test left behind."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_lesion_of_many_patients_with_many_of_the_images_is_told_by_name_and_count(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    records = [
        archive_record(
            f"ISIC_{i:07d}", patient_id=f"IP_{i:07d}", lesion_id="L0" if i < 25 else f"IL_{i:07d}", **NEVUS
        )
        for i in range(40)
    ]
    add_records(settings, records)
    curate_images(open_workspace())
    assert "25 of 40 images are not used, lesion L0 is listed under two patients" in caplog.text


def test_rejects_are_told_by_reason_with_examples(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    records = [archive_record(f"ISIC_{i:07d}", **NEVUS) for i in range(5)]
    add_records(settings, records, picture_by_id={f"ISIC_{i:07d}": b"" for i in range(4)})
    with caplog.at_level("INFO"):
        curate_images(open_workspace())
    assert (
        "4 records are not images (no_file), such as ISIC_0000000: no picture has been fetched" in caplog.text
    )
    assert "ISIC_0000002" in caplog.text
    assert "ISIC_0000003" not in caplog.text


def test_control_characters_of_a_record_stored_earlier_reach_no_image() -> None:
    image = curated(diagnosis_1="Ben\u202eign\x1b[31m", patient_id="IP_\x9b1\n\t2", anatom_site_1="Tr\x07unk")
    assert (image.diagnosis, image.patient_id, image.anatom_site) == (("Benign[31m",), "IP_1 2", "Trunk")


def test_a_split_that_cannot_be_made_tells_what_was_left_out_and_the_values_found(settings: Settings) -> None:
    records = [archive_record(f"ISIC_{i:07d}", sex="w" if i % 3 else None, **NEVUS) for i in range(6)]
    records += [archive_record(f"ISIC_{i:07d}", sex="male", diagnosis_1="naevus\u202e") for i in range(6, 9)]
    records += [archive_record(f"ISIC_{i:07d}", sex="male", diagnosis_1="unknown") for i in range(9, 11)]
    add_records(settings, records)
    curate_images(open_workspace())
    with pytest.raises(UnusableInputError) as refused:
        build_split(open_workspace(), next(name for name in SPLITS if TASKS[SPLITS[name].task].requires_sex))
    told = str(refused.value)
    assert "6 left out, no_sex" in told
    assert "found 'w' 4 times, no value 2 times" in told
    assert "3 left out, diagnosis_not_in_task" in told
    assert "found 'naevus' 3 times" in told
    assert "2 left out, no_diagnosis" in told
    assert "found 'unknown' 2 times" in told
