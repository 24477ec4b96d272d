"""A mapping (`lesion-mapping.toml`) -> which column of somebody's own table is what, and what its values mean.

The same form serves people's own folders and, in `mappings/`, the tables of published data sets.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.image_ids import NAMESPACE_IN_WORDS, is_namespace
from lesion_tasks.archive.legible import legible
from lesion_tasks.archive.terms import (
    FIELDS,
    IDENTITIES,
    NUMBERS,
    PATHS,
    TERMS,
    TEXTS,
    find_values,
    values_of,
)
from lesion_tasks.archive.vocabulary import BOOLEAN_FIELDS
from lesion_tasks.catalog.lookup import did_you_mean

MAPPING_NAME = "lesion-mapping.toml"
NONE_OF_THEM = "none of them"  # the value of a row in which no column of `one_hot` has a 1
# Of a folder without a table, every picture is a row with these columns.
PICTURE_COLUMNS = ("path", "folder")
MOST_COLUMNS = 3  # that one field may be made of

_MANY_COLUMNS = {*IDENTITIES, *PATHS, *NUMBERS}
_WITH_VALUES = {*PATHS, *TERMS, *BOOLEAN_FIELDS}
_FIXED = {*PATHS, *TERMS, *BOOLEAN_FIELDS, *TEXTS}


@dataclass(frozen=True, kw_only=True)
class TableMapping:
    """What a mapping says, checked in itself; whether its columns exist is checked against the table."""

    path: Path  # where it stands
    namespace: str
    table: str | None  # a file of the folder, or a pattern that one matches; None: every picture is a row
    joined: tuple[str, ...]  # tables with more columns of the same pictures
    separator: str
    encoding: str
    header: tuple[str, ...] | None  # the columns of a table whose first line is a row already
    pictures: str  # the folder of the pictures, below that of the mapping
    missing: frozenset[str]  # further ways to write that there is no value
    image: Mapping[
        str, str | None
    ]  # columns that name a picture, with the image type of theirs where they differ
    columns: Mapping[str, tuple[str, ...]]  # by field
    one_hot: Mapping[str, tuple[str, ...]]  # by field: columns of which one has a 1; its name is the value
    values: Mapping[str, Mapping[str, str]]  # by field: what each value means
    no_counterpart: Mapping[str, frozenset[str]]  # by field: values that the archive has no word for
    constants: Mapping[str, str]  # by field: what holds for every row
    continues: str | None  # the folder that used the namespace first, if this one is meant to go on with it
    # Of published data sets:
    title: str = ""
    cited: tuple[str, ...] = ()
    recognised_by: tuple[str, ...] = ()
    recognised_by_line: str = ""
    unconfirmed: tuple[str, ...] = ()

    @property
    def named_columns(self) -> dict[str, tuple[str, ...]]:
        """Every column that the mapping reads, by field."""
        return {"image": tuple(self.image), **self.columns, **self.one_hot}

    @property
    def fields(self) -> frozenset[str]:
        """The fields that a record may get a value for."""
        given = {"image_type"} if any(self.image.values()) else set()
        return frozenset({*self.columns, *self.one_hot, *self.constants, *given})


def read_mapping(path: Path) -> TableMapping:
    """Read and check a mapping. Raises UnusableInputError that names everything that is wrong with it."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnusableInputError(
            f"{path}: {legible(error)}; expected a TOML document in UTF-8, in which names with spaces, accents "
            "or signs stand in quotes"
        ) from error
    return _Reading(path, found).mapping()


