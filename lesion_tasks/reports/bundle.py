"""The bundle as a file: `metrics.json`, and the JSON Schema that describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

PICTURES = ("picture", "heatmap")


@cache
def bundle_schema() -> dict[str, Any]:
    """The published JSON Schema of metrics.json, with the schema of one subset's document inside."""
    schema = _read("reports", "bundle.schema.json")
    # With an $id of its own, "#/$defs/..." inside the document's schema stays inside it.
    schema["$defs"]["document"] = {"$id": "document.schema.json", **_read("metrics", "metrics.schema.json")}
    return schema


def _read(room: str, name: str) -> dict[str, Any]:
    # Not by way of `document.metrics_schema`: that module loads the statistics, which no page needs.
    text = files(f"lesion_tasks.{room}").joinpath(name).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def metrics_json(bundle: Mapping[str, Any]) -> bytes:
    """The bundle without the pixels of its examples: those are in the page. ValueError on NaN or infinity."""
    lean = dict(bundle)
    lean["examples"] = [
        {name: value for name, value in example.items() if name not in PICTURES}
        for example in bundle["examples"]
    ]
    return json.dumps(lean, indent=1, ensure_ascii=False, allow_nan=False).encode()


def schema_json() -> bytes:
    return json.dumps(bundle_schema(), indent=1).encode()
