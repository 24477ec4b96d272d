"""Commands that answer questions: variants in words, what lies on the disk, the database asked in SQL, near misses."""

import json

import pytest
from catalogue import add_records, labelled_records
from click.testing import CliRunner

from lesion_tasks import UnusableInputError
from lesion_tasks.__main__ import main
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.cli.command_line import interval, lesion
from lesion_tasks.reports.recipe_words import in_words, meaningful
from lesion_tasks.settings import Settings


def run(*arguments: str) -> str:
    done = CliRunner().invoke(lesion, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_variant_is_told_in_words() -> None:
    said = run("variants", "mobilenet_v2_tuned_gated")
    for words in (
        "MobileNetV2, two stages, metadata gate features",
        "malignancy, on the split malignancy_natural",
        "pictures of 128 x 128 px, squashed into a square; ",
        "as gates on the picture's features",
        "mobilenet_v2 with pretrained weights, frozen at first, then trained whole at 1e-05",
        "strongly augmented",
        "the mean over the picture and its mirror images; calibrated on val",
    ):
        assert words in said, words


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_words_for_each_part(name: str) -> None:
    from dataclasses import asdict

    recipe = asdict(VARIANTS[name])
    words = in_words(recipe)
    assert all(words.values())
    if not recipe["backbone"]:
        assert "is_pretrained" not in meaningful(recipe)


def test_an_average_says_what_it_averages_and_on_what_it_is_judged() -> None:
    mean = run("variants", "efficientnet_lite0_and_mobilenet_v2_tuned")
    assert (
        "network:  the mean of the logits of efficientnet_lite0_tuned and of mobilenet_v2_tuned_gated" in mean
    )
    assert "learns:   nothing itself: each member by its own recipe" in mean
    assert "age in years, sex, lesion size in mm\n" in mean
    folds = run("variants", "efficientnet_lite0_frozen_five_folds")
    assert "5 times, each time without another of 5 parts of the groups of train and val" in folds
    assert "calibrated on scores of images that a model did not see" in folds


def test_an_interval_that_is_none_is_printed_as_nothing() -> None:
    assert interval(None, None) == ""
    assert interval(-0.1, 0.25) == "-0.1000 to +0.2500"


def test_a_name_that_is_nearly_right_is_guessed() -> None:
    wrong = CliRunner().invoke(lesion, ["trian"])
    assert wrong.exit_code == 2
    assert "No such command 'trian'; did you mean train?" in wrong.output
    with pytest.raises(UnusableInputError, match="did you mean metadata_logistic"):
        run("variants", "metadata_logstic")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trian", "lesion: No such command 'trian'; did you mean train? (see `lesion --help`)"),
        (
            "train --agian",
            "lesion train: No such option '--agian'. Did you mean '--again'? (see `lesion train --help`)",
        ),
        ("new taks x", "unknown value 'taks'; did you mean task?, expected one of task, split"),
        ("terms diagnosi", "unknown value 'diagnosi'; did you mean diagnosis?, expected one of"),
        ("leaderboard --task malignant", "unknown task 'malignant'; did you mean malignancy?"),
        (
            "setup postgresql://lesion:secret@db.example/lesions",
            "lesion setup: Got unexpected extra argument (postgresql://db.example/lesions) (see `lesion setup",
        ),
        ("report", "lesion report: Missing argument 'TRAINING_ID' (see `lesion report --help`)"),
    ],
)
def test_a_usage_error_is_one_line_with_what_was_probably_meant(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lesion", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_terms_lists_what_a_mapping_may_say() -> None:
    first, *_ = run("terms", "diagnosis", "basal", "cell", "carcinoma").splitlines()
    assert first == "Malignant:Malignant adnexal epithelial proliferations - Follicular:Basal cell carcinoma"
    assert run("terms", "sex").split() == ["female", "male"]
    with pytest.raises(UnusableInputError, match="no diagnosis of the archive has 'carcinom@'"):
        run("terms", "diagnosis", "carcinom@")


def test_the_disk_is_told_by_kind(settings: Settings) -> None:
    add_records(settings, labelled_records(30))
    found = {(one["where"], one["what"]): one for one in json.loads(run("disk", "--json"))}
    pictures = found["bucket", "pictures of the archive"]
    assert pictures["n"] == 30
    assert pictures["size_bytes"] > 30 * 500
    assert found["database", "record_version"]["size_bytes"] > 0
    assert "MB altogether" in run("disk")


def test_the_database_is_asked_and_never_changed(settings: Settings) -> None:
    add_records(settings, labelled_records(5))
    question = "SELECT count(*) AS n, 'a %' AS words FROM record;"
    assert json.loads(run("sql", "--json", question)) == [{"n": 5, "words": "a %"}]
    assert "1 row" in run("sql", question)
    for statement, said in (
        ("DELETE FROM record", "syntax error"),
        ("SELECT nextval('test_opening_opening_id_seq')", "read-only"),
        ("SELECT 1; COMMIT; DROP TABLE record", "expected one statement"),
        ("SELECT nothing FROM record", "nothing"),
    ):
        with pytest.raises(UnusableInputError, match=said):
            run("sql", statement)
    assert json.loads(run("sql", "--json", "SELECT count(*) AS n FROM record"))[0]["n"] == 5
