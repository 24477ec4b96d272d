"""A `Scored` -> the measure that verdicts are about: AUC, or the mean AUC of each class against the rest."""

from __future__ import annotations

import numpy as np

from lesion_tasks.metrics.auc import Auc, measure_auc, weighted_sum
from lesion_tasks.metrics.scored import Scored


def headline_auc(scored: Scored) -> Auc | None:
    """AUC of a binary task, macro AUC of a multiclass one; None if a class has no image."""
    if scored.n_images == 0:
        return None
    if scored.is_binary:
        return measure_auc(scored.is_positive, scored.scores, scored.groups)
    return macro_auc(scored)


def macro_auc(scored: Scored) -> Auc | None:
    """Mean over classes of the AUC of one class against the rest."""
    aucs = []
    for index in range(len(scored.class_names)):
        auc = measure_auc(scored.labels == index, scored.probabilities[:, index], scored.groups)
        if auc is None:
            return None
        aucs.append(auc)
    return weighted_sum(aucs, [1 / len(aucs)] * len(aucs))


def auc_within(scored: Scored, strata: np.ndarray) -> Auc | None:
    """AUC that compares only images of the same stratum: what the model knows beyond the stratum.

    `strata` (n,) int, or (n, K) with one column per class of a multiclass task. Strata are weighted by
    M N / (M + N), which is nearly the inverse of the variance (van Elteren 1960). None if no stratum
    holds both classes.
    """
    if scored.is_binary:
        return _within(scored.is_positive, scored.scores, scored.groups, strata)
    aucs = [
        _within(scored.labels == index, scored.probabilities[:, index], scored.groups, strata[:, index])
        for index in range(len(scored.class_names))
    ]
    found = [auc for auc in aucs if auc is not None]
    return weighted_sum(found, [1 / len(found)] * len(found)) if found else None


def _within(
    is_positive: np.ndarray, scores: np.ndarray, groups: np.ndarray, strata: np.ndarray
) -> Auc | None:
    n_groups = int(groups.max()) + 1
    aucs, weights = [], []
    for stratum in np.unique(strata):
        mask = strata == stratum
        n_images, n_positives = int(mask.sum()), int(is_positive[mask].sum())
        auc = measure_auc(is_positive[mask], scores[mask], groups[mask])
        if auc is None or min(auc.n_groups_by_class) < 2:
            continue
        influence = np.zeros(n_groups)
        influence[: len(auc.influence)] = auc.influence
        aucs.append(Auc(value=auc.value, influence=influence, n_groups_by_class=auc.n_groups_by_class))
        weights.append(n_positives * (n_images - n_positives) / n_images)
    if not aucs:
        return None
    pooled = weighted_sum(aucs, [weight / sum(weights) for weight in weights])
    n_by_class = tuple(sum(auc.n_groups_by_class[side] for auc in aucs) for side in (0, 1))
    return Auc(
        value=pooled.value, influence=pooled.influence, n_groups_by_class=(n_by_class[0], n_by_class[1])
    )
