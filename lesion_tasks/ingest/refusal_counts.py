"""Records that were refused -> the number for each reason, with examples, in the counts of a pass."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from lesion_tasks.archive.record import Refusal

N_EXAMPLES = 3
MAX_CHARACTERS = 200  # of an example


class RefusalTally:
    """Counts refusals by reason and keeps the first details of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def note(self, refusals: Iterable[Refusal]) -> None:
        """Count some refusals."""
        for refusal in refusals:
            self._counts[refusal.reason] += 1
            examples = self._examples[refusal.reason]
            words = f"{refusal.isic_id}: {refusal.detail}" if refusal.isic_id else refusal.detail
            if len(examples) < N_EXAMPLES and words[:MAX_CHARACTERS] not in examples:
                examples.append(words[:MAX_CHARACTERS])

    def report(self) -> dict[str, Any]:
        """Return `refusals`, by reason: its count and up to three examples. Empty if nothing was refused."""
        if not self._counts:
            return {}
        by_reason = {
            reason: {"count": n, "examples": self._examples[reason]}
            for reason, n in self._counts.most_common()
        }
        return {"refusals": by_reason}

    def in_words(self) -> str:
        """Return the same in one line."""
        return "; ".join(
            f"{n:,} {reason} ({', '.join(self._examples[reason])})"
            for reason, n in self._counts.most_common()
        )
