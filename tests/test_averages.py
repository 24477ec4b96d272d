"""Ensembles and folds: averages of models that are trained, resumed, checked and served like any other variant."""

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from catalogue import add_records, declare, labelled_records, rows_of

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import DirectoryBucket, open_bucket
from lesion_tasks.catalog import VARIANTS, Learning, Variant
from lesion_tasks.catalog.ensembles import check_members
from lesion_tasks.catalog.recipe import FineTuning, learns_features
from lesion_tasks.catalog.shortened import adjust, members_of
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.evaluation.evaluation_record import find_difference
from lesion_tasks.evaluation.export_predictions import labelled_predictions
from lesion_tasks.evaluation.model_features import with_features as watched_features
from lesion_tasks.evaluation.run_checks import find_leaks
from lesion_tasks.evaluation.subject import find_subject
from lesion_tasks.settings import Settings
from lesion_tasks.splits.manifest import read_manifest
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.folds import (
    FoldKeeper,
    TrainedFold,
    check_folds,
    deal_folds,
    folds_of_val,
    predict_out_of_fold,
    rows_of_fold,
    train_folds,
)
from lesion_tasks.training.judge import auc_of
from lesion_tasks.training.loop import load_model, model_bytes
from lesion_tasks.training.model.averaging import average_members, mean_of_probabilities, members_in
from lesion_tasks.training.model.stored_model import average_over_flips, with_calibration
from lesion_tasks.training.predict_examples import predict_examples
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.training.run_spec import find_run_spec, load_data
from lesion_tasks.training.train import train_variant
from lesion_tasks.upkeep.lineage import of_training
from lesion_tasks.workspace import open_workspace

pytestmark = pytest.mark.minutes


def classifier(n_classes: int, seed: int, *, has_metadata: bool = False) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = {"pixels": keras.Input((8, 8, 3), name="pixels")}
    x = keras.layers.Rescaling(1 / 255)(inputs["pixels"])
    x = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(x))
    if has_metadata:
        inputs["metadata"] = keras.Input((2,), name="metadata")
        x = keras.layers.Concatenate()([x, inputs["metadata"]])
    n, activation = (1, "sigmoid") if n_classes == 2 else (n_classes, "softmax")
    return keras.Model(inputs, keras.layers.Dense(n, activation=activation)(x), name="same_name")


