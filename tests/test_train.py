"""A variant on a small catalogue: every stage of the engine trains, is stored, and is what was measured."""

import errno
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from catalogue import add_records, declare, labelled_records, materialize_natural, rows_of
from PIL import Image
from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import AlteredObjectError, open_bucket
from lesion_tasks.catalog import ASPECTS, VARIANTS
from lesion_tasks.catalog.lookup import find_variant
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.serving.serve import predict_images
from lesion_tasks.settings import Settings
from lesion_tasks.training.masks import import_masks
from lesion_tasks.training.prepare import prepare_training
from lesion_tasks.training.run_record import begin, record_epoch
from lesion_tasks.training.run_spec import find_run_spec
from lesion_tasks.training.train import note_lost_trainings, train_variant
from lesion_tasks.workspace import open_workspace

pytestmark = pytest.mark.minutes


def stored(settings: Settings, training_id: str) -> tuple[dict, dict]:
    """A training's row, and what its model file says of itself."""
    ((row,),) = rows_of(settings, f"SELECT to_jsonb(t) FROM training t WHERE training_id = '{training_id}'")
    with zipfile.ZipFile(io.BytesIO(open_bucket(settings).get(row["model_key"]))) as archive:
        return row, json.loads(archive.read("lesion.json"))


# One for each path through the engine; tests/test_model.py builds every variant.
PATHS = (
    "metadata_mlp",
    "mobilenet_v2_metadata",
    "resnet50_top_tuned",
    "rotated_copies_cnn",
    "rotated_copies_cnn_leaky",
    "unet_mobilenet_v3_eca",
    "mobilenet_v2_tuned_film",
)


@pytest.mark.parametrize("name", PATHS)
def test_a_variant_trains_and_serves_what_it_measured(small: Settings, name: str) -> None:
    from lesion_tasks.splits.manifest import read_manifest
    from lesion_tasks.training.examples import load_examples
    from lesion_tasks.training.loop import load_model
    from lesion_tasks.training.predict_examples import predict_examples

    training_id = train_variant(open_workspace(), declare(name))
    row, said = stored(small, training_id)
    assert row["status"] == "finished"
    assert said["classes"] == ["benign", "malignant"]
    assert {"versions", "code_version", "threshold", "manifest_digest"} <= set(said)
    assert said["weights"] == row["weights"]
    n_learned = rows_of(small, "SELECT count(*) FROM split_member WHERE subset IN ('train', 'val')")[0][0]
    assert said["licences"] == {
        "CC-0": {"images": n_learned, "attributions": {"Test <b>Hospital</b>": n_learned}},
    }
    recipe = VARIANTS[f"tiny_{name}"]
    assert ("second_stage" in said) is (recipe.fine_tuning is not None)
    if recipe.fine_tuning is not None:
        stage = said["second_stage"]
        assert stage["is_kept"] is (stage["val_loss"] < stage["val_loss_before"])
    ((key,),) = rows_of(small, "SELECT object_key FROM manifest")
    rows = read_manifest(open_bucket(small), key)
    with engine_for(small.database_url or "").connect() as connection:
        test = load_examples(
            connection,
            open_bucket(small),
            rows[rows["subset"] == "test"],
            classes=said["classes"],
            input_size=recipe.input_size,
            metadata_fields=recipe.metadata,
        )
    again = predict_examples(
        load_model(open_bucket(small).get(row["model_key"])), test, classes=said["classes"]
    )
    measured = dict(rows_of(small, "SELECT isic_id, probabilities FROM prediction WHERE subset = 'test'"))
    assert set(again.index) == set(measured)
    np.testing.assert_allclose(again.to_numpy(), [measured[i] for i in again.index], atol=1e-5)
    assert not list(open_bucket(small).list_keys("trainings/"))


