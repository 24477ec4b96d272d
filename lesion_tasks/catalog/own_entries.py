"""A folder of TOML files -> entries of one's own beside the built-in ones, or every mistake in them in one message.

The folder is read when the catalogue is imported, so that the forms of DAGs and the command line list its entries, and
again, if a file changed, when settings are read. While it holds a mistake none of its entries is in the catalogue, and
whatever reads settings fails with the message. Standard library only unless there are entries to read.
"""

import json
import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import date, time
from functools import lru_cache
from pathlib import Path
from threading import RLock
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.backbones import (
    BACKBONES,
    PRESET_ADDRESS,
    PRESET_ADDRESS_RULE,
    STORED_BACKBONES,
    PresetBackbone,
    StoredBackbone,
)
from lesion_tasks.catalog.cohorts import COHORTS, Cohort
from lesion_tasks.catalog.ensembles import check_members
from lesion_tasks.catalog.entries import NAME, NAME_RULE, MistakesError, refuse, unknown
from lesion_tasks.catalog.gates import GATES, Gate, check_gates, gates_of
from lesion_tasks.catalog.recipe import GROUPS, Variant
from lesion_tasks.catalog.schedules import SCHEDULES, Schedule
from lesion_tasks.catalog.split_recipes import SPLITS, Split
from lesion_tasks.catalog.tasks import TASKS, Task
from lesion_tasks.catalog.variants import VARIANTS

VARIABLE = "LESION_CATALOG"
DEFAULT_FOLDER = Path("catalog")
MAX_FILE_BYTES = 1_000_000
NONE = "none"  # TOML has no word for it: the value of a field that may be None


class BrokenCatalogueError(UnusableInputError):
    """Mistakes in a catalogue folder, all of them."""

    max_characters = 20_000


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of entry: a table `[kind.name]` in a file, or for gates an array of tables."""

    entry: Any  # the type of an entry
    # Further types of entries, each by a field that it alone has.
    or_entry: Mapping[str, Any] = field(default_factory=dict)
    entries: dict[str, Any]  # the catalogue's, to which those of the folder are added
    is_named: bool = True  # whether an entry has its name as a field
    is_replacing: bool = (
        False  # whether it takes the place of a built-in entry, instead of standing beside those
    )
    check: Callable[[str, Any], None] | None = None  # that it fits what it names; raises ValueError
    groups: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # tables of fields that belong together


def _check_variant(name: str, variant: Variant) -> None:
    """Raise ValueError if its members do not fit, or with every field that does nothing beside the others."""
    check_members(variant, VARIANTS)
    refuse(
        f"variant {variant.name!r}",
        [f"{name}: does nothing, since {why}; leave it out" for name, why in variant.idle_fields.items()],
    )


def _check_backbone(name: str, backbone: StoredBackbone | PresetBackbone) -> None:
    """Raise ValueError if a name, a pattern or an address cannot be that of a network."""
    problems = []
    if name in BACKBONES:
        problems.append("has the name of a model of Keras Applications, expected another name")
    if isinstance(backbone, PresetBackbone):
        if not backbone.preset or (backbone.is_address and not PRESET_ADDRESS.fullmatch(backbone.preset)):
            problems.append(
                f"preset: is {backbone.preset!r}, expected the name of a folder among the weights, its path, a name of "
                f"KerasHub's, or an address of one version: {PRESET_ADDRESS_RULE}"
            )
        refuse(f"backbone {name!r}", problems)
        return
    if "/" in backbone.files or not backbone.files.endswith(".keras"):
        problems.append(
            f"files: is {backbone.files!r}, expected the name of a .keras file or a pattern such as {name}_*.keras"
        )
    if backbone.preprocessing != "none":
        problems.append("preprocessing: is in the file itself, which takes pixels 0 to 255; leave it out")
    if backbone.min_side_px < 1:
        problems.append(f"min_side_px: is {backbone.min_side_px}, expected at least 1")
    refuse(f"backbone {name!r}", problems)


# In an order in which each kind names only entries of those before it, or of its own.
KINDS: Mapping[str, Kind] = {
    "task": Kind(entry=Task, entries=TASKS),
    "split": Kind(entry=Split, entries=SPLITS),
    "cohort": Kind(entry=Cohort, entries=COHORTS),
    "backbone": Kind(
        entry=StoredBackbone,
        or_entry={"preset": PresetBackbone},
        entries=STORED_BACKBONES,
        check=_check_backbone,
    ),
    "variant": Kind(entry=Variant, entries=VARIANTS, check=_check_variant, groups=GROUPS),
    "gates": Kind(entry=tuple[Gate, ...], entries=GATES, is_named=False, check=check_gates),
    "schedule": Kind(entry=Schedule, entries=SCHEDULES, is_replacing=True),
}


@dataclass(frozen=True, kw_only=True)
class _Written:
    """An entry as a file has it."""

    file: str
    content: Any


@dataclass
class _State:
    """What of which folder is in the catalogue now."""

    signature: tuple[Any, ...] = ()
    replaced: list[tuple[dict[str, Any], str, Any]] | None = None  # entries, name, and what was there before
    file_of: Mapping[tuple[str, str], str] = field(default_factory=dict)  # of each entry, by kind and name
    error: BrokenCatalogueError | None = None


_STATE = _State()
_LOCK = RLock()


def folder() -> Path:
    """The folder that the environment names: the one setting that is read before settings are."""
    return Path(os.environ.get(VARIABLE) or DEFAULT_FOLDER).absolute()


def is_own(kind: str, name: str) -> bool:
    """Whether an entry comes from the folder."""
    return (kind, name) in _STATE.file_of


def built_in(kind: str) -> dict[str, Any]:
    """The entries of a kind that the package brings, by name."""
    return {name: entry for name, entry in KINDS[kind].entries.items() if not is_own(kind, name)}


def read_from() -> str:
    """Words that say where entries of one's own are read, for messages about unknown names."""
    state = "" if folder().is_dir() else ", which does not exist"
    return f"; entries of your own are read from {folder()}{state} ({VARIABLE})"


