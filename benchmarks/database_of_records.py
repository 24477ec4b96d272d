"""Fills a database with made-up records and files, by the million: metadata and hashes, no pictures."""

import re

from sqlalchemy import Connection, text

from lesion_tasks.curation.landmarks import LANDMARKS_VERSION

# Shares and sizes are those of the ISIC Archive in 2026, rounded: most images are total-body-photography crops of a
# thousand patients; of the dermoscopic ones, some have a patient and most have a lesion id.
DERMOSCOPIC_SHARE = 0.2
COPY_SHARE = 0.01  # pictures that repeat an earlier one with other bytes

_VERSIONS = """
    INSERT INTO record_version (isic_id, version, record_hash, document, seen_at)
    SELECT id, 1, md5(id) || md5(id || 'h'), jsonb_build_object(
        'isic_id', id, 'public', true, 'copyright_license', (ARRAY['CC-0', 'CC-BY', 'CC-BY-NC'])[1 + i % 3],
        'attribution', 'Hospital ' || i % 40, 'created', '2025-01-01T00:00:00Z',
        'files', jsonb_build_object(
            'full', jsonb_build_object('url', 'https://archive.example/images/' || id || '.jpg', 'size', 90000),
            'thumbnail_256', jsonb_build_object(
                'url', 'https://archive.example/thumbnails/' || id || '.jpg', 'size', 9000)),
        'metadata', jsonb_build_object(
            'acquisition', jsonb_build_object('pixels_x', 600, 'pixels_y', 450, 'image_type',
                CASE WHEN u < :dermoscopic THEN 'dermoscopic' ELSE 'TBP tile: close-up' END),
            'clinical', jsonb_strip_nulls(jsonb_build_object(
                'sex', CASE WHEN v < 0.48 THEN 'male' WHEN v < 0.97 THEN 'female' END,
                'age_approx', CASE WHEN v > 0.03 THEN 5 * (4 + (i * 7) % 14) END,
                'anatom_site_1', (ARRAY['Head and neck', 'Upper extremity', 'Lower extremity', 'Trunk'])[1 + i % 4],
                'clin_size_long_diam_mm', CASE WHEN w < 0.6 THEN round((2 + 10 * w)::numeric, 2)::text END,
                'patient_id', CASE WHEN u >= :dermoscopic THEN 'IP_' || lpad((i / 800)::text, 7, '0')
                                   WHEN w < 0.4 THEN 'IP_' || lpad((100000 + visit / 6)::text, 7, '0') END,
                'lesion_id', CASE WHEN u < :dermoscopic AND w BETWEEN 0.4 AND 0.8
                                  THEN 'IL_' || lpad((visit / 2)::text, 7, '0') END,
                'diagnosis_1', CASE WHEN d < 0.78 THEN 'Benign' WHEN d < 0.9 THEN 'Malignant'
                                    WHEN d < 0.95 THEN 'Indeterminate' END,
                'diagnosis_2', CASE WHEN d < 0.78 THEN 'Benign melanocytic proliferations'
                                    WHEN d < 0.84 THEN 'Malignant melanocytic proliferations (Melanoma)'
                                    WHEN d < 0.87 THEN 'Malignant adnexal epithelial proliferations - Follicular'
                                    WHEN d < 0.9 THEN 'Malignant epidermal proliferations' END,
                'diagnosis_3', CASE WHEN d < 0.78 THEN 'Nevus' WHEN d < 0.83 THEN 'Melanoma Invasive'
                                    WHEN d < 0.84 THEN 'Melanoma metastasis' WHEN d < 0.87 THEN 'Basal cell carcinoma'
                                    WHEN d < 0.9 THEN 'Squamous cell carcinoma, NOS' END)))), :seen
    FROM numbered
"""

# r(i, k) is the k-th number in [0, 1) that depends on i alone: the same call gives the same database.
_NUMBERED = """
    WITH numbered AS (
        SELECT i, 'ISIC_' || lpad(((i * 7368787 + 11) % 10000000)::text, 7, '0') AS id,
               r(i, 0) AS u, r(i, 1) AS v, r(i / 2, 2) AS w, r(i, 3) AS d,
               -- one in ten dermoscopic images is of a patient seen before
               CASE WHEN r(i, 4) < 0.1 THEN (i * r(i, 5))::bigint ELSE i END AS visit,
               CASE WHEN r(i, 6) < :copies THEN i - 1 ELSE i END AS drawn
        FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i
    )
"""

_RECORDS = """
    INSERT INTO record (isic_id, version, first_seen_at, last_seen_at, changed_at)
    SELECT id, 1, :seen, :seen, :seen FROM numbered
"""

_FILES = """
    INSERT INTO stored_file (isic_id, rendition, url, object_key, size_bytes, sha256, perceptual_hash, thumbprint,
                             width_px, height_px, fetched_at)
    SELECT id, 'thumbnail_256', 'https://archive.example/thumbnails/' || id || '.jpg', 'images/' || id || '.jpg',
           9000, md5(id) || md5(id || 'f'),
           ('x' || substr(md5('hash' || drawn), 1, 16))::bit(64)::bigint # (drawn <> i)::int * 5,
           decode(repeat(md5('a' || drawn), 8) || repeat(md5('b' || drawn), 8), 'hex'), 256, 192, :seen
    FROM numbered
"""

# 40 landmarks of 8 bytes, as many as a picture has; a copy has those of its original.
_LANDMARKS = """
    INSERT INTO picture_landmarks (sha256, landmarks, version)
    SELECT md5(id) || md5(id || 'f'),
           decode((SELECT string_agg(md5(drawn || 'l' || k), '') FROM generate_series(1, 20) AS k), 'hex'), :version
    FROM numbered
"""


def add_made_up_records(
    connection: Connection, first: int, last: int, *, seen: str, dermoscopic_share: float = DERMOSCOPIC_SHARE
) -> None:
    """Insert records number `first` to `last` with a file each, as ingestion leaves them. Numbers below 5 million."""
    values = {
        "first": first,
        "last": last,
        "seen": seen,
        "dermoscopic": dermoscopic_share,
        "copies": COPY_SHARE,
        "version": LANDMARKS_VERSION,
    }
    numbered = re.sub(
        r"r\((\S+(?: / 2)?), (\d)\)", r"(abs(hashint8(\1 + \g<2>00000000)) / 2147483648.0)", _NUMBERED
    )
    for statement in (_VERSIONS, _RECORDS, _FILES, _LANDMARKS):
        insert, _, select = statement.partition("SELECT")
        connection.execute(text(f"{insert} {numbered} SELECT{select}"), values)
