"""KerasHub, whose layers some models are made of: imported where a model needs it, and by nothing else.

Every stored model is opened here, in safe mode. KerasHub registers its networks when it is imported, which takes
seconds, so a file is asked first whether it has any.
"""

import importlib.util
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lesion_tasks import UnusableInputError
from lesion_tasks.training.accelerator import find_accelerator

EXTRA = "lesion-tasks[kerashub]"


def import_kerashub(who: str) -> Any:
    """The module `keras_hub`; UnusableInputError that names `who` needs it and the extra if it is not installed."""
    if importlib.util.find_spec("keras_hub") is None:
        raise UnusableInputError(
            f"{who} needs KerasHub, which is not installed: expected the extra {EXTRA}, as "
            "requirements/kerashub.lock has it"
        )
    find_accelerator()  # before KerasHub, which looks for devices itself
    import keras_hub

    return keras_hub


def needs_kerashub(path: Path) -> bool:
    """Whether a `.keras` file names networks or layers of KerasHub; False of a file that is none."""
    with suppress(OSError, KeyError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return b'"keras_hub' in archive.read("config.json")
    return False


def open_model(path: Path, who: str) -> keras.Model:
    """The model of a `.keras` file, in safe mode: no code that it carries is run. `who` is what messages call it."""
    find_accelerator()  # before the model: its weights are the first operation
    if needs_kerashub(path):
        import_kerashub(who)
    return keras.saving.load_model(path, compile=False, safe_mode=True)


def save_model(model: keras.Model, path: Path) -> None:
    """Write a `.keras` file that `open_model` gives the same weights of.

    Layers of KerasHub may store their weights in a way of their own, so what they wrote is read again.
    Raises UnusableInputError if it differs.
    """
    for layer in model._flatten_layers():
        _settle_positions(layer)
    model.save(path)
    if not needs_kerashub(path):
        return
    again = open_model(path, model.name)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        # Bytes: what is not a number (NaN) is not equal to itself.
        if np.asarray(ours).tobytes() != np.asarray(theirs).tobytes():
            raise UnusableInputError(
                f"model {model.name!r}: {theirs.path} is another in the file than in the model, expected the same"
            )


def _settle_positions(layer: keras.Layer) -> None:
    """Let DINOv2's embeddings be stored as they were learned.

    KerasHub 0.32 keeps them twice, as they were published and at the size of the pictures, stores the former, and takes
    over what the latter learned only if it adds up to less than before. `presets` makes both of one size.
    """
    learned = getattr(layer, "interpolated_position_embeddings", None)
    stored = getattr(layer, "position_embeddings", None)
    if learned is not None and stored is not None and tuple(learned.shape) == tuple(stored.shape):
        stored.assign(learned)
