"""Values -> Markdown in which no value acts as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#])")


def escape(value: object) -> str:
    """Text on one line, with every character that Markdown or HTML would read as markup escaped."""
    on_one_line = " ".join(str(value).split()).replace("&", "&amp;")
    return _SPECIAL.sub(r"\\\1", on_one_line).replace("\\<", "&lt;").replace("\\>", "&gt;")


def table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; header words are ours, every cell is escaped."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)
