"""A variant, its weights and its examples -> the model that is stored, and its keyed predictions.

One engine for all variants, in resumable stages: outline lesions if the variant needs it, learn (on features of a
frozen backbone if they are the same in every epoch, else on pixels), fine-tune, average over flips, calibrate.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import keras
import numpy as np
import pandas as pd
from sqlalchemy import Engine

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import FineTuning, Learning, Variant
from lesion_tasks.training.accelerator import Accelerator, find_accelerator
from lesion_tasks.training.examples import Batches, Data, Examples, WeightedBatches
from lesion_tasks.training.frozen_features import feature_recipe, with_features
from lesion_tasks.training.in_memory import InMemory, has_room_in_memory
from lesion_tasks.training.judge import Judgement, judge_probabilities
from lesion_tasks.training.learning_batches import Diagnoses, LearningBatches
from lesion_tasks.training.loop import OnEpoch, Stage, fit_logistic, train_stage
from lesion_tasks.training.model import (
    Weights,
    adapt_metadata,
    backbone_of,
    build_extractor,
    build_head,
    build_model,
    copy_head,
    set_trainable,
)
from lesion_tasks.training.model.losses import loss_for, with_auxiliary_head, with_bias_loss
from lesion_tasks.training.model.stored_model import (
    calibrated,
    finish_model,
    fit_calibration,
    inputs_of,
    with_calibration,
)
from lesion_tasks.training.optimizers import make_optimizer
from lesion_tasks.training.predict_examples import predict_examples
from lesion_tasks.training.sampling import class_weights, leaky_train_and_val, lesion_weights, pool, resample
from lesion_tasks.training.segmentation import Segmenter, train_segmenter
from lesion_tasks.training.solved_head import solve_head

log = logging.getLogger(__name__)

VAL_BATCH_IMAGES = 256
MIN_DIAGNOSIS_IMAGES = 20  # in train, for a diagnosis to be told apart by an auxiliary head


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model to store, its predictions by subset (val, test; with folds train too), and facts for its manifest."""

    model: keras.Model
    predictions: dict[str, pd.DataFrame]
    facts: dict[str, Any]


@dataclass(kw_only=True)
class _Epochs:
    """Numbers the epochs of all stages consecutively."""

    on_epoch: OnEpoch
    n_before: int = 0
    n_in_stage: int = field(default=0)

    def __call__(self, epoch: int, figures: dict[str, float], duration_s: float) -> None:
        self.n_in_stage = epoch
        self.on_epoch(self.n_before + epoch, figures, duration_s)

    def next_stage(self) -> None:
        self.n_before, self.n_in_stage = self.n_before + self.n_in_stage, 0


@dataclass(frozen=True, kw_only=True)
class _Context:
    variant: Variant
    weights: Weights | None
    data: Data
    engine: Engine
    bucket: Bucket
    folder: str
    epochs: _Epochs
    accelerator: Accelerator

    @property
    def n_classes(self) -> int:
        return len(self.variant.task.classes)


def train_model(
    variant: Variant,
    weights: Weights | None,
    data: Data,
    *,
    engine: Engine,
    bucket: Bucket,
    folder: str,
    on_epoch: OnEpoch,
    accelerator: Accelerator | None = None,
) -> Trained:
    """Train a variant; `folder` is the bucket prefix of its checkpoints. Raises UnusableInputError on bad data.

    `accelerator` defaults to what this machine has.
    """
    _check(variant, data)
    context = _Context(
        variant=variant,
        weights=weights,
        data=data,
        engine=engine,
        bucket=bucket,
        folder=folder,
        epochs=_Epochs(on_epoch=on_epoch),
        accelerator=accelerator or find_accelerator(),
    )
    if variant.architecture == "metadata_logistic":
        model = _with_metadata(build_model(variant), data.train)
        on_epoch(1, fit_logistic(model, variant, data.train), 0.0)
        return _served(context, model, {}, None)
    segmenter = _segment(context) if variant.is_segmented else None
    facts: dict[str, Any] = {} if segmenter is None else {"segmenter": segmenter.facts}
    if not variant.has_frozen_features:
        return _served(context, _learn_pixels(context, segmenter), facts, None)
    head, subsets, before = _learn_head(context, segmenter)
    if variant.fine_tuning is not None:
        model, second_stage = _fine_tune(context, head, segmenter, before)
        return _served(context, model, {**facts, "second_stage": second_stage}, None)
    model = _build(context, segmenter)
    copy_head(head, model)
    return _served(context, model, facts, None if variant.is_flip_averaged else (head, subsets))