def listing() -> list[dict[str, str]]:
    """A row for each entry of the folder, with the gates that a task has by default."""
    rows = [
        {"kind": kind, "name": name, "from": file, "what": _what(kind, name)}
        for (kind, name), file in _STATE.file_of.items()
    ]
    return rows + [
        {"kind": "gates", "name": name, "from": "the default", "what": _what("gates", name)}
        for kind, name in _STATE.file_of
        if kind == "task" and name not in GATES
    ]


def _what(kind: str, name: str) -> str:
    if kind == "gates":
        return "; ".join(
            f"{gate.measure} at least {gate.floor:g}, "
            + ("must gain" if gate.is_leading else f"may lose {gate.margin:g}")
            for gate in gates_of(name)
        )
    entry = KINDS[kind].entries[name]
    words = (getattr(entry, name, None) for name in ("title", "task", "cron", "files"))
    return str(next(filter(None, words), ""))


def refuse_broken() -> None:
    """Bring the catalogue up to date with the folder, or raise `BrokenCatalogueError` with every mistake in it."""
    refresh()
    if _STATE.error is not None:
        # A new one: an error that is raised again collects tracebacks.
        raise BrokenCatalogueError(str(_STATE.error))


def refresh() -> None:
    """Read the folder again if one of its files changed. Mistakes are kept for `refuse_broken`."""
    with _LOCK:
        where = folder()
        signature = _signature(where)
        if signature == _STATE.signature:
            return
        for entries, name, before in reversed(_STATE.replaced or []):
            _put(entries, name, before)
        _STATE.replaced, _STATE.file_of, _STATE.error = [], {}, None
        try:
            _add(where)
        except BrokenCatalogueError as error:
            _STATE.error = error
        _STATE.signature = signature


def _put(entries: dict[str, Any], name: str, entry: Any) -> None:
    if entry is None:
        entries.pop(name, None)
    else:
        entries[name] = entry


