"""Learning on stored features is learning on pixels with a frozen backbone, and costs no second look at a picture."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from test_training_loop import examples

from lesion_tasks.bucket import AlteredObjectError, open_bucket
from lesion_tasks.catalog import VARIANTS, Variant
from lesion_tasks.database.connection import engine_for
from lesion_tasks.settings import Settings
from lesion_tasks.training.accelerator import find_accelerator
from lesion_tasks.training.examples import Batches, Data, Examples, WeightedBatches
from lesion_tasks.training.frozen_features import feature_recipe, recipe_id
from lesion_tasks.training.in_memory import InMemory
from lesion_tasks.training.model import Weights, build_head, build_model
from lesion_tasks.training.predict_examples import predict_examples
from lesion_tasks.training.sampling import class_weights
from lesion_tasks.training.stages import Trained, train_model

CLASSES = ("benign", "malignant")


def variant(**changed: object) -> Variant:
    return replace(
        VARIANTS["mobilenet_v2_frozen"],
        **{  # type: ignore[arg-type]
            "name": "tried",
            "backbone": "mobilenet_v2_035",
            "is_pretrained": False,
            "side_px": 32,
            "max_epochs": 3,
            "is_calibrated": False,  # plain Keras is not
            **changed,
        },
    )


def data() -> Data:
    def some(n: int, seed: int) -> Examples:
        drawn = examples(n, seed, side=32)
        return replace(drawn, isic_ids=np.array([f"ISIC_{seed}{i:06d}" for i in range(n)], dtype=object))

    train, val, test = some(100, 1), some(40, 2), some(40, 3)
    ids = [i for subset in (train, val, test) for i in subset.isic_ids]
    return Data(train=train, val_drawn=val, val=val, test=test, sha256_by_id={i: f"sha-{i}" for i in ids})


def run(settings: Settings, some: Variant, folder: str = "trainings/tried") -> Trained:
    return train_model(
        some,
        None,
        data(),
        engine=engine_for(settings.database_url or ""),
        bucket=open_bucket(settings),
        folder=folder,
        on_epoch=lambda epoch, figures, duration_s: None,
    )


def test_a_head_on_stored_features_predicts_what_plain_keras_learns_on_pixels(settings: Settings) -> None:
    some = variant()
    ours = run(settings, some).predictions["test"]
    model = build_model(some)
    model.compile(keras.optimizers.Adam(some.learning_rate), "binary_crossentropy")
    best, kept = np.inf, None
    for epoch in range(1, some.max_epochs + 1):
        model.fit(
            Batches(data().train, some.batch_size, n_classes=2, seed=some.seed, epoch=epoch),
            shuffle=False,
            verbose=0,
        )
        loss = model.evaluate(Batches(data().val, 256, n_classes=2), verbose=0)
        if loss < best:
            best, kept = loss, model.get_weights()
    model.set_weights(kept)
    plain = predict_examples(model, data().test, classes=CLASSES)
    np.testing.assert_allclose(ours.to_numpy(), plain.to_numpy(), atol=1e-5)


def test_a_stopped_extraction_goes_on_and_features_are_shared(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lesion_tasks.training import frozen_features as features

    monkeypatch.setattr(features, "SHARD_IMAGES", 50)
    put_file, n_put = type(open_bucket(settings)).put_file, []

    def stop_at_the_third(self: object, key: str, path: Path, **options: str) -> None:
        n_put.append(key)
        if len(n_put) == 3:
            raise KeyboardInterrupt
        put_file(self, key, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(open_bucket(settings)), "put_file", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(settings, variant())
    run(settings, variant())
    assert len(n_put) == 3 + 2  # 180 pictures are four shards: two were there, one was cut short
    run(settings, variant(name="another", dense_units=(4,)), "trainings/another")
    assert len(n_put) == 5
    open_bucket(settings).put(n_put[0], open_bucket(settings).get(n_put[0]) + b" ")
    with pytest.raises(AlteredObjectError, match=f"shard {n_put[0]}"):
        run(settings, variant(name="third", dense_units=(4,)), "trainings/third")


@pytest.mark.parametrize(
    "changed",
    [
        {"backbone": "mobilenet_v2"},
        {"side_px": 64},
        {"is_hair_removed": True},
        {"seed": 2},  # of a random backbone
    ],
)
def test_features_of_another_recipe_have_another_name(changed: dict) -> None:
    assert recipe_id(feature_recipe(variant(), None, None)) != recipe_id(
        feature_recipe(variant(**changed), None, None)
    )
    weights = [Weights(origin="x.h5", path=None, sha256=digest) for digest in "ab"]
    names = {recipe_id(feature_recipe(variant(), w, s)) for w in weights for s in (None, "outlines")}
    assert len(names) == 4


def test_the_head_has_no_part_in_the_name_of_its_features() -> None:
    changed = {"dense_units": (3,), "dropout_rate": 0.5, "name": "x", "metadata": ("age_years",)}
    assert feature_recipe(variant(), None, None) == feature_recipe(variant(**changed), None, None)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_an_epoch_in_memory_is_the_epoch_of_batches(is_weighted: bool) -> None:
    find_accelerator()

    class Noise(Examples):
        def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"features": np.random.default_rng(5).normal(size=(70, 6)).astype(np.float32)[rows]}

    labels = np.random.default_rng(6).integers(0, 2, 70)
    some = Noise(isic_ids=np.arange(70).astype(str).astype(object), labels=labels, pixels=None, metadata=None)
    weights = class_weights(labels, 2) if is_weighted else None
    recipe = variant(dropout_rate=0.3)
    found = []
    for is_resident in (True, False):
        head = build_head(recipe, 6)
        head.compile("adam", "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")])
        if is_resident:
            resident = InMemory(head, some, some, batch_size=32, n_classes=2, seed=4, weights=weights)
            figures = {**resident.train(1), **{f"val_{k}": v for k, v in resident.validate().items()}}
        else:
            batches = Batches(some, 32, n_classes=2, seed=4, epoch=1)
            fitted = head.fit(WeightedBatches.of(batches, weights), shuffle=False, verbose=0).history
            judged = head.evaluate(
                WeightedBatches.of(Batches(some, 256, n_classes=2), weights), verbose=0, return_dict=True
            )
            figures = {**{k: v[0] for k, v in fitted.items()}, **{f"val_{k}": v for k, v in judged.items()}}
        found.append((figures, head.get_weights()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("signal", "low", "high"), [(0.0, 0.38, 0.62), (80.0, 0.99, 1.0)])
def test_labels_without_a_signal_stay_at_chance_and_a_planted_one_is_found(
    settings: Settings, signal: float, low: float, high: float
) -> None:
    """Three standard errors of an AUC of 0.5 on 100 and 100 images are 3 * sqrt(201 / 120,000) = 0.12."""
    from sklearn.metrics import roc_auc_score

    parts = [examples(n, seed, signal=signal) for n, seed in ((256, 11), (64, 12), (200, 13))]
    some = replace(VARIANTS["smoke"], side_px=16, max_epochs=8)
    trained = train_model(
        some,
        None,
        Data(train=parts[0], val_drawn=parts[1], val=parts[1], test=parts[2], sha256_by_id={}),
        engine=engine_for(settings.database_url or ""),
        bucket=open_bucket(settings),
        folder="trainings/tried",
        on_epoch=lambda epoch, figures, duration_s: None,
    )
    auc = roc_auc_score(parts[2].labels, trained.predictions["test"].loc[parts[2].isic_ids, "malignant"])
    assert low <= auc <= high
