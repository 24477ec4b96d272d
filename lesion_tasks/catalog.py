"""Everything an experimenter edits: tasks, splits, backbones, variants and promotion gates. Data only.

Standard library only, because DAG files read it at every parse. Each entry checks itself when it is built,
and a repeated name is an error, never an override.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Protocol, TypeVar

DIAGNOSIS_LEVELS = 5


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=_Named)


def by_name(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Index entries by name; a repeated name is an error."""
    index: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in index:
            raise ValueError(f"{type(entry).__name__} {entry.name!r} is declared twice")
        index[entry.name] = entry
    return index


def fingerprint(entry: object) -> str:
    """16 hexadecimal digits that change when any field of a catalogue entry changes."""
    canonical = json.dumps(asdict(entry), sort_keys=True, separators=(",", ":"))  # type: ignore[call-overload]
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


# --- Tasks: what is asked of a model, and on which images -------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Every diagnosis path that starts with `path` (levels 1 to 5) belongs to `label`."""

    label: str
    path: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A question, its classes, the images it may be asked about, and who is held out.

    All splits of a task share its salt and shares, so they share their test sets too.
    """

    name: str
    title: str
    mapping_version: int  # raise it whenever `rules` change: a label is only comparable under one mapping
    classes: tuple[str, ...]  # the order of a model's outputs
    positive: str | None  # for two classes: the one whose probability is reported
    rules: tuple[LabelRule, ...]  # first match wins; no match means the image has no label and is left out
    # Four fifths of the archive are total-body-photography crops with 0.1 % malignant: a model that sees
    # several image types learns to tell cameras apart.
    image_types: tuple[str, ...] = ("dermoscopic",)
    # "instrument only" is a picture of an instrument's own rendering; altered and synthetic are not patients.
    excluded_manipulations: tuple[str, ...] = ("altered", "synthetic")
    requires_sex: bool = True  # the paper drops rows without sex
    salt: str = "2026"
    val_share: float = 0.15
    test_share: float = 0.15

    def __post_init__(self) -> None:
        if unknown := {rule.label for rule in self.rules} - set(self.classes):
            raise ValueError(f"task {self.name!r}: rules name unknown classes {sorted(unknown)}")
        if self.positive is not None and (len(self.classes) != 2 or self.positive != self.classes[1]):
            raise ValueError(f"task {self.name!r}: positive must be the second of two classes")
        if not 0 < self.val_share + self.test_share < 1:
            raise ValueError(
                f"task {self.name!r}: val and test shares sum to "
                f"{self.val_share + self.test_share:.3f}, expected more than 0 and less than 1"
            )

    @property
    def draw(self) -> str:
        """All that subsets depend on: with another salt or other shares, everybody is drawn anew."""
        return f"{self.name}:{self.salt}:{self.val_share:g}:{self.test_share:g}"

    def label_of(self, diagnosis: tuple[str, ...]) -> str | None:
        """Return the class of a diagnosis path, or None where no rule matches."""
        for rule in self.rules:
            if diagnosis[: len(rule.path)] == rule.path:
                return rule.label
        return None


_MELANOMA = ("Malignant", "Malignant melanocytic proliferations (Melanoma)")
_EPIDERMAL = ("Malignant", "Malignant epidermal proliferations")

TASKS = by_name(
    [
        Task(
            name="malignancy",
            title="Benign or malignant",
            mapping_version=1,
            classes=("benign", "malignant"),
            positive="malignant",
            rules=(
                LabelRule(label="benign", path=("Benign",)),
                LabelRule(label="malignant", path=("Malignant",)),
            ),
        ),
        Task(
            name="five_classes",
            title="Benign and four malignant diagnoses",
            mapping_version=1,
            classes=(
                "benign",
                "basal_cell_carcinoma",
                "melanoma",
                "melanoma_metastasis",
                "squamous_cell_carcinoma",
            ),
            positive=None,
            rules=(
                LabelRule(label="benign", path=("Benign",)),
                LabelRule(
                    label="basal_cell_carcinoma",
                    path=(
                        "Malignant",
                        "Malignant adnexal epithelial proliferations - Follicular",
                        "Basal cell carcinoma",
                    ),
                ),
                LabelRule(label="melanoma", path=(*_MELANOMA, "Melanoma Invasive")),
                LabelRule(label="melanoma", path=(*_MELANOMA, "Melanoma in situ")),
                LabelRule(label="melanoma", path=(*_MELANOMA, "Melanoma, NOS")),
                LabelRule(label="melanoma_metastasis", path=(*_MELANOMA, "Melanoma metastasis")),
                LabelRule(
                    label="squamous_cell_carcinoma", path=(*_EPIDERMAL, "Squamous cell carcinoma in situ")
                ),
                LabelRule(
                    label="squamous_cell_carcinoma", path=(*_EPIDERMAL, "Squamous cell carcinoma, Invasive")
                ),
                LabelRule(
                    label="squamous_cell_carcinoma", path=(*_EPIDERMAL, "Squamous cell carcinoma, NOS")
                ),
            ),
        ),
    ]
)


# --- Splits: how train and val are drawn ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Split:
    """A recipe for train, val and test. Test is the task's own: `natural`, and a `balanced` draw from it."""

    name: str
    task: str
    # At most this many train images of each class, by lowest hash, so the set grows without reshuffling.
    # Never more than the rarest class has, so a number that no class reaches means as many as there are.
    # None keeps the natural share of classes. Val is drawn the same way.
    max_per_class: int | None = None
    imputation: str = "none"  # a key of IMPUTATIONS

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"split {self.name!r}: unknown task {self.task!r}")
        if self.imputation not in IMPUTATIONS:
            raise ValueError(f"split {self.name!r}: unknown imputation {self.imputation!r}")
        if self.max_per_class is not None and self.max_per_class < 1:
            raise ValueError(
                f"split {self.name!r}: max_per_class is {self.max_per_class}, expected at least 1"
            )

    @property
    def is_leaking(self) -> bool:
        """Whether test images have a say in what training sees: such a split is for reproducing, not for use."""
        return self.imputation == "paper_global_mean"


