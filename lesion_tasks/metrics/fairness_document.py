"""The published document of how figures differ between people: pydantic models, as `document_schema` has them."""

from __future__ import annotations

from pydantic import Field

from lesion_tasks.metrics.document_schema import Count, Figures, Published


class FairnessPart(Published):
    """The images with one value of an attribute."""

    value: str
    n_images: Count
    n_groups: Count
    n_positives: Count | None
    reason: str | None = Field(description="Why it is not measured.")
    figures: Figures


class PartGap(Published):
    """A measure in one part minus the same in another; 0 or more where it is measured."""

    higher: str
    lower: str
    value: float
    low: float | None
    high: float | None
    interval_reason: str | None = None


class FairnessGap(Published):
    """The largest difference of a measure between two parts, with an interval that holds for all pairs together.

    Parts with too few groups for an interval are left aside, unless no two have one: theirs are mostly noise.
    """

    measure: str
    n_pairs: Count
    largest: PartGap
    untold: dict[str, str] = Field(
        description="Parts without an interval -> why; not looked at where others have one."
    )
    certain: PartGap | None = Field(description="The largest that is more than chance; null if none is.")
    words: str


class AttributeFairness(Published):
    """One attribute: its parts, and the gaps between them."""

    attribute: str
    parts: list[FairnessPart]
    gaps: list[FairnessGap]
    reason: str | None = Field(description="Why it cannot be determined.")


class Fairness(Published):
    """One sample: the test set, a cohort, or all of them pooled."""

    sample: str
    n_images: Count
    n_groups: Count
    n_shared: Count = Field(
        default=0, description="Images of a pooled sample that several data sets have: each is counted once."
    )
    attributes: list[AttributeFairness]
    words: str = Field(default="", description="How many gaps are looked at, and what else to bear in mind.")
