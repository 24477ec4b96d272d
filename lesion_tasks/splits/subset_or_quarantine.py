"""Groups -> the subset that each falls in, by hash, or quarantine where identities disagree. Growth moves no one."""

import hashlib
from collections.abc import Sequence

SUBSETS = ("train", "val", "test")
QUARANTINE = "quarantine"


def unit_interval(salt: str, key: str) -> float:
    """Map a key to a number in [0, 1), the same on every machine and in every run."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def subset_of(atom_id: str, *, salt: str, val_share: float, test_share: float) -> str:
    """The subset that an identity falls in. It depends on nothing else, so growth moves no one."""
    position = unit_interval(salt, atom_id)
    if position < test_share:
        return "test"
    if position < test_share + val_share:
        return "val"
    return "train"


def group_subsets(
    groups: Sequence[str],
    atoms: Sequence[str],
    placed: Sequence[str | None],
    *,
    salt: str,
    val_share: float,
    test_share: float,
) -> list[str]:
    """The subset of each image's group, or `QUARANTINE` if its parts belong to different ones.

    One entry for each image; groups must be whole. An identity (atom) belongs where its images were before
    (`placed`), and only if none was anywhere, where its hash falls: when the archive learns the patient of an old
    image, the image stays where it is or is quarantined, and never moves.
    """
    places: dict[str, set[str]] = {}
    for atom, place in zip(atoms, placed, strict=True):
        known = places.setdefault(atom, set())
        if place is not None:
            known.add(place)
    for atom, known in places.items():
        if not known:
            known.add(subset_of(atom, salt=salt, val_share=val_share, test_share=test_share))
    subset_by_group: dict[str, str] = {}
    for group, atom in zip(groups, atoms, strict=True):
        known = places[atom]
        subset = next(iter(known)) if len(known) == 1 else QUARANTINE
        if subset_by_group.setdefault(group, subset) != subset:
            subset_by_group[group] = QUARANTINE
    return [subset_by_group[group] for group in groups]
