"""The archive's public vocabulary, as far as this project uses it: field names, their types, and some paths.

Plain data, standard library only. Unknown fields and values are data, never errors: nothing here is a whitelist.
Spelling, including upstream's typos, is the archive's own.
"""

import re

ISIC_ID = re.compile(r"ISIC_[0-9]{7}")  # the only form an image id has; use fullmatch before building a path

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
