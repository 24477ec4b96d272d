"""A fault planted in the running pipeline ends in its verdict, by name, and in no promotion."""

import hashlib
import io
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from catalogue import add_records, administer, draw, labelled_records, rows_of
from PIL import Image as Pillow
from sqlalchemy import make_url, text

from lesion_tasks.bucket import AlteredObjectError, open_bucket
from lesion_tasks.catalog import VARIANTS, InputSize
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.promotion.promote import promote_model
from lesion_tasks.settings import Settings, read_settings
from lesion_tasks.splits.manifest import as_table, object_key, read_manifest, write_manifest
from lesion_tasks.splits.split import build_split
from lesion_tasks.training import examples as dataset
from lesion_tasks.training.loop import load_model, model_bytes
from lesion_tasks.training.predictions import read_predictions, store_predictions
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace

BALANCED = "malignancy_balanced_5000"
CLASSES = ("benign", "malignant")


@dataclass(frozen=True)
class Trained:
    """A catalogue with one honest training of `smoke`, to be copied for each fault."""

    database: str
    home: Path
    training_id: str


def point_at(environment: pytest.MonkeyPatch, server_url: str, database: str, home: Path) -> Settings:
    url = make_url(server_url).set(database=database).render_as_string(hide_password=False)
    environment.setenv("LESION_HOME", str(home))
    environment.setenv("LESION_DATABASE_URL", url)
    environment.setenv("LESION_BUCKET_URL", str(home / "bucket"))
    return read_settings()


def create_database(server_url: str, template: str) -> str:
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return name


