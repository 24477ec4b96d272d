"""A bundle -> the pictures and data on the page: examples, funnel, counts, changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lesion_tasks.catalog.printed_numbers import NO_VALUE, percent
from lesion_tasks.reports.bundle import Bundle, DataChanges, DataFacts, Example, FunnelStep
from lesion_tasks.reports.environment import is_inline_picture
from lesion_tasks.reports.words import count, plain

# Pictures beyond this are left out, so that a page can be mailed: base64 characters, pictures and maps together.
MAX_PICTURE_CHARACTERS = 3_500_000


def examples(bundle: Bundle) -> dict[str, Any]:
    """Examples by kind, mistakes first, as many as the page has room for; only inline pictures."""
    groups: dict[str, list[Example]] = {}
    used = n_left_out = 0
    for example in sorted(bundle.examples, key=lambda e: "mistake" not in e.kind):
        if example.picture is None or not is_inline_picture(example.picture):
            n_left_out += 1
            continue
        heatmap = example.heatmap if is_inline_picture(example.heatmap) else None
        used += len(example.picture) + len(heatmap or "")
        if used > MAX_PICTURE_CHARACTERS:
            n_left_out += 1
            continue
        called = _called(example, bundle.training.classes)
        shown = example.model_copy(update={"heatmap": heatmap, "called": called})
        groups.setdefault(example.kind, []).append(shown)
    return {"groups": groups, "n_left_out": n_left_out}


def _called(example: Example, classes: Sequence[str]) -> str:
    """The class that the model called. If it was not kept: with two classes, a mistake is the other one."""
    if example.called is not None:
        return example.called
    if "mistake" not in example.kind:
        return example.label
    others = [name for name in classes if name != example.label]
    return others[0] if len(others) == 1 else "another class"


def funnel_rows(steps: Sequence[FunnelStep]) -> list[tuple[FunnelStep, float]]:
    """Every step with its share, 0 to 1, of the largest one."""
    whole = max((abs(step.n) for step in steps), default=0)
    return [(step, abs(step.n) / whole if whole else 0.0) for step in steps]


def change_tables(changes: DataChanges | None) -> dict[str, Any] | None:
    """What changed in the data: whole numbers first, then a table for each kind of nested counts."""
    if changes is None:
        return None
    lines = [(name, plain(value)) for name, value in changes if not isinstance(value, Mapping)]
    return {"lines": lines, "tables": data_tables(changes)}


def data_tables(data: DataFacts | DataChanges) -> list[dict[str, Any]]:
    """What the bundle knows about its data as tables: counts with shares, or shares by subset."""
    return [_table(name, content) for name, content in data if content and isinstance(content, Mapping)]


def _table(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    if all(isinstance(value, Mapping) for value in content.values()):
        columns = list(dict.fromkeys(key for row in content.values() for key in row))
        rows = [[key, *(_share(row.get(column)) for column in columns)] for key, row in content.items()]
        return {"name": name, "columns": columns, "rows": rows}
    total = sum(content.values())
    rows = [[key, count(n), percent(n / total if total else None)] for key, n in content.items()]
    return {"name": name, "columns": ["images", "share"], "rows": rows}


def _share(value: float | None) -> str:
    return NO_VALUE if value is None else percent(value)
