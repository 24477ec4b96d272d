"""The tables of published systems: what is trained stands there as it was evaluated, what is not is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue import declare
from click.testing import CliRunner
from sqlalchemy import text
from test_stored_backbone import FILE, stored

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.catalog.printed_numbers import number
from lesion_tasks.catalog.shortened import adjust
from lesion_tasks.catalog.systems import SYSTEMS
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation import paper
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.evaluation.paper import (
    Tried,
    differing,
    is_of_variant,
    note_on,
    read_changes,
    train_paper,
    variants_of,
    write_paper,
)
from lesion_tasks.reports.paper_page import paper_page
from lesion_tasks.settings import Settings
from lesion_tasks.training.model import find_weights
from lesion_tasks.training.run_record import began_at_random
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace


def test_every_reproduction_is_of_a_known_system_and_every_system_has_one() -> None:
    assert {variant.reproduces for variant in VARIANTS.values() if variant.reproduces} == set(SYSTEMS)
    for system in SYSTEMS.values():
        own = [variant for variant in variants_of(system) if variant.name not in system.stand_ins]
        assert system.backbones == () or {variant.backbone for variant in own} <= set(system.backbones)


def rows_of(page: str, system: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    return [row for row in cells if row[0] == system]


def test_a_row_says_what_its_evaluation_says_and_what_is_missing_is_named(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_workspace()
    base = train_variant(workspace, "metadata_logistic")
    evaluate_training(workspace, base)
    document = json.loads(workspace.bucket.get(f"reports/{base}/metrics.json"))
    why = "UnusableInputError: LESION_WEIGHTS /home/ada/weights: found 0 files"
    page = write_paper(workspace, refusals={"cnn_scratch": why})
    natural, balanced, reported = rows_of(page, "S1")
    digest = document["manifest"]["digest"][:12]
    assert f"Test images by manifest. {digest} (malignancy\\_natural): " in page
    for row, subset in ((natural, "test_natural"), (balanced, "test_balanced")):
        figures = document["subsets"][subset]["figures"]
        assert row[1] == r"metadata\_logistic"
        assert row[3] == digest
        assert row[4].startswith(number(figures["auc"]["value"]))
        assert row[7] == number(figures["sensitivity_at_95_specificity"]["value"])
    assert reported[3] == number(document["subsets"]["test_natural"]["figures"]["auc"]["value"])
    assert rows_of(page, "S2")[-1][2] == "not trained and evaluated yet"
    assert rows_of(page, "S3")[-1][2] == r"LESION\_WEIGHTS: found 0 files"
    monkeypatch.setattr(paper, "SYSTEMS", {"S1": SYSTEMS["S1"]})
    stands = Tried(variant="metadata_logistic", training_id=base)
    assert list(train_paper(workspace, max_epochs=1)) == [stands], (
        "what stands on the page is not trained again"
    )

    again = train_variant(workspace, "metadata_logistic", changes={"seed": 2})
    evaluate_training(workspace, again)
    assert "2 seeds: mean" in rows_of(write_paper(workspace), "S1")[0][4]

    other = train_variant(workspace, "metadata_logistic", changes={"metadata": ["age_years"]})
    train_variant(workspace, "metadata_logistic", changes={"metadata": ["age_years"], "seed": 2})
    changes = read_changes(workspace, base)
    by_field = {one.field: one for one in changes.changes}
    assert set(by_field) == {"metadata", "seed"}, "a training that differs in two fields is no single change"
    change = by_field["metadata"]
    assert (change.value, change.base_value) == ("age_years", "age_years, is_male, size_mm")
    assert change.difference is not None
    assert change.difference.value == pytest.approx(change.val_auc - changes.val_auc)
    assert by_field["seed"].difference is not None
    assert by_field["seed"].difference.value == 0.0
    page = write_paper(workspace, [base], "Run by hand.")
    assert "age\\_years, is\\_male, size\\_mm to age\\_years" in page
    assert "Run by hand." in page
    key = f"models/{other}/manifest.json"
    workspace.bucket.put(
        key, json.dumps(json.loads(workspace.bucket.get(key)) | {"code_digest": "x"}).encode()
    )
    changes = read_changes(workspace, base)
    assert [one.field for one in changes.changes] == ["seed"]
    assert changes.left_out == {other: "it ran with other code or software"}
    assert f"Left out: `{other}`: it ran with other code" in write_paper(workspace, [base])


def test_a_row_tells_random_weights_shortened_trainings_and_other_seeds_from_the_variants_own(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESION_WEIGHTS", str(stored(tmp_path)))
    name = declare("mobilenet_v2_frozen", backbone=FILE, is_pretrained=True, dense_units=(4,))
    monkeypatch.setattr(paper, "SYSTEMS", {"S4": SYSTEMS["S4"]})
    workspace = open_workspace()

    def trained(**changes: object) -> tuple[str, str]:
        """Natural and balanced AUC as the page has them."""
        training_id = train_variant(workspace, name, changes=changes)
        evaluate_training(workspace, training_id)
        document = json.loads(workspace.bucket.get(f"reports/{training_id}/metrics.json"))
        natural, balanced = (
            number(document["subsets"][one]["figures"]["auc"]["value"])
            for one in ("test_natural", "test_balanced")
        )
        return natural, balanced

    def shown() -> list[list[str]]:
        found = rows_of(write_paper(workspace), "S4")
        return [[one.replace("\\", "") for one in row] for row in found]

    natural, balanced = trained()
    trained(seed=2)
    random, _ = trained(is_pretrained=False)
    row, _, reported, missing = shown()
    assert row[1] == f"{name}; stand-in with {FILE}, other dense_units, max_epochs, side_px, split"
    assert row[2] == FILE
    assert row[4].startswith(natural), "the variant's own seed stands for it, whichever began last"
    assert "2 seeds" in row[4]
    assert row[5] == random
    assert reported[3].startswith(f"{balanced} (balanced test; stand-in"), "read as it was reported"
    assert missing[1] == "mobilenet_v2_frozen"

    def execute(statement: str) -> None:
        with workspace.engine.begin() as connection:
            connection.execute(text(statement))

    execute("UPDATE training SET recipe = recipe || '{\"max_epochs\": 1}'")
    assert shown()[0][1].startswith(f"{name} (max_epochs 1 in place of 2)")
    altered = 'UPDATE evaluation SET document = document || \'{"verdict": "altered"}\''
    execute(f"{altered} WHERE training_id = (SELECT training_id FROM training ORDER BY started_at LIMIT 1)")
    assert "2 seeds" not in shown()[0][4], "one altered evaluation leaves the others"
    execute(altered)
    assert "was changed after it was written" in shown()[-1][2]


def test_a_stand_in_says_in_what_it_differs() -> None:
    said = {
        (system.name, name): note_on(system, VARIANTS[name])
        for system in SYSTEMS.values()
        for name in system.stand_ins
    }
    assert said == {
        (
            "S9",
            "efficientnet_lite0_top_tuned",
        ): "stand-in with efficientnet_lite0, other learning_rate, unfrozen_from",
        (
            "R4",
            "efficientnet_lite0_frozen",
        ): "stand-in with efficientnet_lite0, other dense_units, learning, split",
        ("R5", "mobilenet_v2_frozen_natural"): "",  # with a backbone of its own
    }


def test_a_training_from_random_weights_is_known_by_what_it_stored() -> None:
    variant = VARIANTS["mobilenet_v2_frozen"]
    weights = find_weights(variant, "none")
    assert weights is not None
    for words, recipe, is_random in (
        (weights.described, variant, True),
        ("imagenet", variant, False),
        (None, replace(variant, is_pretrained=False), True),
        ("some.keras", replace(variant, is_pretrained=False), True),
        (None, VARIANTS["cnn_scratch"], False),
    ):
        assert began_at_random(Training(recipe=recipe.as_recipe, weights=words)) == is_random


def test_without_any_training_the_page_says_so() -> None:
    page = paper_page(list(SYSTEMS.values()), [], [], "Nothing is evaluated yet.")
    assert page.count("Nothing is trained and evaluated yet.") == 2
    assert rows_of(page, "S4")[0][2:4] == ["AUC 0.4935", "not trained"]


def test_a_training_is_of_a_variant_whatever_its_seed_and_length_and_of_no_other_recipe() -> None:
    variant = VARIANTS["efficientnet_lite0_tuned"]
    shortened = adjust(variant, max_epochs=2, changes={"seed": 2})
    assert is_of_variant(json.loads(json.dumps(shortened.as_recipe)), variant)
    for changes in ({"learning.ema_momentum": 0}, {"fine_tuning.unfrozen_from": ""}, {"side_px": 64}):
        assert not is_of_variant(adjust(variant, changes=changes).as_recipe, variant)


def test_fields_that_a_recipe_leaves_out_differ_only_where_they_say_something() -> None:
    variant = VARIANTS["efficientnet_lite0_tuned"]
    for changes, expected in (
        ({"learning.lesion_weighting": "by_lesion"}, ["learning.lesion_weighting"]),
        ({"learning.cutmix_alpha": 1.0, "seed": 3}, ["learning.cutmix_alpha", "seed"]),
        ({"seed": variant.seed}, []),
    ):
        assert differing(variant.as_recipe, adjust(variant, changes=changes).as_recipe) == expected


def test_a_change_is_in_the_title_and_among_what_was_adjusted() -> None:
    variant = VARIANTS["efficientnet_lite0_tuned"]
    assert variant.learning is not None
    changed = adjust(variant, max_epochs=3, changes={"learning.ema_momentum": 0, "side_px": 64})
    assert changed.learning == replace(variant.learning, ema_momentum=0.0)
    assert changed.adjusted == ("fine_tuning", "is_promotable", "learning", "max_epochs", "side_px")
    assert not changed.is_promotable, "an experiment takes no variant's place"
    assert changed.title.endswith("(learning.ema_momentum 0, side_px 64) (at most 3 epochs)")
    assert adjust(variant, changes={"side_px": variant.side_px}) is variant
    turned = adjust(variant, changes={"side_px": 64, "learning.ema_momentum": 0.0, "seed": variant.seed})
    assert turned == adjust(variant, changes={"learning.ema_momentum": 0, "side_px": 64})
    assert adjust(VARIANTS["mobilenet_v2_frozen"], changes={"learning": {}}).title.endswith(
        "(learning by default)"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 2}, r"there is no field 'sed'; did you mean seed\?$"),
        ({"seed": "two"}, "seed: is 'two', expected a valid integer"),
        ({"learning.ema": 0}, r"there is no field 'learning\.ema'; did you mean learning"),
        ({"title.x": 1}, r"there is no field 'title\.x'"),
        ({"name": "other"}, "name: is what a training is known by"),
        ({"split": "nope"}, "unknown split 'nope'"),
        ({"is_promotable": True}, "is_promotable: is what a training is known by"),
        ({"max_epochs": 0}, "max_epochs is 0, expected 1 to"),
        ({"fine_tuning.patience": 0}, "patience is 0, expected 1 to"),
        ({"seed": -1}, "seed is -1, expected 0 to"),
        ({"bias_alpha": 0.5}, "bias_alpha: would do nothing, since loss is not bias"),
    ],
)
def test_a_change_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnusableInputError, match=message):
        adjust(VARIANTS["efficientnet_lite0_tuned"], changes=changes)


def test_a_field_of_a_part_that_a_variant_lacks_does_not_bring_the_whole_part() -> None:
    with pytest.raises(UnusableInputError, match="the variant has no learning"):
        adjust(VARIANTS["cnn_scratch"], changes={"learning.ema_momentum": 0})


def test_an_ensemble_has_nothing_to_change() -> None:
    with pytest.raises(UnusableInputError, match="change its members"):
        adjust(VARIANTS["efficientnet_lite0_and_mobilenet_v2_tuned"], changes={"seed": 2})


def test_a_folder_that_is_missing_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    result = CliRunner().invoke(lesion, ["paper", "--train", "--out", str(tmp_path / "none" / "paper.md")])
    assert "there is no folder" in str(result.exception)


@pytest.mark.parametrize("said", ["seed", "=2"])
def test_a_change_on_the_command_line_is_a_field_and_a_value(said: str) -> None:
    result = CliRunner().invoke(lesion, ["train", "smoke", "--set", said])
    assert result.exit_code == 2
    assert "expected FIELD=VALUE" in result.output