def _check(variant: Variant, data: Data) -> None:
    present = np.unique(data.train.labels)
    if len(data.train) < variant.batch_size:
        raise UnusableInputError(
            f"variant {variant.name!r}: {len(data.train):,} train images, expected at least one batch of "
            f"{variant.batch_size}"
        )
    if len(present) < 2:
        found = ", ".join(variant.task.classes[label] for label in present)
        raise UnusableInputError(
            f"variant {variant.name!r}: every train image is {found}, expected at least two classes"
        )
    if not len(data.val_drawn) or not len(data.val):
        raise UnusableInputError(f"variant {variant.name!r}: no val image, expected some of every class")


def _with_metadata(model: keras.Model, train: Examples) -> keras.Model:
    if train.metadata is not None:
        adapt_metadata(model, train.metadata)
    return model


def _build(context: _Context, segmenter: Segmenter | None) -> keras.Model:
    model = build_model(context.variant, context.weights, segmenter and segmenter.model)
    return _with_metadata(model, context.data.train)


def _as_stored(context: _Context, learned: keras.Model, segmenter: Segmenter | None) -> keras.Model:
    """A trained model in the form in which it is stored: uncompiled, in float32, on one device."""
    if context.accelerator.is_plain:
        return keras.Model(inputs_of(learned), learned.outputs[0], name=learned.name)
    stored = _build(context, segmenter)
    stored.set_weights(learned.get_weights())
    return stored


def _segment(context: _Context) -> Segmenter:
    return train_segmenter(
        context.variant,
        context.data.train,
        context.data.val,
        engine=context.engine,
        bucket=context.bucket,
        accelerator=context.accelerator,
        on_epoch=lambda epoch, figures, seconds: None,
    )


def _learn_pixels(context: _Context, segmenter: Segmenter | None) -> keras.Model:
    """Learn end to end, in this machine's precision; returns the float32 model."""
    variant, data = context.variant, context.data
    train: Examples
    val: Examples
    if variant.sampling == "rotated_copies_leaky":
        train, val = leaky_train_and_val(pool(data.train, data.val_drawn), variant.seed)
    else:
        train, val = resample(data.train, variant.sampling, variant.seed), data.val_drawn
    # A model without pixel input is too small to gain from other precision or several devices.
    with context.accelerator.training() if variant.side_px is not None else nullcontext():
        model = _build(context, segmenter)
        learner = with_bias_loss(model, variant.bias_alpha) if variant.loss == "bias" else model
        _train(context, learner, _stage(context), train, val, "1", served=model, how=variant.learning)
    return _as_stored(context, model, segmenter)


def _learn_head(
    context: _Context, segmenter: Segmenter | None
) -> tuple[keras.Model, Mapping[str, Examples], Judgement]:
    """Learn a head on features that are computed once; returns it, the subsets as features, and how good it is."""
    variant, data = context.variant, context.data
    wanted = {"train": data.train, "val_drawn": data.val_drawn}
    if variant.fine_tuning is None and not variant.is_flip_averaged:
        wanted |= data.to_predict
    subsets = with_features(
        context.engine,
        context.bucket,
        feature_recipe(variant, context.weights, None if segmenter is None else segmenter.segmenter_id),
        lambda: build_extractor(variant, context.weights, segmenter and segmenter.model),
        wanted,
        data.sha256_by_id,
    )
    head = _with_metadata(build_head(variant, subsets["train"].n_features), data.train)
    train = resample(subsets["train"], variant.sampling, variant.seed)
    val, how = subsets["val_drawn"], variant.learning
    if how is not None and how.is_head_solved:
        weights = class_weights(train.labels, context.n_classes) if variant.is_class_weighted else None
        started = time.monotonic()
        loss, solved = solve_head(head, variant, train, val, weights, _row_weights(context, how, train))
        figures = {"loss": loss, **{f"val_{name}": value for name, value in solved.figures.items()}}
        context.epochs(1, figures, time.monotonic() - started)
        context.epochs.next_stage()
        return head, subsets, solved
    is_last = variant.fine_tuning is None
    judged = _train(
        context, head, _stage(context), train, val, "1", served=head, how=how if is_last else None
    )
    if how is not None and not is_last:
        judged = _judge(context, head, val)
    return head, subsets, judged


