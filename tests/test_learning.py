"""A recipe of learning: every part does what it says, and a killed training ends like one that was not."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from catalogue import rows_of
from test_training_loop import examples

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, open_bucket
from lesion_tasks.catalog import VARIANTS, Learning, SearchRange, SearchSpace, Variant
from lesion_tasks.catalog.shortened import with_parameters
from lesion_tasks.database.connection import engine_for
from lesion_tasks.reports.bundle import Epoch
from lesion_tasks.reports.charts import best_epoch
from lesion_tasks.settings import Settings, read_settings
from lesion_tasks.training import run_spec
from lesion_tasks.training.distortions import COLOUR, GEOMETRY, distort
from lesion_tasks.training.examples import Batches, Data, Examples
from lesion_tasks.training.frozen_features import feature_recipe, recipe_id
from lesion_tasks.training.judge import Judgement, auc_of, judge_probabilities
from lesion_tasks.training.learning_batches import Diagnoses, LearningBatches, cut_mix
from lesion_tasks.training.model import build_head, build_model
from lesion_tasks.training.model.losses import LogitAdjustedCrossEntropy, with_auxiliary_head
from lesion_tasks.training.optimizers import make_optimizer
from lesion_tasks.training.run_spec import read_diagnoses
from lesion_tasks.training.sampling import lesion_weights
from lesion_tasks.training.solved_head import solve_head
from lesion_tasks.training.stages import Trained, train_model

pytestmark = pytest.mark.minutes

EVERYTHING = Learning(
    is_head_solved=True,
    weight_decay=0.02,
    schedule="cosine",
    warmup_share=0.1,
    backbone_rate_share=0.5,
    ema_momentum=0.9,
    label_smoothing=0.1,
    logit_adjustment=1.0,
    mixup_alpha=0.2,
    n_distortions=2,
    auxiliary_weight=0.3,
)


def variant(**changed: Any) -> Variant:
    """A small convolutional network with the whole recipe that it can have."""
    return replace(
        Variant(
            name="tried",
            title="",
            split="malignancy_natural",
            architecture="cnn",
            side_px=16,
            conv_filters=(4, 8),
            dense_units=(8,),
            dropout_rate=0.3,
            max_epochs=6,
            patience=6,
            learning=replace(EVERYTHING, is_head_solved=False),
        ),
        **changed,
    )


def data(n: int = 96) -> Data:
    def some(n: int, seed: int) -> Examples:
        drawn = examples(n, seed)
        return replace(drawn, isic_ids=np.array([f"ISIC_{seed}{i:06d}" for i in range(n)], dtype=object))

    train, val, test = some(n, 1), some(48, 2), some(48, 3)
    names = np.array(["Nevus", "Melanoma"])[train.labels]
    known = dict(
        zip(train.isic_ids[8:], names[8:], strict=True)
    )  # some records say no more than the question
    return Data(train=train, val_drawn=val, val=val, test=test, sha256_by_id={}, diagnosis_by_id=known)


def run(
    settings: Settings, some: Variant, bucket: Bucket, history: dict[int, dict[str, float]] | None = None
) -> Trained:
    told = {} if history is None else history
    return train_model(
        some,
        None,
        data(),
        engine=engine_for(settings.database_url or ""),
        bucket=bucket,
        folder="trainings/tried",
        on_epoch=lambda epoch, figures, duration_s: told.__setitem__(epoch, figures),
    )


def digest(trained: Trained) -> str:
    weights = b"".join(w.tobytes() for w in trained.model.get_weights())
    return hashlib.sha256(weights + trained.predictions["test"].to_numpy().tobytes()).hexdigest()


# Of the code before there was `learning`: the fingerprint of a training, all else the same.
FINGERPRINTS = {
    "smoke": "7d78720b113c4fac",
    "metadata_logistic": "23c86e7dc66e9fd6",
    "mobilenet_v2_frozen": "5d1dffd3fe4d472e",
    "unet_mobilenet_v3_eca": "6cc9e3d0f1159838",
    "mobilenet_v2_tuned_gated": "711f1c464625b6d1",
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_variant_without_a_recipe_of_learning_keeps_its_fingerprint(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(run_spec, "code_digest", lambda: "code")
    spec = run_spec.RunSpec(
        variant=VARIANTS[name],
        digest="d" * 64,
        manifest_key="m",
        weights=None,
        weights_location="imagenet",
        code_version="1",
    )
    assert spec.fingerprint[:16] == FINGERPRINTS[name]


def test_features_of_backbones_that_stand_keep_their_digest() -> None:
    found = recipe_id(feature_recipe(VARIANTS["mobilenet_v2_frozen"], None, None))
    assert found == "02aaf02c2dd6c2dbe527b93054667827"


class KilledError(Exception):
    """The end of a process."""


class DyingBucket:
    """A bucket whose process dies when a checkpoint's pointer has been written a number of times."""

    def __init__(self, bucket: Bucket, n_lives: int) -> None:
        self.bucket, self.n_lives = bucket, n_lives

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bucket, name)

    def put(self, key: str, data: bytes, **more: Any) -> None:
        self.bucket.put(key, data, **more)
        if key.endswith("state.json"):
            self.n_lives -= 1
            if not self.n_lives:
                raise KilledError


