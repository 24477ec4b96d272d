"""Images and a champion -> what it says of each, what it sees in it, and facts about the picture: parts in the bucket.

A part is an object under the digest of what decides its rows: the images with their pictures and metadata, the model,
what decodes pictures, and the rules of this module. A run that was killed goes on with the next part, and a later watch
finds the parts of the months before. A part with a missing or altered picture is made again: it may be repaired.

Beside the parts of a model, `asked/<day>.json` names those that the watch until that day asked for, and when; so those
that no watch asks for any more can be told from the others.
"""

import hashlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from lesion_tasks.archive.picture import decoder_versions
from lesion_tasks.bucket import Bucket, MissingObjectError, get_verified
from lesion_tasks.catalog import Task
from lesion_tasks.catalog.canonical_json import canonical_json
from lesion_tasks.progress import progress
from lesion_tasks.serving.picture_prediction import table_schema
from lesion_tasks.serving.picture_source import ALTERED, stored_metadata, stored_picture
from lesion_tasks.serving.predict_pictures import BATCH_IMAGES, PictureToPredict, SeenPicture, see_pictures
from lesion_tasks.serving.served_model import ModelFile, ServedModel, load_served
from lesion_tasks.splits.institution_names import names_none
from lesion_tasks.watching.watched_images import position_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger(__name__)

LOOK_VERSION = 3  # raise it when the same images and model give other rows
PART_IMAGES = 8 * BATCH_IMAGES  # on average, at most
# Numbers of what the model sees that are kept of a picture; of more, every so many-th.
MAX_FEATURES = 1_024
FOLDER = "watching"
_METADATA = ("age_years", "sex", "size_mm")
# Columns of a table of predictions that say nothing here: of a part, they are the same, or the manifest's.
_NOT_KEPT = frozenset(
    {"image", "sha256", "prediction", "threshold", "model", "model_sha256", "detail", "possible"}
)
_PASSING = "-passing.parquet"  # ends the key of a part with such a reason
_PART = re.compile(r"([0-9a-f]{32})-([0-9a-f]{64})(-passing)?\.parquet")


class _Asked(BaseModel):
    """What a watch asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asked_at: datetime
    parts: list[str]  # their digests, sorted


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some images in their order, and the digest of all that decides what is found of them."""

    folder: str
    digest: str
    rows: "pd.DataFrame"


def parts_of(file: ModelFile, rows: "pd.DataFrame") -> list[Part]:
    """The images in parts: by ranges of their groups' hash, so that one image more changes one part.

    A range has PART_IMAGES images on average, at most; ranges are halved where as many images come again.
    """
    positions = rows["group_id"].map(position_of).astype(float)
    n_ranges = 1
    while len(rows) and len(rows) / positions.max() / n_ranges > PART_IMAGES:
        n_ranges *= 2
    return [
        Part(folder=folder_of(file.training_id), digest=_digest(file, part), rows=part)
        for _, part in rows.groupby((positions * n_ranges).astype(int), sort=True)
    ]


def folder_of(training_id: str) -> str:
    """Where what was seen by a model lies in the bucket."""
    return f"{FOLDER}/{training_id}"


def ask_for(
    bucket: Bucket, file: ModelFile, until: date, parts: Sequence[Part], at: datetime | None = None
) -> None:
    """Write down that the watch until a day asks for some parts (by default: now), before any of them is looked for."""
    asked = _Asked(asked_at=at or datetime.now(UTC), parts=sorted(part.digest for part in parts))
    key = f"{folder_of(file.training_id)}/asked/{until.isoformat()}.json"
    bucket.put(key, asked.model_dump_json(indent=2).encode(), content_type="application/json")


def find_unasked(bucket: Bucket, before: datetime, under: str = FOLDER) -> dict[str, dict[str, int]]:
    """Bytes by key, by folder of a training, of all below a folder that no watch has asked for since.

    That is parts, and what older watches asked for.
    """
    found: dict[str, dict[str, int]] = {}
    for key, n_bytes in bucket.list_sizes(f"{under}/"):
        found.setdefault("/".join(key.split("/")[:2]), {})[key] = n_bytes
    unasked = {name: _unasked(bucket, sizes, before) for name, sizes in found.items()}
    return {name: sizes for name, sizes in unasked.items() if sizes}


