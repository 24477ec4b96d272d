"""An ensemble and the variants that it names -> whether their answers can be averaged. Data only."""

from collections.abc import Mapping

from lesion_tasks.catalog.entries import refuse, unknown
from lesion_tasks.catalog.recipe import Variant


def check_members(ensemble: Variant, known: Mapping[str, Variant]) -> None:
    """Raise `MistakesError` if the members of an ensemble are not known or do not fit it; others have none."""
    problems = [unknown("member", name, known) for name in ensemble.members if name not in known]
    members = [known[name] for name in ensemble.members if name in known]
    for member in members:
        problems += [f"member {member.name}: {words}" for words in _objections(ensemble, member)]
    if not problems and members:
        if ensemble.side_px is not None and all(member.side_px is None for member in members):
            problems.append(f"side_px is {ensemble.side_px}, expected none: no member looks at pictures")
        if ensemble.metadata and not any(member.metadata for member in members):
            problems.append("metadata: no member uses any, expected none")
    refuse(f"variant {ensemble.name!r}", problems)


def _objections(ensemble: Variant, member: Variant) -> list[str]:
    found = []
    if member.members or member.n_folds:
        found.append("is itself an average, expected a variant that is trained once")
    if member.split != ensemble.split:
        found.append(f"learns from split {member.split}, expected {ensemble.split}, as the ensemble says")
    if member.input_size not in (None, ensemble.input_size):
        found.append(f"sees pictures as {member.input_size}, expected {ensemble.input_size or 'none'}")
    if member.metadata not in ((), ensemble.metadata):
        expected = f"{', '.join(ensemble.metadata)} or none" if ensemble.metadata else "none"
        found.append(f"uses the metadata {', '.join(member.metadata)}, expected {expected}")
    if ensemble.is_promotable and not member.is_promotable:
        found.append("is never promoted, expected is_promotable = false of the ensemble too")
    return found