# What a manifest says where age or size is missing. Models fill in what they learned from train, with an
# indicator, so the honest manifest leaves missing values missing.
IMPUTATIONS = {
    "none": "Missing values stay missing; a model fills in the mean of its train images and is told where.",
    "paper_global_mean": (
        "The paper's: the mean over all images, test images included, before anything is split. It leaks."
    ),
}


SPLITS = by_name(
    [
        Split(name="malignancy_natural", task="malignancy"),
        Split(name="malignancy_balanced_5000", task="malignancy", max_per_class=5_000),
        Split(name="malignancy_balanced_10000", task="malignancy", max_per_class=10_000),
        Split(name="malignancy_balanced_all", task="malignancy", max_per_class=1_000_000),
        Split(
            name="malignancy_balanced_5000_paper_imputation",
            task="malignancy",
            max_per_class=5_000,
            imputation="paper_global_mean",
        ),
        Split(name="five_classes_natural", task="five_classes"),
        Split(name="five_classes_balanced", task="five_classes", max_per_class=5_000),
    ]
)


# --- Backbones: what Keras Applications calls them --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A Keras Applications model without its top, and what its pixels must look like."""

    name: str
    keras_class: str  # in keras.applications
    # How pixels 0..255 become the input: "symmetric" is x / 127.5 - 1, "caffe" subtracts the ImageNet mean
    # from BGR, "none" is for models that carry their own rescaling.
    preprocessing: str
    weights_stem: str  # in a folder of weights, the file that starts with this belongs to this backbone
    alpha: float | None = None  # width multiplier, MobileNets only


BACKBONES = by_name(
    [
        Backbone(
            name="mobilenet_v2",
            keras_class="MobileNetV2",
            preprocessing="symmetric",
            weights_stem="mobilenet_v2_1.0_",
            alpha=1.0,
        ),
        Backbone(
            name="mobilenet_v2_035",
            keras_class="MobileNetV2",
            preprocessing="symmetric",
            weights_stem="mobilenet_v2_0.35_",
            alpha=0.35,
        ),
    ]
)


# --- Variants: complete recipes for a model ---------------------------------------------------------------------

ARCHITECTURES = ("metadata_logistic", "cnn", "transfer")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One complete training recipe. Defaults are the paper's where it states them."""

    name: str
    title: str
    split: str
    architecture: str  # one of ARCHITECTURES
    reproduces: str | None = None  # the row of the systems table this stands for, such as "S8"
    backbone: str | None = None
    is_pretrained: bool = True  # with a backbone: False starts from random weights on purpose
    is_backbone_frozen: bool = True
    side_px: int | None = 128  # None: the model does not look at pixels
    # Numbers a model may use beside or instead of pixels, in input order; NaN where missing.
    metadata: tuple[str, ...] = ()
    conv_filters: tuple[int, ...] = ()
    dense_units: tuple[int, ...] = (128,)
    dropout_rate: float = 0.0
    is_augmented: bool = False  # flips, rotation up to 18 degrees, zoom up to 10 %
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 50
    patience: int = 10  # epochs without a better validation loss before training stops
    seed: int = 20_260

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"variant {self.name!r}: unknown split {self.split!r}")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"variant {self.name!r}: unknown architecture {self.architecture!r}")
        if (self.architecture == "transfer") != (self.backbone is not None):
            raise ValueError(f"variant {self.name!r}: a backbone belongs to architecture 'transfer' alone")
        if self.backbone is not None and self.backbone not in BACKBONES:
            raise ValueError(f"variant {self.name!r}: unknown backbone {self.backbone!r}")
        if self.side_px is None and not self.metadata:
            raise ValueError(f"variant {self.name!r}: neither pixels nor metadata to look at")

    @property
    def task(self) -> Task:
        """The task of this variant's split."""
        return TASKS[SPLITS[self.split].task]


