"""Train pictures and their masks -> a U-Net that outlines lesions, trained once and kept in the bucket.

Where the bucket holds masks of train images, it learns from those. Where there are too few, it learns from the
pictures' own contrast (Otsu's threshold): an outline for the workflow to run with, not one to believe; the model's
manifest says which of the two it was.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from lesion_tasks.bucket import Bucket, reading_object
from lesion_tasks.catalog import InputSize, Variant
from lesion_tasks.pixels.decode import decode_mask
from lesion_tasks.training.accelerator import Accelerator
from lesion_tasks.training.examples import Examples, filled_up
from lesion_tasks.training.loop import OnEpoch, Stage, fit_stage, load_model, model_bytes
from lesion_tasks.training.masks import read_index
from lesion_tasks.training.model.unet import FILTERS, INNER_SIDE_PX, build_unet

log = logging.getLogger(__name__)

MIN_MASKS = 16
# A lesion's outline is learned from far fewer pictures than its diagnosis.
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
    bucket: Bucket,
    accelerator: Accelerator,
    on_epoch: OnEpoch,
) -> Segmenter:
    """Find or train the U-Net for these train and val pictures at the variant's side.

    Variants that share pictures, masks and side share the U-Net. Only train pictures teach it. It learns for no more
    epochs than the variant does.
    """
    stage = replace(STAGE, max_epochs=min(STAGE.max_epochs, variant.max_epochs))
    index = read_index(bucket)
    has_masks = sum(isic_id in index for isic_id in train.isic_ids) >= MIN_MASKS
    rows = {
        "train": _choose(train, index if has_masks else None, MAX_TRAIN),
        "val": _choose(val, index if has_masks else None, MAX_VAL),
    }
    if not len(rows["val"]):  # masks of train images alone: watch the loss on some of those
        rows["train"], rows["val"], val = rows["train"][::2], rows["train"][1::2], train
    parts = {"train": (train, rows["train"]), "val": (val, rows["val"])}
    recipe = _recipe(variant, stage, parts, index, has_masks)
    segmenter_id = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]
    key = f"segmenters/{segmenter_id}/segmenter.keras"
    facts = {"learned_from": recipe["learned_from"], "n_train": len(rows["train"]), "n_val": len(rows["val"])}
    if not bucket.exists(key):
        log.info(
            "segmenter %s: %d pictures, outlines %s",
            segmenter_id[:8],
            facts["n_train"],
            facts["learned_from"],
        )
        outlines = {
            name: _outlines(bucket, some, rows[name], variant, has_masks)
            for name, some in (("train", train), ("val", val))
        }
        with accelerator.training():
            model = build_unet(int(variant.side_px or 0), variant.seed)
            fit_stage(
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
        bucket.put(key, model_bytes(_uncompiled(model, variant)))
        for leftover in list(bucket.list_keys(f"segmenters/{segmenter_id}/epoch-")):
            bucket.delete(leftover)
    with reading_object(bucket, key):
        model = load_model(bucket.get(key))
    return Segmenter(segmenter_id=segmenter_id, model=model, facts=facts)


def _uncompiled(model: keras.Model, variant: Variant) -> keras.Model:
    """The same weights without optimizer and loss: what is stored is for serving."""
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
        "fit": str(variant.input_size),  # the key is part of digests that stand in databases
        "seed": variant.seed,
        "network": [INNER_SIDE_PX, *FILTERS],
        "learning": [stage.learning_rate, stage.max_epochs, stage.patience, BATCH_SIZE],
        "members": hashlib.sha256(json.dumps(members).encode()).hexdigest(),
    }


def _choose(some: Examples, index: Mapping[str, str] | None, n: int) -> np.ndarray:
    """At most n rows, those with masks where an index is given, by lowest hash: the choice grows with the archive."""
    rows = [row for row, isic_id in enumerate(some.isic_ids) if index is None or isic_id in index]
    rows.sort(key=lambda row: hashlib.sha256(str(some.isic_ids[row]).encode()).digest())
    return np.array(sorted(rows[:n]), dtype=np.int64)


def _outlines(
    bucket: Bucket, some: Examples, rows: np.ndarray, variant: Variant, has_masks: bool
) -> np.ndarray:
    """uint8 (n, side, side, 1), 1 is lesion."""
    side_px = int(variant.side_px or 0)
    out = np.empty((len(rows), side_px, side_px, 1), dtype=np.uint8)
    for i, row in enumerate(rows):
        if has_masks:
            mask_key = f"masks/{some.isic_ids[row]}"
            with reading_object(bucket, mask_key):
                out[i, :, :, 0] = read_mask(bucket.get(mask_key), InputSize(side_px, variant.aspect))
        else:
            out[i, :, :, 0] = contrast_outline(some.inputs(np.array([row]))["pixels"][0])
    return out


def read_mask(data: bytes, size: InputSize) -> np.ndarray:
    """A mask made square like the lesion's own picture: uint8 (side, side), 1 where it is brighter than half."""
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
    """Pictures and their outlines in batches; shuffled by `seed` where one is given."""

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
