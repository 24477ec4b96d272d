"""The manifest: an immutable table of images with subset and label, named by the digest of its rows.

One parquet object for each manifest, `splits/<split>-<digest>.parquet`. The digest is taken over canonical
JSON lines and not over the parquet bytes, so that it is the same with any library version; it is checked
whenever a manifest is read. Since each row carries the SHA-256 of its picture, the digest covers the pixels.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion_tasks import UnusableInputError
from lesion_tasks.store import Store

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "isic_id", "subset", "label", "is_balanced", "group_id", "patient_id", "lesion_id", "sha256", "object_key",
    "perceptual_hash", "size_bytes", "width_px", "height_px", "image_type", "sex", "age_years", "size_mm",
    "anatom_site", "fitzpatrick_skin_type", "diagnosis_confirm_type", "attribution", "copyright_license",
    "record_version",
)  # fmt: skip


def object_key(split: str, digest: str) -> str:
    """Where a manifest lies in the bucket."""
    return f"splits/{split}-{digest}.parquet"


def digest_of(recipe: dict[str, Any], rows: "pd.DataFrame") -> str:
    """SHA-256 over the recipe and the rows, sorted by image id, in canonical JSON."""
    digest = hashlib.sha256(_canonical(recipe))
    columns = [rows[name].tolist() for name in COLUMNS]
    for values in zip(*columns, strict=True):
        digest.update(
            b"\n" + _canonical([None if value != value else value for value in values])
        )  # NaN is missing
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def write_manifest(store: Store, split: str, recipe: dict[str, Any], rows: "pd.DataFrame") -> str:
    """Store the rows (columns `COLUMNS`, sorted by isic_id) and return their digest; a known one is left as it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = digest_of(recipe, rows)
    key = object_key(split, digest)
    if not store.exists(key):
        table = pa.Table.from_pandas(rows[list(COLUMNS)], preserve_index=False)
        table = table.replace_schema_metadata({"lesion": _canonical({"recipe": recipe, "digest": digest})})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "manifest.parquet"
            pq.write_table(table, path, compression="zstd")
            store.put_file(key, path)
    return digest


def read_manifest(store: Store, key: str) -> "pd.DataFrame":
    """Read the rows back, or raise `UnusableInputError` when they are not what the digest promises."""
    import pyarrow.parquet as pq

    table = pq.read_table(store.local_path(key))
    said = json.loads(table.schema.metadata[b"lesion"])
    rows = table.replace_schema_metadata(None).to_pandas()
    # Text columns hold None, not NaN, where a value is missing: all-missing ones come back as objects already.
    digest = digest_of(said["recipe"], rows)
    if digest != said["digest"] or digest not in key:
        raise UnusableInputError(
            f"manifest {key}: its rows have digest {digest[:12]}, expected {said['digest'][:12]}"
        )
    return rows