def test_a_training_killed_at_every_epoch_ends_like_one_that_was_not(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = variant(max_epochs=2)
    undisturbed: dict[int, dict[str, float]] = {}
    whole = digest(run(settings, some, open_bucket(settings), undisturbed))
    monkeypatch.setenv("LESION_BUCKET_URL", str(tmp_path / "another"))
    bucket = open_bucket(read_settings())
    for _ in range(some.max_epochs):
        with pytest.raises(KilledError):
            run(settings, some, DyingBucket(bucket, 1))  # type: ignore[arg-type]
    history: dict[int, dict[str, float]] = {}
    assert digest(run(settings, some, bucket, history)) == whole
    assert history == undisturbed
    assert {"loss", "auxiliary_loss", "val_auc", "val_loss"} <= set(history[1])


def test_diagnoses_are_as_deep_as_records_say_and_no_deeper_than_asked(small: Settings) -> None:
    import pandas as pd

    ids = [row[0] for row in rows_of(small, "SELECT isic_id FROM image ORDER BY isic_id")][:6]
    rows = pd.DataFrame({"isic_id": ids, "record_version": 1})
    with engine_for(small.database_url or "").connect() as connection:
        deep, shallow = (read_diagnoses(connection, rows, level) for level in (3, 2))
    assert set(deep) == set(shallow) == set(ids)
    assert set(deep.values()) == {"Melanoma, NOS", "Nevus"}
    assert "Benign melanocytic proliferations" in shallow.values()


def test_a_solved_head_is_the_logistic_regression_that_does_best_on_val() -> None:
    some = replace(VARIANTS["mobilenet_v2_frozen"], dense_units=(), learning=Learning(is_head_solved=True))
    generator = np.random.default_rng(0)

    class Features(Examples):
        def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"features": features[[int(i) for i in self.isic_ids[rows]]]}

    labels = generator.integers(0, 2, 300)
    features = generator.normal(3, 2, (300, 12)).astype(np.float32)
    features[:, 4] += 3 * labels
    train, val = (
        Features(isic_ids=np.arange(300).astype(str).astype(object)[part], labels=labels[part], pixels=None,
                 metadata=None)
        for part in (slice(200), slice(200, 300))
    )  # fmt: skip
    head = build_head(some, 12)
    loss, judged = solve_head(head, some, train, val)
    p = np.asarray(head(train.inputs(np.arange(200))))[:, 0]
    cross_entropy = -np.mean(np.log(np.where(train.labels == 1, p, 1 - p)))
    assert loss == pytest.approx(cross_entropy, rel=1e-3)
    assert judged.auc is not None
    assert judged.auc > 0.75
    again = build_head(some, 12)
    assert solve_head(again, some, train, val) == (loss, judged)
    for one, other in zip(head.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def optimizer_of(how: Learning, **more: Any) -> tuple[keras.Model, Any]:
    pixels = keras.Input((2,))
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="inside")], name="inner")
    model = keras.Model(pixels, keras.layers.Dense(1, name="outside")(inner(pixels)))
    optimizer = make_optimizer(
        how, model, **({"learning_rate": 0.1, "n_steps": 10, "backbone": inner} | more)
    )
    optimizer.build(model.trainable_variables)
    return model, optimizer


def test_the_rate_rises_and_falls_as_it_says() -> None:
    _, optimizer = optimizer_of(Learning(schedule="cosine", warmup_share=0.2))
    rates = []
    for step in range(11):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates[:3] == pytest.approx([0, 0.05, 0.1])
    assert rates[6] == pytest.approx(0.05)
    assert rates[10] == pytest.approx(0, abs=1e-7)
    _, steady = optimizer_of(Learning(warmup_share=0.2))
    steady.iterations.assign(9)
    assert float(steady.learning_rate) == pytest.approx(0.1)


