"""The members of a split, as the database has them -> the rows of its manifest.

Unchanged rows of the previous manifest are reused; the result is the same as reading all of them again.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, text

from lesion_tasks.bucket import Bucket, MissingObjectError
from lesion_tasks.catalog import Split
from lesion_tasks.database.bulk import copy_out
from lesion_tasks.database.schema import Image, SplitMember, StoredFile
from lesion_tasks.splits.manifest import SOURCES, arrow_schema, read_table

if TYPE_CHECKING:
    import pyarrow as pa

_MEMBERS = """
    SELECT {columns} FROM {members} JOIN image i USING (isic_id) JOIN stored_file f USING (isic_id, rendition)
    WHERE m.split = '{split}' AND m.reason IS NULL ORDER BY m.isic_id COLLATE "C"
"""
_ALIASES: dict[Any, str] = {SplitMember: "m", Image: "i", StoredFile: "f"}  # as in the query
_SELECTED = ", ".join(
    # Hashes of manifests are whole numbers; a picture without one has 0.
    f"coalesce(i.{column.key}, 0) AS {column.key}"
    if column is Image.perceptual_hash
    else f"{_ALIASES[column.class_]}.{column.key}"
    for column in SOURCES
)


def manifest_rows(connection: Connection, split: Split, before: "Mapping[str, pa.Table]") -> "pa.Table":
    """The rows, sorted by id. With `before`, the temporary table `news` lists those that differ from it."""
    if not before:
        return impute(_read(connection, split, "split_member m"), split)
    (rows,) = before.values()
    return _with_news(connection, rows, _read(connection, split, "split_member m JOIN news USING (isic_id)"))


def _read(connection: Connection, split: Split, members: str) -> "pa.Table":
    query = _MEMBERS.format(columns=_SELECTED, members=members, split=split.name)
    return copy_out(connection, query, arrow_schema())


def rows_before(connection: Connection, bucket: Bucket, split: Split) -> "dict[str, pa.Table]":
    """The newest manifest of the split, by its digest; empty if its rows cannot be reused."""
    manifest = connection.execute(
        text("SELECT digest, object_key FROM manifest WHERE split = :split ORDER BY built_at DESC LIMIT 1"),
        {"split": split.name},
    ).one_or_none()
    # A mean over all images: one new image changes every imputed value.
    if manifest is None or split.imputation != "none":
        return {}
    try:
        return {manifest.digest: read_table(bucket, manifest.object_key)}
    except MissingObjectError:
        return {}


def _with_news(connection: Connection, before: "pa.Table", fresh: "pa.Table") -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    news = pa.array(connection.execute(text("SELECT isic_id FROM news")).scalars().all(), pa.string())
    both = pa.concat_tables([before, fresh])
    is_kept = pc.invert(pc.is_in(before["isic_id"], value_set=news)).to_numpy()
    rows = np.concatenate([np.flatnonzero(is_kept), np.arange(len(before), len(both))])
    # Sorted except for the few rows at the end: a merge sort has little to do.
    ids = both["isic_id"].to_numpy().astype("S")
    return both.take(rows[np.argsort(ids[rows], kind="stable")])


def impute(table: "pa.Table", split: Split) -> "pa.Table":
    """Fill in missing numbers as the recipe says; the paper's method uses test images too, and is marked as such."""
    import pyarrow.compute as pc

    if split.imputation == "none":
        return table
    for name in ("age_years", "size_mm"):
        mean = pc.mean(table[name])
        if mean.is_valid:
            table = table.set_column(
                table.schema.get_field_index(name), name, pc.fill_null(table[name], mean)
            )
    return table
