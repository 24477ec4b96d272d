"""Earlier promotions and a comparison -> losses that no single promotion shows: each small, together beyond a margin.

Every promotion keeps how its champion differs from the one before, on the same images. Added up along the line of
champions, these differences say how far the champion of today is from the best one so far; the candidate's own comes
on top. No earlier champion has to be scored again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from lesion_tasks.catalog.gates import Gate
from lesion_tasks.catalog.titles import label_inside
from lesion_tasks.evaluation.decisions import enthronements


@dataclass(frozen=True, kw_only=True)
class Decline:
    """How far a measure would lie below that of the best champion so far."""

    measure: str
    loss: float  # above 0
    best: str  # the training


def declines(
    connection: Connection, task: str, comparison: Mapping[str, Any] | None, gates: Sequence[Gate]
) -> list[Decline]:
    """The guarded measures in which the candidate would be below the best champion so far, not only below this one."""
    if comparison is None:
        return []
    rows = enthronements(connection, task)
    found = []
    for gate in gates:
        difference = comparison["differences"].get(gate.measure)
        # A candidate that does not lose is not held to account for those before it.
        if gate.is_leading or difference is None or difference.get("low") is None or difference["value"] >= 0:
            continue
        heights = _heights(rows, gate.measure)
        now = heights[rows[-1].training_id]
        best = max(heights, key=lambda training_id: heights[training_id])
        loss = heights[best] - now - difference["value"]
        if best != rows[-1].training_id and loss > 0:
            found.append(Decline(measure=gate.measure, loss=loss, best=best))
    return found


def beyond_margin(found: Sequence[Decline], gates: Sequence[Gate]) -> list[Decline]:
    """The declines beyond the margin of their gate."""
    margins = {gate.measure: gate.margin for gate in gates}
    return [one for one in found if one.loss > margins[one.measure]]


def objections_to(found: Sequence[Decline], gates: Sequence[Gate]) -> list[str]:
    """The declines beyond the margin of their gate, in words."""
    margins = {gate.measure: gate.margin for gate in gates}
    return [
        f"{label_inside(one.measure)} would be {one.loss:.4f} below that of {one.best}, the best champion in it so "
        f"far: losses of several promotions add up to more than {margins[one.measure]:.3f}"
        for one in beyond_margin(found, gates)
    ]


def _heights(rows: Sequence[Any], measure: str) -> dict[str, float]:
    """Each champion's measure relative to the first one of the line, by training; oldest decision first.

    A line begins anew where a promotion was not compared, since what came before cannot be related to it, and where a
    person accepted the loss. A champion that somebody rolled back from had faults and is nobody's measure.
    """
    heights: dict[str, float] = {}
    for row in rows:
        if row.action == "rolled_back" and row.training_id in heights:
            heights.pop(row.previous_training_id, None)
            continue
        figures = row.figures or {}
        compared = (figures.get("comparison") or {}).get("differences") or {}
        step = (compared.get(measure) or {}).get("value")
        if step is None or figures.get("is_forced") or row.previous_training_id not in heights:
            heights = {row.training_id: 0.0}
        else:
            heights[row.training_id] = heights[row.previous_training_id] + step
    return heights
