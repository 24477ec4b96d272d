"""Where a model does not know: sets that are right as often as they say, and pictures that are none of its kind."""

import io
import math
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from catalogue import add_records, labelled_records, materialize_natural, rows_of
from catalogue import draw as draw_disc
from evaluation_data import binary, drawn, drawn_multiclass
from PIL import Image
from sklearn.covariance import ledoit_wolf

from archive_server.drawing import Scene, draw
from archive_server.strange_pictures import STRANGE
from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import AlteredObjectError, Bucket, open_bucket
from lesion_tasks.catalog import TASKS, VARIANTS, InputSize
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.evaluation.doubt import (
    DISAGREES,
    NONE_FITS,
    SEVERAL,
    StoredDoubt,
    doubts_of,
    from_bytes,
    read_doubt,
    to_bytes,
)
from lesion_tasks.evaluation.doubt import (
    STRANGE as OUT,
)
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.evaluation.loaded_model import LoadedModel
from lesion_tasks.evaluation.model_features import with_features
from lesion_tasks.metrics.conformal import (
    ConformalSets,
    fit_sets,
    group_quantile,
    least_groups,
    share_of_groups,
)
from lesion_tasks.metrics.doubts import doubt_figures
from lesion_tasks.metrics.novelty import NOVELTY_RATE, NoNoveltyError, fit_novelty, ledoit_wolf_of
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.pixels.decode import decode_picture
from lesion_tasks.pixels.shards import PixelSource
from lesion_tasks.promotion.promote import promote_model
from lesion_tasks.reports.bundle import read_bundle
from lesion_tasks.serving.serve import predict_images
from lesion_tasks.settings import Settings
from lesion_tasks.training.examples import Examples
from lesion_tasks.training.model.averaging import average_members
from lesion_tasks.training.model.build import build_model
from lesion_tasks.training.model.stored_model import average_over_flips, with_calibration
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace

SIZE = InputSize(32)


def in_memory(pictures: list[np.ndarray]) -> PixelSource:
    """Decoded pictures as one shard."""
    rows = np.arange(len(pictures))
    return PixelSource(shards=(np.stack(pictures),), shard_of_row=np.zeros_like(rows), row_in_shard=rows)


def decoded(picture: Image.Image) -> np.ndarray:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return decode_picture(buffer.getvalue(), SIZE)


