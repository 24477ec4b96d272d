"""A CSV file -> its rows, or the line at which it stops being a table.

A table that was cut off, lost a quote or was written for another program still looks like a table to a lenient
reader, which then yields rows that its author did not mean. So this reader tolerates nothing that could move a value
into another column or row (RFC 4180, section 2). It holds one line at a time.
"""

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.legible import legible
from lesion_tasks.archive.vocabulary import TABLE_COLUMNS

log = logging.getLogger(__name__)

MAX_COLUMNS = 500  # there are about forty
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00": "UTF-32"}
_NO_UTF_8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a byte that is not UTF-8
_SWALLOWED_ROW = re.compile(r"[\r\n]\"?ISIC_[0-9]{7}\"?,")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, kw_only=True)
class TableForm:
    """How a table is written."""

    separator: str = ","
    encoding: str = "utf-8"
    header: tuple[str, ...] | None = None  # its columns, if its first line is a row already
    is_archives: bool = False  # it has the archive's columns, and each under its name


ARCHIVES_FORM = TableForm(is_archives=True)


def read_columns(path: Path, form: TableForm = ARCHIVES_FORM) -> list[str]:
    """Return the names of a table's columns. Raises UnusableInputError that names the line."""
    if form.header is not None:
        return list(form.header)
    with _opened(path, form) as stream:
        return _columns(path, next(_cells(path, stream, form), (1, []))[1], form)


def read_rows(path: Path, form: TableForm = ARCHIVES_FORM) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row with the number of the line on which it begins; cells are stripped, blank lines left out.

    A column without a name (the index that pandas writes) is left out too. Raises UnusableInputError that names the
    line for an encoding or a separator other than those of the form, an unclosed quote, a row with more or fewer
    cells than there are columns, NUL bytes, and column names that `check_columns` rejects.
    """
    for line, columns, cells in read_cells(path, form):
        if len(cells) != len(columns):
            raise _refused(path, line, f"a row of {len(cells)}", f"{len(columns)} cells, one for each column")
        yield line, as_row(columns, cells)


def read_cells(path: Path, form: TableForm) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield the line on which each row begins, the columns, and the cells of the row, however many it has.

    Raises as `read_rows` does, but for rows with more or fewer cells than there are columns.
    """
    with _opened(path, form) as stream:
        rows = _cells(path, stream, form)
        columns = list(form.header) if form.header else _columns(path, next(rows, (1, []))[1], form)
        for line, cells in rows:
            yield line, columns, cells


def as_row(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Return the stripped cells of a row by column; a column without a name is left out."""
    return {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if name}


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Raise UnusableInputError for names that would lose or mix up a column.

    These are a name that occurs twice, and one that differs from a field of the archive only in case, spaces or
    punctuation: its values would be stored under a name that nothing reads. Other unknown names are data.
    """
    if "isic_id" not in names or len(names) > MAX_COLUMNS:
        if near := [name for name in names if _letters(name) == "isicid"]:
            raise UnusableInputError(f"{path}: found a column {_named(near[0])}; expected a column isic_id")
        shown = ", ".join(legible(name, 60) for name in names[:5]) or "no header"
        raise UnusableInputError(
            f"{path}: found {len(names)} columns, {shown}; expected a column isic_id and at most "
            f"{MAX_COLUMNS} in all; `lesion inspect` reads other tables"
        )
    _check_repeated(path, names)
    for name in names:
        meant = _COLUMN_BY_LETTERS.get(_letters(name))
        if meant is not None and meant != name:
            raise UnusableInputError(f"{path}: found a column {_named(name)}; expected it as {meant}")


def _check_repeated(path: Path, names: Sequence[str]) -> None:
    for name, n in Counter(name for name in names if name).items():
        if n > 1:
            places = ", ".join(str(i) for i, each in enumerate(names, 1) if each == name)
            raise UnusableInputError(
                f"{path}: found {n} columns {_named(name)} (columns {places}); expected each name once"
            )


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.casefold())


_COLUMN_BY_LETTERS = {_letters(name): name for name in TABLE_COLUMNS}


def _named(name: str) -> str:
    return legible(repr(name), 80)


def _refused(path: Path, line: int, found: str, expected: str) -> UnusableInputError:
    return UnusableInputError(f"{path}, line {line}: found {found}; expected {expected}")


# How the files of spreadsheet programs begin: a zip file (.xlsx, .ods), and what came before (.xls).
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


def _opened(path: Path, form: TableForm) -> TextIO:
    with path.open("rb") as stream:
        start = stream.read(4)
    if start in _SPREADSHEETS:
        raise UnusableInputError(f"{path}: is a spreadsheet, expected a text table: save it as CSV")
    if start[:2] in _BOMS:
        raise _refused(path, 1, _BOMS[start[:2]], "a CSV table in UTF-8")
    encoding = "utf-8-sig" if form.encoding.lower() in {"utf-8", "utf8"} else form.encoding
    return path.open(encoding=encoding, errors="surrogateescape", newline="")


def _columns(path: Path, cells: Sequence[str], form: TableForm) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1:
        for separator, word in _SEPARATORS.items():
            if separator != form.separator and separator in cells[0]:
                expected = _SEPARATORS.get(form.separator, repr(form.separator))
                raise _refused(path, 1, f"one column {_named(names[0])}, as if {word} separated", expected)
    if form.is_archives:
        check_columns(path, names)
    else:
        _check_repeated(path, names)
    return names


def _cells(path: Path, lines: Iterable[str], form: TableForm) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that has any, with the line on which it begins; the header is the first."""
    reader = csv.reader(_sound_lines(path, lines), strict=True, delimiter=form.separator)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _refused(
                path, line, f"a row that cannot be read ({error})", "every quote closed"
            ) from error
        if cells is None:
            return
        if reader.line_num > line and any(_SWALLOWED_ROW.search(cell) for cell in cells):
            raise _refused(path, line, f"a quote open up to line {reader.line_num}", "every quote closed")
        if cells:
            yield line, cells


def _sound_lines(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """Pass on lines that are text; warn if the last one may have been cut off."""
    number, text = 0, "\n"
    for number, text in enumerate(lines, 1):
        if not text.isascii() and (wrong := _NO_UTF_8.search(text)):
            byte = ord(wrong[0]) - 0xDC00
            raise _refused(path, number, f"byte 0x{byte:02X}, no UTF-8", "a CSV table in UTF-8")
        if "\x00" in text:
            raise _refused(path, number, "a NUL byte", "a CSV table in UTF-8")
        yield text
    if not text.endswith(("\n", "\r")):
        log.warning(
            "%s, line %d: the table ends without a line end; where it was cut, the last cell is too",
            path,
            number,
        )