def _signature(where: Path) -> tuple[Any, ...]:
    """What changes whenever a file of the folder does."""
    found = []
    for path in _files(where):
        try:
            facts = path.stat()
        except OSError:
            continue
        found.append((path.name, facts.st_mtime_ns, facts.st_size, facts.st_ino))
    return (str(where), *found)


def _files(where: Path) -> list[Path]:
    try:
        return sorted(
            path for path in where.iterdir() if path.suffix == ".toml" and not path.name.startswith(".")
        )
    except OSError:
        return []


def _add(where: Path) -> None:
    """Put every entry of the folder into the catalogue, or none and raise."""
    problems: list[str] = []
    written = _read(where, problems)
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    broken: set[tuple[str, str]] = set()
    for kind, by_name in written.items():
        entries = KINDS[kind].entries
        stand_in = next(iter(entries.values()), None)
        for name, found in by_name.items():
            entry, mistakes = build(kind, name, found.content)
            problems += [f"{found.file}: [{kind}.{name}] {words}" for words in mistakes]
            replaced.append((entries, name, entries.get(name)))
            # So that entries that name a broken one are not blamed for it.
            entries[name] = stand_in if entry is None else entry
            broken |= {(kind, name)} if entry is None else set()
        for name, found in by_name.items():
            members = {("variant", member) for member in getattr(entries[name], "members", ())}
            if not broken & {(kind, name), ("task", name), *members}:
                problems += [f"{found.file}: [{kind}.{name}] {words}" for words in _misfits(kind, name)]
    if not problems:
        _STATE.replaced = replaced
        _STATE.file_of = {
            (kind, name): found.file for kind, by_name in written.items() for name, found in by_name.items()
        }
        return
    for entries, name, before in reversed(replaced):
        _put(entries, name, before)
    lines = "\n".join(f"  {words}" for words in problems)
    n = f"{len(problems)} mistakes" if len(problems) > 1 else "a mistake"
    raise BrokenCatalogueError(f"catalogue folder {where} ({VARIABLE}): {n}\n{lines}")


def _read(where: Path, problems: list[str]) -> dict[str, dict[str, _Written]]:
    """Kind -> name -> what the files say of it. Notes what is not an entry at all."""
    written: dict[str, dict[str, _Written]] = {kind: {} for kind in KINDS}
    for path in _files(where):
        try:
            parsed = _parsed(path)
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{path.name}: {error}")
            continue
        for kind, by_name in parsed.items():
            if kind not in KINDS:
                problems.append(f"{path.name}: {unknown('kind of entry', kind, KINDS)}")
            elif not isinstance(by_name, dict):
                problems.append(f"{path.name}: {kind} is a value, expected entries under [{kind}.NAME]")
            else:
                for name, content in by_name.items():
                    if problem := _name_problem(kind, name, written):
                        problems.append(f"{path.name}: [{kind}.{name}] {problem}")
                    else:
                        written[kind][name] = _Written(file=path.name, content=content)
    return written


def _parsed(path: Path) -> dict[str, Any]:
    """The content of a file; raises ValueError if it is not TOML."""
    if (n_bytes := path.stat().st_size) > MAX_FILE_BYTES:
        raise ValueError(f"{n_bytes:,} bytes, expected at most {MAX_FILE_BYTES:,}")
    return tomllib.loads(path.read_bytes().decode())


def _name_problem(kind: str, name: str, written: Mapping[str, Mapping[str, _Written]]) -> str | None:
    entries = KINDS[kind].entries
    if name in written[kind]:
        return f"is in {written[kind][name].file} already, expected each name once"
    if not NAME.fullmatch(name):
        return f"name: expected {NAME_RULE}"
    if KINDS[kind].is_replacing:
        return None if name in entries else unknown(kind, name, entries)
    if name in entries:
        return "has the name of a built-in entry, expected another name"
    return None


def _misfits(kind: str, name: str) -> Sequence[str]:
    """What is wrong with how an entry fits those that it names."""
    how = KINDS[kind]
    try:
        if how.check is not None:
            how.check(name, how.entries[name])
    except MistakesError as error:
        return error.problems
    return ()


