"""A folder -> the mapping that explains it: its owner's, that of a published data set, or folders named by class."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.image_ids import is_namespace
from lesion_tasks.archive.picture_names import PictureNames
from lesion_tasks.archive.table_mapping import MAPPING_NAME, PICTURE_COLUMNS, TableMapping, read_mapping

MAPPINGS = Path(__file__).parent / "mappings"
ARCHIVES_TABLE = "metadata.csv"
SEPARATORS = (",", ";", "\t", "|")
_TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".txt", ""})  # HAM10000's table has no ending
_LONGEST_HEADER = 20_000
# Classes whose names are words of the archive, in any case.
_CLASSES = {"benign": "Benign", "malignant": "Malignant", "indeterminate": "Indeterminate"}


@cache
def published_mappings() -> tuple[TableMapping, ...]:
    """The mappings of published data sets, by name of their files."""
    return tuple(read_mapping(path) for path in sorted(MAPPINGS.glob("*.toml")))


def mapping_of(root: Path) -> TableMapping | None:
    """Find the mapping that explains a folder; None if it is a download of the archive, or nothing is known about it.

    Raises UnusableInputError for an owner's mapping that is wrong.
    """
    if not root.is_dir():
        return None
    if (root / MAPPING_NAME).is_file():
        return read_mapping(root / MAPPING_NAME)
    if (root / ARCHIVES_TABLE).is_file() and "isic_id" in first_cells(root / ARCHIVES_TABLE)[1]:
        return None
    return published_mapping_of(root) or class_folders_of(root)


def tables_in(root: Path) -> Iterator[Path]:
    """Yield the files of a folder, and of the folders in it, that may be tables."""
    for pattern in ("*", "*/*"):
        for path in sorted(root.glob(pattern)):
            if path.suffix.lower() in _TABLE_SUFFIXES and not path.name.startswith(".") and path.is_file():
                yield path


def first_cells(path: Path) -> tuple[str, list[str]]:
    """Return the separator that cuts a table's first line into most cells, and these cells; none if it is not text."""
    with path.open("rb") as stream:
        line = stream.readline(_LONGEST_HEADER)
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    if not text.rstrip("\r\n").isprintable() and "\t" not in text:
        return ",", []
    by_separator = {
        separator: [cell.strip() for cell in next(csv.reader([text], delimiter=separator), [])]
        for separator in SEPARATORS
    }
    separator = max(SEPARATORS, key=lambda each: len(by_separator[each]))
    return separator, by_separator[separator]


def published_mapping_of(root: Path) -> TableMapping | None:
    """Find the published data set whose table lies in a folder: of several, the one with most columns in common.

    Raises UnusableInputError if two tables are of the same one: nothing says which is meant.
    """
    found: list[tuple[int, TableMapping]] = []
    for path in tables_in(root):
        separator, cells = first_cells(path)
        for mapping in published_mappings():
            if _recognises(mapping, cells, separator.join(cells)):
                here = replace(
                    mapping,
                    table=path.relative_to(root).as_posix(),
                    separator=separator,
                    joined=tuple(name for name in mapping.joined if any(root.glob(name))),
                )
                here = _with_columns_of(here, [*cells, *_columns_beside(root, here)])
                found.append((len(mapping.recognised_by), here))
    if not found:
        return None
    n_columns, best = max(found, key=lambda each: each[0])
    same = [each.table for n, each in found if n == n_columns and each.path == best.path]
    if len(same) > 1:
        raise UnusableInputError(
            f"{root}: {' and '.join(map(str, same[:3]))} are tables of one published data set, expected one: "
            "put each with its pictures into a folder of its own"
        )
    return best


def _recognises(mapping: TableMapping, cells: list[str], line: str) -> bool:
    if mapping.recognised_by_line:
        return re.fullmatch(mapping.recognised_by_line, line) is not None
    return bool(mapping.recognised_by) and set(mapping.recognised_by) <= set(cells)


def _columns_beside(root: Path, mapping: TableMapping) -> list[str]:
    return [cell for name in mapping.joined for path in root.glob(name) for cell in first_cells(path)[1]]


def _with_columns_of(mapping: TableMapping, present: list[str]) -> TableMapping:
    """Leave out fields whose columns a table lacks: those of a second table, or of another version."""
    if mapping.header is not None:
        return mapping
    columns = {name: each for name, each in mapping.columns.items() if set(each) <= set(present)}
    fields = columns.keys() | mapping.one_hot.keys()
    return replace(
        mapping,
        columns=columns,
        values={name: each for name, each in mapping.values.items() if name in fields},
        no_counterpart={name: each for name, each in mapping.no_counterpart.items() if name in fields},
    )


def plain_mapping(
    root: Path, *, image: str, columns: Mapping[str, tuple[str, ...]], table: str | None
) -> TableMapping:
    """The mapping of a folder that is explained by names of columns alone."""
    return TableMapping(
        path=root / MAPPING_NAME,
        namespace=namespace_for(root),
        table=table,
        joined=(),
        separator=",",
        encoding="utf-8",
        header=None,
        pictures="",
        missing=frozenset(),
        image={image: None},
        columns=columns,
        one_hot={},
        values={},
        no_counterpart={},
        constants={},
        continues=None,
    )


def class_folders_of(root: Path) -> TableMapping | None:
    """Make the mapping of a folder without a table whose pictures lie in folders named by the archive's classes."""
    pictures = PictureNames(root)
    path, folder = PICTURE_COLUMNS
    names = {each.rpartition("/")[0].rpartition("/")[2] for each in pictures.paths}
    if not names or not all(name.casefold() in _CLASSES for name in names):
        return None
    return replace(
        plain_mapping(root, image=path, columns={"diagnosis": (folder,)}, table=None),
        values={"diagnosis": {name: _CLASSES[name.casefold()] for name in sorted(names)}},
        title="folders named by class",
    )


def namespace_for(root: Path) -> str:
    """Make a namespace of a folder's name."""
    name = re.sub("[^a-z0-9]+", "-", root.absolute().name.lower()).strip("-")[:24].strip("-")
    return name if is_namespace(name) else f"own-{name}"[:24].strip("-")
