"""Identities and picture hashes -> groups that must stay on one side, and the subset that each falls in.

A group is a connected component over patient, lesion, identical bytes and near-duplicate pictures. Everything
here is a pure function of the set of images: the order in which they arrived does not matter.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

SUBSETS = ("train", "val", "test")
QUARANTINE = "quarantine"


def atom_of(patient_id: str | None, lesion_id: str | None, isic_id: str) -> str:
    """The widest identity known of one image: what its subset is drawn from."""
    return patient_id or lesion_id or isic_id


def unit_interval(salt: str, key: str) -> float:
    """Map a key to a number in [0, 1), the same on every machine and in every run."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def subset_of(atom_id: str, *, salt: str, val_share: float, test_share: float) -> str:
    """The subset an identity falls in. It depends on nothing else, so growth moves nobody."""
    position = unit_interval(salt, atom_id)
    if position < test_share:
        return "test"
    if position < test_share + val_share:
        return "val"
    return "train"


def groups_of(
    *,
    atoms: Sequence[str],
    lesions: Sequence[str | None],
    sha256s: Sequence[str],
    copies: np.ndarray,
) -> list[str]:
    """Name the group of every image: the smallest atom of its connected component.

    The sequences have one entry for each image; `copies` is (m, 2) row numbers of images whose pictures show the
    same thing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(atoms)
    links = np.concatenate(
        [_chains(_codes(words)) for words in (atoms, lesions, sha256s)] + [copies.reshape(-1, 2)]
    )
    graph = coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    smallest: dict[int, str] = {}
    for label, atom in zip(component.tolist(), atoms, strict=True):
        if label not in smallest or atom < smallest[label]:
            smallest[label] = atom
    return [smallest[label] for label in component.tolist()]


def _codes(words: Sequence[str | None]) -> np.ndarray:
    """Number the words, equal ones alike: (n,) int64; every missing one gets a number of its own."""
    number: dict[str, int] = {}
    return np.array(
        [-1 - i if word is None else number.setdefault(word, len(number)) for i, word in enumerate(words)],
        dtype=np.int64,
    )


def _chains(codes: np.ndarray) -> np.ndarray:
    """Link each row to the next one with the same number: (m, 2) row numbers."""
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    return np.column_stack([order[:-1][same], order[1:][same]])


def group_subsets(
    groups: Sequence[str],
    atoms: Sequence[str],
    placed: Sequence[str | None],
    *,
    salt: str,
    val_share: float,
    test_share: float,
) -> list[str]:
    """The subset of each image's group, or `QUARANTINE` where its parts belong to different ones.

    One entry for each image; groups must be whole. An identity (atom) belongs where its images have stood before
    (`placed`), and only if none has, where its hash falls: when the archive learns the patient of an old image,
    the image stays where it is, or is quarantined, and never moves.
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
