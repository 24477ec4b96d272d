"""The lesions of some images -> one patient for each; images of a lesion whose records name two are rejected."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, text

from lesion_tasks.curation.cleaning import CLEANING_VERSION, CuratedImage, Rejected, identity
from lesion_tasks.database.bulk import upsert_rows

_CONTESTED = "two patients"  # stands in for a patient id


_ADOPT_PATIENT = text("""
    WITH adopted AS (
        UPDATE image SET patient_id = nullif(lesion.patient_key, ''), curated_in = :number,
            atom_id = coalesce(nullif(lesion.patient_key, ''), lesion.lesion_id)
        FROM lesion
        WHERE image.lesion_id = lesion.lesion_id AND lesion.lesion_id = ANY(:ids)
          AND image.patient_id IS DISTINCT FROM nullif(lesion.patient_key, '')
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
    SELECT isic_id, 'lesion_of_two_patients', 'lesion ' || lesion_id || ' is listed under two patients, expected one',
           record_version, :rules, now(), :number FROM gone
    ON CONFLICT (isic_id) DO NOTHING
""")


# What the records of other images of these lesions say now, whether those images are used or were refused.
_NAMED_BY_OTHERS = text("""
    SELECT v.document #>> '{metadata,clinical,lesion_id}' AS lesion_id,
           v.document #>> '{metadata,clinical,patient_id}' AS patient_id
    FROM record r JOIN record_version v USING (isic_id, version)
    WHERE r.isic_id IN (
            SELECT isic_id FROM image WHERE lesion_id = ANY(:ids)
            UNION SELECT isic_id FROM reject WHERE reason = 'lesion_of_two_patients'
        )
        AND r.isic_id <> ALL(:judged) AND r.withdrawn_at IS NULL
        AND v.document #>> '{metadata,clinical,lesion_id}' = ANY(:ids)
        AND v.document #>> '{metadata,clinical,patient_id}' <> ''
""")
# The lesions for which these records were refused, as they were then: the archive may since have reassigned a record.
_REFUSED_BEFORE = text("""
    SELECT DISTINCT v.document #>> '{metadata,clinical,lesion_id}'
    FROM reject j JOIN record_version v ON v.isic_id = j.isic_id AND v.version = j.record_version
    WHERE j.isic_id = ANY(:judged) AND j.reason = 'lesion_of_two_patients'
""")
_REOPEN = text("""
    INSERT INTO uncurated
    SELECT j.isic_id FROM reject j JOIN record r USING (isic_id) JOIN record_version v USING (isic_id, version)
    WHERE j.reason = 'lesion_of_two_patients' AND j.isic_id <> ALL(:judged)
        AND v.document #>> '{metadata,clinical,lesion_id}' = ANY(:ids)
    ON CONFLICT DO NOTHING
""")


def settle_lesions(
    connection: Connection, images: Sequence[CuratedImage], judged: Sequence[str], number: int
) -> tuple[list[CuratedImage], list[Rejected], int]:
    """Upsert the lesions of some images; returns the images with their lesion's patient, the unusable ones, and how
    many others were refused before and must be judged again.

    A lesion has one patient: an image of it without a patient takes the one that another image names.
    If records name two, no image of the lesion is used, whichever record came first, until the archive corrects
    one of them. Other images of these lesions are updated too, under the number of this curation. `judged` are the ids
    of the records that are being judged, whether or not they made an image.
    """
    patient_by_lesion, n_reopened = _patients(connection, images, judged, number)
    settled, contested = [], []
    for image in images:
        patient = patient_by_lesion.get(image.lesion_id or "", image.patient_id)
        if patient is _CONTESTED:
            contested.append(_rejected(image))
        else:
            settled.append(replace(image, patient_id=patient))
    return settled, contested, n_reopened


def _rejected(image: CuratedImage) -> Rejected:
    return Rejected(
        isic_id=image.isic_id,
        record_version=image.record_version,
        reason="lesion_of_two_patients",
        detail=f"lesion {image.lesion_id} is listed under two patients, expected one",
    )


def _patients(
    connection: Connection, images: Sequence[CuratedImage], judged: Sequence[str], number: int
) -> tuple[dict[str, str | None], int]:
    """The patient of each lesion of these images: None if unknown, `_CONTESTED` if there are two."""
    patients_by_lesion: dict[str, set[str]] = {}
    for image in images:
        if image.lesion_id is not None:
            patients_by_lesion.setdefault(image.lesion_id, set()).add(image.patient_id or "")
    for found in connection.execute(_REFUSED_BEFORE, {"judged": list(judged)}).scalars():
        if lesion_id := identity(found):
            patients_by_lesion.setdefault(lesion_id, set())
    known = connection.execute(
        text("SELECT lesion_id, patient_key, is_contested FROM lesion WHERE lesion_id = ANY(:ids)"),
        {"ids": list(patients_by_lesion)},
    ).all()
    before = {row.lesion_id for row in known if row.is_contested}
    # A lesion's stored patient may be one that no record names any more: if they differ, all records are read.
    if doubtful := before | {
        row.lesion_id for row in known if patients_by_lesion[row.lesion_id] != {row.patient_key}
    }:
        asked = {"ids": sorted(doubtful), "judged": list(judged)}
        for row in connection.execute(_NAMED_BY_OTHERS, asked):
            patients_by_lesion[row.lesion_id].add(identity(row.patient_id) or "")
    named = {lesion: patients - {""} for lesion, patients in patients_by_lesion.items()}
    contested = {lesion for lesion, patients in named.items() if len(patients) > 1}
    n_reopened = 0
    if mended := sorted(before - contested):
        n_reopened = connection.execute(_REOPEN, {"ids": mended, "judged": list(judged)}).rowcount
    upsert_rows(
        connection,
        "lesion",
        ["lesion_id"],
        (
            {
                "lesion_id": lesion,
                "patient_key": min(named[lesion], default=""),
                "is_contested": lesion in contested,
            }
            for lesion in sorted(named)
        ),
    )
    values = {"ids": sorted(named), "rules": CLEANING_VERSION, "number": number}
    connection.execute(_ADOPT_PATIENT, values)
    connection.execute(_REJECT_CONTESTED, values)
    patient_by_lesion = {
        lesion: _CONTESTED if lesion in contested else min(patients, default=None)
        for lesion, patients in named.items()
    }
    return patient_by_lesion, n_reopened
