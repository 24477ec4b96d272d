"""The published comparison of two trainings on the same images: pydantic models, as `document_schema` has them."""

from __future__ import annotations

from pydantic import Field

from lesion_tasks.metrics.document_schema import Count, Published, PublishedInterval


class PublishedDifference(Published):
    """This training minus the champion on one measure; paired, resampling groups."""

    measure: str
    candidate: float
    champion: float
    value: float
    low: float | None
    high: float | None
    method: str | None
    interval_reason: str | None = None
    p_value: float | None
    other_intervals: list[PublishedInterval] = Field(default_factory=list)


class PublishedSliceDifference(Published):
    """The leading difference on one part of the test set; the intervals are widened to hold jointly."""

    attribute: str
    value: str
    n_images: Count
    n_groups: Count
    n_positives: Count | None
    reason: str | None
    difference: PublishedDifference | None


class CohortDifference(Published):
    """The leading difference on one cohort, on images that neither training already has."""

    cohort: str
    n_images: Count
    n_left_out: Count
    reason: str | None = Field(description="Why there is no difference.")
    difference: PublishedDifference | None


class TwoByTwo(Published):
    """Old and new model on old and new data, and how much of the change is due to each."""

    old_model_old_data: float | None = None
    old_model_new_data: float | None = None
    new_model_old_data: float | None = None
    new_model_new_data: float | None = None
    move: float | None = None
    model_effect: float | None = None
    data_effect: float | None = None


class Comparison(Published):
    """This training minus the champion, on images that neither has learned from."""

    champion: str
    subset: str
    n_images: Count | None = None
    n_left_out: Count | None = None
    has_same_predictions: bool = Field(
        False,
        description="Whether both give every image the same probabilities, as one model trained twice does.",
    )
    differences: dict[str, PublishedDifference]
    slices: list[PublishedSliceDifference] = Field(default_factory=list)
    two_by_two: TwoByTwo | None = None
    cohorts: list[CohortDifference] = Field(default_factory=list)
