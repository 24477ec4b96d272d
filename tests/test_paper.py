"""The tables of published systems: what is trained stands there as it was evaluated, what is not is named."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.catalog.shortened import adjust
from lesion_tasks.catalog.systems import SYSTEMS
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.evaluation.paper import differing, is_of_variant, read_changes, variants_of, write_paper
from lesion_tasks.reports.paper_page import paper_page
from lesion_tasks.reports.words import number
from lesion_tasks.settings import Settings
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


def test_a_row_says_what_its_evaluation_says_and_what_is_missing_is_named(small: Settings) -> None:
    workspace = open_workspace()
    base = train_variant(workspace, "metadata_logistic")
    evaluate_training(workspace, base)
    document = json.loads(workspace.bucket.get(f"reports/{base}/metrics.json"))
    page = write_paper(workspace)
    natural, balanced, reported = rows_of(page, "S1")
    for row, subset in ((natural, "test_natural"), (balanced, "test_balanced")):
        figures = document["subsets"][subset]["figures"]
        assert row[1] == r"metadata\_logistic"
        assert row[3].startswith(number(figures["auc"]["value"]))
        assert row[6] == number(figures["sensitivity_at_95_specificity"]["value"])
    assert reported[3] == number(document["subsets"]["test_natural"]["figures"]["auc"]["value"])
    assert rows_of(page, "S2")[-1][2] == "not trained and evaluated yet"

    again = train_variant(workspace, "metadata_logistic", changes={"seed": 2})
    evaluate_training(workspace, again)
    assert "2 seeds: mean" in rows_of(write_paper(workspace), "S1")[0][3]

    train_variant(workspace, "metadata_logistic", changes={"metadata": ["age_years"]})
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
        ({"sed": 2}, "did you mean seed"),
        ({"seed": "two"}, "seed: is 'two', expected a valid integer"),
        ({"learning.ema": 0}, "learning: unknown field 'ema'"),
        ({"title.x": 1}, "title has no fields"),
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


@pytest.mark.parametrize("said", ["seed", "=2"])
def test_a_change_on_the_command_line_is_a_field_and_a_value(said: str) -> None:
    result = CliRunner().invoke(lesion, ["train", "smoke", "--set", said])
    assert result.exit_code == 2
    assert "expected FIELD=VALUE" in result.output
