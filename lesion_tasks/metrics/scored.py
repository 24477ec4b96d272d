"""Predictions by image id + manifest rows -> `Scored`: labels and probabilities, joined only by key.

Everything in this folder starts from a `Scored`. There is no way to build one from two arrays that merely have the same
length: that mistake (predictions paired with the wrong rows) turns a good model's AUC into 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lesion_tasks import UnusableInputError

# The attributes that define slices; a column that the manifest does not have counts as all missing.
ATTRIBUTES = (
    "sex",
    "age_years",
    "anatom_site",
    "fitzpatrick_skin_type",
    "size_mm",
    "image_type",
    "diagnosis_confirm_type",
    "attribution",
)

# float32 softmax rows miss 1 by about 1e-6; a row that misses it by more is not a distribution.
PROBABILITY_SUM_TOLERANCE = 1e-3

Predictions = Mapping[str, "float | Sequence[float]"] | pd.DataFrame
ManifestRows = Iterable[Mapping[str, Any]] | pd.DataFrame


def called(probabilities: np.ndarray, threshold: float | None, positive: int = 1) -> np.ndarray:
    """(n, K) -> (n,) class index: `positive` from the threshold on, of two; without one, the most likely."""
    if threshold is None:
        return probabilities.argmax(axis=1)
    return np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """One model's predictions on one subset, every row under its image id.

    `isic_ids` (n,) str, `labels` (n,) index into `class_names`, `probabilities` (n, K) float64 whose rows
    sum to 1, `group_ids` (n,) str, `attributes` n rows with the columns `ATTRIBUTES`. `positive_class` is
    the class whose probability is the score of a binary task, None for more than two classes.
    """

    isic_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    group_ids: np.ndarray
    class_names: tuple[str, ...]
    positive_class: str | None
    attributes: pd.DataFrame

    @property
    def is_binary(self) -> bool:
        return self.positive_class is not None

    @property
    def n_images(self) -> int:
        return len(self.labels)

    @cached_property
    def groups(self) -> np.ndarray:
        """(n,) int: the group of each image, numbered from 0 without gaps."""
        return pd.factorize(self.group_ids)[0]

    @cached_property
    def n_groups(self) -> int:
        return int(self.groups.max()) + 1 if self.n_images else 0

    @cached_property
    def is_positive(self) -> np.ndarray:
        """(n,) bool. Binary tasks only."""
        return self.labels == self._positive_index

    @cached_property
    def scores(self) -> np.ndarray:
        """(n,) P(positive class). Binary tasks only."""
        return np.ascontiguousarray(self.probabilities[:, self._positive_index])

    @property
    def n_positives(self) -> int | None:
        """Images of the positive class; None if there are more than two classes."""
        return int(self.is_positive.sum()) if self.is_binary else None

    @property
    def class_counts(self) -> dict[str, int]:
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def predicted(self, threshold: float | None = None) -> np.ndarray:
        """(n,) class index: positive where P(positive) >= threshold; without a threshold, the most likely."""
        return called(self.probabilities, threshold, 1 if threshold is None else self._positive_index)

    def where(self, mask: np.ndarray) -> Scored:
        """The rows where `mask` (n,) is true."""
        return Scored(
            isic_ids=self.isic_ids[mask],
            labels=self.labels[mask],
            probabilities=self.probabilities[mask],
            group_ids=self.group_ids[mask],
            class_names=self.class_names,
            positive_class=self.positive_class,
            attributes=self.attributes[mask],
        )

    def against(self, class_name: str) -> Scored:
        """This class against the rest, as a binary `Scored` with the classes `rest` and `class_name`."""
        index = self.class_names.index(class_name)
        score = self.probabilities[:, index]
        return Scored(
            isic_ids=self.isic_ids,
            labels=(self.labels == index).astype(np.intp),
            probabilities=np.column_stack([1 - score, score]),
            group_ids=self.group_ids,
            class_names=("rest", class_name),
            positive_class=class_name,
            attributes=self.attributes,
        )

    @property
    def _positive_index(self) -> int:
        if self.positive_class is None:
            raise TypeError(f"a task of {len(self.class_names)} classes has no positive class")
        return self.class_names.index(self.positive_class)


def join(
    predictions_by_key: Predictions,
    manifest_rows: ManifestRows,
    *,
    class_names: Sequence[str],
    positive_class: str | None = None,
) -> Scored:
    """Join predictions to the manifest's rows of one subset, by image id.

    `predictions_by_key`: image id -> the probabilities in the order of `class_names` (for two classes, P(positive
    class) is enough); or a frame with the ids as index and one column per class name, in any order.
    `manifest_rows`: mappings (or a frame) with `isic_id`, `label` (a class name), `group_id`, and as many of
    `ATTRIBUTES` as are known. The result is sorted by image id, whatever the order of the input.

    Raises UnusableInputError if the two id sets differ, an id repeats, a label is not among `class_names`, a group
    is missing, or a row of probabilities is not a distribution.
    """
    classes = tuple(class_names)
    _check_classes(classes, positive_class)
    rows = _manifest_frame(manifest_rows)
    ids, probabilities = _prediction_arrays(predictions_by_key, classes, positive_class)
    _check_ids(ids, rows.index)
    order = np.argsort(ids)
    ids, probabilities = ids[order], probabilities[order]
    rows = rows.loc[ids]
    labels = pd.Index(classes).get_indexer(pd.Index(rows["label"]))
    if (labels < 0).any():
        unknown = sorted({str(label) for label in rows["label"][labels < 0]})
        raise UnusableInputError(
            f"manifest labels {unknown} are not among the model's classes {list(classes)}"
        )
    if rows["group_id"].isna().any():
        raise UnusableInputError(
            f"{int(rows['group_id'].isna().sum())} manifest rows have no group_id, expected none"
        )
    _check_probabilities(ids, probabilities)
    return Scored(
        isic_ids=ids,
        labels=labels.astype(np.intp),
        probabilities=probabilities,
        group_ids=rows["group_id"].to_numpy(dtype=object),
        class_names=classes,
        positive_class=positive_class,
        attributes=rows.reindex(columns=list(ATTRIBUTES)).reset_index(drop=True),
    )


def _check_classes(classes: tuple[str, ...], positive_class: str | None) -> None:
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise UnusableInputError(f"class names are {list(classes)}, expected two or more distinct ones")
    if len(classes) == 2 and positive_class not in classes:
        raise UnusableInputError(f"positive class is {positive_class!r}, expected one of {list(classes)}")
    if len(classes) > 2 and positive_class is not None:
        raise UnusableInputError(
            f"positive class is {positive_class!r}, expected none with {len(classes)} classes"
        )


def _manifest_frame(manifest_rows: ManifestRows) -> pd.DataFrame:
    frame = (
        manifest_rows
        if isinstance(manifest_rows, pd.DataFrame)
        else pd.DataFrame.from_records(list(manifest_rows))
    )
    if "isic_id" not in frame.columns and frame.index.name == "isic_id":
        frame = frame.reset_index()
    missing = sorted({"isic_id", "label", "group_id"} - set(frame.columns))
    if missing:
        raise UnusableInputError(f"manifest rows lack {missing}, found {sorted(map(str, frame.columns))}")
    frame = frame.set_index(frame["isic_id"].astype(object))
    _check_unique("manifest rows", frame.index)
    return frame


def _prediction_arrays(
    predictions: Predictions, classes: tuple[str, ...], positive_class: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) and probabilities (n, K) in the order of `classes`."""
    if isinstance(predictions, pd.DataFrame):
        if set(predictions.columns) != set(classes):
            found = sorted(map(str, predictions.columns))
            raise UnusableInputError(f"prediction columns are {found}, expected {sorted(classes)}")
        _check_unique("predictions", predictions.index)
        return predictions.index.to_numpy(dtype=object), predictions[list(classes)].to_numpy(dtype=np.float64)
    ids = np.array(list(predictions), dtype=object)
    lengths = {np.size(value) for value in predictions.values()}
    if len(lengths) > 1:
        raise UnusableInputError(
            f"predictions have {sorted(lengths)} numbers each, not all of the same length"
        )
    values = np.array(
        [np.ravel(value) for value in predictions.values()] or np.zeros((0, len(classes))), np.float64
    )
    if values.shape[1] == 1 and positive_class is not None:
        positive = values[:, 0]
        pair = [1 - positive, positive] if classes[1] == positive_class else [positive, 1 - positive]
        values = np.column_stack(pair)
    if values.shape[1] != len(classes):
        raise UnusableInputError(
            f"predictions have {values.shape[1]} columns, expected one per class: {list(classes)}"
        )
    return ids, values


