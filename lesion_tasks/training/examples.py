"""Manifest rows and pixel shards -> arrays, and batches for Keras in a defined order.

Pixels stay in memory-mapped shards; only the current batch is copied, so memory does not grow with the
archive. Rows always carry their image id, and nothing here returns pixels without the ids they belong to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import InputSize
from lesion_tasks.pixels.shards import PixelSource, open_pixels

if TYPE_CHECKING:
    import pandas as pd


def metadata_matrix(rows: "pd.DataFrame", fields: Sequence[str]) -> np.ndarray:
    """The metadata that a model may use: float32 (n, len(fields)), NaN where missing.

    `is_male` is 1 for male and 0 for female; every other field is a numeric column of the manifest.
    """
    columns = []
    for name in fields:
        if name == "is_male":
            values = rows["sex"].map({"male": 1.0, "female": 0.0})
        elif name in {"age_years", "size_mm"}:
            values = rows[name]
        else:
            raise UnusableInputError(f"metadata field {name!r}: expected age_years, is_male or size_mm")
        columns.append(values.to_numpy(dtype=np.float32, na_value=np.nan))
    return np.column_stack(columns) if columns else np.empty((len(rows), 0), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The rows of one subset with all inputs of a model, every row under its image id."""

    isic_ids: np.ndarray  # (n,) str
    labels: np.ndarray  # (n,) int, index into the task's classes
    pixels: PixelSource | None
    metadata: np.ndarray | None  # float32 (n, fields)

    def __len__(self) -> int:
        return len(self.isic_ids)

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The model's inputs for some rows: pixels uint8 (b, side, side, 3), metadata float32 (b, fields)."""
        inputs: dict[str, np.ndarray] = {}
        if self.pixels is not None:
            inputs["pixels"] = self.pixels.take(rows)
        if self.metadata is not None:
            inputs["metadata"] = self.metadata[rows]
        return inputs


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a variant learns from and predicts, with every picture's SHA-256."""

    train: Examples
    val_drawn: Examples  # val as the split draws it: used for early stopping
    val: Examples  # natural: threshold and calibration are chosen on it
    test: Examples | None  # None: must not be used, as in a search
    sha256_by_id: Mapping[str, str]
    diagnosis_by_id: Mapping[str, str] = field(default_factory=dict)  # of train images, for an auxiliary head
    lesion_by_id: Mapping[str, str] = field(default_factory=dict)  # of train images, to weight them by

    def subset(self, name: str) -> Examples:
        """Train, val or test."""
        found = {"train": self.train, "val": self.val, "test": self.test}[name]
        if found is None:
            raise ValueError(f"subset {name!r} must not be used")
        return found

    @property
    def to_predict(self) -> dict[str, Examples]:
        """What the finished model predicts: val, and test unless it stays closed."""
        return {"val": self.val} | ({} if self.test is None else {"test": self.test})


def load_examples(
    connection: Connection,
    bucket: Bucket,
    rows: "pd.DataFrame",
    *,
    classes: Sequence[str],
    input_size: InputSize | None,
    metadata_fields: Sequence[str],
) -> Examples:
    """Open the rows of a manifest as examples, without pixels if `input_size` is None."""
    number = {label: i for i, label in enumerate(classes)}
    return Examples(
        isic_ids=rows["isic_id"].to_numpy(dtype=object),
        labels=np.array([number[label] for label in rows["label"]], dtype=np.int64),
        pixels=None
        if input_size is None
        else open_pixels(connection, bucket, input_size, rows["sha256"].tolist()),
        metadata=metadata_matrix(rows, metadata_fields) if metadata_fields else None,
    )


def filled_up(rows: np.ndarray, n_devices: int) -> np.ndarray:
    """Rows of a batch, the first ones repeated until all devices that share it get the same number.

    Keras averages over devices, so a device without a row would make the loss NaN.
    """
    return np.resize(rows, math.ceil(len(rows) / n_devices) * n_devices)


class Batches(keras.utils.PyDataset):
    """Examples in batches, reshuffled for each epoch in an order that depends only on seed and epoch."""

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        n_classes: int,
        seed: int | None = None,
        epoch: int = 0,
        n_devices: int = 1,
    ) -> None:
        super().__init__()
        self.examples = examples
        self.batch_size = batch_size
        self.n_classes = n_classes
        self.n_devices = n_devices
        order = np.arange(len(examples))
        # A training that resumes at epoch 7 sees the rows in the same order as without the interruption.
        self.order = order if seed is None else np.random.default_rng((seed, epoch)).permutation(order)

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def rows(self, index: int) -> np.ndarray:
        """The rows of a batch, (b,) int."""
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return filled_up(rows, self.n_devices)

    def __getitem__(self, index: int) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        rows = self.rows(index)
        labels: Any = self.examples.labels[rows]
        if self.n_classes == 2:
            targets = labels[:, None].astype(np.float32)  # (b, 1), 1 is the positive class
        else:
            targets = np.eye(self.n_classes, dtype=np.float32)[labels]  # (b, K)
        return self.examples.inputs(rows), targets


class WeightedBatches(keras.utils.PyDataset):
    """Batches in which every example is weighted by its class, in val as in train, so both losses mean the same."""

    def __init__(self, batches: Batches, weights: Mapping[int, float]) -> None:
        super().__init__()
        self.batches = batches
        self.weights = np.array([weights[i] for i in range(len(weights))], dtype=np.float32)

    @classmethod
    def of(cls, batches: Batches, weights: Mapping[int, float] | None) -> keras.utils.PyDataset:
        """Weighted batches, or the batches themselves if no weights are given."""
        return batches if weights is None else cls(batches, weights)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray]:
        inputs, targets = self.batches[index]
        label = targets[:, 0].astype(int) if targets.shape[1] == 1 else targets.argmax(axis=1)
        return inputs, targets, self.weights[label]
