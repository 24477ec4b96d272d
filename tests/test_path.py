"""The steps after ingestion, one after the other on a small catalogue: what each leaves for the next."""

import hashlib
import json

import numpy as np
import pytest
from catalogue import add_records, filled_once, labelled_records, rows_of
from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import TASKS, InputSize
from lesion_tasks.catalog.split_recipes import LEAKING_IMPUTATIONS
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.evaluation.comparison import compare_trainings
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.promotion.candidates import find_candidate
from lesion_tasks.promotion.promote import plan_promotion, promote_model, rollback_champion
from lesion_tasks.settings import Settings
from lesion_tasks.splits.manifest import read_manifest
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.predictions import read_predictions, store_predictions
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.training.train import choose_variants, train_variant
from lesion_tasks.workspace import open_workspace

pytestmark = pytest.mark.minutes

SPLITS = ("malignancy_balanced_5000", "malignancy_natural")


def prepare(settings: Settings, n: int = 400) -> dict[str, str]:
    """Curate, split and materialize what the catalogue holds; returns the digests by split."""

    def fill() -> dict[str, str]:
        add_records(settings, labelled_records(n))
        curate_images(open_workspace())
        built = {name: build_split(open_workspace(), name) for name in SPLITS}
        materialize_manifest(open_workspace(), built["malignancy_balanced_5000"], InputSize(32))
        return built

    digests: dict[str, str] = filled_once(settings, ("prepared", n), fill)
    return digests


def shuffle_predictions(training_id: str, digest: str, *, is_sealed: bool = True) -> None:
    """Give every test image the prediction of another one: the mistake this project is about.

    Sealed, as a trainer would that pairs them with the wrong rows; otherwise as somebody who edits the stored rows.
    """
    workspace, classes = open_workspace(), TASKS["malignancy"].classes
    with workspace.engine.begin() as connection:
        stored = read_predictions(connection, training_id, digest, "test", classes)
        mixed = np.random.default_rng(0).permutation(len(stored))
        shuffled = stored.set_axis(stored.index[mixed])
        if is_sealed:
            store_predictions(connection, training_id, digest, "test", shuffled)
            return
        connection.execute(
            text("UPDATE prediction SET probabilities = :p WHERE training_id = :t AND isic_id = :i"),
            [
                {"t": training_id, "i": i, "p": row.tolist()}
                for i, row in zip(shuffled.index, shuffled.to_numpy(), strict=True)
            ],
        )


def test_the_path_ends_with_a_champion_and_every_step_can_be_run_again(settings: Settings) -> None:
    digests = prepare(settings)
    trainings = {name: train_variant(open_workspace(), name) for name in ("smoke", "metadata_logistic")}
    for training_id in trainings.values():
        evaluate_training(open_workspace(), training_id)
    assert [
        verdict
        for is_sound, verdict in rows_of(settings, "SELECT is_sound, verdict FROM evaluation")
        if not is_sound
    ] == []
    decision = promote_model(open_workspace(), task="malignancy")
    assert decision.action == "promoted"
    assert decision.training_id == trainings["smoke"]  # the pictures carry the signal

    bucket = open_bucket(settings)
    champion = json.loads(bucket.get("champion.json"))["malignancy"]
    assert champion["training_id"] == trainings["smoke"]
    assert hashlib.sha256(bucket.get(champion["model_key"])).hexdigest() == champion["model_sha256"]
    for name in ("report.html", "metrics.json", "roc.png", "confusion.png", "predictions.parquet"):
        assert bucket.exists(f"reports/{trainings['smoke']}/{name}")
    assert trainings["smoke"] in bucket.get("reports/index.html").decode()

    before = rows_of(settings, "SELECT task, sequence, action, training_id FROM promotion ORDER BY sequence")
    assert {name: build_split(open_workspace(), name) for name in SPLITS} == digests
    assert (
        materialize_manifest(open_workspace(), digests["malignancy_balanced_5000"], InputSize(32))["decoded"]
        == 0
    )
    assert {name: train_variant(open_workspace(), name) for name in trainings} == trainings
    assert choose_variants(open_workspace(), variants=list(trainings)) == []
    evaluate_training(open_workspace(), trainings["smoke"])
    assert promote_model(open_workspace(), task="malignancy").action == "none"
    assert (
        rows_of(settings, "SELECT task, sequence, action, training_id FROM promotion ORDER BY sequence")
        == before
    )


