"""Everything known about one evaluation as one pydantic model: `metrics.json`, its JSON Schema, older documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from lesion_tasks.catalog.synthetic_pictures import is_synthetic
from lesion_tasks.metrics.cohort_document import OtherData
from lesion_tasks.metrics.comparison_document import Comparison
from lesion_tasks.metrics.document_schema import (
    DIALECT,
    SCHEMA_VERSION,
    Count,
    Figures,
    Published,
    PublishedVerdict,
    Share,
    SubsetDocument,
)
from lesion_tasks.metrics.doubt_document import Doubt
from lesion_tasks.metrics.fairness_document import Fairness
from lesion_tasks.metrics.figure import NOT_PICKED
from lesion_tasks.metrics.known_identities import Identities


class TrainingFacts(Published):
    """The lineage of a training."""

    training_id: str
    variant: str
    title: str
    reproduces: str | None = None
    task: str
    task_title: str
    classes: Annotated[list[str], Field(min_length=2)]
    positive_class: str | None
    recipe: dict[str, Any]
    seed: int
    weights: str | None = Field(None, description="Null: random weights at the start.")
    weights_sha256: str | None = None
    code_version: str
    versions: dict[str, Any] = Field(default_factory=dict)
    threshold: float | None
    started_at: str
    finished_at: str | None
    manifest_digest: str
    model_sha256: str | None


class FunnelStep(Published):
    """The number of images at a step; negative if the step leaves some out."""

    step: str
    reason: str | None = None
    n: int


class ManifestFacts(Published):
    """The manifest's recipe, counts and funnel."""

    digest: str
    split: str
    task: str
    n_images: Count
    class_counts: dict[str, dict[str, Count]] = Field(description="Subset -> class -> images.")
    funnel: list[FunnelStep]
    recipe: dict[str, Any] = Field(default_factory=dict)
    created_at: str


class DataFacts(Published):
    """Images by licence, attribution, image type and sex; the share of missing values by field and subset."""

    licences: dict[str, Count] = Field(default_factory=dict)
    attributions: dict[str, Count] = Field(default_factory=dict)
    image_types: dict[str, Count] = Field(default_factory=dict)
    sexes: dict[str, Count] = Field(default_factory=dict)
    missing: dict[str, dict[str, Share]] = Field(default_factory=dict)

    @property
    def has_synthetic(self) -> bool:
        """Whether a program drew any of the pictures."""
        return any(is_synthetic(name) for name in self.attributions)


class DataChanges(Published):
    """What the manifest gained and lost since the one of this variant's previous training."""

    since_manifest: str
    n_new: Count
    n_lost: Count
    n_relabelled: Count
    n_moved: Count
    new_by_class: dict[str, Count]


class Epoch(Published):
    epoch: Count
    figures: dict[str, float | None]
    duration_s: Annotated[float, Field(ge=0)]


class Example(Published):
    """One of the most confident mistakes and hits. The pictures are on the page only, not in any document."""

    isic_id: str
    label: str
    called: str | None = Field(None, description="The class that the model called, if it was kept.")
    probability: Share = Field(description="Of the class that was called.")
    kind: str
    picture: str | None = Field(None, exclude=True)
    heatmap: str | None = Field(None, exclude=True)


class PublishedGate(Published):
    measure: str
    floor: float
    margin: Annotated[float, Field(ge=0)]
    is_leading: bool
    is_exclusion_needed: bool
    reason: str


class PublishedSliceGuard(Published):
    attributes: list[str]
    margin: Annotated[float, Field(ge=0)]
    reason: str


class PublishedCohortGuard(Published):
    margin: Annotated[float, Field(ge=0)]
    margin_reason: str
    floor: float
    floor_reason: str


class Standing(Published):
    """What the gates say about the training as a candidate at the time of the evaluation."""

    gates: list[PublishedGate]
    slice_guard: PublishedSliceGuard
    cohort_guard: PublishedCohortGuard | None = Field(None, description="Null: no cohort judges the task.")
    objections: list[str] = Field(description="Empty: it may be promoted.")
    cautions: list[str]


class BestOfLooks(Published):
    """The leading figure of the natural test set without the luck of being the best of `n_looks` at it."""

    measure: str
    n_looks: Annotated[int, Field(ge=1)]
    value: Share
    low: Share
    high: Share
    method: str
    luck: Annotated[float, Field(ge=0)] = Field(description="The amount subtracted from the measured figure.")
    standard_error: float | None = Field(None, description="Of the measured figure; null in older documents.")
    degrees: float | None = Field(
        None, description="Of freedom, of its interval; null: unlimited, or not noted."
    )

    @property
    def is_picked(self) -> bool:
        """Whether it was the highest of several."""
        return self.n_looks > 1 and self.method != NOT_PICKED


