"""Conformal sets and a `Scored` -> how often they hold the truth, what is answered, and how often wrongly."""

from __future__ import annotations

import numpy as np

from lesion_tasks.metrics.conformal import ConformalSets, answered_at, share_of_groups
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import PublishedFigure
from lesion_tasks.metrics.doubt_document import DoubtCurve, DoubtFigures, DoubtSlice
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.slices import MIN_IMAGES, slice_masks

# Error rates of the curve, strictest first.
CURVE_RATES = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
NOT_ANSWERED = -1


def doubt_figures(
    scored: Scored,
    sets: ConformalSets,
    *,
    val: Scored,
    threshold: float | None,
    is_strange: np.ndarray | None,
) -> DoubtFigures:
    """Measure sets on images; `is_strange` (n,) bool says which of them are out of distribution, if that is known.

    `val` is what the sets were fitted on: the curve is of sets that are fitted on it at other rates.
    """
    strange = np.zeros(scored.n_images, dtype=bool) if is_strange is None else is_strange
    called = scored.predicted(threshold)
    is_covered = sets.sets(scored.probabilities)[np.arange(scored.n_images), scored.labels]
    answers = kept_answers(sets.answers(scored.probabilities), called, strange)
    is_answered, is_wrong = answers != NOT_ANSWERED, _is_wrong(answers, scored.labels)
    by_class = {name: scored.labels == index for index, name in enumerate(scored.class_names)}
    return DoubtFigures(
        covered=_share(is_covered, scored.groups),
        covered_by_class={
            name: _share(is_covered[here], scored.groups[here]) for name, here in by_class.items()
        },
        answered=_share(is_answered, scored.groups),
        wrong_of_answered=_wrong_of_answered(answers, scored),
        wrong_by_class={name: _share(is_wrong[here], scored.groups[here]) for name, here in by_class.items()},
        strange=None if is_strange is None else _share(is_strange, scored.groups),
        curve=_curve(scored, val, called, strange),
        slices=[
            _slice(scored, attribute, value, mask, is_covered, answers)
            for attribute, value, mask in slice_masks(scored.attributes)
        ],
    )


def kept_answers(answers: np.ndarray, called: np.ndarray, is_strange: np.ndarray) -> np.ndarray:
    """(n,) The class of a set is an answer only if it is the one that is called, of a picture that is not strange."""
    return np.where((answers == called) & ~is_strange, answers, NOT_ANSWERED)


def _is_wrong(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (answers != NOT_ANSWERED) & (answers != labels)


def _share(hits: np.ndarray, groups: np.ndarray, why_none: str = "no image") -> PublishedFigure:
    return share_of_groups(hits, groups, why_none=why_none).published()


def _wrong_of_answered(answers: np.ndarray, scored: Scored) -> PublishedFigure:
    here = answers != NOT_ANSWERED
    return _share(_is_wrong(answers, scored.labels)[here], scored.groups[here], "no image is answered")


def _curve(scored: Scored, val: Scored, called: np.ndarray, strange: np.ndarray) -> DoubtCurve:
    answered, wrong = [], []
    for _, answers in answered_at(val, scored, CURVE_RATES):
        kept = kept_answers(answers, called, strange)
        answered.append(_share(kept != NOT_ANSWERED, scored.groups).value or 0.0)
        wrong.append(_wrong_of_answered(kept, scored).value)
    return DoubtCurve(error_rate=list(CURVE_RATES), answered=answered, wrong_of_answered=wrong)


def _slice(
    scored: Scored, attribute: str, value: str, mask: np.ndarray, is_covered: np.ndarray, answers: np.ndarray
) -> DoubtSlice:
    n_images, groups = int(mask.sum()), scored.groups[mask]
    is_small = n_images < MIN_IMAGES
    part = scored.where(mask)
    return DoubtSlice(
        attribute=attribute,
        value=value,
        n_images=n_images,
        n_groups=len(np.unique(groups)),
        reason=f"{plural(n_images, 'image')}, floor {MIN_IMAGES}" if is_small else None,
        covered=None if is_small else _share(is_covered[mask], groups),
        answered=None if is_small else _share(answers[mask] != NOT_ANSWERED, groups),
        wrong=None if is_small else _wrong_of_answered(answers[mask], part),
    )
