"""A model, train and val batches -> the model with its best weights, one resumable epoch at a time.

After every epoch everything that decides the next one (weights, optimizer, seeds of dropout and augmentation,
history) is in the bucket, the pointer to it written last. A training killed at any moment continues after its last
complete epoch, on any worker, and sees the same rows in the same order as one that was never killed.
"""

import hashlib
import io
import json
import logging
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, MissingObjectError
from lesion_tasks.catalog import Variant
from lesion_tasks.scratch import scratch_file
from lesion_tasks.training.batch_norm import BatchStatistics
from lesion_tasks.training.examples import Examples
from lesion_tasks.training.in_memory import InMemory
from lesion_tasks.training.judge import Judgement
from lesion_tasks.training.model.kerashub import open_model, save_model
from lesion_tasks.training.optimizers import AveragingAdamW

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a model learns: everything except the data."""

    name: str  # for messages
    learning_rate: float
    max_epochs: int
    patience: int  # epochs without a better val loss before it stops
    loss: str | keras.losses.Loss
    metrics: tuple[str, ...] = ()  # names in METRICS
    optimizer: str = "adam"
    make_optimizer: Callable[[], AveragingAdamW] | None = None  # in place of `optimizer` at `learning_rate`
    auxiliary_weight: float = 0.0  # of the loss of a second output, `auxiliary`; 0: there is none
    budget_s: float | None = None  # no epoch begins that would end later, if it takes as long as the last


METRICS: dict[str, Callable[[], keras.metrics.Metric]] = {
    "auc": lambda: keras.metrics.AUC(name="auc"),
    "accuracy": lambda: keras.metrics.BinaryAccuracy(name="accuracy"),
    "categorical_accuracy": lambda: keras.metrics.CategoricalAccuracy(name="accuracy"),
    "overlap": lambda: keras.metrics.BinaryIoU(target_class_ids=[1], name="overlap"),
}


@dataclass(kw_only=True)
class _State:
    """The state of a stage: the content of the pointer object in the bucket."""

    epoch: int = 0  # complete epochs
    best_epoch: int = 0
    best_val_loss: float = math.inf
    best_val_auc: float | None = None  # where AUC decides
    history: list[dict[str, Any]] = field(default_factory=list)
    sha256_by_epoch: dict[str, str] = field(default_factory=dict)  # of the valid checkpoints

    def is_over(self, stage: Stage) -> bool:
        if self.epoch >= stage.max_epochs or self.epoch - self.best_epoch >= stage.patience:
            return True
        # Counted over all attempts, from what was written down: a resumed stage ends where it would have ended.
        durations = [past["duration_s"] for past in self.history]
        return (
            bool(durations) and stage.budget_s is not None and sum(durations) + durations[-1] > stage.budget_s
        )

    @property
    def best(self) -> Judgement:
        return Judgement(loss=self.best_val_loss, auc=self.best_val_auc)


OnEpoch = Callable[[int, dict[str, float], float], None]


def train_stage(
    model: keras.Model,
    stage: Stage,
    train_batches: Callable[[int], keras.utils.PyDataset],
    val_batches: keras.utils.PyDataset,
    *,
    bucket: Bucket,
    folder: str,
    on_epoch: OnEpoch,
    in_memory: Callable[[keras.Model], InMemory] | None = None,
    judge: Callable[[], Judgement] | None = None,
) -> Judgement:
    """Train until val has not improved for `patience` epochs, load the best weights, return how good they are.

    `train_batches(epoch)` returns the batches of an epoch, counted from 1. `folder` is the bucket prefix of the
    checkpoints; `on_epoch(epoch, figures, duration_s)` is called after each epoch, and again for the epochs of an
    earlier attempt. Batch norm that learns is judged, and kept, with statistics measured over batches of the epoch that
    ends. `in_memory` makes an object that runs the epochs in place of the batches. `judge` judges the
    model's weights in place of the val batches. Raises UnusableInputError if the loss is not a number.
    """
    model.compile(
        **_losses(stage),
        optimizer=stage.make_optimizer()
        if stage.make_optimizer is not None
        else keras.optimizers.get(
            {"class_name": stage.optimizer, "config": {"learning_rate": stage.learning_rate}}
        ),
        jit_compile=False,  # see accelerator.py
    )
    model.optimizer.build(model.trainable_variables)
    checkpoints = _Checkpoints(bucket, folder, stage)
    state = checkpoints.resume(model)
    for past in state.history:
        on_epoch(past["epoch"], past["figures"], past["duration_s"])
    resident = None if in_memory is None or state.is_over(stage) else in_memory(model)
    statistics = BatchStatistics(model)
    while not state.is_over(stage):
        started = time.monotonic()
        if resident is not None:
            figures = resident.train(state.epoch + 1)
        else:
            fitted = model.fit(train_batches(state.epoch + 1), epochs=1, shuffle=False, verbose=0)
            figures = {_plain(name): float(values[-1]) for name, values in fitted.history.items()}
        with _averaged(model):
            statistics.measure(train_batches(state.epoch + 1))
            if judge is not None:
                validated = judge().figures
            elif resident is not None:
                validated = resident.validate()
            else:
                validated = model.evaluate(val_batches, verbose=0, return_dict=True)
        figures |= {f"val_{name}": float(value) for name, value in validated.items()}
        duration_s = time.monotonic() - started
        _end_epoch(stage, state, figures, duration_s, is_judged_by_auc=judge is not None)
        on_epoch(state.epoch, figures, state.history[-1]["duration_s"])
        checkpoints.write(model, state)
    if state.best_epoch != state.epoch:
        checkpoints.restore(model, state, state.best_epoch)
    if (averages := _averages_of(model)) is not None:
        averages.put_into(model.trainable_variables)
    return state.best


def _losses(stage: Stage) -> dict[str, Any]:
    """Loss and metrics for `compile`."""
    metrics = [METRICS[name]() for name in stage.metrics]
    if not stage.auxiliary_weight:
        return {"loss": stage.loss, "metrics": metrics}
    return {
        "loss": {"probabilities": stage.loss, "auxiliary": "categorical_crossentropy"},
        "loss_weights": {"probabilities": 1.0, "auxiliary": stage.auxiliary_weight},
        "metrics": {"probabilities": metrics},
    }


def _plain(name: str) -> str:
    """The name of a figure without that of its output, where it has two."""
    return name if name == "probabilities_loss" else name.removeprefix("probabilities_")


def _averages_of(model: keras.Model) -> AveragingAdamW | None:
    """The optimizer that keeps averages of a model's weights, if one does."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # where one scales the loss
    return optimizer if isinstance(optimizer, AveragingAdamW) and optimizer.use_ema else None


