"""Small evaluations for tests: rows in, a `Scored` out."""

from collections.abc import Sequence

import numpy as np

from lesion_tasks.metrics.scored import Scored, join

CLASSES = ("benign", "malignant")


def binary(
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    groups: Sequence[int] | np.ndarray | None = None,
    **attributes: Sequence[object],
) -> Scored:
    """A binary task with `malignant` as 1; each image its own group unless said otherwise."""
    ids = [f"ISIC_{index:07d}" for index in range(len(labels))]
    groups = range(len(labels)) if groups is None else groups
    rows = [
        {"isic_id": isic_id, "label": CLASSES[int(label)], "group_id": f"G{group}"}
        | {name: values[index] for name, values in attributes.items()}
        for index, (isic_id, label, group) in enumerate(zip(ids, labels, groups, strict=True))
    ]
    scored = {isic_id: float(score) for isic_id, score in zip(ids, scores, strict=True)}
    return join(scored, rows, class_names=CLASSES, positive_class="malignant")


def multiclass(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray | None = None) -> Scored:
    """Classes a, b, c, ... by index."""
    names = tuple("abcdefgh"[: probabilities.shape[1]])
    ids = [f"ISIC_{index:07d}" for index in range(len(labels))]
    groups = np.arange(len(labels)) if groups is None else groups
    rows = [
        {"isic_id": isic_id, "label": names[label], "group_id": str(group)}
        for isic_id, label, group in zip(ids, labels, groups, strict=True)
    ]
    return join(dict(zip(ids, probabilities.tolist(), strict=True)), rows, class_names=names)


def drawn(
    n_images: int,
    *,
    distance: float = 1.5,
    prevalence: float = 0.3,
    seed: int = 0,
    n_groups: int | None = None,
) -> Scored:
    """Normal scores, `distance` apart; `n_groups` makes groups of several images."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n_images) < prevalence
    scores = 1 / (1 + np.exp(-(distance * labels - distance / 2 + rng.normal(size=n_images))))
    groups = None if n_groups is None else rng.integers(0, n_groups, n_images)
    return binary(labels, scores, groups)


def drawn_multiclass(n_images: int, n_classes: int = 4, *, signal: float = 1.5, seed: int = 0) -> Scored:
    """Softmax of normal noise with `signal` on the true class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n_images)
    logits = rng.normal(size=(n_images, n_classes))
    logits[np.arange(n_images), labels] += signal
    odds = np.exp(logits)
    return multiclass(
        labels, odds / odds.sum(axis=1, keepdims=True), rng.integers(0, n_images // 2, n_images)
    )
