"""`docs/your-own-question.md` as a person follows it, on drawn pictures; then entries change and go."""

import csv
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from catalogue import rows_of
from click.testing import CliRunner
from sqlalchemy import text
from test_pages import client

from archive_server.drawing import Scene, draw
from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import TASKS, VARIANTS, own_entries
from lesion_tasks.catalog.lookup import ChangedQuestionError
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.evaluation.comparison import NoComparisonError, compare_models, missing_scores
from lesion_tasks.evaluation.subject import find_subject
from lesion_tasks.promotion.candidates import find_candidate
from lesion_tasks.promotion.questions import gather_answers, write_questions
from lesion_tasks.settings import Settings, read_settings
from lesion_tasks.splits.manifest import NoManifestError, manifest_in_force
from lesion_tasks.splits.plan import plan_splits
from lesion_tasks.training.prepare import prepare_training
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.training.run_spec import find_run_spec
from lesion_tasks.training.train import choose_variants
from lesion_tasks.workspace import open_workspace

pytestmark = pytest.mark.minutes

PAGE = Path(__file__).parents[1] / "docs" / "your-own-question.md"
# What the drawn pictures of each diagnosis look like (a look, and a score that shifts size, border and colours), and
# how many there are: of these, at least five of each are drawn for val and for test, which promotion asks for.
DIAGNOSES = {
    ("Benign", "Benign melanocytic proliferations", "Nevus"): ("pigmented", -2.0, 60),
    ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma, NOS"): ("pigmented", 4.0, 56),
    ("Benign", "Benign epidermal proliferations", "Pigmented benign keratosis"): ("keratotic", -2.0, 46),
    (
        "Malignant",
        "Malignant adnexal epithelial proliferations - Follicular",
        "Basal cell carcinoma",
    ): ("pink", 4.0, 46),
    (
        "Indeterminate",
        "Indeterminate epidermal proliferations",
        "Solar or actinic keratosis",
    ): ("keratotic", 4.0, 46),
    ("Benign", "Benign soft tissue proliferations - Vascular", ""): ("pink", -2.0, 46),
    ("Benign", "Benign soft tissue proliferations - Fibro-histiocytic", "Dermatofibroma"): ("pink", 1.0, 46),
}
FIRST = 24_306  # the id that the page predicts


