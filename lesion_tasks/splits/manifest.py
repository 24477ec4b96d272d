"""The manifest: an immutable table of images with subset and label, named by the digest of its rows.

One Parquet object for each manifest, `splits/<split>-<digest>.parquet`. The digest is taken over the values and not
over the Parquet bytes, so that it is the same with any library version; it is checked whenever a manifest is read.
Since each row carries the SHA-256 of its picture, the digest covers the pixels.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import InstrumentedAttribute, Session

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, reading_object
from lesion_tasks.catalog.canonical_json import canonical_json
from lesion_tasks.catalog.cohorts import conditions_of
from lesion_tasks.catalog.lookup import find_split, find_task
from lesion_tasks.curation.corrections import digest_in_force
from lesion_tasks.database.pruned import find_pruning, pruned_in_words
from lesion_tasks.database.schema import Image, Manifest, SplitMember, StoredFile
from lesion_tasks.scratch import scratch_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class NoManifestError(UnusableInputError):
    """A split has no manifest by its definition of today."""


# In this order, on which the digest depends. Names and types are those of the tables.
SOURCES: tuple[InstrumentedAttribute[Any], ...] = (
    SplitMember.isic_id, SplitMember.subset, SplitMember.label, SplitMember.is_balanced,
    Image.group_id, Image.patient_id, Image.lesion_id, Image.sha256,
    StoredFile.object_key, Image.perceptual_hash, StoredFile.size_bytes, StoredFile.width_px, StoredFile.height_px,
    Image.image_type, Image.sex, Image.age_years, Image.size_mm, Image.anatom_site, Image.fitzpatrick_skin_type,
    Image.diagnosis_confirm_type, Image.attribution, Image.copyright_license, Image.record_version,
)  # fmt: skip
_KINDS = {str: "text", int: "int", float: "float", bool: "bool"}
# Name -> text, whole number, number, or yes and no.
COLUMNS = {column.key: _KINDS[column.type.python_type] for column in SOURCES}

# Columns whose values differ from row to row gain nothing from a dictionary, and filling it takes time.
_REPETITIVE = [column.key for column in SOURCES if column.info.get("repeats")]


def object_key(split: str, digest: str) -> str:
    """The key of a manifest in the bucket."""
    return f"splits/{split}-{digest}.parquet"


def arrow_schema() -> "pa.Schema":
    """The columns as Arrow types."""
    import pyarrow as pa

    types = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])


def as_table(rows: "pd.DataFrame") -> "pa.Table":
    """Rows of a manifest as an Arrow table, sorted by image id."""
    import pyarrow as pa

    return pa.Table.from_pandas(
        rows.sort_values("isic_id")[list(COLUMNS)], schema=arrow_schema(), preserve_index=False
    )


def digest_of(recipe: dict[str, Any], table: "pa.Table") -> str:
    """SHA-256 over the recipe in canonical JSON and the columns in order.

    For each column: its name; a byte for each row, 1 if there is a value; then the values, little-endian, 8 bytes
    for a number and 1 for yes or no, and for text the lengths in bytes (8 bytes each) and the UTF-8 text. Missing
    values are 0 or empty.
    """
    digest = hashlib.sha256(canonical_json(recipe))
    for name, kind in COLUMNS.items():
        digest.update(b"\n" + name.encode() + b"\n")
        for part in _canonical_column(table[name], kind):
            digest.update(part)
    return digest.hexdigest()


def _canonical_column(column: "pa.ChunkedArray", kind: str) -> list[Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "float":  # NaN counts as missing, like null
        column = pc.if_else(pc.fill_null(pc.is_nan(column), True), pa.scalar(None, pa.float64()), column)
    is_valid = np.ascontiguousarray(pc.is_valid(column).to_numpy().astype(np.uint8))
    if kind != "text":
        filled = pc.fill_null(column, False if kind == "bool" else 0)
        numbers = filled.to_numpy().astype({"int": "<i8", "float": "<f8", "bool": "u1"}[kind])
        return [is_valid, np.ascontiguousarray(numbers)]
    filled = pc.fill_null(column.cast(pa.large_string()), "")
    lengths = np.ascontiguousarray(pc.binary_length(filled).to_numpy().astype("<i8"))
    text = []
    for chunk in filled.chunks:
        _, offsets, data = chunk.buffers()
        if data is not None and len(chunk):
            ends = np.frombuffer(offsets, dtype=np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            text.append(memoryview(data)[int(ends[0]) : int(ends[-1])])
    return [is_valid, lengths, *text]


def write_manifest(bucket: Bucket, split: str, recipe: dict[str, Any], table: "pa.Table") -> str:
    """Store the rows, sorted by isic_id, and return their digest; an existing manifest is left unchanged."""
    import pyarrow.parquet as pq

    digest = digest_of(recipe, table)
    key = object_key(split, digest)
    if not bucket.exists(key):
        table = table.replace_schema_metadata(
            {"lesion": canonical_json({"recipe": recipe, "digest": digest})}
        )
        with scratch_file("manifest.parquet") as path:
            pq.write_table(table, path, compression="zstd", use_dictionary=_REPETITIVE)
            bucket.put_file(key, path)
    return digest


def record_manifest(
    connection: Connection,
    bucket: Bucket,
    *,
    split: str,
    task: str,
    cohort: str | None = None,
    held_out: str | None = None,
    recipe: dict[str, Any],
    table: "pa.Table",
    counts: Mapping[str, Mapping[str, int]],
    funnel: Sequence[Mapping[str, Any]],
) -> str:
    """Store the rows and put their manifest in force; returns its digest. `counts`: images by subset and class."""
    digest = write_manifest(bucket, split, recipe, table)
    connection.execute(
        text("""
            INSERT INTO manifest (digest, split, cohort, held_out, task, recipe, object_key, n_images, class_counts,
                                  funnel, created_at, built_at)
            VALUES (:digest, :split, :cohort, :held_out, :task, :recipe, :key, :n, :counts, :funnel, :now, :now)
            ON CONFLICT (digest) DO UPDATE SET built_at = excluded.built_at, funnel = excluded.funnel
        """),
        {
            "digest": digest,
            "split": split,
            "cohort": cohort,
            "held_out": held_out,
            "task": task,
            "recipe": json.dumps(recipe),
            "key": object_key(split, digest),
            "n": len(table),
            "counts": json.dumps(counts),
            "funnel": json.dumps(funnel),
            "now": datetime.now(UTC),
        },
    )
    connection.execute(
        text("""
            UPDATE pruning SET made_again_at = now()
            WHERE kind = 'manifest' AND name = :digest AND made_again_at IS NULL
        """),
        {"digest": digest},
    )
    return digest


def read_table(bucket: Bucket, key: str) -> "pa.Table":
    """Read the rows back; raise `UnusableInputError` if they do not match their digest."""
    return _read(bucket, key, lambda: bucket.local_path(key))


def check_stored(bucket: Bucket, key: str) -> None:
    """The same of the object as the bucket holds it, not of a cached copy; its rows are not handed on."""
    _read(bucket, key, lambda: io.BytesIO(bucket.get(key)))


def _read(bucket: Bucket, key: str, source: Callable[[], Path | io.BytesIO]) -> "pa.Table":
    import pyarrow.parquet as pq

    with reading_object(bucket, key):
        table = pq.read_table(source())
        said = json.loads(table.schema.metadata[b"lesion"])
        table = table.replace_schema_metadata(None)
        digest = digest_of(said["recipe"], table)
    if digest != said["digest"] or digest not in key:
        raise UnusableInputError(
            f"manifest {key}: its rows have digest {digest[:12]}, expected {said['digest'][:12]}"
        )
    return table


def read_manifest(bucket: Bucket, key: str) -> "pd.DataFrame":
    """Read the rows as a data frame; missing text is None or NaN."""
    return read_table(bucket, key).to_pandas()


def find_manifest(connection: Connection, digest: str, *, task: str | None = None) -> Manifest:
    """The row of a manifest, detached.

    Raises `UnusableInputError` if there is none, it is of another task, or its rows were pruned.
    """
    with Session(connection, expire_on_commit=False) as session:
        found = session.get(Manifest, digest)
        session.expunge_all()
    if found is None or task not in (None, found.task):
        state = "no such manifest" if found is None else f"it is of task {found.task!r}"
        raise UnusableInputError(f"manifest {digest!r}: {state}, expected one of {task or 'the database'!r}")
    if (pruning := find_pruning(connection, "manifest", digest)) is not None:
        raise UnusableInputError(
            f"manifest {digest!r}: {pruned_in_words(pruning)}; expected one whose rows are there"
        )
    return found


def manifest_in_force(engine: Engine, split: str, *, is_corrected: bool = True) -> tuple[str, str]:
    """Digest and object key of the newest manifest of a split; raises `NoManifestError` if there is none of it today.

    A manifest that was built by another definition of the split, of its task or of the cohorts that judge the task is
    of another question, or holds images that must not teach. So does one to which other decisions of people applied;
    with `is_corrected` off, that does not matter.
    """
    with engine.connect() as connection:
        row = connection.execute(
            text(
                "SELECT digest, object_key, recipe FROM manifest WHERE split = :split ORDER BY built_at DESC LIMIT 1"
            ),
            {"split": split},
        ).one_or_none()
        decided = digest_in_force(connection, find_split(split).task, split) if is_corrected else None
    if row is None:
        raise NoManifestError(f"split {split!r} has no manifest yet, expected one: build the split first")
    refuse_redefined(row.recipe, split)
    if is_corrected and row.recipe.get("corrections") != decided:
        raise NoManifestError(
            f"split {split!r}: what people decided about labels and pairs tells something else about its images now "
            "than when it was built, expected the same: build the split again"
        )
    return row.digest, row.object_key


def refuse_redefined(recipe: Mapping[str, Any], split: str) -> None:
    """Raise `NoManifestError` for the recipe of a manifest that was built by another definition of its split."""
    if changed := _changed_fields(recipe, split):
        raise NoManifestError(
            f"split {split!r} was built before the catalogue changed its {', '.join(changed)}: build the split again"
        )


def _changed_fields(recipe: Mapping[str, Any], split: str) -> list[str]:
    """What decides a manifest's rows and has changed since it was built: fields of the split and its task, cohorts.

    A field that one of the two does not know is younger than the other, and was as its default is.
    """
    now = find_split(split)
    definitions = {"split": asdict(now), "task": asdict(find_task(now.task))}
    changed = [
        f"{kind}'s {field}"
        for kind, entry in definitions.items()
        for field, value in json.loads(canonical_json(entry)).items()
        if field != "title" and recipe.get(kind, {}).get(field, value) != value
    ]
    return changed + ([] if recipe.get("cohorts", {}) == conditions_of(now.task) else ["cohorts"])


def manifests_in_force(connection: Connection) -> list[Manifest]:
    """The manifest in force of each split that was built, by name, detached.

    Those of cohorts, and those from which something is held out, are left out.
    """
    of_splits = select(Manifest).where(Manifest.cohort.is_(None), Manifest.held_out.is_(None))
    statement = of_splits.ext(distinct_on(Manifest.split))
    statement = statement.order_by(Manifest.split, Manifest.built_at.desc())
    with Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(statement))
        session.expunge_all()
    return rows
