"""Fills a catalogue with drawn pictures and records, as ingestion would leave it."""

import hashlib
import io
import shutil
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psycopg2
from PIL import Image as Pillow
from sqlalchemy import make_url, text

from lesion_tasks.archive.picture import Picture, read_picture
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import VARIANTS, FineTuning, InputSize
from lesion_tasks.database.bulk import copy_dicts, copy_rows
from lesion_tasks.database.connection import engine_for
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace

NOW = "2026-01-01T00:00:00+00:00"
NEVUS = {"diagnosis_1": "Benign", "diagnosis_2": "Benign melanocytic proliferations", "diagnosis_3": "Nevus"}
MELANOMA = {
    "diagnosis_1": "Malignant",
    "diagnosis_2": "Malignant melanocytic proliferations (Melanoma)",
    "diagnosis_3": "Melanoma, NOS",
}


# By key: the database to copy, the bucket to copy, and what the one who filled them returned.
_FILLED: dict[Hashable, tuple[str, TemporaryDirectory[str], Any]] = {}


def filled_once(settings: Settings, key: Hashable, fill: Callable[[], Any]) -> Any:
    """What `fill` leaves in database and bucket and returns: by calling it once in a process, afterwards by copying.

    `key` names it, with everything on which it depends.
    """
    url = make_url(settings.database_url or "")
    bucket = Path(settings.bucket_url or "")
    server = url.render_as_string(hide_password=False)
    if key not in _FILLED:
        found = fill()
        engine_for(settings.database_url or "").dispose()
        name = f"filled_{uuid.uuid4().hex[:12]}"
        administer(server, f'CREATE DATABASE "{name}" TEMPLATE "{url.database}"')
        copy = TemporaryDirectory()
        shutil.copytree(bucket, copy.name, dirs_exist_ok=True)
        _FILLED[key] = name, copy, found
        return found
    name, copy, kept = _FILLED[key]
    administer(server, f'DROP DATABASE "{url.database}" WITH (FORCE)')
    administer(server, f'CREATE DATABASE "{url.database}" TEMPLATE "{name}"')
    shutil.copytree(copy.name, bucket, dirs_exist_ok=True)
    return kept


