"""Everything an experimenter edits: tasks, splits, backbones, variants and promotion gates. Data only.

Standard library only, because DAG files read it at every parse. Each entry checks itself when it is built,
and a repeated name is an error, never an override.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from lesion_tasks.backbones import BACKBONES

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


# --- Backbones: what Keras Applications calls them, in `lesion_tasks.backbones` ------------------------------------

# --- Variants: complete recipes for a model ---------------------------------------------------------------------

ARCHITECTURES = ("metadata_logistic", "metadata_mlp", "cnn", "mobilenet_v3_eca", "transfer")
FUSIONS = ("concatenate", "gated", "film")  # how metadata join pixel features
# How a picture that is not square becomes one. "squash" is the paper's: both sides scaled to fit, a 4:3 picture
# loses a quarter of its width. "pad" keeps the shape and adds black. "crop" keeps the shape and cuts the middle out.
ASPECTS = ("squash", "pad", "crop")
LOSSES = ("cross_entropy", "focal", "bias")
# Which train images an epoch sees. "resampled" brings every class to the mean size of a class: over-sampling the
# rare, under-sampling the common. "rotated_copies" adds rotated copies (10 degrees at most, probability 0.7)
# until every class is as large as the largest; "rotated_copies_leaky" adds them before val is drawn at random, so
# that one picture stands on both sides, as it was published.
SAMPLINGS = (
    "as_drawn", "undersampled", "oversampled", "resampled", "rotated_copies", "rotated_copies_leaky",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A second stage after the head has learned on the frozen backbone; batch-norm statistics stay as they are."""

    learning_rate: float = 1e-5
    max_epochs: int = 20
    patience: int = 4
    unfrozen_from: str = ""  # layers from the first whose name starts so; "" for the whole backbone


