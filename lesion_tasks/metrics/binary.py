"""A binary `Scored` and its threshold -> every figure, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.metrics import brier_score_loss, log_loss

from lesion_tasks.metrics import calibration, ranking
from lesion_tasks.metrics.auc import Auc, measure_auc
from lesion_tasks.metrics.counted import plural, too_few_groups
from lesion_tasks.metrics.degrees_of_freedom import degrees_of_freedom, effective_groups_of, satterthwaite
from lesion_tasks.metrics.figure import Figure, Interval, Stated
from lesion_tasks.metrics.proportion import proportion_interval
from lesion_tasks.metrics.resample import Part, Resampling, called_part, resample, weigh
from lesion_tasks.metrics.scored import Scored

# Prevalences at which PPV and NPV are stated besides the subset's own: screening, and a specialist's referrals.
PREVALENCES = (0.02, 0.10)
RANKING_NAMES = ("auc", "average_precision", *ranking.CURVE_MEASURES)

# Effective groups (of each class, if a measure needs both) below which a bootstrap of a mean is unreliable.
MIN_GROUPS = 10
# The same for a mean of recalls: with ten or eleven it covers 83 % where fifteen groups make up the whole test set.
MIN_GROUPS_OF_RATES = 12

FigureOf = Callable[..., Figure]
# Name of a part -> its resamples in the last axis: `resample_together`.
Samples = Mapping[str, np.ndarray]


def binary_figures(
    scored: Scored,
    *,
    threshold: float | None,
    resampling: Resampling,
    prevalences: Sequence[float] = PREVALENCES,
    sampled: Samples | None = None,
) -> dict[str, Figure]:
    """Every figure of a binary task by name, in the order of `names.BINARY_FIGURES`."""
    sampled = sampled or resample_together(
        scored, threshold, resampling, RANKING_NAMES, has_probabilities=True
    )
    found = ranking_figures(scored, RANKING_NAMES, resampling, sampled)
    found |= threshold_figures(scored, threshold, resampling, sampled)
    found |= stated_prevalence_figures(scored, threshold, resampling, prevalences, sampled)
    found |= probability_figures(scored, resampling, sampled)
    return found


def resample_together(
    scored: Scored,
    threshold: float | None,
    resampling: Resampling,
    names: tuple[str, ...],
    *,
    has_probabilities: bool = False,
    has_curves: bool = False,
) -> Samples:
    """What the figures of `scored` are resampled to, all from the same draws, which are made once.

    The keys are those that the functions of this module ask for: the measures `names` of a ranking, and `rates` at
    `threshold`; with `has_probabilities` also `losses`, and with `has_curves` what
    `calibration_curve` and `net_benefit_curve` need. Without an image of each class the measures that need both are
    left out.
    """
    if scored.n_images == 0:
        return {}
    data = scored.is_positive, scored.scores, scored.groups
    parts: dict[str, Part] = {}
    if missing_class(scored) is None:
        parts["ranking"] = ranking.ranking_part(*data, names)
        parts["rates"] = rates_part(scored, called_positive(scored, threshold))
    if has_probabilities:
        outcome = scored.is_positive.astype(np.float64)
        parts["losses"] = _losses_part(outcome, *data[1:])
    edges, thresholds = calibration.equal_count_edges(scored.scores), calibration.NET_BENEFIT_THRESHOLDS
    cuts = np.union1d(edges, thresholds)
    if has_curves:
        parts["called"] = called_part(*data, cuts)
    sampled = resample(parts, scored.n_groups, resampling)
    if "ranking" in sampled:
        sampled |= dict(zip(names, sampled.pop("ranking"), strict=True))
    if has_curves:
        called = sampled.pop("called")
        for name, own in (("calibration", edges), ("net_benefit", thresholds)):
            sampled[name] = called[:, np.concatenate([[0], np.searchsorted(cuts, own) + 1])]
    return sampled


def figure_of(scored: Scored) -> FigureOf:
    """A builder of `Figure` with the counts of `scored`; `stated` is an interval or the reason why there is none."""

    def build(
        value: float | None,
        stated: Stated | None = None,
        reason: str | None = None,
        other_intervals: tuple[Interval, ...] = (),
    ) -> Figure:
        return Figure(
            value=None if value is None else float(value),
            interval=stated if isinstance(stated, Interval) else None,
            interval_reason=stated if isinstance(stated, str) else None,
            other_intervals=other_intervals,
            n_images=scored.n_images,
            n_groups=scored.n_groups,
            n_positives=scored.n_positives,
            reason=reason,
        )

    return build


def missing_class(scored: Scored) -> str | None:
    """Why a measure that needs both classes is undefined, or None."""
    if scored.n_images == 0:
        return "no images"
    if scored.n_positives == 0:
        return f"no positives among {plural(scored.n_images, 'image')}"
    if scored.n_positives == scored.n_images:
        return f"no negatives among {plural(scored.n_images, 'image')}"
    return None


def ranking_figures(
    scored: Scored, names: tuple[str, ...], resampling: Resampling, sampled: Samples | None = None
) -> dict[str, Figure]:
    """AUC and the figures read from the ROC and precision-recall curves; names from `RANKING_NAMES`."""
    figure = figure_of(scored)
    if reason := missing_class(scored):
        return {name: figure(None, reason=reason) for name in names}
    data = scored.is_positive, scored.scores, scored.groups
    values = ranking.ranking_values(*data[:2])
    if sampled is None:
        sampled = dict(zip(names, ranking.resampled_ranking(*data, resampling, names), strict=True))
    auc = measure_auc(*data)
    degrees = auc.degrees if auc else np.inf
    even = class_groups(scored)
    found = {
        name: figure(
            values[name],
            ranking.too_few_to_rank(name, *even, values[name]) or resampling.stated(sampled[name], degrees),
        )
        for name in names
    }
    if "auc" in names and auc is not None:
        bootstrap = found["auc"].interval
        found["auc"] = figure(
            auc.value,
            stated_auc(auc, resampling.level),
            other_intervals=(bootstrap,) if bootstrap else (),
        )
    return found


def stated_auc(auc: Auc, level: float) -> Stated:
    """The interval of an AUC, or the reason why there is none: with about eight positives it covers 90 %."""
    if min(auc.n_groups_by_class) < MIN_GROUPS:
        return f"too few images of the rarer class: {plural(min(auc.n_groups_by_class), 'group')}, needed {MIN_GROUPS}"
    return auc.no_interval_reason or auc.interval(level)


def class_groups(scored: Scored) -> tuple[float, float]:
    """The effective number of groups of the positives, and of the negatives."""
    positive = scored.is_positive
    return effective_groups_of(positive, scored.groups), effective_groups_of(~positive, scored.groups)


def stated_mean(samples: np.ndarray, scored: Scored, losses: np.ndarray, resampling: Resampling) -> Stated:
    """Interval of a resampled mean over all images; `losses` (n,) are the images' contributions."""
    even = effective_groups_of(np.ones(scored.n_images, dtype=bool), scored.groups)
    if even < MIN_GROUPS:
        return too_few_groups("images", even, MIN_GROUPS)
    found = satterthwaite(losses - losses.mean(), scored.groups)
    return resampling.stated(samples, degrees_of_freedom([found], scored.n_groups))


