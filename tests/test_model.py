"""Every architecture: builds, sees pixels as its backbone was trained on, and loads in plain Keras in safe mode."""

import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import SPLITS, TASKS, VARIANTS, FineTuning, Variant
from lesion_tasks.catalog.backbones import BACKBONES
from lesion_tasks.training.accelerator import Accelerator
from lesion_tasks.training.loop import load_model, model_bytes
from lesion_tasks.training.model import (
    backbone_of,
    build_extractor,
    build_head,
    build_model,
    copy_head,
    find_weights,
    preprocess,
    set_trainable,
)
from lesion_tasks.training.model.losses import BIAS_BETA, with_bias_loss
from lesion_tasks.training.model.preprocessing import remove_hair
from lesion_tasks.training.model.stored_model import (
    average_over_flips,
    calibrated,
    fit_calibration,
    with_calibration,
)
from lesion_tasks.training.model.unet import build_unet
from lesion_tasks.training.model.weights import load_base

pytestmark = pytest.mark.minutes

# One of each family; the deeper members take ten seconds and more to build, and differ in their tables alone.
FAMILIES = (
    "mobilenet", "mobilenet_v2_035", "mobilenet_v3_small", "resnet50", "resnet50_v2", "vgg16", "densenet121",
    "efficientnet_b0", "efficientnet_v2_b0", "convnext_tiny", "inception_v3", "xception",
)  # fmt: skip


def variant(**changed: object) -> Variant:
    """A small transfer variant."""
    recipe: dict = {
        "name": "tried",
        "title": "tried",
        "split": "malignancy_natural",
        "architecture": "transfer",
        "backbone": "mobilenet_v2_035",
        "side_px": 32,
        "dense_units": (4,),
    }
    return Variant(**(recipe | changed))


def pictures(n: int = 2, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3)).astype(np.uint8)


def inputs_for(model: keras.Model, n: int = 2) -> dict[str, np.ndarray]:
    inputs: dict[str, np.ndarray] = {}
    for tensor in model.inputs:
        if tensor.name == "pixels":
            inputs["pixels"] = pictures(n, tensor.shape[1])
        else:
            inputs[tensor.name] = np.full((n, tensor.shape[1]), np.nan, dtype=np.float32)
    return inputs


