"""A candidate, the champion and the cohorts of their task -> how they differ on other people's data, pair by pair."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, text

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import TASKS, Cohort, cohorts_of
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.other_data import usable_rows
from lesion_tasks.splits.manifest import find_manifest, read_manifest
from lesion_tasks.training.predictions import (
    AlteredPredictionsError,
    join_to_manifest,
    read_sealed_predictions,
)

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.compare import Difference
    from lesion_tasks.metrics.scored import Scored


def unjudged_cohorts(connection: Connection, task: str, document: Mapping[str, Any]) -> list[str]:
    """The cohorts of a task of which an evaluation's document says nothing, or what was true before they grew."""
    other = document.get("other_data") or {"cohorts": []}
    said = {one["name"]: one["manifest_digest"] for one in other["cohorts"]}
    return [
        cohort.name
        for cohort in cohorts_of(task)
        if cohort.name not in said
        or _has_changed(connection, cohort, task, said[cohort.name], document["evaluated_at"])
    ]


def _has_changed(
    connection: Connection, cohort: Cohort, task: str, said: str | None, evaluated_at: str
) -> bool:
    """Whether the manifest in force is not the one that was judged; with none, whether one was built since."""
    found = _manifest_in_force(connection, cohort, task)
    if found is None:
        return said is not None
    if said is None:
        return bool(found.built_at > datetime.fromisoformat(evaluated_at))
    return bool(found.digest != said)


def _manifest_in_force(connection: Connection, cohort: Cohort, task: str) -> Row[Any] | None:
    statement = text(
        "SELECT digest, built_at FROM manifest WHERE split = :split ORDER BY built_at DESC LIMIT 1"
    )
    return connection.execute(statement, {"split": cohort.split_name(task)}).one_or_none()


def compare_on_cohorts(
    connection: Connection, bucket: Bucket, candidate: Training, champion: Training
) -> list[dict[str, Any]]:
    """Candidate minus champion on each cohort of the task, on images that neither already has.

    Each entry has cohort, n_images, n_left_out, reason (None where there is a difference) and difference: that of the
    leading measure, as `PublishedDifference`.
    """
    found = []
    for cohort in cohorts_of(candidate.task):
        manifest = _manifest_in_force(connection, cohort, candidate.task)
        if manifest is not None:
            told = _compare_on(connection, bucket, (candidate, champion), manifest.digest)
            found.append({"cohort": cohort.name, **told})
    return found


def _compare_on(
    connection: Connection, bucket: Bucket, models: Sequence[Training], digest: str
) -> dict[str, Any]:
    from lesion_tasks.metrics.compare import auc_difference
    from lesion_tasks.metrics.integrity import few_groups

    rows = read_manifest(bucket, find_manifest(connection, digest).object_key)
    kept = _usable_by_all(connection, bucket, models, rows)
    told: dict[str, Any] = {
        "n_images": len(kept),
        "n_left_out": len(rows) - len(kept),
        "reason": None,
        "difference": None,
    }
    if not len(kept):
        return told | {"reason": "no image can be judged by both"}
    scored = []
    for model in models:
        try:
            one = _scored(connection, model, digest, kept)
        except AlteredPredictionsError as error:
            return told | {"reason": str(error)}
        if one is None:
            return told | {"reason": f"{model.training_id} has not been judged on it as it is by now"}
        scored.append(one)
    if (verdict := few_groups(scored[0])).blocks:
        return told | {"reason": verdict.sentence.rstrip(".")}
    difference: Difference | None = auc_difference(scored[0], scored[1])
    if difference is None:
        return told | {"reason": "a class has no image"}
    return told | {"difference": difference.as_dict()}


def _usable_by_all(
    connection: Connection, bucket: Bucket, models: Sequence[Training], rows: "pd.DataFrame"
) -> "pd.DataFrame":
    kept = rows
    for model in models:
        own = read_manifest(bucket, find_manifest(connection, model.manifest_digest).object_key)
        kept = usable_rows(connection, model, own, kept)[0]
    return kept


def _scored(connection: Connection, model: Training, digest: str, rows: "pd.DataFrame") -> "Scored | None":
    task = TASKS[model.task]
    predictions = read_sealed_predictions(connection, model.training_id, digest, "test", task.classes)
    if not set(rows["isic_id"]) <= set(predictions.index):
        return None
    return join_to_manifest(predictions, rows, task)
