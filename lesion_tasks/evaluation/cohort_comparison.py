"""A candidate, the champion and the cohorts of their task -> how they differ on other people's data, pair by pair."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import TASKS, cohorts_of
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.other_data import usable_rows
from lesion_tasks.evaluation.unjudged import cohort_manifest_in_force, is_of_today
from lesion_tasks.metrics.comparison_document import CohortDifference
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


def compare_on_cohorts(
    connection: Connection, bucket: Bucket, candidate: Training, champion: Training
) -> list[CohortDifference]:
    """Candidate minus champion, in the leading measure, on each cohort of the task: on images that neither has."""
    found = []
    for cohort in cohorts_of(candidate.task):
        manifest = cohort_manifest_in_force(connection, cohort, candidate.task)
        if manifest is None:
            continue
        if is_of_today(cohort, manifest):
            found.append(_compare_on(connection, bucket, (candidate, champion), cohort.name, manifest.digest))
        else:
            reason = "no image can be judged by its definition of today"
            nothing = CohortDifference(
                cohort=cohort.name, n_images=0, n_left_out=0, reason=reason, difference=None
            )
            found.append(nothing)
    return found


def _compare_on(
    connection: Connection, bucket: Bucket, models: Sequence[Training], cohort: str, digest: str
) -> CohortDifference:
    from lesion_tasks.metrics.compare import auc_difference
    from lesion_tasks.metrics.integrity import few_groups

    rows = read_manifest(bucket, find_manifest(connection, digest).object_key)
    kept = _usable_by_all(connection, bucket, models, rows)

    def compared(difference: "Difference | None", reason: str | None = None) -> CohortDifference:
        return CohortDifference(
            cohort=cohort,
            n_images=len(kept),
            n_left_out=len(rows) - len(kept),
            reason=reason,
            difference=None if difference is None else difference.published(),
        )

    if not len(kept):
        return compared(None, "no image can be judged by both")
    scored = []
    for model in models:
        try:
            one = _scored(connection, model, digest, kept)
        except AlteredPredictionsError as error:
            return compared(None, str(error))
        if one is None:
            return compared(None, f"{model.training_id} has not been judged on it as it is by now")
        scored.append(one)
    if (verdict := few_groups(scored[0])).blocks:
        return compared(None, verdict.sentence.rstrip("."))
    difference = auc_difference(scored[0], scored[1])
    return compared(difference, "a class has no image" if difference is None else None)


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
