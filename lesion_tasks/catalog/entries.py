"""What all entries of the catalogue have in common: a unique name, and a fingerprint."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Protocol, TypeVar


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=_Named)


def by_name(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Index entries by name; a repeated name is an error."""
    index: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in index:
            raise ValueError(f"{type(entry).__name__} {entry.name!r} is declared twice")
        index[entry.name] = entry
    return index


def fingerprint(entry: object) -> str:
    """16 hexadecimal digits that change when any field of a catalogue entry changes."""
    canonical = json.dumps(asdict(entry), sort_keys=True, separators=(",", ":"))  # type: ignore[call-overload]
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
