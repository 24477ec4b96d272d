"""A fault planted in the running pipeline ends in its verdict, by name, and in no promotion."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from catalogue import add_records, draw, labelled_records, rows_of
from sqlalchemy import make_url, text

from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import InputSize
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
    from conftest import _administer

    name = f"test_{uuid.uuid4().hex[:12]}"
    _administer(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return name


@pytest.fixture(scope="module")
def trained(
    postgres_url: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    home = tmp_path_factory.mktemp("trained")
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
    ((failed, verdict),) = rows_of(settings, "SELECT failed_checks, verdict FROM evaluation")
    ((reason,),) = rows_of(settings, "SELECT reason FROM promotion WHERE action = 'refused'")
    assert verdict.startswith(f"Not to be trusted ({failed[0]})")
    assert all(name in reason for name in failed)
    assert not json.loads(open_bucket(settings).get("champion.json"))
    return list(failed)


def test_without_a_fault_the_same_training_is_promoted(faulty: Settings, trained: Trained) -> None:
    evaluate_training(open_workspace(), trained.training_id)
    assert promote_model(open_workspace(), task="malignancy").is_promoted


def test_a_shuffled_loader_is_independent_of_labels(
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
    assert "independent_of_labels" in failed_checks(faulty, training_id)


def test_a_swapped_class_index_is_inverted(faulty: Settings, trained: Trained) -> None:
    with engine_for(faulty.database_url or "").begin() as connection:
        connection.execute(
            text("UPDATE prediction SET probabilities = ARRAY[probabilities[2], probabilities[1]]")
        )
    assert "inverted" in failed_checks(faulty, trained.training_id)


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


def plant_in_manifest(settings: Settings, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Give the training a manifest that no split of ours would write."""
    bucket = open_bucket(settings)
    ((digest, recipe),) = rows_of(
        settings, "SELECT digest, m.recipe FROM manifest m JOIN training ON manifest_digest = digest"
    )
    rows = change(read_manifest(bucket, object_key(BALANCED, digest)))
    planted = write_manifest(bucket, BALANCED, recipe, as_table(rows))
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(
            text("""
                INSERT INTO manifest SELECT (jsonb_populate_record(m, jsonb_build_object(
                    'digest', CAST(:planted AS text), 'object_key', CAST(:key AS text)))).* FROM manifest m
                WHERE m.digest = :digest
            """),
            {"planted": planted, "key": object_key(BALANCED, planted), "digest": digest},
        )
        for table in ("training", "prediction"):
            connection.execute(
                text(f"UPDATE {table} SET manifest_digest = :planted WHERE manifest_digest = :digest"),
                {"planted": planted, "digest": digest},
            )


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
