"""Predictions as a job, the champion without a database, and exports: from a bucket with one small untrained model."""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from test_foreign_formats import dicom
from test_kill_steps import run_killed

import lesion_tasks
from benchmarks.predict import store_champion, store_doubt
from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import AlteredObjectError, DirectoryBucket, digest_of_file
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.evaluation.doubt import DISAGREES, STRANGE, UNMEASURED
from lesion_tasks.metrics.conformal import ConformalSets
from lesion_tasks.pages.run_results import find_result
from lesion_tasks.serving import export_model as exporting
from lesion_tasks.serving import predict_job
from lesion_tasks.serving.picture_prediction import PicturePrediction, table_schema
from lesion_tasks.serving.picture_source import FolderSource, ListedPicture
from lesion_tasks.serving.predict_job import plan_predictions, predict_source, run_predictions
from lesion_tasks.serving.predict_pictures import BATCH_IMAGES, PictureToPredict, predict_pictures
from lesion_tasks.serving.serve import predict_images
from lesion_tasks.serving.served_model import find_champion, load_served
from lesion_tasks.splits.manifest import COLUMNS, as_table, write_manifest
from lesion_tasks.workspace import Workspace

VARIANT = replace(
    VARIANTS["smoke"], name="tiny", is_flip_averaged=True, metadata=("age_years", "is_male", "size_mm")
)
N_PICTURES = 150
RECIPE = {"split": VARIANT.split}