PAPER_METADATA = ("age_years", "is_male", "size_mm")

VARIANTS = by_name(
    [
        Variant(
            name="smoke",
            title="Two small convolutions at 32 px, to see the path work",
            split="malignancy_balanced_5000",
            architecture="cnn",
            side_px=32,
            conv_filters=(8, 16),
            dense_units=(16,),
            max_epochs=6,
        ),
        Variant(
            name="metadata_logistic",
            title="Logistic regression on age, sex and lesion size",
            reproduces="S1",
            split="malignancy_natural",
            architecture="metadata_logistic",
            side_px=None,
            metadata=PAPER_METADATA,
            dense_units=(),
        ),
        Variant(
            name="cnn_scratch",
            title="Convolutional network from scratch",
            reproduces="S3",
            split="malignancy_balanced_5000",
            architecture="cnn",
            conv_filters=(32, 64, 128),
        ),
        Variant(
            name="mobilenet_v2_frozen_augmented",
            title="MobileNetV2, frozen base, augmented",
            reproduces="S8",
            split="malignancy_balanced_5000",
            architecture="transfer",
            backbone="mobilenet_v2",
            is_augmented=True,
        ),
        Variant(
            name="mobilenet_v2_random_augmented",
            title="The same from random weights: what pretraining has to beat",
            split="malignancy_balanced_5000",
            architecture="transfer",
            backbone="mobilenet_v2",
            is_pretrained=False,
            is_augmented=True,
        ),
    ]
)

# What scheduled retraining trains when LESION_VARIANTS names nothing: variants that need no download.
DEFAULT_VARIANTS = ("smoke", "metadata_logistic", "cnn_scratch")


def sides_of(split: str) -> list[int]:
    """The sides in px at which the variants of a split look at pictures, smallest first."""
    return sorted({v.side_px for v in VARIANTS.values() if v.split == split and v.side_px is not None})


# How a picture that is not square becomes one. "squash" is the paper's: both sides scaled to fit, a 4:3 picture
# loses a quarter of its width. "pad" keeps the shape and adds black. "crop" keeps the shape and cuts the middle out.
ASPECTS = ("squash", "pad", "crop")


# How a picture that is not square becomes one. "squash" is the paper's: both sides scaled to fit, a 4:3 picture
# loses a quarter of its width. "pad" keeps the shape and adds black. "crop" keeps the shape and cuts the middle out.
ASPECTS = ("squash", "pad", "crop")


def fit_name(side_px: int, aspect: str = "squash") -> str:
    """The name of a size and an aspect-ratio policy, such as 128-squash."""
    if aspect not in ASPECTS:
        raise ValueError(f"aspect {aspect!r}: expected one of {', '.join(ASPECTS)}")
    return f"{side_px}-{aspect}"


# --- Promotion: floors and margins, each with its reason --------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a candidate must show on one measure of the natural test set."""

    measure: str
    floor: float
    # The largest loss against the champion that is still acceptable; for the leading measure, a gain is needed.
    margin: float
    is_leading: bool = False
    reason: str


GATES = {
    "malignancy": (
        Gate(
            measure="auc",
            floor=0.70,
            margin=0.0,
            is_leading=True,
            reason="Below 0.70 a model says little more than age and sex do.",
        ),
        Gate(
            measure="sensitivity_at_90_specificity",
            floor=0.20,
            margin=0.05,
            reason="Random guessing reaches 0.10; a better ranking elsewhere must not be paid for here.",
        ),
    ),
    "five_classes": (
        Gate(
            measure="macro_auc",
            floor=0.70,
            margin=0.0,
            is_leading=True,
            reason="One-vs-rest, the multiclass sibling of the binary floor.",
        ),
        Gate(
            measure="balanced_accuracy",
            floor=0.25,
            margin=0.05,
            reason="Guessing one class reaches 0.20 of five.",
        ),
    ),
}

# The retrain policy of the schedule: a variant is trained again when the manifest of its split has this share
# of new or changed images since its last training. By hand, anything can be trained at any time.
RETRAIN_SHARE = 0.01
