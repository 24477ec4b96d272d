"""Two trainings and the test images of one of them -> what differs, pair by pair, and why a figure moved.

Both must have a sound evaluation there. Images that one of the two has learned from, or whose lesion or patient it
knows, are left out of the comparison for both: after a new assignment of the subsets, the champion's train images may
be in the candidate's test set.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import Task
from lesion_tasks.catalog.lookup import question_of
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.cohort_comparison import compare_on_cohorts
from lesion_tasks.evaluation.evaluation_record import (
    UNJOINED,
    AlteredEvaluationError,
    failed_checks,
    find_difference,
    find_sealed,
    sentences_of,
    unmade_checks,
)
from lesion_tasks.evaluation.unjudged import unjudged_cohorts
from lesion_tasks.metrics.comparison_document import Comparison, TwoByTwo
from lesion_tasks.metrics.one_thread import one_thread_each
from lesion_tasks.metrics.verdict import ON_VAL
from lesion_tasks.splits.manifest import find_manifest, read_manifest
from lesion_tasks.training.predictions import join_to_manifest, read_sealed_predictions
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.scored import Scored

# A row is known to a training that learned from a row with the same value in one of these.
IDENTITIES = ("isic_id", "lesion_id", "patient_id", "sha256", "group_id")
# With one of these faults predictions may not be the model's of these images; others only say that the model is bad.
MISPAIRED = {
    "ids_differ",
    "independent_of_labels",
    "marginals_differ",
    "pixels_differ",
    "predictions_altered",
    "serving_differs",
}


class NoComparisonError(UnusableInputError):
    """Two trainings cannot be compared on these images, and why."""


class NotEvaluatedError(NoComparisonError):
    """A model, `training_id`, has still to be evaluated on these images."""

    def __init__(self, message: str, training_id: str) -> None:
        super().__init__(message)
        self.training_id = training_id


def missing_scores(connection: Connection, candidate: Training, champion: Training) -> list[dict[str, str]]:
    """Which training must still be evaluated on which manifest before the two can be compared.

    Each entry has training_id and manifest_digest, as `evaluate_training` takes them.
    """
    if list(candidate.classes) != list(champion.classes):
        return []  # neither can be asked about the other's images
    wanted = [(champion, candidate), (candidate, champion)]
    return [
        {"training_id": model.training_id, "manifest_digest": data.manifest_digest}
        for model, data in wanted
        if not _is_evaluated(connection, model, data.manifest_digest)
    ]


def missing_on_cohorts(
    connection: Connection, candidate: Training, champion: Training | None
) -> list[dict[str, str]]:
    """Which trainings must be evaluated again, since a cohort of their task is not in their evaluation as it is by now.

    Entries as those of `missing_scores`. If the candidate must, so must the champion: both on the same images. A
    champion that tells other classes apart, or whose predictions cannot be joined to their images, is left out: no
    evaluation would judge it on a cohort.
    """
    models = [candidate]
    if champion is not None and _can_be_judged(connection, candidate, champion):
        models.append(champion)
    if not any(_lacks_cohorts(connection, model) for model in models):
        return []
    return [{"training_id": model.training_id, "manifest_digest": model.manifest_digest} for model in models]


def _can_be_judged(connection: Connection, candidate: Training, champion: Training) -> bool:
    if list(candidate.classes) != list(champion.classes):
        return False
    document = _sealed_document(connection, champion)
    return document is None or not UNJOINED & set(failed_checks(document))


def _lacks_cohorts(connection: Connection, model: Training) -> bool:
    return bool(unjudged_cohorts(connection, model.task, _sealed_document(connection, model) or {}))


def _sealed_document(connection: Connection, model: Training) -> Mapping[str, Any] | None:
    """What a training's own evaluation says; None without one, or if it was altered and has to be repeated."""
    try:
        found = find_sealed(connection, model.training_id, model.manifest_digest)
    except AlteredEvaluationError:
        return None
    return None if found is None else found.document


def _is_evaluated(connection: Connection, model: Training, digest: str) -> bool:
    """Whether there is an evaluation to go by: one that was altered or made by an older version has to be repeated."""
    try:
        found = find_sealed(connection, model.training_id, digest)
    except AlteredEvaluationError:
        return False
    return (
        found is not None
        and not unmade_checks(found.document)
        and find_difference(connection, model, found.document) is None
    )


@one_thread_each()
def compare_models(
    connection: Connection, bucket: Bucket, candidate: Training, champion: Training
) -> Comparison:
    """Candidate minus champion on the candidate's natural test set, without images that either has learned from.

    With the leading difference on each part of the test set and on each cohort, and both models on both test sets
    unless one of the four is missing. Raises `NoComparisonError` if the models tell other classes apart, or if one was
    not evaluated on these images, is not sound there, or has learned from nearly all of them.
    """
    import numpy as np

    from lesion_tasks.metrics.compare import compare, compare_slices

    if candidate.task != champion.task:
        raise UnusableInputError(
            f"{candidate.training_id} is of task {candidate.task!r}, {champion.training_id} of "
            f"{champion.task!r}: expected one task"
        )
    if list(candidate.classes) != list(champion.classes):
        raise NoComparisonError(
            f"{candidate.training_id} tells {', '.join(candidate.classes)} apart, and {champion.training_id} "
            f"{', '.join(champion.classes)}"
        )
    task = question_of(candidate.training_id, candidate.task, candidate.classes)
    models = (candidate, champion)
    for model in models:
        _require_soundness(connection, model, candidate.manifest_digest)
    tables = {
        digest: read_manifest(bucket, find_manifest(connection, digest).object_key)
        for digest in {model.manifest_digest for model in models}
    }
    rows, n_left_out = _unseen_test(tables, candidate.manifest_digest, models)
    new = [_scored(connection, task, model, candidate.manifest_digest, rows) for model in models]
    if new[0] is None or new[1] is None:
        raise _not_evaluated(champion, candidate.manifest_digest)
    _require_groups(new[0], n_left_out)
    differences = compare(
        new[0], new[1], threshold=candidate.threshold, champion_threshold=champion.threshold
    )
    return Comparison(
        champion=champion.training_id,
        subset="test_natural",
        n_images=len(rows),
        n_left_out=n_left_out,
        has_same_predictions=bool(np.array_equal(new[0].probabilities, new[1].probabilities)),
        differences={name: difference.published() for name, difference in differences.items()},
        slices=[one.published() for one in compare_slices(new[0], new[1])],
        two_by_two=_two_by_two(connection, tables, task, models, new),
        cohorts=compare_on_cohorts(connection, bucket, candidate, champion),
    )