@contextmanager
def _averaged(model: keras.Model) -> Iterator[None]:
    """A context in which a model has the averages of its weights, if any are kept."""
    averages = _averages_of(model)
    if averages is None:
        yield
        return
    own = [np.array(variable) for variable in model.trainable_variables]
    averages.put_into(model.trainable_variables)
    yield
    for variable, array in zip(model.trainable_variables, own, strict=True):
        variable.assign(array)


def _end_epoch(
    stage: Stage, state: _State, figures: dict[str, float], duration_s: float, *, is_judged_by_auc: bool
) -> None:
    """Add the epoch to the state; raise if its loss is not a number."""
    epoch = state.epoch + 1
    for name in ("loss", "val_loss"):
        if not math.isfinite(figures[name]):
            raise UnusableInputError(
                f"{stage.name}: {name} of epoch {epoch} is {figures[name]}, expected a number; "
                f"a learning rate of {stage.learning_rate} may be too high"
            )
    state.epoch = epoch
    judged = Judgement(loss=figures["val_loss"], auc=figures.get("val_auc") if is_judged_by_auc else None)
    if judged.is_better_than(state.best):
        state.best_epoch, state.best_val_loss, state.best_val_auc = epoch, judged.loss, judged.auc
    state.history.append({"epoch": epoch, "figures": figures, "duration_s": duration_s})


