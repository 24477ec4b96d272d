"""The outcome of one integrity check: a name, a status, and one plain sentence with its numbers.

`failed` is a fault of the evaluation. `too_few` is not: there are too few images to tell, so nothing is proven either
way, and what is not proven is not promoted. `caution` passes, but warns the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Status = Literal["passed", "failed", "too_few", "caution", "not_applicable"]

ON_VAL = "_on_val"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`is_blocking`: whether `failed` or `too_few` prevents promotion. `numbers` can be written as JSON.

    `name` is that of the fault on test; the same check on val has the suffix `_on_val`.
    """

    name: str
    status: Status
    is_blocking: bool = True
    sentence: str
    numbers: Mapping[str, Any]

    @property
    def blocks(self) -> bool:
        return self.is_failure or self.is_undecided

    @property
    def is_failure(self) -> bool:
        """A fault that prevents promotion: the evaluation is not sound."""
        return self.status == "failed" and self.is_blocking

    @property
    def is_undecided(self) -> bool:
        """Too few images to tell, which prevents promotion but says nothing against the evaluation."""
        return self.status == "too_few" and self.is_blocking

    def on_val(self) -> Verdict:
        """The same verdict for val."""
        return replace(self, name=f"{self.name}{ON_VAL}", sentence=f"On val: {self.sentence}")

    def as_dict(self) -> dict[str, Any]:
        """The shape `verdict` of metrics.schema.json."""
        return {
            "name": self.name,
            "status": self.status,
            "is_blocking": self.is_blocking,
            "sentence": self.sentence,
            "numbers": dict(self.numbers),
        }
