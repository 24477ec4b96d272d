"""Fills a database with synthetic pictures and their records, as ingestion and the search for copies leave them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lesion_tasks.curation.landmarks import LANDMARKS_VERSION
from lesion_tasks.database.bulk import copy_dicts, copy_rows
from lesion_tasks.workspace import Workspace

SIDE_PX = (160, 120)
SEEN = "2026-01-01T00:00:00+00:00"
_DIAGNOSIS = {
    True: {"diagnosis_1": "Malignant", "diagnosis_2": "Malignant melanocytic proliferations (Melanoma)"},
    False: {"diagnosis_1": "Benign", "diagnosis_2": "Benign melanocytic proliferations"},
}


@dataclass(frozen=True, kw_only=True)
class DrawnImage:
    """One picture and what its record says of it; two images in a row are of one lesion."""

    number: int
    picture: bytes
    is_malignant: bool
    attribution: str


def skin_with_spot(rng: np.random.Generator, *, darkness: float) -> np.ndarray:
    """Mottled skin, uint8 (120, 160, 3), with a spot whose light is divided by `darkness`."""
    coarse = rng.integers(120, 220, (8, 10, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize(SIDE_PX, Image.Resampling.BICUBIC)).copy()
    y, x = np.mgrid[: SIDE_PX[1], : SIDE_PX[0]]
    spot = np.hypot(x - rng.normal(80, 8), y - rng.normal(60, 8)) < rng.uniform(15, 45)
    pixels[spot] = pixels[spot] / darkness
    return pixels


def as_jpeg(pixels: np.ndarray) -> bytes:
    """The same as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def add_pictures(workspace: Workspace, images: Iterable[DrawnImage], rng: np.random.Generator) -> None:
    """Insert records and files. Age, sex and skin type are drawn and tell nothing of the diagnosis."""
    versions, records, files, landmarks = [], [], [], []
    for image in images:
        isic_id, lesion = f"ISIC_{image.number:07d}", image.number // 2
        sha256 = hashlib.sha256(image.picture).hexdigest()
        key = f"images/{isic_id}.jpg"
        workspace.bucket.put(key, image.picture)
        clinical = {
            **_DIAGNOSIS[image.is_malignant],
            "sex": "male" if image.number % 3 else "female",
            "age_approx": 5 * int(rng.integers(4, 17)),
            "lesion_id": f"IL_{lesion:07d}",
            "fitzpatrick_skin_type": ("I", "II", "III", "IV")[lesion % 4],
        }
        acquisition = {"image_type": "dermoscopic", "pixels_x": SIDE_PX[0], "pixels_y": SIDE_PX[1]}
        document = {
            "isic_id": isic_id,
            "copyright_license": "CC-0",
            "attribution": image.attribution,
            "files": {},
            "metadata": {"acquisition": acquisition, "clinical": clinical},
            "public": True,
        }
        versions.append((isic_id, 1, sha256, document, SEEN))
        records.append((isic_id, 1, SEEN, SEEN, SEEN))
        files.append(
            {
                "isic_id": isic_id,
                "rendition": "thumbnail_256",
                "url": "http://x/",
                "object_key": key,
                "size_bytes": len(image.picture),
                "sha256": sha256,
                "perceptual_hash": int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True),
                "width_px": SIDE_PX[0],
                "height_px": SIDE_PX[1],
                "fetched_at": SEEN,
            }
        )
        # Made up and shared with nobody: to look for copies is the business of curation, which is not measured.
        landmarks.append((sha256, rng.bytes(320), LANDMARKS_VERSION))
    with workspace.engine.begin() as connection:
        copy_rows(
            connection,
            "record_version",
            ("isic_id", "version", "record_hash", "document", "seen_at"),
            versions,
        )
        copy_rows(
            connection,
            "record",
            ("isic_id", "version", "first_seen_at", "last_seen_at", "changed_at"),
            records,
        )
        copy_dicts(connection, "stored_file", files)
        copy_rows(connection, "picture_landmarks", ("sha256", "landmarks", "version"), landmarks)
