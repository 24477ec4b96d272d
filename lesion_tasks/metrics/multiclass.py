"""A `Scored` of more than two classes -> every figure, overall and by class, with intervals."""

from __future__ import annotations

import numpy as np

from lesion_tasks.metrics import calibration
from lesion_tasks.metrics.binary import figure_of, ranking_figures, stated_auc, stated_mean, stated_rates
from lesion_tasks.metrics.degrees_of_freedom import effective_groups_of
from lesion_tasks.metrics.figure import Figure
from lesion_tasks.metrics.headline import macro_auc
from lesion_tasks.metrics.proportion import proportion_interval
from lesion_tasks.metrics.ranking import ranking_values, resampled_means, too_few_to_rank
from lesion_tasks.metrics.resample import CountTable, Part, Resampling, resample
from lesion_tasks.metrics.scored import Scored


def multiclass_figures(scored: Scored, resampling: Resampling) -> dict[str, Figure]:
    """The figures of `names.MULTICLASS_FIGURES`. The most likely class is the prediction; of ties, the first."""
    found = macro_figures(scored, resampling)
    found |= hit_figures(scored, resampling)
    found |= _probability_figures(scored, resampling)
    return found


def macro_figures(scored: Scored, resampling: Resampling) -> dict[str, Figure]:
    """Mean over classes of AUC and of average precision, one class against the rest; no class may be absent."""
    figure, names = figure_of(scored), ("auc", "average_precision")
    if reason := absent_classes(scored):
        return {f"macro_{name}": figure(None, reason=reason) for name in names}
    sides = [scored.against(name) for name in scored.class_names]
    values = [ranking_values(side.is_positive, side.scores) for side in sides]
    samples = resampled_means(sides, names, resampling)
    macro = macro_auc(scored)
    degrees = macro.degrees if macro else np.inf
    rarest = min(effective_groups_of(scored.labels == index, scored.groups) for index in range(len(sides)))
    found = {
        f"macro_{name}": figure(
            np.mean([value[name] for value in values]),
            too_few_to_rank(name, rarest, np.inf) or resampling.stated(row, degrees),
        )
        for name, row in zip(names, samples, strict=True)
    }
    if macro is not None:
        bootstrap = found["macro_auc"].interval
        found["macro_auc"] = figure(
            macro.value,
            stated_auc(macro, resampling.level),
            other_intervals=(bootstrap,) if bootstrap else (),
        )
    return found


def absent_classes(scored: Scored) -> str | None:
    """Why a mean over classes is undefined, or None."""
    absent = [name for name, count in scored.class_counts.items() if count == 0]
    return f"no images of class {', '.join(absent)}" if absent else None


def hit_figures(scored: Scored, resampling: Resampling) -> dict[str, Figure]:
    """Balanced accuracy and accuracy of the most likely class."""
    figure = figure_of(scored)
    if scored.n_images == 0:
        return {name: figure(None, reason="no images") for name in ("balanced_accuracy", "accuracy")}
    is_hit = scored.predicted() == scored.labels
    everyone = np.ones(scored.n_images, dtype=bool)
    accuracy = figure(is_hit.mean(), proportion_interval(is_hit, everyone, scored.groups, resampling.level))
    if reason := absent_classes(scored):
        return {"balanced_accuracy": figure(None, reason=reason), "accuracy": accuracy}
    n_classes = len(scored.class_names)
    table = CountTable(scored.labels + n_classes * is_hit, scored.groups, 2 * n_classes, scored.n_groups)

    def measure(counts: np.ndarray) -> np.ndarray:
        misses, hits = table(counts).astype(np.float64).reshape(2, n_classes, -1)
        with np.errstate(invalid="ignore"):
            return np.asarray((hits / (hits + misses)).mean(axis=0))

    part = Part(measure=measure, n_rows=table.n_bins)
    samples = resample({"recall": part}, scored.n_groups, resampling)["recall"]
    value = measure(np.ones((scored.n_groups, 1), dtype=np.uint16))[0]
    return {
        "balanced_accuracy": figure(value, stated_rates(samples, scored, is_hit, resampling)),
        "accuracy": accuracy,
    }


def _probability_figures(scored: Scored, resampling: Resampling) -> dict[str, Figure]:
    figure = figure_of(scored)
    if scored.n_images == 0:
        names = ("brier_score", "log_loss", "expected_calibration_error")
        return {name: figure(None, reason="no images") for name in names}
    n_classes = len(scored.class_names)
    squares = ((scored.probabilities - np.eye(n_classes)[scored.labels]) ** 2).sum(axis=1)
    epsilon = np.finfo(np.float64).eps
    likelihood = scored.probabilities[np.arange(scored.n_images), scored.labels]
    losses = -np.log(np.clip(likelihood, epsilon, 1 - epsilon))
    by_group = np.stack(
        [np.bincount(scored.groups, column) for column in (np.ones_like(squares), squares, losses)]
    )
    sums = np.concatenate([by_group @ w for w in resampling.weights(scored.n_groups)], axis=1)
    is_hit = (scored.predicted() == scored.labels).astype(np.float64)
    top = scored.probabilities.max(axis=1)
    return {
        "brier_score": figure(squares.mean(), stated_mean(sums[1] / sums[0], scored, squares, resampling)),
        "log_loss": figure(losses.mean(), stated_mean(sums[2] / sums[0], scored, losses, resampling)),
        "expected_calibration_error": figure(
            calibration.expected_calibration_error(is_hit, top),
            calibration.NO_INTERVAL_OF_ERROR,
        ),
    }


def class_figures(
    scored: Scored, resampling: Resampling, threshold: float | None = None
) -> dict[str, dict[str, Figure]]:
    """Class name -> `names.CLASS_FIGURES` of that class against the rest."""
    predicted = scored.predicted(threshold)
    found = {}
    for index, name in enumerate(scored.class_names):
        side, is_called = scored.against(name), predicted == index
        no_images, no_calls = f"no images of class {name}", f"no image was called {name}"
        found[name] = {
            "recall": _share(side, is_called, side.is_positive, no_images, resampling.level),
            "precision": _share(side, side.is_positive, is_called, no_calls, resampling.level),
        }
        # With two classes the AUC is the same for both, and is listed with the figures of the positive one.
        if not scored.is_binary:
            found[name] |= ranking_figures(side, ("auc", "average_precision"), resampling)
    return found


def _share(side: Scored, hits: np.ndarray, trials: np.ndarray, nobody: str, level: float) -> Figure:
    """Share of `trials` (n,) that are `hits`."""
    figure = figure_of(side)
    if not trials.any():
        return figure(None, reason=nobody)
    interval = proportion_interval(hits & trials, trials, side.groups, level)
    return figure((hits & trials).sum() / trials.sum(), interval)