def _judge(context: _Context, model: keras.Model, val: Examples) -> Judgement:
    classes = context.variant.task.classes
    found = predict_examples(model, val, classes=classes, batch_images=VAL_BATCH_IMAGES)
    return judge_probabilities(found.to_numpy(), val.labels)


def _fine_tune(
    context: _Context, head: keras.Model, segmenter: Segmenter | None, judged_before: Judgement
) -> tuple[keras.Model, dict[str, Any]]:
    """Continue with the backbone unfrozen; keep the first stage's weights if val does not improve.

    Val is judged by loss, or by AUC if the variant says how the stage learns. Returns the model, and whether it
    includes the second stage.
    """
    variant, tuning = context.variant, context.variant.fine_tuning or FineTuning()
    with context.accelerator.training():
        model = _build(context, segmenter)
        copy_head(head, model)
        set_trainable(backbone_of(model), tuning.unfrozen_from, has_frozen_statistics=True)
        before = model.get_weights()
        stage = _stage(context, tuning.learning_rate, tuning.max_epochs, tuning.patience)
        train = resample(context.data.train, variant.sampling, variant.seed)
        val = context.data.val_drawn
        judged = _train(context, model, stage, train, val, "2", served=model, how=variant.learning)
        is_kept = judged.is_better_than(judged_before)
        if not is_kept:
            model.set_weights(before)
    log.info(
        "second stage %s: val %s, after the first %s",
        "kept" if is_kept else "discarded",
        *(", ".join(f"{k} {v:.4f}" for k, v in one.figures.items()) for one in (judged, judged_before)),
    )
    facts: dict[str, Any] = {
        "is_kept": is_kept,
        "val_loss": judged.loss,
        "val_loss_before": judged_before.loss,
    }
    if variant.learning is not None:
        facts |= {"val_auc": judged.auc, "val_auc_before": judged_before.auc}
    return _as_stored(context, model, segmenter), facts


def _stage(
    context: _Context, rate: float | None = None, max_epochs: int | None = None, patience: int | None = None
) -> Stage:
    variant = context.variant
    return Stage(
        name=f"variant {variant.name!r}",
        learning_rate=rate or variant.learning_rate,
        max_epochs=max_epochs or variant.max_epochs,
        patience=patience or variant.patience,
        optimizer=variant.optimizer,
        loss=loss_for(variant.loss, context.n_classes),
        metrics=("auc", "accuracy") if context.n_classes == 2 else ("categorical_accuracy",),
    )


def _train(
    context: _Context,
    model: keras.Model,
    stage: Stage,
    train: Examples,
    val: Examples,
    number: str,
    *,
    served: keras.Model,
    how: Learning | None,
) -> Judgement:
    """Run one stage; returns how good the weights are on val that it leaves in the model.

    `served` has the model's layers and gives the probabilities that are served; `how` is the recipe of learning.
    """
    variant, n_classes = context.variant, context.n_classes
    is_small = "pixels" not in [tensor.name for tensor in model.inputs]
    shared: dict[str, Any] = {
        "n_classes": n_classes,
        "n_devices": 1 if is_small else context.accelerator.n_devices,
    }
    weights = class_weights(train.labels, n_classes) if variant.is_class_weighted else None
    diagnoses = None if how is None else _diagnoses(context, how, train)
    row_weights = None if how is None else _row_weights(context, how, train)
    if how is not None:
        n_steps = stage.max_epochs * math.ceil(len(train) / variant.batch_size)
        if diagnoses is not None:
            model = with_auxiliary_head(model, len(diagnoses.names), variant.seed + 90)
        stage = _with_learning(context, stage, how, model, train, n_steps)

    def resident(compiled: keras.Model) -> InMemory:
        return InMemory(
            compiled,
            train,
            val,
            batch_size=variant.batch_size,
            n_classes=n_classes,
            seed=variant.seed,
            weights=weights,
        )

    def batches(epoch: int) -> keras.utils.PyDataset:
        drawn = Batches(train, variant.batch_size, seed=variant.seed, epoch=epoch, **shared)
        if how is not None:
            return LearningBatches(
                drawn,
                how,
                seed=variant.seed,
                epoch=epoch,
                weights=weights,
                row_weights=row_weights,
                diagnoses=diagnoses,
            )
        return WeightedBatches.of(drawn, weights)

    is_plain = how is None or not (how.is_mixing or how.n_distortions or diagnoses or row_weights is not None)
    best = train_stage(
        model,
        stage,
        batches,
        WeightedBatches.of(Batches(val, VAL_BATCH_IMAGES, **shared), weights),
        bucket=context.bucket,
        folder=f"{context.folder}/stage-{number}",
        on_epoch=context.epochs,
        in_memory=resident if is_small and is_plain and has_room_in_memory(train) else None,
        judge=None if how is None else lambda: _judge(context, served, val),
    )
    context.epochs.next_stage()
    return best


