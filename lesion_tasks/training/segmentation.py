"""Train pictures and their masks -> a U-Net that outlines lesions, trained once and kept in the bucket.

If the bucket holds enough masks of train images, it learns from those. If not, it learns from the pictures' own
contrast (Otsu's threshold): such an outline lets the workflow run but is not reliable. The model's manifest says which
of the two was used.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import keras
import numpy as np
from sqlalchemy import Engine, text

from lesion_tasks.bucket import Bucket, get_verified, reading_object
from lesion_tasks.catalog import InputSize, Variant
from lesion_tasks.pixels.decode import decode_mask
from lesion_tasks.training.accelerator import Accelerator
from lesion_tasks.training.examples import Examples, filled_up
from lesion_tasks.training.loop import OnEpoch, Stage, load_model, model_bytes, train_stage
from lesion_tasks.training.masks import read_index
from lesion_tasks.training.model.unet import FILTERS, INNER_SIDE_PX, build_unet

log = logging.getLogger(__name__)

MIN_MASKS = 16
# Learning a lesion's outline takes far fewer pictures than learning its diagnosis.
MAX_TRAIN = 2_000
MAX_VAL = 400
BATCH_SIZE = 16
STAGE = Stage(
    name="segmenter",
    learning_rate=1e-3,
    max_epochs=12,
    patience=3,
    loss="binary_crossentropy",
    metrics=("overlap",),
)


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A trained U-Net, its id, and what it learned from."""

    segmenter_id: str
    model: keras.Model
    facts: dict[str, Any]


def train_segmenter(
    variant: Variant,
    train: Examples,
    val: Examples,
    *,
    engine: Engine,
    bucket: Bucket,
    accelerator: Accelerator,
    on_epoch: OnEpoch,
) -> Segmenter:
    """Find or train the U-Net for these train and val pictures at the variant's side.

    Variants that share pictures, masks and side share the U-Net. It learns only from train pictures, and for no more
    epochs than the variant.
    """
    stage = replace(STAGE, max_epochs=min(STAGE.max_epochs, variant.max_epochs))
    index = read_index(bucket)
    has_masks = sum(isic_id in index for isic_id in train.isic_ids) >= MIN_MASKS
    rows = {
        "train": _choose(train, index if has_masks else None, MAX_TRAIN),
        "val": _choose(val, index if has_masks else None, MAX_VAL),
    }
    if not len(rows["val"]):  # only train images have masks: watch the loss on some of those
        rows["train"], rows["val"], val = rows["train"][::2], rows["train"][1::2], train
    parts = {"train": (train, rows["train"]), "val": (val, rows["val"])}
    recipe = _recipe(variant, stage, parts, index, has_masks)
    segmenter_id = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]
    key = f"segmenters/{segmenter_id}/segmenter.keras"
    facts = {"learned_from": recipe["learned_from"], "n_train": len(rows["train"]), "n_val": len(rows["val"])}
    sha256 = _stored_digest(engine, segmenter_id)
    if sha256 is None:
        log.info(
            "segmenter %s: %d pictures, outlines %s",
            segmenter_id[:8],
            facts["n_train"],
            facts["learned_from"],
        )
        outlines = {
            name: _outlines(bucket, some, rows[name], variant, index if has_masks else None)
            for name, some in (("train", train), ("val", val))
        }
        with accelerator.training():
            model = build_unet(int(variant.side_px or 0), variant.seed)
            train_stage(
                model,
                stage,
                lambda epoch: _Outlined(
                    train, rows["train"], outlines["train"], (variant.seed, epoch), accelerator.n_devices
                ),
                _Outlined(val, rows["val"], outlines["val"], None, accelerator.n_devices),
                bucket=bucket,
                folder=f"segmenters/{segmenter_id}",
                on_epoch=on_epoch,
            )
        data = model_bytes(_uncompiled(model, variant))
        bucket.put(key, data)
        sha256 = _keep_digest(engine, segmenter_id, key, data)
        for leftover in list(bucket.list_keys(f"segmenters/{segmenter_id}/epoch-")):
            bucket.delete(leftover)
    with reading_object(bucket, key):
        model = load_model(get_verified(bucket, key, sha256, kind="segmenter"))
    return Segmenter(segmenter_id=segmenter_id, model=model, facts=facts)


def _stored_digest(engine: Engine, segmenter_id: str) -> str | None:
    with engine.connect() as connection:
        digest: str | None = connection.execute(
            text("SELECT sha256 FROM segmenter WHERE segmenter_id = :id"), {"id": segmenter_id}
        ).scalar_one_or_none()
    return digest


