"""What is kept although nothing needs it, and how long: the policy of `lesion prune`. Data only.

What is never pruned is not a matter of policy (`upkeep/prunable.py`): champions and earlier champions, the newest of a
variant, whatever runs, and whatever a kept thing needs.
"""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Ages in days; numbers are of the newest, which are kept whatever their age."""

    n_trainings: int  # of each variant; rehearsals and shortened trainings are counted apart
    n_manifests: int  # of each split
    training_days: int  # since a training ended
    manifest_days: int  # since the recipe last gave it
    checkpoint_days: int  # since a training or a search that has not finished last got on
    cache_days: int  # since pixels or features were written that nothing kept asks for
    prediction_days: int  # since a prediction job, or what a champion saw of an image, was last asked for
    delivery_days: int  # since people were told something, noted so that they are not told it again
    # What a decision refused keeps its model and its predictions. If not, its report alone stays.
    is_refused_kept: bool

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 1 if name.startswith("n_") else 0
            if value < least:
                raise ValueError(f"retention: {name} is {value}, expected at least {least}")


RETENTION = Retention(
    n_trainings=3,
    n_manifests=2,
    training_days=90,
    manifest_days=90,
    checkpoint_days=14,
    cache_days=30,
    prediction_days=90,
    delivery_days=90,
    is_refused_kept=True,
)
