"""What a server holds -> the two files that the archive's operators build for bulk users."""

import csv
import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from archive_server.holdings import Holdings
from lesion_tasks.archive.snapshot import IMAGES_NAME, MADE_AT, METADATA_NAME

ROWS_PER_GROUP = 5_000
_FIRST = ("isic_id", "attribution", "copyright_license")


def write_snapshot(holdings: Holdings, folder: Path) -> None:
    """Write `ISIC_metadata.parquet` and `ISIC_images.zip` of everything visible, as of the newest image."""
    made_at = datetime.fromtimestamp(int(holdings.visible_created_us[-1]) / 1e6, UTC)
    folder.mkdir(parents=True, exist_ok=True)
    fields = sorted({field for row in _rows(holdings) for field in row} - set(_FIRST))
    _write_table(holdings, folder / METADATA_NAME, [*_FIRST, *fields], made_at)
    _write_files(holdings, folder / IMAGES_NAME, [*_FIRST, *fields])


def _rows(holdings: Holdings) -> Iterator[dict[str, Any]]:
    for position in holdings.visible:
        record = holdings.record(int(position), "")
        yield {
            **{name: record[name] for name in _FIRST},
            **record["metadata"]["acquisition"],
            **record["metadata"]["clinical"],
        }


def _write_table(holdings: Holdings, path: Path, fields: list[str], made_at: datetime) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    kinds = {int: pyarrow.int64(), bool: pyarrow.bool_()}
    kind_by_field = {
        name: kinds.get(type(value), pyarrow.string())
        for row in _rows(holdings)
        for name, value in row.items()
    }
    schema = pyarrow.schema(
        [(name, kind_by_field[name]) for name in fields], metadata={MADE_AT: made_at.isoformat().encode()}
    )
    with parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for row in _rows(holdings):
            rows.append(row)
            if len(rows) == ROWS_PER_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def _write_files(holdings: Holdings, path: Path, fields: list[str]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, fields)
    writer.writeheader()
    licences, attributions = set(), set()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as zipped:
        for position, row in zip(holdings.visible, _rows(holdings), strict=True):
            # As the archive's own writer does, so that no spreadsheet runs a cell as a formula.
            writer.writerow(
                {k: f"\t{v}" if isinstance(v, str) and v[:1] in "=-+@" and v else v for k, v in row.items()}
            )
            licences.add(row["copyright_license"])
            attributions.add(row["attribution"])
            stored = holdings.file(row["isic_id"], "full")
            if stored is not None:
                name = f"images/{row['isic_id']}{holdings.source.extension(int(position))}"
                zipped.writestr(name, stored.content)
        zipped.writestr("metadata.csv", table.getvalue())
        zipped.writestr("attribution.txt", "\n\n".join(sorted(attributions)))
        for licence in sorted(licences):
            zipped.writestr(f"licenses/{licence}.txt", f"{licence}\n")
