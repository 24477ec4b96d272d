"""A variant and changes for one training -> the recipe that is run.

The result is a variant like any other: its fields are in the training's row, in the model's file and in the
fingerprint, so an adjusted training is never mistaken for the variant's own. An ensemble is shortened with its members.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import Variant, own_entries
from lesion_tasks.catalog.backbones import PresetBackbone, find_backbone
from lesion_tasks.catalog.entries import did_you_mean
from lesion_tasks.catalog.learning import Learning
from lesion_tasks.catalog.lookup import find_variant
from lesion_tasks.catalog.recipe import FineTuning, flat_recipe

SMOKE_SIDE_PX = 32


def adjust(
    variant: Variant,
    *,
    is_smoke_run: bool = False,
    max_epochs: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Variant:
    """Change a variant as `with_changes` does, then shorten it: at most `max_epochs`, at least 1, in each stage.

    A rehearsal (`is_smoke_run`) is one epoch of each stage on tiny pictures, never promoted.
    """
    if changes:
        variant = with_changes(variant, changes)
    if max_epochs is not None and max_epochs < 1:
        raise UnusableInputError(f"max_epochs is {max_epochs}, expected at least 1")
    if is_smoke_run:
        how = "rehearsal"
        wanted = {
            "side_px": _smoke_side_px(variant),
            "is_promotable": False,
            **_capped(variant, 1),
        }
    elif max_epochs is not None:
        how = f"at most {max_epochs} epoch{'s' * (max_epochs > 1)}"
        wanted = _capped(variant, max_epochs)
    else:
        return variant
    adjusted = replace(variant, **wanted)
    before, after = asdict(variant), asdict(adjusted)
    names = {name for name in wanted if before[name] != after[name]}
    if any(
        member.adjusted for member in members_of(variant, is_smoke_run=is_smoke_run, max_epochs=max_epochs)
    ):
        names.add("members")
    if not names:
        return variant
    return replace(
        adjusted, title=f"{variant.title} ({how})", adjusted=tuple(sorted({*variant.adjusted, *names}))
    )


def with_changes(variant: Variant, changes: Mapping[str, Any]) -> Variant:
    """The variant with other values of some fields, for one training; "learning.ema_momentum" is a field of a part.

    Values are those of a file of one's own entries. Such a training answers a question and is never promoted: a better
    recipe becomes a variant of one's own. Raises `UnusableInputError` with everything that is wrong.
    """
    what = f"variant {variant.name!r}"
    content: dict[str, Any] = {name: value for name, value in asdict(variant).items() if name != "name"}
    known = changeable_fields()
    problems = [
        f"{name}: is what a training is known by, or is set elsewhere"
        if name in _FIXED
        else f"there is no field {name[:200]!r}{did_you_mean(name, known)}"
        for name in changes
        if name not in known
    ]
    for name, value in changes.items():
        if name not in known:
            continue
        part, _, field = name.partition(".")
        if not field:
            content[part] = value
        elif isinstance(content.get(part), dict):
            content[part] = {**content[part], field: value}
        else:
            problems.append(
                f"{name}: the variant has no {part}, whose other fields would come with it; expected it as a whole"
            )
    if variant.members:
        problems.append("an ensemble learns nothing itself: change its members")
    content["is_promotable"] = False
    changed = None
    if not problems:
        changed, problems = own_entries.build("variant", variant.name, content)
    if changed is None or problems:
        raise UnusableInputError(f"{what}: {'; '.join(one.removeprefix(f'{what}: ') for one in problems)}")
    said = _differences(variant, changed)
    if not said:
        return variant
    idle = {name: why for name, why in changed.idle_fields.items() if name in said}
    if idle:
        raise UnusableInputError(
            f"{what}: {'; '.join(f'{name}: would do nothing, since {why}' for name, why in idle.items())}"
        )
    names = {name.partition(".")[0] for name in said} | {"is_promotable"}
    title = f"{variant.title} ({', '.join(f'{name} {_in_short(said[name])}' for name in sorted(said))})"
    return replace(changed, title=title, adjusted=tuple(sorted({*variant.adjusted, *names})))


# What a training cannot change of its variant.
_FIXED = ("name", "title", "reproduces", "is_promotable", "members", "search", "search_id", "adjusted")
_PARTS = {"learning": Learning, "fine_tuning": FineTuning}


def changeable_fields() -> list[str]:
    """The fields of a variant that one training may have other values of, those of a part as "part.field"."""
    own = [one.name for one in fields(Variant) if one.name not in _FIXED]
    return own + [f"{part}.{one.name}" for part, kind in _PARTS.items() for one in fields(kind)]


def _differences(variant: Variant, changed: Variant) -> dict[str, Any]:
    """Fields with another value, those of parts as "part.field"; a whole part is named where it is all neutral."""
    before, after = flat_recipe(variant.as_recipe), flat_recipe(changed.as_recipe)
    neutral = {
        f"{part}.{name}": value for part, kind in _PARTS.items() for name, value in asdict(kind()).items()
    }
    found = {
        name: value
        for name, value in after.items()
        if value != before.get(name, neutral.get(name))
        and not (value is None and name in _PARTS)
        and name != "is_promotable"
    }
    for part in _PARTS:
        had, has = getattr(variant, part), getattr(changed, part)
        if (had is None) != (has is None) and not any(name.startswith(f"{part}.") for name in found):
            found[part] = "none" if has is None else "by default"
    return found


def _in_short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def members_of(
    variant: Variant, *, is_smoke_run: bool = False, max_epochs: int | None = None
) -> list[Variant]:
    """The variants that an ensemble averages, shortened with it; none for other variants."""
    members = [
        adjust(find_variant(name), is_smoke_run=is_smoke_run, max_epochs=max_epochs)
        for name in variant.members
    ]
    if not is_smoke_run:
        return members
    side_px = _smoke_side_px(variant)
    return [member if member.side_px is None else replace(member, side_px=side_px) for member in members]


def _smoke_side_px(variant: Variant) -> int | None:
    """The smallest side that the backbone of a variant takes, or those of its members.

    The variant's own if one is a preset: only the network itself knows which others it takes.
    """
    names = [variant.backbone, *(find_variant(name).backbone for name in variant.members)]
    backbones = [find_backbone(name) for name in names if name]
    if variant.side_px is None or any(isinstance(backbone, PresetBackbone) for backbone in backbones):
        return variant.side_px
    return max([SMOKE_SIDE_PX, *(backbone.min_side_px for backbone in backbones if backbone)])


def without(variant: Variant, value: str) -> Variant:
    """The variant for a training from which a value is held out: it answers a question, and is never promoted."""
    adjusted = tuple(sorted({*variant.adjusted, "is_promotable"}))
    title = f"{variant.title}{_WITHOUT}{value})"
    return replace(variant, title=title, is_promotable=False, adjusted=adjusted)


_WITHOUT = " (without "


def title_of_all(recipe: Mapping[str, Any]) -> str:
    """The title that all trainings share from which something was held out: how they were shortened stays."""
    title = str(recipe["title"])
    return (title.rpartition(_WITHOUT)[0] or title).replace(f" (seed {recipe['seed']})", "")


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
