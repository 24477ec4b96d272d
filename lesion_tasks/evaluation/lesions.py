"""A test set by image -> the same figures by lesion: a lesion with several images is asked as a whole."""

from typing import TYPE_CHECKING

from lesion_tasks.evaluation.subject import EvaluationSubject
from lesion_tasks.reports.bundle import LesionFigures

if TYPE_CHECKING:
    from lesion_tasks.metrics.scored import Scored


def lesion_figures(subject: EvaluationSubject, test: "Scored") -> LesionFigures | None:
    """The leading figures by lesion, with intervals by group as everywhere; None where no lesion has two images."""
    from lesion_tasks.metrics.binary import ranking_figures, threshold_figures
    from lesion_tasks.metrics.by_lesion import by_lesion
    from lesion_tasks.metrics.multiclass import hit_figures, macro_figures
    from lesion_tasks.metrics.resample import Resampling

    known = subject.rows.set_index("isic_id")["lesion_id"].reindex(test.isic_ids)
    counts = known.dropna().value_counts()
    if counts.empty or counts.max() < 2:
        return None
    lesions = by_lesion(test, {str(i): str(lesion) for i, lesion in known.dropna().items()})
    resampling, threshold = Resampling(), subject.threshold
    if lesions.is_binary:
        found = ranking_figures(lesions, ("auc", "average_precision"), resampling)
        called = threshold_figures(lesions, threshold.value if threshold else None, resampling)
        found |= {name: called[name] for name in ("sensitivity", "specificity")}
    else:
        found = macro_figures(lesions, resampling) | hit_figures(lesions, resampling)
    n_lesions = len(counts) + int(known.isna().sum())
    return LesionFigures(
        n_images=test.n_images,
        n_lesions=n_lesions,
        n_with_several_images=int((counts > 1).sum()),
        n_left_out=n_lesions - lesions.n_images,
        figures={name: figure.published() for name, figure in found.items()},
    )