def stated_rates(samples: np.ndarray, scored: Scored, is_hit: np.ndarray, resampling: Resampling) -> Stated:
    """Interval of a resampled measure made from the recalls of the classes, `is_hit` (n,) bool."""
    deviations, n_groups = is_hit.astype(np.float64), []
    for index, name in enumerate(scored.class_names):
        mask = scored.labels == index
        even = effective_groups_of(mask, scored.groups)
        if even < MIN_GROUPS_OF_RATES:
            return too_few_groups(f"images of {name.replace('_', ' ')}", even, MIN_GROUPS_OF_RATES)
        deviations[mask] = (deviations[mask] - deviations[mask].mean()) / mask.sum()
        n_groups.append(int(np.count_nonzero(np.bincount(scored.groups[mask]))))
    found = satterthwaite(deviations, scored.groups, scored.labels)
    return resampling.stated(samples, degrees_of_freedom([found], min(n_groups)))


def threshold_figures(
    scored: Scored, threshold: float | None, resampling: Resampling, sampled: Samples | None = None
) -> dict[str, Figure]:
    """The 2x2 table at a threshold as shares; without a threshold, at a score of one half."""
    figure = figure_of(scored)
    positive, called = scored.is_positive, called_positive(scored, threshold)
    everyone = np.ones(scored.n_images, dtype=bool)

    def share(hits: np.ndarray, trials: np.ndarray, nobody: str) -> Figure:
        if not trials.any():
            return figure(None, reason=nobody)
        interval = proportion_interval(hits & trials, trials, scored.groups, resampling.level)
        return figure((hits & trials).sum() / trials.sum(), interval)

    no_positives, no_negatives = (
        f"no {name} among {plural(scored.n_images, 'image')}" for name in ("positives", "negatives")
    )
    found = {
        "sensitivity": share(called, positive, no_positives),
        "specificity": share(~called, ~positive, no_negatives),
        "balanced_accuracy": figure(None, reason=missing_class(scored) or "undefined"),
        "accuracy": share(called == positive, everyone, "no images"),
        "ppv": share(positive, called, "no image was called positive"),
        "npv": share(~positive, ~called, "no image was called negative"),
    }
    sensitivity, specificity = found["sensitivity"].value, found["specificity"].value
    if sensitivity is not None and specificity is not None:
        rates = resampled_rates(scored, called, resampling) if sampled is None else sampled["rates"]
        found["balanced_accuracy"] = figure(
            (sensitivity + specificity) / 2,
            stated_rates(rates.mean(axis=0), scored, called == positive, resampling),
        )
    return found


