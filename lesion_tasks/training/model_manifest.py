"""What travels with a model: the manifest in its `.keras` file and beside it, as a pydantic model."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ModelManifest(BaseModel):
    """How a model is read and what it came from. The way in which it was trained adds facts of its own."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    training_id: str
    variant: dict[str, Any] = Field(description="The recipe that was run.")
    task: dict[str, Any] = Field(description="The question, as the catalogue had it.")
    classes: list[str] = Field(
        description="In the order of the probabilities; of two, the second is positive."
    )
    threshold: float | None = Field(description="The least probability that counts as positive.")
    threshold_rule: str | None
    manifest_digest: str
    weights: str | None = Field(description="Pretrained weights, as they were named.")
    weights_sha256: str | None
    weights_licence: str | None
    licences: dict[str, dict[str, Any]] = Field(description="Of the images that it learned from.")
    code_digest: str
    trainer_figures: dict[str, Mapping[str, float | None]]
    versions: dict[str, str]
    code_version: str
