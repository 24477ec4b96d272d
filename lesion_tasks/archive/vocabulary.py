"""The archive's public vocabulary, as far as this project uses it: field names, their types, and some paths.

Plain data, standard library only. Unknown fields and values are data, never errors: nothing here is an allowlist.
Spelling, including upstream's typos, is the archive's own.
"""

import re

ISIC_ID = re.compile(r"ISIC_[0-9]{7}")  # the only form of an image id; use fullmatch before building a path

LICENCES = ("CC-0", "CC-BY", "CC-BY-NC")

# A record's metadata has two groups. These keys are `acquisition`; every other key is `clinical`, unknown ones too.
ACQUISITION_FIELDS = ("pixels_x", "pixels_y", "image_type", "dermoscopic_type", "image_manipulation")

INTEGER_FIELDS = frozenset({"pixels_x", "pixels_y", "age_approx", "acquisition_day"})
DECIMAL_FIELDS = frozenset({"clin_size_long_diam_mm", "mel_thick_mm"})  # JSON strings with two decimals
BOOLEAN_FIELDS = frozenset(
    {"melanocytic", "mel_ulcer", "personal_hx_mm", "family_hx_mm", "concomitant_biopsy"}
)

# What the search language accepts, by type of value.
SEARCH_STRINGS = frozenset(
    {"isic_id", "copyright_license", "image_type", "dermoscopic_type", "tbp_tile_type", "image_manipulation"}
    | {"sex", "fitzpatrick_skin_type", "anatom_site_special", "diagnosis_confirm_type", "mel_mitotic_index"}
    | {"patient_id", "lesion_id", "rcm_case_id"}
    | {f"anatom_site_{level}" for level in range(1, 6)}
    | {f"diagnosis_{level}" for level in range(1, 6)}
)
SEARCH_NUMBERS = frozenset({"age_approx", "clin_size_long_diam_mm", "mel_thick_mm"})
SEARCH_BOOLEANS = BOOLEAN_FIELDS | {"public"}

# The columns of a download's table that have a meaning here.
TABLE_COLUMNS = (
    SEARCH_STRINGS
    | SEARCH_NUMBERS
    | SEARCH_BOOLEANS
    | INTEGER_FIELDS
    | {"attribution", "anatom_site_general"}  # the latter until May 2026
)

# How people and programs write that there is no value. Compared in lower case, without surrounding spaces.
_NO_VALUE = frozenset(
    {
        "nan",
        "na",
        "n/a",
        "n.a.",
        "n.a",
        "<na>",
        "#n/a",
        "#na",
        "nat",
        "nil",
        "null",
        "none",
        "(none)",
        "(null)",
    }
    | {
        "unknown",
        "unk",
        "unspecified",
        "undefined",
        "missing",
        "empty",
        "blank",
        "not available",
        "not known",
    }
    | {"not applicable", "not specified", "not recorded", "no data", "tbd", "inf", "-inf", "true", "false"}
)
_NO_NUMBER = re.compile(r"[+-]?[0.]+|-[0-9.]+")  # 0, 0.0, and the -1 or -9 that stand for none


def is_no_value(text: str) -> bool:
    """Tell whether a cell or a JSON string says that there is no value: empty, `nan`, `unknown`, `-`, `0` and so on.

    Text without a letter or digit of any script is not a value either.
    """
    word = text.strip().casefold()
    if word in _NO_VALUE or word[:1].isalpha():
        return word in _NO_VALUE
    return _NO_NUMBER.fullmatch(word) is not None or not any(character.isalnum() for character in word)
