"""A variant with folds -> its models averaged, and a score of each train and val image by a model that never saw it.

The groups of train and val are dealt out to folds. For each fold a model learns from the images of the other folds, and
stops by those of this one; test is closed to all of them. What is served is the mean of their logits (as nnU-Net does,
Isensee et al. 2021), calibrated on the out-of-fold scores. A model that is finished waits under the training's
checkpoints with its digest, so a killed training goes on with the fold, and the epoch, that it was in.
"""

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import pandas as pd
from sqlalchemy import Engine

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import AlteredObjectError, Bucket, MissingObjectError, get_verified
from lesion_tasks.catalog import SPLITS, Variant
from lesion_tasks.training.examples import Data, Examples
from lesion_tasks.training.frozen_features import feature_recipe, with_features
from lesion_tasks.training.judge import auc_of
from lesion_tasks.training.loop import OnEpoch, load_model, model_bytes
from lesion_tasks.training.model import Weights, build_extractor, head_of
from lesion_tasks.training.model.averaging import (
    average_heads,
    average_members,
    calibration_of,
    members_in,
)
from lesion_tasks.training.model.stored_model import calibrated, fit_calibration, with_calibration
from lesion_tasks.training.predict_examples import predict_examples
from lesion_tasks.training.run_spec import load_data
from lesion_tasks.training.stages import Trained, train_model

log = logging.getLogger(__name__)


def deal_folds(rows: pd.DataFrame, n_folds: int) -> pd.Series:
    """The fold, 0 to n_folds - 1, of every image of train and val in a manifest, by its id. Test has none.

    Groups are dealt out whole, those with the rarest class first, large ones before small ones, else in the order of a
    hash: every fold gets as many groups of each class, give or take one.
    """
    learned = rows[rows["subset"].isin(["train", "val"])]
    counts = learned["label"].value_counts()
    rank = {
        label: i for i, label in enumerate(sorted(counts.index, key=lambda label: (counts[label], label)))
    }
    groups = (
        pd.DataFrame({"group_id": learned["group_id"], "rank": learned["label"].map(rank)})
        .groupby("group_id")["rank"]
        .agg(["min", "size"])
    )
    order = sorted(groups.itertuples(), key=lambda group: (group[1], -group[2], _hash(str(group[0]))))
    fold_of = {}
    for i, group in enumerate(order):
        lap, place = divmod(i, n_folds)
        fold_of[group[0]] = place if lap % 2 == 0 else n_folds - 1 - place  # there and back: sizes even out
    return pd.Series(
        [fold_of[group] for group in learned["group_id"]], index=learned["isic_id"].to_numpy(), dtype=int
    )


def _hash(group_id: str) -> str:
    return hashlib.sha256(f"fold {group_id}".encode()).hexdigest()


def train_folds(
    variant: Variant,
    weights: Weights | None,
    rows: pd.DataFrame,
    data: Data,
    *,
    engine: Engine,
    bucket: Bucket,
    folder: str,
    on_epoch: OnEpoch,
) -> Trained:
    """Train a variant once for each of its folds; predictions are of train and val out of fold, and of test.

    `rows` are those of the manifest, `data` its examples; the rest is as in `train_model`. Raises UnusableInputError if
    a fold lacks a class.
    """
    folds = deal_folds(rows, variant.n_folds)
    check_folds(variant, rows, folds)
    done: list[TrainedFold] = []
    for number in range(variant.n_folds):
        n_before = sum(len(fold.epochs) for fold in done)

        def numbered(
            epoch: int, figures: dict[str, float], duration_s: float, before: int = n_before
        ) -> None:
            on_epoch(before + epoch, figures, duration_s)

        keeper = FoldKeeper(bucket, f"{folder}/fold-{number + 1}")
        fold = keeper.read()
        if fold is None:
            fold = _train_fold(
                variant,
                weights=weights,
                rows=rows,
                folds=folds,
                number=number,
                engine=engine,
                bucket=bucket,
                folder=keeper.folder,
                on_epoch=numbered,
            )
            keeper.write(fold)
        else:
            log.info("fold %d of %d is trained already", number + 1, variant.n_folds)
            for epoch, (figures, duration_s) in enumerate(fold.epochs, start=1):
                numbered(epoch, figures, duration_s)
        done.append(fold)
    members = [load_model(fold.model) for fold in done]
    if _shares_features(variant):
        served, of_test = _average_on_features(variant, weights, members, data, engine, bucket)
    else:
        served = average_members(members, variant.name)
        of_test = predict_examples(served, data.subset("test"), classes=variant.task.classes)
    return _finished(variant, data, done, served, of_test)