def _with_learning(
    context: _Context, stage: Stage, how: Learning, model: keras.Model, train: Examples, n_steps: int
) -> Stage:
    """A stage as a recipe of learning wants it."""
    shares = np.bincount(train.labels, minlength=context.n_classes) / len(train)
    log_shares = how.logit_adjustment * np.log(np.maximum(shares, 1 / len(train)))
    has_backbone = context.variant.backbone is not None and "pixels" in [t.name for t in model.inputs]
    return replace(
        stage,
        loss=loss_for(
            context.variant.loss,
            context.n_classes,
            how.label_smoothing,
            log_shares.tolist() if how.logit_adjustment else None,
        ),
        metrics=() if how.is_mixing else stage.metrics,  # of mixed labels they say nothing
        make_optimizer=partial(
            make_optimizer,
            how,
            model,
            learning_rate=stage.learning_rate,
            n_steps=n_steps,
            backbone=backbone_of(model) if has_backbone else None,
        ),
        auxiliary_weight=how.auxiliary_weight if "auxiliary" in model.output_names else 0.0,
        budget_s=how.max_minutes and 60 * how.max_minutes,
    )


def _row_weights(context: _Context, how: Learning, train: Examples) -> np.ndarray | None:
    """How much each train example counts by its lesion, float32 (n,); None if all count the same."""
    if how.lesion_weighting == "by_image":
        return None
    labels = train.labels if context.variant.is_class_weighted else None
    return lesion_weights(train.isic_ids, context.data.lesion_by_id, how.lesion_weighting, labels)


def _diagnoses(context: _Context, how: Learning, train: Examples) -> Diagnoses | None:
    """The diagnoses that enough train images have, for an auxiliary head; None if there is nothing to tell apart."""
    if not how.auxiliary_weight:
        return None
    by_id = context.data.diagnosis_by_id
    counts = Counter(by_id[i] for i in np.unique(train.isic_ids) if i in by_id)
    names = tuple(sorted(name for name, n in counts.items() if n >= MIN_DIAGNOSIS_IMAGES))
    log.info("auxiliary diagnoses: %s", ", ".join(f"{name} {counts[name]:,}" for name in names) or "none")
    if len(names) < 2:
        return None
    number = {name: i for i, name in enumerate(names)}
    return Diagnoses(names=names, number_by_id={i: number[d] for i, d in by_id.items() if d in number})


Head = tuple[keras.Model, Mapping[str, Examples]]


def _served(context: _Context, model: keras.Model, facts: dict[str, Any], head: Head | None) -> Trained:
    """Average over flips, calibrate on val, and predict val and test.

    With a head and its features available, they predict in place of the whole model: same numbers, no pixels read.
    """
    variant, data = context.variant, context.data
    classes = variant.task.classes
    served = finish_model(variant, model)
    answering, subsets = head or (served, data.to_predict)

    predictions = {
        subset: predict_examples(answering, subsets[subset], classes=classes) for subset in data.to_predict
    }
    if variant.is_calibrated:
        scale, shift = fit_calibration(predictions["val"].to_numpy(), data.val.labels)
        served = with_calibration(served, scale, shift)
        for frame in predictions.values():
            frame[:] = calibrated(frame.to_numpy(), scale, shift)
        facts = {**facts, "calibration": {"scale": scale, "shift": shift, "fitted_on": "val"}}
    return Trained(model=served, predictions=predictions, facts=facts)