def called_positive(scored: Scored, threshold: float | None) -> np.ndarray:
    """(n,) bool: a score at or above the threshold, or one half if there is none."""
    return scored.scores >= (0.5 if threshold is None else threshold)


def resampled_rates(scored: Scored, called: np.ndarray, resampling: Resampling) -> np.ndarray:
    """(2, n_resamples): sensitivity and specificity at the threshold."""
    return resample({"rates": rates_part(scored, called)}, scored.n_groups, resampling)["rates"]


def rates_part(scored: Scored, called: np.ndarray) -> Part:
    """Sensitivity and specificity of every resample, (2, r)."""
    cells = 2 * scored.is_positive + called  # rows: TN, FP, FN, TP
    by_group = np.bincount(cells * scored.n_groups + scored.groups, minlength=4 * scored.n_groups)
    table = by_group.reshape(4, scored.n_groups).astype(np.float64)

    def measure(counts: np.ndarray) -> np.ndarray:
        true_negative, false_positive, false_negative, true_positive = weigh(table, counts)
        with np.errstate(invalid="ignore"):
            sensitivity = true_positive / (true_positive + false_negative)
            specificity = true_negative / (true_negative + false_positive)
        return np.stack([sensitivity, specificity])

    return Part(measure=measure, n_rows=0)


def stated_prevalence_figures(
    scored: Scored,
    threshold: float | None,
    resampling: Resampling,
    prevalences: Sequence[float],
    sampled: Samples | None = None,
) -> dict[str, Figure]:
    """PPV and NPV by Bayes' rule from sensitivity and specificity, at other prevalences."""
    figure, names = figure_of(scored), ("ppv", "npv")
    if reason := missing_class(scored):
        return {
            f"{name}_at_prevalence_{share:g}": figure(None, reason=reason)
            for share in prevalences
            for name in names
        }
    called = called_positive(scored, threshold)
    point = np.array([called[scored.is_positive].mean(), (~called[~scored.is_positive]).mean()])
    samples = resampled_rates(scored, called, resampling) if sampled is None else sampled["rates"]
    found = {}
    for prevalence in prevalences:
        values = predictive_values(point[:, None], prevalence)[:, 0]
        rows = predictive_values(samples, prevalence)
        for name, value, row in zip(names, values, rows, strict=True):
            is_defined = bool(np.isfinite(value))
            found[f"{name}_at_prevalence_{prevalence:g}"] = figure(
                value if is_defined else None,
                stated_rates(row, scored, called == scored.is_positive, resampling) if is_defined else None,
                reason=None
                if is_defined
                else f"no image was called {'positive' if name == 'ppv' else 'negative'}",
            )
    return found