def _average_on_features(
    variant: Variant,
    weights: Weights | None,
    members: Sequence[keras.Model],
    data: Data,
    engine: Engine,
    bucket: Bucket,
) -> tuple[keras.Model, pd.DataFrame]:
    """The average of members whose backbone is the same, in the model once, and what it says of test."""
    extractor = build_extractor(variant, weights)
    features = with_features(
        engine,
        bucket,
        feature_recipe(variant, weights, None),
        lambda: extractor,
        {"test": data.subset("test")},
        data.sha256_by_id,
    )["test"]
    heads = [head_of(variant, member, features.n_features) for member in members]
    of_test = predict_examples(average_members(heads, variant.name), features, classes=variant.task.classes)
    return average_heads(extractor, heads, variant.name), of_test


def _shares_features(variant: Variant) -> bool:
    """Whether all folds read the same numbers of a picture: a segmenter learns anew in each of them."""
    return (
        variant.has_frozen_features
        and variant.fine_tuning is None
        and not variant.is_flip_averaged
        and not variant.is_segmented
    )


@dataclass(frozen=True, kw_only=True)
class TrainedFold:
    """A trained fold: its model, what it says of the images that it did not see, and its epochs."""

    model: bytes  # a `.keras` file, not calibrated
    held_out: pd.DataFrame
    epochs: list[tuple[dict[str, float], float]]  # figures and seconds
    facts: dict[str, Any]


def check_folds(variant: Variant, rows: pd.DataFrame, folds: pd.Series) -> None:
    """Raise UnusableInputError unless every fold holds every class of the task."""
    learned = rows[rows["isic_id"].isin(folds.index)]
    for number in range(variant.n_folds):
        held_out = learned[folds.loc[learned["isic_id"]].to_numpy() == number]
        for label in variant.task.classes:
            if label not in set(held_out["label"]):
                n_groups = learned.loc[learned["label"] == label, "group_id"].nunique()
                raise UnusableInputError(
                    f"variant {variant.name!r}: fold {number + 1} of {variant.n_folds} has no {label}, of which there "
                    f"are {n_groups} groups in train and val; expected at least one in every fold"
                )


def _train_fold(
    variant: Variant,
    *,
    weights: Weights | None,
    rows: pd.DataFrame,
    folds: pd.Series,
    number: int,
    engine: Engine,
    bucket: Bucket,
    folder: str,
    on_epoch: OnEpoch,
) -> TrainedFold:
    alone = replace(variant, n_folds=0, is_calibrated=False)
    data = load_data(engine, bucket, alone, rows_of_fold(variant, rows, folds, number), has_test=False)
    log.info(
        "fold %d of %d: %d images to learn from, %d held out",
        number + 1,
        variant.n_folds,
        len(data.train),
        len(data.val),
    )
    epochs: dict[int, tuple[dict[str, float], float]] = {}

    def note(epoch: int, figures: dict[str, float], duration_s: float) -> None:
        epochs[epoch] = figures, duration_s
        on_epoch(epoch, figures, duration_s)

    trained = train_model(alone, weights, data, engine=engine, bucket=bucket, folder=folder, on_epoch=note)
    held_out = trained.predictions["val"]
    return TrainedFold(
        model=model_bytes(trained.model),
        held_out=held_out,
        epochs=[epochs[epoch] for epoch in sorted(epochs)],
        facts={
            "n_train": len(data.train),
            "n_held_out": len(held_out),
            "auc_held_out": auc_of(held_out.to_numpy(), data.val.labels),
            **trained.facts,
        },
    )


def rows_of_fold(variant: Variant, rows: pd.DataFrame, folds: pd.Series, number: int) -> pd.DataFrame:
    """The rows of a manifest as one fold sees them: what it holds out as val, the others as train, no test.

    Of a split that draws as many of each class, those val images that it did not draw are nowhere learned from.
    """
    found = rows[rows["isic_id"].isin(folds.index)]
    is_held_out = folds.loc[found["isic_id"]].to_numpy() == number
    subset = np.where(is_held_out, "val", "train")
    is_used = np.ones(len(found), dtype=bool)
    if SPLITS[variant.split].max_per_class is not None:
        is_used = is_held_out | found["is_balanced"].to_numpy(dtype=bool)
    return found.assign(subset=subset)[is_used]


