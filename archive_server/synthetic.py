"""(seed, number of images) -> the records of a synthetic archive, as columns.

Every value is a hash of (seed, what it is, whose it is), so record i never depends on the number of images, and a
larger archive with the same seed begins with the same records. No dictionary per record is ever kept.

The malignancy of a lesion shows in one latent score: N(0, 1) when benign, N(LATENT_SHIFT, 1) when malignant. Nothing
else in a picture depends on the label, so no classifier of pictures can beat the AUC of the latent score, 0.90. The
looks (pigmented, pink, keratotic) are equally frequent among benign and malignant for the same reason.
"""

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from archive_server.paging import EPOCH
from archive_server.synthetic_vocabulary import (
    BENIGN_CONFIRM_TYPES,
    DIAGNOSES,
    HOSPITALS,
    LOOKS,
    SITES,
    SIZES_PX,
)
from archive_server.table import MISSING, Column, Key, Table
from lesion_tasks.archive.vocabulary import LICENCES

MAX_IMAGES = 9_999_999  # ids have seven digits

# AUC of two unit normals a distance d apart is Phi(d / sqrt 2); Phi(1.2816) = 0.90, 1.2816 * sqrt 2 = 1.8124.
LATENT_SHIFT = 1.8124
MALIGNANT_SHARE = 0.25  # of the labelled; far above the real archive's, so that small demos have positives
TBP_MALIGNANT_SHARE = 0.02  # total-body tiles are nearly all benign: a trap for splits that mix image types
MISSING_SHARE = 0.04  # without a diagnosis
INDETERMINATE_SHARE = 0.04

BENIGN, INDETERMINATE, MALIGNANT = 0, 1, 2
DERMOSCOPIC, CLINICAL, TBP = 0, 1, 2
IMAGE_TYPE_NAMES = ("dermoscopic", "clinical: close-up", "TBP tile: close-up")

_FIRST_CREATED_US = int((datetime(2016, 3, 1, tzinfo=UTC) - EPOCH).total_seconds()) * 1_000_000
_STEP_US = 600_000_000  # one image every ten minutes on average


