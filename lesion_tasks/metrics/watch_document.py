"""The published document of a watch over a champion: pydantic models, as `document_schema` has them.

Units are groups of images. Shares and probabilities are 0 to 1.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lesion_tasks.metrics.cohort_document import Fall, Overlap
from lesion_tasks.metrics.document_schema import Count, Figures, Published, PublishedFigure, Share

METHOD = (
    "One image of each group, drawn by hash. Shares: chi-squared under permutation; numbers by fifths of both sides. "
    "Classifier: linear discriminant, its answers to groups that it did not learn from compared with those under "
    "permutation. All p-values of a watch together by Holm 1979"
)


class ShiftedValue(Published):
    """A value of an attribute, and the share of groups with it on each side."""

    value: str
    reference: Share
    new: Share


class ShiftTest(Published):
    """Whether one thing about new images differs from the champion's test set, beyond chance and beyond its bound."""

    kind: Literal["metadata", "pictures", "scores", "labels"]
    name: str = Field(description="An attribute, or `told_apart`: everything of the kind at once.")
    institution: str | None = Field(description="Among the images of one; null: among all.")
    n_reference: Count
    n_new: Count
    reason: str | None = Field(default=None, description="Why it cannot be determined.")
    effect: float | None = Field(
        default=None, description="The largest difference of a share; of told_apart the AUC."
    )
    bound: float
    p_value: Share | None = None
    p_adjusted: Share | None = Field(default=None, description="For all tests of the watch.")
    is_found: bool = Field(default=False, description="More than chance.")
    is_beyond: bool = Field(default=False, description="More than chance, and at or beyond the bound.")
    values: list[ShiftedValue] = Field(default_factory=list, description="The most changed first.")
    words: str = ""

    @property
    def n_digits(self) -> int:
        """With so many digits the effect does not look like its bound, unless it is the bound, or nearly."""
        apart = (n for n in (2, 3) if round(self.effect or 0.0, n) != round(self.bound, n))
        return next(apart, 4)


class WatchedPoint(Published):
    """The champion on the labelled images of some months of arrival, or on its own test set."""

    first_month: str | None = Field(description="Such as 2026-10; null: the champion's own test set.")
    last_month: str | None
    n_images: Count
    n_groups: Count
    class_counts: dict[str, Count]
    reason: str | None = Field(default=None, description="Why there are no figures.")
    figures: Figures = Field(default_factory=dict)
    answered: PublishedFigure | None = Field(default=None, description="Null where no doubt was measured.")
    wrong_of_answered: PublishedFigure | None = None


class WatchedFall(Published):
    """A figure of the newest point minus that of the test set; `is_beyond`: surely below, by at least the bound."""

    fall: Fall
    bound: float
    level: Share = Field(description="Of the interval, for all falls of the watch together.")
    is_beyond: bool


class WatchDocument(Published):
    """What has become of the images, scores and figures of a champion since its training data."""

    watch_id: str
    task: str
    task_title: str
    training_id: str
    variant: str
    title: str
    manifest_digest: str
    since: str = Field(description="The training data were made then: what arrived later is new.")
    until: str = Field(description="The watch looked at what arrived before this day.")
    first_month: str | None = Field(
        description="Of the window whose images are compared; null: none arrived."
    )
    last_month: str | None
    n_arrived: Count = Field(
        description="Images since the training data, as far as they are of the task's kind."
    )
    n_unlike: dict[str, Count] = Field(description="Others that arrived, by why they are not.")
    overlaps: list[Overlap] = Field(
        description="Left out: shows what the training data or the other side have."
    )
    n_not_drawn: Count = Field(description="Beyond what is looked at of a month.")
    n_unreadable: Count
    n_new: Count = Field(description="Images in the window that were compared.")
    n_new_groups: Count
    n_reference: Count
    n_reference_groups: Count
    n_unlabelled: Count = Field(description="Of the window, without a label of the task so far.")
    error_rate: Share
    detectable: float | None = Field(
        description="A difference of shares, in standard deviations, that would have been found four times out of five."
    )
    reason: str | None = Field(default=None, description="Why nothing can be said of shifts.")
    shifts: list[ShiftTest]
    points: list[WatchedPoint] = Field(description="The test set, then newer images, oldest first.")
    falls: list[WatchedFall]
    falls_reason: str | None = Field(default=None, description="Why no fall can be determined.")
    falls_without: list[str] = Field(
        default_factory=list, description="Classes of which one side has too few groups for its fall."
    )
    alarms: list[str] = Field(description="What passed a bound, in words; empty: nothing did.")
    words: str
    method: str
