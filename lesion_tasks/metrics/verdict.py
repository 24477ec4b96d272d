"""The outcome of one integrity check: a name, a status, and one plain sentence with its numbers.

`failed` is a fault of the evaluation. `too_few` is none: the images cannot tell, so nothing is proven either way, and
what is not proven is not promoted. `caution` passes, and tells a reader something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Status = Literal["passed", "failed", "too_few", "caution", "not_applicable"]

ON_VAL = "_on_val"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`is_blocking`: whether `failed` or `too_few` refuses promotion. `numbers` is JSON-able.

    `name` is that of the fault on test; the same check on val has `_on_val` after it.
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
        """A fault that refuses promotion: the evaluation is not sound."""
        return self.status == "failed" and self.is_blocking

    @property
    def is_undecided(self) -> bool:
        """Too few images to tell, which refuses promotion and says nothing against the evaluation."""
        return self.status == "too_few" and self.is_blocking

    def on_val(self) -> Verdict:
        """The same verdict, said of val."""
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


def blocking(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those that refuse promotion; empty means that the numbers can be trusted, and are enough to judge by."""
    return [verdict for verdict in verdicts if verdict.blocks]
