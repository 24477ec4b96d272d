"""A test set that was looked at many times -> the luck in the best figure, and figures on images that joined later."""

from typing import TYPE_CHECKING

from sqlalchemy import Connection

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.evaluation_record import earlier_figures
from lesion_tasks.evaluation.subject import EvaluationSubject
from lesion_tasks.reports.bundle import BestOfLooks, SincePromotion
from lesion_tasks.splits.manifest import find_manifest, read_manifest

if TYPE_CHECKING:
    from lesion_tasks.metrics.scored import Scored


def best_of_looks(connection: Connection, subject: EvaluationSubject, test: "Scored") -> BestOfLooks | None:
    """The leading figure without the luck of being the best of all looks at this test set up to this one.

    A look is the sound evaluation of a training of the task on its own manifest, whose test set is drawn by the same
    assignment. None for the first look, on another manifest than the training's own, and where there is no figure.
    """
    from lesion_tasks.metrics.headline import headline_auc
    from lesion_tasks.metrics.winners_curse import correct_for_looks

    measure = leading_measure(subject.task.name)
    if not subject.is_own_manifest or measure not in ("auc", "macro_auc"):
        return None
    earlier = earlier_figures(connection, subject.training.training_id, measure)
    auc = headline_auc(test)
    if not earlier or auc is None or min(auc.n_groups_by_class) < 2:
        return None
    found = correct_for_looks(auc.value, auc.standard_error, len(earlier) + 1, earlier, degrees=auc.degrees)
    return BestOfLooks(
        measure=measure,
        n_looks=found.n_looks,
        value=found.value,
        low=found.interval.low,
        high=found.interval.high,
        method=found.interval.method,
        luck=found.luck,
    )


def since_promotion(
    connection: Connection, bucket: Bucket, subject: EvaluationSubject, test: "Scored"
) -> SincePromotion | None:
    """The champion's figures on test images that its own manifest does not have: it was not chosen on these.

    None for any training but the champion, and on the champion's own manifest.
    """
    import numpy as np

    from lesion_tasks.metrics.document import evaluation_document

    champion = champion_of(connection, subject.task.name)
    training = subject.training
    if subject.is_own_manifest or champion is None or champion.training.training_id != training.training_id:
        return None
    own = read_manifest(bucket, find_manifest(connection, training.manifest_digest).object_key)
    fresh = test.where(~np.isin(test.isic_ids, own["isic_id"].to_numpy(dtype=object)))
    if not fresh.n_images:
        return None
    document = evaluation_document(
        fresh, threshold=subject.threshold, subset="test_natural", training_id=training.training_id
    )
    measure = leading_measure(subject.task.name)
    return SincePromotion(
        promoted_at=champion.decision.decided_at.isoformat(timespec="seconds"),
        n_images=fresh.n_images,
        figures={measure: document.figures[measure]},
    )