def test_shuffled_predictions_are_refused_by_name(settings: Settings) -> None:
    digests = prepare(settings)
    training_id = train_variant(open_workspace(), "smoke")
    shuffle_predictions(training_id, digests["malignancy_balanced_5000"])
    evaluate_training(open_workspace(), training_id)
    decision = promote_model(open_workspace(), task="malignancy", is_forced=True)
    assert not decision.is_promoted
    ((failed, verdict),) = rows_of(settings, "SELECT failed_checks, verdict FROM evaluation")
    assert "independent_of_labels" in failed
    assert "serving_differs" in failed
    assert "paired with the wrong rows" in verdict
    ((reason,),) = rows_of(settings, "SELECT reason FROM promotion WHERE action = 'refused'")
    assert "paired with the wrong rows" in reason
    assert not json.loads(open_bucket(settings).get("champion.json"))


def test_predictions_that_were_changed_after_they_were_stored_are_refused_by_name(settings: Settings) -> None:
    digests = prepare(settings)
    training_id = train_variant(open_workspace(), "smoke")
    evaluate_training(open_workspace(), training_id)
    shuffle_predictions(training_id, digests["malignancy_balanced_5000"], is_sealed=False)
    assert not promote_model(open_workspace(), task="malignancy", is_forced=True).is_promoted
    ((reason,),) = rows_of(settings, "SELECT reason FROM promotion WHERE action = 'refused'")
    assert "rows were changed after they were stored" in reason
    assert not json.loads(open_bucket(settings).get("champion.json"))


def test_a_recipe_that_leaks_on_purpose_is_never_promoted(settings: Settings) -> None:
    prepare(settings)
    training_id = train_variant(open_workspace(), "smoke")
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(text("UPDATE training SET recipe = recipe || '{\"is_promotable\": false}'"))
    evaluate_training(open_workspace(), training_id)
    workspace = open_workspace()
    with workspace.engine.connect() as connection:
        training = find_finished(connection, training_id)
        assert find_candidate(connection, workspace.bucket, training).imputation not in LEAKING_IMPUTATIONS
        # By its own manifest, whatever the catalogue says of the split by now.
        connection.execute(
            text(
                "UPDATE manifest SET recipe = jsonb_set(recipe, '{split,imputation}', '\"paper_global_mean\"')"
            )
        )
        assert find_candidate(connection, workspace.bucket, training).imputation in LEAKING_IMPUTATIONS
    assert not promote_model(open_workspace(), task="malignancy", is_forced=True).is_promoted
    ((reason,),) = rows_of(settings, "SELECT reason FROM promotion")
    assert "barred for good" in reason


def test_a_missing_prediction_is_refused_by_name(settings: Settings) -> None:
    prepare(settings)
    training_id = train_variant(open_workspace(), "metadata_logistic")
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(
            text("""DELETE FROM prediction WHERE subset = 'test' AND isic_id =
                    (SELECT min(isic_id) FROM prediction WHERE subset = 'test')""")
        )
    evaluate_training(open_workspace(), training_id)
    assert rows_of(settings, "SELECT is_sound, failed_checks FROM evaluation") == [(False, ["ids_differ"])]
    assert promote_model(open_workspace(), task="malignancy").action == "refused"


