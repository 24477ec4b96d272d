"""The leaderboard -> `reports/index.html`: one page that needs no server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lesion_tasks.reports.environment import environment
from lesion_tasks.reports.plot import share_scale, whisker


def render_index(leaderboard: Mapping[str, Any]) -> bytes:
    """Render the page. An evaluation that is not sound is never ranked and stands below all that are."""
    tasks = [_task(task) for task in leaderboard["tasks"]]
    template = environment().get_template("index.html.j2")
    return template.render(generated_at=leaderboard.get("generated_at"), tasks=tasks).encode()


def _task(task: Mapping[str, Any]) -> dict[str, Any]:
    is_binary = len(task["classes"]) == 2
    measure = task.get("leading_measure") or ("auc" if is_binary else "macro_auc")
    scale = share_scale(row["figures"].get(measure) for row in task["rows"])
    rows = sorted((_row(row, measure, scale) for row in task["rows"]), key=lambda row: row["order"])
    sound = [row for row in rows if row["is_sound"]]
    for rank, row in enumerate(sound, start=1):
        row["rank"] = rank if row["leading"] and row["leading"]["value"] is not None else None
    unsound = [row for row in rows if not row["is_sound"]]
    groups: list[dict[str, Any]] = [{"title": None, "rows": sound}]
    if unsound:
        groups.append({"title": "Not sound: shown, never ranked, never promoted", "rows": unsound})
    return {
        **task,
        "measure": measure,
        "columns": ("sensitivity_at_90_specificity",) if is_binary else ("balanced_accuracy",),
        "scale": scale,
        "groups": groups,
        "n_manifests": len({row["manifest_digest"] for row in rows}),
    }


def _row(row: Mapping[str, Any], measure: str, scale: tuple[float, float]) -> dict[str, Any]:
    leading = row["figures"].get(measure)  # absent where the predictions could not be joined
    value = leading["value"] if leading else None
    return {
        **row,
        "rank": None,
        "leading": leading,
        "whisker": None
        if value is None
        else whisker(value, leading["low"], leading["high"], scale=scale, reference=0.5),
        # Undefined ones last; ties by name, so that the page does not change by itself.
        "order": (value is None, -(value or 0.0), row["training_id"]),
    }
