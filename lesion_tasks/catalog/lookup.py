"""A name -> the catalogue entry, or an error that lists the known names and guesses what was meant."""

from collections.abc import Iterable
from difflib import get_close_matches

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import COHORTS, VARIANTS, Cohort, Variant


def find_variant(name: str) -> Variant:
    """Return a catalogue entry, or raise `UnusableInputError` that lists the known names."""
    if name not in VARIANTS:
        known = ", ".join(sorted(VARIANTS))
        raise UnusableInputError(
            f"unknown variant {name[:200]!r}{did_you_mean(name, VARIANTS)}, expected one of {known}"
        )
    return VARIANTS[name]


def find_cohort(name: str, task: str | None = None) -> Cohort:
    """Return a catalogue entry, or raise `UnusableInputError` if there is none or it does not judge `task`."""
    if name not in COHORTS:
        known = f"expected one of {', '.join(sorted(COHORTS))}" if COHORTS else "none is declared"
        raise UnusableInputError(f"unknown cohort {name[:200]!r}{did_you_mean(name, COHORTS)}, {known}")
    cohort = COHORTS[name]
    if task is not None and task not in cohort.tasks:
        raise UnusableInputError(
            f"cohort {name!r}: it judges {', '.join(cohort.tasks)}, expected one that judges {task!r}"
        )
    return cohort


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean smoke?` for a name that resembles a known one, else nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