def test_a_new_candidate_is_compared_with_the_champion_on_the_same_images(settings: Settings) -> None:
    prepare(settings)
    first = train_variant(open_workspace(), "metadata_logistic")
    evaluate_training(open_workspace(), first)
    decision = promote_model(open_workspace(), task="malignancy", is_forced=True)
    assert decision.training_id == first
    second = train_variant(open_workspace(), "smoke")
    evaluate_training(open_workspace(), second)

    with pytest.raises(UnusableInputError, match="was not evaluated on manifest"):
        promote_model(open_workspace(), task="malignancy")
    plan = plan_promotion(open_workspace(), task="malignancy")
    assert (plan["candidate"], plan["champion"]) == (second, first)
    # Old and new model, each on the other's data as well: why a figure moved is a table of two by two.
    assert {missing["training_id"] for missing in plan["rescore"]} == {first, second}
    for missing in plan["rescore"]:
        evaluate_training(
            open_workspace(), missing["training_id"], manifest_digest=missing["manifest_digest"]
        )
    assert plan_promotion(open_workspace(), task="malignancy")["rescore"] == []
    decision = promote_model(open_workspace(), task="malignancy")
    assert decision.action == "promoted"
    assert "difference +" in decision.reason
    ((figures,),) = rows_of(settings, "SELECT figures FROM promotion ORDER BY sequence DESC LIMIT 1")
    cells = figures["comparison"]["two_by_two"]
    assert cells["move"] == pytest.approx(cells["model_effect"] + cells["data_effect"])
    compared = compare_trainings(open_workspace(), second, first).differences["auc"]
    assert compared.value == pytest.approx(compared.candidate - compared.champion)

    assert rollback_champion(open_workspace(), reason="too eager").training_id == first
    assert json.loads(open_bucket(settings).get("champion.json"))["malignancy"]["reason"] == "too eager"
    with pytest.raises(UnusableInputError, match="reason is empty"):
        rollback_champion(open_workspace(), reason=" ")
    with pytest.raises(UnusableInputError, match="no such training"):
        rollback_champion(open_workspace(), training_id="smoke-none", reason="x")


def test_growth_decodes_only_new_pictures_and_moves_nobody(settings: Settings) -> None:
    digests = prepare(settings, 300)
    bucket = open_bucket(settings)
    name = "malignancy_balanced_5000"

    def subsets(digest: str) -> dict[str, str]:
        rows = read_manifest(bucket, f"splits/{name}-{digest}.parquet")
        return dict(zip(rows["isic_id"], rows["subset"], strict=True))

    before = subsets(digests[name])
    add_records(settings, labelled_records(60, first=301))
    counts = curate_images(open_workspace())
    assert counts["images"] == 60
    grown = build_split(open_workspace(), name)
    after = subsets(grown)
    assert grown != digests[name]
    assert {isic_id: after[isic_id] for isic_id in before if isic_id in after} == {
        isic_id: subset for isic_id, subset in before.items() if isic_id in after
    }
    n_before = len({row for (row,) in rows_of(settings, "SELECT sha256 FROM pixel_row")})
    done = materialize_manifest(open_workspace(), grown, InputSize(32))
    assert done["decoded"] == len(set(after) - set(before))
    assert rows_of(settings, "SELECT count(*) FROM pixel_row") == [(n_before + done["decoded"],)]


def test_an_unknown_name_is_refused_with_the_choices(settings: Settings) -> None:
    with pytest.raises(UnusableInputError, match="unknown variant 'nope', expected one of cnn_scratch"):
        train_variant(open_workspace(), "nope")
    with pytest.raises(UnusableInputError, match="unknown split 'nope', expected one of five_classes"):
        build_split(open_workspace(), "nope")
    with pytest.raises(UnusableInputError, match="has no manifest yet"):
        train_variant(open_workspace(), "smoke")
    with pytest.raises(UnusableInputError, match="no curated image"):
        build_split(open_workspace(), "malignancy_natural")
    with pytest.raises(UnusableInputError, match="no such training"):
        evaluate_training(open_workspace(), "smoke-none")
    with pytest.raises(UnusableInputError, match="unknown task 'nope'"):
        promote_model(open_workspace(), task="nope")


def test_weights_that_are_not_there_are_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(settings, 200)
    monkeypatch.setenv("LESION_WEIGHTS", "/nowhere/weights")
    with pytest.raises(
        UnusableInputError, match=r"LESION_WEIGHTS /nowhere/weights: found no such file or folder"
    ):
        train_variant(open_workspace(), "mobilenet_v2_frozen_augmented")
    ((status, reason),) = rows_of(settings, "SELECT status, reason FROM training")
    assert status == "failed"
    assert "no such file or folder" in reason


def test_one_class_alone_cannot_be_split(settings: Settings) -> None:
    benign = [r for r in labelled_records(60) if r["metadata"]["clinical"]["diagnosis_1"] == "Benign"]
    add_records(settings, benign)
    curate_images(open_workspace())
    with pytest.raises(UnusableInputError, match=r"subset train has .* 0 malignant"):
        build_split(open_workspace(), "malignancy_natural")


def test_every_class_of_a_task_has_a_rule() -> None:
    for task in TASKS.values():
        assert {rule.label for rule in task.rules} == set(task.classes)