def _not_evaluated(model: Training, digest: str) -> NotEvaluatedError:
    return NotEvaluatedError(
        f"{model.training_id} was not evaluated on manifest {digest[:12]}: run "
        f"`lesion evaluate {model.training_id} --manifest {digest}` first",
        model.training_id,
    )


def _require_soundness(connection: Connection, model: Training, digest: str) -> None:
    """Raise unless a model is sound itself. That it knows some of the images is not a fault: those are left out."""
    found = find_sealed(connection, model.training_id, digest)
    if found is None:
        raise _not_evaluated(model, digest)
    if unmade := unmade_checks(found.document):
        raise NotEvaluatedError(
            f"{model.training_id} was evaluated on manifest {digest[:12]} without {', '.join(unmade)}: run "
            f"`lesion evaluate {model.training_id} --manifest {digest}` again",
            model.training_id,
        )
    if (changed := find_difference(connection, model, found.document)) is not None:
        raise NoComparisonError(changed)
    # Findings on val do not affect predictions on test. On another manifest than its own, images that a model knows
    # are left out, and whatever says that it is bad there is what the comparison is to find out.
    faults = [
        name
        for name in failed_checks(found.document)
        if not name.endswith(ON_VAL) and (model.manifest_digest == digest or name in MISPAIRED)
    ]
    if faults:
        raise NoComparisonError(
            f"the evaluation of {model.training_id} on manifest {digest[:12]} is not sound, so nothing can be measured "
            f"against it: {sentences_of(found.document, faults).rstrip('.')}"
        )


def _unseen_test(
    tables: "Mapping[str, pd.DataFrame]", digest: str, models: Sequence[Training]
) -> "tuple[pd.DataFrame, int]":
    """Test rows of a manifest that no model has learned from, and how many were left out."""
    import pandas as pd

    test = tables[digest][tables[digest]["subset"] == "test"]
    kept = test
    for model in models:
        if model.manifest_digest == digest:
            continue  # there the manifest's own checks have ensured this
        own = tables[model.manifest_digest]
        learned = own[own["subset"].isin(["train", "val"])]
        is_known = pd.Series(False, index=test.index)
        for name in IDENTITIES:
            is_known |= test[name].isin(learned[name].dropna())
        # With whom a known image is in one group by now, known under whichever name.
        kept = kept[~kept["group_id"].isin(test.loc[is_known, "group_id"].dropna()) & ~is_known[kept.index]]
    return kept, len(test) - len(kept)


def _require_groups(scored: "Scored", n_left_out: int) -> None:
    from lesion_tasks.metrics.integrity import few_groups

    verdict = few_groups(scored)
    if verdict.blocks:
        left_out = (
            f"{n_left_out:,} test images were left out because one of the two models has learned from them; the others"
            if n_left_out
            else "the test images"
        )
        raise NoComparisonError(f"{left_out} are too few to compare on. {verdict.sentence}")


def _scored(
    connection: Connection, task: Task, model: Training, digest: str, rows: "pd.DataFrame"
) -> "Scored | None":
    """A model's predictions for these rows; None if it has not scored all of them."""
    if tuple(model.classes) != task.classes:
        raise NoComparisonError(
            f"{model.training_id} tells {', '.join(model.classes)} apart, and task {task.name!r} is about "
            f"{', '.join(task.classes)} by now"
        )
    predictions = read_sealed_predictions(connection, model.training_id, digest, "test", task.classes)
    if not set(rows["isic_id"]) <= set(predictions.index):
        return None
    return join_to_manifest(predictions, rows, task)


def _two_by_two(
    connection: Connection,
    tables: "Mapping[str, pd.DataFrame]",
    task: Task,
    models: Sequence[Training],
    new: "Sequence[Scored | None]",
) -> TwoByTwo | None:
    from lesion_tasks.metrics.compare import two_by_two

    candidate, champion = models
    if candidate.manifest_digest == champion.manifest_digest:
        old = new
    else:
        rows, _ = _unseen_test(tables, champion.manifest_digest, models)
        old = [_scored(connection, task, model, champion.manifest_digest, rows) for model in models]
    (candidate_old, champion_old), (candidate_new, champion_new) = old, new
    if candidate_old is None or champion_old is None or candidate_new is None or champion_new is None:
        return None
    return two_by_two(
        old_model_old_data=champion_old,
        old_model_new_data=champion_new,
        new_model_old_data=candidate_old,
        new_model_new_data=candidate_new,
    )


def compare_trainings(workspace: Workspace, candidate_id: str, champion_id: str) -> Comparison:
    """Compare two trainings of one task, pair by pair, on the first one's test set."""
    with workspace.engine.connect() as connection:
        candidate, champion = (find_finished(connection, name) for name in (candidate_id, champion_id))
        return compare_models(connection, workspace.bucket, candidate, champion)
