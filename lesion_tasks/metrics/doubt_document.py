"""The published document of what a model does not know: pydantic models, as `document_schema` has them.

Shares are 0 to 1 and count each group once, however many images it has.
"""

from __future__ import annotations

from pydantic import Field

from lesion_tasks.metrics.document_schema import Count, Figures, Published, PublishedFigure, Share


class DoubtSlice(Published):
    """The same few shares on the images with one value of one attribute."""

    attribute: str
    value: str
    n_images: Count
    n_groups: Count
    reason: str | None = Field(description="Why a slice is listed but not measured.")
    covered: PublishedFigure | None
    answered: PublishedFigure | None
    wrong: PublishedFigure | None


class DoubtCurve(Published):
    """For sets at several error rates: the share that is answered, and the share of wrong ones among these."""

    error_rate: list[Share]
    answered: list[Share]
    wrong_of_answered: list[Share | None]


class DoubtFigures(Published):
    """What a model does not know of one set of images."""

    covered: PublishedFigure = Field(description="The set holds the true class.")
    covered_by_class: Figures
    answered: PublishedFigure = Field(
        description="One class is in the set, and it is the one that is called."
    )
    wrong_of_answered: PublishedFigure
    wrong_by_class: Figures = Field(description="Answered with another class, of all images of a class.")
    strange: PublishedFigure | None = Field(
        description="Out of distribution; null where that is not measured."
    )
    curve: DoubtCurve
    slices: list[DoubtSlice]


class Doubt(Published):
    """What a model does not know: its conformal sets and its measure of strange pictures, both fitted on val."""

    error_rate: Share = Field(description="Stated for each class: sets that lack the true class.")
    bounds: dict[str, float | None] = Field(
        description="Class -> 1 - p up to which it is in a set; null: always in it, for want of groups on val."
    )
    n_groups: dict[str, Count] = Field(description="Class -> groups of val on which its bound rests.")
    novelty_rate: Share = Field(description="Stated: honest pictures that are called out of distribution.")
    novelty_reason: str | None = Field(description="Why no picture is called out of distribution.")
    object_key: str = Field(description="What a prediction needs of it, in the bucket.")
    sha256: str
    test: DoubtFigures
