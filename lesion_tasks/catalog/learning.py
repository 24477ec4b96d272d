"""How the last stage of a variant learns: optimizer, rates, averages, targets and distortions. Data only."""

from dataclasses import dataclass
from typing import Annotated

from lesion_tasks.catalog.entries import OneOf, refuse, unknown_values

SCHEDULES = ("constant", "cosine")
# How much an image counts whose lesion has n images in train, before the mean is made 1: 1, n ** -0.5, n ** -1.
WEIGHTINGS_OF_LESIONS = {"by_image": 0.0, "by_root": 0.5, "by_lesion": 1.0}
# Fields that change what a step does or what it learns from, and nothing where a head is solved.
OF_STEPS = (
    "weight_decay", "schedule", "warmup_share", "backbone_rate_share", "ema_momentum", "label_smoothing",
    "logit_adjustment", "mixup_alpha", "cutmix_alpha", "auxiliary_weight",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How the last stage of a variant learns; every default is neutral.

    A variant with one is trained by AdamW, and its stage is kept, and its best epoch found, by AUC on val. Without one
    it is trained by its `optimizer` at one rate, and the loss on val decides.
    """

    # The head of a frozen backbone is not learned by steps but solved, as a logistic regression on its features.
    is_head_solved: bool = False
    weight_decay: float = 0.0  # decoupled (Loshchilov and Hutter 2019); biases and batch norm are left out
    schedule: Annotated[str, OneOf("schedule", SCHEDULES)] = "constant"  # "cosine" falls to 0
    warmup_share: float = 0.0  # of all steps: the rate rises in even steps from 0
    backbone_rate_share: float = 1.0  # the backbone's rate as a share of the head's
    ema_momentum: float = (
        0.0  # the weights that are judged and stored are a moving average; 0: they are the last
    )
    label_smoothing: float = 0.0  # how much of a target is spread over all classes
    # How strongly the loss asks for more than the classes' frequencies: tau of Menon et al. 2021, equation 10.
    logit_adjustment: float = 0.0
    mixup_alpha: float = (
        0.0  # of the beta distribution that mixes pairs of pictures (Zhang et al. 2018); 0: none
    )
    # The same for CutMix (Yun et al. 2019), which puts a rectangle of one picture into another. With both, each batch
    # is mixed in one of the two ways, drawn at random.
    cutmix_alpha: float = 0.0
    # Distortions of each picture, drawn at random from geometry and colour (after RandAugment, Cubuk et al. 2020),
    # besides mirroring and quarter turns; 0: none of either.
    n_distortions: int = 0
    distortion_strength: float = 0.5  # 0 to 1
    # A second head on the same features learns the archive's deeper diagnosis; its loss counts this much. Not served.
    auxiliary_weight: float = 0.0
    auxiliary_level: int = 3  # the deepest level of diagnosis that it tells apart
    # What counts the same in the loss: every image, every lesion however many images of it train has, or in between
    # ("by_root"). An image of no known lesion stands for one of its own.
    lesion_weighting: Annotated[str, OneOf("lesion weighting", WEIGHTINGS_OF_LESIONS)] = "by_image"
    max_minutes: float | None = None  # no epoch begins that would probably end later than this

    def __post_init__(self) -> None:
        problems = unknown_values(self)
        problems += [
            f"{field} is {getattr(self, field)}, expected {low:g} to {high:g}"
            for field, low, high in BOUNDS
            if not low <= getattr(self, field) <= high
        ]
        if self.max_minutes is not None and not self.max_minutes > 0:
            problems.append(f"max_minutes is {self.max_minutes}, expected more than 0")
        refuse("learning", problems)

    @property
    def is_mixing(self) -> bool:
        """Whether an example is made of two pictures."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


# Field, lowest and highest value.
BOUNDS = (
    ("weight_decay", 0, 1), ("warmup_share", 0, 0.9), ("backbone_rate_share", 0, 10), ("ema_momentum", 0, 0.99999),
    ("label_smoothing", 0, 0.9), ("logit_adjustment", 0, 10), ("mixup_alpha", 0, 10), ("cutmix_alpha", 0, 10),
    ("n_distortions", 0, 10),     ("distortion_strength", 0, 1), ("auxiliary_weight", 0, 10), ("auxiliary_level", 2, 5),
)  # fmt: skip