class FoldKeeper:
    """A finished fold among the checkpoints of its training; the object that names the others is written last."""

    def __init__(self, bucket: Bucket, folder: str) -> None:
        self.bucket, self.folder = bucket, folder

    def write(self, fold: TrainedFold) -> None:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            isic_ids=np.asarray(fold.held_out.index, dtype=str),
            classes=np.asarray(fold.held_out.columns, dtype=str),
            probabilities=fold.held_out.to_numpy(),
        )
        said: dict[str, Any] = {"epochs": fold.epochs, "facts": fold.facts, "sha256": {}}
        for name, data in (("model.keras", fold.model), ("held_out.npz", buffer.getvalue())):
            self.bucket.put(f"{self.folder}/{name}", data)
            said["sha256"][name] = hashlib.sha256(data).hexdigest()
        self.bucket.put(f"{self.folder}/fold.json", json.dumps(said).encode())
        for key in list(self.bucket.list_keys(f"{self.folder}/stage-")):
            self.bucket.delete(key)

    def read(self) -> TrainedFold | None:
        """The finished fold; None if it is not finished, or damaged: then it is trained again, with the same result."""
        try:
            said = json.loads(self.bucket.get(f"{self.folder}/fold.json"))
            model, held_out = (
                get_verified(self.bucket, f"{self.folder}/{name}", said["sha256"][name], kind="fold")
                for name in ("model.keras", "held_out.npz")
            )
        except MissingObjectError:
            return None
        except (AlteredObjectError, ValueError, KeyError) as damage:
            log.warning("%s is damaged (%s): this fold is trained again", self.folder, damage)
            return None
        with np.load(io.BytesIO(held_out), allow_pickle=False) as arrays:
            frame = pd.DataFrame(
                arrays["probabilities"],
                index=pd.Index(arrays["isic_ids"].astype(object), name="isic_id"),
                columns=list(arrays["classes"]),
            )
        epochs = [(figures, duration_s) for figures, duration_s in said["epochs"]]
        return TrainedFold(model=model, held_out=frame, epochs=epochs, facts=said["facts"])


def _finished(
    variant: Variant, data: Data, done: list[TrainedFold], served: keras.Model, of_test: pd.DataFrame
) -> Trained:
    out_of_fold = pd.concat([fold.held_out for fold in done])
    predictions = {
        "train": out_of_fold.loc[data.train.isic_ids],
        "val": out_of_fold.loc[data.val.isic_ids],
        "test": of_test,
    }
    facts: dict[str, Any] = {"folds": [fold.facts for fold in done]}
    if variant.is_calibrated:
        # Classes are as frequent as in life where nothing was drawn to balance them.
        fitted_on = ("train", "val") if SPLITS[variant.split].max_per_class is None else ("val",)
        labels = np.concatenate([data.subset(name).labels for name in fitted_on])
        scores = np.concatenate([predictions[name].to_numpy() for name in fitted_on])
        scale, shift = fit_calibration(scores, labels)
        served = with_calibration(served, scale, shift)
        predictions = {name: _calibrated(frame, scale, shift) for name, frame in predictions.items()}
        said = f"out-of-fold scores of {' and '.join(fitted_on)}"
        facts["calibration"] = {"scale": scale, "shift": shift, "fitted_on": said}
    return Trained(model=served, predictions=predictions, facts=facts)


def _calibrated(frame: pd.DataFrame, scale: float, shift: float) -> pd.DataFrame:
    return pd.DataFrame(
        calibrated(frame.to_numpy(), scale, shift), index=frame.index, columns=list(frame.columns)
    )


def folds_of_val(own: pd.DataFrame, val: pd.DataFrame, n_folds: int) -> pd.Series:
    """The fold of every val image of a manifest, by its id, for a training that learned from the rows `own`; -1: none.

    On another manifest than its own a training knows images, or others of their groups, from train and val.
    """
    folds = deal_folds(own, n_folds)
    known = own[own["isic_id"].isin(folds.index)]
    by_group = dict(zip(known["group_id"], folds.loc[known["isic_id"]], strict=True))
    found = [
        int(folds[isic_id]) if isic_id in folds.index else int(by_group.get(group, -1))
        for isic_id, group in zip(val["isic_id"], val["group_id"], strict=True)
    ]
    return pd.Series(found, index=val["isic_id"].to_numpy(), dtype=int)


def predict_out_of_fold(
    model: keras.Model,
    examples: Examples,
    folds: pd.Series,
    *,
    classes: Sequence[str],
    order: np.ndarray | None = None,
) -> pd.DataFrame:
    """Score examples with a stored model of folds, each by the member that did not see it; as `predict_examples`.

    `folds`: of each image, by its id; one of fold -1 was seen by no member, and is scored by all of them.
    """
    rows = np.arange(len(examples)) if order is None else order
    fold = folds.loc[examples.isic_ids[rows]].to_numpy()
    calibration = calibration_of(model)
    parts = [predict_examples(model, examples, classes=classes, order=rows[fold == -1])]
    for number, member in enumerate(members_in(model)):
        if (fold == number).any():
            found = predict_examples(member, examples, classes=classes, order=rows[fold == number])
            parts.append(found if calibration is None else _calibrated(found, *calibration))
    return pd.concat([part for part in parts if len(part)])
