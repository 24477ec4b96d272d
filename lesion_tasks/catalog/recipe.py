"""What a variant is made of: every field of a complete recipe for a model, and what it may hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from lesion_tasks.catalog.backbones import BACKBONES, STORED_BACKBONES, find_backbone
from lesion_tasks.catalog.entries import OneOf, refuse, unknown, unknown_values
from lesion_tasks.catalog.input_size import ASPECTS, InputSize
from lesion_tasks.catalog.learning import BOUNDS as BOUNDS_OF_LEARNING
from lesion_tasks.catalog.learning import OF_STEPS, Learning
from lesion_tasks.catalog.split_recipes import SPLITS
from lesion_tasks.catalog.tasks import TASKS, Task

ARCHITECTURES = ("metadata_logistic", "metadata_mlp", "cnn", "mobilenet_v3_eca", "transfer", "ensemble")
# All that an ensemble says of itself: the rest is said by its members.
OF_ENSEMBLES = (
    "name", "title", "split", "architecture", "members", "reproduces", "is_promotable", "side_px", "aspect", "metadata",
    "is_calibrated", "adjusted",
)  # fmt: skip
MAX_FOLDS = 20
METADATA = ("age_years", "is_male", "size_mm")
FUSIONS = ("concatenate", "gated", "film")  # how metadata join pixel features
LOSSES = ("cross_entropy", "focal", "bias")
# Which train images an epoch sees. "resampled" brings every class to the mean class size: over-sampling the rare,
# under-sampling the common. "rotated_copies" adds rotated copies (10 degrees at most, probability 0.7) until every
# class is as large as the largest; "rotated_copies_leaky" adds them before val is drawn at random, so that one picture
# is on both sides, as it was published.
SAMPLINGS = (
    "as_drawn", "undersampled", "oversampled", "resampled", "rotated_copies", "rotated_copies_leaky",
)  # fmt: skip


# What belongs together, by what it is about, as files of one's own and words about a variant have it. Variant itself is
# flat, and so are stored recipes: their digests stay.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "looks_at": ("side_px", "aspect", "is_hair_removed", "is_segmented", "metadata"),
    "network": (
        "architecture", "members", "backbone", "is_pretrained", "is_backbone_frozen", "unfrozen_from", "fusion",
        "conv_filters", "feature_dropout_rate", "dense_units", "dropout_rate", "dilation_rate",
    ),
    "learns": (
        "sampling", "is_augmented", "is_augmented_strongly", "loss", "bias_alpha", "is_class_weighted", "optimizer",
        "learning_rate", "batch_size", "max_epochs", "patience", "fine_tuning", "learning", "n_folds", "seed", "search",
    ),
    "serves": ("is_flip_averaged", "is_calibrated", "is_promotable"),
}  # fmt: skip


# Numbers with which a training means something: field, lowest and highest.
_BOUNDS = (
    ("learning_rate", 1e-9, 1e38), ("max_epochs", 1, 100_000), ("patience", 1, 100_000), ("batch_size", 1, 1_000_000),
    ("side_px", 8, 4_096), ("feature_dropout_rate", 0, 0.99), ("dropout_rate", 0, 0.99), ("seed", 0, 2**31 - 1),
    ("dilation_rate", 1, 64), ("bias_alpha", 0, 10),
)  # fmt: skip


def out_of_bounds(entry: object) -> list[str]:
    """What is wrong with the numbers of a variant or of its second stage, in words."""
    given = ((name, getattr(entry, name, None), low, high) for name, low, high in _BOUNDS)
    return [
        f"{name} is {value}, expected {low:g} to {high:g}"
        for name, value, low, high in given
        if value is not None and not low <= value <= high
    ]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A second stage after the head has learned on the frozen backbone; batch-norm statistics do not change."""

    learning_rate: float = 1e-5
    max_epochs: int = 20
    patience: int = 4
    unfrozen_from: str = ""  # layers from the first whose name starts with this; "" for the whole backbone

    def __post_init__(self) -> None:
        refuse("fine_tuning", out_of_bounds(self))


@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """The values that a search may give one number of a variant."""

    field: str  # of Variant, or of a part of it, such as "learning.weight_decay"
    low: float
    high: float
    is_log: bool = False  # even steps of the logarithm
    is_whole: bool = False  # whole numbers only

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.is_log and self.low <= 0):
            raise ValueError(f"search of {self.field!r}: {self.low} to {self.high} is not a range")