def administer(server_url: str, statement: str) -> None:
    """Run one statement on a server, beside its databases of tests."""
    url = make_url(server_url).set(drivername="postgresql", database="postgres")
    connection = psycopg2.connect(url.render_as_string(hide_password=False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def archive_record(isic_id: str = "ISIC_0000001", **known: Any) -> dict[str, Any]:
    """A record as the API sends it. Keywords: clinical fields, and image_type or image_manipulation."""
    acquisition = {"pixels_x": 48, "pixels_y": 36, "image_type": "dermoscopic"}
    for field in ("image_type", "image_manipulation"):
        if field in known:
            acquisition[field] = known.pop(field)
    return {
        "isic_id": isic_id,
        "copyright_license": "CC-0",
        "attribution": "Test <b>Hospital</b>",
        "files": {},
        "metadata": {"acquisition": acquisition, "clinical": known},
        "public": True,
    }


def draw(seed: int, *, is_malignant: bool, side: int = 48) -> bytes:
    """A noisy picture with a disc in its middle: dark for malignant, light for benign."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(90, 160, (side * 3 // 4, side, 3))
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    disc = (x - side / 2) ** 2 + (y - side * 3 / 8) ** 2 < (side / 4) ** 2
    pixels[disc] = pixels[disc] // 3 if is_malignant else pixels[disc] + 90
    buffer = io.BytesIO()
    Pillow.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    # One length for all, or the file size alone would tell the classes apart (and be found out).
    return buffer.getvalue().ljust(side * side * 3)


def add_records(
    settings: Settings,
    records: Iterable[Mapping[str, Any]],
    *,
    picture_by_id: Mapping[str, bytes] | None = None,
    version: int = 1,
    hashed: bool = False,
) -> None:
    """Insert records with their pictures (drawn from label and id unless given; b"" leaves the file out).

    Without `hashed`, pictures get made-up hashes that are near no other.
    """
    bucket = open_bucket(settings)
    versions, current, files = [], [], []
    for record in records:
        isic_id = record["isic_id"]
        is_malignant = record["metadata"]["clinical"].get("diagnosis_1") == "Malignant"
        data = (picture_by_id or {}).get(isic_id)
        if data is None:
            data = draw(int(isic_id[5:]), is_malignant=is_malignant)
        digest = hashlib.sha256(data).hexdigest()
        versions.append((isic_id, version, digest, dict(record), NOW))
        current.append((isic_id, version, NOW, NOW, NOW))
        if data:
            key = f"images/thumbnail_256/{isic_id[5:7]}/{isic_id}-{digest[:16]}.png"
            bucket.put(key, data)
            hash_64, thumbprint = int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True), None
            if hashed:
                picture = read_picture(data)
                assert isinstance(picture, Picture)
                hash_64, thumbprint = picture.perceptual_hash, picture.thumbprint
            files.append(
                {
                    "isic_id": isic_id,
                    "rendition": "thumbnail_256",
                    "url": "http://x/",
                    "object_key": key,
                    "size_bytes": len(data),
                    "sha256": digest,
                    "perceptual_hash": hash_64,
                    "thumbprint": thumbprint,
                    "width_px": 48,
                    "height_px": 36,
                    "fetched_at": NOW,
                }
            )
    with engine_for(settings.database_url or "").begin() as connection:
        copy_rows(
            connection,
            "record_version",
            ("isic_id", "version", "record_hash", "document", "seen_at"),
            versions,
        )
        if version > 1:
            for isic_id, *_ in current:
                connection.execute(
                    text("UPDATE record SET version = :v WHERE isic_id = :id"), {"v": version, "id": isic_id}
                )
            return
        copy_rows(
            connection,
            "record",
            ("isic_id", "version", "first_seen_at", "last_seen_at", "changed_at"),
            current,
        )
        copy_dicts(connection, "stored_file", files)


def labelled_records(n: int, *, first: int = 1) -> list[dict[str, Any]]:
    """n dermoscopic records, a third of them malignant, two images for each lesion, ages by class."""
    generator = np.random.default_rng(first)
    records = []
    for i in range(first, first + n):
        is_malignant = (i // 2) % 3 == 0
        age = int(np.clip(generator.normal(60 if is_malignant else 45, 15) // 5 * 5, 0, 85))
        clinical = {
            **(MELANOMA if is_malignant else NEVUS),
            "sex": "male" if i % 2 else "female",
            "age_approx": age,
            "lesion_id": f"IL_{i // 2:07d}",
        }
        if i % 3:
            clinical["clin_size_long_diam_mm"] = f"{abs(7 + 2 * is_malignant + 1.5 * generator.normal()):.2f}"
        records.append(archive_record(f"ISIC_{i:07d}", **clinical))
    return records


def rows_of(settings: Settings, query: str) -> list[Any]:
    """Run a query on the catalogue of the settings."""
    with engine_for(settings.database_url or "").connect() as connection:
        return list(connection.execute(text(query)).all())


def materialize_natural() -> str:
    """Split what is curated by `malignancy_natural`, and materialize it at 32 px; returns the manifest's digest."""
    digest = build_split(open_workspace(), "malignancy_natural")
    materialize_manifest(open_workspace(), digest, InputSize(32))
    return digest


def declare(name: str, **changed: Any) -> str:
    """Add a small variant after one of the catalogue's, for a test with the fixture `small`; returns its name."""
    of = VARIANTS[name]
    small = {
        "name": f"tiny_{name}",
        "split": "malignancy_natural",
        "side_px": of.side_px and 32,
        "backbone": of.backbone and "mobilenet_v2_035",
        "is_pretrained": False,
        "unfrozen_from": of.unfrozen_from and "block_16",
        "max_epochs": 2,
        "fine_tuning": of.fine_tuning and FineTuning(max_epochs=1, learning_rate=1e-4),
    }
    VARIANTS[f"tiny_{name}"] = replace(of, **(small | changed))
    return f"tiny_{name}"