def test_a_backbone_has_its_own_rate_weights_decay_and_averages_wait_until_asked() -> None:
    keras.utils.set_random_seed(1)
    model, optimizer = optimizer_of(Learning(backbone_rate_share=0.1, weight_decay=0.5, ema_momentum=0.5))
    before = [np.array(v) for v in model.trainable_variables]
    ones = [keras.ops.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply(ones, model.trainable_variables)
    optimizer.apply(ones, model.trainable_variables)
    optimizer.finalize_variable_values(model.trainable_variables)
    after = [np.array(v) for v in model.trainable_variables]
    step = {v.path: a - b for v, a, b in zip(model.trainable_variables, after, before, strict=True)}
    by_name = {path.rsplit("/", 2)[-2] + "/" + path.rsplit("/", 1)[-1]: s for path, s in step.items()}
    np.testing.assert_allclose(by_name["inside/bias"], -0.02, rtol=1e-3)
    np.testing.assert_allclose(by_name["outside/bias"], -0.2, rtol=1e-3)
    assert not np.allclose(by_name["outside/kernel"], -0.2, rtol=1e-3), "the kernel does not decay"
    optimizer.put_into(model.trainable_variables)
    # Two steps at momentum 0.5: the average is in the middle of both.
    bias = next(np.array(v) for v in model.trainable_variables if v.path.endswith("outside/bias"))
    np.testing.assert_allclose(bias, -0.15, rtol=1e-3)


def test_each_group_decays_at_its_own_rate() -> None:
    model, optimizer = optimizer_of(Learning(backbone_rate_share=0.1, weight_decay=0.5))
    before = [np.array(v) for v in model.trainable_variables]
    optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    kept = {
        v.path.split("/")[-2]: np.array(v) / b
        for v, b in zip(model.trainable_variables, before, strict=True)
        if v.path.endswith("kernel")
    }
    np.testing.assert_allclose(kept["outside"], 1 - 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(kept["inside"], 1 - 0.1 * 0.1 * 0.5, rtol=1e-5)


def test_the_adjusted_loss_is_cross_entropy_of_moved_logits() -> None:
    y, p = np.array([[1.0], [0.0]], np.float32), np.array([[0.3], [0.6]], np.float32)
    log_shares = np.log([0.9, 0.1])
    logit = np.log(p / (1 - p)) + log_shares[1] - log_shares[0]
    moved = 1 / (1 + np.exp(-logit))
    expected = -np.mean(np.log(np.where(y == 1, moved, 1 - moved)))
    assert float(LogitAdjustedCrossEntropy(log_shares)(y, p)) == pytest.approx(expected, rel=1e-4)
    both_y, both_p = np.hstack([1 - y, y]), np.hstack([1 - p, p])
    assert float(LogitAdjustedCrossEntropy(log_shares)(both_y, both_p)) == pytest.approx(expected, rel=1e-4)
    plain = keras.losses.BinaryCrossentropy(label_smoothing=0.2)(y, p)
    assert float(LogitAdjustedCrossEntropy([0, 0], 0.2)(y, p)) == pytest.approx(float(plain), rel=1e-4)


def batches(how: Learning, epoch: int = 1, **more: Any) -> LearningBatches:
    drawn = Batches(data().train, 32, n_classes=2, seed=5, epoch=epoch)
    return LearningBatches(drawn, how, seed=5, epoch=epoch, **more)


def test_a_batch_follows_from_seed_and_epoch_alone() -> None:
    one, same, other = (batches(EVERYTHING, epoch)[1] for epoch in (1, 1, 2))
    for name in ("pixels",):
        np.testing.assert_array_equal(one[0][name], same[0][name])
        assert not np.array_equal(one[0][name], other[0][name])
    np.testing.assert_array_equal(one[1], same[1])


def test_mixed_examples_have_mixed_targets_and_count_by_their_weights() -> None:
    weights = {0: 0.5, 1: 2.0}
    plain = batches(Learning(), weights=weights)[0]
    inputs, targets, counts = batches(Learning(mixup_alpha=0.4), weights=weights)[0]
    assert inputs["pixels"].dtype == np.float32
    # Sums over a batch stay: each example is in it once by one share and once by the other.
    np.testing.assert_allclose(inputs["pixels"].sum(), plain[0]["pixels"].sum(dtype=np.float64), rtol=1e-4)
    np.testing.assert_allclose(counts.sum(), plain[2].sum(), rtol=1e-5)
    np.testing.assert_allclose((targets[:, 0] * counts).sum(), (plain[1][:, 0] * plain[2]).sum(), rtol=1e-4)
    assert ((targets >= 0) & (targets <= 1)).all()


def test_a_part_of_another_picture_counts_by_its_size() -> None:
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 16, 16, 3), np.uint8)
    order, sizes = np.array([1, 2, 3, 0]), []
    for seed in range(20):
        cut, left = cut_mix(pixels, order, 0.6, np.random.default_rng(seed))
        shares = [(cut[i] == i).mean() for i in range(4)]
        assert shares == pytest.approx([left] * 4)
        assert all(set(np.unique(cut[i])) <= {i, order[i]} for i in range(4))
        sizes.append(1 - left)
    assert 0 < min(sizes) < max(sizes) <= 0.4 + 0.06  # whole pixels of 16
    one, other = (batches(Learning(cutmix_alpha=1.0), weights={0: 0.5, 1: 2.0})[0] for _ in range(2))
    np.testing.assert_array_equal(one[0]["pixels"], other[0]["pixels"])
    assert one[0]["pixels"].dtype == np.uint8
    assert ((one[1] >= 0) & (one[1] <= 1)).all()
    kinds = {
        batches(Learning(cutmix_alpha=1.0, mixup_alpha=1.0), epoch)[0][0]["pixels"].dtype
        for epoch in range(8)
    }
    assert kinds == {np.dtype(np.uint8), np.dtype(np.float32)}
    frozen = VARIANTS["mobilenet_v2_frozen"]
    with pytest.raises(ValueError, match="computed once cannot be distorted or cut"):
        replace(frozen, learning=Learning(cutmix_alpha=1.0))


