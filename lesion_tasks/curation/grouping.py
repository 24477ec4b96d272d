"""The rules of grouping: identities and picture hashes -> groups that must stay on one side. No database.

A group is a connected component over patient, lesion, identical bytes and copies of a picture. Everything
here is a pure function of the set of images: the order in which they arrived does not matter.
"""

from collections.abc import Sequence

import numpy as np


def atom_of(patient_id: str | None, lesion_id: str | None, isic_id: str) -> str:
    """The widest known identity of an image, which decides its subset."""
    return patient_id or lesion_id or isic_id


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
    """Number the words, equal ones alike: (n,) int64; every missing one gets its own number."""
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
