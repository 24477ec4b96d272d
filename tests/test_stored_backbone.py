"""A backbone may be any `.keras` file: used frozen and fine-tuned, opened in safe mode, known by its digest."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from catalogue import declare, rows_of

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import DirectoryBucket, open_bucket
from lesion_tasks.catalog import VARIANTS, Variant
from lesion_tasks.settings import Settings
from lesion_tasks.training.frozen_features import feature_recipe, recipe_id
from lesion_tasks.training.judge import Judgement
from lesion_tasks.training.loop import load_model
from lesion_tasks.training.model import build_model, find_weights, set_trainable
from lesion_tasks.training.model.weights import load_base
from lesion_tasks.training.train import choose_variants, train_variant
from lesion_tasks.workspace import open_workspace

pytestmark = pytest.mark.minutes

FILE = "efficientnet_lite0_tiny.keras"


def network(seed: int = 1, *, is_vector: bool = False) -> keras.Model:
    """Three layers with batch norm inside an inner model, as a stored backbone may have it."""
    keras.utils.set_random_seed(seed)
    inner = keras.Sequential(
        [keras.layers.Conv2D(6, 3, strides=4, name="conv_2"), keras.layers.BatchNormalization()], name="inner"
    )
    pixels = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv_1")(keras.layers.Rescaling(1 / 255)(pixels))
    x = inner(x)
    return keras.Model(pixels, keras.layers.GlobalMaxPooling2D()(x) if is_vector else x, name="tiny")


def stored(folder: Path, name: str = FILE, **how: bool) -> Path:
    network(**how).save(folder / name)  # type: ignore[arg-type]
    return folder / name


def variant(**changed: object) -> Variant:
    return replace(
        VARIANTS["efficientnet_lite0_frozen"],
        **{"name": "tried", "side_px": 32, "dense_units": (), **changed},  # type: ignore[arg-type]
    )


def test_by_default_pictures_are_learned_from_weights_that_are_at_hand_or_else_by_what_needs_none(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen() -> list[str]:
        return choose_variants(open_workspace(), policy="always")

    without, with_weights = ["smoke", "metadata_logistic"], ["metadata_logistic", "efficientnet_lite0_tuned"]
    assert chosen() == without
    monkeypatch.setenv("LESION_WEIGHTS", str(tmp_path))
    assert chosen() == without, "an empty folder"
    own = stored(tmp_path)
    assert chosen() == with_weights
    monkeypatch.setenv("LESION_WEIGHTS", str(own))
    assert chosen() == with_weights, "the file itself"
    monkeypatch.setenv("LESION_WEIGHTS", str(own.rename(tmp_path / "another.keras")))
    assert chosen() == without, "a file of another network"


def test_an_average_states_the_licence_of_the_weights_that_a_member_began_with(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path)
    monkeypatch.setenv("LESION_WEIGHTS", str(tmp_path))
    frozen = declare("efficientnet_lite0_frozen", backbone="efficientnet_lite0", is_pretrained=True)
    logistic = declare("metadata_logistic")
    VARIANTS["tiny_mean"] = Variant(
        name="tiny_mean",
        title="",
        split="malignancy_natural",
        architecture="ensemble",
        members=(frozen, logistic),
        side_px=32,
        metadata=VARIANTS[logistic].metadata,
    )
    training_id = train_variant(open_workspace(), "tiny_mean")
    with zipfile.ZipFile(io.BytesIO(open_bucket(small).get(f"models/{training_id}/model.keras"))) as archive:
        said = json.loads(archive.read("lesion.json"))
    assert said["weights_licence"] == "Apache-2.0"
    assert [one["weights_licence"] for one in said["members"]] == ["Apache-2.0", None]


@pytest.mark.parametrize("name", ["efficientnet_lite0_frozen_five_folds", "efficientnet_lite0_tuned"])
def test_a_file_among_the_weights_is_a_backbone_and_its_licence_goes_with_the_model(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = stored(tmp_path)
    monkeypatch.setenv("LESION_WEIGHTS", str(tmp_path))
    training_id = train_variant(
        open_workspace(), declare(name, backbone="efficientnet_lite0", is_pretrained=True)
    )
    ((row,),) = rows_of(small, f"SELECT to_jsonb(t) FROM training t WHERE training_id = '{training_id}'")
    assert row["weights"] == f"{FILE} (Apache-2.0)"
    assert row["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    data = open_bucket(small).get(row["model_key"])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        said = json.loads(archive.read("lesion.json"))
    assert (said["weights"], said["weights_licence"]) == (row["weights"], "Apache-2.0")
    model = load_model(data)
    assert np.asarray(model({"pixels": np.zeros((2, 32, 32, 3), np.uint8)})).shape == (2, 1)
    assert "auxiliary" not in [layer.name for layer in model.layers], "only the task's own output is served"
    figures = [f for (f,) in rows_of(small, "SELECT figures FROM training_epoch ORDER BY epoch")]
    assert set(figures[0]) == {"loss", "val_loss", "val_auc"}, "the head is solved"
    if VARIANTS[name].fine_tuning is not None:
        assert "auxiliary_loss" in figures[1]
        before, after = (
            Judgement(
                loss=said["second_stage"][f"val_loss{when}"], auc=said["second_stage"][f"val_auc{when}"]
            )
            for when in ("_before", "")
        )
        assert said["second_stage"]["is_kept"] is after.is_better_than(before)
    assert rows_of(small, "SELECT count(*) > 0 FROM feature_shard") == [(True,)]


@pytest.mark.parametrize("is_vector", [False, True])
def test_any_file_is_a_backbone_by_its_name(tmp_path: Path, is_vector: bool) -> None:
    stored(tmp_path, "ours.v2.keras", is_vector=is_vector)
    some = variant(backbone="ours.v2.keras")
    weights = find_weights(some, str(tmp_path))
    assert weights is not None
    assert (weights.described, weights.licence) == ("ours.v2.keras", None)
    (tmp_path / "ours.v2.keras.licence.txt").write_text("CC-BY-NC 4.0\nand more")
    in_bucket = DirectoryBucket(tmp_path / "bucket")
    for file in tmp_path.glob("ours*"):
        in_bucket.put(f"weights/{file.name}", file.read_bytes())
    for location in (str(tmp_path), "bucket:weights", "bucket:weights/ours.v2.keras"):
        licensed = find_weights(some, location, in_bucket)
        assert licensed is not None
        assert licensed.described == "ours.v2.keras (CC-BY-NC 4.0)"
        assert licensed.sha256 == weights.sha256
    model = build_model(some, weights)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    assert np.asarray(model({"pixels": pixels})).shape == (3, 1)
    for ours, theirs in zip(load_base(some, weights).get_weights(), network().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_batch_norm_is_frozen_inside_inner_models_too(tmp_path: Path) -> None:
    stored(tmp_path)
    base = load_base(variant(), find_weights(variant(), str(tmp_path)))
    set_trainable(base, "", has_frozen_statistics=True)
    assert {v.path.split("/")[-2] for v in base.trainable_variables} == {"conv_1", "conv_2"}
    set_trainable(base, None, has_frozen_statistics=True)
    assert base.trainable_variables == []


def test_without_pretraining_it_is_the_same_network_with_new_weights(tmp_path: Path) -> None:
    stored(tmp_path)
    random = variant(is_pretrained=False)
    weights = find_weights(random, str(tmp_path))
    kernels = [load_base(v, weights).get_layer("conv_1").kernel for v in (variant(), random)]
    assert not np.array_equal(*map(np.asarray, kernels))
    recipes = {
        recipe_id(feature_recipe(v, weights, None)) for v in (variant(), random, replace(random, seed=2))
    }
    assert len(recipes) == 3


def test_new_weights_leave_the_scaling_that_was_adapted(tmp_path: Path) -> None:
    scale = keras.layers.Normalization(axis=-1, name="scale")
    scale.adapt(np.random.default_rng(1).normal(100, 20, (8, 4, 4, 3)).astype(np.float32))
    pixels = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(2, 3, name="conv")(keras.Sequential([scale], name="inner")(pixels))
    keras.Model(pixels, x).save(tmp_path / FILE)
    weights = find_weights(variant(), str(tmp_path))
    known, new = (load_base(variant(is_pretrained=how), weights) for how in (True, False))
    assert not np.array_equal(*(np.asarray(base.get_layer("conv").kernel) for base in (known, new)))
    shown = np.full((1, 4, 4, 3), 140, np.float32)
    scaled = [np.asarray(base.get_layer("inner")(shown)) for base in (known, new)]
    np.testing.assert_array_equal(*scaled)
    assert 1 < scaled[0].mean() < 3


def test_another_file_under_the_same_name_has_other_features(tmp_path: Path) -> None:
    found = set()
    for seed in (1, 2):
        network(seed).save(tmp_path / FILE)
        found.add(recipe_id(feature_recipe(variant(), find_weights(variant(), str(tmp_path)), None)))
    assert len(found) == 2


@pytest.mark.parametrize("location", ["none", "imagenet", "/nowhere", "bucket:weights"])
def test_a_missing_file_is_named(tmp_path: Path, location: str) -> None:
    with pytest.raises(
        UnusableInputError,
        match=rf"LESION_WEIGHTS {location}: found .*efficientnet_lite0 or a folder with one efficientnet_lite0_\*",
    ):
        find_weights(variant(), location, DirectoryBucket(tmp_path))


def test_a_file_that_is_no_backbone_or_carries_code_is_refused(tmp_path: Path) -> None:
    def message(name: str = FILE) -> str:
        with pytest.raises(UnusableInputError) as refusal:
            build_model(variant(), find_weights(variant(), str(tmp_path / name)))
        return str(refusal.value)

    (tmp_path / FILE).write_bytes(b"no archive")
    assert "cannot be opened in safe mode" in message()
    pixels = keras.Input((None, None, 3))
    keras.Model(pixels, keras.layers.Lambda(lambda x: x[:, ::8, ::8])(pixels)).save(tmp_path / FILE)
    assert "cannot be opened in safe mode" in message()
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        for name, data in (parts | {"config.json": b'{"class_name": "Functional", "config": [1]}'}).items():
            archive.writestr(name, data)
    assert "cannot be opened in safe mode as a `.keras` file: " in message()
    sized = keras.Input((64, 64, 3))
    keras.Model(sized, keras.layers.Conv2D(2, 3)(sized)).save(tmp_path / FILE)
    assert "(None, 64, 64, 3), (None, 62, 62, 2), expected pixels (None, 32, 32, 3) in" in message()


@pytest.mark.parametrize("name", ["../x.keras", "x/y.keras", "*.keras", "efficientnet_lite9"])
def test_a_name_that_is_none_of_a_file_is_no_backbone(name: str) -> None:
    with pytest.raises(ValueError, match="unknown backbone"):
        variant(backbone=name)
