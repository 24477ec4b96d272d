"""Lineage: what a step read and wrote, as addresses, and that Airflow's collector receives them."""

from types import SimpleNamespace

import pytest
from test_promotion import first_candidate

from lesion_tasks.settings import Settings
from lesion_tasks.splits.manifest import manifest_in_force
from lesion_tasks.upkeep.lineage import of_evaluation, of_manifest, of_training
from lesion_tasks.workspace import open_workspace


def test_a_training_and_its_evaluation_name_objects_that_exist(settings: Settings) -> None:
    training_id = first_candidate(settings)
    workspace = open_workspace()
    digest, _ = manifest_in_force(workspace.engine, "malignancy_natural")
    manifest = of_manifest(workspace, digest)
    training = of_training(workspace, training_id)
    with workspace.engine.connect() as connection:
        (evaluation_id,) = connection.exec_driver_sql("SELECT evaluation_id FROM evaluation").one()
    evaluation = of_evaluation(workspace, evaluation_id)
    assert training.inputs == manifest.outputs
    assert evaluation.inputs == training.inputs + training.outputs
    base = f"file://{settings.bucket_url}/"
    for uri in (*evaluation.inputs, *evaluation.outputs):
        assert uri.startswith(base)
        assert workspace.bucket.exists(uri.removeprefix(base))


def test_the_collector_of_airflow_receives_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk import lineage as collecting

    import lesion_airflow
    from lesion_tasks.upkeep.lineage import Lineage

    collector = collecting.HookLineageCollector()
    monkeypatch.setattr(collecting, "get_hook_lineage_collector", lambda: collector)
    monkeypatch.setattr(lesion_airflow, "get_current_context", lambda: {"ti": SimpleNamespace()})
    lesion_airflow.note_lineage(Lineage(inputs=("s3://lesion/data/a",), outputs=("s3://lesion/data/b",)))
    found = collector.collected_assets
    assert [one.asset.uri for one in found.inputs] == ["s3://lesion/data/a"]
    assert [one.asset.uri for one in found.outputs] == ["s3://lesion/data/b"]
