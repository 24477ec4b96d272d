"""Two trainings and a manifest that both have scored -> what differs, pair by pair, and why a figure moved."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import TASKS, Task
from lesion_tasks.splits.manifest import read_manifest
from lesion_tasks.training.predictions import join_to_manifest, read_predictions
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    from lesion_tasks.metrics.scored import Scored


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A finished training, with the manifest it was trained on."""

    training_id: str
    task: str
    threshold: float | None
    manifest_digest: str
    manifest_key: str


def find_contender(connection: Connection, training_id: str) -> Contender:
    """Look up a finished training, or raise `UnusableInputError`."""
    row = connection.execute(
        text("""
            SELECT t.training_id, t.task, t.threshold, m.digest, m.object_key
            FROM training t JOIN manifest m ON m.digest = t.manifest_digest
            WHERE t.training_id = :id AND t.status = 'finished'
        """),
        {"id": training_id},
    ).one_or_none()
    if row is None:
        raise UnusableInputError(f"training {training_id!r}: not found, expected a finished training")
    return Contender(
        training_id=row.training_id,
        task=row.task,
        threshold=row.threshold,
        manifest_digest=row.digest,
        manifest_key=row.object_key,
    )


def missing_scores(connection: Connection, candidate: Contender, champion: Contender) -> list[dict[str, Any]]:
    """Which training must still score which manifest before the two can be compared on old and on new data.

    Each entry has training_id and manifest_digest, as `evaluate_training` takes them.
    """
    wanted = [(champion, candidate), (candidate, champion)]
    return [
        {"training_id": model.training_id, "manifest_digest": data.manifest_digest}
        for model, data in wanted
        if model.manifest_digest != data.manifest_digest
        and not _has_scored(connection, model.training_id, data.manifest_digest)
    ]


def _has_scored(connection: Connection, training_id: str, digest: str) -> bool:
    return bool(
        connection.execute(
            text("""
                SELECT EXISTS (SELECT FROM prediction
                               WHERE training_id = :id AND manifest_digest = :digest AND subset = 'test')
            """),
            {"id": training_id, "digest": digest},
        ).scalar_one()
    )


def compare_contenders(
    connection: Connection, bucket: Bucket, candidate: Contender, champion: Contender
) -> dict[str, Any] | None:
    """Candidate minus champion on the candidate's natural test set; None while the champion has not scored it.

    Returns champion, subset, differences (by measure, with interval), slices (the leading difference on each part of
    the test set) and two_by_two: both models on both test sets, None while one of the four is missing.
    """
    from lesion_tasks.metrics.compare import compare, compare_slices, two_by_two

    task = TASKS[candidate.task]
    new = candidate.manifest_digest, candidate.manifest_key
    old = champion.manifest_digest, champion.manifest_key
    candidate_new = _scored(connection, bucket, task, candidate.training_id, *new)
    champion_new = _scored(connection, bucket, task, champion.training_id, *new)
    if candidate_new is None or champion_new is None:
        return None
    differences = compare(
        candidate_new, champion_new, threshold=candidate.threshold, champion_threshold=champion.threshold
    )
    candidate_old = _scored(connection, bucket, task, candidate.training_id, *old)
    champion_old = _scored(connection, bucket, task, champion.training_id, *old)
    cells = None
    if candidate_old is not None and champion_old is not None:
        cells = two_by_two(
            old_model_old_data=champion_old,
            old_model_new_data=champion_new,
            new_model_old_data=candidate_old,
            new_model_new_data=candidate_new,
        )
    return {
        "champion": champion.training_id,
        "subset": "test_natural",
        "differences": {name: difference.as_dict() for name, difference in differences.items()},
        "slices": [one.as_dict() for one in compare_slices(candidate_new, champion_new)],
        "two_by_two": cells and dict(cells),
    }


def _scored(
    connection: Connection, bucket: Bucket, task: Task, training_id: str, digest: str, key: str
) -> "Scored | None":
    rows = read_manifest(bucket, key)
    test = rows[rows["subset"] == "test"]
    predictions = read_predictions(connection, training_id, digest, "test", task.classes)
    if set(predictions.index) != set(test["isic_id"]):
        return None
    return join_to_manifest(predictions, test, task)


def compare_trainings(workspace: Workspace, candidate_id: str, champion_id: str) -> dict[str, Any]:
    """Compare two trainings of one task, pair by pair, on the first one's test set."""
    bucket = workspace.bucket
    with workspace.engine.connect() as connection:
        candidate, champion = (find_contender(connection, i) for i in (candidate_id, champion_id))
        if candidate.task != champion.task:
            raise UnusableInputError(
                f"{candidate_id} is of task {candidate.task!r}, {champion_id} of {champion.task!r}: expected one task"
            )
        found = compare_contenders(connection, bucket, candidate, champion)
    if found is None:
        raise UnusableInputError(
            f"{champion_id} has not scored manifest {candidate.manifest_digest[:12]} of {candidate_id}: run "
            f"`lesion evaluate {champion_id} --manifest {candidate.manifest_digest}` first"
        )
    return found
