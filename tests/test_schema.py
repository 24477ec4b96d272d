"""The tables: what the migrations make is what the models say, and what must not be stored cannot be."""

import pytest
from alembic import command
from alembic.config import Config
from catalogue import NOW, add_records, archive_record, labelled_records
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import MIGRATIONS, engine_for
from lesion_tasks.database.schema import Base
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace


def test_models_and_migrations_agree(database_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine_for(database_url)
    command.check(config)


def test_every_column_says_what_it_holds() -> None:
    silent = [f"{t.name}.{c.name}" for t in Base.metadata.sorted_tables for c in t.columns if not c.comment]
    assert silent == []


def refused(settings: Settings, statement: str) -> str:
    """Run a statement that the database must refuse; returns the name of the rule."""
    with (
        pytest.raises(IntegrityError) as caught,
        engine_for(settings.database_url or "").begin() as connection,
    ):
        connection.execute(text(statement))
    return str(caught.value.orig)


def test_a_group_cannot_stand_in_two_subsets_of_a_split(settings: Settings) -> None:
    add_records(settings, labelled_records(2))
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(text("INSERT INTO group_subset VALUES ('s', 'g', 'train')"))
    assert "pk_group_subset" in refused(settings, "INSERT INTO group_subset VALUES ('s', 'g', 'test')")
    assert "fk_split_member" in refused(
        settings,
        "INSERT INTO split_member (split, isic_id, group_id, subset, label) "
        "VALUES ('s', 'ISIC_0000001', 'g', 'test', 'benign')",
    )


def test_a_member_without_a_group_or_of_a_group_without_a_subset_is_not_stored(settings: Settings) -> None:
    add_records(settings, labelled_records(1))
    insert = (
        "INSERT INTO split_member (split, isic_id, group_id, subset, label) VALUES ('s', 'ISIC_0000001', "
    )
    assert "member_has_group" in refused(settings, f"{insert} NULL, 'train', 'benign')")
    assert "fk_split_member" in refused(settings, f"{insert} 'g', 'train', 'benign')")
    assert "in_or_out" in refused(settings, f"{insert} 'g', NULL, 'benign')")


def test_a_group_with_members_cannot_change_its_subset(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    change = "UPDATE group_subset SET subset = CASE subset WHEN 'test' THEN 'train' ELSE 'test' END"
    assert "fk_split_member" in refused(settings, change)
    assert "fk_split_member" in refused(
        settings, "UPDATE split_member SET subset = 'train' WHERE subset = 'test'"
    )


def test_a_lesion_cannot_have_two_patients(settings: Settings) -> None:
    records = [
        archive_record(f"ISIC_{i:07d}", lesion_id="IL_0000001", patient_id="IP_0000001") for i in (1, 2)
    ]
    add_records(settings, records)
    curate_images(open_workspace())
    assert "fk_image_lesion_id_patient_key" in refused(
        settings, "UPDATE image SET patient_id = 'IP_0000002' WHERE isic_id = 'ISIC_0000002'"
    )
    assert "fk_image_lesion_id_patient_key" in refused(
        settings, "UPDATE lesion SET patient_key = 'IP_0000002'"
    )
    assert "pk_lesion" in refused(settings, "INSERT INTO lesion VALUES ('IL_0000001', 'IP_0000002', false)")


def test_a_prediction_is_stored_once_for_an_image(settings: Settings) -> None:
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(
            text("""
                INSERT INTO manifest VALUES ('d', 's', 'malignancy', '{}', 'k', 1, '{}', '[]', now(), now());
                INSERT INTO training (training_id, variant, task, fingerprint, recipe, manifest_digest, seed,
                    code_version, versions, status, classes, started_at)
                VALUES ('t', 'smoke', 'malignancy', 'f', '{}', 'd', 1, 'c', '{}', 'running', '{a,b}', now());
                INSERT INTO prediction VALUES ('t', 'd', 'test', 'ISIC_0000001', '{0.5,0.5}')
            """)
        )
    assert "pk_prediction" in refused(
        settings, "INSERT INTO prediction VALUES ('t', 'd', 'test', 'ISIC_0000001', '{0.1,0.9}')"
    )
    assert "finished_has_model" in refused(settings, "UPDATE training SET status = 'finished'")


def test_an_id_of_another_form_is_not_stored(settings: Settings) -> None:
    assert "isic_id_form" in refused(
        settings,
        f"INSERT INTO record (isic_id, version, first_seen_at, last_seen_at, changed_at) "  # noqa: S608
        f"VALUES ('../../etc/passwd', 1, '{NOW}', '{NOW}', '{NOW}')",
    )
