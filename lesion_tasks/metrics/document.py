"""A `Scored` and its threshold -> the document of one subset, from which reports are made."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from lesion_tasks.metrics.binary import PREVALENCES, RANKING_NAMES, Samples, binary_figures, resample_together
from lesion_tasks.metrics.calibration import calibration_curve, net_benefit_curve
from lesion_tasks.metrics.degrees_of_freedom import dominant_groups
from lesion_tasks.metrics.document_schema import SubsetDocument
from lesion_tasks.metrics.multiclass import class_figures, multiclass_figures
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.slices import slice_figures
from lesion_tasks.metrics.threshold import Threshold

# More points than a screen has pixels only make the page heavy.
MAX_CURVE_POINTS = 500


def evaluation_document(
    scored: Scored,
    *,
    threshold: Threshold | None,
    subset: str,
    training_id: str | int | None = None,
    resampling: Resampling | None = None,
) -> SubsetDocument:
    """Measure everything of one subset.

    `threshold` is the one stored with the model; None means the most likely class (a score of one half in a
    binary task). `subset` is its name. Undefined measures are null with a reason; a number that is NaN or infinite
    raises ValueError.
    """
    resampling = resampling or Resampling()
    cut = threshold.value if threshold and scored.is_binary else None
    sampled: Samples = {}
    if scored.is_binary:
        sampled = resample_together(
            scored, cut, resampling, RANKING_NAMES, has_probabilities=True, has_curves=True
        )
        figures = binary_figures(
            scored, threshold=cut, resampling=resampling, prevalences=PREVALENCES, sampled=sampled
        )
    else:
        figures = multiclass_figures(scored, resampling)
    n_positives = scored.n_positives
    document = {
        "training_id": training_id,
        "task": "binary" if scored.is_binary else "multiclass",
        "class_names": list(scored.class_names),
        "positive_class": scored.positive_class,
        "subset": {
            "name": subset,
            "n_images": scored.n_images,
            "n_groups": scored.n_groups,
            "n_positives": n_positives,
            "class_counts": scored.class_counts,
            "prevalence": n_positives / scored.n_images
            if n_positives is not None and scored.n_images
            else None,
            "dominant_groups": dominant_groups(scored.labels, scored.group_ids, scored.class_names),
        },
        "threshold": threshold.as_dict() if threshold else None,
        "resampling": {
            "unit": "group",
            "n_resamples": resampling.n_resamples,
            "seed": resampling.seed,
            "level": resampling.level,
        },
        "figures": {name: figure.published() for name, figure in figures.items()},
        "by_class": {
            name: {key: figure.published() for key, figure in by_name.items()}
            for name, by_name in class_figures(scored, resampling, cut).items()
        },
        "confusion": {
            "class_names": list(scored.class_names),
            "counts": confusion_counts(scored, cut).tolist(),
        },
        "curves": _curves(scored, resampling, sampled),
        "slices": [
            one.published()
            for one in slice_figures(scored, threshold=cut, resampling=resampling, sampled=sampled or None)
        ],
    }
    return SubsetDocument.model_validate(document)


def confusion_counts(scored: Scored, threshold: float | None = None) -> np.ndarray:
    """(K, K) images of class i that were called class j, in the order of the class names."""
    if scored.n_images == 0:
        return np.zeros((len(scored.class_names),) * 2, dtype=int)
    everything = np.arange(len(scored.class_names))
    predicted = scored.predicted(threshold) if scored.is_binary else scored.predicted()
    return np.asarray(confusion_matrix(scored.labels, predicted, labels=everything))


def _curves(scored: Scored, resampling: Resampling, sampled: Samples) -> dict[str, Any]:
    names = scored.class_names if scored.positive_class is None else (scored.positive_class,)
    sides = {name: scored if scored.is_binary else scored.against(name) for name in names}
    found: dict[str, Any] = {
        "roc": {name: roc_points(side) for name, side in sides.items()},
        "precision_recall": {name: precision_recall_points(side) for name, side in sides.items()},
        "calibration": None,
        "net_benefit": None,
    }
    if scored.is_binary and scored.n_images:
        data = scored.is_positive, scored.scores, scored.groups
        found["calibration"] = calibration_curve(*data, resampling, called=sampled["calibration"])
        found["net_benefit"] = net_benefit_curve(*data, resampling, called=sampled["net_benefit"])
    return found


def roc_points(scored: Scored) -> dict[str, list[float | None]] | None:
    """The ROC curve in at most `MAX_CURVE_POINTS` points; None without both classes."""
    if not 0 < int(scored.is_positive.sum()) < scored.n_images:
        return None
    false_positive_rate, true_positive_rate, thresholds = roc_curve(scored.is_positive, scored.scores)
    kept = _evenly(false_positive_rate + true_positive_rate)
    return {
        "false_positive_rate": false_positive_rate[kept].tolist(),
        "true_positive_rate": true_positive_rate[kept].tolist(),
        "threshold": [None if np.isinf(value) else value for value in thresholds[kept].tolist()],
    }


def precision_recall_points(scored: Scored) -> dict[str, list[float | None]] | None:
    """The precision-recall curve, recall rising, in at most `MAX_CURVE_POINTS` points; None without positives."""
    if not scored.is_positive.any():
        return None
    precision, recall, thresholds = (
        values[::-1]
        for values in precision_recall_curve(scored.is_positive, scored.scores, drop_intermediate=True)
    )
    kept = _evenly(recall + np.linspace(0, 1, len(recall)))
    return {
        "recall": recall[kept].tolist(),
        "precision": precision[kept].tolist(),
        # Point 0 comes before every threshold and has none itself.
        "threshold": [None if index == 0 else float(thresholds[index - 1]) for index in kept],
    }


def _evenly(position: np.ndarray) -> np.ndarray:
    """Indices of points spaced about evenly along a rising `position`, including both ends."""
    if len(position) <= MAX_CURVE_POINTS:
        return np.arange(len(position))
    wanted = np.linspace(position[0], position[-1], MAX_CURVE_POINTS)
    inner = np.searchsorted(position, wanted).clip(0, len(position) - 1)
    return np.unique(np.r_[0, inner, len(position) - 1])