def build(kind: str, name: str, content: Any) -> tuple[Any, list[str]]:
    """An entry, or None and what is wrong with it by itself."""
    from pydantic import ValidationError

    how = KINDS[kind]
    if not how.is_named and not isinstance(content, list):
        return None, [f"is not an array of tables, expected each under the heading [[{kind}.{name}]]"]
    if how.is_named:
        if not isinstance(content, dict):
            return None, [f"is not a table, expected its fields under the heading [{kind}.{name}]"]
        if "name" in content:
            return None, ["has a field 'name', expected it in the heading alone"]
        content = (asdict(how.entries[name]) if how.is_replacing else {}) | content | {"name": name}
    problems: list[str] = []
    entry_type = next((other for name, other in how.or_entry.items() if name in content), how.entry)
    content = _prepared(entry_type, _ungrouped(content, how.groups, problems), "", problems)
    try:
        # As JSON, in which an array may be a tuple and a table an entry, but nothing else is taken for something else.
        entry = _adapter(entry_type).validate_json(json.dumps(content, default=repr), strict=True)
    except ValidationError as error:
        return None, problems + [words for one in error.errors() for words in _in_words(one)]
    return (None if problems else entry), problems


def _ungrouped(content: Any, groups: Mapping[str, tuple[str, ...]], problems: list[str]) -> Any:
    """Fields of the tables that belong together, beside those that stand flat; each may stand in one place."""
    if not groups:
        return content
    flat = {name: value for name, value in content.items() if name not in groups}
    for group, names in groups.items():
        table = content.get(group, {})
        if not isinstance(table, dict):
            problems.append(f"{group}: is a value, expected a table of {', '.join(names)}")
            continue
        for name, value in table.items():
            home = next((other for other, of_it in groups.items() if name in of_it), None)
            if home is None:
                problems.append(f"{group}: {unknown('field', name, names)}")
            elif home != group:
                problems.append(f"{group}: {name} belongs to {home}")
            elif name in flat:
                problems.append(f"{group}: {name} stands twice, expected it once")
            else:
                flat[name] = value
    return flat


@lru_cache
def _adapter(entry_type: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(entry_type)


def _prepared(hint: Any, content: Any, place: str, problems: list[str]) -> Any:
    """What a file has, as its type takes it: `none` where that is a value, no field of another name, finite numbers."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if content == NONE and NoneType in options:
        return None
    for option in options:
        if is_dataclass(option) and isinstance(content, dict):
            return _prepared_fields(option, content, place, problems)
        if get_origin(option) is tuple and isinstance(content, list):
            of = get_args(option)[0]
            return [_prepared(of, one, f"{place}[{n}]", problems) for n, one in enumerate(content, start=1)]
    if isinstance(content, float) and not math.isfinite(content):
        problems.append(f"{place}: is {content}, expected a finite number")
        return 0.0
    if isinstance(content, date | time):
        problems.append(f"{place}: is a date or time, expected none here: put text between quotes")
    return content


def _prepared_fields(
    entry: Any, content: Mapping[str, Any], place: str, problems: list[str]
) -> dict[str, Any]:
    hints = get_type_hints(entry)
    known = [name for name in hints if name != "name"]
    found = {}
    for name, value in content.items():
        if name in hints:
            found[name] = _prepared(hints[name], value, f"{place}.{name}".lstrip("."), problems)
        else:
            problems.append(f"{f'{place}: ' if place else ''}{unknown('field', name, known)}")
    return found


def _in_words(error: Mapping[str, Any]) -> list[str]:
    """A mistake that pydantic found; several if an entry itself found them."""
    place = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    where = f"{place.lstrip('.')}: " if place else ""
    raised = error.get("ctx", {}).get("error")
    if isinstance(raised, MistakesError):
        return [f"{where}{words}" for words in raised.problems]
    if isinstance(raised, ValueError):
        return [f"{where}{raised}"]
    if error["type"] == "missing":
        return [f"{where}is missing"]
    expected = error["msg"].removeprefix("Input should be ")
    return [f"{where}is {error['input']!r}, expected {expected}"]
