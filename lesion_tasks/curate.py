"""Records and stored files -> images, or rejects with a reason word; then the groups they belong to.

Reads every record whose version, file or rules changed since it was last judged. Rows are upserted in batches,
each batch one transaction, so a killed run goes on where it stopped. What came, changed or went is noted with it
(`ungrouped`), and only the groups that this can touch are computed again: the work of a day is that of a day's
images. Groups depend on what the catalogue holds, not on the order in which it came.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.database import database_url, engine_for, upsert_rows
from lesion_tasks.grouping import atom_of
from lesion_tasks.progress import progress
from lesion_tasks.regroup import NEXT_NUMBER, regroup

RULES_VERSION = 2
BATCH_ROWS = 5_000

# The archive's older body-site vocabulary (removed in May 2026) in terms of today's first level.
SITE_BY_GENERAL_SITE = {
    "head/neck": "Head and neck",
    "upper extremity": "Upper extremity",
    "lower extremity": "Lower extremity",
    "anterior torso": "Trunk",
    "posterior torso": "Trunk",
    "lateral torso": "Trunk",
    "oral/genital": "Anogenital region",
}
AGE_LIMIT_YEARS = 120
SIZE_LIMIT_MM = 1_000


@dataclass(frozen=True, kw_only=True)
class CuratedImage:
    """The typed facts of one usable image, without its group. Fields are those of the table `image`."""

    isic_id: str
    record_version: int
    rendition: str
    sha256: str
    patient_id: str | None
    lesion_id: str | None
    diagnosis: tuple[str, ...]
    diagnosis_confirm_type: str | None
    image_type: str | None
    image_manipulation: str | None
    sex: str | None
    age_years: float | None
    size_mm: float | None
    anatom_site: str | None
    fitzpatrick_skin_type: str | None
    copyright_license: str | None
    attribution: str | None


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Why a record is no image."""

    isic_id: str
    record_version: int
    reason: str
    detail: str


CONTESTED = "two patients"  # stands in the place of a patient id

# Reasons that can vanish without a new record version: these records are looked at in every run.
PASSING_REASONS = ("no_file", "file_refused", "withdrawn", "lesion_of_two_patients")


def curate_record(
    document: Mapping[str, Any], version: int, file: Mapping[str, Any] | None, *, is_withdrawn: bool = False
) -> CuratedImage | Rejected:
    """Judge one record. `file` is its `stored_file` row: rendition, sha256, reason, detail.

    A value that cannot be read (an age of "old", a negative size) is a missing value, not a reason to lose
    the image.
    """
    isic_id = document["isic_id"]

    def rejected(reason: str, detail: str) -> Rejected:
        return Rejected(isic_id=isic_id, record_version=version, reason=reason, detail=detail)

    if is_withdrawn:
        return rejected("withdrawn", "the archive no longer publishes it")
    if file is None:
        return rejected("no_file", "no picture has been fetched, expected one")
    if file["reason"] is not None:
        return rejected("file_refused", f"{file['reason']}: {file['detail']}")
    metadata = document.get("metadata") or {}
    clinical = metadata.get("clinical") or {}
    acquisition = metadata.get("acquisition") or {}
    return CuratedImage(
        isic_id=isic_id,
        record_version=version,
        rendition=file["rendition"],
        sha256=file["sha256"],
        patient_id=_word(clinical.get("patient_id")),
        lesion_id=_word(clinical.get("lesion_id")),
        diagnosis=diagnosis_path(clinical),
        diagnosis_confirm_type=_word(clinical.get("diagnosis_confirm_type")),
        image_type=_word(acquisition.get("image_type")),
        image_manipulation=_word(acquisition.get("image_manipulation")),
        sex=sex if (sex := _word(clinical.get("sex"))) in {"female", "male"} else None,
        age_years=_number(clinical.get("age_approx"), lowest=0, highest=AGE_LIMIT_YEARS),
        # The archive stores two decimals: a lesion of size 0.00 is a missing measurement.
        size_mm=_number(clinical.get("clin_size_long_diam_mm"), lowest=0.005, highest=SIZE_LIMIT_MM - 0.005),
        anatom_site=_word(clinical.get("anatom_site_1"))
        or SITE_BY_GENERAL_SITE.get(str(clinical.get("anatom_site_general"))),
        fitzpatrick_skin_type=_word(clinical.get("fitzpatrick_skin_type")),
        copyright_license=_word(document.get("copyright_license")),
        attribution=_word(document.get("attribution")),
    )


