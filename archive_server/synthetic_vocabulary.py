"""The contents of the synthetic archive: looks, diagnoses, sites, hospitals, sizes, each with its share. Data only.

Shares of one table sum to 1. Diagnosis and site paths are the archive's own spelling.
"""

from lesion_tasks.catalog.synthetic_pictures import MARK

# The same shares for benign and malignant: the look alone says nothing about malignancy.
LOOKS = (("pigmented", 0.60), ("pink", 0.22), ("keratotic", 0.18))

_NEVUS = "Benign:Benign melanocytic proliferations:Nevus"
_MELANOMA = "Malignant:Malignant melanocytic proliferations (Melanoma)"
_BASAL = "Malignant:Malignant adnexal epithelial proliferations - Follicular:Basal cell carcinoma"
_SQUAMOUS = "Malignant:Malignant epidermal proliferations"
_EPIDERMAL = "Benign:Benign epidermal proliferations"
_ATYPICAL = "Indeterminate:Indeterminate melanocytic proliferations"
_ACTINIC = "Indeterminate:Indeterminate epidermal proliferations:Solar or actinic keratosis"

# (label, look) -> paths; labels 0 benign, 1 indeterminate, 2 malignant, looks in the order of LOOKS.
DIAGNOSES: dict[tuple[int, int], tuple[tuple[str, float], ...]] = {
    (0, 0): (
        (_NEVUS, 0.68),
        (f"{_NEVUS}:Nevus, Atypical, Dysplastic, or Clark", 0.20),
        (f"{_NEVUS}:Blue nevus", 0.06),
        ("Benign", 0.06),
    ),
    (0, 1): (
        ("Benign:Benign soft tissue proliferations - Vascular:Hemangioma", 0.45),
        ("Benign:Benign soft tissue proliferations - Fibro-histiocytic:Dermatofibroma", 0.55),
    ),
    (0, 2): (
        (f"{_EPIDERMAL}:Seborrheic keratosis", 0.45),
        (f"{_EPIDERMAL}:Pigmented benign keratosis", 0.20),
        (f"{_EPIDERMAL}:Solar lentigo", 0.20),
        (f"{_EPIDERMAL}:Lichen planus like keratosis", 0.15),
    ),
    (1, 0): (
        (_ATYPICAL, 0.30),
        (f"{_ATYPICAL}:Atypical melanocytic neoplasm", 0.40),
        (f"{_ATYPICAL}:Atypical intraepithelial melanocytic proliferation", 0.30),
    ),
    (1, 1): ((_ACTINIC, 1.0),),
    (1, 2): ((_ACTINIC, 1.0),),
    (2, 0): (
        (f"{_MELANOMA}:Melanoma Invasive", 0.20),
        (f"{_MELANOMA}:Melanoma Invasive:Melanoma Invasive, Superficial spreading", 0.18),
        (f"{_MELANOMA}:Melanoma Invasive:Melanoma Invasive, Nodular", 0.06),
        (f"{_MELANOMA}:Melanoma in situ", 0.18),
        (f"{_MELANOMA}:Melanoma in situ:Melanoma in situ, Lentigo maligna type", 0.08),
        (f"{_MELANOMA}:Melanoma, NOS", 0.20),
        (f"{_MELANOMA}:Melanoma metastasis", 0.06),
        (_MELANOMA, 0.04),
    ),
    (2, 1): (
        (_BASAL, 0.40),
        (f"{_BASAL}:Basal cell carcinoma, Nodular", 0.35),
        (f"{_BASAL}:Basal cell carcinoma, Superficial", 0.25),
    ),
    (2, 2): (
        (f"{_SQUAMOUS}:Squamous cell carcinoma in situ", 0.25),
        (
            f"{_SQUAMOUS}:Squamous cell carcinoma in situ:Squamous cell carcinoma in situ, Bowens disease",
            0.20,
        ),
        (f"{_SQUAMOUS}:Squamous cell carcinoma, Invasive", 0.30),
        (f"{_SQUAMOUS}:Squamous cell carcinoma, NOS", 0.25),
    ),
}

# path, share among benign, share among malignant: sun-exposed sites lean slightly to malignant.
SITES = (
    ("Trunk", 0.08, 0.06),
    ("Trunk:Anterior trunk", 0.10, 0.08),
    ("Trunk:Anterior trunk:Anterior chest", 0.05, 0.05),
    ("Trunk:Anterior trunk:Anterior abdomen", 0.08, 0.04),
    ("Trunk:Lateral trunk", 0.04, 0.03),
    ("Trunk:Posterior trunk", 0.10, 0.10),
    ("Trunk:Posterior trunk:Upper back", 0.08, 0.10),
    ("Trunk:Posterior trunk:Lower back", 0.06, 0.04),
    ("Lower extremity", 0.06, 0.05),
    ("Lower extremity:Thigh", 0.06, 0.05),
    ("Lower extremity:Thigh:Anterior thigh", 0.03, 0.02),
    ("Lower extremity:Lower leg:Calf", 0.05, 0.05),
    ("Lower extremity:Foot:Sole of foot", 0.03, 0.02),
    ("Upper extremity", 0.05, 0.05),
    ("Upper extremity:Upper arm", 0.04, 0.05),
    ("Upper extremity:Forearm:Dorsal forearm", 0.03, 0.05),
    ("Upper extremity:Hand:Palm of hand", 0.01, 0.01),
    ("Head and neck", 0.02, 0.05),
    ("Head and neck:Head:Face", 0.02, 0.07),
    ("Head and neck:Head:Scalp", 0.005, 0.02),
    ("Head and neck:Neck", 0.005, 0.01),
)

BENIGN_CONFIRM_TYPES = (
    ("histopathology", 0.45),
    ("serial imaging showing no change", 0.20),
    ("single image expert consensus", 0.25),
    ("single contributor clinical assessment", 0.08),
    ("confocal microscopy with consensus dermoscopy", 0.02),
)

# Invented. One holds markup, because an attribution is text from outside and must be escaped where it is shown.
HOSPITALS = (
    (f"Northshore Dermatology, Example University {MARK}", 0.35),
    (f"Klinik für Hautkrankheiten Musterstadt {MARK}", 0.25),
    (f"Hospital Clínic d'Exemple {MARK}", 0.20),
    (f"Dr. Placeholder <b>& Partners</b> {MARK}", 0.12),
    (f"Anonymous {MARK}", 0.08),
)

SIZES_PX = (((320, 240), 0.55), ((400, 300), 0.20), ((360, 270), 0.15), ((240, 320), 0.10))
