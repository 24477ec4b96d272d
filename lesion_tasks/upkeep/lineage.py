"""What a step made -> the addresses of what it read and wrote, for a service of data lineage."""

import json
from dataclasses import dataclass

from lesion_tasks.evaluation.evaluation_record import find_by_id
from lesion_tasks.splits.manifest import find_manifest
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Addresses of objects in the bucket, such as s3://lesion/data/models/<id>.keras."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def of_manifest(workspace: Workspace, digest: str) -> Lineage:
    """A manifest that was written, from rows of the database."""
    with workspace.engine.connect() as connection:
        return Lineage(outputs=_addresses(workspace, find_manifest(connection, digest).object_key))


def of_training(workspace: Workspace, training_id: str) -> Lineage:
    """A model and the manifest that it learned from; of an ensemble also the models that it averages."""
    with workspace.engine.connect() as connection:
        training = find_finished(connection, training_id)
        manifest = find_manifest(connection, training.manifest_digest)
    averaged = []
    if training.recipe.get("members"):
        said = json.loads(workspace.bucket.get(f"models/{training_id}/manifest.json"))
        averaged = [member["model_key"] for member in said["members"]]
    return Lineage(
        inputs=_addresses(workspace, manifest.object_key, *averaged),
        outputs=_addresses(workspace, training.model_key),
    )


def of_evaluation(workspace: Workspace, evaluation_id: str) -> Lineage:
    """A report, and the model and manifest that it is about."""
    with workspace.engine.connect() as connection:
        evaluation = find_by_id(connection, evaluation_id)
        training = find_finished(connection, evaluation.training_id)
        manifest = find_manifest(connection, evaluation.manifest_digest)
    return Lineage(
        inputs=_addresses(workspace, manifest.object_key, training.model_key),
        outputs=_addresses(workspace, evaluation.report_key),
    )


def _addresses(workspace: Workspace, *keys: str | None) -> tuple[str, ...]:
    url = workspace.settings.bucket_url.rstrip("/")
    base = url if "://" in url else f"file://{url}"
    return tuple(f"{base}/{key}" for key in keys if key)
