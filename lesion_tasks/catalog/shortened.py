"""A variant and changes for one training -> the recipe that is run.

The result is a variant like any other: its fields are in the training's row, in the model's file and in the
fingerprint, so an adjusted training is never mistaken for the variant's own.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import Variant
from lesion_tasks.catalog.backbones import find_backbone

SMOKE_SIDE_PX = 32


def adjust(variant: Variant, *, is_smoke_run: bool = False, max_epochs: int | None = None) -> Variant:
    """Shorten a variant: a smoke run is one epoch of each stage on tiny pictures, never promoted.

    `max_epochs`, at least 1, caps each stage.
    """
    if max_epochs is not None and max_epochs < 1:
        raise UnusableInputError(f"max_epochs is {max_epochs}, expected at least 1")
    if is_smoke_run:
        backbone = find_backbone(variant.backbone or "")
        small = {
            "side_px": variant.side_px and max(SMOKE_SIDE_PX, backbone.min_side_px if backbone else 0),
            "is_promotable": False,
            **_capped(variant, 1),
        }
        return _changed(variant, small, "smoke run")
    if max_epochs is not None:
        return _changed(
            variant, _capped(variant, max_epochs), f"at most {max_epochs} epoch{'s' * (max_epochs > 1)}"
        )
    return variant


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
    tuning = variant.fine_tuning
    return {
        "max_epochs": min(variant.max_epochs, max_epochs),
        "fine_tuning": tuning and replace(tuning, max_epochs=min(tuning.max_epochs, max_epochs)),
    }


def _changed(variant: Variant, wanted: Mapping[str, Any], how: str) -> Variant:
    """Replace fields, and record it in the title and in `adjusted`; change nothing if no field changes."""
    adjusted = replace(variant, **wanted)
    before, after = asdict(variant), asdict(adjusted)
    if not (names := tuple(sorted(name for name in wanted if before[name] != after[name]))):
        return variant
    return replace(adjusted, title=f"{variant.title} ({how})", adjusted=names)