def said_by(model: keras.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities by class, float64 (n, K)."""
    own = {tensor.name: inputs[tensor.name] for tensor in model.inputs}
    p = np.asarray(model.predict_on_batch(own), np.float64)
    return np.column_stack([1 - p, p]) if p.shape[1] == 1 else p


@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_average_is_the_mean_of_log_probabilities_and_is_one_file(n_classes: int) -> None:
    members = [
        classifier(n_classes, 1),
        with_calibration(average_over_flips(classifier(n_classes, 2, has_metadata=True)), 1.5, 0.0),
        classifier(n_classes, 3),
    ]
    generator = np.random.default_rng(0)
    inputs = {
        "pixels": generator.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8),
        "metadata": generator.normal(size=(5, 2)).astype(np.float32),
    }
    alone = [said_by(member, inputs) for member in members]
    logs = np.mean(np.log(alone), axis=0)
    expected = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mean_of_probabilities(alone), expected, atol=1e-7)
    whole = average_members(members, "average")
    np.testing.assert_allclose(said_by(whole, inputs), expected, atol=1e-6)
    stored = load_model(model_bytes(with_calibration(whole, 0.7, 0.0)))
    sharpened = expected**0.7 / (expected**0.7).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(said_by(stored, inputs), sharpened, atol=1e-6)
    for member, p in zip(members_in(stored), alone, strict=True):
        np.testing.assert_allclose(said_by(member, inputs), p, atol=1e-6)
    assert members_in(members[0]) == []


def manifest_of(settings: Settings) -> pd.DataFrame:
    ((key,),) = rows_of(settings, "SELECT object_key FROM manifest")
    return read_manifest(open_bucket(settings), key)


def rows(n_groups: int = 300, seed: int = 0) -> pd.DataFrame:
    """A manifest of groups of one to nine images, one in ten of them malignant, some with both labels."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), generator.integers(1, 10, n_groups))
    label = np.where((group % 10 == 0) & (generator.random(len(group)) < 0.8), "malignant", "benign")
    return pd.DataFrame(
        {
            "isic_id": [f"ISIC_{i:07d}" for i in range(len(group))],
            "group_id": [f"g{i}" for i in group],
            "label": label,
            "subset": np.array(["train", "val", "test", "train"])[group % 4],
            "is_balanced": generator.random(len(group)) < 0.5,
        }
    )


def test_groups_stay_whole_over_folds_which_are_alike_and_never_hold_a_test_image() -> None:
    manifest = rows()
    folds = deal_folds(manifest, 5)
    learned = manifest[manifest["subset"] != "test"]
    assert set(folds.index) == set(learned["isic_id"])
    fold = folds.loc[learned["isic_id"]].to_numpy()
    assert learned.groupby("group_id")["isic_id"].agg(lambda ids: folds[ids].nunique()).max() == 1
    for label in ("benign", "malignant"):
        counts = np.bincount(fold[learned["label"] == label], minlength=5)
        assert counts.min() > 0.7 * counts.max(), label
    shuffled = manifest.sample(frac=1, random_state=1)
    assert deal_folds(shuffled, 5).sort_index().equals(folds.sort_index())
    some = VARIANTS["efficientnet_lite0_frozen_five_folds"]
    parts = [rows_of_fold(some, manifest, folds, number) for number in range(5)]
    for part in parts:
        sides = part.groupby("subset")["group_id"].agg(set)
        assert set(sides.index) == {"train", "val"}
        assert not sides["train"] & sides["val"]
        assert set(part["isic_id"]) == set(learned["isic_id"])
    held_out = pd.concat([part[part["subset"] == "val"] for part in parts])
    assert sorted(held_out["isic_id"]) == sorted(learned["isic_id"])


def test_what_a_balanced_split_did_not_draw_is_scored_and_never_learned_from() -> None:
    manifest = rows()
    some = replace(VARIANTS["smoke"], n_folds=3)
    folds = deal_folds(manifest, 3)
    parts = [rows_of_fold(some, manifest, folds, number) for number in range(3)]
    assert all(part.loc[part["subset"] == "train", "is_balanced"].all() for part in parts)
    assert sum(len(part[part["subset"] == "val"]) for part in parts) == len(folds)


def test_only_a_linear_head_of_a_frozen_base_learns_no_features() -> None:
    frozen = VARIANTS["efficientnet_lite0_frozen_five_folds"]
    assert not learns_features(frozen.as_recipe)
    others = [
        replace(frozen, learning=None, **changed)
        for changed in ({"dense_units": (8,)}, {"is_backbone_frozen": False}, {"fine_tuning": FineTuning()})
    ]
    assert all(learns_features(one.as_recipe) for one in [*others, VARIANTS["smoke"]])


def declared_folds(**changed: Any) -> str:
    of: dict[str, Any] = {
        "n_folds": 2,
        "max_epochs": 2,
        "dropout_rate": 0.2,
        "batch_size": 16,
        "learning": Learning(ema_momentum=0.5, lesion_weighting="by_lesion"),
    }
    return declare("smoke", **(of | changed))


def stored(settings: Settings, training_id: str) -> dict[str, Any]:
    """A training's row, what its file says of itself, and the digests of its weights and its predictions."""
    ((row,),) = rows_of(settings, f"SELECT to_jsonb(t) FROM training t WHERE training_id = '{training_id}'")
    data = open_bucket(settings).get(row["model_key"])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        said = json.loads(archive.read("lesion.json"))
    asked = f"SELECT subset, sha256 FROM prediction_set WHERE training_id = '{training_id}' ORDER BY 1"
    weights = [w.tobytes() for w in load_model(data).get_weights()]
    return {
        "row": row,
        "said": said,
        "predictions": [*map(tuple, rows_of(settings, asked))],
        "weights": weights,
    }


class KilledError(Exception):
    """The end of a process."""


class DyingBucket:
    """A bucket whose process dies within a fold, just before it is finished, just after, and within the next."""

    DEADLY = (
        ("fold-1/stage-1/state.json", 1),
        ("held_out.npz", 0),
        ("fold.json", 0),
        ("fold-2/stage-1/state.json", 2),
    )

    def __init__(self, bucket: Any, written: set[tuple[str, int]]) -> None:
        self.bucket, self.written = bucket, written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bucket, name)

    def put(self, key: str, data: bytes, **more: Any) -> None:
        self.bucket.put(key, data, **more)
        epoch = json.loads(data)["epoch"] if key.endswith("state.json") else 0
        for end in self.DEADLY:
            if key.endswith(end[0]) and epoch == end[1] and end not in self.written:
                self.written.add(end)
                raise KilledError