@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """The values that a search may give one number of a variant."""

    field: str  # of Variant
    low: float
    high: float
    is_log: bool = False  # even steps of the logarithm
    is_whole: bool = False  # whole numbers only

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.is_log and self.low <= 0):
            raise ValueError(f"search of {self.field!r}: {self.low} to {self.high} is no range")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a Bayesian search may change in a variant, and how long each of its trials may learn."""

    ranges: tuple[SearchRange, ...]
    max_epochs: int = 8  # of each trial: enough to tell good parameters from bad ones


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One complete training recipe. Defaults are the paper's where it states them."""

    name: str
    title: str
    split: str
    architecture: str  # one of ARCHITECTURES
    reproduces: str | None = None  # the row of the systems table this stands for, such as "S8"
    is_promotable: bool = True  # False: reproduced for comparison, never champion
    backbone: str | None = None
    is_pretrained: bool = True  # with a backbone: False starts from random weights on purpose
    is_backbone_frozen: bool = True
    # Of a frozen backbone: layers from the first whose name starts so are trained all the same.
    unfrozen_from: str | None = None
    fine_tuning: FineTuning | None = None
    side_px: int | None = 128  # None: the model does not look at pixels
    aspect: str = "squash"  # one of ASPECTS
    is_hair_removed: bool = False
    is_segmented: bool = False  # outside the lesion, as a U-Net sees it, there is only the mean colour
    # Numbers a model may use beside or instead of pixels, in input order; NaN where missing.
    metadata: tuple[str, ...] = ()
    fusion: str = "concatenate"  # one of FUSIONS
    conv_filters: tuple[int, ...] = ()
    feature_dropout_rate: float = 0.0  # before the first dense layer
    dense_units: tuple[int, ...] = (128,)
    dropout_rate: float = 0.0  # after each dense layer
    sampling: str = "as_drawn"  # one of SAMPLINGS
    is_augmented: bool = False  # flips, rotation up to 18 degrees, zoom up to 10 %
    is_augmented_strongly: bool = False  # with is_augmented: any rotation, shifts, brightness, contrast
    loss: str = "cross_entropy"  # one of LOSSES
    # Of bias loss: how far an example whose feature maps vary counts more. 0.3 is Abrahamyan et al. 2021, section 4.
    bias_alpha: float = 0.3
    dilation_rate: int = 2  # of the last stage of mobilenet_v3_eca
    is_class_weighted: bool = False  # every class counts the same, however many images it has
    is_flip_averaged: bool = False  # serve the mean over the picture and its mirror images
    is_calibrated: bool = False  # scale the logit on validation rows of natural prevalence
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 50
    patience: int = 10  # epochs without a better validation loss before training stops
    seed: int = 20_260
    search: SearchSpace | None = None  # for `lesion tune` and trainings that are asked for trials
    search_id: str | None = None  # the search that chose some of these fields
    adjusted: tuple[str, ...] = ()  # fields that were changed for one training alone, such as a smoke run

    def __post_init__(self) -> None:
        for field, allowed in (
            ("split", SPLITS), ("architecture", ARCHITECTURES), ("fusion", FUSIONS), ("loss", LOSSES),
            ("sampling", SAMPLINGS), ("backbone", (None, *BACKBONES)), ("aspect", ASPECTS),
        ):  # fmt: skip
            if getattr(self, field) not in allowed:
                raise ValueError(f"variant {self.name!r}: unknown {field} {getattr(self, field)!r}")
        if (self.architecture == "transfer") != (self.backbone is not None):
            raise ValueError(f"variant {self.name!r}: a backbone belongs to architecture 'transfer' alone")
        if self.side_px is None and not self.metadata:
            raise ValueError(f"variant {self.name!r}: neither pixels nor metadata to look at")
        if self.fine_tuning is not None and not (self.backbone and self.is_backbone_frozen):
            raise ValueError(f"variant {self.name!r}: fine-tuning follows a stage with a frozen backbone")
        if self.loss == "bias" and self.architecture not in {"transfer", "mobilenet_v3_eca"}:
            raise ValueError(f"variant {self.name!r}: bias loss needs pooled feature maps")
        if unknown := {r.field for r in (self.search.ranges if self.search else ())} - set(asdict(self)):
            raise ValueError(f"variant {self.name!r}: a search of unknown fields {sorted(unknown)}")
        if self.sampling == "rotated_copies_leaky" and self.is_promotable:
            raise ValueError(f"variant {self.name!r}: trained with a leak, it must not be promotable")

    @property
    def task(self) -> Task:
        """The task of this variant's split."""
        return TASKS[SPLITS[self.split].task]

    @property
    def fit(self) -> str | None:
        """The size and shape in which it looks at pictures, such as 128-squash; None without pixels."""
        return None if self.side_px is None else fit_name(self.side_px, self.aspect)

    @property
    def has_frozen_features(self) -> bool:
        """Whether its first stage sees each picture as the same numbers in every epoch.

        A variant that is fine-tuned learns its head on pictures as they are and is augmented afterwards.
        """
        return (
            self.architecture == "transfer"
            and self.is_backbone_frozen
            and self.unfrozen_from is None
            and (not self.is_augmented or self.fine_tuning is not None)
            and not self.sampling.startswith("rotated_copies")
            and self.loss != "bias"
        )


PAPER_METADATA = ("age_years", "is_male", "size_mm")


def _frozen(name: str, backbone: str, reproduces: str, title: str) -> Variant:
    """A frozen pretrained backbone on the paper's balanced data, without augmentation: features are computed once."""
    return Variant(
        name=name,
        title=title,
        reproduces=reproduces,
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone=backbone,
    )


