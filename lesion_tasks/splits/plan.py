"""Chosen splits, or the scheduled variants and one's own -> the splits to build, and the sizes to decode them to."""

from collections.abc import Collection
from dataclasses import dataclass

from lesion_tasks.catalog import (
    DEFAULT_VARIANTS,
    DEFAULT_WITHOUT_WEIGHTS,
    SPLITS,
    VARIANTS,
    InputSize,
    input_sizes_of,
    own_entries,
)
from lesion_tasks.catalog.lookup import find_split
from lesion_tasks.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class PlannedSplit:
    """A split to build, and the input sizes to decode its pictures to; none where trainings decode what they need."""

    name: str
    sizes: tuple[InputSize, ...]


def _own_splits() -> list[str]:
    """The splits of the catalogue folder, and those that its variants need, by name."""
    asked = {variant.split for name, variant in VARIANTS.items() if own_entries.is_own("variant", name)}
    return sorted(asked | {name for name in SPLITS if own_entries.is_own("split", name)})


def plan_splits(workspace: Workspace, splits: Collection[str] = ()) -> list[PlannedSplit]:
    """The named splits, for all their variants; without names, what the scheduled variants need, and one's own.

    One's own, first: the splits of the catalogue folder and of its variants, in no size unless one is scheduled.
    """
    for name in splits:
        find_split(name)
    if splits:
        return [PlannedSplit(name=name, sizes=tuple(input_sizes_of(name))) for name in sorted(set(splits))]
    # Without a look at the weights: a training materializes by itself what is not there.
    variants = workspace.settings.variants or (*DEFAULT_VARIANTS, *DEFAULT_WITHOUT_WEIGHTS)
    scheduled = {VARIANTS[variant].split for variant in variants}
    return [
        PlannedSplit(name=name, sizes=tuple(input_sizes_of(name, variants) if name in scheduled else ()))
        for name in dict.fromkeys([*_own_splits(), *sorted(scheduled)])
    ]