def _keep_digest(engine: Engine, segmenter_id: str, key: str, data: bytes) -> str:
    """Store a segmenter's digest; if two are trained at once, the last one written is the one in the bucket."""
    sha256 = hashlib.sha256(data).hexdigest()
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO segmenter (segmenter_id, object_key, sha256, created_at) VALUES (:id, :key, :sha256, :now)
                ON CONFLICT (segmenter_id) DO UPDATE SET sha256 = excluded.sha256
            """),
            {"id": segmenter_id, "key": key, "sha256": sha256, "now": datetime.now(UTC)},
        )
    return sha256


def _uncompiled(model: keras.Model, variant: Variant) -> keras.Model:
    """The same weights without optimizer and loss: the stored model is for serving."""
    fresh = build_unet(int(variant.side_px or 0), variant.seed)
    fresh.set_weights(model.get_weights())
    return fresh


def _recipe(
    variant: Variant,
    stage: Stage,
    parts: Mapping[str, tuple[Examples, np.ndarray]],
    index: Mapping[str, str],
    has_masks: bool,
) -> dict[str, Any]:
    members = {
        name: [[str(i), index[i] if has_masks else ""] for i in some.isic_ids[rows]]
        for name, (some, rows) in parts.items()
    }
    return {
        "version": 1,
        "learned_from": "masks" if has_masks else "contrast",
        "fit": str(variant.input_size),  # the key is part of digests stored in databases
        "seed": variant.seed,
        "network": [INNER_SIDE_PX, *FILTERS],
        "learning": [stage.learning_rate, stage.max_epochs, stage.patience, BATCH_SIZE],
        "members": hashlib.sha256(json.dumps(members).encode()).hexdigest(),
    }


def _choose(some: Examples, index: Mapping[str, str] | None, n: int) -> np.ndarray:
    """At most n rows by lowest hash, only those with masks if an index is given: stable as the archive grows."""
    rows = [row for row, isic_id in enumerate(some.isic_ids) if index is None or isic_id in index]
    rows.sort(key=lambda row: hashlib.sha256(str(some.isic_ids[row]).encode()).digest())
    return np.array(sorted(rows[:n]), dtype=np.int64)


def _outlines(
    bucket: Bucket, some: Examples, rows: np.ndarray, variant: Variant, index: Mapping[str, str] | None
) -> np.ndarray:
    """uint8 (n, side, side, 1), 1 is lesion."""
    side_px = int(variant.side_px or 0)
    out = np.empty((len(rows), side_px, side_px, 1), dtype=np.uint8)
    for i, row in enumerate(rows):
        if index is not None:
            mask_key = f"masks/{some.isic_ids[row]}"
            mask = get_verified(bucket, mask_key, index[str(some.isic_ids[row])], kind="mask")
            with reading_object(bucket, mask_key):
                out[i, :, :, 0] = read_mask(mask, InputSize(side_px, variant.aspect))
        else:
            out[i, :, :, 0] = contrast_outline(some.inputs(np.array([row]))["pixels"][0])
    return out


def read_mask(data: bytes, size: InputSize) -> np.ndarray:
    """A mask made square like the lesion's own picture: uint8 (side, side), 1 where brighter than half."""
    return (decode_mask(data, size) > 127).astype(np.uint8)


def contrast_outline(picture: np.ndarray) -> np.ndarray:
    """Otsu's threshold (1979) on grey levels: uint8 (side, side), 1 on the side that is rarer at the rim."""
    grey = picture.mean(axis=-1).round().astype(np.int64)
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    below = np.cumsum(share)
    mean_below = np.cumsum(share * np.arange(256))
    between = (mean_below[-1] * below - mean_below) ** 2 / np.maximum(below * (1 - below), 1e-12)
    dark = grey <= int(np.argmax(between))
    rim = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
    return (~dark if rim.mean() > 0.5 else dark).astype(np.uint8)


class _Outlined(keras.utils.PyDataset):
    """Pictures and their outlines in batches; shuffled by `seed` if one is given."""

    def __init__(
        self,
        examples: Examples,
        rows: np.ndarray,
        outlines: np.ndarray,
        seed: tuple[int, int] | None,
        n_devices: int,
    ) -> None:
        super().__init__()
        self.examples, self.rows, self.outlines, self.n_devices = examples, rows, outlines, n_devices
        order = np.arange(len(rows))
        self.order = order if seed is None else np.random.default_rng(seed).permutation(order)

    def __len__(self) -> int:
        return math.ceil(len(self.order) / BATCH_SIZE)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        part = filled_up(self.order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE], self.n_devices)
        return self.examples.inputs(self.rows[part])["pixels"], self.outlines[part].astype(np.float32)
