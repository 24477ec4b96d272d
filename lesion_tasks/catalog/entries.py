"""What all entries of the catalogue have in common: a unique name, fields with known values, and a fingerprint."""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Protocol, TypeVar, get_args, get_type_hints

from lesion_tasks.catalog.canonical_json import canonical_json

# Names are parts of keys in the bucket, of ids, and of columns in reports.
NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
NAME_RULE = "lower-case letters, digits and underscores, first a letter, at most 60"


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
    return hashlib.sha256(canonical_json(asdict(entry))).hexdigest()[:16]  # type: ignore[call-overload]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean smoke?` for a name that resembles a known one, else nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def unknown(what: str, value: str, known: Collection[str]) -> str:
    """What is wrong with a name that is none of the known ones, in words."""
    expected = f"expected one of {', '.join(known)}" if known else "there is none"
    return f"unknown {what} {value[:200]!r}{did_you_mean(value, known)}, {expected}"


@dataclass(frozen=True, eq=False)
class OneOf:
    """Marks a field of an entry, as `Annotated[str, OneOf("split", SPLITS)]`: it holds one of these names."""

    what: str
    known: Collection[str]

    def check(self, value: str) -> str:
        """The value; raises ValueError that lists the known ones."""
        if value not in self.known:
            raise ValueError(unknown(self.what, value, self.known))
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """For entries that are read from a file; whoever reads those has loaded pydantic."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


class MistakesError(ValueError):
    """Everything that is wrong with one entry."""

    def __init__(self, what: str, problems: Sequence[str]) -> None:
        super().__init__(f"{what}: {'; '.join(problems)}")
        self.problems = tuple(problems)


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raise `MistakesError` if anything is wrong with an entry."""
    if problems:
        raise MistakesError(what, problems)


def unknown_values(entry: object) -> list[str]:
    """What is wrong with an entry's fields that are marked with `OneOf`, in words."""
    found = []
    for field, mark in _marks(type(entry)).items():
        value = getattr(entry, field)
        named = value if isinstance(value, tuple) else () if value is None else (value,)
        found += [unknown(mark.what, name, mark.known) for name in named if name not in mark.known]
    return found


def _marks(kind: type) -> dict[str, OneOf]:
    """The marked fields of a class."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field: mark
        for field, hint in hints.items()
        for part in (hint, *get_args(hint))
        for mark in getattr(part, "__metadata__", ())
        if isinstance(mark, OneOf)
    }
