"""The published document of a recipe tested where it never learned: pydantic models, as `document_schema` has them.

Shares and probabilities are 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from lesion_tasks.catalog.printed_numbers import percent
from lesion_tasks.metrics.auc import Auc
from lesion_tasks.metrics.between_sites import BetweenSites, combine_sites
from lesion_tasks.metrics.document_schema import Count, Figures, Published, PublishedFigure, Share

METHOD = (
    "Random effects on the logit of the AUC; variance between sites by Paule and Mandel, that of training by what the "
    "trainings of each site differ; the mean's interval by Hartung and Knapp or the usual one, whichever is wider, the "
    "interval for a new site by the confidence distributions of both variances (Nagashima, Noma and Furukawa 2019, "
    "that between sites by the Q profile, Viechtbauer 2007); test of heterogeneity: Welch 1951, with the variance of "
    "training by Kenward and Roger 1997, on the logit and on the AUC's own scale, whichever has the larger p; Q and I² "
    "are of the same test"
)

# Sites are combined as if each had people of its own. A few groups that several share hardly change that; beyond this
# share of all groups the intervals would be too narrow.
MAX_SHARED = 0.05


class HeldOutTraining(Published):
    """One training that never learned from what is held out, on all of it."""

    training_id: str
    seed: int
    evaluation_id: str
    report_key: str = Field(description="Of its own report, in the bucket.")
    is_sound: bool
    verdict: str
    figures: Figures


class HeldOutSite(Published):
    """One value held out: the models that never learned from it, on all of it."""

    value: str
    manifest_digest: str
    n_images: Count
    n_groups: Count
    class_counts: dict[str, Count]
    n_trained_on: Count = Field(description="Images of train and val.")
    trainings: list[HeldOutTraining] = Field(description="One with each seed.")
    figure: PublishedFigure | None = Field(
        description="The leading measure: the mean of the sound trainings, with their difference in its interval."
    )


class UntestedSite(Published):
    """One value that is not held out by itself; its images teach in every fold."""

    value: str
    n_images: Count
    n_groups_by_class: dict[str, Count]
    reason: str


class SitesTogether(Published):
    """What the sites say together: see `metrics.between_sites`."""

    n_sites: Annotated[int, Field(ge=1)]
    n_trainings: Annotated[int, Field(ge=1)]
    mean: Share
    mean_low: Share
    mean_high: Share
    tau: float = Field(description="Standard deviation of the sites' true values, on the logit scale.")
    training_sd: float | None = Field(
        description="Standard deviation of the trainings of one site, on the logit scale; null with one of each: it is "
        "then a part of tau."
    )
    q: float = Field(
        description="Cochran's, of the test that has the larger p: on the logit or the AUC's own scale."
    )
    p_value: Share = Field(description="Of that test: larger than on the other scale.")
    i2: Share = Field(
        description="Share of the variance of the sites' figures that is not chance, by that test's Q."
    )
    new_site_low: Share = Field(
        description="95 % prediction interval for the true AUC of one training's model at a new site."
    )
    new_site_high: Share
    differ: bool = Field(
        description="Whether the sites differ by more than the chance of who was tested and, with several trainings of "
        "each, that of training, at 5 %."
    )
    method: str


class HeldOutDocument(Published):
    """A recipe, trained without each institution (collection, site), and tested on what it never saw."""

    held_out_id: str
    evaluated_at: str
    variant: str
    title: str
    task: str
    task_title: str
    split: str
    by: str
    one: str = Field(description="What one value is called.")
    manifest_digest: str = Field(description="Of the whole split.")
    measure: str
    sites: list[HeldOutSite]
    untested: list[UntestedSite]
    n_unknown: Count = Field(description="Images of which nothing tells the value: they teach nothing.")
    n_of_several: Count = Field(description="Images of more than one value, tested with each of them.")
    n_groups: Count = Field(description="Groups of all tests that could be combined.")
    n_shared_groups: Count = Field(description="Of those, in more than one test.")
    has_luck: bool = Field(
        default=True,
        description="Whether the recipe with another seed would give another model; of earlier releases not told.",
    )
    together: SitesTogether | None
    reason: str | None = Field(default=None, description="Why the sites are not combined.")
    words: str


def put_together(
    trainings_of: Sequence[Sequence[Auc]],
    one: str,
    *,
    n_groups: int = 0,
    n_shared: int = 0,
    has_luck: bool = False,
    has_seed: bool = True,
) -> tuple[SitesTogether | None, str | None, str]:
    """The sites combined, or why not; and what that says in a few sentences. `one`: what a site is called.

    `trainings_of`: the AUCs of each site's trainings. `n_groups`: of all tests; `n_shared`: of those, in more than one
    test. Beyond `MAX_SHARED` nothing is combined. `has_luck`: whether the recipe with another seed would give another
    model; `has_seed`: whether it has one, as an ensemble has not.
    """
    found = (
        combine_sites(trainings_of)
        if n_shared <= MAX_SHARED * n_groups
        else f"{n_shared:,} of {n_groups:,} groups are in the test of more than one {one}, at most "
        f"{percent(MAX_SHARED, 0)} may"
    )
    if isinstance(found, str):
        return None, found, f"What a new {one} may expect cannot be determined: {found}."
    told = SitesTogether.model_validate(
        {**{name: getattr(found, name) for name in BetweenSites.__dataclass_fields__}, "differ": found.differ}
        | {"method": METHOD}
    )
    chance = "chance" if found.training_sd is None else "chance and the luck of training"
    differ = (
        f"differ by more than {chance} (p {_p(found.p_value)}, I² {percent(found.i2, 0)})"
        if found.differ
        else f"differ by no more than {chance} may do (p {_p(found.p_value)})"
    )
    words = (
        f"Mean AUC {found.mean:.3f} (95 % interval {found.mean_low:.3f} to {found.mean_high:.3f}) over {found.n_sites} "
        f"held-out {one}s, which {differ}. In a new {one} the AUC is expected between {found.new_site_low:.3f} and "
        f"{found.new_site_high:.3f}."
    )
    if has_luck and found.training_sd is None:
        words += (
            f" Each {one} has one sound training, so the luck of training is not told apart from a difference between "
            f"{one}s: any may stand out because the training without it went well or badly."
            + (" Several trainings of each would tell." if has_seed else "")
        )
    if (n_lost := len(trainings_of) - found.n_sites) > 0:
        words += (
            f" {n_lost} of which a training has no interval, as with an AUC of 0 or 1, could not be combined."
        )
    if n_shared:
        words += f" {n_shared:,} of {n_groups:,} groups are in more than one test."
    return told, None, words


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
