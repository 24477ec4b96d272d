"""A bundle -> what the page shows of pictures and data: examples, funnel, counts, changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lesion_tasks.reports.environment import is_inline_picture
from lesion_tasks.reports.words import NO_VALUE, count, percent, plain

# Pictures beyond this are left out, so that a page stays fit for mail: base64 characters, pictures and maps together.
MAX_PICTURE_CHARACTERS = 3_500_000


def examples(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Examples by kind, mistakes first, as many as the page has room for; only pictures that carry their own bytes."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    used = n_left_out = 0
    for example in sorted(bundle["examples"], key=lambda e: "mistake" not in e["kind"]):
        if not is_inline_picture(example.get("picture")):
            n_left_out += 1
            continue
        heatmap = example.get("heatmap") if is_inline_picture(example.get("heatmap")) else None
        used += len(example["picture"]) + len(heatmap or "")
        if used > MAX_PICTURE_CHARACTERS:
            n_left_out += 1
            continue
        called = _called(example, bundle["training"]["classes"])
        groups.setdefault(example["kind"], []).append({**example, "heatmap": heatmap, "called": called})
    return {"groups": groups, "n_left_out": n_left_out}


def _called(example: Mapping[str, Any], classes: Sequence[str]) -> str:
    """The class that the model called: of two classes, a mistake is the other one."""
    if "mistake" not in example["kind"]:
        return str(example["label"])
    others = [name for name in classes if name != example["label"]]
    return others[0] if len(others) == 1 else str(example.get("called", "another class"))


def funnel_rows(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The funnel with a bar of 0 to 1 of the largest step each; what was left out is negative."""
    whole = max((abs(step["n"]) for step in steps), default=0)
    return [
        {
            "step": step["step"],
            "reason": step.get("reason"),
            "words": count(step["n"]),
            "share": abs(step["n"]) / whole if whole else 0.0,
            "is_loss": step["n"] < 0,
        }
        for step in steps
    ]


def change_tables(changes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What changed in the data: whole numbers first, then a table for each kind of nested counts."""
    if changes is None:
        return None
    lines = [(name, plain(value)) for name, value in changes.items() if not isinstance(value, Mapping)]
    nested = {name: value for name, value in changes.items() if isinstance(value, Mapping)}
    return {"lines": lines, "tables": data_tables(nested)}


def data_tables(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Whatever the bundle knows of its data as tables: counts with shares, or shares by subset."""
    tables = []
    for name, content in data.items():
        if not isinstance(content, Mapping) or not content:
            continue
        if all(isinstance(value, Mapping) for value in content.values()):
            columns = list(dict.fromkeys(key for row in content.values() for key in row))
            rows = [
                [row_name, *(_cell(name, row.get(column)) for column in columns)]
                for row_name, row in content.items()
            ]
            tables.append({"name": name, "columns": columns, "rows": rows})
        elif all(isinstance(value, int) for value in content.values()):
            total = sum(content.values())
            rows = [
                [row_name, count(n), percent(n / total if total else None)] for row_name, n in content.items()
            ]
            tables.append({"name": name, "columns": ["images", "share"], "rows": rows})
    return tables


def _cell(table: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return percent(float(value)) if table == "missing" else count(value)
    return NO_VALUE if value is None else str(value)
