"""Splits: how train and val are drawn."""

from dataclasses import dataclass
from typing import Annotated

from lesion_tasks.catalog.entries import OneOf, by_name, refuse, unknown_values
from lesion_tasks.catalog.tasks import TASKS

# What a manifest holds if age or size is missing. Models fill in what they learned from train, with an indicator, so
# the honest manifest leaves missing values missing.
IMPUTATIONS = {
    "none": "Missing values stay missing; a model fills in the mean of its train images and marks where it did.",
    "paper_global_mean": (
        "The paper's method: the mean over all images, including test images, before the split. It leaks."
    ),
}


# Those by which test images influence what training sees.
LEAKING_IMPUTATIONS = frozenset({"paper_global_mean"})


# What can be held out of a split, one value after the other, as the test of a model that never learned from it: where
# the value of an image is recorded -> what one of them is called.
HELD_OUT_BY = {
    "attribution": "institution",
    "collections": "collection",
    "anatom_site": "anatomical site",
}
# How often a variant is trained without each of them where the luck of a training has a say. Two tell luck from a
# difference, but say little about how large it is.
N_TRAININGS = 3

# Values that name no origin, in lower case: an image with one of them may be from anywhere, as one without a value may.
NO_ORIGIN = frozenset({
    "anonymous", "unknown", "other", "none", "n/a", "na", "not available", "not applicable", "not stated",
    "not specified", "unspecified", "undisclosed", "null", "nan", "-", "?", "",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Split:
    """A recipe for train, val and test. Test is the task's own: `natural`, and a `balanced` draw from it."""

    name: str
    task: Annotated[str, OneOf("task", TASKS)]
    # At most this many train images of each class, by lowest hash, so the set grows without reshuffling.
    # Never more than the rarest class has, so a number that no class reaches means as many as the rarest class has.
    # None keeps the natural share of classes. Val is drawn the same way.
    max_per_class: int | None = None
    imputation: Annotated[str, OneOf("imputation", IMPUTATIONS)] = "none"

    def __post_init__(self) -> None:
        problems = unknown_values(self)
        if self.max_per_class is not None and self.max_per_class < 1:
            problems.append(f"max_per_class is {self.max_per_class}, expected at least 1")
        refuse(f"split {self.name!r}", problems)

    @property
    def is_leaking(self) -> bool:
        """Whether test images influence what training sees: such a split is for reproducing, not for use."""
        return self.imputation in LEAKING_IMPUTATIONS

    @property
    def is_whole(self) -> bool:
        """Whether its manifest has every image that is not left out, as the archive describes it."""
        return self.max_per_class is None and self.imputation == "none"


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