def test_every_keras_application_is_a_backbone() -> None:
    there = {
        name
        for name, made in vars(keras.applications).items()
        if inspect.isfunction(made) and name[0].isupper()
    }
    assert {backbone.keras_class for backbone in BACKBONES.values()} == there


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gets_the_pixels_that_keras_gives_it(name: str) -> None:
    backbone = BACKBONES[name]
    module = sys.modules[getattr(keras.applications, backbone.keras_class).__module__]
    pixels = keras.Input((4, 4, 3))
    ours = keras.Model(pixels, preprocess(pixels, backbone.preprocessing))
    picture = pictures(3, 4).astype(np.float32)
    expected = np.asarray(module.preprocess_input(picture.copy()))
    np.testing.assert_allclose(np.asarray(ours(picture)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_backbone_builds_and_loads_in_safe_mode(name: str) -> None:
    keras.utils.clear_session()
    side = BACKBONES[name].min_side_px
    model = build_model(variant(backbone=name, is_pretrained=False, side_px=side))
    # MobileNetV3 and the EfficientNets carry their scaling: a second one outside would be a silent error.
    scalings = [layer for layer in backbone_of(model).layers if isinstance(layer, keras.layers.Rescaling)]
    assert bool(scalings) == (BACKBONES[name].preprocessing == "none" and not name.startswith("convnext"))
    assert model.output_shape == (None, 1)
    again = load_model(model_bytes(model))
    for before, after in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_weights_of_an_efficientnet_file_scale_pixels_as_keras_does(tmp_path: Path) -> None:
    some = variant(backbone="efficientnet_b0", side_px=32)
    base = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    deviation = np.array([0.229, 0.224, 0.225], dtype=np.float32)
    base.get_layer(index=2).adapt_variance.assign(deviation)
    base.save_weights(tmp_path / "efficientnetb0_x.weights.h5")
    loaded = load_base(some, find_weights(some, str(tmp_path)))
    layer = loaded.get_layer(index=2)
    # Keras divides by the root of what the file holds, twice for weights="imagenet".
    np.testing.assert_allclose(
        np.asarray(layer(np.ones((1, 1, 1, 3), np.float32))).ravel(), 1 / deviation, rtol=1e-5
    )


TINY = {
    name: replace(
        v,
        is_pretrained=False,
        backbone=v.backbone and "mobilenet_v2_035",
        unfrozen_from=v.unfrozen_from and "block_16",
        side_px=v.side_px and 32,
    )
    for name, v in VARIANTS.items()
    if not v.members
}


# Variants that differ in name, data or training alone are built once.
SHAPES = {
    str(replace(v, name="", title="", reproduces=None, sampling="as_drawn", is_promotable=True,
                seed=0, max_epochs=1, patience=1, is_class_weighted=False)): name
    for name, v in TINY.items()
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES.values())
def test_a_variant_builds_and_gives_probabilities(name: str) -> None:
    keras.utils.clear_session()
    some = TINY[name]
    model = build_model(some, None, build_unet(32, 1) if some.is_segmented else None)
    inputs = inputs_for(model)
    if some.metadata:
        from lesion_tasks.training.model import adapt_metadata

        adapt_metadata(model, np.array([[50, 1, 5], [60, 0, 7]], dtype=np.float32))
    p = np.asarray(model(inputs, training=False))
    n_classes = len(some.task.classes)
    assert p.shape == (2, 1 if n_classes == 2 else n_classes)
    assert ((p >= 0) & (p <= 1)).all()
    again = np.asarray(load_model(model_bytes(model))(inputs, training=False))
    np.testing.assert_allclose(again, p, atol=1e-6)


def test_every_system_has_a_variant() -> None:
    rows = {v.reproduces for v in VARIANTS.values()} - {None}
    assert rows == {f"S{i}" for i in range(1, 13)} | {f"R{i}" for i in range(1, 6)}


def test_the_leaky_reproduction_cannot_be_declared_promotable() -> None:
    leaky = [v for v in VARIANTS.values() if v.sampling == "rotated_copies_leaky"]
    assert leaky
    assert not any(v.is_promotable for v in leaky)
    with pytest.raises(ValueError, match="must not be promotable"):
        replace(leaky[0], is_promotable=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"backbone": "resnet51"}, "unknown backbone 'resnet51'"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"sampling": "twice"}, "unknown sampling 'twice'"),
        ({"split": "nope"}, "unknown split 'nope'"),
        ({"backbone": None}, "only architecture 'transfer' may have a backbone"),
        ({"is_backbone_frozen": False, "fine_tuning": FineTuning()}, "of a frozen backbone"),
        (
            {"loss": "bias", "fine_tuning": FineTuning()},
            "not with unfrozen_from, rotated copies or bias loss",
        ),
        ({"unfrozen_from": 100, "fine_tuning": FineTuning()}, "not with unfrozen_from"),
    ],
)
def test_a_variant_that_makes_no_sense_is_refused_when_it_is_declared(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant(**changed)


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    wide = variant(backbone="mobilenet_v2", side_px=32)
    backbone_of(build_model(replace(wide, is_pretrained=False))).save_weights(
        tmp_path / "mobilenet_v2_0.35_wrong.weights.h5"
    )
    narrow = variant()
    with pytest.raises(UnusableInputError, match=r"do not fit MobileNetV2 \(alpha 0.35\)"):
        build_model(narrow, find_weights(narrow, str(tmp_path)))


def test_a_side_under_the_backbones_smallest_is_refused() -> None:
    with pytest.raises(UnusableInputError, match="InceptionV3 at 32 px, expected at least 75 px"):
        build_model(variant(backbone="inception_v3", is_pretrained=False))


def test_only_the_layers_from_the_named_one_on_are_trained() -> None:
    base = backbone_of(build_model(variant(is_pretrained=False, unfrozen_from="block_16")))
    trained = [layer.name for layer in base.layers if layer.trainable and layer.weights]
    assert trained[0].startswith("block_16")
    with pytest.raises(UnusableInputError, match="no layer whose name starts with 'block_99'"):
        build_model(variant(is_pretrained=False, unfrozen_from="block_99"))


@pytest.mark.parametrize(
    ("changed", "is_learning"),
    [
        ({}, False),
        ({"unfrozen_from": "block_16"}, False),
        ({"fine_tuning": FineTuning()}, False),
        ({"fine_tuning": FineTuning(unfrozen_from="block_16")}, False),
        ({"is_backbone_frozen": False}, True),
    ],
)
def test_batch_norm_learns_new_statistics_only_where_the_whole_base_is_trained(
    changed: dict[str, Any], is_learning: bool
) -> None:
    some = variant(is_pretrained=False, **changed)
    model = build_model(some)
    base = backbone_of(model)
    if some.fine_tuning is not None:
        set_trainable(base, some.fine_tuning.unfrozen_from, has_frozen_statistics=True)
    statistics = [v for v in base.variables if "moving" in v.path]
    before = [np.array(v) for v in statistics]
    trained = {v.path: np.array(v) for v in base.trainable_variables}
    x = {"pixels": pictures(8)}
    # One step, which a graph of the whole network would only take longer to begin.
    model.compile("adam", "binary_crossentropy", run_eagerly=True)
    model.fit(x, np.array([0, 1] * 4, dtype=np.float32)[:, None], batch_size=8, verbose=0)
    has_moved = [not np.array_equal(b, np.array(v)) for b, v in zip(before, statistics, strict=True)]
    assert len(has_moved) == 104
    assert set(has_moved) == {is_learning}
    learning, serving = (np.asarray(model(x, training=training)) for training in (True, False))
    assert np.allclose(learning, serving, atol=1e-6) is not is_learning
    if some.fine_tuning or some.unfrozen_from:
        moved = {v.path for v in base.trainable_variables if not np.array_equal(trained[v.path], np.array(v))}
        assert any("conv" in path.lower() or "expand" in path for path in moved)


def test_head_and_extractor_give_what_the_whole_model_gives() -> None:
    some = variant(is_pretrained=False, dropout_rate=0.5, metadata=("age_years", "is_male"))
    extractor = build_extractor(some, None)
    head = build_head(some, extractor.output_shape[-1])
    head.get_layer("dense_1").set_weights([w + 0.1 for w in head.get_layer("dense_1").get_weights()])
    model = build_model(some)
    copy_head(head, model)
    metadata = np.array([[50, np.nan], [np.nan, 1]], dtype=np.float32)
    whole = model({"pixels": pictures(), "metadata": metadata}, training=False)
    features = np.asarray(extractor({"pixels": pictures()}))
    parts = head({"features": features, "metadata": metadata}, training=False)
    np.testing.assert_allclose(np.asarray(parts), np.asarray(whole), atol=1e-6)


def test_a_head_starts_where_the_whole_model_starts() -> None:
    some = variant(is_pretrained=False)
    model, head = build_model(some), build_head(some, 1280)
    for name in ("dense_1", "probabilities"):
        for ours, theirs in zip(
            head.get_layer(name).get_weights(), model.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_hair_is_removed_and_skin_stays() -> None:
    skin = np.full((1, 64, 64, 3), 180.0, dtype=np.float32)
    skin += np.linspace(-20, 20, 64)[None, :, None, None]
    hairy = skin.copy()
    for i in range(64):
        hairy[0, i, 30] = 40  # upright
        hairy[0, i, i] = 40  # falling
    pixels = keras.Input((64, 64, 3))
    model = keras.Model(pixels, remove_hair(pixels))
    cleaned = np.asarray(model(hairy))
    # Away from the rim, where a line has a picture on both sides.
    assert np.abs(cleaned - skin)[0, 8:-8, 8:-8].max() < 5
    np.testing.assert_allclose(np.asarray(model(skin)), skin, atol=1e-3)


def test_a_lesion_is_not_taken_for_hair() -> None:
    skin = np.full((1, 64, 64, 3), 180.0, dtype=np.float32)
    y, x = np.mgrid[:64, :64]
    disc = (x - 32) ** 2 + (y - 32) ** 2 < 15**2
    skin[0, disc] = 60
    pixels = keras.Input((64, 64, 3))
    cleaned = np.asarray(keras.Model(pixels, remove_hair(pixels))(skin))
    inner = (x - 32) ** 2 + (y - 32) ** 2 < 10**2
    np.testing.assert_allclose(cleaned[0, inner], skin[0, inner])


def test_bias_loss_weighs_examples_by_the_variance_of_their_feature_maps() -> None:
    some = variant(architecture="mobilenet_v3_eca", backbone=None, loss="bias")
    model = build_model(some)
    learner = with_bias_loss(model, 0.4)
    learner.compile(loss="binary_crossentropy", metrics=[])
    x, y = pictures(4), np.array([[0], [1], [1], [0]], dtype=np.float32)
    p, maps = (np.asarray(some) for some in learner({"pixels": x}, training=False))
    variance = maps.var(axis=(1, 2, 3))
    scaled = (variance - variance.min()) / (variance.max() - variance.min() + 1e-7)
    cross_entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))[:, 0]
    weighed = np.mean((np.exp(0.4 * scaled) - BIAS_BETA) * cross_entropy)
    assert float(learner.compute_loss(x, y, [p, maps])) == pytest.approx(weighed, rel=1e-4)
    plain = float(learner.compute_loss(x, y, [p, maps], training=False))
    assert plain == pytest.approx(cross_entropy.mean(), rel=1e-4)


