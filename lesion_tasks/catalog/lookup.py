"""A name -> the catalogue entry, or an error that lists the known names and guesses what was meant."""

from collections.abc import Iterable
from difflib import get_close_matches

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS, Variant


def find_variant(name: str) -> Variant:
    """Return a catalogue entry, or raise `UnusableInputError` that lists the known names."""
    if name not in VARIANTS:
        known = ", ".join(sorted(VARIANTS))
        raise UnusableInputError(
            f"unknown variant {name[:200]!r}{did_you_mean(name, VARIANTS)}, expected one of {known}"
        )
    return VARIANTS[name]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean smoke?` for a name that resembles a known one, else nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