def test_folds_killed_again_and_again_end_like_folds_that_were_not(small: Settings) -> None:
    name = declared_folds()
    written: set[tuple[str, int]] = set()
    n_kills, first = 0, ""
    while not first:
        workspace = open_workspace()
        workspace.bucket = DyingBucket(workspace.bucket, written)  # type: ignore[misc, assignment]
        try:
            first = train_variant(workspace, name)
        except KilledError:
            n_kills += 1
    workspace = open_workspace()
    assert n_kills == len(DyingBucket.DEADLY)
    assert train_variant(workspace, name) == first, "it is not found again"
    again = train_variant(workspace, name, again=True)
    one, two = (stored(small, training_id) for training_id in (first, again))
    assert one["weights"] == two["weights"]
    assert one["predictions"] == two["predictions"]
    assert [subset for subset, _ in one["predictions"]] == ["test", "train", "val"]
    figures = "SELECT epoch, figures FROM training_epoch WHERE training_id = '{}' ORDER BY 1"
    assert rows_of(small, figures.format(first)) == rows_of(small, figures.format(again))
    assert len(rows_of(small, figures.format(first))) == 4
    assert not list(open_bucket(small).list_keys("trainings/"))


def test_a_damaged_fold_is_trained_again_and_not_believed(tmp_path: Path) -> None:
    bucket = DirectoryBucket(tmp_path)
    frame = pd.DataFrame(
        [[0.25, 0.75]], index=pd.Index(["ISIC_0000001"], name="isic_id"), columns=["no", "yes"]
    )
    fold = TrainedFold(model=b"a model", held_out=frame, epochs=[({"loss": 0.5}, 1.0)], facts={"n_train": 3})
    keeper = FoldKeeper(bucket, "trainings/tried/fold-1")
    assert keeper.read() is None
    keeper.write(fold)
    again = keeper.read()
    assert again is not None
    assert (again.model, again.epochs, again.facts) == (fold.model, fold.epochs, fold.facts)
    pd.testing.assert_frame_equal(again.held_out, frame)
    for name in ("model.keras", "held_out.npz", "fold.json"):
        bucket.put(f"{keeper.folder}/{name}", b"something else")
        assert keeper.read() is None, name
        keeper.write(fold)


