"""Pictures -> the champion's predictions, from the bucket alone: no database."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import OversizedError
from lesion_tasks.archive.folder import read_regular
from lesion_tasks.archive.legible import legible
from lesion_tasks.archive.picture import MAX_FILE_BYTES, UnusablePictureError, open_picture, refusing_damage
from lesion_tasks.archive.printable import printable
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog.recipe import METADATA
from lesion_tasks.curation.cleaning import METADATA_LIMITS
from lesion_tasks.metrics.counted import plural
from lesion_tasks.serving.picture_prediction import PicturePrediction
from lesion_tasks.serving.predict_pictures import PictureToPredict, predict_pictures
from lesion_tasks.serving.served_model import (
    ServedModel,
    find_champion,
    find_model,
    load_served,
    notes_about_model,
    read_model_file,
)
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import keras
    import numpy as np

log = logging.getLogger(__name__)

Metadata = Mapping[str, float]  # age_years, is_male (1 or 0), size_mm; what is not there is missing
IS_MALE = {"male": 1.0, "female": 0.0}  # sex, as the archive has it -> is_male


class Champion:
    """The promoted model of a task: what it tells apart, its threshold, its card, and what it says of pictures."""

    def __init__(self, bucket: Bucket, served: ServedModel) -> None:
        self._bucket = bucket
        self._served = served

    @property
    def training_id(self) -> str:
        return self._served.training_id

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities; of two, the second is the positive one."""
        return self._served.classes

    @property
    def threshold(self) -> float | None:
        """The least probability of the positive class that counts as positive; None for more than two classes."""
        return self._served.threshold

    @property
    def model(self) -> "keras.Model":
        """The Keras model, preprocessing included: pixels 0 to 255 and raw metadata in, probabilities out."""
        return self._served.model

    @cached_property
    def card(self) -> str:
        """The model card of its evaluation, Markdown. Raises `MissingObjectError` where the report is gone."""
        return self._bucket.get(f"reports/{self.training_id}/model_card.md").decode()

    def predict(
        self,
        pictures: "Sequence[str | Path | np.ndarray]",
        metadata: Metadata | Sequence[Metadata] | None = None,
    ) -> list[PicturePrediction]:
        """Predict files, by path, and pixels, uint8 (height, width, 3) RGB, in their order.

        `metadata` is of all pictures, or one of each; a model that does not ask for a value ignores it. Pixels are
        named by their position. A picture that cannot be read is a prediction with a reason.
        """
        known = (
            [metadata or {}] * len(pictures)
            if metadata is None or isinstance(metadata, Mapping)
            else metadata
        )
        if len(known) != len(pictures):
            raise UnusableInputError(
                f"metadata of {plural(len(known), 'picture')}, expected one for all or one of each of {len(pictures):,}"
            )
        asked = [
            PictureToPredict(image=name, load=load, metadata=checked_metadata(values))
            for (name, load), values in zip(map(_named, range(len(pictures)), pictures), known, strict=True)
        ]
        return list(predict_pictures(self._served, asked))


def _named(position: int, picture: "str | Path | np.ndarray") -> "tuple[str, Callable[[], Any]]":
    if isinstance(picture, str | Path):
        return str(picture), partial(read_file, str(picture))
    return str(position), lambda: picture


def checked_metadata(values: Metadata) -> Metadata:
    """The values without those that are NaN, which are missing.

    Raises `UnusableInputError` for a name that no model asks for, and for a value that cannot be meant.
    """
    for name in values:
        if name not in METADATA:
            raise UnusableInputError(f"metadata {name!r}: expected some of {', '.join(METADATA)}")
    return {name: read_value(name, value, name) for name, value in values.items() if value == value}


def read_value(name: str, value: float | str, title: str) -> float:
    """A metadata value as a number. Raises `UnusableInputError` that begins with the title if it cannot be meant."""
    lowest, highest = METADATA_LIMITS.get(name, (0, 1))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not lowest <= number <= highest or (name == "is_male" and number not in {0, 1}):
        shown = printable(repr(value if isinstance(value, str) else number), 80)
        expected = "0 or 1" if name == "is_male" else f"a number from {lowest:g} to {highest:g}"
        raise UnusableInputError(f"{title} {shown}: expected {expected}, or nothing")
    return number


def open_champion(bucket: Bucket, task: str) -> Champion:
    """Load the champion of a task, or raise `UnusableInputError` if there is none or its file is altered or damaged."""
    return Champion(bucket, load_served(bucket, find_champion(bucket, task)))


def predict_images(
    workspace: Workspace,
    paths: Sequence[str],
    *,
    task: str = "malignancy",
    training_id: str | None = None,
    metadata: Metadata | None = None,
    notes: list[str] | None = None,
) -> list[PicturePrediction]:
    """Score a few pictures with a training, by default the champion of a task.

    `metadata` applies to every picture; values not given are missing to the model. Every picture is decoded, and the
    model's file read, before anything heavy is loaded: `UnusableInputError` names what cannot be used. What a reader
    should know of the answers is a line of the log each, and appended to `notes`.
    """
    for path in paths:
        _check_picture(path)
    file = find_model(workspace, task, training_id)
    known = checked_metadata(metadata or {})
    asked = [PictureToPredict(image=path, load=partial(read_file, path), metadata=known) for path in paths]
    manifest = read_model_file(workspace.bucket, file)[1]
    n_with = {name: len(paths) * (name in known) for name in manifest["variant"]["metadata"]}
    for note in notes_about_model(workspace.bucket, file, manifest, len(paths), n_with):
        log.info("%s", note)
        if notes is not None:
            notes.append(note)
    return list(predict_pictures(load_served(workspace.bucket, file), asked))


def _check_picture(path: str) -> None:
    """Decode a picture completely, or raise UnusableInputError."""
    try:
        with refusing_damage():
            open_picture(read_file(path))
    except UnusablePictureError as error:
        raise UnusableInputError(
            f"image {legible(path, 200)}: found {error}; expected a picture file (JPEG, PNG, TIFF, HEIC or DICOM)"
        ) from error


def read_file(path: str) -> bytes:
    """The file's bytes. Raises `UnusablePictureError` if it cannot be read or is larger than any picture."""
    try:
        return read_regular(Path(path), max_bytes=MAX_FILE_BYTES)[0]
    except OversizedError as error:
        raise UnusablePictureError("too_large", str(error)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        found = (getattr(error, "strerror", None) or str(error)).lower()
        raise UnusablePictureError("unreadable", found) from error
