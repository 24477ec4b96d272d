"""The lesions of some images -> one patient for each, or none where records name two."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, text

from lesion_tasks.cleaning import RULES_VERSION, CuratedImage, Rejected
from lesion_tasks.database import upsert_rows

_CONTESTED = "two patients"  # stands in the place of a patient id


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


def settle_lesions(
    connection: Connection, images: Sequence[CuratedImage], number: int
) -> tuple[list[CuratedImage], list[Rejected]]:
    """Upsert the lesions of some images; returns the images with their lesion's patient, and those of no use.

    A lesion has one patient: an image of it without a patient takes over the one that another image names.
    Where records name two, no image of the lesion is used, whichever record came first. Other images of these lesions
    follow, under the number of this curation.
    """
    patient_by_lesion = _patients(connection, images, number)
    settled, contested = [], []
    for image in images:
        patient = patient_by_lesion.get(image.lesion_id or "", image.patient_id)
        if patient is _CONTESTED:
            contested.append(_rejected(image))
        else:
            settled.append(replace(image, patient_id=patient))
    return settled, contested


def _rejected(image: CuratedImage) -> Rejected:
    return Rejected(
        isic_id=image.isic_id,
        record_version=image.record_version,
        reason="lesion_of_two_patients",
        detail=f"lesion {image.lesion_id} stands under two patients, expected one",
    )


def _patients(connection: Connection, images: Sequence[CuratedImage], number: int) -> dict[str, str | None]:
    """The patient of each lesion of these images: None where unknown, `_CONTESTED` where there are two."""
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
    values = {"ids": sorted(named), "rules": RULES_VERSION, "number": number}
    connection.execute(_ADOPT_PATIENT, values)
    connection.execute(_REJECT_CONTESTED, values)
    return {
        lesion: _CONTESTED if lesion in contested else min(patients, default=None)
        for lesion, patients in named.items()
    }