def predictive_values(rates: np.ndarray, prevalence: float) -> np.ndarray:
    """Sensitivity and specificity (2, r) -> PPV and NPV (2, r) at a prevalence; NaN where undefined."""
    sensitivity, specificity = rates
    true_positive, false_positive = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negative, false_negative = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore"):
        return np.stack(
            [
                true_positive / (true_positive + false_positive),
                true_negative / (true_negative + false_negative),
            ]
        )


def probability_figures(
    scored: Scored, resampling: Resampling, sampled: Samples | None = None
) -> dict[str, Figure]:
    """Brier score and skill, log loss, calibration slope and intercept, expected calibration error."""
    figure, groups, scores = figure_of(scored), scored.groups, scored.scores
    names = ("brier_score", "brier_skill", "log_loss")
    if scored.n_images == 0:
        fits = ("calibration_slope", "calibration_intercept", "expected_calibration_error")
        return {name: figure(None, reason="no images") for name in (*names, *fits)}
    outcome = scored.is_positive.astype(np.float64)
    brier = float(brier_score_loss(outcome, scores, pos_label=1, labels=[0, 1]))
    baseline = outcome.mean() * (1 - outcome.mean())
    values = (
        brier,
        1 - brier / baseline if baseline else None,
        float(log_loss(outcome, scores, labels=[0, 1])),
    )
    if sampled is None:
        parts = {
            "losses": _losses_part(outcome, scores, groups),
        }
        sampled = resample(parts, scored.n_groups, resampling)
    squares = (scores - outcome) ** 2
    # Skill is 1 - Brier / (share (1 - share)): its linear part in each image.
    skill = squares - brier / max(baseline, 1e-12) * (1 - 2 * outcome.mean()) * outcome
    losses = (squares, skill, _log_losses(outcome, scores))
    found = {
        name: figure(None, reason=missing_class(scored))
        if value is None
        else figure(value, stated_mean(row, scored, loss, resampling))
        for name, value, row, loss in zip(names, values, sampled["losses"], losses, strict=True)
    }
    for name, fit in (
        ("calibration_slope", calibration.calibration_slope(scored.is_positive, scores, groups)),
        ("calibration_intercept", calibration.calibration_intercept(scored.is_positive, scores, groups)),
    ):
        if fit is None:
            reason = missing_class(scored) or "the scores separate the classes perfectly, or are all the same"
            found[name] = figure(None, reason=reason)
        else:
            found[name] = figure(fit.value, fit.stated)
    found["expected_calibration_error"] = figure(
        calibration.expected_calibration_error(outcome, scores),
        calibration.NO_INTERVAL_OF_ERROR,
    )
    return found


def _log_losses(outcome: np.ndarray, scores: np.ndarray) -> np.ndarray:
    epsilon = np.finfo(np.float64).eps
    return -np.log(np.clip(np.where(outcome == 1, scores, 1 - scores), epsilon, 1 - epsilon))


def _losses_part(outcome: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Part:
    """Brier score, Brier skill and log loss of every resample, (3, r)."""
    columns = (np.ones_like(scores), outcome, (scores - outcome) ** 2, _log_losses(outcome, scores))
    by_group = np.stack([np.bincount(groups, column) for column in columns])

    def measure(counts: np.ndarray) -> np.ndarray:
        n_images, n_positives, squares, logs = weigh(by_group, counts)
        share = n_positives / n_images
        with np.errstate(invalid="ignore", divide="ignore"):
            brier = squares / n_images
            return np.stack([brier, 1 - brier / (share * (1 - share)), logs / n_images])

    return Part(measure=measure, n_rows=0)