def _unasked(bucket: Bucket, sizes: Mapping[str, int], before: datetime) -> dict[str, int]:
    kept = {key: asked for key in sizes if (asked := _read_asked(bucket, key)) and asked.asked_at > before}
    wanted = {digest for asked in kept.values() for digest in asked.parts}
    found = {}
    for key, n_bytes in sizes.items():
        named = _PART.fullmatch(key.rpartition("/")[2])
        if key not in kept and (named is None or named[1] not in wanted):
            found[key] = n_bytes
    return found


def _read_asked(bucket: Bucket, key: str) -> _Asked | None:
    """What a watch asked for; None for another object, and for a damaged one: what it named is made again."""
    if not key.endswith(".json"):
        return None
    try:
        return _Asked.model_validate_json(bucket.get(key))
    except (MissingObjectError, ValueError):
        return None


def _digest(file: ModelFile, rows: "pd.DataFrame") -> str:
    known = rows[["isic_id", "sha256", *_METADATA]].astype(object)
    said = {
        "versions": [f"look {LOOK_VERSION}", *decoder_versions()],
        "model": [file.model_sha256, file.doubt_sha256],
        "images": known.where(known.notna(), None).to_numpy().tolist(),
    }
    return hashlib.sha256(canonical_json(said)).hexdigest()[:32]


def look_at(bucket: Bucket, file: ModelFile, parts: Sequence[Part]) -> int:
    """Look at every part that is not there yet for good; returns the number of images looked at."""
    left = [part for part in parts if not _is_there(bucket, part)]
    if not left:
        return 0
    served = load_served(bucket, file, tells_features=True)
    n_images = sum(len(part.rows) for part in left)
    with progress("look", n_images) as advance:
        for part in left:
            _put(bucket, part, _table(bucket, served, part.rows))
            advance(len(part.rows))
    return n_images


def _is_there(bucket: Bucket, part: Part) -> bool:
    key = find_part(bucket, part)
    return key is not None and not key.endswith(_PASSING)


def find_part(bucket: Bucket, part: Part) -> str | None:
    """The key of a part if it is there, whole. A damaged one is removed, and is made again."""
    for key in sorted(_keys(bucket, part), key=lambda key: (key.endswith(_PASSING), key)):
        named = _PART.fullmatch(key.rpartition("/")[2])
        try:
            if named is not None and bucket.digest(key) == named[2]:
                return key
        except MissingObjectError:
            continue
        log.warning("%s was changed after it was stored: its pictures are looked at again", key)
        bucket.delete(key)
    return None


def _keys(bucket: Bucket, part: Part) -> list[str]:
    return list(bucket.list_keys(f"{part.folder}/{part.digest}-"))


def _put(bucket: Bucket, part: Part, table: "pa.Table") -> None:
    import pyarrow.parquet as pq

    # Of two at once the first counts: another machine's numbers differ by a trifle.
    if _is_there(bucket, part):
        return
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    data = buffer.getvalue()
    end = _PASSING if ALTERED in table["reason"].to_pylist() else ".parquet"
    key = f"{part.folder}/{part.digest}-{hashlib.sha256(data).hexdigest()}{end}"
    bucket.put(key, data)
    for other in _keys(bucket, part):
        if other != key and other.endswith(_PASSING):
            bucket.delete(other)


def read_looks(bucket: Bucket, part: Part) -> "pd.DataFrame":
    """What was found of the images of a part, held against its digest, one row each in their order.

    Columns: isic_id, reason (why it could not be looked at), `p_` and each class, answer, doubt, strangeness, and the
    lists facts (len(FACTS)) and features. Raises `MissingObjectError` if nobody has looked yet.
    """
    import pyarrow.parquet as pq

    key = find_part(bucket, part)
    if key is None:
        raise MissingObjectError(f"{part.folder}/{part.digest}-*.parquet", bucket.url)
    sha256 = key.removesuffix(_PASSING).removesuffix(".parquet")[-64:]
    return pq.read_table(io.BytesIO(get_verified(bucket, key, sha256, kind="part"))).to_pandas()


