"""A variant and changes for one training -> the recipe that is run.

The result is a variant like any other: its fields are in the training's row, in the model's file and in the
fingerprint, so an adjusted training is never mistaken for the variant's own. An ensemble is shortened with its members.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import Variant
from lesion_tasks.catalog.backbones import find_backbone
from lesion_tasks.catalog.lookup import find_variant

SMOKE_SIDE_PX = 32


def adjust(
    variant: Variant, *, is_smoke_run: bool = False, max_epochs: int | None = None, seed: int | None = None
) -> Variant:
    """Shorten a variant: a smoke run is one epoch of each stage on tiny pictures, never promoted.

    `max_epochs`, at least 1, caps each stage. `seed` replaces the variant's own: what trainings differ by, when they
    differ by it alone, is chance.
    """
    if max_epochs is not None and max_epochs < 1:
        raise UnusableInputError(f"max_epochs is {max_epochs}, expected at least 1")
    how: dict[str, dict[str, Any]] = {}
    if is_smoke_run:
        how["smoke run"] = {
            "side_px": variant.side_px and _smoke_side_px(variant),
            "is_promotable": False,
            **_capped(variant, 1),
        }
    elif max_epochs is not None:
        how[f"at most {max_epochs} epoch{'s' * (max_epochs > 1)}"] = _capped(variant, max_epochs)
    if seed is not None:
        how[f"seed {seed}"] = {} if variant.members else {"seed": seed}
    members = members_of(variant, is_smoke_run=is_smoke_run, max_epochs=max_epochs, seed=seed)
    before = asdict(variant)
    said, names = [], set()
    for words, wanted in how.items():
        changed = {name for name, value in wanted.items() if before[name] != _plain(value)}
        if changed or any(member.adjusted for member in members):
            said.append(words)
            names |= changed
            variant = replace(variant, **wanted)
    if not said:
        return variant
    if any(member.adjusted for member in members):
        names.add("members")
    return replace(variant, title=f"{variant.title} ({', '.join(said)})", adjusted=tuple(sorted(names)))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def members_of(
    variant: Variant, *, is_smoke_run: bool = False, max_epochs: int | None = None, seed: int | None = None
) -> list[Variant]:
    """The variants that an ensemble averages, shortened with it; none for other variants."""
    members = [
        adjust(find_variant(name), is_smoke_run=is_smoke_run, max_epochs=max_epochs, seed=seed)
        for name in variant.members
    ]
    if not is_smoke_run:
        return members
    side_px = _smoke_side_px(variant)
    return [member if member.side_px is None else replace(member, side_px=side_px) for member in members]


def _smoke_side_px(variant: Variant) -> int:
    """The smallest side that the backbone of a variant takes, or those of its members."""
    names = [variant.backbone, *(find_variant(name).backbone for name in variant.members)]
    backbones = [find_backbone(name) for name in names if name]
    return max([SMOKE_SIDE_PX, *(backbone.min_side_px for backbone in backbones if backbone)])


def without(variant: Variant, value: str) -> Variant:
    """The variant for a training from which a value is held out: it answers a question, and is never promoted."""
    adjusted = tuple(sorted({*variant.adjusted, "is_promotable"}))
    title = f"{variant.title} (without {value})"
    return replace(variant, title=title, is_promotable=False, adjusted=adjusted)


def with_parameters(variant: Variant, parameters: Mapping[str, Any], search_id: str) -> Variant:
    """The variant with the parameters that a search found; "part.field" is a field of a part of it."""
    for name, value in parameters.items():
        part, _, field = name.rpartition(".")
        changed = {field: value} if not part else {part: replace(getattr(variant, part), **{field: value})}
        variant = replace(variant, **changed)
    return replace(variant, search_id=search_id)


def _capped(variant: Variant, max_epochs: int) -> dict[str, Any]:
    if variant.members:
        return {}  # it has no epochs of its own
    tuning = variant.fine_tuning
    return {
        "max_epochs": min(variant.max_epochs, max_epochs),
        "fine_tuning": tuning and replace(tuning, max_epochs=min(tuning.max_epochs, max_epochs)),
    }