def draw(path: Path, seed: int, size: tuple[int, int] = (24, 18)) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures in two folders, and three files that only seem to be some."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(N_PICTURES):
        draw(folder / f"{i % 2}" / f"{i:03d}.png", i)
    (folder / "0" / "empty.jpg").write_bytes(b"")
    (folder / "1" / "text.png").write_bytes(b"a text")
    (folder / "1" / "lost.png").symlink_to(folder / "none.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket with a champion, the manifest that it learned from, and the pictures of its test set."""
    root = tmp_path_factory.mktemp("stored") / "bucket"
    bucket = DirectoryBucket(root)
    rows = []
    for i in range(30):
        path = root / "images" / f"ISIC_{i:07d}.png"
        draw(path, 1_000 + i)
        rows.append(
            dict.fromkeys(COLUMNS)
            | {
                "isic_id": path.stem,
                "subset": "test" if i else "train",
                "sha256": digest_of_file(path),
                "object_key": f"images/{path.name}",
                "age_years": float(i) if i % 3 else None,
                "sex": "male" if i % 2 else None,
                "size_mm": None if i else 4.0,
            }
        )
    frame = pd.DataFrame(rows).astype({"age_years": float, "size_mm": float})
    digest = write_manifest(bucket, VARIANT.split, RECIPE, as_table(frame))
    store_champion(root, VARIANT, manifest_digest=digest, calibration={"scale": 0.7, "shift": -0.1})
    return root


@pytest.fixture
def workspace(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with that champion, and with a database that cannot be reached."""
    for name in ("models", "images", "splits", "champion.json"):
        root = tmp_path / "bucket"
        root.mkdir(exist_ok=True)
        (root / name).symlink_to(stored / name)
    monkeypatch.setenv("LESION_HOME", str(tmp_path))
    monkeypatch.setenv("LESION_BUCKET_URL", str(tmp_path / "bucket"))
    monkeypatch.setenv("LESION_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    return lesion_tasks.workspace.open_workspace()


def rows_of_job(workspace: Workspace, job_id: str) -> list[dict[str, Any]]:
    path = workspace.bucket.local_path(f"predictions/{job_id}/predictions.parquet")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_a_folder_becomes_rows_with_reasons_a_page_and_a_copy(
    workspace: Workspace, pictures: Path, tmp_path: Path
) -> None:
    result = predict_source(workspace, str(pictures), out=tmp_path / "out")
    rows = rows_of_job(workspace, result.job_id)
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    assert {row["image"]: row["reason"] for row in rows if row["reason"]} == {
        "0/empty.jpg": "empty",
        "1/lost.png": "unreadable",
        "1/text.png": "not_an_image",
    }
    champion = find_champion(workspace.bucket, "malignancy")
    for row in rows:
        assert (row["model"], row["model_sha256"], row["threshold"]) == (
            champion.training_id,
            champion.model_sha256,
            0.5,
        )
        if row["reason"] is None:
            assert row["sha256"] == digest_of_file(pictures / row["image"])
            assert row["p_benign"] + row["p_malignant"] == pytest.approx(1)
            assert row["prediction"] == ("malignant" if row["p_malignant"] >= 0.5 else "benign")
    assert (result.n_images, result.n_predicted) == (N_PICTURES + 3, N_PICTURES)
    assert sum(result.n_by_prediction.values()) == N_PICTURES
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert [float(row["p_malignant"] or "nan") for row in csv.DictReader(file)] == pytest.approx(
            [np.nan if row["p_malignant"] is None else row["p_malignant"] for row in rows], nan_ok=True
        )
    page = (tmp_path / "out" / "report.html").read_text()
    told = (
        "1/text.png",
        "a text",
        "Not an image",
        "threshold 0.500",
        "evaluate the training again",
        str(pictures),
    )
    for words in told:
        assert words in page
    kept = {key.rpartition("/")[2] for key in workspace.bucket.list_keys("predictions/")}
    assert kept == {"job.json", "pictures.parquet", "result.json", "predictions.parquet", "predictions.csv"}
    for task_id, made, returned in (("finish", [], result.job_id), (None, [result.job_id], None)):
        found = find_result(
            workspace, dag_id="predict_images", run_id="a", task_id=task_id, returned=returned, made=made
        )
        assert found.address == f"reports/predictions/{result.job_id}.html"


def test_no_odd_file_ends_a_job(workspace: Workspace, tmp_path: Path) -> None:
    draw(tmp_path / "few" / "a.png", 0)
    (tmp_path / "few" / "a.png").rename(tmp_path / "few" / os.fsdecode(b"\xe4 %20.png"))  # in Latin-1
    (tmp_path / "few" / "loop.png").symlink_to(tmp_path / "few" / "loop.png")
    os.mkfifo(tmp_path / "few" / "pipe.png")
    (tmp_path / "few" / "zero.png").symlink_to("/dev/zero")
    grey = np.zeros((2, 2), np.uint8)
    (tmp_path / "few" / "two.dcm").write_bytes(dicom(grey, "MONOCHROME2", Columns=[2, 2]))
    result = predict_source(workspace, str(tmp_path / "few"))
    said = {row["image"]: row["reason"] for row in rows_of_job(workspace, result.job_id)}
    odd = dict.fromkeys(("loop.png", "pipe.png", "zero.png"), "unreadable")
    assert said == {r"\xe4 %20.png": None, **odd, "two.dcm": "damaged"}
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UnusableInputError, match="a pipe or a device, not a file"):
            predict_images(workspace, [str(tmp_path / "few" / name)])


def test_a_picture_that_changed_after_it_was_listed_is_not_read_for_it(
    workspace: Workspace, stored: Path, tmp_path: Path
) -> None:
    data = (stored / "images" / "ISIC_0000000.png").read_bytes()
    for source in (str(tmp_path / "few"), "bucket:few/"):
        for name in ("few/1.png", "few/2.png"):
            draw(tmp_path / name, 0)
            workspace.bucket.put(name, data)
        job_id = plan_predictions(workspace, source)
        draw(tmp_path / "few" / "2.png", 1, (30, 20))
        workspace.bucket.put("few/2.png", data + b"more")
        run_predictions(workspace, job_id)
        predict_job.finish_predictions(workspace, job_id)
        said = {row["image"]: row["reason"] for row in rows_of_job(workspace, job_id)}
        assert said == {"1.png": None, "2.png": "altered"}


def test_a_name_is_neither_a_formula_of_a_spreadsheet_nor_a_line_of_a_log(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "few").mkdir()
    for name in ("\n2026 all is well.png", "=1+1.png", "a=1.png"):
        (tmp_path / "few" / name).write_bytes(b"")
    result = predict_source(workspace, str(tmp_path / "few"), out=tmp_path / "out")
    names = [row["image"] for row in rows_of_job(workspace, result.job_id)]
    assert names == ["\n2026 all is well.png", "=1+1.png", "a=1.png"]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [names[0], "\t=1+1.png", names[2]]
    assert not any("\n" in record.getMessage() for record in caplog.records if "first" in record.getMessage())


PREDICT = f"""
from lesion_tasks.serving import predict_job
from lesion_tasks.workspace import open_workspace

predict_job.PART_IMAGES = {BATCH_IMAGES}
predict_job.predict_source(open_workspace(), sys.argv[2])
"""


class _DyingBucket(DirectoryBucket):
    """Its process is killed before a manifest is stored."""

    def put(self, key: str, data: bytes, **kwargs: Any) -> None:
        if key.endswith("/manifest.json"):
            raise KeyboardInterrupt
        super().put(key, data, **kwargs)


def test_a_job_killed_in_the_middle_and_run_again_gives_the_same_rows(
    workspace: Workspace, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_job, "PART_IMAGES", BATCH_IMAGES)
    whole = predict_source(workspace, str(pictures))
    undisturbed = workspace.bucket.get(f"predictions/{whole.job_id}/predictions.csv")
    for key in list(workspace.bucket.list_keys("predictions/")):
        workspace.bucket.delete(key)
    job_id = whole.job_id
    run_killed(PREDICT, 3, str(pictures))  # the list, the job and one of three parts are stored
    (part,) = workspace.bucket.list_keys(f"predictions/{job_id}/parts/")
    assert run_predictions(workspace, job_id)["predicted"] == N_PICTURES + 3 - BATCH_IMAGES
    # A part that is not what was stored is predicted again.
    workspace.bucket.put(part, workspace.bucket.get(part)[:-1])
    assert run_predictions(workspace, job_id)["predicted"] == BATCH_IMAGES
    run_killed(PREDICT, 3, str(pictures))  # the list and the job again, and one of two tables
    assert not workspace.bucket.exists(f"predictions/{job_id}/predictions.csv")
    assert predict_source(workspace, str(pictures)) == whole
    assert workspace.bucket.get(f"predictions/{job_id}/predictions.csv") == undisturbed
    assert run_predictions(workspace, job_id)["predicted"] == 0
    workspace.bucket.put(f"predictions/{job_id}/predictions.csv", b"altered")
    assert predict_source(workspace, str(pictures)) == whole
    assert workspace.bucket.get(f"predictions/{job_id}/predictions.csv") == undisturbed


def test_a_job_of_other_versions_is_planned_again(
    workspace: Workspace, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = b'"job %d"' % predict_job.JOB_VERSION
    job_id = plan_predictions(workspace, str(pictures))
    assert run_predictions(workspace, job_id)["predicted"] == N_PICTURES + 3
    with monkeypatch.context() as changed:
        changed.setattr(predict_job, "JOB_VERSION", 98)
        again = plan_predictions(workspace, str(pictures))
        assert again != job_id and run_predictions(workspace, again)["predicted"] == N_PICTURES + 3
    monkeypatch.setattr(predict_job, "PART_IMAGES", BATCH_IMAGES)
    with pytest.raises(UnusableInputError, match="found 1 part in its list, expected 3 of 64 pictures"):
        run_predictions(workspace, job_id)
    monkeypatch.setattr(predict_job, "JOB_VERSION", 99)
    with pytest.raises(UnusableInputError, match=r"planned with job \d, found job 99 here: plan it again"):
        run_predictions(workspace, job_id)
    assert plan_predictions(workspace, str(pictures)) != job_id
    key = f"predictions/{job_id}/job.json"
    workspace.bucket.put(key, workspace.bucket.get(key).replace(was, b'"job 99"'))
    with pytest.raises(UnusableInputError, match=r"job.json was changed or is of an earlier release"):
        run_predictions(workspace, job_id)


def test_what_could_not_be_read_is_looked_at_again(workspace: Workspace, tmp_path: Path) -> None:
    for name in ("few/1.png", "few/2.png"):
        draw(tmp_path / name, 0)
        workspace.bucket.put(name, (tmp_path / name).read_bytes())
    job_id = plan_predictions(workspace, "bucket:few/")
    workspace.bucket.delete("few/2.png")
    run_predictions(workspace, job_id)
    assert predict_job.finish_predictions(workspace, job_id).n_refused == {"unreadable": 1}
    workspace.bucket.put("few/2.png", (tmp_path / "few/2.png").read_bytes())
    again = predict_source(workspace, "bucket:few/")
    assert (again.job_id, again.n_refused) == (job_id, {})


def test_a_changed_picture_or_another_table_is_another_job(workspace: Workspace, tmp_path: Path) -> None:
    draw(tmp_path / "few" / "a.png", 0)
    first = plan_predictions(workspace, str(tmp_path / "few"))
    aged = plan_predictions(workspace, str(tmp_path / "few"), metadata={"age_years": 50.0})
    draw(tmp_path / "few" / "a.png", 1, (30, 20))
    assert len({first, aged, plan_predictions(workspace, str(tmp_path / "few"))}) == 3


def test_predictions_of_a_cohort_say_which_pictures_are_no_test_of_the_model(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / "few" / name, 7)
    monkeypatch.setattr(predict_job, "left_out_of", lambda *_: {"b.png": "shares lesion with x (train)"})
    result = predict_source(workspace, str(tmp_path / "few"), out=tmp_path / "out")
    rows = rows_of_job(workspace, result.job_id)
    assert [row["left_out"] for row in rows] == [None, "shares lesion with x (train)"]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as lines:
        assert [row["left_out"] for row in csv.DictReader(lines)] == ["", "shares lesion with x (train)"]


NEVER_MISSING = (
    "All pictures that it learned from tell lesion size in mm: what it says of one without is a guess, and an "
    "evaluation leaves such pictures out."
)


def test_a_few_pictures_come_with_what_the_model_is_not_told_and_whether_its_evaluation_holds(
    workspace: Workspace, tmp_path: Path
) -> None:
    draw(tmp_path / "a.png", 7)
    said = json.loads(workspace.bucket.get("champion.json"))
    said["malignancy"]["unsound"] = "The subsets overlap."
    (tmp_path / "bucket" / "champion.json").unlink()  # a link to what other tests share
    workspace.bucket.put("champion.json", json.dumps(said).encode())
    shown = CliRunner().invoke(lesion, ["predict", str(tmp_path / "a.png"), "--age", "50"])
    notes = [
        f"The evaluation of {said['malignancy']['training_id']} is not sound: The subsets overlap.",
        "Of 1 picture, the model is told age_years of 1, is_male of 0, size_mm of 0; the rest is missing to it.",
        NEVER_MISSING,
    ]
    (one,) = json.loads(shown.stdout)
    assert one["notes"] == notes
    ran = CliRunner().invoke(lesion, ["predict", str(tmp_path / "a.png"), "--size", "4"])
    assert NEVER_MISSING not in ran.stdout


def write_table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_picture_gets_the_metadata_of_its_row(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="lesion_tasks")
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        draw(tmp_path / "few" / name, 7)  # the same pixels
    table = write_table(
        tmp_path / "t.csv", "isic_id,age_approx,sex,note", "1,80,male,x", "3.png,,unknown,", "9,1,male,"
    )
    result = predict_source(workspace, str(tmp_path / "few"), table=table)
    scores = [row["p_malignant"] for row in rows_of_job(workspace, result.job_id)]
    champion = lesion_tasks.open_champion()
    pixels = np.asarray(Image.open(tmp_path / "few" / "a" / "1.png"))
    known, missing = champion.predict([pixels] * 2, [{"age_years": 80.0, "is_male": 1.0}, {}])
    assert scores == pytest.approx(
        [one.probabilities["malignant"] for one in (known, missing, missing) if one.probabilities], abs=1e-6
    )
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)
    assert "a row for 2 of 3 pictures" in caplog.text
    assert "1 of its rows name no picture of the source, such as 9" in caplog.text
    job = predict_job.find_job(workspace.bucket, result.job_id)
    assert job.notes[-3:] == (
        "Its columns that are not read: note.",
        "Of 3 pictures, the model is told age_years of 1, is_male of 1, size_mm of 0; the rest is missing to it.",
        NEVER_MISSING,
    )
    assert result.notes == job.notes


class _KnowingSource(FolderSource):
    """As a cohort: it knows an age and a size of each picture."""

    def pictures(self) -> Iterator[ListedPicture]:
        for one in super().pictures():
            yield replace(one, metadata={"age_years": 30.0, "size_mm": 4.0})


def test_what_is_given_stands_over_what_a_source_knows_and_the_rest_stays(tmp_path: Path) -> None:
    draw(tmp_path / "few" / "1.png", 0)
    table = write_table(tmp_path / "t.csv", "image,age_years,sex", "1,80,")
    for told in ({"metadata": {"age_years": 80.0}}, {"table": table}):
        given: Any = {"table": None, "metadata": {}} | told
        source = _KnowingSource(tmp_path / "few")
        predict_job._write_list(tmp_path / "list.parquet", source, **given, asked_for=())
        (row,) = pq.read_table(tmp_path / "list.parquet").to_pylist()
        assert [row[name] for name in VARIANT.metadata] == [80.0, None, 4.0]


def test_a_page_of_nothing_that_could_be_read_claims_no_answer(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "a.png").write_bytes(b"")
    predict_source(workspace, str(tmp_path / "few"), out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No picture could be read." in page
    assert "has an answer" not in page


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["image,age", "1,2"], "found columns image, age.*expected image"),
        (
            ["image,sex,age_group", "1,male,45"],
            r"found column 'age_group'; did you mean age_approx\? Expected that name if .* something else",
        ),
        (["image,age_years", "1,x"], "line 2: age_years 'x': expected a number"),
        (["image,age_years", "1,1e999"], "line 2: age_years '1e999': expected a number from 0 to 120"),
        (["image,age_approx", "1,1961"], "line 2: age_approx '1961': expected a number from 0 to 120"),
        (["image,size_mm", "1,1000"], "line 2: size_mm '1000': expected a number from 0.005 to 999.995"),
        (["image,sex", "1,mal"], "line 2: sex 'mal'; did you mean male\\?, expected"),
        (["image,sex", "1,male", "1.png,male"], "line 3: found a second row of 1.png"),
        (["image,age_yeras,sex", "1,2,male"], "found column 'age_yeras'; did you mean age_years"),
        (["image,Age,sex", "1,2,male"], "found column 'Age'; did you mean age_years"),
        (["image,age_years,age_approx", "1,2,3"], "found columns age_years and age_approx"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_by_line(
    workspace: Workspace, tmp_path: Path, lines: Sequence[str], words: str
) -> None:
    draw(tmp_path / "few" / "1.png", 0)
    with pytest.raises(UnusableInputError, match=words):
        plan_predictions(workspace, str(tmp_path / "few"), table=write_table(tmp_path / "t.csv", *lines))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("none", "found nothing, expected a folder, bucket:PREFIX"),
        ("bucket:../", "without . or .. in it"),
        ("bucket:/etc/", "without . or .. in it"),
        ("bucket:uploads/", "found no picture"),
        ("cohort:none", "unknown cohort 'none'"),
        ("empty", "found no picture"),
    ],
)
def test_a_source_that_holds_nothing_is_told_in_one_line(
    workspace: Workspace, tmp_path: Path, address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableInputError, match=words):
        plan_predictions(workspace, address)


def test_a_misspelt_cohort_is_named_before_a_missing_champion(workspace: Workspace) -> None:
    with pytest.raises(UnusableInputError, match="unknown cohort 'none'"):
        plan_predictions(workspace, "cohort:none", task="five_classes")


def test_a_form_names_only_folders_that_the_settings_allow(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "few" / "1.png", 0)
    table = write_table(tmp_path / "t.csv", "image,sex", "1,male")
    for address in (str(tmp_path / "few"), "s3://another/"):
        with pytest.raises(UnusableInputError, match="from a form, expected"):
            plan_predictions(workspace, address, is_from_form=True)
    monkeypatch.setenv("LESION_SOURCE_FOLDERS", str(tmp_path / "few"))
    allowed = lesion_tasks.workspace.open_workspace()
    assert plan_predictions(allowed, str(tmp_path / "few"), is_from_form=True)
    with pytest.raises(UnusableInputError, match="from a form, expected"):
        plan_predictions(allowed, str(tmp_path / "few"), table=table, is_from_form=True)


def test_a_prefix_of_the_bucket_is_a_source_and_an_object_that_is_gone_has_its_reason(
    workspace: Workspace, stored: Path
) -> None:
    for i in range(2):
        workspace.bucket.put(f"uploads/may/{i}.png", (stored / "images" / f"ISIC_{i:07d}.png").read_bytes())
    workspace.bucket.put("uploads/may/list.csv", b"no picture")
    job_id = plan_predictions(workspace, "bucket:uploads/")
    workspace.bucket.delete("uploads/may/1.png")
    run_predictions(workspace, job_id)
    predict_job.finish_predictions(workspace, job_id)
    assert [(row["image"], row["reason"]) for row in rows_of_job(workspace, job_id)] == [
        ("may/0.png", None),
        ("may/1.png", "unreadable"),
    ]


def test_a_prefix_in_the_middle_of_a_name_keeps_names_apart(workspace: Workspace, stored: Path) -> None:
    for key in ("scans/a/1.png", "scans/a1.png", "scans/b.png"):
        workspace.bucket.put(key, (stored / "images" / "ISIC_0000000.png").read_bytes())
    result = predict_source(workspace, "bucket:scans/a")
    assert [row["image"] for row in rows_of_job(workspace, result.job_id)] == ["a/1.png", "a1.png"]


def test_the_champion_predicts_files_and_pixels_without_a_database(
    workspace: Workspace, pictures: Path
) -> None:
    champion = lesion_tasks.open_champion(bucket=workspace.settings.bucket_url)
    path = pictures / "0" / "000.png"
    by_path, by_pixels, none = champion.predict([path, np.asarray(Image.open(path)), "none.png"])
    assert by_path.probabilities == by_pixels.probabilities
    assert (none.reason, none.prediction) == ("unreadable", None)
    assert (champion.classes, champion.threshold) == (("benign", "malignant"), 0.5)
    workspace.bucket.put(f"reports/{champion.training_id}/model_card.md", b"# A card")
    assert champion.card == "# A card"
    with pytest.raises(UnusableInputError, match=r"metadata 'age': expected some of age_years, is_male"):
        champion.predict([path], {"age": 3.0})
    with pytest.raises(UnusableInputError, match=r"age_years inf: expected a number from 0 to 120"):
        champion.predict([path], {"age_years": math.inf})
    with pytest.raises(UnusableInputError, match=r"is_male 0\.5: expected 0 or 1"):
        champion.predict([path], {"is_male": 0.5})
    (alone,) = champion.predict([path], {"age_years": math.nan})
    assert alone.probabilities == pytest.approx(by_path.probabilities, abs=1e-6)  # in another batch
    with pytest.raises(UnusableInputError, match="metadata of 2 pictures"):
        champion.predict([path], [{}, {}])
    assert champion.predict([np.zeros((4, 4), np.uint8)])[0].reason == "unknown_format"


def test_a_bucket_that_is_named_is_checked_and_never_made(workspace: Workspace, tmp_path: Path) -> None:
    champion = lesion_tasks.open_champion(bucket=f"file://{workspace.settings.bucket_url}")
    assert champion.training_id == find_champion(workspace.bucket, "malignancy").training_id
    with pytest.raises(UnusableInputError, match=r"^bucket .*none': found no such directory"):
        lesion_tasks.open_champion(bucket=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    for wrong in ("gs://somewhere", "s3://", "file://relative"):
        with pytest.raises(UnusableInputError, match=rf"^bucket '{wrong}': .*expected"):
            lesion_tasks.open_champion(bucket=wrong)


def test_a_probability_that_is_no_number_is_no_prediction(workspace: Workspace, pictures: Path) -> None:
    served = load_served(workspace.bucket, find_champion(workspace.bucket, "malignancy"))
    served.model.set_weights([weights * np.nan for weights in served.model.get_weights()])
    load = (pictures / "0" / "000.png").read_bytes
    (said,) = predict_pictures(served, [PictureToPredict(image="a", load=load)])
    assert (said.prediction, said.probabilities, said.reason) == (None, None, "no_number")
    assert said.detail == "the model says nan, nan, expected probabilities"
    assert said.doubt is None


def test_an_altered_model_is_refused_before_it_is_loaded(workspace: Workspace, pictures: Path) -> None:
    champion = find_champion(workspace.bucket, "malignancy")
    entry = json.loads(workspace.bucket.get("champion.json"))
    (Path(workspace.settings.bucket_url) / "champion.json").unlink()
    entry["malignancy"]["model_sha256"] = "0" * 64
    workspace.bucket.put("champion.json", json.dumps(entry).encode())
    with pytest.raises(AlteredObjectError, match=f"model {champion.model_key}"):
        plan_predictions(workspace, str(pictures))


def test_a_missing_champion_is_told_before_anything_heavy_is_loaded(pictures: Path, tmp_path: Path) -> None:
    probe = (
        "import sys; from click.testing import CliRunner; from lesion_tasks.__main__ import main;\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'tensorflow', 'keras', 'pandas', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    environment = {"LESION_HOME": str(tmp_path), "PATH": "/usr/bin"}
    command = [sys.executable, "-c", probe, "predict", str(pictures)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no champion of task 'malignancy'" in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_row_has_the_columns_of_its_schema() -> None:
    for classes in (("benign", "malignant"), ("a", "b", "c")):
        row = PicturePrediction(
            image="a", sha256=None, prediction=None, probabilities=None, threshold=None, model="m",
            model_sha256="0", reason="empty", detail="0 bytes",
        )  # fmt: skip
        assert list(row.as_row(classes)) == table_schema(classes).names


@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_an_export_gives_the_stored_models_predictions_and_says_what_it_is(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    bucket = workspace.bucket
    file = find_champion(bucket, "malignancy")
    if name == "onnx":
        with pytest.raises(KeyboardInterrupt):
            exporting.export_model(_DyingBucket(Path(bucket.url)), file, name)
        assert bucket.exists(f"models/{file.training_id}/exports/{name}/model.onnx")
    said = exporting.export_model(bucket, file, name, tmp_path / "out")
    assert said.n_compared == 29
    assert said.largest_difference <= 1e-6
    data = (tmp_path / "out" / said.file).read_bytes()
    assert data == bucket.get(f"models/{file.training_id}/exports/{name}/{said.file}")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == said.model_dump()
    assert said.calibration == {"scale": 0.7, "shift": -0.1}
    served = load_served(bucket, file)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    metadata = np.array([[np.nan, 1, 3], [60, np.nan, 3], [60, 0, np.nan]], dtype=np.float32)
    inputs = {"pixels": pixels, "metadata": metadata}
    again = exporting._FORMATS[name].run(data, inputs)
    assert again == pytest.approx(np.asarray(served.model.predict_on_batch(inputs)), abs=1e-6)


def test_a_network_with_gelu_is_exported_to_onnx() -> None:
    """ConvNeXt and transformers have it."""
    import keras

    pixels = keras.Input((4, 4, 3), name="pixels")
    model = keras.Model({"pixels": pixels}, keras.layers.Activation("gelu")(pixels))
    inputs = {"pixels": np.random.default_rng(0).normal(0, 3, (5, 4, 4, 3)).astype(np.float32)}
    said = exporting._run_onnx(exporting._to_onnx(model), inputs)
    assert said == pytest.approx(np.asarray(model(inputs)), abs=1e-6)


def test_an_export_names_the_bounds_of_its_conformal_sets() -> None:
    sets = ConformalSets(
        error_rate=0.1, class_names=("benign", "malignant"), bounds=(0.25, math.inf), n_groups=(40, 3)
    )
    said = exporting._conformal(sets)
    assert said.model_dump() == {"error_rate": 0.1, "bounds": {"benign": 0.25, "malignant": None}}


def test_an_export_that_differs_is_not_stored(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = workspace.bucket
    file = find_champion(bucket, "malignancy")
    honest = exporting._FORMATS["onnx"]
    wrong = replace(
        honest,
        convert=lambda model: b"wrong",
        run=lambda data, inputs: np.full((len(inputs["pixels"]), 1), np.nan, np.float32),
    )
    monkeypatch.setitem(exporting._FORMATS, "onnx", wrong)
    before = set(bucket.list_keys("models/"))
    with pytest.raises(UnusableInputError, match="differ by up to nan from those of the stored model on 29"):
        exporting.export_model(bucket, file, "onnx")
    assert set(bucket.list_keys("models/")) == before
    monkeypatch.setitem(exporting._FORMATS, "onnx", replace(honest, modules=("no_such_module",)))
    with pytest.raises(UnusableInputError, match=r"no_such_module not installed.*lesion-tasks\[onnx\]"):
        exporting.export_model(bucket, file, "onnx")
    with pytest.raises(UnusableInputError, match="unknown format 'onx'; did you mean onnx"):
        exporting.export_model(bucket, file, "onx")


def test_a_prediction_says_what_the_model_does_not_know(workspace: Workspace, tmp_path: Path) -> None:
    own = tmp_path / "bucket" / "champion.json"  # not the one that tests share
    said = own.read_bytes()
    own.unlink()
    own.write_bytes(said)
    for seed in range(5):
        draw(tmp_path / f"noise-{seed}.png", seed, (VARIANT.side_px or 0,) * 2)
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    files = [str(path) for path in (tmp_path / "black.png", *sorted(tmp_path.glob("noise-*.png")))]
    before = predict_images(workspace, files)
    assert {one.doubt for one in before} == {UNMEASURED}
    store_doubt(workspace.bucket, "malignancy")
    black, *noise = predict_images(workspace, files)
    assert [one.prediction for one in (black, *noise)] == [one.prediction for one in before]
    assert (black.doubt, black.answer) == (STRANGE, None) and (black.strangeness or 0) > 1
    known = [one for one in noise if (one.strangeness or 0) <= 1]
    assert len(known) >= 3
    for one in known:
        assert one.possible == "benign"
        assert (one.answer, one.doubt) == (
            ("benign", None) if one.prediction == "benign" else (None, DISAGREES)
        )
