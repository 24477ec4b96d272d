"""The published document of a training on other people's data: pydantic models, as `document_schema` has them.

Shares and probabilities are 0 to 1. A part that could not be measured has its reason in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from lesion_tasks.catalog.titles import label_inside
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import (
    Count,
    Figures,
    Published,
    PublishedFigure,
    PublishedVerdict,
    Share,
    SubsetDocument,
)
from lesion_tasks.metrics.doubt_document import DoubtFigures
from lesion_tasks.metrics.fairness_document import Fairness


class Overlap(Published):
    """Images of a cohort that a training's own data already have, by what they share."""

    kind: str = Field(description="image, bytes, picture, lesion, patient, or group: linked by others.")
    subset: str = Field(description="Of the training's own manifest: train, val or test.")
    n_images: Annotated[int, Field(ge=1)]


def left_out_in_words(overlaps: Sequence[Overlap], n_lacking: int, lacking: Sequence[str]) -> str:
    """What of a cohort a training is not judged on and why; empty if nothing.

    `lacking`: fields, at least one of which is unknown of each of `n_lacking` images.
    """
    parts = [f"{plural(one.n_images, 'image')} with the same {one.kind} in {one.subset}" for one in overlaps]
    if n_lacking:
        parts.append(f"{plural(n_lacking, 'image')}, {' or '.join(map(label_inside, lacking))} unknown")
    return "; ".join(parts)


class CaseMixRow(Published):
    """One attribute, or one value of it, in the training's own test set and in the cohort."""

    attribute: str
    value: str | None = Field(description="Null: the mean of a number.")
    test: float | None = Field(description="Share or mean; null where no image has a value.")
    cohort: float | None
    difference: float | None = Field(description="Standardized: cohort minus test, in standard deviations.")


class Fall(Published):
    """A figure on the cohort minus the same figure on the training's own test set: two independent samples."""

    measure: str
    test: Share
    cohort: Share
    value: float
    low: float | None
    high: float | None
    method: str | None
    interval_reason: str | None = None
    words: str

    @property
    def is_worse(self) -> bool:
        """Whether it falls, by more than chance."""
        return self.high is not None and self.high < 0


class Reweighting(Published):
    """What of a fall goes with the case mix: the cohort weighted so that its images resemble those of the test set."""

    covariates: list[str]
    left_aside: list[str] = Field(
        default_factory=list,
        description="Covariates in which test set and cohort have too little in common to be weighted.",
    )
    reason: str | None = Field(default=None, description="Why there is none, or why it cannot be relied on.")
    auc: float | None = Field(default=None, description="On the weighted cohort.")
    low: float | None = None
    high: float | None = None
    value: float | None = Field(
        default=None, description="Weighted minus unweighted: what the case mix explains."
    )
    value_low: float | None = None
    value_high: float | None = None
    n_effective: dict[str, float] = Field(
        default_factory=dict, description="Class -> effective number of images under the weights."
    )
    uncovered_share: Share | None = Field(
        default=None, description="Share of the test set whose kind of diagnosis the cohort does not have."
    )
    imbalance: float | None = Field(
        default=None, description="Largest standardized difference without weights."
    )
    imbalance_left: float | None = Field(default=None, description="The same under the weights.")
    words: str


class Recalibration(Published):
    """What new intercept and slope, fitted on one half of a cohort's groups, give on the other half."""

    reason: str | None = None
    n_images_fitted: Count | None = None
    n_images_judged: Count | None = None
    intercept: float | None = None
    slope: float | None = None
    before: Figures = Field(default_factory=dict)
    after: Figures = Field(default_factory=dict)


class DiagnosisRow(Published):
    """One diagnosis of a cohort: how its images are called, and told apart from all images of other classes."""

    diagnosis: str
    label: str
    n_images: Count
    n_groups: Count
    n_images_of_test: Count
    kind_of_test: str | None = Field(
        default=None,
        description="Null: the same diagnosis. Else the test set lacks that, and its images are all of this kind.",
    )
    called_right: PublishedFigure
    called_right_of_test: PublishedFigure | None
    auc: PublishedFigure | None = Field(description="Null with more than two classes.")
    auc_of_test: PublishedFigure | None


class MetadataBaseline(Published):
    """What metadata alone reach on the same images: logistic models, fitted on the training's own train images.

    Documents of earlier releases have boosted trees of all fields together.
    """

    fields: list[str] = Field(description="Which metadata: those that the train images and the cohort have.")
    lacking: list[str] = Field(description="Metadata of the train images that no image of the cohort has.")
    n_images_fitted: Count = Field(description="Train images that it was fitted on: all of them.")
    n_images_of_train: Count
    strongest: list[str] = Field(
        default_factory=list,
        description="Of each field alone and all together, those that tell most on the cohort.",
    )
    of_each: Figures = Field(
        default_factory=dict, description="Field -> the figure of it alone, on the cohort."
    )
    of_all: PublishedFigure | None = Field(
        default=None, description="The figure of all fields together, on the cohort."
    )
    reason: str | None = Field(default=None, description="Why there are no figures.")
    test: PublishedFigure | None = Field(
        default=None, description="The leading figure on the training's own test set."
    )
    cohort: PublishedFigure | None = Field(default=None, description="The same on the cohort.")
    difference: float | None = Field(
        default=None, description="The model's figure on the cohort minus this one, on the same images."
    )
    low: float | None = None
    high: float | None = None
    words: str


class CohortDocument(Published):
    """A training on one cohort, beside its own test set."""

    name: str
    title: str
    manifest_digest: str | None = Field(description="Null where no image can be judged.")
    reason: str | None = Field(default=None, description="Why there are no figures.")
    n_images: Count = Field(default=0, description="Of the cohort's manifest.")
    overlaps: list[Overlap] = Field(default_factory=list, description="Taken out, each image counted once.")
    overlapping_ids: list[str] = Field(default_factory=list, description="The first of those images.")
    n_lacking: Count = Field(
        default=0, description="Left out for want of metadata that the model cannot do without."
    )
    lacking: list[str] = Field(default_factory=list, description="Which metadata.")
    remarks: list[str] = Field(default_factory=list)
    integrity: list[PublishedVerdict] = Field(default_factory=list)
    subset: SubsetDocument | None = None
    fall: Fall | None = None
    at_threshold: list[Fall] = Field(
        default_factory=list,
        description="The same of sensitivity and specificity; empty with more than two classes.",
    )
    metadata_baseline: MetadataBaseline | None = Field(
        default=None, description="Null where nothing was measured, and in documents of earlier releases."
    )
    case_mix: list[CaseMixRow] = Field(default_factory=list)
    reweighting: Reweighting | None = None
    recalibration: Recalibration | None = None
    diagnoses: list[DiagnosisRow] = Field(default_factory=list)
    fairness: Fairness | None = None
    doubt: DoubtFigures | None = None
    n_openings: Count = Field(
        default=0, description="How many trainings have looked at the cohort, as it is or was."
    )

    @property
    def worse(self) -> list[Fall]:
        """What falls by more than chance: the leading figure, sensitivity, specificity."""
        return [fall for fall in (self.fall, *self.at_threshold) if fall is not None and fall.is_worse]


class OtherData(Published):
    """Every cohort of the task."""

    figures: Figures = Field(description="Cohort -> the leading figure; only cohorts with one.")
    cohorts: list[CohortDocument]
    pooled: Fairness | None = Field(
        default=None,
        description="The test set and all cohorts as one sample; null where no cohort was measured.",
    )
