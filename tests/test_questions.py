"""Every command on the page of questions does what the page says, in its order, on a small catalogue."""

import csv
import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from catalogue import add_records, draw, labelled_records, rows_of
from click.testing import CliRunner
from sqlalchemy import text
from test_prune import row_of

from lesion_tasks import UnusableInputError
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.cli.documents import ROOT
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.pruned import find_archival
from lesion_tasks.promotion.archive_training import archive_training
from lesion_tasks.promotion.promote import promote_model
from lesion_tasks.serving.serve import predict_images
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.run_record import begin, finish
from lesion_tasks.upkeep.copy_installation import copy_installation
from lesion_tasks.upkeep.verify_bucket import verify_bucket
from lesion_tasks.workspace import Workspace, open_workspace

PAGE = (ROOT / "docs/questions.md").read_text()
BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)

# The same training under another id, as if it had been trained twice.
ANOTHER = """
    INSERT INTO training SELECT made.*
    FROM training t, jsonb_populate_record(t, '{"training_id": "another"}') AS made
"""


def steps() -> Iterator[tuple[str, str]]:
    """Every command and every piece of Python, in the order of the page."""
    for kind, block in BLOCK.findall(PAGE):
        yield from [(kind, block)] if kind == "python" else [(kind, line) for line in block.splitlines()]


def run(line: str) -> str:
    """Run a command of the package as a shell would, and return what it prints."""
    line, _, target = line.partition(" > ")
    words = [
        path
        for word in shlex.split(line)
        for path in (sorted(map(str, Path().glob(word))) if "*.png" in word else [word])
    ]
    done = CliRunner().invoke(lesion, words[1:], catch_exceptions=False)
    assert done.exit_code == 0, (line, done.output)
    if target:
        Path(target).write_text(done.stdout)
    return done.stdout


