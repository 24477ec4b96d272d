"""Pictures -> the champion's predictions, from the bucket alone.

Reads only `champion.json` and the model it names: no database, and no code that the model carries. The model is loaded
in Keras's safe mode, after its digest was checked.
"""

import contextlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.picture import MAX_FILE_BYTES, Unusable, UnusablePictureError, read_picture
from lesion_tasks.bucket import Bucket, MissingObjectError, get_verified, reading_object
from lesion_tasks.catalog import InputSize
from lesion_tasks.catalog.entries import did_you_mean
from lesion_tasks.training.quiet_start import import_tensorflow
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import keras
    import numpy as np

MAX_NAME_LENGTH = 200  # of a file's name in a message

CHAMPION_KEY = "champion.json"


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The promoted model of a task and what its file says about it."""

    training_id: str
    model: "keras.Model"
    classes: tuple[str, ...]
    threshold: float | None
    recipe: Mapping[str, Any]


def open_champion(bucket: Bucket, task: str) -> Champion:
    """Load the champion of a task, or raise `UnusableInputError` if there is none or its file is damaged."""
    import_tensorflow()
    from lesion_tasks.training.loop import load_model

    said = _entry_of(bucket, task)
    with reading_object(bucket, CHAMPION_KEY):  # which may hold something that is not a key
        data = get_verified(bucket, said["model_key"], said["model_sha256"], kind="model")
    with reading_object(bucket, said["model_key"]):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            manifest = json.loads(archive.read("lesion.json"))
        return Champion(
            training_id=said["training_id"],
            model=load_model(data),
            classes=tuple(manifest["classes"]),
            threshold=manifest["threshold"],
            recipe=manifest["variant"],
        )


def _entry_of(bucket: Bucket, task: str) -> dict[str, str]:
    entry, known = None, []
    with contextlib.suppress(MissingObjectError), reading_object(bucket, CHAMPION_KEY):
        champions = json.loads(bucket.get(CHAMPION_KEY))
        known, said = list(champions), champions.get(task)
        if said is not None:
            entry = {name: str(said[name]) for name in ("training_id", "model_key", "model_sha256")}
    if entry is None:
        raise UnusableInputError(
            f"bucket {bucket.url} (LESION_BUCKET_URL): no champion of task {task!r}{did_you_mean(task, known)}, "
            f"expected one in {CHAMPION_KEY}: it has {', '.join(known) or 'none'}"
        )
    return entry


def predict_images(
    workspace: Workspace,
    paths: Sequence[str],
    *,
    task: str = "malignancy",
    metadata: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Score pictures with the champion of a task: for each its probabilities, threshold and the model's name.

    `metadata` (age_years, is_male, size_mm) applies to every picture; values not given are missing to the model.
    """
    import numpy as np

    for path in paths:
        _check_picture(path)  # before the model, which takes much longer to load
    champion = open_champion(workspace.bucket, task)
    found = []
    for path in paths:
        inputs = _inputs(champion, path, metadata or {})
        raw = np.asarray(champion.model.predict_on_batch(inputs), dtype=np.float64)[0]
        probabilities = [1.0 - raw[0], raw[0]] if len(champion.classes) == 2 else list(raw)
        found.append(
            {
                "image": path,
                "probabilities": {
                    name: round(float(p), 6) for name, p in zip(champion.classes, probabilities, strict=True)
                },
                "threshold": champion.threshold,
                "prediction": _decide(champion, probabilities),
                "model": champion.training_id,
            }
        )
    return found


def _check_picture(path: str) -> None:
    """Decode a picture completely, or raise UnusableInputError."""
    found = read_picture(_read(path))
    if isinstance(found, Unusable):
        raise _no_picture(path, f"{found.reason.replace('_', ' ')}: {found.detail}")


def _read(path: str) -> bytes:
    """Return the file's bytes; raise UnusableInputError if it cannot be read or is larger than any picture."""
    try:
        n_bytes = Path(path).stat().st_size
        if n_bytes <= MAX_FILE_BYTES:
            return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _no_picture(path, (getattr(error, "strerror", None) or str(error)).lower()) from error
    raise _no_picture(path, f"{n_bytes:,} bytes, more than the limit of {MAX_FILE_BYTES:,}")


def _no_picture(path: str, found: str) -> UnusableInputError:
    name = path if path.isprintable() else ascii(path)
    if len(name) > MAX_NAME_LENGTH:
        name = f"{name[: MAX_NAME_LENGTH // 2]}...{name[-MAX_NAME_LENGTH // 2 :]}"
    return UnusableInputError(f"image {name}: found {found}; expected a picture file (JPEG, PNG or TIFF)")


def _inputs(champion: Champion, path: str, metadata: Mapping[str, float]) -> dict[str, "np.ndarray"]:
    import numpy as np

    from lesion_tasks.pixels.decode import decode_picture

    size = InputSize.of_recipe(champion.recipe)
    inputs = {}
    for tensor in champion.model.inputs:
        if tensor.name == "metadata":
            known = [metadata.get(name, np.nan) for name in champion.recipe["metadata"]]
            inputs["metadata"] = np.array([known], dtype=np.float32)
        elif size is not None:
            try:
                inputs["pixels"] = decode_picture(_read(path), size)[None]
            except UnusablePictureError as error:
                raise _no_picture(path, str(error)) from error
    return inputs


def _decide(champion: Champion, probabilities: Sequence[float]) -> str:
    """The positive class at or above the threshold; without a threshold, the most likely class."""
    if champion.threshold is not None:
        return champion.classes[1] if probabilities[1] >= champion.threshold else champion.classes[0]
    return champion.classes[max(range(len(probabilities)), key=lambda i: probabilities[i])]