def test_folds_are_judged_by_scores_of_models_that_saw_nothing_of_an_image(small: Settings) -> None:
    name = declared_folds(max_epochs=1)
    training_id = train_variant(open_workspace(), name)
    found, manifest = stored(small, training_id), manifest_of(small)
    assert found["said"]["calibration"]["fitted_on"] == "out-of-fold scores of train and val"
    assert sum(fold["n_held_out"] for fold in found["said"]["folds"]) == (manifest["subset"] != "test").sum()
    for subset in ("train", "val", "test"):
        table = labelled_predictions(open_workspace(), training_id, subset)
        assert set(table["isic_id"]) == set(manifest.loc[manifest["subset"] == subset, "isic_id"])
    evaluate_training(open_workspace(), training_id)
    folder = f"reports/{training_id}"
    doubt = json.loads(open_bucket(small).get(f"{folder}/metrics.json"))["doubt"]
    assert doubt["novelty_reason"] == "its members learned from the pictures of val"
    assert b"rest on scores of single members" in open_bucket(small).get(f"{folder}/report.html")
    document = json.loads(open_bucket(small).get(f"reports/{training_id}/metrics.json"))
    failed = {v["name"] for v in document["integrity"] if v["status"] == "failed"}
    assert not failed & {"serving_differs", "serving_differs_on_val", "leaks", "threshold_differs"}, failed
    named = {v["name"]: v["status"] for v in document["integrity"]}
    assert [named[n] for n in named if n.startswith("serving_differs")] == ["passed", "passed"]
    # Scores of train are stored and not evaluated: they do not make the evaluation one of something else.
    workspace = open_workspace()
    with workspace.engine.connect() as connection:
        assert find_difference(connection, find_finished(connection, training_id), document) is None
    # Two train images of one patient in two folds: one model scored whom another learned from.
    subject = find_subject(workspace.engine, workspace.bucket, training_id)
    assert "that is known is in two of its" in find_leaks(workspace.engine, subject).sentence
    folds = deal_folds(subject.rows, VARIANTS[name].n_folds)
    train = subject.rows[subject.rows["subset"] == "train"]
    torn = [train["isic_id"][(folds.loc[train["isic_id"]] == i).to_numpy()].iloc[0] for i in (0, 1)]
    subject.rows.loc[subject.rows["isic_id"].isin(torn), "patient_id"] = "one"
    verdict = find_leaks(workspace.engine, subject)
    assert verdict.is_failure
    assert "fold 1 and fold 2 share 1 patient" in verdict.sentence
    # The average itself learned from every val image.
    val = load_data(workspace.engine, workspace.bucket, VARIANTS[name], manifest).val
    average = load_model(workspace.bucket.get(found["row"]["model_key"]))
    learned = predict_examples(average, val, classes=found["row"]["classes"])
    table = labelled_predictions(workspace, training_id, "val").set_index("isic_id")
    assert np.abs(learned["malignant"] - table["p_malignant"].loc[learned.index]).max() > 1e-4


def test_folds_of_a_frozen_backbone_predict_test_from_its_stored_features(small: Settings) -> None:
    name = declare("mobilenet_v2_metadata", n_folds=2, max_epochs=1, learning=None, dense_units=(4,))
    training_id = train_variant(open_workspace(), name)
    found, manifest = stored(small, training_id), manifest_of(small)
    computed = {row[0] for row in rows_of(small, "SELECT sha256 FROM feature_row")}
    assert computed == set(manifest["sha256"]), "not every picture was looked at once"
    workspace = open_workspace()
    classes = found["row"]["classes"]
    data = load_data(workspace.engine, workspace.bucket, VARIANTS[name], manifest)
    served = load_model(workspace.bucket.get(found["row"]["model_key"]))
    assert sum(isinstance(layer, keras.Model) for layer in served.layers) == 1 + 2, "a backbone and two heads"
    of_test = predict_examples(served, data.subset("test"), classes=classes)
    table = labelled_predictions(workspace, training_id, "test").set_index("isic_id")
    np.testing.assert_allclose(table["p_malignant"].loc[of_test.index], of_test["malignant"], atol=1e-6)
    # Each member alone, as it judges the images that it did not see.
    folds = deal_folds(manifest, 2)
    of_val = predict_out_of_fold(served, data.val, folds, classes=classes)
    table = labelled_predictions(workspace, training_id, "val").set_index("isic_id")
    np.testing.assert_allclose(table["p_malignant"].loc[of_val.index], of_val["malignant"], atol=1e-6)
    watched = watched_features(served)
    assert watched is not None
    assert len(watched.outputs) > 1, "it tells the features of the backbone, once"


def test_on_another_manifest_an_image_is_scored_by_who_did_not_see_its_group() -> None:
    own = rows(60)
    folds = deal_folds(own, 3)
    known = own[own["subset"] == "val"].head(3)
    val = pd.concat(
        [
            known,
            known.assign(isic_id=["ISIC_9000001", "ISIC_9000002", "ISIC_9000003"]),
            known.assign(isic_id=["ISIC_9000004", "ISIC_9000005", "ISIC_9000006"], group_id="a new one"),
        ]
    )
    expected = [*folds[known["isic_id"]]] * 2 + [-1] * 3
    assert [*folds_of_val(own, val, 3)] == expected