class _Checkpoints:
    """Variables by epoch in the bucket, and the pointer that says which of them are valid."""

    def __init__(self, bucket: Bucket, folder: str, stage: Stage) -> None:
        self.bucket = bucket
        self.folder = folder
        self.stage = stage

    def _key(self, epoch: int) -> str:
        return f"{self.folder}/epoch-{epoch:04d}.npz"

    def resume(self, model: keras.Model) -> _State:
        """Load the last complete epoch into the model; if a checkpoint is damaged, start over.

        Starting over gives the same weights, since seed and epoch decide everything: only time is lost.
        """
        try:
            state = _State(**json.loads(self.bucket.get(f"{self.folder}/state.json")))
            if state.epoch:
                first = _variables(model)
                self.restore(model, state, state.epoch)
                if state.best_epoch != state.epoch:
                    self._read(state, state.best_epoch, first)
        except MissingObjectError as missing:
            if "state.json" not in str(missing):
                log.warning("%s: %s; training starts over", self.stage.name, missing)
            return _State()
        except (ValueError, TypeError) as damage:
            log.warning("%s: checkpoint is damaged (%s); training starts over", self.stage.name, damage)
            return _State()
        return state

    def restore(self, model: keras.Model, state: _State, epoch: int) -> None:
        variables = _variables(model)
        for variable, array in zip(variables, self._read(state, epoch, variables), strict=True):
            variable.assign(array)

    def _read(self, state: _State, epoch: int, expected: list[keras.Variable]) -> list[np.ndarray]:
        data = self.bucket.get(self._key(epoch))
        found = hashlib.sha256(data).hexdigest()
        if found != state.sha256_by_epoch.get(str(epoch)):
            raise ValueError(f"{self._key(epoch)} has SHA-256 {found[:12]}, not the one that was written")
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                found_arrays = [arrays[str(i)] for i in range(len(arrays.files))]
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{self._key(epoch)}: {error}") from error
        if [a.shape for a in found_arrays] != [tuple(v.shape) for v in expected]:
            raise ValueError(f"{self._key(epoch)} holds variables whose shapes differ from the model's")
        return found_arrays

    def write(self, model: keras.Model, state: _State) -> None:
        buffer = io.BytesIO()
        arrays = {str(i): np.asarray(variable) for i, variable in enumerate(_variables(model))}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        data = buffer.getvalue()
        self.bucket.put(self._key(state.epoch), data)
        kept = {str(state.epoch), str(state.best_epoch)}
        state.sha256_by_epoch[str(state.epoch)] = hashlib.sha256(data).hexdigest()
        state.sha256_by_epoch = {epoch: s for epoch, s in state.sha256_by_epoch.items() if epoch in kept}
        self.bucket.put(f"{self.folder}/state.json", json.dumps(asdict(state)).encode())
        for key in list(self.bucket.list_keys(f"{self.folder}/epoch-")):
            if key not in {self._key(state.epoch), self._key(state.best_epoch)}:
                self.bucket.delete(key)


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Weights, batch-norm statistics, seeds of dropout and augmentation, and the optimizer's variables."""
    return [*model.variables, *model.optimizer.variables]


def model_bytes(model: keras.Model) -> bytes:
    """A model as the bytes of a `.keras` file."""
    with scratch_file("model.keras") as path:
        save_model(model, path)
        return path.read_bytes()


def load_model(data: bytes) -> keras.Model:
    """Load a `.keras` file in safe mode: no code that it carries is run."""
    with scratch_file("model.keras") as path:
        path.write_bytes(data)
        return open_model(path, "a stored model")


def fit_logistic(model: keras.Model, variant: Variant, train: Examples) -> dict[str, float]:
    """Fit a metadata logistic regression with scikit-learn and write its coefficients into the Keras model.

    Imputation, indicators and scaling stay inside the model, which is stored and served like every other.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    inputs = keras.Model(model.inputs, model.get_layer("with_indicators").output)
    features = np.asarray(inputs.predict_on_batch(train.inputs(np.arange(len(train)))))
    logistic = LogisticRegression(max_iter=1_000, random_state=variant.seed).fit(features, train.labels)
    model.get_layer("probabilities").set_weights([logistic.coef_.T, logistic.intercept_])
    return {"loss": float(log_loss(train.labels, logistic.predict_proba(features)))}