def diagnosis_path(clinical: Mapping[str, Any]) -> tuple[str, ...]:
    """Return diagnosis levels 1, 2, ... up to the first missing one."""
    path: list[str] = []
    for level in range(1, 6):
        value = _word(clinical.get(f"diagnosis_{level}"))
        if value is None:
            break
        path.append(value)
    return tuple(path)


def _word(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    # Postgres text cannot hold NUL.
    return value.replace("\x00", "").strip() or None


def _number(value: Any, *, lowest: float, highest: float) -> float | None:
    """Read a JSON number or a decimal string such as "3.50"; anything else or out of range is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and lowest <= number <= highest else None


IMAGE_COLUMNS = (
    "isic_id", "record_version", "rendition", "rules_version", "sha256", "patient_id", "lesion_id", "group_id",
    "atom_id", "diagnosis", "diagnosis_confirm_type", "image_type", "image_manipulation", "sex", "age_years",
    "size_mm", "anatom_site", "fitzpatrick_skin_type", "copyright_license", "attribution", "perceptual_hash",
    "curated_at", "curated_in",
)  # fmt: skip
REJECT_COLUMNS = (
    "isic_id", "reason", "detail", "record_version", "rules_version", "curated_at", "curated_in",
)  # fmt: skip

# One stored rendition for each record: a usable one before a refused one, the larger before the smaller.
_STALE = text("""
    WITH best AS (
        SELECT DISTINCT ON (isic_id) isic_id, rendition, sha256, reason FROM stored_file
        ORDER BY isic_id, (reason IS NULL) DESC, rendition
    )
    SELECT r.isic_id FROM record r
    LEFT JOIN best f USING (isic_id) LEFT JOIN image i USING (isic_id) LEFT JOIN reject j USING (isic_id)
    WHERE NOT (
        (i.isic_id IS NOT NULL AND i.record_version = r.version AND i.rules_version = :rules
         AND i.sha256 = f.sha256 AND i.rendition = f.rendition AND r.withdrawn_at IS NULL)
        OR (j.isic_id IS NOT NULL AND j.record_version = r.version AND j.rules_version = :rules
            AND NOT j.reason = ANY(:passing))
    )
    ORDER BY r.isic_id
""")
_BATCH = text("""
    SELECT r.isic_id, r.version, v.document, r.withdrawn_at IS NOT NULL AS is_withdrawn,
           f.rendition, f.sha256, f.reason, f.detail, f.perceptual_hash
    FROM record r
    JOIN record_version v USING (isic_id, version)
    LEFT JOIN LATERAL (
        SELECT * FROM stored_file s WHERE s.isic_id = r.isic_id ORDER BY (s.reason IS NULL) DESC, s.rendition LIMIT 1
    ) f ON true
    WHERE r.isic_id = ANY(:ids) ORDER BY r.isic_id
""")
# One curation at a time, and no split is built from half of one.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('curate'))")


def curate_images() -> dict[str, int]:
    """Bring `image` and `reject` up to date; returns counts of rows judged, by outcome.

    Safe to run again or to kill: a row that is up to date is not touched, and each batch is one transaction.
    """
    counts: Counter[str] = Counter(images=0, rejects=0)
    engine = engine_for(database_url())
    with engine.connect() as connection:
        stale = list(
            connection.execute(_STALE, {"rules": RULES_VERSION, "passing": list(PASSING_REASONS)}).scalars()
        )
    with progress("curate", total=len(stale)) as advance:
        for start in range(0, len(stale), BATCH_ROWS):
            ids = stale[start : start + BATCH_ROWS]
            with engine.begin() as connection:
                connection.execute(_LOCK)
                counts.update(_curate_batch(connection, connection.execute(_BATCH, {"ids": ids}).all()))
            advance(len(ids))
    with engine.begin() as connection:
        connection.execute(_LOCK)
        counts.update(regroup(connection))
        totals = connection.execute(
            text("SELECT (SELECT count(*) FROM image), (SELECT count(*) FROM reject)")
        ).one()
    counts["all_images"], counts["all_rejects"] = int(totals[0]), int(totals[1])
    return dict(counts)


def _curate_batch(connection: Connection, rows: Sequence[Any]) -> Counter[str]:
    judged = [
        curate_record(
            row.document,
            row.version,
            None if row.rendition is None else row._mapping,
            is_withdrawn=row.is_withdrawn,
        )
        for row in rows
    ]
    images = [item for item in judged if isinstance(item, CuratedImage)]
    rejects = [item for item in judged if isinstance(item, Rejected)]
    stamp = (datetime.now(UTC).isoformat(), int(connection.execute(NEXT_NUMBER).scalar_one()))
    connection.execute(_NOTE_CHANGED, {"ids": [item.isic_id for item in judged]})
    lesions = _settle_lesions(connection, images, stamp)
    rejects += [
        _contested_reject(image) for image in images if lesions.get(image.lesion_id or "") is CONTESTED
    ]
    images = [
        replace(image, patient_id=lesions[image.lesion_id]) if image.lesion_id else image
        for image in images
        if lesions.get(image.lesion_id or "") is not CONTESTED
    ]
    connection.execute(_NOTE_NEW, {"ids": [image.isic_id for image in images]})
    hash_by_id = {row.isic_id: row.perceptual_hash for row in rows}
    _drop(connection, "image", [item.isic_id for item in rejects])
    _drop(connection, "reject", [item.isic_id for item in images])
    upsert_rows(
        connection,
        "image",
        IMAGE_COLUMNS,
        ["isic_id"],
        (_image_row(image, hash_by_id[image.isic_id], stamp) for image in images),
    )
    changed = _changed_rejects(connection, rejects)
    upsert_rows(
        connection,
        "reject",
        REJECT_COLUMNS,
        ["isic_id"],
        ((r.isic_id, r.reason, r.detail, r.record_version, RULES_VERSION, *stamp) for r in changed),
    )
    return Counter(images=len(images), rejects=len(rejects), **_by_reason(rejects))


# The group that an image has now is the one that its going or changing may split.
_NOTE_CHANGED = text("""
    INSERT INTO ungrouped (isic_id, old_group_id) SELECT isic_id, group_id FROM image WHERE isic_id = ANY(:ids)
    ON CONFLICT DO NOTHING
""")
_NOTE_NEW = text("""
    INSERT INTO ungrouped (isic_id) SELECT unnest(CAST(:ids AS text[])) ON CONFLICT DO NOTHING
""")


def _changed_rejects(connection: Connection, rejects: Sequence[Rejected]) -> list[Rejected]:
    """Leave out those that stand in the table already, so that waiting for a file is no change."""
    found = connection.execute(
        text("""
            SELECT isic_id, reason, detail, record_version FROM reject
            WHERE isic_id = ANY(:ids) AND rules_version = :rules
        """),
        {"ids": [item.isic_id for item in rejects], "rules": RULES_VERSION},
    )
    known = {tuple(row) for row in found}
    return [r for r in rejects if (r.isic_id, r.reason, r.detail, r.record_version) not in known]


def _by_reason(rejects: Sequence[Rejected]) -> dict[str, int]:
    return {f"rejected_{reason}": n for reason, n in Counter(r.reason for r in rejects).items()}


def _image_row(image: CuratedImage, perceptual_hash: int | None, stamp: tuple[str, int]) -> tuple[Any, ...]:
    atom = atom_of(image.patient_id, image.lesion_id, image.isic_id)
    return (
        image.isic_id, image.record_version, image.rendition, RULES_VERSION, image.sha256, image.patient_id,
        image.lesion_id, atom, atom, list(image.diagnosis), image.diagnosis_confirm_type, image.image_type,
        image.image_manipulation, image.sex, image.age_years, image.size_mm, image.anatom_site,
        image.fitzpatrick_skin_type, image.copyright_license, image.attribution, perceptual_hash, *stamp,
    )  # fmt: skip


def _drop(connection: Connection, table: str, isic_ids: list[str]) -> None:
    connection.execute(text(f"DELETE FROM {table} WHERE isic_id = ANY(:ids)"), {"ids": isic_ids})  # noqa: S608


def _contested_reject(image: CuratedImage) -> Rejected:
    return Rejected(
        isic_id=image.isic_id,
        record_version=image.record_version,
        reason="lesion_of_two_patients",
        detail=f"lesion {image.lesion_id} stands under two patients, expected one",
    )


def _settle_lesions(
    connection: Connection, images: Sequence[CuratedImage], stamp: tuple[str, int]
) -> dict[str, str | None]:
    """Upsert the lesions of a batch; return the patient of each, None where unknown, or `CONTESTED`.

    A lesion has one patient: an image of it without a patient takes over the one that another image names.
    Where records name two, no image of the lesion is used, whichever record came first.
    """
    patients_by_lesion: dict[str, set[str]] = {}
    for image in images:
        if image.lesion_id is not None:
            patients_by_lesion.setdefault(image.lesion_id, set()).add(image.patient_id or "")
    known = connection.execute(
        text("SELECT lesion_id, patient_key, is_contested FROM lesion WHERE lesion_id = ANY(:ids)"),
        {"ids": list(patients_by_lesion)},
    ).all()
    contested = {row.lesion_id for row in known if row.is_contested}
    for row in known:
        patients_by_lesion[row.lesion_id].add(row.patient_key)
    named = {lesion: patients - {""} for lesion, patients in patients_by_lesion.items()}
    contested |= {lesion for lesion, patients in named.items() if len(patients) > 1}
    upsert_rows(
        connection,
        "lesion",
        ("lesion_id", "patient_key", "is_contested"),
        ["lesion_id"],
        ((lesion, min(named[lesion], default=""), lesion in contested) for lesion in sorted(named)),
    )
    values = {"ids": sorted(named), "rules": RULES_VERSION, "number": stamp[1]}
    connection.execute(_ADOPT_PATIENT, values)
    connection.execute(_REJECT_CONTESTED, values)
    return {
        lesion: CONTESTED if lesion in contested else min(patients, default=None)
        for lesion, patients in named.items()
    }


_ADOPT_PATIENT = text("""
    WITH adopted AS (
        UPDATE image SET patient_id = lesion.patient_key, atom_id = lesion.patient_key, curated_in = :number FROM lesion
        WHERE image.lesion_id = lesion.lesion_id AND lesion.lesion_id = ANY(:ids)
          AND image.patient_id IS NULL AND lesion.patient_key <> ''
        RETURNING image.isic_id, image.group_id
    )
    INSERT INTO ungrouped (isic_id, old_group_id) SELECT isic_id, group_id FROM adopted ON CONFLICT DO NOTHING
""")
_REJECT_CONTESTED = text("""
    WITH gone AS (
        DELETE FROM image USING lesion
        WHERE image.lesion_id = lesion.lesion_id AND lesion.lesion_id = ANY(:ids) AND lesion.is_contested
        RETURNING image.isic_id, image.record_version, image.lesion_id, image.group_id
    ), noted AS (
        INSERT INTO ungrouped (isic_id, old_group_id) SELECT isic_id, group_id FROM gone ON CONFLICT DO NOTHING
    )
    INSERT INTO reject (isic_id, reason, detail, record_version, rules_version, curated_at, curated_in)
    SELECT isic_id, 'lesion_of_two_patients', 'lesion ' || lesion_id || ' stands under two patients, expected one',
           record_version, :rules, now(), :number FROM gone
    ON CONFLICT (isic_id) DO NOTHING
""")