def seen_images(
    bucket: Bucket, parts: Sequence[Part], task: Task, threshold: float | None, *, has_pictures: bool = True
) -> "pd.DataFrame":
    """The images of some parts that could be looked at, with what was found of each, as `metrics.shifts` takes them.

    Beside the columns of `read_looks`: score, called and answered; without `has_pictures` no facts and features.
    """
    import pandas as pd

    found = []
    for part in parts:
        looks = read_looks(bucket, part).drop(columns="isic_id")
        if not has_pictures:
            looks = looks.drop(columns=["facts", "features"])
        found.append(part.rows.reset_index(drop=True).join(looks))
    if not found:
        columns = [*(f"p_{name}" for name in task.classes), "answer", "doubt", "strangeness", "reason"]
        found.append(pd.DataFrame(columns=["isic_id", "group_id", "label", "attribution", *columns]))
    rows = pd.concat(found, ignore_index=True)
    return _with_calls(rows[rows["reason"].isna()].reset_index(drop=True), task, threshold)


def _with_calls(rows: "pd.DataFrame", task: Task, threshold: float | None) -> "pd.DataFrame":
    import numpy as np

    from lesion_tasks.metrics.scored import called

    p = rows[[f"p_{name}" for name in task.classes]].to_numpy(dtype=np.float64)
    if not len(rows):
        return rows.assign(score=[], called=[], answered=[])
    return rows.assign(
        score=p.max(axis=1) if task.positive is None else p[:, task.classes.index(task.positive)],
        called=np.array(task.classes, dtype=object)[called(p, threshold)],
        answered=rows["answer"].where(rows["answer"].notna(), rows["doubt"]),
        strangeness=rows["strangeness"].astype(float),
        attribution=rows["attribution"].map(lambda told: None if names_none(told) else told),
    )


def _table(bucket: Bucket, served: ServedModel, rows: "pd.DataFrame") -> "pa.Table":
    """What is found of the images of a part, in its order."""
    import pyarrow as pa

    floats = pa.list_(pa.float32())
    found = [field for field in table_schema(served.classes) if field.name not in _NOT_KEPT]
    schema = pa.schema([("isic_id", pa.string()), *found, ("facts", floats), ("features", floats)])
    pictures = see_pictures(served, (_to_see(bucket, served, row) for row in rows.to_dict("records")))
    table = []
    while batch := list(islice(pictures, BATCH_IMAGES)):
        table += [
            {
                **one.prediction.as_row(served.classes),
                "isic_id": one.prediction.image,
                # A model that tells no doubt has none: why it has none is no answer.
                "doubt": None if one.prediction.possible is None else one.prediction.doubt,
                "facts": facts,
                "features": _thinned(one.features),
            }
            for one, facts in zip(batch, _facts(batch), strict=True)
        ]
    return pa.Table.from_pylist(table, schema)


def _to_see(bucket: Bucket, served: ServedModel, row: Mapping[Any, Any]) -> PictureToPredict:
    load = partial(stored_picture, bucket, row["object_key"], row["sha256"])
    return PictureToPredict(
        image=row["isic_id"],
        load=load if served.input_size else bytes,  # a model that sees none need not wait for any
        metadata=stored_metadata(row),
    )


def _facts(batch: Sequence[SeenPicture]) -> Iterator[list[float] | None]:
    """Facts about the pictures of a batch; none of one that no model sees, None of one that could not be read."""
    import numpy as np

    from lesion_tasks.pixels.picture_facts import picture_facts

    pixels = [one.pixels for one in batch if one.pixels is not None]
    measured = iter(picture_facts(np.array(pixels)).tolist() if pixels else ())
    for one in batch:
        if one.pixels is not None:
            yield next(measured)
        else:
            yield None if one.prediction.reason else []


def _thinned(features: "Sequence[np.ndarray]") -> list[float]:
    import numpy as np

    together: np.ndarray = np.concatenate(features) if features else np.empty(0)
    return list(together[:: -(-len(together) // MAX_FEATURES) or 1].tolist())
