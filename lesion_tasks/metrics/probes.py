"""Train and evaluation rows without the lesion -> what can be predicted from everything else.

A probe is a small model that sees only traces of the archive: the camera, the file, the frame of the picture, who sent
it, the metadata, or what is missing. If everything that the real model knows can be predicted from these, it may have
learned the same shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from lesion_tasks import UnusableInputError
from lesion_tasks.metrics.scored import Scored, join

N_TREES = 60
MAX_LEAVES = 8
MIN_LEAF_IMAGES = 25
# Rarer values of a text column share one column: they are too few for a leaf of their own anyway.
MAX_VALUES = 30

METADATA = ("sex", "age_years", "anatom_site", "fitzpatrick_skin_type", "size_mm")
Trees = TypeVar("Trees", HistGradientBoostingClassifier, HistGradientBoostingRegressor)
# Columns with this prefix are facts of the decoded picture (`pixels.picture_facts`).
PICTURE_PREFIX = "picture_"
TOGETHER = "all_together"


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """`scored`: the probe's predictions. `seen` (n, columns): its input, in the same order, NaN where missing.

    `n_fitted`: the train images that it was fitted on.
    """

    scored: Scored
    seen: np.ndarray
    n_fitted: int


def _columns(names: Sequence[str]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.reindex(columns=list(names))


def _file(frame: pd.DataFrame) -> pd.DataFrame:
    """Bytes, and bytes per pixel: JPEG quality, as far as the columns of a manifest show it."""
    known = frame.reindex(columns=["size_bytes", "width_px", "height_px"]).astype(float)
    per_pixel = known["size_bytes"] / (known["width_px"] * known["height_px"])
    return pd.DataFrame({"size_bytes": known["size_bytes"], "bytes_per_pixel": per_pixel})


def _picture(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[name for name in frame.columns if str(name).startswith(PICTURE_PREFIX)]]


def _is_missing(frame: pd.DataFrame) -> pd.DataFrame:
    missing = frame.reindex(columns=[*METADATA, "patient_id", "lesion_id"]).isna().astype(float)
    return missing.add_prefix("no_")


# What each probe sees. A column that the frames do not have counts as all missing.
PROBES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "image_type_and_size": _columns(("image_type", "width_px", "height_px")),
    "file": _file,
    "picture_frame": _picture,
    "institution": _columns(("attribution", "copyright_license")),
    "anatom_site": _columns(("anatom_site",)),
    "missing_values": _is_missing,
    "metadata": _columns(METADATA),
}


def fit_probes(
    train: pd.DataFrame,
    evaluated: pd.DataFrame,
    *,
    class_names: Sequence[str],
    positive_class: str | None = None,
    unjudged: Collection[str] = (),
) -> dict[str, Probe]:
    """Fit every probe on `train` and score `evaluated`: probe name -> `Probe`.

    Both frames have `isic_id`, `label`, `group_id` and whichever columns of `PROBES` are known. Boosted trees take
    seconds for the whole archive, handle missing values, and need no scaling. A probe whose columns never vary in
    `train` is left out: it cannot know anything. `all_together` sees what all except the `unjudged` ones see, since a
    model can take two shortcuts at once.
    """
    if train["label"].nunique() < 2:
        raise UnusableInputError(
            f"probes need two classes to fit, found {train['label'].unique().tolist()} in train"
        )
    seen = {name: _numbers(select(train), select(evaluated)) for name, select in PROBES.items()}
    seen = {name: pair for name, pair in seen.items() if pair[0].shape[1]}
    judged = [pair for name, pair in seen.items() if name not in unjudged]
    if len(judged) > 1:
        seen[TOGETHER] = (
            np.column_stack([known for known, _ in judged]),
            np.column_stack([asked for _, asked in judged]),
        )
    return {
        name: _fit(known, asked, train, evaluated, class_names, positive_class)
        for name, (known, asked) in seen.items()
    }


# These tables are small, and OpenMP's threads spin while they wait for each other: as soon as another process needs a
# core, two threads take ten times as long as one.
one_thread = threadpool_limits.wrap(limits=1, user_api="openmp")


def fit_trees(kind: type[Trees], seen: np.ndarray, target: object, *, min_leaf_images: int) -> Trees:
    """A few small boosted trees, the same on every machine."""
    trees = kind(
        max_iter=N_TREES,
        max_leaf_nodes=MAX_LEAVES,
        min_samples_leaf=min_leaf_images,
        early_stopping=False,
        random_state=0,
    )
    return trees.fit(seen, target)


@one_thread
def _fit(
    known: np.ndarray,
    asked: np.ndarray,
    train: pd.DataFrame,
    evaluated: pd.DataFrame,
    class_names: Sequence[str],
    positive_class: str | None,
) -> Probe:
    trees = fit_trees(
        HistGradientBoostingClassifier, known, train["label"].astype(str), min_leaf_images=MIN_LEAF_IMAGES
    )
    ids = evaluated["isic_id"].astype(object)
    scores = pd.DataFrame(0.0, index=ids, columns=list(class_names))
    scores[list(trees.classes_)] = trees.predict_proba(asked)
    scored = join(scores, evaluated, class_names=class_names, positive_class=positive_class)
    place = pd.Index(ids).get_indexer(scored.isic_ids)
    return Probe(scored=scored, seen=asked[place], n_fitted=len(train))


def _numbers(train: pd.DataFrame, evaluated: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Both frames as float columns that vary in train: numbers unchanged, texts as one column per value."""
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