def test_many_pictures_of_one_lesion_do_not_count_many_times() -> None:
    ids = np.array(["a", "b", "c", "d", "e", "e"], dtype=object)  # e is in the epoch twice, and one image
    lesions = {"a": "one", "b": "one", "c": "one", "d": "two"}
    for weighting, each in (("by_image", 1), ("by_root", 3**-0.5), ("by_lesion", 1 / 3)):
        weights = lesion_weights(ids, lesions, weighting)
        np.testing.assert_allclose(weights / weights[3], [each, each, each, 1, 1, 1], rtol=1e-6)
        assert weights.mean() == pytest.approx(1)
    labels = np.array([0, 0, 1, 1, 0, 0])
    weights = lesion_weights(ids, lesions, "by_lesion", labels)
    assert [weights[labels == label].mean() for label in (0, 1)] == pytest.approx([1, 1])

    by_row = np.linspace(0.5, 1.5, 96).astype(np.float32)
    diagnoses = Diagnoses(names=("x", "y"), number_by_id={})
    plain = Learning(weight_decay=0.1)
    drawn = Batches(examples(96), 32, n_classes=2, seed=1, epoch=1)
    batch = LearningBatches(drawn, plain, seed=1, epoch=1, weights={0: 1.0, 1: 2.0}, row_weights=by_row)[0]
    np.testing.assert_allclose(batch[2], by_row[drawn.rows(0)] * (1 + batch[1][:, 0]), rtol=1e-6)
    known = replace(diagnoses, number_by_id=dict.fromkeys(drawn.examples.isic_ids, 1))
    both = LearningBatches(drawn, plain, seed=1, epoch=1, row_weights=by_row, diagnoses=known)[0]
    np.testing.assert_array_equal(both[2]["auxiliary"], by_row[drawn.rows(0)])


def test_a_lesion_that_is_weighted_away_is_not_learned() -> None:
    """Half of the pictures show one lesion and say the opposite of all others."""
    generator = np.random.default_rng(5)
    features = np.concatenate([generator.normal(0, 1, (400, 3)), np.full((400, 3), 2.0)]).astype(np.float32)
    labels = np.concatenate([(features[:400, 0] > 0).astype(int), generator.integers(0, 2, 400)])
    labels[400:700] = 0
    some = replace(VARIANTS["mobilenet_v2_frozen"], dense_units=(), learning=Learning(is_head_solved=True))

    class Features(Examples):
        def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"features": features[[int(i) for i in self.isic_ids[rows]]]}

    train, val = (
        Features(isic_ids=np.arange(800).astype(str).astype(object)[part], labels=labels[part], pixels=None,
                 metadata=None)
        for part in (slice(800), slice(400))
    )  # fmt: skip
    lesions = {str(i): "one" for i in range(400, 800)}
    biases = []
    for weighting in ("by_image", "by_lesion"):
        head = build_head(some, 3)
        solve_head(head, some, train, val, None, lesion_weights(train.isic_ids, lesions, weighting))
        biases.append(float(head.predict_on_batch({"features": np.full((1, 3), 2.0, np.float32)})[0, 0]))
    assert biases[0] < 0.5 < biases[1]