def write_download(
    folder: Path,
    *,
    first: int = FIRST,
    attributions: tuple[str, ...] = ("Somebody",),
    sites: tuple[str, ...] = (),
) -> None:
    """A download folder with the fields and diagnoses of HAM10000."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for path, (look, latent, n) in DIAGNOSES.items():
        for _ in range(n):
            number = first + len(rows)
            isic_id = f"ISIC_{number:07d}"
            scene = Scene(
                look=look, latent=latent, lesion_seed=number, photo_seed=number, width_px=80, height_px=60,
                skin=number % 3, kind="dermoscopic",
            )  # fmt: skip
            draw(scene).save(folder / "images" / f"{isic_id}.jpg", quality=90)
            levels = dict(zip(("diagnosis_1", "diagnosis_2", "diagnosis_3"), path, strict=True))
            rows.append(
                {
                    "isic_id": isic_id, "copyright_license": "CC-0",
                    "attribution": attributions[number // 2 % len(attributions)],
                    "age_approx": 40 + number % 9 * 5, "image_type": "dermoscopic", "lesion_id": f"IL_{number:07d}",
                    "pixels_x": 80, "pixels_y": 60, "sex": ("male", "female")[number % 2], **levels,
                    **({"anatom_site_1": sites[number // 2 % len(sites)]} if sites else {}),
                }
            )  # fmt: skip
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def run(*words: str) -> str:
    """What a command says; it must end well."""
    found = CliRunner().invoke(lesion, words, catch_exceptions=False)
    assert found.exit_code == 0, (words, found.output)
    return found.output


@dataclass
class Walked:
    """What was said by each command of the page, and where things are."""

    settings: Settings
    folder: Path  # of the catalogue
    said: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def walked(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    """Every command of the page was given, in its order."""
    home = tmp_path_factory.mktemp("own-question")
    write_download(home / "ham10000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LESION_HOME", str(home))
        patch.setenv("LESION_DATABASE_URL", module_database_url)
        patch.setenv("LESION_CATALOG", str(home / "catalog"))
        found = Walked(settings=read_settings(), folder=home / "catalog")
        for kind, path, body in _blocks():
            if kind == "toml":
                (found.folder / Path(path).name).write_text(body)
                continue
            for line in filter(None, body.splitlines()):
                words = shlex.split(line.replace("/data/ham10000", str(home / "ham10000")))
                found.said[line] = run(*words[1:])
                assert words[1] != "promote" or '"action": "promoted"' in found.said[line], found.said[line]
        yield found
    own_entries.refresh()


def _blocks() -> list[tuple[str, str, str]]:
    """Kind, path (of a file that is written) and text of each block of the page."""
    fenced = re.compile(r"(?:`([^`\n]+)`:\n\n)?```(\w+)\n(.*?)```", re.DOTALL)
    return [(kind, path, body) for path, kind, body in fenced.findall(PAGE.read_text())]


def champions(walked: Walked) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(
        (walked.settings.home / "bucket" / "champion.json").read_text()
    )
    return found


def test_both_questions_end_with_a_champion(walked: Walked) -> None:
    assert {name: entry["variant"] for name, entry in champions(walked).items()} == {
        "melanoma_or_nevus": "melanoma_or_nevus_cnn",
        "seven_diagnoses": "seven_diagnoses_cnn",
    }


def training_of(walked: Walked, variant: str) -> str:
    ((training_id,),) = rows_of(
        walked.settings, f"SELECT training_id FROM training WHERE variant = '{variant}'"
    )
    return str(training_id)


@contextmanager
def changed(walked: Walked, **texts: str | None) -> Iterator[None]:
    """Files of the folder replaced (None: removed), and put back."""
    before = {path: path.read_text() for path in walked.folder.iterdir()}
    for name, content in texts.items():
        path = walked.folder / f"{name}.toml"
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
    try:
        yield
    finally:
        for path, content in before.items():
            path.write_text(content)
        read_settings()


def test_splits_of_the_catalogue_folder_are_built_unasked(walked: Walked) -> None:
    """By Airflow and by the command line, which both build what is planned."""
    planned = {one.name: one.sizes for one in plan_splits(open_workspace())}
    assert planned["seven_diagnoses_all"] == ()  # a training decodes what it needs
    assert "malignancy_natural" in planned
    assert '"seven_diagnoses_all": "' in CliRunner().invoke(lesion, ["split"]).output


def test_what_an_entry_says_is_part_of_what_is_made_by_it(walked: Walked) -> None:
    before = training_of(walked, "seven_diagnoses_cnn")
    ((recipe,),) = rows_of(walked.settings, "SELECT recipe FROM manifest WHERE split = 'seven_diagnoses_all'")
    assert recipe["task"] == json.loads(json.dumps(asdict(TASKS["seven_diagnoses"])))
    workspace = open_workspace()
    assert find_run_spec(workspace, VARIANTS["seven_diagnoses_cnn"]).fingerprint[:10] in before
    before_it = (walked.folder / "seven_diagnoses.toml").read_text()
    with changed(walked, seven_diagnoses=before_it.replace("dense_units = [32]", "dense_units = [16]")):
        read_settings()
        spec = find_run_spec(workspace, VARIANTS["seven_diagnoses_cnn"])
        assert spec.fingerprint[:10] not in before


def test_a_changed_task_is_built_anew_and_its_old_labels_are_not_promoted(walked: Walked) -> None:
    before_it = (walked.folder / "task_melanoma_or_nevus.toml").read_text()
    wider = before_it.replace(', "Benign melanocytic proliferations", "Nevus"', "")
    assert wider != before_it
    workspace = open_workspace()
    training_id = training_of(walked, "melanoma_or_nevus_cnn")
    with changed(walked, task_melanoma_or_nevus=wider):
        read_settings()
        with pytest.raises(
            NoManifestError, match="the catalogue changed its task's rules: build the split again"
        ):
            manifest_in_force(workspace.engine, "melanoma_or_nevus_all")
        with workspace.engine.connect() as connection:
            found = find_candidate(connection, workspace.bucket, find_finished(connection, training_id))
        assert found.obstacle is not None
        assert found.obstacle.startswith("Its labels follow other rules than the task's of today")
        assert choose_variants(workspace, variants=["melanoma_or_nevus_cnn"]) == ["melanoma_or_nevus_cnn"]
        prepare_training(workspace, "melanoma_or_nevus_cnn")
        assert manifest_in_force(workspace.engine, "melanoma_or_nevus_all")
    prepare_training(workspace, "melanoma_or_nevus_cnn")


def test_a_misspelt_diagnosis_is_named_with_the_one_that_was_meant(walked: Walked) -> None:
    before_it = (walked.folder / "seven_diagnoses.toml").read_text()
    with changed(walked, seven_diagnoses=before_it.replace('"Dermatofibroma"]', '"Dermatofibrom"]')):
        read_settings()
        with pytest.raises(UnusableInputError) as told:
            prepare_training(open_workspace(), "seven_diagnoses_cnn")
    assert "expected some of dermatofibroma" in str(told.value)
    assert "no image's diagnosis begins with the rule of 'dermatofibroma'" in str(told.value)
    assert (
        "did you mean Benign > Benign soft tissue proliferations - Fibro-histiocytic > Dermatofibroma?"
        in str(told.value)
    )


def merged(entries: str) -> str:
    """The seven diagnoses with two of them merged."""
    fewer = entries.replace('"vascular_lesion",\n  "dermatofibroma",\n', '"other",\n')
    return re.sub(r'label = "(vascular_lesion|dermatofibroma)"', 'label = "other"', fewer)


def test_merged_classes_leave_older_trainings_alone_and_say_so(walked: Walked) -> None:
    training_id = training_of(walked, "seven_diagnoses_cnn")
    with changed(walked, seven_diagnoses=merged((walked.folder / "seven_diagnoses.toml").read_text())):
        read_settings()
        assert TASKS["seven_diagnoses"].classes[-1] == "other"
        with pytest.raises(
            ChangedQuestionError, match=r"tells nevus, .* apart, and task 'seven_diagnoses' is about"
        ):
            find_subject(open_workspace().engine, open_workspace().bucket, training_id)
        assert training_id in run("leaderboard", "--task", "seven_diagnoses")
        with open_workspace().engine.connect() as connection:
            champion = find_finished(connection, training_id)
            newer = SimpleNamespace(
                training_id="newer", task=champion.task, classes=TASKS["seven_diagnoses"].classes
            )
            assert missing_scores(connection, cast(Any, newer), champion) == []
            with pytest.raises(
                NoComparisonError, match=r"newer tells nevus, .*, other apart, and seven_diagnoses_cnn"
            ):
                compare_models(connection, open_workspace().bucket, cast(Any, newer), champion)


def test_a_removed_task_is_named_and_harms_no_other(walked: Walked, caplog: pytest.LogCaptureFixture) -> None:
    training_id = training_of(walked, "seven_diagnoses_cnn")
    with open_workspace().engine.begin() as connection:
        # A leftover: finished, and not evaluated yet.
        connection.execute(text(f"DELETE FROM evaluation WHERE training_id = '{training_id}'"))
    said = "task 'seven_diagnoses', which is not in the catalogue"
    with changed(walked, seven_diagnoses=None, pretrained=None):
        run("evaluate")
        assert said in caplog.text
        board = CliRunner().invoke(lesion, ["leaderboard"], catch_exceptions=False)
        assert training_of(walked, "melanoma_or_nevus_cnn") in board.output
        run("promote")
        asked = ["melanoma_or_nevus", "seven_diagnoses"]  # as in a run that began before the file went
        assert write_questions(open_workspace(), tasks=asked, approval="always") == []
        given = gather_answers(open_workspace(), tasks=asked, answers=[], is_forced=False, triggered_by=None)
        assert [one.task for one in given] == asked[:1]
        run("publish")
        run("overdue")
        run("disk")
        run("verify", "--dry-run")
        assert set(champions(walked)) == {"melanoma_or_nevus", "seven_diagnoses"}
        assert run(
            "predict",
            str(walked.settings.home / f"ham10000/images/ISIC_00{FIRST}.jpg"),
            "--task",
            "seven_diagnoses",
        )
        for words in (("evaluate", training_id), ("compare", training_id, training_id)):
            with pytest.raises(UnusableInputError, match=said):
                run(*words)
        for page in ("/", "/leaderboard/melanoma_or_nevus", "/champion/melanoma_or_nevus", "/data"):
            assert client().get(page).status_code == 200, page
        assert (
            "<code>seven_diagnoses</code>, which is not in the catalogue"
            in client().get("/reports/index.html").text
        )
        gone = client().get(f"/compare?training={training_id}")
        assert gone.status_code == 404
        assert "which is not in the catalogue" in gone.text
    run("evaluate")
    assert training_id in run("leaderboard", "--task", "seven_diagnoses")


def test_pages_say_what_is_wrong_with_the_folder(walked: Walked) -> None:
    with changed(walked, seven_diagnoses='[task.a]\ntitel = "x"\n[split.b]\n'):
        found = client().get("/")
        assert found.status_code == 404
        for words in ("unknown field &#39;titel&#39;; did you mean title?", "[split.b] task: is missing"):
            assert words in found.text
