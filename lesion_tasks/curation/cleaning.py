"""One record and its stored file -> the typed facts of an image, or the reason why it is none. No database.

What a task then leaves out, and in which order, stands in `rules`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CLEANING_VERSION = 2  # raise it whenever the rules of this module change: every record is then judged again

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
