"""A folder with somebody's own table and pictures, and its mapping -> API-shaped records, and the file of each.

A cell that the mapping does not explain is not a value: it is counted and named, and never guessed. A row that cannot
be a record (no picture, two classes at once) is refused with a reason, as a record of the archive is. A record keeps
the cells of the mapped columns as they are, and no others: tables of clinics hold more about a patient than a model
needs.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import RefusedUrlError
from lesion_tasks.archive.column_doubts import (
    MAX_VALUES,
    ColumnDoubt,
    doubt_about,
    picture_column_doubt,
    shared_columns,
)
from lesion_tasks.archive.csv_table import TableForm, as_row, read_cells, read_columns, read_rows
from lesion_tasks.archive.folder import read_below, size_below, typed_value
from lesion_tasks.archive.image_ids import id_of, identity_of
from lesion_tasks.archive.legible import legible
from lesion_tasks.archive.picture_names import AmbiguousPictureError, PictureNames, without_suffix
from lesion_tasks.archive.record import RefusedRow
from lesion_tasks.archive.table_mapping import NONE_OF_THEM, PICTURE_COLUMNS, TableMapping
from lesion_tasks.archive.terms import IDENTITIES, N_LEVELS, NUMBERS, PATH_SEPARATOR, PATHS, TEXTS, values_of
from lesion_tasks.archive.vocabulary import ACQUISITION_FIELDS, BOOLEAN_FIELDS, ISIC_ID, is_no_value
from lesion_tasks.catalog.lookup import did_you_mean
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.known_identities import ONLY_COPIES, UNKNOWN_MEANS

N_EXAMPLES = 3
N_ROWS_LOOKED_AT = 500  # to see what kind of column one is
N_VALUES_NAMED = 8
MIN_FOR_SHARE = 20  # images, of which half may not be of one patient or lesion without a word
_YES = frozenset({"1", "1.0", "true", "yes"})
_NO = frozenset({"0", "0.0", "false", "no"})
_TRUTHS = frozenset({"true", "false"})
_OF_RECORD = ("copyright_license", "attribution")


@dataclass(kw_only=True)
class Reading:
    """What a table turned out to hold, counted while its rows are read."""

    n_lines: int = 0
    n_rows: int = 0  # one for each picture that a line may name
    n_records: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by reason
    values: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by field
    unknown: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    no_counterpart: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    identities: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )  # by field
    present: Counter[str] = field(default_factory=Counter)  # rows with a value, by field
    missing: Counter[str] = field(default_factory=Counter)  # rows without one
    unread: Counter[str] = field(default_factory=Counter)  # of these the rows whose value means nothing
    used: set[str] = field(default_factory=set)  # paths of pictures that have a row
    patient_by_lesion: dict[str, str] = field(default_factory=dict)
    contested: set[str] = field(default_factory=set)  # lesions with two patients

    def note_identities(self, lesion: str | None, patient: str | None) -> None:
        """Note whose lesion it is: a lesion of two patients is none."""
        if lesion and patient and self.patient_by_lesion.setdefault(lesion, patient) != patient:
            self.contested.add(lesion)

    def note(self, counts: Counter[str], value: str) -> None:
        """Count a value, in bounded memory."""
        if value in counts or len(counts) < MAX_VALUES:
            counts[value] += 1


class MappedFolder:
    """An opened folder. Its records already have their `files`."""

    made_at: datetime | None = None

    def __init__(self, root: Path, mapping: TableMapping) -> None:
        """Find the table and the pictures; nothing but names and the table's header is read.

        Raises UnusableInputError if the table is absent or has not the columns that the mapping names.
        """
        self.root = root
        self.mapping = mapping
        self.namespace: str | None = mapping.namespace
        self.continues = mapping.continues
        folder = root / mapping.pictures
        if not folder.is_dir():
            raise UnusableInputError(
                f"{mapping.path}: pictures {mapping.pictures!r}: no such folder in {root}"
            )
        self.pictures = PictureNames(folder)
        self.form = TableForm(separator=mapping.separator, encoding=mapping.encoding, header=mapping.header)
        self.table = None if mapping.table is None else self._one_file(mapping.table)
        self.joined = [self._one_file(name) for name in mapping.joined]
        self.columns = self._columns()
        self._check_columns()

    def _one_file(self, name: str) -> Path:
        found = sorted(path for path in self.root.glob(name) if path.is_file())
        if len(found) != 1:
            shown = ", ".join(path.name for path in found[:3]) or "nothing"
            raise UnusableInputError(f"{self.mapping.path}: table {name!r}: found {shown}, expected one file")
        return found[0]

    def _columns(self) -> list[str]:
        if self.table is None:
            return list(PICTURE_COLUMNS)
        columns = [name for name in read_columns(self.table, self.form) if name]
        for path in self.joined:
            columns += [name for name in read_columns(path, replace(self.form, header=None)) if name]
        return list(dict.fromkeys(columns))

    def _check_columns(self) -> None:
        """Raise UnusableInputError that names every column of the mapping that the table lacks."""
        absent = [
            f"column {column!r} ({name}) is not in the table{did_you_mean(column, self.columns)}"
            for name, columns in self.mapping.named_columns.items()
            for column in columns
            if column not in self.columns
        ]
        if absent:
            has = ", ".join(legible(name, 60) for name in self.columns[:30])
            table = self.table.name if self.table else "a folder without a table"
            raise UnusableInputError(f"{self.mapping.path}: {'; '.join(absent)} ({table} has {has})")

    def records(self, first_row: int = 0) -> Iterator[dict[str, Any]]:
        """Yield one API-shaped record or `RefusedRow` for each picture of a row, from a given one on, with `files`."""
        return islice(self.read(Reading()), first_row, None)

    def findings(self) -> tuple[str, ...]:
        """Read the whole table and say what is not as its owner may think, one sentence each."""
        reading = Reading()
        for _ in self.read(reading):
            pass
        return tuple(findings_in_words(self, reading))

    def doubts_about_pictures(self, n_lines: int) -> Iterator[str]:
        """Yield, where no row names a picture, the columns that do, with their hits in the first rows."""
        hits: Counter[str] = Counter()
        for _, row in islice(self._rows(), N_ROWS_LOOKED_AT):
            if not isinstance(row, _Refused):
                hits.update(name for name, cell in row.items() if self.pictures.names_one(cell))
        for column in self.mapping.image:
            yield picture_column_doubt(column, n_lines, hits.most_common(1))

    def file_of(self, isic_id: str) -> dict[str, Any] | None:
        """Return None: records name their files themselves."""
        return None

    def read_file(self, url: str, *, max_bytes: int) -> bytes:
        """Return the bytes behind the URL of a record; raises as `read_below`."""
        return read_below(self.pictures.root, url, max_bytes=max_bytes)

    def read(self, reading: Reading) -> Iterator[dict[str, Any]]:
        """Yield records and refused rows in the order of the table, and count what is in them."""
        more = [self._by_picture(path) for path in self.joined]
        for line, row in self._rows():
            reading.n_lines += 1
            if isinstance(row, _Refused):
                reading.n_rows += 1
                yield self._refused("", line, row, {"namespace": self.namespace}, reading)
                continue
            for other in more:
                key = next((row[column] for column in self.mapping.image), "")
                row = {**other.get(without_suffix(key), {}), **row}
            # What stands in a line is counted once, however many pictures it names.
            values = cache(partial(self._values, row, reading))
            for column, image_type in self.mapping.image.items():
                reading.n_rows += 1
                yield self._record(line, row, column, image_type, values, reading)

    def _rows(self) -> Iterator[tuple[int, "dict[str, str] | _Refused"]]:
        if self.table is not None:
            for line, columns, cells in read_cells(self.table, self.form):
                if len(cells) == len(columns):
                    yield line, as_row(columns, cells)
                else:
                    yield line, _Refused("unreadable_row", f"{len(cells)} cells, expected {len(columns)}")
            return
        for number, path in enumerate(self.pictures.paths, 1):
            yield number, {"path": path, "folder": path.rpartition("/")[0].rpartition("/")[2]}

    def _by_picture(self, path: Path) -> dict[str, dict[str, str]]:
        """The rows of a second table by the picture that they name, under the same column as in the first."""
        (column, *_) = self.mapping.image
        form = replace(self.form, header=None)
        if column not in read_columns(path, form):
            raise UnusableInputError(
                f"{path}: no column {column!r}, expected it to name the picture of each row"
            )
        found: dict[str, dict[str, str]] = {}
        for line, row in read_rows(path, form):
            if found.setdefault(without_suffix(row[column]), row) != row:
                raise UnusableInputError(
                    f"{path}: line {line}: picture {_quoted(row[column])} is in an earlier row with other cells, "
                    "expected one row for each"
                )
        return found

    def _record(
        self,
        line: int,
        row: Mapping[str, str],
        column: str,
        image_type: str | None,
        values_of_line: "Callable[[], dict[str, Any] | _Refused]",
        reading: Reading,
    ) -> dict[str, Any]:
        name = row[column]
        isic_id = self._id_of(name) if name else ""
        cells = {
            each: row[each]
            for columns in self.mapping.named_columns.values()
            for each in columns
            if row.get(each)
        }
        source = {"namespace": self.mapping.namespace, "row": cells}
        found = self._picture(name)
        if isinstance(found, _Refused):
            return self._refused(isic_id, line, found, source | {"column": column}, reading)
        values = values_of_line()
        if isinstance(values, _Refused):
            return self._refused(isic_id, line, values, source | {"column": column}, reading)
        reading.n_records += 1
        reading.used.add(found.path)
        reading.note_identities(values.get("lesion_id"), values.get("patient_id"))
        for name, columns in self.mapping.columns.items():
            if name in IDENTITIES and name in values:
                reading.note(reading.identities[name], "/".join(row[each] for each in columns))
        if image_type is not None:
            values = {**values, "image_type": image_type}
        return self._shaped(isic_id, values, source, found)

    def _id_of(self, name: str) -> str:
        """A picture of the archive keeps its id, whatever folder its name is given with."""
        stem = without_suffix(name)
        last = stem.replace("\\", "/").rpartition("/")[2]
        return last if ISIC_ID.fullmatch(last) else id_of(self.mapping.namespace, stem)

    def _refused(
        self, isic_id: str, line: int, refused: "_Refused", source: dict[str, Any], reading: Reading
    ) -> RefusedRow:
        reading.refused[refused.reason] += 1
        detail = f"line {line}: {refused.detail}"
        if len(reading.examples[refused.reason]) < N_EXAMPLES:
            reading.examples[refused.reason].append(detail)
        return RefusedRow(isic_id, reason=refused.reason, detail=detail, source=source | {"line": line})

    def _picture(self, name: str) -> "_Found | _Refused":
        if not name:
            return _Refused("no_picture_name", "names no picture, expected one")
        try:
            found = self.pictures.find(name)
        except AmbiguousPictureError as error:
            return _Refused("ambiguous_picture", f"picture {_quoted(name)}: {error}, expected one file")
        if found is None:
            return _Refused(
                "no_picture", f"picture {_quoted(name)}: no such file below {self.pictures.root.name}"
            )
        try:
            n_bytes = size_below(self.pictures.root, f"file:{found}")
        except RefusedUrlError:
            return _Refused(
                "unreadable_picture", f"picture {_quoted(name)}: a link that leads out of the folder"
            )
        except OSError as error:
            return _Refused("unreadable_picture", f"picture {_quoted(name)}: {error.strerror or error}")
        return _Found(found, n_bytes)

    def _shaped(
        self, isic_id: str, values: dict[str, Any], source: dict[str, Any], picture: "_Found"
    ) -> dict[str, Any]:
        """An API-shaped record of values by field."""
        record: dict[str, Any] = {"isic_id": isic_id}
        groups: dict[str, dict[str, Any]] = {"acquisition": {}, "clinical": {}}
        for name, value in values.items():
            if name in _OF_RECORD:
                record[name] = value
            elif name in PATHS:
                levels = value.split(PATH_SEPARATOR)[:N_LEVELS]
                groups["clinical"].update({f"{name}_{level}": part for level, part in enumerate(levels, 1)})
            else:
                groups["acquisition" if name in ACQUISITION_FIELDS else "clinical"][name] = value
        entry = {"url": f"file:{picture.path}", "size": picture.n_bytes}
        return record | {"metadata": groups, "public": True, "source": source, "files": {"full": entry}}

    def _values(self, row: Mapping[str, str], reading: Reading) -> "dict[str, Any] | _Refused":
        """The values of a row by field; fields without one are left out."""
        values: dict[str, Any] = dict(self.mapping.constants)
        for name, columns in self.mapping.one_hot.items():
            raw = _chosen(row, columns)
            if isinstance(raw, _Refused):
                return raw
            values[name] = None if raw is None else self._value(name, [raw], reading)
        for name, columns in self.mapping.columns.items():
            cells = [row.get(column, "") for column in columns]
            is_present = any(not self._is_missing(name, cell) for cell in cells)
            reading.present[name] += is_present
            values[name] = self._value(name, cells, reading)
            reading.unread[name] += is_present and values[name] is None
        for name, value in values.items():
            if value is None:
                reading.missing[name] += 1
        return {name: value for name, value in values.items() if value is not None}

    def _value(self, name: str, cells: list[str], reading: Reading) -> Any:
        """The value of a field in a row: an identity takes all cells, a number the largest, others the first known."""
        if name in IDENTITIES:
            parts = [cell for cell in cells if not self._is_missing(name, cell)]
            if len(parts) < len(cells):
                for cell in cells:  # a patient may be called 0, but -9 stands for none
                    if cell and cell not in parts and cell not in self.mapping.missing:
                        reading.note(reading.unknown[name], cell)
                return None
            return identity_of(self.mapping.namespace, name.removesuffix("_id"), "/".join(parts))
        known = []
        for cell in cells:
            if self._is_missing(name, cell):
                continue
            reading.note(reading.values[name], cell)
            value = self._meaning(name, cell)
            if value is not None:
                known.append(value)
            elif cell in self.mapping.no_counterpart.get(name, ()):
                reading.note(reading.no_counterpart[name], cell)
            else:
                reading.note(reading.unknown[name], cell)
        if name in NUMBERS and known:
            return max(known, key=float)
        return known[0] if known else None

    def _is_missing(self, name: str, cell: str) -> bool:
        if not cell or cell in self.mapping.missing:
            return True
        if cell in self.mapping.values.get(name, ()) or cell in self.mapping.no_counterpart.get(name, ()):
            return False
        if name in IDENTITIES:
            return is_no_value(cell) and not cell.isdecimal()
        # A number or a truth may be the code of something: whoever meant nothing by it says so in `missing`.
        return is_no_value(cell) and not (_is_number(cell) or cell.casefold() in _TRUTHS)

    def _meaning(self, name: str, cell: str) -> Any:
        """What a cell means, None if nobody said so."""
        if name in NUMBERS:
            return typed_value(name, cell) if _is_number(cell) else None
        if name in TEXTS:
            return cell
        value = self.mapping.values.get(name, {}).get(cell)
        if value is None and cell in values_of(name):
            value = cell
        if name in BOOLEAN_FIELDS and value is not None:
            return typed_value(name, value)
        return value


def column_doubts(mapping: TableMapping, reading: Reading) -> dict[str, ColumnDoubt]:
    """Fields whose column is probably the wrong one, with the reason."""
    found = {}
    for name, columns in mapping.named_columns.items():
        counts = (reading.identities if name in IDENTITIES else reading.values).get(name, Counter())
        unread = reading.unknown.get(name, Counter())
        doubt = doubt_about(name, columns, counts, unread, reading.present[name])
        if doubt is not None:
            found[name] = doubt
    return found


def findings_in_words(folder: MappedFolder, reading: Reading) -> Iterator[str]:
    """Yield what is dropped, what is not understood, and what is not asked for."""
    if not len(folder.pictures):
        yield f"no picture lies in {folder.pictures.root}; a link to a folder is not followed"
    elif (
        reading.n_rows
        and reading.refused["no_picture"] + reading.refused["no_picture_name"] == reading.n_rows
    ):
        yield from folder.doubts_about_pictures(reading.n_lines)
    for reason, n in reading.refused.most_common():
        yield f"{n:,} of {reading.n_rows:,} rows refused ({reason}), such as {reading.examples[reason][0]}"
    yield from _values_in_words(folder.mapping, reading)
    yield from _identities_in_words(folder.mapping, reading)
    if n_unused := len(folder.pictures) - len(reading.used):
        example = next(path for path in folder.pictures.paths if path not in reading.used)
        yield f"{n_unused:,} of {len(folder.pictures):,} pictures have no row, such as {legible(example, 80)}"
    if "diagnosis" not in folder.mapping.fields:
        yield "no column is mapped to diagnosis: no task has a label for these pictures"
    if not {"patient_id", "lesion_id"} & folder.mapping.fields:
        yield f"no column is mapped to patient_id or lesion_id: {ONLY_COPIES}, and {UNKNOWN_MEANS}"


def _values_in_words(mapping: TableMapping, reading: Reading) -> Iterator[str]:
    """What nobody explained, after the columns that are in doubt themselves."""
    doubts = column_doubts(mapping, reading)
    yield from (doubt.words for doubt in doubts.values())
    yield from shared_columns(mapping.named_columns, passed_over=doubts)
    for name, counts in reading.unknown.items():
        found = _counted(counts)
        why = f"no number: {found}" if name in NUMBERS else f"the mapping does not say what {found} means"
        yield f"{name}: {why}; taken as no value"
    for name, counts in reading.no_counterpart.items():
        yield f"{name}: the archive has no word for {_counted(counts)}"


def _identities_in_words(mapping: TableMapping, reading: Reading) -> Iterator[str]:
    """Patients and lesions that cannot be what they are taken for."""
    for name, counts in reading.identities.items():
        most = max(counts.values())
        if 2 * most > reading.n_records >= MIN_FOR_SHARE:
            columns = " and ".join(map(_quoted, mapping.named_columns[name]))
            yield (
                f"{name}: {most:,} of {reading.n_records:,} images have the same value in {columns}, and all of them "
                "stand on one side of every split; is it the right column?"
            )
    if n := len(reading.contested):
        lesions = "lesion is" if n == 1 else "lesions are"
        yield (
            f"{n:,} {lesions} listed under two patients, such as {min(reading.contested)}, and will not be used; if "
            "lesions are numbered by patient, map lesion_id to both columns"
        )


def _counted(counts: Counter[str]) -> str:
    shown = ", ".join(
        f"{_quoted(value)} ({plural(n, 'row')})" for value, n in counts.most_common(N_VALUES_NAMED)
    )
    more = len(counts) - N_VALUES_NAMED
    if len(counts) >= MAX_VALUES:
        return f"{shown} and {more:,} or more other values"
    return f"{shown} and {plural(more, 'other value')}" if more > 0 else shown


@dataclass(frozen=True)
class _Found:
    """The picture that a row means."""

    path: str  # below the folder of the pictures
    n_bytes: int


@dataclass(frozen=True)
class _Refused:
    """Why a row is not a record."""

    reason: str
    detail: str


def _chosen(row: Mapping[str, str], columns: tuple[str, ...]) -> "str | _Refused | None":
    """The name of the one column that has a 1; None if all are empty: nobody said which."""
    cells = {column: row.get(column, "").lower() for column in columns}
    ones = [column for column, cell in cells.items() if cell in _YES]
    for column, cell in cells.items():
        if cell and cell not in _YES | _NO:
            return _Refused("not_one_or_zero", f"{column} is {_quoted(cell)}, expected 1 or 0")
    if len(ones) > 1:
        return _Refused("two_classes", f"{' and '.join(ones[:3])} both have a 1, expected one class")
    if ones:
        return ones[0]
    if not any(cells.values()):
        return None
    for column, cell in cells.items():
        if not cell:
            return _Refused("not_one_or_zero", f"{column} is empty and no other has a 1, expected 1 or 0")
    return NONE_OF_THEM


_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None


def _quoted(value: str) -> str:
    return legible(repr(value), 80)
