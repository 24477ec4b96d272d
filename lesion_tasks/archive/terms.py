"""The archive's vocabulary, as `isic-metadata` has it -> the values that a field of a mapping may have."""

from enum import Enum
from functools import cache

from lesion_tasks.archive.vocabulary import BOOLEAN_FIELDS, LICENCES

PATH_SEPARATOR = ":"  # between the levels of a diagnosis or a site
N_LEVELS = 5

# How a cell of a table becomes a value, by the field that it is mapped to.
PATHS = ("diagnosis", "anatom_site")  # a path of the archive's hierarchy, in `diagnosis_1` and so on
IDENTITIES = ("patient_id", "lesion_id")  # any name; kept in the namespace of the folder
NUMBERS = ("age_approx", "clin_size_long_diam_mm", "mel_thick_mm", "acquisition_day")
TEXTS = ("attribution",)
TERMS = (
    "sex",
    "image_type",
    "dermoscopic_type",
    "image_manipulation",
    "diagnosis_confirm_type",
    "anatom_site_special",
    "copyright_license",
    "fitzpatrick_skin_type",
    # Scales of skin tone are not converted into one another: two types at once and Monk's ten have fields of their own.
    "fitzpatrick_skin_type_group",
    "monk_skin_tone",
)
FIELDS = ("image", *IDENTITIES, *PATHS, *NUMBERS, *TERMS, *sorted(BOOLEAN_FIELDS), *TEXTS)


def find_values(field: str, words: str) -> tuple[str, ...]:
    """Return the values of a field whose name, the last level of a path, holds these words.

    Those that are called exactly so come first, then the shortest paths.
    """
    wanted = words.casefold()
    named = [(value.rpartition(PATH_SEPARATOR)[2].casefold(), value) for value in values_of(field)]
    found = sorted((name != wanted, len(value), value) for name, value in named if wanted in name)
    return tuple(value for _, _, value in found)


@cache
def values_of(field: str) -> tuple[str, ...]:
    """Return the values that a field may have, in the vocabulary's order; empty for identities, numbers and texts."""
    # Loaded here: it takes 50 ms.
    from isic_metadata import fields

    enumerations: dict[str, type[Enum]] = {
        "diagnosis": fields.DiagnosisEnum,
        "anatom_site": fields.AnatomSiteEnum,
        "image_type": fields.ImageTypeEnum,
        "dermoscopic_type": fields.DermoscopicTypeEnum,
        "image_manipulation": fields.ImageManipulationEnum,
        "diagnosis_confirm_type": fields.DiagnosisConfirmTypeEnum,
        "anatom_site_special": fields.AnatomSiteSpecialEnum,
        "fitzpatrick_skin_type": fields.FitzpatrickSkinType,
    }
    if field in enumerations:
        return tuple(str(member.value) for member in enumerations[field])
    if field in BOOLEAN_FIELDS:
        return ("true", "false")
    return {
        "sex": ("female", "male"),
        "copyright_license": LICENCES,
        "fitzpatrick_skin_type_group": ("I-II", "III-IV", "V-VI"),
        "monk_skin_tone": tuple(str(tone) for tone in range(1, 11)),
    }.get(field, ())
