"""One record and its stored file -> the typed facts of an image, or the reason why it is not one. No database.

`splits.exclusions` says what a task then leaves out, and in which order.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lesion_tasks.archive.printable import without_controls
from lesion_tasks.archive.vocabulary import is_no_value

CLEANING_VERSION = 3  # raise it whenever the rules of this module change: every record is then judged again

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
N_REMEMBERED = 4_096  # texts and how each was read: but for ids, few differ
AGE_LIMIT_YEARS = 120
SIZE_LIMIT_MM = 1_000
# The lowest and the highest value that can be meant. The archive stores sizes with two decimals: 0.00 is a missing
# measurement.
METADATA_LIMITS = {"age_years": (0, AGE_LIMIT_YEARS), "size_mm": (0.005, SIZE_LIMIT_MM - 0.005)}


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
    """Why a record is not an image."""

    isic_id: str
    record_version: int
    reason: str
    detail: str


def curate_record(
    document: Mapping[str, Any], version: int, file: Mapping[str, Any] | None, *, is_withdrawn: bool = False
) -> CuratedImage | Rejected:
    """Judge one record. `file` is its `stored_file` row: rendition, sha256, reason, detail.

    A value that cannot be read (an age of "old", a negative size) is a missing value, not a reason to lose
    the image; so is a placeholder for "no value" (`nan`, `unknown`, `-`). `unread_values` lists these values.
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
    groups = _groups(document)
    return CuratedImage(
        isic_id=isic_id,
        record_version=version,
        rendition=file["rendition"],
        sha256=file["sha256"],
        diagnosis=diagnosis_path(groups["clinical"]),
        **{column: _value(groups, fields) for column, fields in FIELDS.items()},
    )


def unread_values(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, value as found) for each value of a record that `curate_record` takes as missing."""
    groups = _groups(document)
    for fields in (*FIELDS.values(), *DIAGNOSIS_FIELDS):
        said = [(field.name, groups[field.group].get(field.name)) for field in fields]
        said = [(name, found) for name, found in said if found is not None and found != ""]
        if said and _value(groups, fields) is None:
            yield from ((name, str(found)) for name, found in said)


def _value(groups: Mapping[str | None, Mapping[str, Any]], fields: Sequence["Field"]) -> Any:
    """The first value that can be read of several fields that say the same."""
    for field in fields:
        found = groups[field.group].get(field.name)
        if found is not None and (value := field.read(found)) is not None:
            return value
    return None


def _groups(document: Mapping[str, Any]) -> dict[str | None, Mapping[str, Any]]:
    """What a record says, by group of its metadata; None: beside them."""
    metadata = document.get("metadata") or {}
    return {None: document} | {name: metadata.get(name) or {} for name in ("clinical", "acquisition")}


def diagnosis_path(clinical: Mapping[str, Any]) -> tuple[str, ...]:
    """Return diagnosis levels 1, 2, ... up to the first missing one."""
    path: list[str] = []
    for (field,) in DIAGNOSIS_FIELDS:
        value = field.read(clinical.get(field.name))
        if value is None:
            break
        path.append(value)
    return tuple(path)


def identity(value: Any) -> str | None:
    """The id of a patient or a lesion; None for a placeholder, which would tie strangers together."""
    return _word(value)


def _word(value: Any) -> str | None:
    return _meant(value) if isinstance(value, str) else None


@lru_cache(N_REMEMBERED)
def _meant(value: str) -> str | None:
    text = _text(value)
    return None if text is None or is_no_value(text) else text


def _text(value: Any) -> str | None:
    """One line without control characters: records stored before these were removed may hold some."""
    return _one_line(value) if isinstance(value, str) else None


@lru_cache(N_REMEMBERED)
def _one_line(value: str) -> str | None:
    if not value.isprintable():
        value = without_controls(value)
    return " ".join(value.split()) or None


def _sex(value: Any) -> str | None:
    return sex if (sex := _word(value)) in {"female", "male"} else None


def _age_years(value: Any) -> float | None:
    return read_number("age_years", value)


def _size_mm(value: Any) -> float | None:
    return read_number("size_mm", value)


def read_number(name: str, value: Any) -> float | None:
    """Read a JSON number or a decimal string such as "3.50"; None for anything else, or beyond METADATA_LIMITS."""
    lowest, highest = METADATA_LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and lowest <= number <= highest else None


def _site_of_general(value: Any) -> str | None:
    return SITE_BY_GENERAL_SITE.get(str(value))


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a record, and how it is read: None for what is no value."""

    group: str | None  # of the record's metadata; None: beside them
    name: str
    read: Callable[[Any], Any]


def _clinical(name: str, read: Callable[[Any], Any] = _word) -> Field:
    return Field(group="clinical", name=name, read=read)


# Column of an image -> the fields that say it, in this order: whatever a record alone decides.
FIELDS: Mapping[str, tuple[Field, ...]] = {
    "patient_id": (_clinical("patient_id", identity),),
    "lesion_id": (_clinical("lesion_id", identity),),
    "diagnosis_confirm_type": (_clinical("diagnosis_confirm_type"),),
    "image_type": (Field(group="acquisition", name="image_type", read=_word),),
    "image_manipulation": (Field(group="acquisition", name="image_manipulation", read=_word),),
    "sex": (_clinical("sex", _sex),),
    "age_years": (_clinical("age_approx", _age_years),),
    "size_mm": (_clinical("clin_size_long_diam_mm", _size_mm),),
    "anatom_site": (_clinical("anatom_site_1"), _clinical("anatom_site_general", _site_of_general)),
    "fitzpatrick_skin_type": (_clinical("fitzpatrick_skin_type"),),
    "copyright_license": (Field(group=None, name="copyright_license", read=_text),),
    "attribution": (Field(group=None, name="attribution", read=_text),),
}
DIAGNOSIS_FIELDS = tuple((_clinical(f"diagnosis_{level}"),) for level in range(1, 6))
