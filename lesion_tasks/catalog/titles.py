"""Names of measures, columns and splits -> how people read them. Wherever a person reads one, it is from here.

A name stays as it is where a person has to type it, such as in a command.
"""

from lesion_tasks.catalog.printed_numbers import number, span
from lesion_tasks.catalog.split_recipes import SPLITS, Split
from lesion_tasks.catalog.tasks import TASKS

_LABELS = {
    "auc": "AUC",
    "macro_auc": "Macro AUC",
    "partial_auc_above_80_sensitivity": "Partial AUC above 80 % sensitivity",
    "auc_above_80_sensitivity": "AUC above 80 % sensitivity",
    "sensitivity_at_90_specificity": "Sensitivity at 90 % specificity",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "specificity_at_90_sensitivity": "Specificity at 90 % sensitivity",
    "specificity_at_95_sensitivity": "Specificity at 95 % sensitivity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "brier_score": "Brier score",
    "brier_skill": "Brier skill",
    "age_years": "Age, years",
    "anatom_site": "Site",
    "fitzpatrick_skin_type": "Skin type (Fitzpatrick)",
    "size_mm": "Lesion size, mm",
    "image_type": "Image type",
    "diagnosis_confirm_type": "Diagnosis confirmed by",
    "is_male": "Sex",
    "size": "Lesion size",
    "attribution": "Institution",
    "copyright_license": "Licence",
    "pixels": "Picture size",
    "missing": "Missing values",
    "sexes": "Sex",
    "n_new": "New images",
    "n_relabelled": "Label changed",
    "n_lost": "Removed",
    "n_moved": "Moved to another subset",
    "since_manifest": "Since manifest",
    "side_px": "Side of the picture, px",
    "aspect": "Made square by",
    "conv_filters": "Filters of each convolution",
    "dense_units": "Units of each dense layer",
    "fusion": "Metadata joined by",
    "unfrozen_from": "Trained from layer",
    "max_epochs": "Epochs, at most",
    "patience": "Epochs without gain, at most",
    "n_folds": "Folds",
    "is_flip_averaged": "Averaged over mirror images",
    "is_class_weighted": "Classes weighted the same",
    "is_backbone_frozen": "Backbone frozen",
    "reproduces": "Reproduces system",
    "adjusted": "Changed for this training",
}
# What reads differently inside a sentence: `where age in years is 40 to 54`.
_INSIDE = {
    "age_years": "age in years",
    "size_mm": "lesion size in mm",
    "fitzpatrick_skin_type": "Fitzpatrick skin type",
    "diagnosis_confirm_type": "confirmation of the diagnosis",
}
# First words that keep their capital in the middle of a sentence: abbreviations and names of people.
_CAPITALIZED = ("AUC", "PPV", "NPV", "Brier")


def label(name: str) -> str:
    """The name of a measure or a column, or another key of a document, as a person would write it."""
    if name in _LABELS:
        return _LABELS[name]
    for short in ("ppv", "npv"):
        prefix = f"{short}_at_prevalence_"
        if name.startswith(prefix):
            return f"{short.upper()} where {_percent_of(name.removeprefix(prefix))} are positive"
    if name.startswith("recall_"):
        return f"Recall of {name.removeprefix('recall_').replace('_', ' ')}"
    words = name.removeprefix("is_").replace("_", " ").replace("auc", "AUC")
    return words[:1].upper() + words[1:]


def label_inside(name: str) -> str:
    """The same in the middle of a sentence: `sensitivity at 90 % specificity`, `AUC`."""
    words = _INSIDE.get(name, label(name))
    return words if words.startswith(_CAPITALIZED) else words[:1].lower() + words[1:]


def split_title(name: str) -> str:
    """How images are drawn in a split of the catalogue; of one that is gone, its name in words."""
    split = SPLITS.get(name)
    return label(name) if split is None else f"{TASKS[split.task].title}, {_drawn(split)}"


def _drawn(split: Split) -> str:
    if split.max_per_class is None:
        words = "classes as they occur"
    elif split.max_per_class >= 1_000_000:
        words = "as many of each class as the rarest has"
    else:
        words = f"at most {split.max_per_class:,} of each class"
    return f"{words}, missing values filled in as the paper did" if split.is_leaking else words


def _percent_of(text: str) -> str:
    try:
        return f"{float(text) * 100:g} %"
    except ValueError:
        return text


def size_of_change(value: float, low: float, high: float, *, interval: str = "95 % interval") -> str:
    """How much a figure fell or rose, and its interval, counted in the direction of the change.

    A fall by 0.136 with the interval 0.032 to 0.231; with a true minus sign where chance may have turned it round.
    """
    if value < 0:
        value, low, high = -value, -high, -low
    return f"{number(value)} ({interval} {span(low, high)})"
