"""A download folder -> API-shaped records, and the file of each.

Two layouts are read: the archive's snapshot (`metadata.csv` beside `images/`) and what `isic image download` writes
(`metadata.csv` with the image files beside it). A single CSV export without files is read too.
"""

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import OversizedError, RefusedUrlError
from lesion_tasks.archive.csv_table import read_columns, read_rows
from lesion_tasks.archive.printable import printable
from lesion_tasks.archive.vocabulary import (
    ACQUISITION_FIELDS,
    BOOLEAN_FIELDS,
    DECIMAL_FIELDS,
    INTEGER_FIELDS,
    ISIC_ID,
)

# A description, a checksum or an unfinished download beside a picture is not a picture. The formats on the last line
# are refused by name once they are read, which says more than that there is no file.
PICTURE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff"}
    | {"bmp", "gif", "webp", "heic", "heif", "avif", "jp2", "dng"}
)
RECORD_FIELDS = ("isic_id", "copyright_license", "attribution")
_FIRST_ROW_AT = datetime(2015, 1, 1, tzinfo=UTC)
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class DownloadFolder:
    """An opened download: the path of its table, and the file of each id that has one."""

    root: Path
    metadata_path: Path
    layout: str  # snapshot, isic-cli or export (a table alone)
    path_by_isic_id: Mapping[str, Path]
    made_at: datetime | None = None  # a folder does not say when it was made
    namespace: str | None = None  # its ids are the archive's
    continues: str | None = None

    def findings(self) -> tuple[str, ...]:
        """Return nothing: a download is what the archive said."""
        return ()

    def path_of(self, isic_id: str) -> Path | None:
        """Return the file of an image; None if there is none or the id is malformed."""
        return self.path_by_isic_id.get(isic_id)

    def records(self, first_row: int = 0) -> Iterator[dict[str, Any]]:
        """Yield one API-shaped record per row from a row on, without `files`."""
        return islice(read_records(self), first_row, None)

    def file_of(self, isic_id: str) -> dict[str, Any] | None:
        """Return what a record's `files.full` says; None where there is no file.

        The URL is relative to the folder, so that a folder that is moved remains the same archive.
        """
        path = self.path_of(isic_id)
        if path is None:
            return None
        return {"url": "file:" + path.relative_to(self.root).as_posix(), "size": path.stat().st_size}

    def read_file(self, url: str, *, max_bytes: int) -> bytes:
        """Return the bytes behind a URL of `file_of`.

        Raises RefusedUrlError, OversizedError, and FileNotFoundError or IsADirectoryError.
        """
        return read_below(self.root, url, max_bytes=max_bytes)


def read_below(root: Path, url: str, *, max_bytes: int) -> bytes:
    """Return the bytes behind a `file:` URL that is relative to a folder.

    Raises RefusedUrlError, OversizedError, and OSError, such as FileNotFoundError.
    """
    return read_regular(place_below(root, url), max_bytes=max_bytes)[0]


def place_below(root: Path, url: str) -> Path:
    """Return the place that a `file:` URL means, with all links followed.

    Raises RefusedUrlError if it is outside the folder, and FileNotFoundError if a link leads to itself.
    """
    try:
        path = (root / url.removeprefix("file:")).resolve()
    except RuntimeError as error:  # before Python 3.13
        raise FileNotFoundError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
    if not url.startswith("file:") or not path.is_relative_to(root.resolve()):
        raise RefusedUrlError(f"{url[:200]!r}: expected a file: URL inside {root}")
    return path


def size_below(root: Path, url: str) -> int:
    """Return how many bytes a file has, as `read_below` would find it.

    Raises RefusedUrlError, and OSError, which is FileNotFoundError for what is not a regular file.
    """
    said = os.lstat(root / url.removeprefix("file:"))
    if stat.S_ISLNK(said.st_mode):
        said = place_below(root, url).stat()
    return _checked_regular(said).st_size


