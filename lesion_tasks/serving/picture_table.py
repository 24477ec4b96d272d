"""A CSV table with ages, sexes and sizes -> the metadata of the pictures that its rows name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.csv_table import TableForm, read_columns, read_rows
from lesion_tasks.archive.picture_names import AmbiguousPictureError, PictureNames
from lesion_tasks.archive.printable import printable
from lesion_tasks.archive.vocabulary import is_no_value
from lesion_tasks.catalog.lookup import did_you_mean
from lesion_tasks.serving.serve import IS_MALE, Metadata, read_value

# What is read -> the columns that may hold it: as the manifests have it, and as the archive has it.
COLUMNS = {
    "image": ("image", "isic_id"),
    "age_years": ("age_years", "age_approx"),
    "sex": ("sex",),
    "size_mm": ("size_mm", "clin_size_long_diam_mm"),
}
N_EXAMPLES = 3


class PictureTable:
    """The rows of a table by picture, and the rows that name none of the pictures."""

    def __init__(self, path: Path, names: PictureNames) -> None:
        """Read the whole table. Raises `UnusableInputError` that names the line of whatever cannot be meant."""
        form = TableForm()
        try:
            found = read_columns(path, form)
            self._columns = _find_columns(path, found)
            self.unread = [
                printable(name, 60) for name in found if name and name not in self._columns.values()
            ]
            self.metadata_by_image: dict[str, Metadata] = {}
            self.strangers: list[str] = []  # examples of names without a picture
            self.n_strangers = 0
            for line, row in read_rows(path, form):
                self._take(f"{path}, line {line}", row, names)
        except OSError as error:
            raise UnusableInputError(
                f"table {path}: {error.strerror or error}, expected a CSV file"
            ) from error

    def _take(self, place: str, row: Mapping[str, str], names: PictureNames) -> None:
        named = row[self._columns["image"]]
        try:
            image = names.find(named) if named else None
        except AmbiguousPictureError as error:
            raise UnusableInputError(
                f"{place}: picture {printable(repr(named), 80)}: {error}, expected one"
            ) from None
        if image is None:
            self.n_strangers += 1
            self.strangers += [printable(named, 80)] if len(self.strangers) < N_EXAMPLES else []
            return
        if image in self.metadata_by_image:
            raise UnusableInputError(f"{place}: found a second row of {image}, expected one for each picture")
        self.metadata_by_image[image] = self._metadata(place, row)

    def _metadata(self, place: str, row: Mapping[str, str]) -> Metadata:
        known: dict[str, float] = {}
        for field, column in self._columns.items():
            cell = row[column]
            is_birth = field == "age_years" and cell == "0"  # elsewhere 0 is no value
            if field == "image" or (is_no_value(cell) and not is_birth):
                continue
            if field == "sex":
                if cell.casefold() not in IS_MALE:
                    near = did_you_mean(cell, IS_MALE)
                    raise UnusableInputError(
                        f"{place}: sex {_shown(cell)}{near}, expected male, female or nothing"
                    )
                known["is_male"] = IS_MALE[cell.casefold()]
            else:
                known[field] = read_value(field, cell, f"{place}: {column}")
        return known


def _find_columns(path: Path, found: Sequence[str]) -> dict[str, str]:
    columns = {}
    for field, names in COLUMNS.items():
        there = [name for name in names if name in found]
        if len(there) > 1:
            raise UnusableInputError(f"{path}: found columns {' and '.join(there)}, expected one of them")
        if there:
            columns[field] = there[0]
    known = [name for names in COLUMNS.values() for name in names]
    if "image" not in columns or len(columns) == 1:
        shown = ", ".join(printable(name, 60) for name in found[:8]) or "no header"
        near = "".join(did_you_mean(name, known) for name in found if name not in known)
        raise UnusableInputError(
            f"{path}: found columns {shown}{near}; expected image (or isic_id) and some of "
            f"{', '.join(name for name in known if name not in COLUMNS['image'])}"
        )
    absent = [name for field, names in COLUMNS.items() if field not in columns for name in names]
    for name in found:
        if meant := _meant(name, absent):
            raise UnusableInputError(
                f"{path}: found column {_shown(name)}{meant} Expected that name if it holds just that, and a name "
                "less like it if it holds something else"
            )
    return columns


def _meant(found: str, names: Sequence[str]) -> str:
    """Which of some columns a column was probably meant to be: by its letters, or its first word alone."""
    word = found.strip().casefold()
    return did_you_mean(next((name for name in names if name.partition("_")[0] == word), word), names)


def _shown(cell: str) -> str:
    return printable(repr(cell), 80)