def test_a_recipe_keeps_its_digest_where_younger_fields_say_nothing() -> None:
    some = variant()
    assert not {"lesion_weighting", "cutmix_alpha"} & set(some.as_recipe["learning"])
    weighted = replace(some, learning=replace(EVERYTHING, is_head_solved=False, lesion_weighting="by_root"))
    assert weighted.as_recipe["learning"]["lesion_weighting"] == "by_root"
    with pytest.raises(ValueError, match="unknown lesion weighting 'by_roots'; did you mean by_root"):
        Learning(lesion_weighting="by_roots")


def test_an_unknown_diagnosis_counts_nothing_in_the_auxiliary_loss() -> None:
    known = {i: n % 2 for n, i in enumerate(data().train.isic_ids[:40])}
    found = batches(Learning(), diagnoses=Diagnoses(names=("a", "b"), number_by_id=known))
    for index in range(len(found)):
        ids = found.batches.examples.isic_ids[found.batches.rows(index)]
        _, targets, counts = found[index]
        assert [bool(x) for x in counts["auxiliary"]] == [i in known for i in ids]
        for isic_id, target in zip(ids, targets["auxiliary"], strict=True):
            assert isic_id not in known or target.argmax() == known[isic_id]


def test_both_heads_share_the_features_and_the_first_is_as_it_was() -> None:
    model = build_model(variant())
    pixels = {"pixels": np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)}
    both = with_auxiliary_head(model, 4, 1)(pixels)
    np.testing.assert_array_equal(np.asarray(both["probabilities"]), np.asarray(model(pixels)))
    np.testing.assert_allclose(np.asarray(both["auxiliary"]).sum(axis=1), 1, rtol=1e-5)


def test_distorted_pictures_keep_their_form_and_strength_0_only_mirrors_and_turns() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3)).astype(np.uint8)
    strong = distort(pictures, np.random.default_rng(1), len(GEOMETRY + COLOUR), 1.0)
    assert (strong.shape, strong.dtype) == (pictures.shape, np.uint8)
    still = distort(pictures, np.random.default_rng(1), 0, 1.0)
    for picture, turned in zip(pictures, still, strict=True):
        every = [np.rot90(p, k) for p in (picture, picture[:, ::-1]) for k in range(4)]
        assert any(np.array_equal(turned, one) for one in every)
    flat = np.full((4, 20, 20, 3), (120, 90, 60), np.uint8)
    assert (distort(flat, np.random.default_rng(2), 12, 0.0) == flat).all(axis=(1, 2)).mean() > 0.99


def test_auc_decides_and_at_the_same_auc_the_loss() -> None:
    better = Judgement(loss=9.0, auc=0.9)
    assert better.is_better_than(Judgement(loss=0.1, auc=0.89))
    assert Judgement(loss=0.1, auc=0.9001).is_better_than(Judgement(loss=0.2, auc=0.9004))
    assert not Judgement(loss=0.2, auc=0.9004).is_better_than(Judgement(loss=0.1, auc=0.9001))
    assert Judgement(loss=0.1).is_better_than(Judgement())
    labels = np.array([0, 0, 1, 1])
    p = np.array([0.1, 0.4, 0.35, 0.8])
    judged = judge_probabilities(np.column_stack([1 - p, p]), labels)
    assert judged.auc == 0.75
    assert judge_probabilities(np.column_stack([1 - p, p]), labels * 0).auc is None


def test_a_stage_ends_before_an_epoch_that_would_exceed_its_time(settings: Settings) -> None:
    done: dict[int, dict[str, float]] = {}
    how = Learning(max_minutes=1e-6)
    run(settings, variant(learning=how), open_bucket(settings), done)
    assert list(done) == [1]


