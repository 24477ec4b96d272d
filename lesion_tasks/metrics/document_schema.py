"""The published document of one training on one subset: pydantic models, and the JSON Schema derived from them.

Shares and probabilities are 0 to 1. An undefined measure has value null and a reason; no number is NaN or infinite.
Every key is always present. This module imports no statistics, so that pages need none.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lesion_tasks.metrics.verdict import Status

# 2: a subset no longer has its own integrity and lineage; a key without a value is null, not absent.
SCHEMA_VERSION: Final = 2
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Published(BaseModel):
    """An immutable part of a published document: unknown keys and numbers that JSON cannot hold are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
        defer_build=True,  # built at its first use: most commands read or write none of them
    )


class PublishedInterval(Published):
    method: str
    low: float
    high: float


class PublishedFigure(Published):
    """A measure with its interval and the counts it rests on."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"value": {"type": "null"}}},
            "then": {"properties": {"reason": {"type": "string"}}},
        }
    )

    value: float | None
    reason: str | None = Field(None, description="Why the value is null.")
    low: float | None
    high: float | None
    method: str | None
    interval_reason: str | None = Field(None, description="Why a defined value has no interval.")
    other_intervals: list[PublishedInterval] = Field(default_factory=list)
    n_images: Count
    n_groups: Count
    n_positives: Count | None

    @model_validator(mode="after")
    def _reasoned(self) -> PublishedFigure:
        if self.value is None and self.reason is None:
            raise ValueError("a figure without a value has no reason, expected one")
        return self


Figures = dict[str, PublishedFigure]


class PublishedVerdict(Published):
    """The outcome of one integrity check."""

    name: str
    status: Status
    is_blocking: bool = Field(description="Whether a failure, or too few images to tell, prevents promotion.")
    sentence: str
    numbers: dict[str, Any]


class DominantGroup(Published):
    class_name: str
    group_id: str
    share: Share
    n_images: Count


class SubsetSize(Published):
    """The numbers of images, groups and positives in a subset."""

    name: str
    n_images: Count
    n_groups: Count
    n_positives: Count | None
    class_counts: dict[str, Count]
    prevalence: Share | None = Field(
        description="Share of positives; null with more than two classes or no images."
    )
    dominant_groups: list[DominantGroup] = Field(
        [], description="Groups with more than a fifth of the images of a class, largest share first."
    )


class OperatingPoint(Published):
    """A score at or above `value` is called positive."""

    value: float
    rule: str
    chosen_on: str


class ResamplingFacts(Published):
    unit: Literal["group"]
    n_resamples: Annotated[int, Field(ge=1)]
    seed: int
    level: Share


class Confusion(Published):
    """counts[i][j]: images of class i that were called class j, both in the order of class_names."""

    class_names: list[str]
    counts: list[list[Count]]


class RocCurve(Published):
    false_positive_rate: list[float]
    true_positive_rate: list[float]
    threshold: list[float | None]


class PrecisionRecallCurve(Published):
    """Recall rises."""

    recall: list[float]
    precision: list[float]
    threshold: list[float | None]


class CalibrationCurve(Published):
    """Bins with equal numbers of images; `low` and `high` bound the observed share."""

    mean_score: list[float]
    observed_share: list[float]
    low: list[float | None]
    high: list[float | None]
    n_images: list[Count]


class NetBenefitCurve(Published):
    threshold: list[float]
    model: list[float]
    low: list[float]
    high: list[float]
    treat_all: list[float]
    treat_none: list[float]


class Curves(Published):
    """Curves as lists of equal length; by class against the rest, for a binary task only the positive class."""

    roc: dict[str, RocCurve | None]
    precision_recall: dict[str, PrecisionRecallCurve | None]
    calibration: CalibrationCurve | None
    net_benefit: NetBenefitCurve | None


class PublishedSlice(Published):
    """Figures on the images with one value of one attribute."""

    attribute: str
    value: str
    n_images: Count
    n_groups: Count
    n_positives: Count | None
    is_scored: bool
    reason: str | None = Field(description="Why a slice is listed but not scored.")
    figures: Figures


class SubsetDocument(Published):
    """Metrics of one training on one subset."""

    schema_version: Literal[2] = SCHEMA_VERSION
    training_id: str | int | None
    task: Literal["binary", "multiclass"]
    class_names: Annotated[list[str], Field(min_length=2)]
    positive_class: str | None
    subset: SubsetSize
    threshold: OperatingPoint | None = Field(description="Null: the most likely class is called.")
    resampling: ResamplingFacts
    figures: Figures
    by_class: dict[str, Figures] = Field(description="Class name -> that class against the rest.")
    confusion: Confusion
    curves: Curves
    slices: list[PublishedSlice]
