"""A split's members and rejects -> the steps from records to subsets, each with what it left out and why."""

from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.splits.exclusions import REASONS
from lesion_tasks.splits.subsets import SUBSETS


def funnel_of(connection: Connection, split: str) -> list[dict[str, Any]]:
    """In the order of the path. Each step has step and n (negative: left out), and a reason where images left."""
    n_records = connection.execute(text("SELECT count(*) FROM record")).scalar_one()
    rejects = connection.execute(text("SELECT reason, count(*) AS n FROM reject GROUP BY reason")).all()
    members = connection.execute(
        text(
            "SELECT reason, subset, count(*) AS n FROM split_member WHERE split = :split GROUP BY reason, subset"
        ),
        {"split": split},
    ).all()
    inside = {row.subset: row.n for row in members if row.reason is None}
    left_out = {row.reason: row.n for row in members if row.reason is not None}
    return [
        {"step": "records", "n": n_records},
        *_losses("rejected", {row.reason: row.n for row in rejects}),
        {"step": "images", "n": sum(row.n for row in members)},
        *_losses("left out", left_out),
        *({"step": subset, "n": inside.get(subset, 0)} for subset in SUBSETS),
    ]


def _losses(step: str, n_by_reason: dict[str, int]) -> list[dict[str, Any]]:
    order = list(REASONS)
    known = sorted(n_by_reason, key=lambda word: (order.index(word) if word in order else len(order), word))
    return [{"step": step, "reason": reason, "n": -n_by_reason[reason]} for reason in known]