def test_every_answer_on_the_page_of_questions(
    settings: Settings,
    module_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    add_records(settings, labelled_records(400))
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    Path("pictures").mkdir()
    for number in range(3):
        Path(f"pictures/{number}.png").write_bytes(draw(number, is_malignant=False))
    said = {}
    names = {
        "TRAINING_2": "another",
        "postgresql://lesion:secret@db.example/lesions": module_database_url,
        "s3://lesion/data": str(tmp_path / "team"),
    }
    for kind, words in steps():
        if kind == "python":
            exec(compile(words, "questions.md", "exec"), {})  # noqa: S102 - our own page
            said["python"] = capsys.readouterr().out
        elif words.startswith("lesion "):
            said[words] = run(re.sub("|".join(names), lambda m: names[m[0]], words))
            if words.startswith("lesion promote"):
                ((names["TRAINING"],),) = rows_of(settings, "SELECT training_id FROM promotion")
                with open_workspace().engine.begin() as connection:
                    connection.execute(text(ANOTHER))
        else:
            assert re.search(
                rf"^{words.removeprefix('make ')}:", (ROOT / "Makefile").read_text(), re.MULTILINE
            )

    champion_id = names["TRAINING"]
    assert champion_id in said["lesion history --task malignancy"]
    in_brief = json.loads(said["lesion report TRAINING"])
    (measured,) = (name for name in in_brief if name.startswith("Test, natural: "))
    assert list(in_brief) == [
        "report",
        "files",
        "title",
        "verdict",
        measured,
        "patients and lesions",
        "checks that did not pass",
        "gates when it was evaluated",
        "cautions",
        "now",
    ]
    assert "Calibration slope (1 is ideal)" in in_brief[measured]
    with Path("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    ((n_test,),) = rows_of(
        settings, "SELECT count(*) FROM split_member WHERE subset = 'test' AND reason IS NULL"
    )
    assert len(rows) == n_test
    assert list(rows[0]) == ["isic_id", "label", "p_benign", "p_malignant"]
    assert {row["label"] for row in rows} == {"benign", "malignant"}
    with Path("predicted/predictions.csv").open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == [champion_id] * 3
    assert champion_id in said["python"]
    assert "0 things" in said["lesion prune --delete"]
    team = Workspace(
        settings.model_copy(
            update={"database_url": module_database_url, "bucket_url": str(tmp_path / "team")}
        )
    )
    assert verify_bucket(team, is_repairing=False).findings == []
    assert predict_images(team, ["pictures/0.png"])[0].model == champion_id
    assert promote_model(team, task="malignancy").action == "none"  # numbers of new rows go on from there
    archive_training(team, "another", reason="it is old", archived_by="ada")
    assert copy_installation(
        open_workspace(), database_url=module_database_url, bucket_url=str(tmp_path / "team")
    ) == {"rows": 0, "objects": 0}  # what the team did stays
    with team.engine.connect() as connection:
        assert find_archival(connection, "another") is not None
    estimate = said["lesion estimate-size"]
    for line in (
        "disk: pictures",
        "requests to the archive, first load",
        "600,000 images",
        "memory: curation",
    ):
        assert line in estimate, line
    assert "500,000 images" in said["lesion estimate-size 500000"]


def test_an_estimate_is_in_proportion_and_needs_something_to_measure(settings: Settings) -> None:
    from lesion_tasks.upkeep.estimate_size import estimate_size

    add_records(settings, labelled_records(60))
    curate_images(open_workspace())
    with pytest.raises(UnusableInputError, match="60 images here, expected at least 100"):
        estimate_size(open_workspace(), [1_000])
    add_records(settings, labelled_records(120, first=61))
    curate_images(open_workspace())
    found = {line.what: line for line in estimate_size(open_workspace(), [360, 1_800]).lines}
    pictures = found["disk: pictures"]
    assert pictures.here is not None
    assert pictures.values == pytest.approx((2 * pictures.here, 10 * pictures.here))
    assert found["objects in the bucket"].values == (360, 1_800)
    assert found["hours: records and pictures from the archive"].values == (None, None)

    # The split draws at most three times as many of a class as there are, so an epoch of ten times as many takes three
    # times as long.
    digest = build_split(open_workspace(), "malignancy_natural")
    training_id, _ = begin(open_workspace().engine, row_of("cnn_scratch", 0, digest))
    began = datetime(2026, 1, 1, tzinfo=UTC)
    with open_workspace().engine.begin() as connection:
        finish(connection, training_id, model_key="models/a/model.keras", model_sha256="0" * 64)
        connection.execute(
            text("UPDATE training SET started_at = :began, finished_at = :ended WHERE training_id = :id"),
            {"began": began, "ended": began + timedelta(hours=9), "id": training_id},
        )
        connection.execute(
            text("""
                INSERT INTO training_epoch (training_id, epoch, figures, duration_s, ended_at) VALUES
                    (:id, 1, '{}', 3600, :first), (:id, 2, '{}', 3600, :second)
            """),  # an hour before them, one after them, and five between them
            {"id": training_id, "first": began + timedelta(hours=2), "second": began + timedelta(hours=8)},
        )
        largest = connection.execute(
            text("""
                UPDATE manifest SET recipe = jsonb_set(recipe, '{split,max_per_class}', to_jsonb(3 * n))
                FROM (SELECT (class_counts->'train'->>'benign')::int AS n FROM manifest) AS counted RETURNING n
            """)
        ).scalar_one()
    assert largest > 0
    (line,) = (
        one for one in estimate_size(open_workspace(), [360, 1_800]).lines if "cnn_scratch" in one.what
    )
    assert line.what == "hours: training cnn_scratch, 2 epochs"
    assert (line.here, line.values) == (4.0, (8.0, 3 * 2.0 + 10 * 2.0))

    # Of five folds: an hour between two of them, six minutes between epochs, and in one wait it lay killed.
    ends_h = [2, 3.1, 5.1, 6.2, 8.2, 29.2, 31.2]
    with open_workspace().engine.begin() as connection:
        connection.execute(text("DELETE FROM training_epoch"))
        connection.execute(
            text("""UPDATE training SET recipe = recipe || '{"n_folds": 5}', finished_at = :ended"""),
            {"ended": began + timedelta(hours=32.2)},
        )
        connection.execute(
            text("INSERT INTO training_epoch VALUES (:id, :epoch, '{}', 3600, :ended)"),
            [
                {"id": training_id, "epoch": epoch, "ended": began + timedelta(hours=end_h)}
                for epoch, end_h in enumerate(ends_h, start=1)
            ],
        )
    (line,) = (
        one for one in estimate_size(open_workspace(), [360, 1_800]).lines if "cnn_scratch" in one.what
    )
    assert line.here == pytest.approx(7 * 1 + 1 + 4 * 1 + 1)