def _checked_regular(said: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(said.st_mode):
        raise FileNotFoundError(errno.EINVAL, "a pipe or a device, not a file")
    return said


def read_regular(path: Path, *, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return the bytes of a file, and its state once they were read. Neither waits for a pipe nor reads a device.

    Raises OversizedError, and OSError, which is FileNotFoundError for what is not a regular file.
    """
    with open(path, "rb", opener=_at_once) as file:
        said = _checked_regular(os.fstat(file.fileno()))
        if said.st_size > max_bytes:
            raise OversizedError(f"{said.st_size:,} bytes, expected at most {max_bytes:,}")
        return file.read(), os.fstat(file.fileno())


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def open_folder(path: str | Path) -> DownloadFolder:
    """Find the table and the files of a download; nothing but file names is read yet.

    Raises UnusableInputError if the folder or its table is absent, the table's header is unusable (see `csv_table`), or
    an id has two pictures.
    """
    root = Path(path)
    if root.is_file() and root.suffix == ".csv":
        read_columns(root)
        return DownloadFolder(root=root.parent, metadata_path=root, layout="export", path_by_isic_id={})
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UnusableInputError(
            f"download folder {root}: found {found}, expected a folder with metadata.csv and the images, "
            "or with the snapshot's ISIC_metadata.parquet and ISIC_images.zip"
        )
    metadata_path = root / "metadata.csv"
    if not metadata_path.is_file():
        names = sorted(entry.name for entry in root.iterdir())
        shown = ", ".join(printable(name, 80) for name in names[:5]) + (
            f" and {len(names) - 5} more" if len(names) > 5 else ""
        )
        raise UnusableInputError(
            f"download folder {root}: found {shown or 'nothing in it'}, expected metadata.csv "
            "(with images/ or the image files beside it) or ISIC_metadata.parquet with ISIC_images.zip; for "
            f"pictures of your own, `lesion inspect {root}` proposes a mapping"
        )
    read_columns(metadata_path)
    images = root / "images"
    is_snapshot = images.is_dir()
    return DownloadFolder(
        root=root,
        metadata_path=metadata_path,
        layout="snapshot" if is_snapshot else "isic-cli",
        path_by_isic_id=_image_files(images if is_snapshot else root),
    )


def read_records(folder: DownloadFolder) -> Iterator[dict[str, Any]]:
    """Yield one API-shaped record per row, in row order, without `files`: a folder has no URLs.

    Absent values are omitted. A value that does not fit its field's type is kept as text. An id is yielded as found,
    even if malformed or empty: ingestion judges it.
    Raises UnusableInputError that names the line at which the table stops being one (see `csv_table`).
    """
    for _, row in read_rows(folder.metadata_path):
        yield record_from_row(row)


def record_from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn one flat CSV row into the nested shape of an API record."""
    record: dict[str, Any] = {field: _text(row.get(field)) for field in RECORD_FIELDS}
    acquisition: dict[str, Any] = {}
    clinical: dict[str, Any] = {}
    for field, cell in row.items():
        if field in RECORD_FIELDS or field == "public":
            continue
        text = _text(cell)
        if text:
            group = acquisition if field in ACQUISITION_FIELDS else clinical
            group[field] = typed_value(field, text)
    return {
        **{field: value for field, value in record.items() if value or field == "isic_id"},
        "metadata": {"acquisition": acquisition, "clinical": clinical},
        "public": True,
    }


def typed_value(field: str, text: str) -> Any:
    """Convert a cell to the JSON type that the API gives the field; text that does not fit stays text."""
    if field in BOOLEAN_FIELDS:
        return _BOOLEANS.get(text.lower(), text)
    if field in INTEGER_FIELDS or field in DECIMAL_FIELDS:
        try:
            number = Decimal(text)
            if field in DECIMAL_FIELDS:
                return str(number.quantize(Decimal("0.01")))
            return int(number) if number == int(number) else text
        except (InvalidOperation, OverflowError, ValueError):
            return text
    return text


def row_instant(row_index: int) -> datetime:
    """Return the made-up `created` of a row: one minute after the row before, with microseconds."""
    return _FIRST_ROW_AT + timedelta(minutes=row_index, microseconds=row_index * 7919 % 1_000_000)


def _text(cell: Any) -> str:
    """Strip a cell; the snapshot's writer puts a tab before values that a spreadsheet would run as formulas."""
    return cell.strip() if isinstance(cell, str) else ""


def _image_files(folder: Path) -> dict[str, Path]:
    """The picture of each id. Raises UnusableInputError if an id has two: it is unclear which one is meant."""
    found: dict[str, Path] = {}
    doubled: dict[str, list[str]] = defaultdict(list)
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, _, suffix = entry.name.rpartition(".")
            if suffix.lower() not in PICTURE_SUFFIXES or not ISIC_ID.fullmatch(stem) or not entry.is_file():
                continue
            if stem in found:
                doubled[stem] += [entry.name]
            else:
                found[stem] = Path(entry.path)
    if doubled:
        first = min(doubled)
        names = ", ".join(sorted([found[first].name, *doubled[first]]))
        more = f", and {len(doubled) - 1} more like it" if len(doubled) > 1 else ""
        raise UnusableInputError(f"{folder}: found {names}{more}; expected one picture of each id")
    return found