MAX_TRIALS = 1_000  # of one search


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
    split: Annotated[str, OneOf("split", SPLITS)]
    architecture: Annotated[str, OneOf("architecture", ARCHITECTURES)]
    reproduces: str | None = None  # the row of the systems table this stands for, such as "S8"
    is_promotable: bool = True  # False: reproduced for comparison, never champion
    backbone: str | None = (
        None  # a name in catalog/backbones.py or of an own entry, or that of a `.keras` file among the weights
    )
    is_pretrained: bool = True  # with a backbone: False deliberately starts from random weights
    is_backbone_frozen: bool = True
    # Of a frozen backbone: layers from the first whose name starts with this are trained nevertheless.
    unfrozen_from: str | None = None
    fine_tuning: FineTuning | None = None
    side_px: int | None = 128  # None: the model does not use pixels
    aspect: Annotated[str, OneOf("aspect", ASPECTS)] = "squash"
    is_hair_removed: bool = False
    is_segmented: bool = False  # outside the lesion, as outlined by a U-Net, there is only the mean colour
    # Numbers a model may use beside or instead of pixels, in input order; NaN where missing.
    metadata: tuple[Annotated[str, OneOf("metadata", METADATA)], ...] = ()
    fusion: Annotated[str, OneOf("fusion", FUSIONS)] = "concatenate"
    conv_filters: tuple[int, ...] = ()
    feature_dropout_rate: float = 0.0  # before the first dense layer
    dense_units: tuple[int, ...] = (128,)
    dropout_rate: float = 0.0  # after each dense layer
    sampling: Annotated[str, OneOf("sampling", SAMPLINGS)] = "as_drawn"
    is_augmented: bool = False  # flips, rotation up to 18 degrees, zoom up to 10 %
    is_augmented_strongly: bool = False  # with is_augmented: any rotation, shifts, brightness, contrast
    loss: Annotated[str, OneOf("loss", LOSSES)] = "cross_entropy"
    # For bias loss: how much more an example with varied feature maps counts. 0.3 is Abrahamyan et al. 2021, section 4.
    bias_alpha: float = 0.3
    dilation_rate: int = 2  # of the last stage of mobilenet_v3_eca
    is_class_weighted: bool = False  # every class counts the same, however many images it has
    is_flip_averaged: bool = False  # serve the mean over the picture and its mirror images
    is_calibrated: bool = True  # scale and shift the logit on validation rows of natural prevalence
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 50
    patience: int = 10  # epochs without a better validation loss before training stops
    learning: Learning | None = None  # how the last stage learns, beyond an optimizer at one rate
    # Trained so many times, each time without another part of the groups of train and val, which stops it. The mean of
    # the logits is served, and the scores by models that did not see an image are kept. 0: trained once.
    n_folds: int = 0
    members: tuple[str, ...] = ()  # of an ensemble: the variants whose logits it averages
    seed: int = 20_260
    search: SearchSpace | None = None  # for `lesion tune` and trainings that are given a number of trials
    search_id: str | None = None  # the search that chose some of these fields
    adjusted: tuple[str, ...] = ()  # fields that were changed for one training only, such as a rehearsal

    def __post_init__(self) -> None:
        problems = unknown_values(self)
        if self.backbone is not None and find_backbone(self.backbone) is None:
            known = [*BACKBONES, *STORED_BACKBONES, "the name of a .keras file"]
            problems.append(unknown("backbone", self.backbone, known))
        problems += out_of_bounds(self)
        refuse(f"variant {self.name!r}", problems)
        if (self.architecture == "transfer") != (self.backbone is not None):
            raise ValueError(f"variant {self.name!r}: only architecture 'transfer' may have a backbone")
        if self.side_px is None and not self.metadata:
            raise ValueError(f"variant {self.name!r}: uses neither pixels nor metadata")
        if self.fine_tuning is not None and not self.has_frozen_features:
            raise ValueError(
                f"variant {self.name!r}: fine_tuning follows a stage on the features of a frozen backbone, "
                "so not with unfrozen_from, rotated copies or bias loss"
            )
        if self.loss == "bias" and self.architecture not in {"transfer", "mobilenet_v3_eca"}:
            raise ValueError(f"variant {self.name!r}: bias loss needs pooled feature maps")
        if self.sampling == "rotated_copies_leaky" and self.is_promotable:
            raise ValueError(f"variant {self.name!r}: trained with a leak, it must not be promotable")
        if objection := (
            self._objection_to_network()
            or self._objection_to_averaging()
            or self._objection_to_search()
            or self._objection_to_learning()
        ):
            raise ValueError(f"variant {self.name!r}: {objection}")

    def _objection_to_network(self) -> str | None:
        """Fields of which no network of this architecture can be built."""
        if self.architecture.startswith("metadata_") and self.side_px is not None:
            return f'side_px: {self.architecture} looks at no pictures, expected "none"'
        if self.architecture == "metadata_logistic" and self.dense_units:
            return f"dense_units is {list(self.dense_units)}: a logistic regression has none, expected []"
        if self.architecture == "transfer" and self.side_px is None:
            return "side_px: a backbone looks at pictures, expected a number"
        if wrong := [n for n in (*self.conv_filters, *self.dense_units) if n < 1]:
            return f"conv_filters and dense_units: {wrong[0]} units, expected at least 1"
        n_halved = len(self.conv_filters) if self.architecture == "cnn" else 0
        if self.side_px is not None and self.side_px < 2**n_halved:
            return (
                f"conv_filters: {n_halved} layers halve {self.side_px} pixels to nothing, expected fewer, "
                f"or a side_px of at least {2**n_halved}"
            )
        return None

    def _objection_to_averaging(self) -> str | None:
        if self.n_folds and not 2 <= self.n_folds <= MAX_FOLDS:
            return f"n_folds is {self.n_folds}, expected 0, or 2 to {MAX_FOLDS}"
        if self.n_folds and self.sampling == "rotated_copies_leaky":
            return "n_folds: what draws a val of its own has no folds"
        if self.architecture != "ensemble":
            return "only architecture 'ensemble' has members" if self.members else None
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            return f"members are {', '.join(self.members) or 'none'}, expected two or more, each once"
        idle = [
            f.name for f in fields(self) if f.name not in OF_ENSEMBLES and getattr(self, f.name) != f.default
        ]
        if idle:
            return f"{', '.join(idle)}: an ensemble learns nothing itself, so that this would do nothing"
        return None

    def _objection_to_search(self) -> str | None:
        recipe = asdict(self)
        parts = {name: recipe[name] or {} for name in ("fine_tuning", "learning")}
        known = {*recipe, *(f"{name}.{field}" for name, part in parts.items() for field in part)}
        ranges = self.search.ranges if self.search else ()
        unknown = {one.field for one in ranges} - known
        if unknown:
            return f"a search over unknown fields {sorted(unknown)}"
        bounds = {name: (low, high) for name, low, high in _BOUNDS}
        bounds |= {f"fine_tuning.{name}": pair for name, pair in bounds.items()}
        bounds |= {f"learning.{name}": (low, high) for name, low, high in BOUNDS_OF_LEARNING}
        for one in ranges:
            low, high = bounds.get(one.field, (one.low, one.high))
            if not low <= one.low < one.high <= high:
                return (
                    f"search of {one.field}: {one.low:g} to {one.high:g}, expected within {low:g} to {high:g}"
                )
        return None

    def _objection_to_learning(self) -> str | None:
        how = self.learning
        if how is None:
            return None
        if self.side_px is None or self.loss == "bias" or self.optimizer not in ("adam", "adamw"):
            return "a recipe of learning is for a network on pixels, with AdamW and without bias loss"
        if how.logit_adjustment and self.loss != "cross_entropy":
            return "a logit-adjusted loss is a cross-entropy"
        is_linear = not self.dense_units and (not self.metadata or self.fusion == "concatenate")
        if how.is_head_solved and not (self.has_frozen_features and is_linear):
            return "only a linear head (no dense_units, metadata concatenated) of a frozen backbone can be solved"
        if how.is_head_solved and self.fine_tuning is None and (idle := self._idle_where_solved(how)):
            return f"{', '.join(idle)}: without fine_tuning a solved head takes no steps, so that this would do nothing"
        if self.has_frozen_features and self.fine_tuning is None and (how.n_distortions or how.cutmix_alpha):
            return "features that are computed once cannot be distorted or cut"
        return None

    def _idle_where_solved(self, how: Learning) -> list[str]:
        """Fields that say something about steps, where a solved head is all that is learned."""
        neutral = Learning()
        return [
            *(f"learning.{name}" for name in OF_STEPS if getattr(how, name) != getattr(neutral, name)),
            *(["loss"] if self.loss != "cross_entropy" else []),
        ]

    @property
    def idle_fields(self) -> dict[str, str]:
        """Fields that say something and do nothing beside the others, each with the reason."""
        recipe, usual = asdict(self), {one.name: one.default for one in fields(self)}
        return {name: why for name, why in idle_fields(recipe).items() if getattr(self, name) != usual[name]}

    @property
    def as_recipe(self) -> dict[str, Any]:
        """Every field by name, as it is stored and hashed.

        Fields that are younger than stored recipes are left out where they say nothing: digests stay.
        """
        recipe = asdict(self)
        for name in _YOUNGER:
            if not recipe[name]:
                del recipe[name]
        if self.learning is not None:
            for name in _YOUNGER_OF_LEARNING:
                if getattr(self.learning, name) == getattr(Learning(), name):
                    del recipe["learning"][name]
        return recipe

    @property
    def task(self) -> Task:
        """The task of this variant's split."""
        return TASKS[SPLITS[self.split].task]

    @property
    def input_size(self) -> InputSize | None:
        """The size and shape in which it sees pictures; None if it uses none."""
        return None if self.side_px is None else InputSize(self.side_px, self.aspect)

    @property
    def has_frozen_features(self) -> bool:
        """Whether its first stage sees each picture as the same numbers in every epoch.

        A variant that is fine-tuned learns its head on unaltered pictures and is augmented afterwards.
        """
        return (
            self.architecture == "transfer"
            and self.is_backbone_frozen
            and self.unfrozen_from is None
            and (not self.is_augmented or self.fine_tuning is not None)
            and not self.sampling.startswith("rotated_copies")
            and self.loss != "bias"
        )