_PAPER = [
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
        name="metadata_mlp",
        title="Two dense layers on age, sex and lesion size",
        reproduces="S2",
        split="malignancy_natural",
        architecture="metadata_mlp",
        side_px=None,
        metadata=PAPER_METADATA,
        dense_units=(64, 32),
        dropout_rate=0.3,
    ),
    Variant(
        name="cnn_scratch",
        title="Convolutional network from scratch",
        reproduces="S3",
        split="malignancy_balanced_5000",
        architecture="cnn",
        conv_filters=(32, 64, 128),
    ),
    _frozen(
        "mobilenet_v2_frozen", "mobilenet_v2", "S4", "MobileNetV2, frozen base; read on the balanced test"
    ),
    Variant(
        name="mobilenet_v2_frozen_10000",
        title="The same on twice the data",
        reproduces="S5",
        split="malignancy_balanced_10000",
        architecture="transfer",
        backbone="mobilenet_v2",
    ),
    _frozen("mobilenet_v2_frozen_natural", "mobilenet_v2", "S6", "The same; read on the natural test"),
    Variant(
        name="mobilenet_v2_unfrozen_augmented",
        title="MobileNetV2, all layers trained, augmented",
        reproduces="S7",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="mobilenet_v2",
        is_backbone_frozen=False,
        is_augmented=True,
    ),
    Variant(
        name="mobilenet_v2_frozen_augmented",
        title="MobileNetV2, frozen base, augmented",
        reproduces="S8",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="mobilenet_v2",
        is_augmented=True,
        dropout_rate=0.5,
    ),
    Variant(
        name="resnet50_top_tuned",
        title="ResNet50, its last stage trained",
        reproduces="S9",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="resnet50",
        unfrozen_from="conv5_",
    ),
    Variant(
        name="mobilenet_v2_metadata",
        title="MobileNetV2 and metadata, joined after pooling",
        reproduces="S10",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="mobilenet_v2",
        metadata=PAPER_METADATA,
    ),
    Variant(
        name="five_classes_frozen",
        title="MobileNetV2, frozen base, five classes",
        reproduces="S11",
        split="five_classes_natural",
        architecture="transfer",
        backbone="mobilenet_v2",
    ),
    Variant(
        name="five_classes_unfrozen",
        title="MobileNetV2, all layers trained, five classes",
        reproduces="S12",
        split="five_classes_natural",
        architecture="transfer",
        backbone="mobilenet_v2",
        is_backbone_frozen=False,
    ),
]


def _rotated_copies(name: str, title: str, sampling: str, *, is_promotable: bool) -> Variant:
    return Variant(
        name=name,
        title=title,
        reproduces="R1",
        is_promotable=is_promotable,
        split="malignancy_natural",
        architecture="cnn",
        side_px=180,
        conv_filters=(32, 64, 128),
        feature_dropout_rate=0.5,
        dropout_rate=0.25,
        sampling=sampling,
        max_epochs=20,
        patience=20,
    )


def _deepskin(backbone: str, sampling: str) -> Variant:
    return Variant(
        name=f"deepskin_{backbone}",
        title=f"{BACKBONES[backbone].keras_class} on the segmented lesion, hair removed, {sampling}",
        reproduces="R3",
        split="malignancy_natural",
        architecture="transfer",
        backbone=backbone,
        is_hair_removed=True,
        is_segmented=True,
        sampling=sampling,
    )


_RELATED = [
    _rotated_copies(
        "rotated_copies_cnn_leaky",
        "Rotated copies added before the split, as published: leaks, never promoted",
        "rotated_copies_leaky",
        is_promotable=False,
    ),
    _rotated_copies(
        "rotated_copies_cnn",
        "The same, its copies made of train images alone",
        "rotated_copies",
        is_promotable=True,
    ),
    Variant(
        name="unet_mobilenet_v3_eca",
        title="U-Net, then MobileNetV3 with channel attention and dilation, bias loss",
        reproduces="R2",
        split="malignancy_natural",
        architecture="mobilenet_v3_eca",
        is_segmented=True,
        loss="bias",
        sampling="resampled",
        dropout_rate=0.2,
        search=SearchSpace(
            ranges=(
                SearchRange(field="learning_rate", low=1e-4, high=1e-2, is_log=True),
                SearchRange(field="dropout_rate", low=0.0, high=0.5),
                SearchRange(field="bias_alpha", low=0.1, high=0.6),
                SearchRange(field="dilation_rate", low=1, high=3, is_whole=True),
            )
        ),
    ),
    _deepskin("densenet169", "resampled"),
    _deepskin("resnet50", "undersampled"),
    _deepskin("vgg16", "oversampled"),
    *(
        _frozen(f"{name}_frozen", name, "R4", f"{BACKBONES[name].keras_class}, frozen base")
        for name in ("resnet50", "resnet101", "resnet152", "resnet50_v2", "resnet101_v2", "resnet152_v2")
    ),
    *(
        _frozen(f"{name}_frozen", name, "R5", f"{BACKBONES[name].keras_class}, frozen base")
        for name in ("mobilenet", "mobilenet_v3_small", "mobilenet_v3_large")
    ),
]