def test_pictures_are_turned_in_full_precision_also_where_the_rest_is_half() -> None:
    some = variant(is_pretrained=False, is_augmented=True, is_augmented_strongly=True)
    with Accelerator(n_gpus=0, training_policy="mixed_bfloat16", strategy=None).training():
        model = build_model(some)
    precision = {layer.name: layer.compute_dtype for layer in model.layers}
    turning = {"flip", "rotate", "zoom", "shift", "brightness", "contrast"}
    assert {precision[name] for name in turning} == {"float32"}
    assert precision["pool"] == "bfloat16"


def test_flips_give_a_picture_and_its_mirror_image_the_same_probability() -> None:
    model = average_over_flips(build_model(variant(is_pretrained=False)))
    p = [np.asarray(model({"pixels": pictures()[:, :, ::step]})) for step in (1, -1)]
    np.testing.assert_allclose(p[0], p[1], atol=1e-6)


@pytest.mark.parametrize("seed", [0, 2, 41, 54])
def test_calibration_finds_its_minimum_whatever_the_scores(seed: int) -> None:
    """A model that learned from balanced classes calls too many malignant: that has to be found, and all of it."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(0, 1.5, 400)
    labels = (generator.random(400) < expit(1.1 * logit - 1.5)).astype(int)
    raw = np.column_stack([expit(-logit), expit(logit)])
    scale, shift = fit_calibration(raw, labels)
    # Logistic regression with Platt's targets as weights, by another library.
    n = np.array([(labels == 0).sum(), (labels == 1).sum()])
    target = np.where(labels == 1, (n[1] + 1) / (n[1] + 2), 1 / (n[0] + 2))
    twice = np.concatenate([logit, logit])[:, None]
    regression = LogisticRegression(C=np.inf, tol=1e-8).fit(
        twice, np.repeat([1, 0], 400), sample_weight=np.concatenate([target, 1 - target])
    )
    assert scale == pytest.approx(regression.coef_[0, 0], abs=1e-3)
    assert shift == pytest.approx(regression.intercept_[0], abs=1e-3)


@pytest.mark.parametrize("split", ["malignancy_natural", "five_classes_natural"])
def test_calibration_mends_the_mean_and_keeps_the_ranking(split: str) -> None:
    n_classes = len(TASKS[SPLITS[split].task].classes)
    generator = np.random.default_rng(1)
    model = build_model(variant(split=split, is_pretrained=False))
    raw = np.asarray(model({"pixels": pictures(200)}, training=False), dtype=np.float64)
    if n_classes == 2:
        raw = np.column_stack([1 - raw, raw])
        labels = (generator.random(200) < 0.05).astype(int)
    else:
        labels = generator.integers(0, n_classes, 200)
    scale, shift = fit_calibration(raw, labels)
    assert scale > 0
    served = np.asarray(
        load_model(model_bytes(with_calibration(model, scale, shift)))({"pixels": pictures(200)})
    )
    without_pictures = calibrated(raw, scale, shift)
    np.testing.assert_allclose(without_pictures[:, -served.shape[1] :], served, atol=1e-6)
    if n_classes == 2:
        assert served.mean() == pytest.approx(labels.mean(), abs=0.02)
        assert (np.argsort(served[:, 0]) == np.argsort(raw[:, 1])).mean() > 0.9
    else:
        np.testing.assert_allclose(served.sum(axis=1), 1, atol=1e-5)
        assert (served.argmax(axis=1) == raw.argmax(axis=1)).all()