def hashed(seed: int, name: str, owner: np.ndarray) -> np.ndarray:
    """Return (N,) uint64 hashes of (seed, name, owner): splitmix64's finalizer over a mixed counter."""
    salt = (zlib.crc32(name.encode()) << 32) ^ (seed * 0x9E3779B97F4A7C15)
    mixed = owner.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + np.uint64(salt & 0xFFFFFFFFFFFFFFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def uniform(seed: int, name: str, owner: np.ndarray) -> np.ndarray:
    """Return (N,) float64 in [0, 1)."""
    return (hashed(seed, name, owner) >> np.uint64(11)) / 2.0**53


def normal(seed: int, name: str, owner: np.ndarray) -> np.ndarray:
    """Return (N,) standard normal float64 (Box and Muller 1958)."""
    radius = np.sqrt(-2 * np.log1p(-uniform(seed, name + ":radius", owner)))
    return radius * np.cos(2 * np.pi * uniform(seed, name + ":angle", owner))


def permuted(seed: int, name: str, owner: np.ndarray) -> np.ndarray:
    """Map distinct owners below 9,999,999 to distinct numbers below 9,999,999, in no visible order.

    A four-round Feistel network on 24 bits, walked until the result is in range (Black and Rogaway 2002).
    """
    result = np.asarray(owner, np.uint64).copy()
    pending = np.ones(len(result), bool)
    while pending.any():
        left, right = result[pending] >> np.uint64(12), result[pending] & np.uint64(0xFFF)
        for round_number in range(4):
            scrambled = hashed(seed, f"{name}:{round_number}", right) & np.uint64(0xFFF)
            left, right = right, left ^ scrambled
        result[pending] = (left << np.uint64(12)) | right
        pending = result >= MAX_IMAGES
    return result.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Population:
    """Who is who, for N images, each array (N,). An owner is the index of the first image of its kind."""

    lesion: np.ndarray  # whose diagnosis and shape the picture shows
    patient: np.ndarray  # whose age and sex
    lesion_identity: np.ndarray  # whose lesion_id it carries: another one's for a copy under a foreign id
    patient_identity: np.ndarray
    drawn: np.ndarray  # the image of which this one is a copy, else itself
    is_identical: np.ndarray  # bool: exactly the bytes of `drawn`; other copies are cropped and re-encoded
    image_type: np.ndarray  # DERMOSCOPIC, CLINICAL or TBP
    is_malignant: np.ndarray  # bool, also where the record does not say
    label: np.ndarray  # BENIGN, INDETERMINATE, MALIGNANT or MISSING, as the record says
    look: np.ndarray  # index into LOOKS
    latent: np.ndarray  # float64


def populate(seed: int, n_images: int) -> Population:
    """Draw who is who. Each link points to an earlier image, so growth changes nothing that exists."""
    index = np.arange(n_images)
    copy_draw = uniform(seed, "copy", index)
    is_copy = copy_draw < 0.026
    is_foreign = is_copy & (uniform(seed, "foreign copy", index) < 0.5)
    is_follow_up = ~is_copy & (uniform(seed, "follow-up", index) < 0.25)
    is_same_patient = ~is_copy & ~is_follow_up & (uniform(seed, "same patient", index) < 0.45)

    def earlier(name: str, scale: float, chosen: np.ndarray) -> np.ndarray:
        back = 1 + np.floor(-np.log1p(-uniform(seed, name, index)) * scale).astype(np.int64)
        return np.where(chosen & (back <= index), index - back, index)

    copied = earlier("copied from", 30, is_copy)
    lesion_link = np.where(is_copy, copied, earlier("follows", 6, is_follow_up))
    patient_link = np.where(is_same_patient, earlier("shares patient", 12, is_same_patient), lesion_link)
    lesion = _roots(lesion_link)
    patient = _roots(patient_link)
    drawn = _roots(copied)

    type_draw = uniform(seed, "image type", lesion)
    image_type = np.select([type_draw < 0.90, type_draw < 0.95], [DERMOSCOPIC, CLINICAL], TBP)
    malignant_share = np.where(image_type == TBP, TBP_MALIGNANT_SHARE, MALIGNANT_SHARE)
    is_malignant = uniform(seed, "malignant", lesion) < malignant_share
    known_draw = uniform(seed, "diagnosis known", lesion)
    is_missing = known_draw < MISSING_SHARE
    is_indeterminate = ~is_missing & (known_draw < MISSING_SHARE + INDETERMINATE_SHARE)
    shift = np.where(is_indeterminate, LATENT_SHIFT / 2, np.where(is_malignant, LATENT_SHIFT, 0.0))
    return Population(
        lesion=lesion,
        patient=patient,
        lesion_identity=_roots(np.where(is_foreign, index, lesion_link)),
        patient_identity=_roots(np.where(is_foreign, index, patient_link)),
        drawn=drawn,
        is_identical=(drawn != index) & (copy_draw < 0.006),
        image_type=image_type,
        is_malignant=is_malignant & ~is_indeterminate,
        label=np.select(
            [is_missing, is_indeterminate, is_malignant], [MISSING, INDETERMINATE, MALIGNANT], BENIGN
        ),
        look=_pick(uniform(seed, "look", lesion), [share for _, share in LOOKS]),
        latent=shift + normal(seed, "latent", lesion),
    )


def created_instants(seed: int, n_images: int, tie_length: int = 1) -> np.ndarray:
    """Return (N,) int64 microseconds since 1970, ascending; `tie_length` neighbours share one instant."""
    index = np.arange(n_images)
    first_of_tie = index - index % tie_length
    # Jitter stays below the step, so instants strictly ascend from tie to tie.
    jitter = (uniform(seed, "created", first_of_tie) * (_STEP_US - 1)).astype(np.int64)
    return _FIRST_CREATED_US + first_of_tie * _STEP_US + jitter


def build_table(seed: int, population: Population) -> Table:
    """Return all records as columns, keys in the order in which the archive emits them."""
    n_images = len(population.lesion)
    index = np.arange(n_images)

    def unless(name: str, missing_share: float, owner: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return np.where(uniform(seed, name + " given", owner) < missing_share, MISSING, codes)

    patient, lesion, malignant = population.patient, population.lesion, population.is_malignant
    columns: dict[Key, Column] = {}

    def add(group: str, field: str, values: list | tuple, codes: np.ndarray) -> None:
        columns[group, field] = Column(values, np.asarray(codes, np.int32))

    add("record", "isic_id", *_numbered("ISIC_", permuted(seed, "isic", index)))
    add("record", "copyright_license", LICENCES, _pick(uniform(seed, "licence", patient), [0.3, 0.3, 0.4]))
    hospital = _pick(uniform(seed, "hospital", patient), [share for _, share in HOSPITALS])
    add("record", "attribution", [name for name, _ in HOSPITALS], hospital)

    size = sizes_px(seed, population)
    add("acquisition", "pixels_x", *_distinct(size[:, 0]))
    add("acquisition", "pixels_y", *_distinct(size[:, 1]))
    add("acquisition", "image_type", IMAGE_TYPE_NAMES, population.image_type)
    dermoscopic_types = ("contact polarized", "contact non-polarized", "non-contact polarized")
    kind = unless("dermoscopic type", 0.4, index, _pick(uniform(seed, "optics", patient), [0.5, 0.3, 0.2]))
    add(
        "acquisition",
        "dermoscopic_type",
        dermoscopic_types,
        np.where(population.image_type == DERMOSCOPIC, kind, MISSING),
    )
    add("acquisition", "image_manipulation", ["altered"], unless("altered", 0.995, index, 0 * index))

    sex = (uniform(seed, "sex", patient) < 0.48).astype(int)
    add("clinical", "sex", ("male", "female"), unless("sex", 0.03, patient, sex))
    # Weakly tied to the patient's first lesion: patients with a malignant one are some eight years older.
    age = 48 + 17 * normal(seed, "age", patient) + 8 * malignant[patient]
    age_code = np.clip(np.round(age / 5), 0, 17).astype(int)  # the archive publishes five-year steps up to 85
    add("clinical", "age_approx", [5 * step for step in range(18)], unless("age", 0.04, patient, age_code))
    skin = _pick(uniform(seed, "skin", patient), [0.12, 0.38, 0.28, 0.12, 0.07, 0.03])
    add(
        "clinical",
        "fitzpatrick_skin_type",
        ("I", "II", "III", "IV", "V", "VI"),
        unless("skin", 0.7, patient, skin),
    )
    _add_sites(add, seed, population, unless)
    _add_diagnoses(add, seed, population, unless)
    yes_no = (False, True)
    for field, share in (("personal_hx_mm", 0.15), ("family_hx_mm", 0.2)):
        history = (uniform(seed, field, patient) < share).astype(int)
        add("clinical", field, yes_no, unless(field, 0.8, patient, history))

    size_mm = np.exp(1.55 + 0.18 * population.latent + 0.28 * normal(seed, "size", lesion))
    hundredths = np.clip(np.round(size_mm * 100), 50, 99_900).astype(int)
    values, codes = _distinct(hundredths)
    sizes = [f"{value / 100:.2f}" for value in values]
    add("clinical", "clin_size_long_diam_mm", sizes, unless("size", 0.45, lesion, codes))
    day, codes = _distinct(1 + 7 * (index - population.lesion_identity))
    add("clinical", "acquisition_day", day, unless("day", 0.65, lesion, codes))
    tile = unless("tile", 0.1, index, _pick(uniform(seed, "tile", patient), [0.6, 0.4]))
    add(
        "clinical",
        "tbp_tile_type",
        ("3D: white", "3D: XP"),
        np.where(population.image_type == TBP, tile, MISSING),
    )
    for field, prefix, owner, share in (
        ("patient_id", "IP_", population.patient_identity, 0.15),
        ("lesion_id", "IL_", population.lesion_identity, 0.08),
    ):
        identities, codes = _numbered(prefix, permuted(seed, field, owner))
        add("clinical", field, identities, unless(field, share, owner, codes))
    add("record", "public", [True], 0 * index)
    return Table(columns, n_images)


def sizes_px(seed: int, population: Population) -> np.ndarray:
    """Return (N, 2) int widths and heights; a cropped copy has its own size."""
    camera = _pick(uniform(seed, "camera", population.patient), [share for _, share in SIZES_PX])
    size = np.array([size for size, _ in SIZES_PX])[camera]
    size[population.image_type == TBP] = (256, 256)
    size = size[population.drawn]
    size[(population.drawn != np.arange(len(size))) & ~population.is_identical] = (288, 216)
    return size


def _add_sites(add, seed: int, population: Population, unless) -> None:  # type: ignore[no-untyped-def]
    malignant = population.is_malignant
    shares = np.array([[benign, malignant] for _, benign, malignant in SITES])
    draw = uniform(seed, "site", population.lesion)
    site = np.where(malignant, _pick(draw, shares[:, 1]), _pick(draw, shares[:, 0]))
    site = unless("site", 0.06, population.lesion, site)
    paths = [path.split(":") for path, _, _ in SITES]
    special = np.array([0 if path[-1] in ("Palm of hand", "Sole of foot") else MISSING for path in paths])
    add("clinical", "anatom_site_special", ["acral palms or soles"], np.append(special, MISSING)[site])
    _add_levels(add, "anatom_site", paths, site)


def _add_diagnoses(add, seed: int, population: Population, unless) -> None:  # type: ignore[no-untyped-def]
    lesion, label = population.lesion, population.label
    paths = [path for choices in DIAGNOSES.values() for path, _ in choices]
    code_by_path = {path: code for code, path in enumerate(paths)}
    draw = uniform(seed, "diagnosis", lesion)
    diagnosis = np.full(len(lesion), MISSING)
    for (row_label, row_look), choices in DIAGNOSES.items():
        rows = (label == row_label) & (population.look == row_look)
        codes = np.array([code_by_path[path] for path, _ in choices])
        diagnosis[rows] = codes[_pick(draw[rows], [share for _, share in choices])]
    _add_levels(add, "diagnosis", [path.split(":") for path in paths], diagnosis)

    confirm_types = [name for name, _ in BENIGN_CONFIRM_TYPES]
    confirm = _pick(uniform(seed, "confirmed", lesion), [share for _, share in BENIGN_CONFIRM_TYPES])
    confirm = np.where(label == MALIGNANT, confirm_types.index("histopathology"), confirm)
    confirm = np.where(label == MISSING, MISSING, unless("confirmed", 0.08, lesion, confirm))
    add("clinical", "diagnosis_confirm_type", confirm_types, confirm)
    melanocytic = (population.look == 0).astype(int)
    melanocytic = np.where(label == MISSING, MISSING, unless("melanocytic", 0.1, lesion, melanocytic))
    add("clinical", "melanocytic", (False, True), melanocytic)
    biopsy = np.where(confirm == confirm_types.index("histopathology"), 1, 0)
    biopsy = np.where(confirm == MISSING, MISSING, unless("biopsy", 0.3, lesion, biopsy))
    add("clinical", "concomitant_biopsy", (False, True), biopsy)

    is_invasive = np.array(["Melanoma Invasive" in path for path in paths] + [False])[diagnosis]
    hundredths, codes = _distinct(
        np.round(100 * np.exp(-0.3 + 0.7 * normal(seed, "thickness", lesion))).astype(int)
    )
    thickness = [f"{value / 100:.2f}" for value in hundredths]
    codes = np.where(is_invasive, unless("thickness", 0.4, lesion, codes), MISSING)
    add("clinical", "mel_thick_mm", thickness, codes)
    ulcer = unless("ulcer", 0.7, lesion, (uniform(seed, "ulcer", lesion) < 0.2).astype(int))
    add("clinical", "mel_ulcer", (False, True), np.where(is_invasive, ulcer, MISSING))


def _add_levels(add, field: str, paths: list[list[str]], codes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """Add one column per level of a hierarchy."""
    for level in range(max(len(path) for path in paths)):
        names = sorted({path[level] for path in paths if len(path) > level})
        level_code = [names.index(path[level]) if len(path) > level else MISSING for path in paths]
        add("clinical", f"{field}_{level + 1}", names, np.array([*level_code, MISSING])[codes])


def _roots(link: np.ndarray) -> np.ndarray:
    """Follow links to their ends by pointer doubling."""
    while True:
        onward = link[link]
        if np.array_equal(onward, link):
            return link
        link = onward


def _pick(draw: np.ndarray, shares) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Turn uniform draws into choices with these shares, which sum to 1."""
    bounds = np.cumsum(np.asarray(shares, float))
    return np.minimum(np.searchsorted(bounds, draw, side="right"), len(bounds) - 1)


def _distinct(values: np.ndarray) -> tuple[list[int], np.ndarray]:
    distinct, codes = np.unique(values, return_inverse=True)
    return distinct.tolist(), codes


def _numbered(prefix: str, numbers: np.ndarray) -> tuple[list[str], np.ndarray]:
    distinct, codes = _distinct(numbers)
    return [f"{prefix}{number:07d}" for number in distinct], codes