def learned_from(
    settings: Settings, manifest: pd.DataFrame, n_folds: int, max_epochs: int
) -> tuple[float | None, float | None]:
    """AUC on what folds learned from: by their average, and by models that did not see an image."""
    workspace = open_workspace()
    some = replace(
        VARIANTS["smoke"], split="malignancy_natural", n_folds=n_folds, max_epochs=max_epochs, patience=max_epochs,
        batch_size=8, learning_rate=5e-3, learning=Learning(schedule="cosine", warmup_share=0.1, weight_decay=0.01),
    )  # fmt: skip
    data = load_data(workspace.engine, workspace.bucket, some, manifest)
    trained = train_folds(
        some,
        None,
        manifest,
        data,
        engine=workspace.engine,
        bucket=workspace.bucket,
        folder=f"trainings/{n_folds}-{max_epochs}",
        on_epoch=lambda epoch, figures, duration_s: None,
    )
    seen = predict_examples(trained.model, data.train, classes=some.task.classes)
    return tuple(
        auc_of(frame.to_numpy(), data.train.labels) for frame in (seen, trained.predictions["train"])
    )  # type: ignore[return-value]


def test_few_images_are_learned_by_heart_and_of_shuffled_labels_nothing(small: Settings) -> None:
    manifest = manifest_of(small)
    by_subset = manifest.groupby(["subset", "label"], sort=False)
    few = pd.concat(
        [by_subset.head(8).query("subset == 'train'"), by_subset.head(4).query("subset != 'train'")]
    )
    assert len(few[few["subset"] != "test"]) <= 32
    seen, _ = learned_from(small, few, 2, 15)
    assert seen is not None
    assert seen > 0.9, "each image was seen by one of two"
    groups = manifest["group_id"].unique()
    label_of = dict(
        zip(groups, np.random.default_rng(3).permutation(np.arange(len(groups)) % 2), strict=True)
    )
    shuffled = manifest.assign(label=np.array(["benign", "malignant"])[manifest["group_id"].map(label_of)])
    _, unseen = learned_from(small, shuffled, 2, 2)
    assert unseen is not None
    assert abs(unseen - 0.5) < 0.15


def declared_ensemble(**changed: Any) -> str:
    """The mean of a small network and of one on metadata alone."""
    cnn = declare("smoke", max_epochs=1)
    mlp = declare("metadata_mlp", max_epochs=1)
    VARIANTS["tiny_mean"] = Variant(
        name="tiny_mean",
        title="",
        split="malignancy_natural",
        architecture="ensemble",
        members=(cnn, mlp),
        side_px=32,
        metadata=VARIANTS[mlp].metadata,
        **changed,
    )
    return "tiny_mean"


def test_an_ensemble_trains_what_is_missing_and_is_stored_checked_and_served_like_any_other(
    small: Settings,
) -> None:
    name = declared_ensemble()
    check_members(VARIANTS[name], VARIANTS)
    cnn = train_variant(open_workspace(), "tiny_smoke")
    first = train_variant(open_workspace(), name)
    assert train_variant(open_workspace(), name) == first
    trainings = dict(rows_of(small, "SELECT variant, training_id FROM training"))
    assert trainings["tiny_smoke"] == cnn
    assert len(rows_of(small, "SELECT FROM training")) == 3
    found = stored(small, first)
    assert [one["training_id"] for one in found["said"]["members"]] == [cnn, trainings["tiny_metadata_mlp"]]
    read = of_training(open_workspace(), first).inputs
    assert [address.split("/")[-2] for address in read[1:]] == [cnn, trainings["tiny_metadata_mlp"]]
    evaluate_training(open_workspace(), first)
    document = json.loads(open_bucket(small).get(f"reports/{first}/metrics.json"))
    named = {v["name"]: v["status"] for v in document["integrity"]}
    assert [named[n] for n in named if n.startswith("serving_differs")] == ["passed", "passed"]
    assert named["leaks"] == "passed"
    # Another member is another ensemble: its recipe is the same, and its fingerprint is not.
    VARIANTS["tiny_smoke"] = replace(VARIANTS["tiny_smoke"], seed=2)
    second = train_variant(open_workspace(), name)
    assert second != first
    assert stored(small, second)["row"]["recipe"] == found["row"]["recipe"]
    assert stored(small, second)["predictions"] != found["predictions"]


