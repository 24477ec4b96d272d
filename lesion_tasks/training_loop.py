"""A model, train and val examples -> the model with its best weights, one resumable epoch at a time.

After every epoch the whole state (weights, optimizer, seeds, history) lies in the bucket, the pointer to it
written last. A training killed at any moment goes on after its last complete epoch, on any worker, and sees
the same rows in the same order as one that was never killed.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import Variant
from lesion_tasks.dataset import Batches, Examples
from lesion_tasks.store import MissingObjectError, Store


@dataclass(kw_only=True)
class _State:
    """Where a training stands: what the pointer object in the bucket says."""

    epoch: int = 0  # complete epochs
    best_epoch: int = 0
    best_val_loss: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)

    def is_over(self, variant: Variant) -> bool:
        return self.epoch >= variant.max_epochs or self.epoch - self.best_epoch >= variant.patience


OnEpoch = Callable[[int, dict[str, float], float], None]


def fit(
    model: keras.Model,
    variant: Variant,
    train: Examples,
    val: Examples,
    *,
    store: Store,
    folder: str,
    on_epoch: OnEpoch,
) -> keras.Model:
    """Train until val loss has not improved for `patience` epochs; returns the model with its best weights.

    `folder` is the bucket prefix of the checkpoints; `on_epoch(epoch, figures, duration_s)` is called after each
    epoch, also again for the epochs of an earlier attempt. Raises UnusableInputError when the loss is not a number.
    """
    checkpoints = _Checkpoints(store, folder)
    state = checkpoints.state()
    if state.epoch:
        model = checkpoints.model(state.epoch)
    else:
        n_classes = len(variant.task.classes)
        model.compile(
            optimizer=keras.optimizers.get(
                {"class_name": variant.optimizer, "config": {"learning_rate": variant.learning_rate}}
            ),
            loss="binary_crossentropy" if n_classes == 2 else "categorical_crossentropy",
            metrics=[keras.metrics.AUC(name="auc")]
            if n_classes == 2
            else [keras.metrics.CategoricalAccuracy(name="accuracy")],
        )
    for past in state.history:
        on_epoch(past["epoch"], past["figures"], past["duration_s"])
    while not state.is_over(variant):
        _run_epoch(model, variant, train, val, state, on_epoch)
        checkpoints.write(model, state)
    return model if state.best_epoch == state.epoch else checkpoints.model(state.best_epoch)


def _run_epoch(
    model: keras.Model, variant: Variant, train: Examples, val: Examples, state: _State, on_epoch: OnEpoch
) -> None:
    started = time.monotonic()
    n_classes = len(variant.task.classes)
    epoch = state.epoch + 1
    batches = Batches(train, variant.batch_size, n_classes=n_classes, seed=variant.seed, epoch=epoch)
    fitted = model.fit(batches, epochs=1, shuffle=False, verbose=0)
    figures = {name: float(values[-1]) for name, values in fitted.history.items()}
    if not math.isfinite(figures["loss"]):
        raise UnusableInputError(
            f"variant {variant.name!r}: the loss of epoch {epoch} is {figures['loss']}, expected a number; "
            f"a learning rate of {variant.learning_rate} may be too high"
        )
    validated = model.evaluate(Batches(val, 256, n_classes=n_classes), verbose=0, return_dict=True)
    figures |= {f"val_{name}": float(value) for name, value in validated.items()}
    duration_s = time.monotonic() - started
    state.epoch = epoch
    if figures["val_loss"] < state.best_val_loss:
        state.best_epoch, state.best_val_loss = epoch, figures["val_loss"]
    state.history.append({"epoch": epoch, "figures": figures, "duration_s": duration_s})
    on_epoch(epoch, figures, duration_s)


class _Checkpoints:
    """Models by epoch in the bucket, and the pointer that says which of them count."""

    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.folder = folder

    def _key(self, epoch: int) -> str:
        return f"{self.folder}/epoch-{epoch:04d}.keras"

    def state(self) -> _State:
        try:
            return _State(**json.loads(self.store.get(f"{self.folder}/state.json")))
        except MissingObjectError:
            return _State()

    def model(self, epoch: int) -> keras.Model:
        return load_model(self.store.get(self._key(epoch)))

    def write(self, model: keras.Model, state: _State) -> None:
        self.store.put(self._key(state.epoch), model_bytes(model))
        self.store.put(f"{self.folder}/state.json", json.dumps(state.__dict__).encode())
        for key in list(self.store.list_keys(f"{self.folder}/epoch-")):
            if key not in {self._key(state.epoch), self._key(state.best_epoch)}:
                self.store.delete(key)


def model_bytes(model: keras.Model) -> bytes:
    """A model as the bytes of a `.keras` file, optimizer state included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def load_model(data: bytes) -> keras.Model:
    """Load a `.keras` file in safe mode: no code that it carries is run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        return keras.saving.load_model(path, safe_mode=True)


def fit_logistic(model: keras.Model, variant: Variant, train: Examples) -> dict[str, float]:
    """Fit a metadata logistic regression with scikit-learn and write its coefficients into the Keras model.

    The model keeps imputation, indicators and scaling inside and is stored and served like every other.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    inputs = keras.Model(model.inputs, model.get_layer("with_indicators").output)
    features = np.asarray(inputs.predict_on_batch(train.inputs(np.arange(len(train)))))
    logistic = LogisticRegression(max_iter=1_000, random_state=variant.seed).fit(features, train.labels)
    model.get_layer("probabilities").set_weights([logistic.coef_.T, logistic.intercept_])
    return {"loss": float(log_loss(train.labels, logistic.predict_proba(features)))}
