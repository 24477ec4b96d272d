"""What `champion.json` says of the champion of each task: pydantic models, as `document_schema` has them."""

from typing import Any

from pydantic import Field, RootModel

from lesion_tasks.metrics.document_schema import DIALECT, Published
from lesion_tasks.reports.bundle import BestOfLooks, SincePromotion

CHAMPION_KEY = "champion.json"
CHAMPION_SCHEMA_KEY = "champion.schema.json"


class ChampionFigures(Published):
    """The leading figure on the natural test set, and what is known of its luck; null where it is undefined."""

    measure: str
    value: float | None
    low: float | None
    high: float | None
    best_of_looks: BestOfLooks | None = Field(description="Null: it was the first look at its test set.")
    since_promotion: SincePromotion | None = Field(
        description="Null: no image has joined its test set since."
    )


class ChampionEntry(Published):
    """The champion of a task: its model, how to read what it says, and the decision behind it."""

    sequence: int = Field(description="The number of the decision; it grows with each.")
    training_id: str
    variant: str
    model_key: str = Field(description="The object of the model in the bucket, a `.keras` file.")
    model_sha256: str = Field(description="Of the object's bytes.")
    classes: list[str] = Field(
        description="In the order of the probabilities; of two, the second is positive."
    )
    threshold: float | None = Field(description="The least probability that counts as positive.")
    since: str = Field(description="When it was decided, ISO 8601.")
    reason: str
    doubt_key: str | None = Field(
        description="The object that tells where the model does not know, if there is one."
    )
    doubt_sha256: str | None
    unsound: str | None = Field(
        default=None, description="Why its evaluation is not to be trusted; null if it is sound."
    )
    figures: ChampionFigures


def champion_schema() -> dict[str, Any]:
    """The JSON Schema of `champion.json`: task -> its champion."""
    schema = RootModel[dict[str, ChampionEntry]].model_json_schema(mode="serialization")
    return {"$schema": DIALECT, "$id": CHAMPION_SCHEMA_KEY, **schema, "title": "Champions"}