# Fields that are younger than stored recipes.
_YOUNGER = ("n_folds", "members", "learning")
_YOUNGER_OF_LEARNING = ("lesion_weighting", "cutmix_alpha")


def flat_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as `as_recipe` gives it, with the fields of its parts as "part.field" and those that it left out.

    Tuples and lists are lists, so that a stored recipe and a present one can be compared.
    """
    neutral = {one.name: one.default for one in fields(Variant) if one.name in _YOUNGER}
    found: dict[str, Any] = {}
    for name, value in (neutral | dict(recipe)).items():
        if name == "learning" and value:
            found |= {f"{name}.{one}": getattr(Learning(), one) for one in _YOUNGER_OF_LEARNING}
        if isinstance(value, Mapping):
            found |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def learns_features(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe, stored or present, changes what its last layer reads of a picture; a linear head does not."""
    is_linear = not recipe["dense_units"] and (
        not recipe["metadata"] or recipe.get("fusion") == "concatenate"
    )
    return not (
        recipe["architecture"] == "transfer"
        and is_linear
        and recipe["is_backbone_frozen"]
        and recipe.get("unfrozen_from") is None
        and recipe.get("fine_tuning") is None
    )


def depends_on_seed(recipe: Mapping[str, Any]) -> bool:
    """Whether the same training with another seed gives another model; a logistic regression of all images does not."""
    if recipe["architecture"] == "metadata_logistic":
        return False
    learning = recipe.get("learning") or {}
    is_solved = is_begun_in_one_step(recipe) and not learns_features(recipe) and recipe["is_pretrained"]
    is_drawn = recipe["sampling"] != "as_drawn" or recipe["is_augmented"] or learning.get("n_distortions")
    return not is_solved or bool(is_drawn or recipe.get("n_folds"))


