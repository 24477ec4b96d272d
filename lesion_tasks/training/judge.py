"""Probabilities and labels of val -> the figures by which an epoch or a stage is kept."""

import math
from dataclasses import dataclass

import numpy as np

from lesion_tasks.metrics.digits import AUC_DIGITS
from lesion_tasks.training.model.stored_model import calibrated, fit_calibration


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How good weights are on val: by AUC first, where it was asked for, and by their loss."""

    loss: float = math.inf
    auc: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """By name, those that there are."""
        return {"loss": self.loss} | ({} if self.auc is None else {"auc": self.auc})

    def is_better_than(self, other: "Judgement") -> bool:
        """Whether its AUC is higher at `AUC_DIGITS` digits, or, at the same AUC or without one, its loss lower."""
        mine, theirs = (None if some.auc is None else round(some.auc, AUC_DIGITS) for some in (self, other))
        if mine is not None and theirs is not None and mine != theirs:
            return mine > theirs
        return self.loss < other.loss


def auc_of(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """AUC by position; of several classes the mean of each against the rest. None without an image of each class.

    `probabilities` float (n, K), `labels` int (n,).
    """
    from sklearn.metrics import roc_auc_score

    if len(np.unique(labels)) < probabilities.shape[1]:
        return None
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))


def judge_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> Judgement:
    """The AUC of val, and its cross-entropy after calibration on it.

    `probabilities` float (n, K), `labels` int (n,). Of probabilities that are not numbers the loss is none either.
    """
    if not np.isfinite(probabilities).all():
        return Judgement(loss=math.nan)
    p = calibrated(probabilities, *fit_calibration(probabilities, labels))
    loss = float(-np.mean(np.log(np.clip(p[np.arange(len(labels)), labels], 1e-7, 1))))
    return Judgement(loss=loss, auc=auc_of(probabilities, labels))