_CONTROLS = [
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
        name="mobilenet_v2_random_augmented",
        title="S8 from random weights: what pretraining has to beat",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="mobilenet_v2",
        is_pretrained=False,
        is_augmented=True,
        dropout_rate=0.5,
    ),
]


def _modern(name: str, title: str, backbone: str, **changed: Any) -> Variant:
    """What a practitioner would try first at these sizes: all natural data, a warm head, then a slow second stage."""
    recipe: dict[str, Any] = {
        "split": "malignancy_natural",
        "architecture": "transfer",
        "dropout_rate": 0.3,
        "is_class_weighted": True,
        "is_augmented": True,
        "is_augmented_strongly": True,
        "is_flip_averaged": True,
        "is_calibrated": True,
        "max_epochs": 30,
        "patience": 5,
        "fine_tuning": FineTuning(),
    }
    return Variant(name=name, title=title, backbone=backbone, **(recipe | changed))


_MODERN = [
    _modern("mobilenet_v2_035_tuned", "Small MobileNetV2, two stages", "mobilenet_v2_035"),
    _modern("mobilenet_v2_tuned", "MobileNetV2, two stages", "mobilenet_v2"),
    _modern(
        "mobilenet_v2_tuned_focal",
        "MobileNetV2, two stages, focal loss for class weights",
        "mobilenet_v2",
        loss="focal",
        is_class_weighted=False,
    ),
    _modern(
        "mobilenet_v2_tuned_film",
        "MobileNetV2, two stages, metadata scale and shift features",
        "mobilenet_v2",
        metadata=PAPER_METADATA,
        fusion="film",
    ),
    _modern(
        "mobilenet_v2_tuned_gated",
        "MobileNetV2, two stages, metadata gate features",
        "mobilenet_v2",
        metadata=PAPER_METADATA,
        fusion="gated",
    ),
    _modern("efficientnet_v2_b0_tuned", "EfficientNetV2-B0, two stages", "efficientnet_v2_b0"),
    _modern("convnext_tiny_tuned", "ConvNeXt-Tiny, two stages", "convnext_tiny"),
]

VARIANTS = by_name([*_CONTROLS, *_PAPER, *_RELATED, *_MODERN])

# What scheduled retraining trains when LESION_VARIANTS names nothing: variants that need no download.
DEFAULT_VARIANTS = ("smoke", "metadata_logistic")


def squares_of(split: str, variants: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The side_px and aspect in which these variants (default: all) of a split look at pictures, smallest first."""
    asked = VARIANTS.values() if variants is None else [VARIANTS[name] for name in variants]
    wanted = {(v.side_px, v.aspect) for v in asked if v.split == split and v.side_px is not None}
    return [{"side_px": side_px, "aspect": aspect} for side_px, aspect in sorted(wanted)]


def fit_name(side_px: int, aspect: str = "squash") -> str:
    """The name of a size and an aspect-ratio policy, such as 128-squash."""
    if aspect not in ASPECTS:
        raise ValueError(f"aspect {aspect!r}: expected one of {', '.join(ASPECTS)}")
    return f"{side_px}-{aspect}"


def square_of(recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """The side_px and aspect in which a stored recipe looks at pictures; None without pixels."""
    if recipe["side_px"] is None:
        return None
    # Recipes from before the aspect was a choice do not name it: their pictures were squashed.
    return {"side_px": recipe["side_px"], "aspect": recipe.get("aspect", "squash")}


# The retrain policy of the schedule: a variant is trained again when the manifest of its split has this share
# of new or changed images since its last training. By hand, anything can be trained at any time.
RETRAIN_SHARE = 0.01
