"""A download folder takes the same way as the API."""

import shutil
from datetime import timedelta

import numpy as np
import pytest
from archives import execute, listed_ids, rows, scalar, write_folder, write_picture

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.ingest.append import append_records, poll_archive
from lesion_tasks.ingest.fetch import fetch_files
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.ingest.reconcile import reconcile_records
from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import open_workspace

AT_ONCE = timedelta(0)


@pytest.fixture
def folder(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("LESION_QUERY", "image_type:dermoscopic")
    write_folder(tmp_path / "download", 60)
    return tmp_path / "download"


def flatten(folder):
    """Turn the snapshot's layout into that of `isic image download`."""
    for path in (folder / "images").iterdir():
        path.rename(folder / path.name)
    (folder / "images").rmdir()


@pytest.mark.parametrize("layout", ["snapshot", "flat"])
def test_a_folder_is_ingested_in_either_layout(folder, layout):
    if layout == "flat":
        flatten(folder)

    counts = ingest(open_workspace(), source=str(folder))

    assert counts["append"]["new"] == counts["fetch"]["stored"] == 60
    row = rows("SELECT * FROM record_version JOIN stored_file USING (isic_id) ORDER BY isic_id LIMIT 1")[0]
    assert row.document["metadata"]["clinical"]["mel_thick_mm"] == "0.50"
    assert row.document["copyright_license"] == "CC-0"
    assert (
        open_bucket(read_settings()).get(row.object_key)
        == (folder / row.url.removeprefix("file:")).read_bytes()
    )


def test_a_folder_read_again_changes_nothing(folder):
    ingest(open_workspace(), source=str(folder))
    before = rows("SELECT isic_id, version, changed_at FROM record ORDER BY 1")

    counts = ingest(open_workspace(), source=str(folder))

    assert counts["append"]["changed"] == counts["fetch"]["stored"] == 0
    assert rows("SELECT isic_id, version, changed_at FROM record ORDER BY 1") == before


def test_a_folder_that_moved_is_not_read_as_new(folder, tmp_path):
    ingest(open_workspace(), source=str(folder))
    moved = shutil.move(folder, tmp_path / "elsewhere")

    counts = ingest(open_workspace(), source=str(moved))

    assert counts["append"]["new"] == counts["append"]["changed"] == counts["fetch"]["stored"] == 0


def test_a_large_picture_is_stored_as_the_archives_thumbnail(folder):
    isic_id = min(path.stem for path in (folder / "images").iterdir())
    write_picture(folder / "images" / f"{isic_id}.jpg", np.random.default_rng(5), width_px=800)

    ingest(open_workspace(), source=str(folder))

    row = rows("SELECT * FROM stored_file WHERE isic_id = :id", id=isic_id)[0]
    assert (row.rendition, row.width_px, row.height_px) == ("thumbnail_256", 256, 192)


def test_an_edited_row_is_a_new_version_and_a_removed_one_is_withdrawn_after_two_looks(folder):
    ingest(open_workspace(), source=str(folder))
    table = folder / "metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    gone, edited = lines[3].split(",")[0], lines[5].split(",")[0]
    lines[5] = lines[5].replace("Benign", "Malignant")
    table.write_text("".join(lines[:3] + lines[4:]))

    assert append_records(open_workspace(), source=str(folder))["changed"] == 1
    assert reconcile_records(open_workspace(), source=str(folder), confirm_after=AT_ONCE)["missing"] == 1
    assert reconcile_records(open_workspace(), source=str(folder), confirm_after=AT_ONCE)["withdrawn"] == 1
    assert scalar("SELECT isic_id FROM record WHERE withdrawn_at IS NOT NULL") == gone
    assert scalar("SELECT isic_id FROM record WHERE version = 2") == edited


def test_two_folders_that_describe_one_image_differently_make_no_versions_in_turn(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    table = other / "metadata.csv"
    table.write_text(table.read_text().replace("A hospital", "Another hospital"))
    for each in (folder, other, folder, other):
        ingest(open_workspace(), source=str(each))

    assert scalar("SELECT max(version) FROM record_version") == 2
    assert scalar("SELECT count(*) FROM record_version") == 120


def test_a_withdrawn_image_is_not_brought_back_by_an_old_folder(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    ingest(open_workspace(), source=str(folder))
    table = folder / "metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-1]))
    for _ in range(2):
        reconcile_records(open_workspace(), source=str(folder), confirm_after=AT_ONCE)
    assert scalar("SELECT count(*) FROM record WHERE withdrawn_at IS NOT NULL") == 1

    ingest(open_workspace(), source=str(copy))

    assert scalar("SELECT count(*) FROM record WHERE withdrawn_at IS NOT NULL") == 1


def test_a_row_with_a_bad_id_is_refused_and_named(folder):
    table = folder / "metadata.csv"
    table.write_text(table.read_text() + "../../etc/passwd,A hospital,CC-0,dermoscopic,Benign,0.50\n")

    counts = ingest(open_workspace(), source=str(folder))

    assert (counts["append"]["new"], counts["append"]["refused"]) == (60, 1)
    assert "../../etc/passwd" in scalar("SELECT detail FROM refused_record")


def test_refused_rows_are_told_by_reason_with_three_examples_at_most(folder, caplog):
    table = folder / "metadata.csv"
    wrong = "".join(f"photo {i},A hospital,CC-0,dermoscopic,Benign,0.50\n" for i in range(5))
    table.write_text(table.read_text() + wrong)

    counts = ingest(open_workspace(), source=str(folder))

    examples = [f"isic_id is 'photo {i}', expected ISIC_ and 7 digits" for i in range(3)]
    assert counts["append"]["refusals"] == {"bad_id": {"count": 5, "examples": examples}}
    assert "refused 5 bad_id (isic_id is 'photo 0'" in caplog.text


def test_a_table_of_which_every_row_is_refused_is_an_error_each_time_until_it_is_mended(folder):
    table = folder / "metadata.csv"
    whole = table.read_text()
    table.write_text(whole.replace("\nISIC_", "\nISIC-"))

    for _ in range(2):
        with pytest.raises(
            UnusableInputError, match=r"all 60 records were refused.*60 bad_id \(isic_id is 'ISIC-"
        ):
            ingest(open_workspace(), source=str(folder))
    table.write_text(whole)
    assert ingest(open_workspace(), source=str(folder))["append"]["new"] == 60


def test_a_mended_file_is_read_at_once_by_hand_though_its_size_is_the_same(folder):
    broken = min((folder / "images").iterdir())
    whole = broken.read_bytes()
    broken.write_bytes(bytes(len(whole)))
    counts = ingest(open_workspace(), source=str(folder))
    assert counts["fetch"]["reasons"] == {"not_an_image": 1}
    assert counts["fetch"]["examples"]["not_an_image"][0].startswith(f"{broken.stem}: begins with")
    assert ingest(open_workspace(), source=str(folder))["fetch"]["refused"] == 1
    broken.write_bytes(whole)

    assert fetch_files(open_workspace(), source=str(folder))["stored"] == 0  # on schedule: not before an hour
    assert ingest(open_workspace(), source=str(folder))["fetch"]["stored"] == 1


def test_files_that_stay_refused_stay_red_by_hand_and_few_of_many_do_not(folder, monkeypatch):
    monkeypatch.setattr("lesion_tasks.ingest.download.MIN_FAILED", 3)
    files = sorted((folder / "images").iterdir())
    for path in files[:3]:
        path.write_text("<html>")
    for _ in range(2):  # 3 of 60 are one in twenty
        assert ingest(open_workspace(), source=str(folder))["fetch"]["refused"] == 3
    for path in files[3:9]:
        path.write_text("<html>")
    for _ in range(2):
        with pytest.raises(UnusableInputError, match="files cannot be used"):
            ingest(open_workspace(), source=str(folder))


def test_control_characters_of_a_table_reach_no_row(folder):
    table = folder / "metadata.csv"
    marked = table.read_text().replace("A hospital", "A \x1b[31mhos\u202epital\x9b\x07")
    table.write_text(marked + "photo\x1b[2J\u2066,A hospital,CC-0,dermoscopic,Benign,0.50\n")

    counts = ingest(open_workspace(), source=str(folder))

    assert counts["append"]["new"] == 60
    assert scalar("SELECT DISTINCT document ->> 'attribution' FROM record_version") == "A [31mhospital"
    told = scalar("SELECT detail || document FROM refused_record") + str(counts["append"]["refusals"])
    assert told.isascii()
    assert told.isprintable()


def test_a_row_without_a_file_and_a_file_that_is_no_picture_are_rows_with_reasons(folder):
    files = sorted((folder / "images").iterdir())
    files[0].unlink()
    files[1].write_text("<html>")

    counts = ingest(open_workspace(), source=str(folder))

    assert counts["fetch"]["reasons"] == {"no_file": 1, "not_an_image": 1}
    refused = rows("SELECT isic_id, reason FROM stored_file WHERE reason IS NOT NULL ORDER BY 1")
    assert [tuple(row) for row in refused] == [(files[0].stem, "no_file"), (files[1].stem, "not_an_image")]


def test_a_folder_without_its_pictures_is_red_and_named(folder):
    shutil.rmtree(folder / "images")

    with pytest.raises(UnusableInputError, match=r"60 of 60 files cannot be used.*60 no_file"):
        ingest(open_workspace(), source=str(folder))


@pytest.mark.parametrize(
    ("make_wrong", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "found nothing, expected a folder with metadata.csv"),
        (lambda folder: (folder / "metadata.csv").unlink(), "expected metadata.csv"),
        (lambda folder: (folder / "metadata.csv").write_text("name,age\n"), "expected a column isic_id"),
        (
            lambda folder: (folder / "metadata.csv").write_bytes(b"isic_id\n\xff\xfe\n"),
            "line 2: found byte 0xFF, no UTF-8; expected a CSV table",
        ),
        (
            lambda folder: (folder / "metadata.csv").write_text("isic_id,sex\n"),
            "found a table with column names only",
        ),
        (
            lambda folder: (folder / "metadata.csv").write_text("isic_id,sex\nISIC_0000001,male\n"),
            "none of 1 rows satisfies query",
        ),
    ],
)
def test_a_wrong_folder_is_named_at_once(folder, make_wrong, words):
    make_wrong(folder)

    with pytest.raises(UnusableInputError) as refused:
        ingest(open_workspace(), source=str(folder))
    assert words in str(refused.value)
    assert str(folder) in str(refused.value)
    assert listed_ids() == set()


def test_a_file_url_cannot_lead_out_of_the_folder(folder):
    ingest(open_workspace(), source=str(folder), passes=("append",))
    execute("""
        UPDATE record_version SET document = jsonb_set(document, '{files,full,url}', '"file:../../secret.jpg"')
        WHERE isic_id = (SELECT min(isic_id) FROM record)
    """)

    assert fetch_files(open_workspace(), source=str(folder))["reasons"] == {"refused_url": 1}


def test_an_id_that_stands_twice_with_two_labels_is_refused_before_anything_is_written(folder):
    table = folder / "metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*lines, lines[7].replace("Benign", "Malignant")]))

    with pytest.raises(
        UnusableInputError,
        match=rf"{lines[7][:12]} is in rows 7 and 61 below the header with diagnosis_1 'Benign' and 'Malignant'",
    ):
        ingest(open_workspace(), source=str(folder))
    assert listed_ids() == set()


def test_a_lost_quote_leaves_nothing_behind(folder):
    table = folder / "metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    lines[50] = lines[50].replace("A hospital", '"A hospital')
    table.write_text("".join(lines))

    with pytest.raises(UnusableInputError, match="line 51: found a row that cannot be read"):
        ingest(open_workspace(), source=str(folder))
    assert listed_ids() == set()


def test_a_repeated_row_counts_once(folder):
    table = folder / "metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*lines, lines[-1]]))

    assert poll_archive(open_workspace(), source=str(folder))["n_records"] == 60
    assert append_records(open_workspace(), source=str(folder)) | {"read": 60} == {
        "read": 60, "new": 60, "changed": 0, "returned": 0, "refused": 0, "is_complete": True
    }  # fmt: skip
