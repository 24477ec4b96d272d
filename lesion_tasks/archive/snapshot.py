"""The archive's own snapshot -> API-shaped records, and the file of each, without unpacking.

It is two files that the archive's operators build and ask bulk users to download: `ISIC_metadata.parquet`, one row for
each public image, and `ISIC_images.zip`. Rows are read in batches and files one by one, so memory does not grow with
the archive. A snapshot holds neither `created` nor file addresses, but it does say when it was made.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import RefusedUrlError
from lesion_tasks.archive.csv_table import check_columns
from lesion_tasks.archive.folder import RECORD_FIELDS, record_from_row
from lesion_tasks.archive.page_cursor import as_possible_time
from lesion_tasks.archive.vocabulary import ACQUISITION_FIELDS, ISIC_ID
from lesion_tasks.archive.zipped import ZippedPictures

if TYPE_CHECKING:
    import pyarrow.parquet

log = logging.getLogger(__name__)

METADATA_NAME = "ISIC_metadata.parquet"
IMAGES_NAME = "ISIC_images.zip"
MADE_AT = b"snapshot_timestamp"
ROWS_PER_BATCH = 1_000


class Snapshot:
    """An opened snapshot. The zip file may be absent: then records have no files."""

    namespace: str | None = None  # its ids are the archive's
    continues: str | None = None

    def __init__(self, root: Path) -> None:
        """Read both directories. Raises UnusableInputError if this is not a snapshot or a truncated one."""
        self.root = root
        self.metadata_path = root / METADATA_NAME
        with self._open() as table:
            names = table.schema_arrow.names
            self.n_rows: int = table.metadata.num_rows
            written = (table.schema_arrow.metadata or {}).get(MADE_AT)
        check_columns(self.metadata_path, names)
        self.made_at = made_at(written, self.metadata_path)

    @cached_property
    def _pictures(self) -> ZippedPictures | None:
        path = self.root / IMAGES_NAME
        return ZippedPictures(path) if path.is_file() else None

    def _open(self) -> "pyarrow.parquet.ParquetFile":
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            # Buffered: only the pages of a row group that are being read are in memory.
            return parquet.ParquetFile(self.metadata_path, buffer_size=2**18)
        except (OSError, pyarrow.ArrowException) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UnusableInputError:
        words = " ".join(str(error).split())[:200]
        return UnusableInputError(f"{self.metadata_path}: {words}; expected a complete Parquet file")

    def findings(self) -> tuple[str, ...]:
        """Return nothing: a snapshot is what the archive said."""
        return ()

    def records(self, first_row: int = 0) -> Iterator[dict[str, Any]]:
        """Yield one API-shaped record per row from a row on, without `files`."""
        import pyarrow

        try:
            with self._open() as table:
                for group in range(table.num_row_groups):
                    n_rows = table.metadata.row_group(group).num_rows
                    if first_row >= n_rows:
                        first_row -= n_rows
                        continue
                    for batch in table.iter_batches(ROWS_PER_BATCH, row_groups=[group], use_threads=False):
                        skipped = min(first_row, len(batch))
                        first_row -= skipped
                        for row in batch.slice(skipped).to_pylist():
                            yield record_from_values(row)
        except (OSError, pyarrow.ArrowException) as error:
            raise self._unreadable(error) from error

    def file_of(self, isic_id: str) -> dict[str, Any] | None:
        """Return what a record's `files.full` says; None if the zip file has no picture of it."""
        if self._pictures is None or not ISIC_ID.fullmatch(isic_id):
            return None
        member = self._pictures.member(isic_id)
        return None if member is None else {"url": f"zip:{member.name}", "size": member.size_bytes}

    def read_file(self, url: str, *, max_bytes: int) -> bytes:
        """Return the bytes behind a URL of `file_of`."""
        isic_id = url.removeprefix("zip:images/").partition(".")[0]
        if not url.startswith("zip:images/") or not ISIC_ID.fullmatch(isic_id):
            raise RefusedUrlError(f"{url[:200]!r}: expected zip:images/, an ISIC id and an extension")
        if self._pictures is None:
            raise FileNotFoundError(self.root / IMAGES_NAME)
        return self._pictures.read(isic_id, max_bytes=max_bytes)


def is_snapshot(path: str | Path) -> bool:
    """Tell a snapshot from other download folders by its table or its zip file."""
    return any((Path(path) / name).is_file() for name in (METADATA_NAME, IMAGES_NAME))


def made_at(written: bytes | None, path: Path) -> datetime | None:
    """Read when a snapshot was made: ISO 8601, or seconds since 1970. If it does not say, warn and return None."""
    text = (written or b"").decode("utf-8", "replace").strip().strip('"')
    moment = None
    try:
        moment = as_possible_time(datetime.fromisoformat(text))
    except ValueError:
        if text.replace(".", "", 1).isdecimal() and len(text) < 20:
            with suppress(ValueError, OverflowError, OSError):  # a year that no calendar has
                moment = as_possible_time(datetime.fromtimestamp(float(text), UTC))
    if moment is None:
        log.warning(
            "%s: snapshot_timestamp is %r, expected a time in the past; the archive's API will be read from its "
            "beginning",
            path,
            text[:80],
        )
        return None
    return moment


def record_from_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn one flat row of typed values into the nested shape of an API record.

    Known fields get the type that the API gives them. Unknown ones keep theirs if JSON has it.
    """
    known = {name: _as_text(value) for name, value in row.items()}
    record = record_from_row(known)
    for name, value in row.items():
        is_plain = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
        group = record["metadata"]["acquisition" if name in ACQUISITION_FIELDS else "clinical"]
        if is_plain and isinstance(group.get(name), str) and name not in _TEXTS:
            group[name] = value
    return record


# Decimals are text in the API, whatever the column's type.
_TEXTS = frozenset({*RECORD_FIELDS, "clin_size_long_diam_mm", "mel_thick_mm"})


def _as_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)