class _Reading:
    """One document that is being read; what is wrong is gathered and said at once."""

    def __init__(self, path: Path, found: dict[str, Any]) -> None:
        self.path = path
        self.found = found
        self.problems: list[str] = []

    def mapping(self) -> TableMapping:
        known = {
            *("namespace", "table", "joined", "separator", "encoding", "header", "pictures", "missing"),
            *("columns", "one_hot", "values", "no_counterpart", "constants", "continues"),
            *("title", "cited", "recognised_by", "recognised_by_line", "unconfirmed"),
        }
        for name in self.found.keys() - known:
            self._wrong(f"{_quoted(name)} is not a setting of a mapping{did_you_mean(name, known)}")
        columns = self._section("columns")
        image = self._image(columns.pop("image", None))
        mapping = TableMapping(
            path=self.path,
            namespace=self._namespace(),
            table=self._below("table", self._text("table", None)),
            joined=tuple(self._below("joined", name) or "" for name in self._texts("joined")),
            separator=self._separator(),
            encoding=self._encoding(),
            header=self._texts("header") or None,
            pictures=self._below("pictures", self._text("pictures", "")) or "",
            missing=frozenset(self._texts("missing")),
            image=image,
            columns=self._columns("columns", columns, set(FIELDS), _MANY_COLUMNS),
            one_hot=self._columns("one_hot", self._section("one_hot"), _WITH_VALUES, _WITH_VALUES),
            values=self._values(),
            no_counterpart=self._no_counterpart(),
            constants=self._constants(),
            continues=self._text("continues", None),
            title=self._text("title", "") or "",
            cited=self._texts("cited"),
            recognised_by=self._texts("recognised_by"),
            recognised_by_line=self._text("recognised_by_line", "") or "",
            unconfirmed=self._texts("unconfirmed"),
        )
        self._check_as_a_whole(mapping)
        if self.problems:
            raise UnusableInputError(f"{self.path}: {'; '.join(self.problems)}")
        return mapping

    def _wrong(self, words: str) -> None:
        self.problems.append(words)

    def _check_as_a_whole(self, mapping: TableMapping) -> None:
        twice = (mapping.columns.keys() & mapping.one_hot.keys()) | (
            mapping.constants.keys() & (mapping.columns.keys() | mapping.one_hot.keys())
        )
        for name in sorted(twice):
            self._wrong(f"{name} is given twice, expected a column or a constant")
        for section, by_field in (("values", mapping.values), ("no_counterpart", mapping.no_counterpart)):
            for name in sorted(by_field.keys() - mapping.columns.keys() - mapping.one_hot.keys()):
                self._wrong(f"[{section}] has {name}, which no column is mapped to")

    def _namespace(self) -> str:
        namespace = self._text("namespace", None)
        if namespace is None:
            self._wrong('namespace: not given, expected a name for these pictures, such as "clinic"')
        elif not is_namespace(namespace):
            self._wrong(f"namespace {_quoted(namespace)}: expected {NAMESPACE_IN_WORDS}")
        return namespace or ""

    def _separator(self) -> str:
        separator = self._text("separator", ",") or ","
        if len(separator) != 1:
            self._wrong(f"separator {_quoted(separator)}: expected one character")
        return separator

    def _encoding(self) -> str:
        encoding = self._text("encoding", "utf-8") or "utf-8"
        try:
            "".encode(encoding)
        except LookupError:
            self._wrong(f"encoding {_quoted(encoding)}: expected one that Python knows, such as cp1252")
        return encoding

    def _below(self, name: str, path: str | None) -> str | None:
        if path and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
            self._wrong(f"{name} {_quoted(path)}: expected a place below this folder")
        return path

    def _section(self, name: str) -> dict[str, Any]:
        section = self.found.get(name, {})
        if not isinstance(section, dict):
            self._wrong(f"{name}: expected a section [{name}]")
            return {}
        return dict(section)

    def _text(self, name: str, default: str | None) -> str | None:
        value = self.found.get(name, default)
        if value is not None and not isinstance(value, str):
            self._wrong(f"{name} {_quoted(value)}: expected text in quotes")
            return default
        return value

    def _texts(self, name: str) -> tuple[str, ...]:
        return self._as_texts(name, self.found.get(name, []))

    def _as_texts(self, name: str, value: Any) -> tuple[str, ...]:
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            self._wrong(f"{name} {_quoted(value)}: expected text in quotes, or a list of it")
            return ()
        return tuple(texts)

    def _image(self, value: Any) -> dict[str, str | None]:
        if isinstance(value, str):
            return {value: None}
        if isinstance(value, dict) and value and all(isinstance(kind, str) for kind in value.values()):
            for kind in value.values():
                self._check_value("columns.image", "image_type", kind)
            return dict(value)
        words = "not given" if value is None else _quoted(value)
        self._wrong(f"columns.image: {words}, expected the column that names each picture")
        return {}

    def _known_field(self, section: str, name: str, allowed: set[str]) -> bool:
        if name in allowed:
            return True
        reason = (
            "cannot stand there" if name in FIELDS else f"is not a field{did_you_mean(name, sorted(allowed))}"
        )
        self._wrong(f"[{section}] {_quoted(name)} {reason}; expected some of {', '.join(_in_order(allowed))}")
        return False

    def _columns(
        self, section: str, found: Mapping[str, Any], allowed: set[str], many: set[str]
    ) -> dict[str, tuple[str, ...]]:
        columns: dict[str, tuple[str, ...]] = {}
        for name, value in found.items():
            if not self._known_field(section, name, allowed):
                continue
            texts = self._as_texts(f"{section}.{name}", value)
            most = 1 if name not in many else MOST_COLUMNS if section == "columns" else len(texts)
            if len(texts) > most:
                self._wrong(f"{section}.{name} has {len(texts)} columns, expected at most {most}")
            if any(texts):
                columns[name] = texts
        return columns

    def _values(self) -> dict[str, dict[str, str]]:
        values: dict[str, dict[str, str]] = {}
        for name, meanings in self._section("values").items():
            if not self._known_field("values", name, _WITH_VALUES):
                continue
            if not isinstance(meanings, dict):
                self._wrong(f"values.{name}: expected a section [values.{name}]")
                continue
            values[name] = {}
            for raw, meaning in meanings.items():
                if self._check_value(f"values.{name} {_quoted(raw)}", name, meaning):
                    values[name][raw] = meaning
        return values

    def _no_counterpart(self) -> dict[str, frozenset[str]]:
        return {
            name: frozenset(self._as_texts(f"no_counterpart.{name}", raw))
            for name, raw in self._section("no_counterpart").items()
            if self._known_field("no_counterpart", name, _WITH_VALUES)
        }

    def _constants(self) -> dict[str, str]:
        return {
            name: value
            for name, value in self._section("constants").items()
            if self._known_field("constants", name, _FIXED)
            and self._check_value(f"constants.{name}", name, value)
        }

    def _check_value(self, place: str, name: str, value: Any) -> bool:
        allowed = values_of(name)
        if isinstance(value, str) and value and (not allowed or value in allowed):
            return True
        expected = f"one of {', '.join(allowed)}" if 0 < len(allowed) <= 10 else f"a value of {name}"
        if name in PATHS:
            expected = (
                f"a {name} of the archive, its levels joined by colons (`lesion terms {name}` lists them)"
            )
        self._wrong(f"{place} is {_quoted(value)}{_near(name, value) or f', expected {expected}'}")
        return False


def _near(name: str, value: Any) -> str:
    """The value that was probably meant; of paths, also by the last level alone."""
    if not isinstance(value, str) or not value.strip():
        return ""
    meant = find_values(name, value.strip())[:1] if name in PATHS else ()
    return f"; did you mean {meant[0]}?" if meant else did_you_mean(value, values_of(name))


def _in_order(names: set[str]) -> list[str]:
    return [name for name in FIELDS if name in names]


def _quoted(value: Any) -> str:
    return legible(repr(value), 80)
