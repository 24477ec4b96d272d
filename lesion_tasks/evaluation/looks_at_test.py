"""A test set that was looked at many times -> the luck in the best figure, and figures on images that joined later."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.evaluation_record import earlier_figures, looks_by_assignment, noted_best
from lesion_tasks.evaluation.subject import EvaluationSubject
from lesion_tasks.metrics.document_schema import PublishedFigure
from lesion_tasks.reports.bundle import BestOfLooks, SincePromotion
from lesion_tasks.splits.manifest import find_manifest, read_manifest

if TYPE_CHECKING:
    from lesion_tasks.metrics.scored import Scored

_NORMAL_975 = 1.959964
_N_ASKED = 3  # of trainings with the same figure, for what they noted of its error


def best_of_looks(connection: Connection, subject: EvaluationSubject, test: "Scored") -> BestOfLooks | None:
    """The leading figure without the luck of being the best of all looks at this test set up to this one.

    A look is the sound evaluation of a training of the task on its own manifest, whose test set is drawn by the same
    assignment; what was trained twice, or predicts the same, is one. None on another manifest than the training's own,
    and where there is no figure.
    """
    from lesion_tasks.metrics.headline import headline_auc

    measure = leading_measure(subject.task.name)
    if not subject.is_own_manifest or measure not in ("auc", "macro_auc"):
        return None
    earlier = earlier_figures(connection, subject.training.training_id, measure)
    auc = headline_auc(test)
    if auc is None or min(auc.n_groups_by_class) < 2:
        return None
    return _without_luck(measure, auc.value, auc.standard_error, auc.degrees, earlier)


def _without_luck(
    measure: str,
    value: float,
    standard_error: float,
    degrees: float,
    earlier: Sequence[float],
    later: Sequence[float] = (),
) -> BestOfLooks:
    from lesion_tasks.metrics.winners_curse import correct_for_looks

    n_looks = len(earlier) + 1 + len(later)
    found = correct_for_looks(value, standard_error, n_looks, earlier, later=later, degrees=degrees)
    return BestOfLooks(
        measure=measure,
        n_looks=found.n_looks,
        value=found.value,
        low=found.interval.low,
        high=found.interval.high,
        method=found.interval.method,
        luck=found.luck,
        standard_error=standard_error,
        degrees=None if math.isinf(degrees) else degrees,
    )


def best_of_all(
    connection: Connection, task: str, figures: Mapping[str, PublishedFigure]
) -> dict[str, BestOfLooks]:
    """Some trainings with their leading figures -> the best of each test set, without the luck of being the best.

    Reckoned over every look that there is today, whether it came before or after: the figures alone decide, and
    the same figure is corrected in the same way.
    """
    measure = leading_measure(task)
    assignments = looks_by_assignment(connection, task, measure)
    found, of_assignments = {}, dict[int, BestOfLooks | None]()
    for training_id, figure in figures.items():
        place = next((place for place, one in enumerate(assignments) if training_id in one.same_as), None)
        if place is None:
            continue
        looks = assignments[place].figures
        if looks[assignments[place].same_as[training_id]] < max(looks.values()):
            continue
        if place not in of_assignments:  # for all that have this figure
            of_assignments[place] = _best_of_assignment(connection, measure, looks, figure)
        if (best := of_assignments[place]) is not None:
            found[training_id] = best
    return found


def _best_of_assignment(
    connection: Connection, measure: str, assignment: Mapping[str, float], figure: PublishedFigure
) -> BestOfLooks | None:
    """The highest figure of one assignment without the luck of being it; None for the only one."""
    value = max(assignment.values())
    if len(assignment) < 2 or not 0 < value < 1:
        return None
    same = [training_id for training_id, other in assignment.items() if other == value]
    error, degrees = _error_of(connection, same[:_N_ASKED]) or _error_by_interval(figure)
    if not math.isfinite(error):
        return None
    in_time, place = list(assignment.values()), list(assignment).index(same[0])
    return _without_luck(measure, value, error, degrees, in_time[:place], in_time[place + 1 :])


def _error_of(connection: Connection, training_ids: Sequence[str]) -> tuple[float, float] | None:
    """Standard error and degrees of freedom, as the first of some equal figures noted them."""
    for training_id in training_ids:
        noted = noted_best(connection, training_id)
        if noted is not None and noted.standard_error is not None:
            return noted.standard_error, math.inf if noted.degrees is None else noted.degrees
    return None


def _error_by_interval(figure: PublishedFigure) -> tuple[float, float]:
    """The same where nobody noted them: nearly, as if the interval had unlimited degrees of freedom."""
    if (
        figure.value is None
        or figure.low is None
        or figure.high is None
        or not 0 < figure.low < figure.high < 1
    ):
        return math.inf, math.inf
    logits = [math.log(share / (1 - share)) for share in (figure.low, figure.high)]
    return (logits[1] - logits[0]) / (2 * _NORMAL_975) * figure.value * (1 - figure.value), math.inf


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
