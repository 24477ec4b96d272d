"""Features of train and val -> the head of a frozen backbone, solved as a logistic regression instead of learned."""

import logging
from collections.abc import Mapping

import keras
import numpy as np

from lesion_tasks.catalog import Variant
from lesion_tasks.training.examples import Examples
from lesion_tasks.training.judge import Judgement, judge_probabilities
from lesion_tasks.training.predict_examples import predict_examples

log = logging.getLogger(__name__)

# The inverse strengths of regularization that are tried, for features of mean 0 and deviation 1.
INVERSE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
# A linear head learns no more from more images than these; the memory it takes stays bounded.
MAX_IMAGES = 50_000
_BATCH_IMAGES = 1_024


def solve_head(
    head: keras.Model,
    variant: Variant,
    train: Examples,
    val: Examples,
    weights: Mapping[int, float] | None = None,
    row_weights: np.ndarray | None = None,
) -> tuple[float, Judgement]:
    """Write the coefficients that do best on val into a linear head's layer `probabilities`.

    `weights` are class weights, `row_weights`, float (n,), those of the examples of train. Returns the loss on train
    and the judgement on val. The same input gives the same head.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    rows = np.arange(len(train))
    if len(rows) > MAX_IMAGES:
        rows = np.sort(np.random.default_rng((variant.seed, 4)).permutation(rows)[:MAX_IMAGES])
    layer = head.get_layer("probabilities")
    before = keras.Model(head.inputs, layer.input)
    features = np.concatenate(
        [
            np.asarray(before.predict_on_batch(train.inputs(rows[i : i + _BATCH_IMAGES])))
            for i in range(0, len(rows), _BATCH_IMAGES)
        ]
    )
    labels = train.labels[rows]
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation < 1e-6] = 1.0
    features = (features - mean) / deviation
    best: tuple[float, Judgement, list[np.ndarray]] | None = None
    for strength in INVERSE_STRENGTHS:
        logistic = LogisticRegression(C=strength, max_iter=1_000, class_weight=weights and dict(weights))
        logistic.fit(features, labels, sample_weight=None if row_weights is None else row_weights[rows])
        kernel, bias = _as_layer(logistic, mean, deviation, len(variant.task.classes))
        layer.set_weights([kernel, bias])
        judged = judge_probabilities(
            predict_examples(head, val, classes=variant.task.classes, batch_images=_BATCH_IMAGES).to_numpy(),
            val.labels,
        )
        if best is None or judged.is_better_than(best[1]):
            loss = float(log_loss(labels, logistic.predict_proba(features), labels=logistic.classes_))
            best = (loss, judged, [kernel, bias])
            shown = ", ".join(f"{name} {value:.4f}" for name, value in judged.figures.items())
            log.info("head solved with inverse strength %g: val %s", strength, shown)
    if best is None:
        raise ValueError("no inverse strength of regularization to try")
    layer.set_weights(best[2])
    return best[0], best[1]


def _as_layer(
    logistic: object, mean: np.ndarray, deviation: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (C, 1) or (C, K) and bias of features as they are, not standardized. A class without images gets no bias.

    With two classes scikit-learn has one row of coefficients, as the layer has one output.
    """
    coefficients = np.asarray(logistic.coef_)  # type: ignore[attr-defined]
    intercepts = np.asarray(logistic.intercept_)  # type: ignore[attr-defined]
    if n_classes > 2:
        present = np.asarray(logistic.classes_)  # type: ignore[attr-defined]
        if len(present) == 2:  # one row stands for the second of them
            coefficients, intercepts = (
                np.stack([0 * coefficients[0], coefficients[0]]),
                np.append(0.0, intercepts),
            )
        all_coefficients = np.zeros((n_classes, coefficients.shape[1]))
        all_intercepts = np.full(n_classes, intercepts.min() - 10.0)  # never seen: hardly ever said
        all_coefficients[present], all_intercepts[present] = coefficients, intercepts
        coefficients, intercepts = all_coefficients, all_intercepts
    kernel = (coefficients / deviation).T
    return kernel.astype(np.float32), (intercepts - mean @ kernel).astype(np.float32)
