"""Train and evaluation rows without their pixels -> what can be told from everything but the lesion.

A probe is a small model that sees only the camera's traces or the metadata. If it ranks the images as well as
the real model does, the real model may have learned the same shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from lesion_tasks import UnusableInputError
from lesion_tasks.metrics.scored import Scored, join

MAX_DEPTH = 5
MIN_LEAF_IMAGES = 25
# Rarer values of a text column share one column: they cannot carry a leaf of their own anyway.
MAX_VALUES = 30

METADATA = ("sex", "age_years", "anatom_site", "fitzpatrick_skin_type", "size_mm")


def _columns(names: Sequence[str]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.reindex(columns=list(names))


def _is_missing(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reindex(columns=[*METADATA, "patient_id", "lesion_id"]).isna().astype(float)


# What each probe sees. A column that the frames do not carry is all missing.
PROBES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "image_type_and_size": _columns(("image_type", "width_px", "height_px")),
    "file_size": _columns(("size_bytes",)),
    "missing_values": _is_missing,
    "metadata": _columns(METADATA),
}


def fit_probes(
    train: pd.DataFrame,
    evaluated: pd.DataFrame,
    *,
    class_names: Sequence[str],
    positive_class: str | None = None,
) -> dict[str, Scored]:
    """Fit every probe on `train` and score `evaluated`: probe name -> `Scored`.

    Both frames have `isic_id`, `label`, `group_id` and whichever columns of `PROBES` are known. A decision tree of
    depth 5: seconds for the whole archive, takes missing values as they are, and needs no scaling. A probe whose
    columns never vary in `train` is left out: it can know nothing.
    """
    if train["label"].nunique() < 2:
        raise UnusableInputError(
            f"probes need two classes to fit, found {train['label'].unique().tolist()} in train"
        )
    found = {}
    for name, select in PROBES.items():
        known, asked = _numbers(select(train), select(evaluated))
        if known.shape[1] == 0:
            continue
        tree = DecisionTreeClassifier(max_depth=MAX_DEPTH, min_samples_leaf=MIN_LEAF_IMAGES, random_state=0)
        tree.fit(known, train["label"].astype(str))
        scores = pd.DataFrame(0.0, index=evaluated["isic_id"].astype(object), columns=list(class_names))
        scores[list(tree.classes_)] = tree.predict_proba(asked)
        found[name] = join(scores, evaluated, class_names=class_names, positive_class=positive_class)
    return found


def _numbers(train: pd.DataFrame, evaluated: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Both frames as float columns that vary in train: numbers as they are, texts as one column per value."""
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    for name in train.columns:
        if pd.api.types.is_numeric_dtype(train[name]):
            columns.append((train[name].to_numpy(np.float64), evaluated[name].to_numpy(np.float64)))
            continue
        for value in train[name].value_counts().index[:MAX_VALUES]:
            columns.append(_flags(train[name] == value, evaluated[name] == value))
        columns.append(_flags(train[name].isna(), evaluated[name].isna()))
    varying = [pair for pair in columns if len(np.unique(pair[0])) > 1]
    if not varying:
        return np.zeros((len(train), 0)), np.zeros((len(evaluated), 0))
    return np.column_stack([known for known, _ in varying]), np.column_stack([asked for _, asked in varying])


def _flags(train: pd.Series, evaluated: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    return train.to_numpy(np.float64), evaluated.to_numpy(np.float64)
