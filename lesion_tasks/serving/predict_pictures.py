"""Pictures, one after the other -> predictions in the same order: decoded ahead on all cores, scored in batches.

Only what is decoded ahead and one batch are in memory, however many pictures there are.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from os import cpu_count
from typing import TYPE_CHECKING, Any

from lesion_tasks.archive.picture import UnusablePictureError, refusing_damage
from lesion_tasks.catalog import InputSize
from lesion_tasks.evaluation.doubt import UNMEASURED, DoubtOf
from lesion_tasks.serving.picture_prediction import PicturePrediction

if TYPE_CHECKING:
    import numpy as np

    from lesion_tasks.serving.served_model import ServedModel

BATCH_IMAGES = 64
_IMAGES_AHEAD = 2 * BATCH_IMAGES  # decoded while a batch is being scored


@dataclass(frozen=True, kw_only=True)
class PictureToPredict:
    """A picture under its key. `load` returns a file's bytes, or pixels: uint8 (height, width, 3), RGB."""

    image: str
    load: "Callable[[], bytes | np.ndarray]"  # raises UnusablePictureError for what cannot be read
    metadata: Mapping[str, float] = field(
        default_factory=dict
    )  # age_years, is_male, size_mm; others are missing


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What is known of a picture before it is scored."""

    picture: PictureToPredict
    sha256: str | None
    pixels: (
        "np.ndarray | None"  # uint8 (side, side, 3); None where the model sees none, or nothing could be read
    )
    objection: UnusablePictureError | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenPicture:
    """A picture's prediction, and what the model saw of it; None and none of one that could not be read."""

    prediction: PicturePrediction
    pixels: "np.ndarray | None"  # uint8 (side, side, 3)
    features: "Sequence[np.ndarray]"  # float32 (C,) at each depth, where the model was loaded to tell them


def predict_pictures(
    served: "ServedModel", pictures: Iterable[PictureToPredict]
) -> Iterator[PicturePrediction]:
    """Score pictures in their order; one that cannot be read is a prediction with a reason.

    A picture's probabilities depend in their last digits on the batch that it is in: the same pictures from the same
    first one on give the same rows.
    """
    for one in see_pictures(served, pictures):
        yield one.prediction


def see_pictures(served: "ServedModel", pictures: Iterable[PictureToPredict]) -> Iterator[SeenPicture]:
    """The same, and what was seen of each."""
    size = served.input_size
    with ThreadPoolExecutor(cpu_count()) as pool:
        loaded = _ahead(pool, lambda picture: _load(picture, size), pictures)
        while batch := list(islice(loaded, BATCH_IMAGES)):
            yield from _score(served, batch)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[PictureToPredict], _Loaded], items: Iterable[PictureToPredict]
) -> Iterator[_Loaded]:
    """Results in the order of the items, of which only so many are begun before the first is asked for."""
    left = iter(items)
    begun: deque[Future[_Loaded]] = deque(pool.submit(work, item) for item in islice(left, _IMAGES_AHEAD))
    try:
        while begun:
            found = begun.popleft().result()
            begun.extend(pool.submit(work, item) for item in islice(left, 1))
            yield found
    finally:
        for one in begun:
            one.cancel()


def _load(picture: PictureToPredict, size: InputSize | None) -> _Loaded:
    from lesion_tasks.pixels.decode import decode_picture, square_of_pixels

    sha256 = None
    try:
        with refusing_damage():
            found = picture.load()
            if not isinstance(found, bytes):
                pixels = None if size is None else square_of_pixels(found, size)
            else:
                sha256 = hashlib.sha256(found).hexdigest()
                pixels = None if size is None else decode_picture(found, size)
    except UnusablePictureError as error:
        return _Loaded(picture=picture, sha256=sha256, pixels=None, objection=error)
    return _Loaded(picture=picture, sha256=sha256, pixels=pixels)


def _in_words(doubt: DoubtOf | None, *, is_predicted: bool) -> dict[str, Any]:
    """The last fields of a prediction."""
    if doubt is None:
        return {"doubt": UNMEASURED} if is_predicted else {}
    return {
        "possible": ", ".join(doubt.possible),
        "answer": doubt.answer,
        "doubt": doubt.reason,
        "strangeness": doubt.strangeness,
    }


def _score(served: "ServedModel", batch: list[_Loaded]) -> Iterator[SeenPicture]:
    import numpy as np

    usable = [one for one in batch if one.objection is None]
    scores: Iterator[tuple[list[float], DoubtOf | None, list[np.ndarray]]] = iter(())
    if usable:
        pixels = np.array([one.pixels for one in usable if one.pixels is not None])
        fields = served.metadata_fields
        known = [[one.picture.metadata.get(name, np.nan) for name in fields] for one in usable]
        metadata = np.array(known, dtype=np.float32).reshape(len(usable), len(fields))
        found = served.predict(pixels, metadata)
        kept = found.features if served.tells_features else ()
        features = [[some[row] for some in kept] for row in range(len(usable))]
        scores = iter(zip(found.p.tolist(), found.doubts, features, strict=True))
    for one in batch:
        said: dict[str, float] | None = None
        doubt: DoubtOf | None = None
        seen: list[np.ndarray] = []
        objection = one.objection
        if objection is None:
            probabilities, doubt, seen = next(scores)
            if np.isfinite(probabilities).all():
                said = dict(zip(served.classes, probabilities, strict=True))
            else:
                shown = ", ".join(f"{p:g}" for p in probabilities)
                objection = UnusablePictureError(
                    "no_number", f"the model says {shown}, expected probabilities"
                )
                doubt = None
        prediction = PicturePrediction(
            image=one.picture.image,
            sha256=one.sha256,
            prediction=None if said is None else served.decide(said),
            probabilities=said,
            threshold=served.threshold,
            model=served.training_id,
            model_sha256=served.file.model_sha256,
            reason=None if objection is None else objection.reason,
            detail=None if objection is None else objection.detail,
            **_in_words(doubt, is_predicted=objection is None),
        )
        yield SeenPicture(prediction=prediction, pixels=one.pixels, features=seen)
