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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from os import cpu_count
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from lesion_tasks.archive.picture import UnusablePictureError, decoder_versions, refusing_damage
from lesion_tasks.bucket import AlteredObjectError, Bucket, MissingObjectError, get_verified
from lesion_tasks.catalog import Task
from lesion_tasks.catalog.canonical_json import canonical_json
from lesion_tasks.evaluation.doubt import Looked
from lesion_tasks.progress import progress
from lesion_tasks.serving.served_model import ModelFile, ServedModel, load_served
from lesion_tasks.splits.institution_names import names_none
from lesion_tasks.watching.watched_images import position_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from lesion_tasks.serving.inference_graph import InferenceGraph

log = logging.getLogger(__name__)

LOOK_VERSION = 2  # raise it when the same images and model give other rows
BATCH_IMAGES = 64
PART_IMAGES = 8 * BATCH_IMAGES  # on average, at most
# Numbers of what the model sees that are kept of a picture; of more, every so many-th.
MAX_FEATURES = 1_024
FOLDER = "watching"
_METADATA = ("age_years", "sex", "size_mm")
_ALTERED = "altered"  # a reason that may be gone next time
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


def find_unasked(bucket: Bucket, before: datetime) -> dict[str, dict[str, int]]:
    """Bytes by key, by folder, of all that no watch has asked for since: parts, and what older watches asked for."""
    found: dict[str, dict[str, int]] = {}
    for key, n_bytes in bucket.list_sizes(f"{FOLDER}/"):
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
    served = load_served(bucket, file)
    from lesion_tasks.serving.inference_graph import inference_graph

    asked = inference_graph(Looked(served.model).watched or served.model)
    n_images = sum(len(part.rows) for part in left)
    with progress("look", n_images) as advance, ThreadPoolExecutor(cpu_count()) as pool:
        for part in left:
            _put(bucket, part, _table(bucket, served, asked, part.rows, pool))
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
    end = _PASSING if _ALTERED in table["reason"].to_pylist() else ".parquet"
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


def _table(
    bucket: Bucket,
    served: ServedModel,
    asked: "InferenceGraph",
    rows: "pd.DataFrame",
    pool: ThreadPoolExecutor,
) -> "pa.Table":
    import pyarrow as pa

    floats = pa.list_(pa.float32())
    schema = pa.schema(
        [
            ("isic_id", pa.string()),
            ("reason", pa.string()),
            *((f"p_{name}", pa.float64()) for name in served.classes),
            ("answer", pa.string()),
            ("doubt", pa.string()),
            ("strangeness", pa.float64()),
            ("facts", floats),
            ("features", floats),
        ]
    )
    found = [
        one
        for start in range(0, len(rows), BATCH_IMAGES)
        for one in _seen(bucket, served, asked, rows.iloc[start : start + BATCH_IMAGES], pool)
    ]
    return pa.Table.from_pylist(found, schema)


def _seen(
    bucket: Bucket,
    served: ServedModel,
    asked: "InferenceGraph",
    rows: "pd.DataFrame",
    pool: ThreadPoolExecutor,
) -> Iterator[dict[str, Any]]:
    """One batch, in its order."""
    import numpy as np

    from lesion_tasks.pixels.picture_facts import picture_facts
    from lesion_tasks.training.examples import metadata_matrix

    loaded = list(
        pool.map(
            lambda row: _load(bucket, served, *row), zip(rows["object_key"], rows["sha256"], strict=True)
        )
    )
    is_usable = np.array([not isinstance(one, str) for one in loaded])
    answers: Iterator[dict[str, Any]] = iter(())
    if is_usable.any():
        kept = rows[is_usable]
        pixels = np.array([one for one in loaded if isinstance(one, np.ndarray)])
        p, features = served.answer(asked, pixels, metadata_matrix(kept, served.metadata_fields))
        doubts = served.doubts(p, features)
        facts = picture_facts(pixels) if served.input_size else np.empty((len(p), 0), dtype=np.float32)
        seen = _thinned(features, len(p))
        answers = iter(
            {
                "reason": None if np.isfinite(probabilities).all() else "no_number",
                **{
                    f"p_{name}": float(value)
                    for name, value in zip(served.classes, probabilities, strict=True)
                },
                "answer": doubt.answer if doubt else None,
                "doubt": doubt.reason if doubt else None,
                "strangeness": doubt.strangeness if doubt else None,
                "facts": measured.tolist(),
                "features": numbers.tolist(),
            }
            for probabilities, doubt, measured, numbers in zip(p, doubts, facts, seen, strict=True)
        )
    for isic_id, one in zip(rows["isic_id"], loaded, strict=True):
        yield {"isic_id": isic_id} | ({"reason": one} if isinstance(one, str) else next(answers))


def _load(bucket: Bucket, served: ServedModel, key: str, sha256: str) -> "np.ndarray | str | None":
    """The pixels of a picture; a reason if it cannot be read; None where the model sees none."""
    from lesion_tasks.pixels.decode import decode_picture

    if served.input_size is None:
        return None
    try:
        with refusing_damage():
            return decode_picture(get_verified(bucket, key, sha256, kind="picture"), served.input_size)
    except (AlteredObjectError, MissingObjectError):
        return _ALTERED
    except UnusablePictureError as error:
        return str(error.reason)


def _thinned(features: "Sequence[np.ndarray]", n: int) -> "np.ndarray":
    import numpy as np

    if not features:
        return np.empty((n, 0), dtype=np.float32)
    together = np.concatenate(features, axis=1)
    return together[:, :: -(-together.shape[1] // MAX_FEATURES)]