def lesions(n: int, first: int) -> Examples:
    """Drawn lesions, every third malignant."""
    labels = np.arange(first, first + n) % 3 == 0
    scenes = [
        Scene(
            look=("pigmented", "pink", "keratotic")[seed // 3 % 3], latent=3.0 if is_malignant else -1.0,
            lesion_seed=seed, photo_seed=seed, width_px=48, height_px=36, skin=seed % 6, kind="dermoscopic",
        )
        for seed, is_malignant in zip(range(first, first + n), labels, strict=True)
    ]  # fmt: skip
    return examples_of([draw(scene) for scene in scenes], labels.astype(np.int64))


def examples_of(pictures: list[Image.Image], labels: np.ndarray | None = None) -> Examples:
    return Examples(
        isic_ids=np.array([f"ISIC_{i:07d}" for i in range(len(pictures))], dtype=object),
        labels=np.zeros(len(pictures), dtype=np.int64) if labels is None else labels,
        pixels=in_memory([decoded(one) for one in pictures]),
        metadata=None,
    )


def everything(examples: Examples) -> np.ndarray:
    return np.arange(len(examples))


def looked_at(model: keras.Model, examples: Examples) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """What an evaluation has of a model: its scores, and its features at each depth, in another order."""
    seen: list[list[np.ndarray]] = []
    loaded = LoadedModel(keras_model=model, classes=("benign", "malignant"), tells_features=True)
    order = everything(examples)[::-1]
    said = loaded.predict(examples, order=order, see=seen.append)
    assert said.index.tolist() == examples.isic_ids[order].tolist()
    return said.loc[examples.isic_ids], [np.concatenate(some)[::-1] for some in zip(*seen, strict=True)]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A small network that learned to tell drawn lesions apart, as it would be stored."""
    train = lesions(240, 10_000)
    network = build_model(VARIANTS["smoke"])
    network.compile("adam", "binary_crossentropy")
    network.fit(train.inputs(everything(train)), train.labels, epochs=4, verbose=0)
    return with_calibration(average_over_flips(network), 1.1, 0.1)


def test_pictures_of_something_else_are_out_of_distribution_and_honest_ones_at_most_as_often_as_stated(
    model: keras.Model,
) -> None:
    val, test, rate = lesions(150, 0), lesions(100, 1_000), NOVELTY_RATE
    novelty = fit_novelty(looked_at(model, val)[1], np.arange(150).astype(str))
    generator = np.random.default_rng(0)
    for name, paint in STRANGE.items():
        strange = examples_of([paint(generator) for _ in range(3)])
        assert (novelty.scores(looked_at(model, strange)[1]) > 1).all(), name
    said, features = looked_at(model, test)
    n_strange = int((novelty.scores(features) > 1).sum())
    assert n_strange <= 100 * rate + 3 * math.sqrt(100 * rate * (1 - rate))
    # The graph says what the stored model says, and the object holds all that a prediction needs.
    expected = model.predict_on_batch(test.inputs(everything(test)))[:, 0]
    np.testing.assert_allclose(said["malignant"], expected, atol=1e-6)
    again = from_bytes(to_bytes(StoredDoubt(sets=fit_sets(drawn(200)), novelty=novelty))).novelty
    assert again is not None
    np.testing.assert_array_equal(again.scores(features), novelty.scores(features))


@pytest.mark.parametrize(("n", "width"), [(50, 3), (30, 120), (40, 40), (5, 1)])
def test_the_covariance_is_scikit_learns(n: int, width: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    values -= values.mean(axis=0)
    expected, _ = ledoit_wolf(values, assume_centered=True)
    np.testing.assert_allclose(
        ledoit_wolf_of(values), expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max()
    )


def test_an_average_tells_the_features_of_each_member(model: keras.Model) -> None:
    metadata = keras.Input((1,), name="metadata")
    other = keras.Model(
        {"metadata": metadata}, keras.layers.Dense(1, "sigmoid", name="probabilities")(metadata)
    )
    inner = average_members([model, other], "inner")
    watched = with_features(with_calibration(average_members([model, inner], "outer"), 1.0, 0.0))
    alone = with_features(model)
    assert watched is not None and alone is not None
    given = lesions(2, 0).inputs(np.arange(2))
    expected = [np.asarray(some) for some in alone.predict_on_batch(given)[1:]]
    found = watched.predict_on_batch(given | {"metadata": np.zeros((2, 1), dtype=np.float32)})[1:]
    for one, two in zip(found, expected * 2, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_a_model_that_another_process_stored_tells_its_features(tmp_path: Path) -> None:
    """Each process numbers the operations without a name anew, and a stored model has such ones on metadata."""
    keras.backend.clear_session()
    variant = replace(VARIANTS["smoke"], metadata=("age_years", "is_male"))
    build_model(variant).save(tmp_path / "model.keras")
    keras.backend.clear_session()
    watched = with_features(keras.saving.load_model(tmp_path / "model.keras", compile=False))
    assert watched is not None
    names = [operation.name for operation in watched.operations]
    assert "cast" in names
    assert len(names) == len(set(names))


def test_a_backbone_behind_plain_arithmetic_tells_its_features() -> None:
    """What is no layer, such as colours put in where no lesion is, may stand right before a backbone."""
    given = keras.Input((32, 32, 3))
    base = keras.Model(given, keras.layers.Conv2D(6, 3, strides=2, name="conv")(given), name="base")
    pixels = keras.Input((32, 32, 3), name="pixels")
    x = keras.layers.GlobalAveragePooling2D()(base(keras.ops.where(pixels > 9, pixels, 9)))
    watched = with_features(
        keras.Model({"pixels": pixels}, keras.layers.Dense(1, "sigmoid", name="probabilities")(x))
    )
    assert watched is not None
    assert [tuple(one.shape) for one in watched.outputs] == [(None, 1), (None, 12)]


def test_with_too_few_groups_no_picture_is_called_strange() -> None:
    features = [np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)]
    assert fit_novelty(features, np.arange(60).astype(str)).depths
    with pytest.raises(NoNoveltyError, match=r"rest on 30 groups of val, and a rate of 0\.02 needs 49"):
        fit_novelty(features, (np.arange(60) // 2).astype(str))


def test_where_all_pictures_look_alike_to_the_model_none_is_called_strange() -> None:
    with pytest.raises(NoNoveltyError, match="all pictures of val look alike"):
        fit_novelty([np.ones((60, 4), dtype=np.float32)], np.arange(60).astype(str))


@pytest.mark.parametrize("unfit", [np.nan, np.inf])
def test_where_the_model_sees_something_that_is_no_number_no_picture_is_called_strange(unfit: float) -> None:
    features = [np.random.default_rng(0).normal(size=(60, 4)), np.random.default_rng(1).normal(size=(60, 3))]
    features[1][7, 2] = unfit
    with pytest.raises(NoNoveltyError, match="sees of 1 of 60 pictures of val is not a finite number"):
        fit_novelty(features, np.arange(60).astype(str))


def test_a_channel_that_was_silent_on_val_tells_a_picture_apart_when_it_speaks() -> None:
    rng = np.random.default_rng(0)
    features = np.column_stack([rng.normal(size=(200, 3)), np.zeros(200)]).astype(np.float32)
    novelty = fit_novelty([features], np.arange(200).astype(str))
    assert novelty.scores([np.array([[0, 0, 0, 9]], dtype=np.float32)])[0] > 1


def test_a_quantile_by_group_counts_each_group_once() -> None:
    # Nine groups of one value, and one with a thousand: 10 weights of 1/11.
    values, groups = np.r_[np.arange(9.0), np.full(1000, 100.0)], np.r_[np.arange(9), np.full(1000, 9)]
    assert group_quantile(values, groups, 9 / 11) == 8
    assert group_quantile(values, groups, 10 / 11) == 100
    assert group_quantile(values, groups, 0.95) == math.inf
    assert [least_groups(level) for level in (0.9, 0.95, 0.98)] == [9, 19, 49]
    assert share_of_groups(values < 50, groups).value == pytest.approx(0.9)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_sets_hold_each_class_as_often_as_stated(n_classes: int) -> None:
    def some(n: int, seed: int) -> Scored:
        return (
            drawn(n, n_groups=n // 2, seed=seed)
            if n_classes == 2
            else drawn_multiclass(n, n_classes, seed=seed)
        )

    val, new = some(4_000, 1), some(20_000, 2)
    covered = fit_sets(val, 0.1).sets(new.probabilities)[np.arange(new.n_images), new.labels]
    for index in range(n_classes):
        here = new.labels == index
        assert share_of_groups(covered[here], new.groups[here]).value == pytest.approx(0.9, abs=0.02)


def test_a_class_with_too_few_groups_is_in_every_set() -> None:
    labels = np.r_[np.zeros(100), np.ones(8)].astype(int)
    sets = fit_sets(binary(labels, np.linspace(0, 1, 108)))
    assert sets.bounds[1] == math.inf
    assert sets.sets(np.array([[1.0, 0.0]]))[0].tolist() == [True, True]


def sets_of(benign: float, malignant: float) -> ConformalSets:
    return ConformalSets(
        error_rate=0.1, class_names=("benign", "malignant"), bounds=(benign, malignant), n_groups=(50, 50)
    )


def test_a_prediction_is_an_answer_or_says_why_it_is_none() -> None:
    def said(p: float, sets: ConformalSets) -> tuple[list[str], str | None, str | None]:
        (found,) = doubts_of(StoredDoubt(sets=sets, novelty=None), np.array([[1 - p, p]]), None, 0.5)
        return found.possible, found.answer, found.reason

    assert said(0.1, sets_of(0.3, 0.5)) == (["benign"], "benign", None)
    assert said(0.2, sets_of(0.3, 0.9)) == (["benign", "malignant"], None, SEVERAL)
    assert said(0.4, sets_of(0.3, 0.5)) == ([], None, NONE_FITS)
    assert said(0.4, sets_of(0.3, 0.7)) == (["malignant"], None, DISAGREES)


def test_a_strange_picture_gets_no_answer_however_sure_the_model_is() -> None:
    novelty = fit_novelty([np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)], np.arange(100))
    doubt = StoredDoubt(sets=sets_of(0.3, 0.5), novelty=novelty)
    features = [np.array([[0, 0, 0], [50, 0, 0], [np.nan, 0, 0]], dtype=np.float32)]
    found = doubts_of(doubt, np.array([[0.99, 0.01]] * 3), features, 0.5)
    assert [one.reason for one in found] == [None, OUT, OUT]
    assert novelty.is_strange(novelty.scores(features)).tolist() == [False, True, True]


def test_figures_count_strange_pictures_as_not_answered() -> None:
    val, new = drawn(2_000, seed=1, distance=3), drawn(2_000, seed=2, distance=3)
    strange = np.arange(2_000) % 4 == 0
    found = doubt_figures(new, fit_sets(val), val=val, threshold=0.5, is_strange=strange)
    without = doubt_figures(new, fit_sets(val), val=val, threshold=0.5, is_strange=None)
    assert found.strange is not None and found.strange.value == 0.25
    assert found.answered.value == pytest.approx(0.75 * (without.answered.value or 0), abs=0.02)
    assert found.covered.value == without.covered.value
    assert all((one.value or 0) <= 0.12 for one in found.wrong_by_class.values())
    assert without.curve.answered[0] < without.curve.answered[5]


@pytest.fixture
def bucket(settings: Settings) -> Bucket:
    return open_bucket(settings)


def test_a_doubt_that_was_altered_or_belongs_to_another_model_is_refused(bucket: Bucket) -> None:
    import hashlib

    data = to_bytes(StoredDoubt(sets=fit_sets(drawn(200)), novelty=None))
    digest = hashlib.sha256(data).hexdigest()
    bucket.put("reports/one/doubt.npz", data)
    assert read_doubt(bucket, "reports/one/doubt.npz", digest, ("benign", "malignant")).sets.n_groups
    with pytest.raises(UnusableInputError, match="expected the model's: nevus, melanoma"):
        read_doubt(bucket, "reports/one/doubt.npz", digest, ("nevus", "melanoma"))
    bucket.put("reports/one/doubt.npz", data[:-1] + b"x")
    with pytest.raises(AlteredObjectError, match="doubt"):
        read_doubt(bucket, "reports/one/doubt.npz", digest, ("benign", "malignant"))


def test_an_evaluation_measures_doubt_and_its_champion_tells_it_of_pictures(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A val large enough for something to be strange.
    monkeypatch.setitem(TASKS, "malignancy", replace(TASKS["malignancy"], val_share=0.5, test_share=0.25))
    smoke = replace(VARIANTS["smoke"], name="doubting", split="malignancy_natural", max_epochs=1)
    monkeypatch.setitem(VARIANTS, "doubting", smoke)
    add_records(settings, labelled_records(240))
    workspace = open_workspace()
    curate_images(workspace)
    materialize_natural()
    training_id = train_variant(workspace, "doubting")
    evaluate_training(workspace, training_id)
    ((document,),) = rows_of(settings, "SELECT document FROM evaluation")
    said = read_bundle(document).doubt
    assert said is not None and said.novelty_reason is None
    assert said.test.strange is not None and (said.test.strange.value or 0) <= 0.15
    assert (said.test.covered.value or 0) > 0.7
    promote_model(workspace, task="malignancy", is_forced=True, decided_by="Ada")
    honest, black = tmp_path / "honest.png", tmp_path / "black.png"
    honest.write_bytes(draw_disc(3, is_malignant=False))
    Image.new("RGB", (48, 36)).save(black)
    found = predict_images(workspace, [str(honest), str(black)])
    assert [one.doubt == OUT for one in found] == [False, True]
    evaluate_training(workspace, training_id)
    ((again,),) = rows_of(settings, "SELECT document FROM evaluation")
    assert again["doubt"] == document["doubt"]