def test_members_learn_from_one_manifest_though_a_new_split_is_built_while_the_first_is_trained(
    small: Settings,
) -> None:
    workspace = open_workspace()
    first, second = declare("metadata_logistic"), declare("metadata_mlp", max_epochs=1)
    of_first = VARIANTS[first]
    VARIANTS["tiny_mean"] = Variant(
        name="tiny_mean", title="", split=of_first.split, architecture="ensemble", members=(first, second),
        side_px=None, metadata=of_first.metadata,
    )  # fmt: skip
    check_members(VARIANTS["tiny_mean"], VARIANTS)
    spec = find_run_spec(workspace, VARIANTS[second])
    with ThreadPoolExecutor(1) as pool, hold_lock(workspace.engine, Lock.TRAINING, spec.fingerprint):
        done = pool.submit(train_variant, workspace, "tiny_mean")
        while not rows_of(small, "SELECT FROM training WHERE status = 'finished'"):
            assert not done.done(), done.result()
        add_records(small, labelled_records(6, first=1_001))
        curate_images(workspace)
        assert build_split(workspace, of_first.split) != spec.digest
    done.result()
    learned_from = rows_of(small, "SELECT manifest_digest FROM training WHERE status = 'finished'")
    assert learned_from == [(spec.digest,)] * 3


def test_a_shortened_ensemble_has_shortened_members_and_is_told_apart() -> None:
    some = VARIANTS["efficientnet_lite0_and_mobilenet_v2_tuned"]
    short, smoke = adjust(some, max_epochs=1), adjust(some, is_smoke_run=True)
    assert (short.adjusted, short.is_promotable) == (("members",), True)
    assert (smoke.adjusted, smoke.side_px) == (("is_promotable", "members", "side_px"), 32)
    assert [m.max_epochs for m in members_of(some, max_epochs=1)] == [1, 1]
    assert {m.side_px for m in members_of(some, is_smoke_run=True)} == {32}
    assert adjust(some, max_epochs=1_000) == some


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"members": ("smoke",)}, "members are smoke, expected two or more, each once"),
        ({"max_epochs": 3, "n_folds": 2}, "max_epochs, n_folds: an ensemble learns nothing itself"),
        ({"architecture": "cnn"}, "only architecture 'ensemble' has members"),
    ],
)
def test_an_average_that_makes_no_sense_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(VARIANTS["efficientnet_lite0_and_mobilenet_v2_tuned"], **changed)


def test_folds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="n_folds is 1, expected 0, or 2 to 20"):
        replace(VARIANTS["smoke"], n_folds=1)
    some, manifest = replace(VARIANTS["smoke"], n_folds=5), rows(40)
    learned = manifest[manifest["subset"] != "test"]
    n = learned.loc[learned["label"] == "malignant", "group_id"].nunique()
    assert n < 5
    with pytest.raises(UnusableInputError, match=f"of 5 has no malignant, of which there are {n} groups"):
        check_folds(some, manifest, deal_folds(manifest, 5))


def test_members_that_do_not_fit_are_each_named() -> None:
    some = VARIANTS["efficientnet_lite0_and_mobilenet_v2_tuned"]
    for name, words in (
        ("efficientnet_lite0_frozen_five_folds", "is itself an average"),
        ("smoke", "learns from split malignancy_balanced_5000, expected malignancy_natural"),
        ("rotated_copies_cnn", "sees pictures as 180-squash, expected 128-squash"),
        ("rotated_copies_cnn_leaky", "is never promoted"),
        ("efficientnet_lite0_tune", "unknown member 'efficientnet_lite0_tune'; did you mean"),
    ):
        with pytest.raises(ValueError, match=words):
            check_members(replace(some, members=("efficientnet_lite0_frozen", name)), VARIANTS)
    with pytest.raises(ValueError, match=r"is_male, size_mm, expected none$"):
        check_members(replace(some, metadata=()), VARIANTS)
