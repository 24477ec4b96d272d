"""The outcome of one integrity check: a name, a status, and one plain sentence with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["passed", "failed", "not_applicable"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`is_blocking`: whether a failure refuses promotion. `numbers` is JSON-able."""

    name: str
    status: Status
    is_blocking: bool = True
    sentence: str
    numbers: Mapping[str, Any]

    @property
    def blocks(self) -> bool:
        return self.status == "failed" and self.is_blocking

    def as_dict(self) -> dict[str, Any]:
        """The shape `verdict` of metrics.schema.json."""
        return {
            "name": self.name,
            "status": self.status,
            "is_blocking": self.is_blocking,
            "sentence": self.sentence,
            "numbers": dict(self.numbers),
        }


def blocking(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those that refuse promotion; empty means that the numbers can be trusted."""
    return [verdict for verdict in verdicts if verdict.blocks]