def test_a_second_frozen_variant_computes_no_feature_and_growth_only_the_new_ones(small: Settings) -> None:
    def shards() -> list:
        return rows_of(
            small, "SELECT object_key, n_images FROM feature_shard ORDER BY created_at, object_key"
        )

    train_variant(open_workspace(), declare("mobilenet_v2_frozen"))
    first = shards()
    n_pictures = rows_of(small, "SELECT count(DISTINCT sha256) FROM pixel_row")[0][0]
    assert sum(n for _, n in first) == n_pictures
    train_variant(open_workspace(), declare("mobilenet_v2_metadata"))
    assert shards() == first
    train_variant(open_workspace(), declare("mobilenet_v2_frozen_natural", seed=2))
    assert len(shards()) == 2 * len(first)  # a random backbone of another seed is another backbone
    add_records(small, labelled_records(30, first=241))
    curate_images(open_workspace())
    materialize_natural()
    train_variant(open_workspace(), "tiny_mobilenet_v2_frozen")
    n_after = rows_of(small, "SELECT count(DISTINCT sha256) FROM pixel_row")[0][0]
    assert sum(n for _, n in shards()) == 2 * n_pictures + (n_after - n_pictures)
    assert n_after > n_pictures


def test_a_variant_whose_split_was_never_built_gets_it_before_its_training(
    small: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    name = declare("smoke", split="malignancy_balanced_5000", side_px=16)
    with pytest.raises(UnusableInputError, match="has no manifest yet"):
        train_variant(open_workspace(), name)
    asked = "SELECT split, digest, built_at FROM manifest ORDER BY split"
    (natural,) = rows_of(small, asked)
    prepare_training(open_workspace(), name)
    assert "split 'malignancy_balanced_5000' has no manifest yet: it is built now" in caplog.messages
    balanced, same = rows_of(small, asked)
    assert (same, balanced.split) == (natural, "malignancy_balanced_5000")
    assert rows_of(small, "SELECT count(*) FROM pixel_row WHERE input_size = '16-squash'")[0][0] > 0
    prepare_training(open_workspace(), name)
    assert rows_of(small, asked) == [balanced, same], "what is there was built again"


def test_a_training_is_found_and_not_run_twice_unless_forced(small: Settings) -> None:
    name = declare("metadata_mlp")
    first = train_variant(open_workspace(), name)
    assert train_variant(open_workspace(), name) == first
    again = train_variant(open_workspace(), name, again=True)
    assert again != first
    one, two = (stored(small, training_id)[0] for training_id in (first, again))
    assert one["fingerprint"] == two["fingerprint"]
    assert one["trainer_figures"] == two["trainer_figures"]


def test_a_failed_training_has_its_reason_on_its_row_and_a_retry_is_clean(small: Settings) -> None:
    name = declare("metadata_mlp", learning_rate=1e38)
    with pytest.raises(UnusableInputError, match="expected a number"):
        train_variant(open_workspace(), name)
    ((status, reason),) = rows_of(small, "SELECT status, reason FROM training")
    assert status == "failed"
    assert "a learning rate of 1e+38 may be too high" in reason
    VARIANTS[name] = replace(VARIANTS[name], learning_rate=1e-3)
    assert stored(small, train_variant(open_workspace(), name))[0]["reason"] is None


def test_weights_that_are_not_there_leave_a_row_with_the_reason(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = declare("mobilenet_v2_frozen", is_pretrained=True)
    monkeypatch.setenv("LESION_WEIGHTS", "/nowhere/weights")
    for _ in range(2):
        with pytest.raises(UnusableInputError, match="found no such file or folder"):
            train_variant(open_workspace(), name)
    ((status, reason, weights),) = rows_of(small, "SELECT status, reason, weights FROM training")
    assert (status, weights) == ("failed", None)
    assert "LESION_WEIGHTS /nowhere/weights" in reason
    monkeypatch.setenv("LESION_WEIGHTS", "none")
    assert stored(small, train_variant(open_workspace(), name))[0]["weights"] == "none"


def last_word(settings: Settings) -> tuple[str, str | None]:
    """Status and reason of the only training."""
    ((status, reason),) = rows_of(settings, "SELECT status, reason FROM training")
    return status, reason


def test_weights_of_another_shape_leave_a_row_with_the_reason(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mobilenet_v2_0.35_wrong.weights.h5"
    keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.5
    ).save_weights(file)
    monkeypatch.setenv("LESION_WEIGHTS", str(tmp_path))
    with pytest.raises(UnusableInputError, match=r"do not fit MobileNetV2 \(alpha 0.35\)"):
        train_variant(open_workspace(), declare("mobilenet_v2_frozen", is_pretrained=True))
    status, reason = last_word(small)
    assert status == "failed"
    assert reason is not None
    assert f"LESION_WEIGHTS {file}: do not fit" in reason


def test_a_disk_that_fills_leaves_a_row_with_the_reason_and_a_retry_is_clean(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = declare("metadata_mlp")

    def full(self: Path, *arguments: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(UnusableInputError, match="disk full while writing"):
            train_variant(open_workspace(), name)
    status, reason = last_word(small)
    assert status == "failed"
    assert reason is not None
    assert "disk full while writing" in reason
    train_variant(open_workspace(), name)
    assert last_word(small) == ("finished", None)


def test_memory_that_runs_out_leaves_a_row_with_the_reason_and_a_retry_is_clean(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from lesion_tasks.training import stages

    name = declare("metadata_mlp")

    def too_much(*arguments: object, **more: object) -> float:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "train_stage", too_much)
        with pytest.raises(tf.errors.ResourceExhaustedError):
            train_variant(open_workspace(), name)
    assert last_word(small) == ("failed", "ResourceExhaustedError: OOM when allocating tensor")
    train_variant(open_workspace(), name)
    assert last_word(small) == ("finished", None)


def test_a_training_that_nobody_runs_is_said_to_be_lost_and_one_that_runs_is_left_alone(
    small: Settings,
) -> None:
    name = declare("metadata_mlp")
    training_id = train_variant(open_workspace(), name)
    engine = engine_for(small.database_url or "")
    with engine.begin() as connection:
        connection.execute(text("UPDATE training SET status = 'running'"))
    ((fingerprint,),) = rows_of(small, "SELECT fingerprint FROM training")
    with hold_lock(engine, Lock.TRAINING, fingerprint):
        assert note_lost_trainings(open_workspace()) == []
        assert last_word(small)[0] == "running"
    assert note_lost_trainings(open_workspace()) == [training_id]
    status, reason = last_word(small)
    assert status == "failed"
    assert reason is not None
    assert "its process ended without notice" in reason
    assert note_lost_trainings(open_workspace()) == []
    assert train_variant(open_workspace(), name) == training_id
    assert last_word(small) == ("finished", None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"batch_size": 100_000}, "train images, expected at least one batch of 100000")],
)
def test_too_few_images_end_a_training_with_the_reason(small: Settings, changed: dict, message: str) -> None:
    with pytest.raises(UnusableInputError, match=message):
        train_variant(open_workspace(), declare("metadata_mlp", **changed))
    assert message in rows_of(small, "SELECT reason FROM training")[0][0]


def test_a_manifest_of_one_class_ends_a_training_with_the_reason(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lesion_tasks.training import train

    def benign_alone(bucket: object, key: str) -> object:
        from lesion_tasks.splits.manifest import read_manifest

        rows = read_manifest(bucket, key)  # type: ignore[arg-type]
        return rows[(rows["label"] == "benign") | (rows["subset"] != "train")]

    monkeypatch.setattr(train, "read_manifest", benign_alone)
    with pytest.raises(
        UnusableInputError, match="every train image is benign, expected at least two classes"
    ):
        train_variant(open_workspace(), declare("metadata_mlp"))
    assert "every train image is benign" in rows_of(small, "SELECT reason FROM training")[0][0]


def test_the_segmenter_learns_from_masks_where_there_are_any(small: Settings, tmp_path: Path) -> None:
    y, x = np.mgrid[:36, :48]
    disc = ((x - 24) ** 2 + (y - 18) ** 2 < 12**2).astype(np.uint8) * 255
    folder = tmp_path / "masks"
    folder.mkdir()
    for i in range(1, 241):
        Image.fromarray(disc).save(folder / f"ISIC_{i:07d}_segmentation.png")
    (folder / "ISIC_0000999_segmentation.png").write_bytes(b"no picture")
    assert import_masks(open_workspace(), str(folder)) == {"masks": 240, "unreadable": 1, "in_bucket": 240}
    _, said = stored(small, train_variant(open_workspace(), declare("deepskin_resnet50")))
    assert said["segmenter"]["learned_from"] == "masks"
    (key,) = [k for k in open_bucket(small).list_keys("segmenters/") if k.endswith(".keras")]
    train_variant(open_workspace(), declare("deepskin_vgg16"))
    assert [k for k in open_bucket(small).list_keys("segmenters/") if k.endswith(".keras")] == [key]
    open_bucket(small).put(key, open_bucket(small).get(key) + b" ")
    with pytest.raises(AlteredObjectError, match=f"segmenter {key}"):
        train_variant(open_workspace(), "tiny_deepskin_vgg16", again=True)
    open_bucket(small).put("masks/ISIC_0000001", b"another")
    with engine_for(small.database_url or "").begin() as connection:
        connection.execute(text("DELETE FROM segmenter"))
    with pytest.raises(AlteredObjectError, match="mask masks/ISIC_0000001"):
        train_variant(open_workspace(), "tiny_deepskin_vgg16", again=True)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_the_champion_scores_a_picture_from_the_bucket_alone_in_the_shape_it_learned(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aspect: str
) -> None:
    name = declare("smoke", aspect=aspect)
    prepare_training(open_workspace(), name)
    training_id = train_variant(open_workspace(), name)
    isic_id = sorted(dict(rows_of(small, "SELECT isic_id, subset FROM prediction WHERE subset = 'test'")))[0]
    picture = tmp_path / "picture.png"
    (key,) = dict(
        rows_of(small, "SELECT object_key, isic_id FROM stored_file WHERE isic_id = '" + isic_id + "'")
    )
    picture.write_bytes(open_bucket(small).get(key))
    with pytest.raises(UnusableInputError, match="no champion of task 'malignancy'"):
        predict_images(open_workspace(), [str(picture)])
    with pytest.raises(UnusableInputError, match="training 'none': no such training"):
        predict_images(open_workspace(), [str(picture)], training_id="none")
    (by_name,) = predict_images(open_workspace(), [str(picture)], training_id=training_id)
    # Whether it deserves it is not asked here.
    with engine_for(small.database_url or "").begin() as connection:
        connection.execute(
            text("""
                INSERT INTO promotion (task, sequence, action, training_id, reason, figures, decided_by)
                VALUES ('malignancy', 1, 'promoted', :id, 'test', '{}', 'test')
            """),
            {"id": training_id},
        )
    publish(open_workspace())
    measured = dict(rows_of(small, "SELECT isic_id, probabilities FROM prediction WHERE subset = 'test'"))
    threshold = stored(small, training_id)[0]["threshold"]
    monkeypatch.setenv("LESION_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    (said,) = predict_images(open_workspace(), [str(picture)])
    assert list((said.probabilities or {}).values()) == pytest.approx(measured[isic_id], abs=1e-6)
    assert (said.threshold, said.model) == (threshold, training_id)
    assert said == by_name
    with pytest.raises(UnusableInputError, match="expected a picture file"):
        predict_images(open_workspace(), [str(tmp_path / "none.png")])


def test_a_training_that_ended_before_its_first_epoch_begins_anew(small: Settings) -> None:
    workspace = open_workspace()
    row = find_run_spec(workspace, find_variant(declare("metadata_mlp"))).row

    def began_again() -> int:
        with workspace.engine.begin() as connection:
            connection.execute(text("UPDATE training SET status = 'failed', started_at = '2020-01-01'"))
        assert begin(workspace.engine, row) == (training_id, False)
        ((year,),) = rows_of(small, "SELECT extract(year FROM started_at)::int FROM training")
        return int(year)

    training_id, _ = begin(workspace.engine, row)
    assert began_again() > 2020, "the time that it lay still is none of its own"
    record_epoch(workspace.engine, training_id, 1, {"loss": 1.0}, 2.0)
    assert began_again() == 2020