def test_thirty_two_images_can_be_overfitted(settings: Settings) -> None:
    noise = examples(32, 3, signal=0.0)
    how = Learning(weight_decay=0.01, schedule="cosine", warmup_share=0.1, ema_momentum=0.8)
    some = variant(
        conv_filters=(8,),
        dense_units=(64,),
        dropout_rate=0.0,
        batch_size=8,
        max_epochs=30,
        patience=30,
        learning=how,
    )
    trained = train_model(
        some,
        None,
        replace(data(), train=noise, val_drawn=noise, val=noise),
        engine=engine_for(settings.database_url or ""),
        bucket=open_bucket(settings),
        folder="trainings/tried",
        on_epoch=lambda epoch, figures, duration_s: None,
    )
    assert (trained.predictions["val"].to_numpy().argmax(axis=1) == noise.labels).all()


def test_of_shuffled_labels_the_whole_recipe_learns_nothing(settings: Settings) -> None:
    seed = np.random.default_rng(11)
    known = data(128)
    train, val, test = (
        replace(one, labels=seed.permutation(one.labels))
        for one in (known.train, known.val, examples(256, 9))
    )
    trained = train_model(
        variant(max_epochs=3, learning=replace(EVERYTHING, is_head_solved=False, cutmix_alpha=1.0,
                                               lesion_weighting="by_lesion")),
        None,
        replace(known, train=train, val=val, val_drawn=val, test=test),
        engine=engine_for(settings.database_url or ""),
        bucket=open_bucket(settings),
        folder="trainings/tried",
        on_epoch=lambda epoch, figures, duration_s: None,
    )  # fmt: skip
    learned = auc_of(trained.predictions["test"].to_numpy(), test.labels)
    assert learned is not None
    assert abs(learned - 0.5) < 0.12


def test_a_rate_that_is_too_high_ends_the_training_with_the_reason(settings: Settings) -> None:
    with pytest.raises(UnusableInputError, match=r"loss of epoch 1 is nan, expected a number"):
        run(settings, variant(learning_rate=1e38), open_bucket(settings))


def test_a_search_may_change_parts_of_a_recipe() -> None:
    ranges = (
        SearchRange(field="learning.weight_decay", low=1e-4, high=1e-1, is_log=True),
        SearchRange(field="learning_rate", low=1e-4, high=1e-1),
    )
    some = variant(search=SearchSpace(ranges=ranges))
    found = with_parameters(some, {"learning.weight_decay": 0.03, "learning_rate": 0.01}, "id")
    assert found.learning is not None
    assert (found.learning.weight_decay, found.learning_rate, found.search_id) == (0.03, 0.01, "id")
    with pytest.raises(ValueError, match=r"unknown fields \['fine_tuning\.learning_rate'\]"):
        variant(search=SearchSpace(ranges=(SearchRange(field="fine_tuning.learning_rate", low=0, high=1),)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning": EVERYTHING}, "only a linear head"),
        ({"optimizer": "sgd"}, "with AdamW"),
        ({"loss": "focal"}, "is a cross-entropy"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant(**changed)


def test_what_does_nothing_where_a_head_is_solved_is_refused_by_name() -> None:
    some = VARIANTS["efficientnet_lite0_frozen"]
    how = replace(EVERYTHING, n_distortions=0)
    with pytest.raises(
        ValueError, match=r"learning\.weight_decay, learning\.schedule, .*would do nothing"
    ) as refusal:
        replace(some, learning=how)
    assert str(refusal.value).count("learning.") == 9
    with pytest.raises(ValueError, match=r"'efficientnet_lite0_frozen': loss: without fine_tuning"):
        replace(some, loss="focal")
    replace(VARIANTS["efficientnet_lite0_tuned"], learning=how)  # its second stage takes steps


def test_numbers_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="ema_momentum is 1"):
        Learning(ema_momentum=1.0)
    with pytest.raises(ValueError, match="unknown schedule 'step'"):
        Learning(schedule="step")
    with pytest.raises(ValueError, match="max_minutes is 0"):
        Learning(max_minutes=0)


def test_a_report_marks_the_epoch_that_was_kept() -> None:
    epochs = [
        Epoch(epoch=n, figures={"val_loss": loss, "val_auc": auc}, duration_s=1.0)
        for n, (loss, auc) in enumerate([(0.2, 0.8), (0.4, 0.9), (0.3, 0.9001)], 1)
    ]
    assert best_epoch(epochs, {}) == 1
    assert best_epoch(epochs, {"learning": {"weight_decay": 0.1}}) == 3
