"""A frozen backbone and pictures -> their features, computed once and kept in the bucket.

A frozen backbone's features of a picture never change, so they are computed once for each backbone, weights, size,
preprocessing and picture, and shared by every variant and training that needs them. When images arrive, only their
features are added: shards are written under the digest of their members and then named in Postgres, one transaction
each, so a killed run continues with the next shard.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from sqlalchemy import Connection, Engine, text

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import Variant
from lesion_tasks.catalog.backbones import RANDOM_START, find_backbone
from lesion_tasks.database.bulk import copy_rows
from lesion_tasks.database.locks import Lock
from lesion_tasks.pixels.shards import ShardTables, open_shard, store_shard
from lesion_tasks.progress import progress
from lesion_tasks.training.examples import Examples
from lesion_tasks.training.model import Weights

log = logging.getLogger(__name__)

# Raise it when the layers between pixels and features change their numbers.
FEATURES_VERSION = 1
SHARD_IMAGES = 4_096
# One shape for every batch, the last one filled up: the same kernels, so the same numbers whatever else is in it.
BATCH_IMAGES = 64


def feature_recipe(variant: Variant, weights: Weights | None, segmenter_id: str | None) -> dict[str, Any]:
    """Everything besides the picture that decides a frozen variant's features."""
    backbone = find_backbone(variant.backbone or "")
    if variant.side_px is None or backbone is None:
        raise ValueError(f"variant {variant.name!r} has no backbone to compute features with")
    return {
        "version": FEATURES_VERSION,
        "backbone": asdict(backbone),
        "weights": _weights_of_features(variant, weights),
        "fit": str(variant.input_size),  # the key is part of digests stored in databases
        "is_hair_removed": variant.is_hair_removed,
        "segmenter": segmenter_id,
    }


def _weights_of_features(variant: Variant, weights: Weights | None) -> str:
    if weights is None or weights.origin == RANDOM_START:
        return f"random-{variant.seed}"  # a random backbone depends on its seed
    return weights.sha256 if variant.is_pretrained else f"random-{variant.seed}-{weights.sha256}"