@pytest.fixture(scope="module")
def trained(
    postgres_url: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    home = tmp_path_factory.mktemp("trained")
    # Taught little, so that it is not sure of everything and a fault has something to change.
    own = VARIANTS["smoke"]
    VARIANTS["smoke"] = replace(own, max_epochs=6, learning_rate=1e-3)
    name = create_database(postgres_url, migrated_template)
    with pytest.MonkeyPatch.context() as environment:
        settings = point_at(environment, postgres_url, name, home)
        add_records(settings, labelled_records(300))
        curate_images(open_workspace())
        build_split(open_workspace(), "malignancy_natural")
        materialize_manifest(open_workspace(), build_split(open_workspace(), BALANCED), InputSize(32))
        training_id = train_variant(open_workspace(), "smoke")
        # A database that is copied may have no connection.
        engine_for(settings.database_url or "").dispose()
        engine_for.cache_clear()
    yield Trained(name, home, training_id)
    VARIANTS["smoke"] = own


@pytest.fixture
def faulty(
    trained: Trained, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A copy of the trained catalogue, to plant a fault in."""
    home = tmp_path / "home"
    shutil.copytree(trained.home, home)
    settings = point_at(monkeypatch, postgres_url, create_database(postgres_url, trained.database), home)
    yield settings
    engine_for(settings.database_url or "").dispose()
    engine_for.cache_clear()


def failed_checks(settings: Settings, training_id: str) -> list[str]:
    """Evaluate, ask for promotion in spite of every gate, and return the names that refused it."""
    evaluate_training(open_workspace(), training_id)
    assert not promote_model(open_workspace(), task="malignancy", is_forced=True).is_promoted
    ((failed, verdict, checks),) = rows_of(
        settings, "SELECT failed_checks, verdict, document -> 'integrity' FROM evaluation"
    )
    ((reason,),) = rows_of(settings, "SELECT reason FROM promotion WHERE action = 'refused'")
    assert verdict.startswith("Not to be trusted: ")
    assert all(one["sentence"] in reason for one in checks if one["name"] in failed)
    assert not json.loads(open_bucket(settings).get("champion.json"))
    return list(failed)


def test_without_a_fault_the_same_training_is_promoted(faulty: Settings, trained: Trained) -> None:
    evaluate_training(open_workspace(), trained.training_id)
    assert promote_model(open_workspace(), task="malignancy").is_promoted


def test_predictions_of_a_shuffled_loader_are_not_shown_to_depend_on_the_labels(
    faulty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = dataset.PixelSource.take

    def shuffled(self: dataset.PixelSource, rows: np.ndarray) -> np.ndarray:
        return honest(
            self, np.random.default_rng(int(rows.sum())).permutation(len(self.row_in_shard))[: len(rows)]
        )

    with monkeypatch.context() as planted:
        planted.setattr(dataset.PixelSource, "take", shuffled)
        training_id = train_variant(open_workspace(), "smoke", again=True)
    assert "serving_differs" in failed_checks(faulty, training_id)
    ((document,),) = rows_of(faulty, "SELECT document FROM evaluation")
    status = {one["name"]: one["status"] for one in document["integrity"]}
    # Of some twenty lesions, a worthwhile model could look like this too.
    assert status["independent_of_labels"] == "too_few"
    assert "independent_of_labels" in document["undecided_checks"]


def plant_predictions(
    settings: Settings, training_id: str, subset: str, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    """Store other predictions of a subset under a training's name, sealed as a trainer would that got them wrong."""
    ((digest,),) = rows_of(settings, "SELECT manifest_digest FROM training")
    with engine_for(settings.database_url or "").begin() as connection:
        stored = read_predictions(connection, training_id, digest, subset, CLASSES)
        store_predictions(connection, training_id, digest, subset, change(stored))


def labels_of(settings: Settings) -> pd.Series:
    """The label of every row of the training's manifest, by image id."""
    ((digest,),) = rows_of(settings, "SELECT manifest_digest FROM training")
    rows = read_manifest(open_bucket(settings), object_key(BALANCED, digest))
    return rows.set_index("isic_id")["label"]


def test_a_swapped_class_index_is_inverted(faulty: Settings, trained: Trained) -> None:
    for subset in ("val", "test"):
        plant_predictions(faulty, trained.training_id, subset, lambda frame: 1 - frame)
    failed = failed_checks(faulty, trained.training_id)
    assert {"inverted", "inverted_on_val"} <= set(failed)


def test_val_predictions_that_are_the_labels_are_found_out(faulty: Settings, trained: Trained) -> None:
    labels = labels_of(faulty)

    def cheated(frame: pd.DataFrame) -> pd.DataFrame:
        is_malignant = (labels[frame.index] == "malignant").to_numpy(float)
        return pd.DataFrame({"benign": 1 - is_malignant, "malignant": is_malignant}, index=frame.index)

    plant_predictions(faulty, trained.training_id, "val", cheated)
    assert {"serving_differs_on_val", "threshold_differs"} <= set(failed_checks(faulty, trained.training_id))


def test_val_predictions_paired_with_other_rows_are_found_out(faulty: Settings, trained: Trained) -> None:
    def shifted(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(np.roll(frame.to_numpy(), 7, axis=0), index=frame.index, columns=frame.columns)

    plant_predictions(faulty, trained.training_id, "val", shifted)
    failed = failed_checks(faulty, trained.training_id)
    assert {"independent_of_labels_on_val", "serving_differs_on_val"} <= set(failed)


@pytest.mark.parametrize(("subset", "name"), [("val", "ids_differ_on_val"), ("test", "ids_differ")])
def test_a_row_without_a_prediction_is_a_verdict(
    faulty: Settings, trained: Trained, subset: str, name: str
) -> None:
    plant_predictions(faulty, trained.training_id, subset, lambda frame: frame.iloc[1:])
    assert failed_checks(faulty, trained.training_id) == [name]


def test_a_threshold_that_val_does_not_give_differs(faulty: Settings, trained: Trained) -> None:
    with engine_for(faulty.database_url or "").begin() as connection:
        connection.execute(text("UPDATE training SET threshold = threshold * 0.9"))
    assert failed_checks(faulty, trained.training_id) == ["threshold_differs"]


def test_a_test_set_of_rows_that_the_training_learned_from_leaks_on_any_manifest(
    faulty: Settings, trained: Trained
) -> None:
    """After another draw of the subsets, train images of the champion stand in test."""
    ((own,),) = rows_of(faulty, "SELECT manifest_digest FROM training")
    moved = {"train": "test", "test": "train"}
    drawn = copy_manifest(faulty, lambda rows: rows.assign(subset=rows["subset"].replace(moved)))
    evaluate_training(open_workspace(), trained.training_id, manifest_digest=drawn)
    n_train = int((read_manifest(open_bucket(faulty), object_key(BALANCED, own))["subset"] == "train").sum())
    ((failed, verdict),) = rows_of(faulty, "SELECT failed_checks, verdict FROM evaluation")
    assert failed == ["leaks"]
    assert f"its own train and test share {n_train} images" in verdict
    assert f"{n_train} identical files" in verdict


def test_labels_that_the_archive_gives_otherwise_today_are_a_caution(
    faulty: Settings, trained: Trained
) -> None:
    ((digest,),) = rows_of(faulty, "SELECT manifest_digest FROM training")
    rows = read_manifest(open_bucket(faulty), object_key(BALANCED, digest))
    test = rows[(rows["subset"] == "test") & (rows["label"] == "benign")]["isic_id"].tolist()[:2]
    with engine_for(faulty.database_url or "").begin() as connection:
        connection.execute(
            text("UPDATE image SET diagnosis = ARRAY['Malignant'] WHERE isic_id = ANY(:ids)"), {"ids": test}
        )
    evaluate_training(open_workspace(), trained.training_id)
    ((document,),) = rows_of(faulty, "SELECT document FROM evaluation")
    (found,) = [one for one in document["integrity"] if one["name"] == "labels_changed"]
    assert found["status"] == "caution"
    assert found["sentence"].startswith("2 of ")
    assert f"{test[0]} from benign to malignant" in found["sentence"]
    assert document["is_sound"]


def replace_model(settings: Settings, training_id: str, change: Callable[[keras.Model], keras.Model]) -> None:
    """Store another model under a training's name, as a wrong export would."""
    bucket = open_bucket(settings)
    ((key,),) = rows_of(settings, f"SELECT model_key FROM training WHERE training_id = '{training_id}'")
    data = model_bytes(change(load_model(bucket.get(key))))
    bucket.put(key, data)
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(
            text("UPDATE training SET model_sha256 = :digest WHERE training_id = :id"),
            {"digest": hashlib.sha256(data).hexdigest(), "id": training_id},
        )


def test_pixels_scaled_twice_serve_differently(faulty: Settings, trained: Trained) -> None:
    def scaled_twice(model: keras.Model) -> keras.Model:
        pixels = keras.Input((32, 32, 3), name="pixels")
        return keras.Model({"pixels": pixels}, model({"pixels": keras.layers.Rescaling(1 / 255)(pixels)}))

    replace_model(faulty, trained.training_id, scaled_twice)
    assert "serving_differs" in failed_checks(faulty, trained.training_id)


def test_batch_norm_in_training_mode_serves_differently(faulty: Settings, trained: Trained) -> None:
    """What the trainer stored came from the statistics of each batch, what is served from the running ones."""

    def normalized(model: keras.Model) -> keras.Model:
        pixels = keras.Input((32, 32, 3), name="pixels")
        x = keras.layers.BatchNormalization()(pixels)
        return keras.Model({"pixels": pixels}, model({"pixels": x * 40.0 + 120.0}))

    replace_model(faulty, trained.training_id, normalized)
    bucket = open_bucket(faulty)
    ((key, digest),) = rows_of(faulty, "SELECT model_key, manifest_digest FROM training")
    model = load_model(bucket.get(key))
    rows = read_manifest(bucket, object_key(BALANCED, digest))
    engine = engine_for(faulty.database_url or "")
    for subset in ("val", "test"):
        part = rows[rows["subset"] == subset]
        with engine.connect() as connection:
            examples = dataset.load_examples(
                connection,
                bucket,
                part,
                classes=("benign", "malignant"),
                input_size=InputSize(32),
                metadata_fields=(),
            )
        batch = examples.inputs(np.arange(len(examples)))["pixels"].astype("float32")
        p = np.asarray(model({"pixels": batch}, training=True))[:, 0]
        frame = pd.DataFrame({"benign": 1 - p, "malignant": p}, index=examples.isic_ids)
        with engine.begin() as connection:
            store_predictions(connection, trained.training_id, digest, subset, frame)
    assert "serving_differs" in failed_checks(faulty, trained.training_id)


def test_pictures_exchanged_in_the_bucket_are_refused_before_they_are_decoded(faulty: Settings) -> None:
    workspace = open_workspace()
    one, other = rows_of(faulty, "SELECT object_key FROM stored_file ORDER BY object_key LIMIT 2")
    first, second = (workspace.bucket.get(file.object_key) for file in (one, other))
    workspace.bucket.put(one.object_key, second)
    workspace.bucket.put(other.object_key, first)
    ((digest,),) = rows_of(faulty, "SELECT manifest_digest FROM training")
    with pytest.raises(
        AlteredObjectError, match=f"picture ({one.object_key}|{other.object_key}).*changed after"
    ):
        materialize_manifest(workspace, digest, InputSize(16))


def test_exchanged_rows_of_a_shard_are_not_the_pixels_of_their_pictures(
    faulty: Settings, trained: Trained
) -> None:
    """Every digest is right; only the index says where another picture lies."""
    with engine_for(faulty.database_url or "").begin() as connection:
        connection.execute(
            text("""
                WITH numbered AS (
                    SELECT sha256, row_index, row_number() OVER (ORDER BY sha256) AS n,
                           row_number() OVER (ORDER BY md5(sha256)) AS other FROM pixel_row
                )
                UPDATE pixel_row p SET row_index = b.row_index
                FROM numbered a JOIN numbered b ON a.n = b.other WHERE p.sha256 = a.sha256
            """)
        )
    training_id = train_variant(open_workspace(), "smoke", again=True)
    assert {"pixels_differ", "pixels_differ_on_val"} <= set(failed_checks(faulty, training_id))


def test_an_edited_shard_is_neither_trained_on_nor_evaluated(faulty: Settings, trained: Trained) -> None:
    bucket = open_bucket(faulty)
    ((key,),) = rows_of(faulty, "SELECT object_key FROM pixel_shard")
    data = bytearray(bucket.get(key))
    data[-1] ^= 1
    bucket.put(key, bytes(data))
    with pytest.raises(AlteredObjectError, match=f"shard {key}"):
        train_variant(open_workspace(), "smoke", again=True)
    with pytest.raises(AlteredObjectError, match=f"shard {key}"):
        evaluate_training(open_workspace(), trained.training_id)


def test_predictions_changed_after_they_were_stored_fail_their_evaluation(
    faulty: Settings, trained: Trained
) -> None:
    with engine_for(faulty.database_url or "").begin() as connection:
        connection.execute(
            text("""
                UPDATE prediction SET probabilities = '{0.4999, 0.5001}' WHERE subset = 'val'
                    AND isic_id = (SELECT min(isic_id) FROM prediction WHERE subset = 'val')
            """)
        )
    evaluate_training(open_workspace(), trained.training_id)
    ((failed,),) = rows_of(faulty, "SELECT failed_checks FROM evaluation")
    assert "predictions_altered" in failed
    assert not promote_model(open_workspace(), task="malignancy", is_forced=True).is_promoted


def copy_manifest(settings: Settings, change: Callable[[pd.DataFrame], pd.DataFrame]) -> str:
    """Write a changed copy of the training's manifest, and return its digest."""
    bucket = open_bucket(settings)
    ((digest, recipe),) = rows_of(
        settings, "SELECT digest, m.recipe FROM manifest m JOIN training ON manifest_digest = digest"
    )
    rows = change(read_manifest(bucket, object_key(BALANCED, digest)))
    planted = write_manifest(bucket, BALANCED, recipe, as_table(rows))
    counts = {subset: part["label"].value_counts().to_dict() for subset, part in rows.groupby("subset")}
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(
            text("""
                INSERT INTO manifest SELECT (jsonb_populate_record(m, jsonb_build_object(
                    'digest', CAST(:planted AS text), 'object_key', CAST(:key AS text),
                    'class_counts', m.class_counts || CAST(:counts AS jsonb)))).* FROM manifest m
                WHERE m.digest = :digest
            """),
            {
                "planted": planted,
                "key": object_key(BALANCED, planted),
                "digest": digest,
                "counts": json.dumps(counts),
            },
        )
    return planted


def plant_in_manifest(settings: Settings, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Give the training a manifest that no split of ours would write."""
    ((digest, training_id),) = rows_of(settings, "SELECT manifest_digest, training_id FROM training")
    planted = copy_manifest(settings, change)
    with engine_for(settings.database_url or "").begin() as connection:
        for subset in ("val", "test"):
            stored = read_predictions(connection, training_id, digest, subset, CLASSES)
            store_predictions(connection, training_id, planted, subset, stored)
        connection.execute(text("UPDATE training SET manifest_digest = :planted"), {"planted": planted})


@pytest.mark.parametrize(
    ("column", "value"), [("patient_id", "IP_0000001"), ("lesion_id", "IL_9999999"), ("sha256", None)]
)
def test_the_same_patient_lesion_or_file_on_two_sides_leaks(
    faulty: Settings, trained: Trained, column: str, value: str | None
) -> None:
    def on_both_sides(rows: pd.DataFrame) -> pd.DataFrame:
        train, test = (rows.index[rows["subset"] == subset][0] for subset in ("train", "test"))
        values = rows[column].tolist()
        values[train] = values[test] = values[test] if value is None else value
        return rows.assign(**{column: values})

    plant_in_manifest(faulty, on_both_sides)
    assert failed_checks(faulty, trained.training_id) == ["leaks"]


def test_metadata_shifted_by_one_row_serves_differently(
    faulty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = dataset.metadata_matrix
    with monkeypatch.context() as planted:
        planted.setattr(
            dataset, "metadata_matrix", lambda rows, fields: np.roll(honest(rows, fields), 1, axis=0)
        )
        training_id = train_variant(open_workspace(), "metadata_logistic")
    assert "serving_differs" in failed_checks(faulty, training_id)


def test_a_model_that_knows_no_more_than_the_file_size_takes_a_shortcut(
    settings: Settings,
) -> None:
    records = labelled_records(300)
    # Malignant pictures are saved with another quality, so their length alone tells the classes apart.
    pictures = {}
    for record in records:
        is_malignant = record["metadata"]["clinical"]["diagnosis_1"] == "Malignant"
        data = draw(int(record["isic_id"][5:]), is_malignant=is_malignant)
        pictures[record["isic_id"]] = data + bytes(500 * is_malignant)
    add_records(settings, records, picture_by_id=pictures)
    curate_images(open_workspace())
    materialize_manifest(open_workspace(), build_split(open_workspace(), BALANCED), InputSize(32))
    assert "shortcut" in failed_checks(settings, train_variant(open_workspace(), "smoke"))


def trained_on(
    settings: Settings, changed: Callable[[np.ndarray, int, bool], np.ndarray], variant: str = "smoke"
) -> str:
    """Train on 300 pictures without a lesion to tell the classes by, each changed by id and label."""
    records, pictures = labelled_records(300), {}
    for record in records:
        number = int(record["isic_id"][5:])
        is_malignant = record["metadata"]["clinical"]["diagnosis_1"] == "Malignant"
        with Pillow.open(io.BytesIO(draw(number, is_malignant=False))) as picture:
            pixels = np.asarray(picture).copy()
        buffer = io.BytesIO()
        Pillow.fromarray(changed(pixels, number, is_malignant)).save(buffer, "PNG")
        pictures[record["isic_id"]] = buffer.getvalue().ljust(48 * 48 * 3)
    add_records(settings, records, picture_by_id=pictures)
    curate_images(open_workspace())
    materialize_manifest(open_workspace(), build_split(open_workspace(), BALANCED), InputSize(32))
    return train_variant(open_workspace(), variant)


def test_a_ruler_at_the_edge_of_malignant_pictures_is_a_shortcut(settings: Settings) -> None:
    def with_ruler(pixels: np.ndarray, number: int, is_malignant: bool) -> np.ndarray:
        if is_malignant:
            pixels[-5:] = 250
        return pixels

    training_id = trained_on(settings, with_ruler)
    assert failed_checks(settings, training_id) == ["shortcut"]
    ((verdict,),) = rows_of(settings, "SELECT verdict FROM evaluation")
    assert "picture_frame" in verdict


def test_stored_predictions_are_those_of_the_trainer(trained: Trained, faulty: Settings) -> None:
    """What the other tests change is really there: one row for each image of val and test."""
    ((digest,),) = rows_of(faulty, "SELECT manifest_digest FROM training")
    rows = read_manifest(open_bucket(faulty), object_key(BALANCED, digest))
    with engine_for(faulty.database_url or "").connect() as connection:
        for subset in ("val", "test"):
            stored = read_predictions(
                connection, trained.training_id, digest, subset, ("benign", "malignant")
            )
            assert set(stored.index) == set(rows.loc[rows["subset"] == subset, "isic_id"])
            assert np.allclose(stored.sum(axis=1), 1)
