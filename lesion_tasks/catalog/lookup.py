"""A name -> the catalogue entry, or an error that lists the known names."""

from typing import TYPE_CHECKING

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS, Variant

if TYPE_CHECKING:
    pass


def find_variant(name: str) -> Variant:
    """Return a catalogue entry, or raise `UnusableInputError` that lists the known names."""
    if name not in VARIANTS:
        raise UnusableInputError(f"unknown variant {name!r}, expected one of {', '.join(sorted(VARIANTS))}")
    return VARIANTS[name]