class SincePromotion(Published):
    """A champion on the test images that joined its task after its promotion: it was not chosen on these."""

    promoted_at: str
    n_images: Count
    figures: Figures


class LesionFigures(Published):
    """The natural test by lesion: the mean logit of its images is its score. Counts of a figure are lesions."""

    n_images: Count
    n_lesions: Count = Field(description="An image of no known lesion counts as one of its own.")
    n_with_several_images: Count
    n_left_out: Count = Field(description="Lesions whose images have different labels.")
    figures: Figures


class Bundle(Published):
    """Everything known about one evaluation: one training on one manifest. Times are ISO 8601 in UTC."""

    schema_version: Literal[2] = SCHEMA_VERSION
    evaluation_id: str
    evaluated_at: str
    is_sound: bool = Field(description="No blocking integrity check failed.")
    failed_checks: list[str] = Field(description="Names of the blocking checks that failed.")
    undecided_checks: list[str] = Field([], description="Names of those with too few images to tell.")
    verdict: str = Field(description="One sentence.")
    training: TrainingFacts
    manifest: ManifestFacts
    integrity: list[PublishedVerdict] = Field(description="Every check, also those that passed.")
    predictions: dict[str, str] = Field(
        default_factory=dict, description="Subset -> SHA-256 under which its predictions are stored."
    )
    subsets: dict[str, SubsetDocument] = Field(
        description="test_natural, test_balanced and val; empty if predictions could not be joined to the manifest."
    )
    identities: Identities | None = Field(
        None, description="Null in documents from before they were counted."
    )
    fairness: Fairness | None = Field(
        None, description="Skin types, sexes and ages on the natural test set; of cohorts, see `other_data`."
    )
    other_data: OtherData | None = Field(None, description="Cohorts; null if none judges the task.")
    doubt: Doubt | None = Field(
        None, description="Null on a manifest other than its own, and before it was measured."
    )
    best_of_looks: BestOfLooks | None = None
    since_promotion: SincePromotion | None = None
    lesions: LesionFigures | None = Field(None, description="Null where no lesion has two images.")
    epochs: list[Epoch]
    comparison: Comparison | None
    promotion: Standing | None = Field(None, description="Null on a manifest other than its own.")
    data_changes: DataChanges | None = Field(description="Null for the first training of a variant.")
    data: DataFacts
    examples: list[Example]
    n_test_openings: Count = Field(
        description="How many trainings have looked at this test set, on any manifest that shares it."
    )


@cache
def bundle_schema() -> dict[str, Any]:
    """The JSON Schema of metrics.json."""
    schema = Bundle.model_json_schema(mode="serialization")
    return {"$schema": DIALECT, "$id": "metrics.schema.json", **schema}


def schema_json() -> bytes:
    return json.dumps(bundle_schema(), indent=1).encode()


def metrics_json(bundle: Bundle) -> bytes:
    """The bundle without the pixels of its examples. ValueError on NaN or infinity."""
    return json.dumps(bundle.model_dump(), indent=1, ensure_ascii=False, allow_nan=False).encode()


def read_bundle(document: Mapping[str, Any]) -> Bundle:
    """A stored document of this or an earlier schema version. ValueError if it is not a bundle.

    Version 1 repeated empty lists of checks and lineage in each subset. Numbers of checks have their names of today.
    """
    if document.get("schema_version", 1) == 1:
        subsets = {name: _without_repeats(subset) for name, subset in document["subsets"].items()}
        document = {**document, "schema_version": SCHEMA_VERSION, "subsets": subsets}
    if isinstance(checks := document.get("integrity"), list):
        document = {**document, "integrity": [_renamed(one) for one in checks]}
    return Bundle.model_validate(document)


_NAMES_OF_NUMBERS = {"validation_auc": "val_auc"}  # in earlier documents -> today


def _renamed(check: Any) -> Any:
    if not isinstance(check, Mapping) or not isinstance(numbers := check.get("numbers"), Mapping):
        return check
    return {**check, "numbers": {_NAMES_OF_NUMBERS.get(name, name): value for name, value in numbers.items()}}


def _without_repeats(subset: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in subset.items() if name not in ("integrity", "lineage")}
    return kept | {"schema_version": SCHEMA_VERSION}