def recipe_id(recipe: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that change with any part of the recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class FeatureExamples(Examples):
    """Examples whose features a frozen backbone has already computed."""

    shards: tuple[np.ndarray, ...]  # each float32 (n, C), mapped into memory
    shard_of_row: np.ndarray  # (n,) int
    row_in_shard: np.ndarray  # (n,) int

    @property
    def n_features(self) -> int:
        """C, the number of features per picture."""
        return int(self.shards[0].shape[1])

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """A head's inputs for some rows: features float32 (b, C), metadata float32 (b, fields)."""
        out = np.empty((len(rows), self.n_features), dtype=np.float32)
        shards = self.shard_of_row[rows]
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[here] = self.shards[shard][self.row_in_shard[rows[here]]]
        inputs = {"features": out}
        if self.metadata is not None:
            inputs["metadata"] = self.metadata[rows]
        return inputs


def with_features(
    engine: Engine,
    bucket: Bucket,
    recipe: Mapping[str, Any],
    make_extractor: Callable[[], keras.Model],
    subsets: Mapping[str, Examples],
    sha256_by_id: Mapping[str, str],
) -> dict[str, FeatureExamples]:
    """Replace the pixels of examples by features; computes and stores those that are missing.

    `make_extractor` (pixels -> features) is only called if something is missing.
    """
    features_id = recipe_id(recipe)
    missing = _missing(engine, features_id, subsets, sha256_by_id)
    if missing:
        extractor = make_extractor()
        with progress(f"features {recipe['backbone']['name']} {recipe['fit']}", len(missing)) as advance:
            for start in range(0, len(missing), SHARD_IMAGES):
                part = missing[start : start + SHARD_IMAGES]
                array = _extract(extractor, part, advance)
                _store_shard(engine, bucket, recipe, [sha256 for sha256, _, _ in part], array)
    log.info("features %s: %d computed, the others reused", features_id[:8], len(missing))
    return {name: _open(engine, bucket, features_id, some, sha256_by_id) for name, some in subsets.items()}


def _missing(
    engine: Engine, features_id: str, subsets: Mapping[str, Examples], sha256_by_id: Mapping[str, str]
) -> list[tuple[str, Examples, int]]:
    """Pictures without features, each once: (SHA-256, examples, row)."""
    wanted = {
        sha256_by_id[isic_id]: (some, row)
        for some in subsets.values()
        for row, isic_id in enumerate(some.isic_ids)
    }
    known = _places(engine, features_id, list(wanted))
    return [(sha256, some, row) for sha256, (some, row) in wanted.items() if sha256 not in known]


def _places(engine: Engine, features_id: str, sha256s: Sequence[str]) -> dict[str, tuple[str, int]]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT sha256, object_key, row_index FROM feature_row
                WHERE features_id = :features_id AND sha256 = ANY(:sha256s)
            """),
            {"features_id": features_id, "sha256s": sorted(set(sha256s))},
        ).all()
    return {row.sha256: (row.object_key, row.row_index) for row in rows}


def _digests(engine: Engine, keys: Sequence[str]) -> dict[str, str]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT object_key, sha256 FROM feature_shard WHERE object_key = ANY(:keys)"), {"keys": keys}
        ).all()
    return {row.object_key: row.sha256 for row in rows}


def _extract(
    extractor: keras.Model, part: Sequence[tuple[str, Examples, int]], advance: Callable[..., None]
) -> np.ndarray:
    """Features float32 (len(part), C), in order."""
    found = []
    for start in range(0, len(part), BATCH_IMAGES):
        batch = part[start : start + BATCH_IMAGES]
        pixels = _pixels(batch)
        full = np.resize(pixels, (BATCH_IMAGES, *pixels.shape[1:]))
        features = np.asarray(extractor.predict_on_batch({"pixels": full}), dtype=np.float32)
        found.append(features[: len(batch)])
        advance(len(batch))
    return np.concatenate(found)


def _pixels(batch: Sequence[tuple[str, Examples, int]]) -> np.ndarray:
    """uint8 (len(batch), side, side, 3); pictures of one subset are read together."""
    places, taken = [], []
    for some in {id(examples): examples for _, examples, _ in batch}.values():
        here = [i for i, (_, examples, _) in enumerate(batch) if examples is some]
        places += here
        taken.append(some.inputs(np.array([batch[i][2] for i in here]))["pixels"])
    return np.concatenate(taken)[np.argsort(places)]


_TAKEN = text("SELECT sha256 FROM feature_row WHERE features_id = :owner AND sha256 = ANY(:members)")
_INSERT = text("""
    INSERT INTO feature_shard (object_key, features_id, recipe, n_images, n_features, sha256, created_at)
    VALUES (:key, :features_id, :recipe, :n, :n_features, :sha256, :now)
    ON CONFLICT (object_key) DO UPDATE SET sha256 = excluded.sha256
""")


def _store_shard(
    engine: Engine, bucket: Bucket, recipe: Mapping[str, Any], members: Sequence[str], features: np.ndarray
) -> None:
    features_id = recipe_id(recipe)
    name = hashlib.sha256("\n".join(members).encode()).hexdigest()[:32]

    def add_rows(connection: Connection, key: str, places: Sequence[tuple[str, int]]) -> None:
        copy_rows(
            connection,
            "feature_row",
            ("features_id", "sha256", "object_key", "row_index"),
            ((features_id, member, key, i) for member, i in places),
        )

    tables = ShardTables(
        lock=Lock.FEATURES,
        owner=features_id,
        taken=_TAKEN,
        insert=_INSERT,
        add_rows=add_rows,
        facts={"features_id": features_id, "recipe": json.dumps(recipe), "n_features": features.shape[1]},
    )
    store_shard(bucket, engine, tables, f"features/{features_id}/{name}.npy", members, features)


def _open(
    engine: Engine, bucket: Bucket, features_id: str, some: Examples, sha256_by_id: Mapping[str, str]
) -> FeatureExamples:
    sha256s = [sha256_by_id[isic_id] for isic_id in some.isic_ids]
    places = _places(engine, features_id, sha256s)
    keys = sorted({key for key, _ in places.values()})
    number = {key: i for i, key in enumerate(keys)}
    digests = _digests(engine, keys)
    return FeatureExamples(
        isic_ids=some.isic_ids,
        labels=some.labels,
        pixels=None,
        metadata=some.metadata,
        shards=tuple(open_shard(bucket, key, digests[key]) for key in keys),
        shard_of_row=np.array([number[places[sha256][0]] for sha256 in sha256s], dtype=np.int64),
        row_in_shard=np.array([places[sha256][1] for sha256 in sha256s], dtype=np.int64),
    )