def _check_unique(what: str, index: pd.Index) -> None:
    if not index.is_unique:
        examples = sorted(map(str, index[index.duplicated()].unique()[:5]))
        raise UnusableInputError(f"{what} name an image more than once: {examples}")


def _check_ids(prediction_ids: np.ndarray, manifest_ids: pd.Index) -> None:
    predicted = pd.Index(prediction_ids)
    without_row, without_prediction = predicted.difference(manifest_ids), manifest_ids.difference(predicted)
    if len(without_row) or len(without_prediction):
        examples = [*map(str, without_row[:3]), *map(str, without_prediction[:3])]
        raise UnusableInputError(
            f"ids differ: {len(without_row)} predictions have no manifest row and {len(without_prediction)} manifest "
            f"rows have no prediction, for example {examples}; expected the same ids on both sides"
        )


def _check_probabilities(ids: np.ndarray, probabilities: np.ndarray) -> None:
    is_unusable = ~(
        np.isfinite(probabilities).all(axis=1)
        & (probabilities >= 0).all(axis=1)
        & (probabilities <= 1).all(axis=1)
        & (np.abs(probabilities.sum(axis=1) - 1) <= PROBABILITY_SUM_TOLERANCE)
    )
    if is_unusable.any():
        first = int(np.flatnonzero(is_unusable)[0])
        raise UnusableInputError(
            f"{int(is_unusable.sum())} predictions are not probabilities summing to 1, "
            f"for example {ids[first]}: {probabilities[first].tolist()}"
        )