def is_begun_in_one_step(recipe: Mapping[str, Any]) -> bool:
    """Whether the first stage of a recipe, stored or present, is solved and not trained: it has no epochs."""
    is_head_solved = (recipe.get("learning") or {}).get("is_head_solved", False)
    return bool(recipe["architecture"] == "metadata_logistic" or is_head_solved)


def epochs_of_stages(recipe: Mapping[str, Any]) -> list[int]:
    """The most epochs of each stage of a recipe, stored or present, that takes steps; empty: it is all solved."""
    first = [] if is_begun_in_one_step(recipe) else [recipe["max_epochs"]]
    tuning = recipe.get("fine_tuning")
    return [*first, tuning["max_epochs"]] if tuning else first


def n_epochs_at_most(recipe: Mapping[str, Any]) -> int:
    """The epochs of all stages and folds of a recipe, stored or present, if none stops early; 0 for an ensemble.

    What is solved counts as one.
    """
    if recipe.get("members"):
        return 0
    n_epochs = is_begun_in_one_step(recipe) + sum(epochs_of_stages(recipe))
    return n_epochs * max(1, recipe.get("n_folds") or 0)


_OF_BACKBONES = ("is_pretrained", "is_backbone_frozen", "unfrozen_from", "fine_tuning")
_OF_PICTURES = (
    "aspect", "is_hair_removed", "is_segmented", "conv_filters", "is_augmented", "is_augmented_strongly",
    "is_flip_averaged",
)  # fmt: skip


def idle_fields(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Fields of a recipe, stored or present, that do nothing beside its others, whatever they say: field -> reason."""
    rules = (
        (not recipe.get("backbone"), "there is no backbone", _OF_BACKBONES),
        (not recipe.get("is_backbone_frozen", True), "the whole backbone is trained", ("unfrozen_from",)),
        (recipe.get("architecture") != "cnn", "architecture is not cnn", ("conv_filters",)),
        (recipe.get("loss") != "bias", "loss is not bias", ("bias_alpha",)),
        (
            recipe.get("architecture") != "mobilenet_v3_eca",
            "architecture is not mobilenet_v3_eca",
            ("dilation_rate",),
        ),
        (not recipe.get("metadata"), "there are no metadata", ("fusion",)),
        (not recipe.get("is_augmented"), "is_augmented is false", ("is_augmented_strongly",)),
        (recipe.get("side_px") is None, "it looks at no pictures", _OF_PICTURES),
    )
    return {name: why for is_so, why, names in rules if is_so for name in names}
