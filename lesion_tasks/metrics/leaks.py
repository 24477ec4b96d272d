"""Identities of each subset's images -> the verdict `leaks`: is any of them on two sides?

A training must not have seen the test set that it is evaluated on, whichever manifest that belongs to: the sides are
the train and val rows that it learned from, and those test rows. Where nobody says whose the images are, nobody can be
found on two sides: the verdict is then a caution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.known_identities import count_known, find_unknown, note_of, sentence
from lesion_tasks.metrics.verdict import Status, Verdict

IDENTITIES = ("isic_id", "group_id", "patient_id", "lesion_id", "sha256")
HASH = "perceptual_hash"
HASH_BITS = 64


def leaks(
    subsets: Mapping[str, pd.DataFrame],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Verdict:
    """Fails if two subsets share an image, a group, a patient, a lesion, the same bytes, or a perceptual hash.

    Cautions if patient and lesion are unknown of most images of a subset.

    `subsets`: name -> frame with the columns `isic_id`, `group_id`, `patient_id`, `lesion_id`, `sha256` and
    `perceptual_hash` (64 bits, as an integer or 16 hexadecimal digits); a missing value or column identifies nobody.
    `pairs`: which two must be disjoint; all pairs unless given.
    """
    overlaps: dict[str, dict[str, int]] = {}
    for first, second in combinations(subsets, 2) if pairs is None else pairs:
        left, right = subsets[first], subsets[second]
        counts = {column: _n_shared(left, right, column) for column in IDENTITIES}
        counts[HASH] = len(np.intersect1d(_hashes(left), _hashes(right)))
        overlaps[f"{first} and {second}"] = counts
    sides = {
        name: frame for name, frame in subsets.items() if pairs is None or any(name in two for two in pairs)
    }
    once = _each_image_once(sides)
    known = {
        column: sum(int(frame[column].notna().sum()) for frame in once.values() if column in frame)
        for column in (*IDENTITIES, HASH)
    }
    identities = {name: count_known(frame) for name, frame in once.items()}
    numbers: dict[str, Any] = {
        "overlaps": overlaps,
        "n_known": known,
        "n_with_patient_or_lesion": {name: count_known(frame).n_with_either for name, frame in sides.items()},
        "n_images": {name: len(frame) for name, frame in sides.items()},
        "max_hash_distance": 0,  # bits: only equal hashes count
    }
    if len(sides) < 2 or not any(known.values()):
        words = "Fewer than two subsets have identities to compare."
        return Verdict(name="leaks", status="not_applicable", sentence=words, numbers=numbers)
    found = [
        f"{pair} share {plural(count, _SHARED[column])}"
        for pair, counts in overlaps.items()
        for column, count in counts.items()
        if count
    ]
    if found:
        words = f"The subsets overlap: {'; '.join(found)}."
        return Verdict(name="leaks", status="failed", sentence=words, numbers=numbers)
    compared = ", ".join(
        plural(_n_different(once.values(), column), _NOUNS[column]) for column in known if known[column]
    )
    apart = ", ".join(subsets) if pairs is None else "; ".join(overlaps)
    *others, last = [noun for column, noun in _NOUNS.items() if known[column]]
    kinds = f"{', '.join(others)} or {last}" if others else last
    words = f"No {kinds} is in two of {apart} ({compared} compared)."
    if (note := note_of(identities)) is not None:
        words += f" {sentence(note)}"
    status: Status = "passed" if find_unknown(identities) is None else "caution"
    return Verdict(name="leaks", status=status, sentence=words, numbers=numbers)


_NOUNS = {
    "isic_id": "image",
    "group_id": "group",
    "patient_id": "patient",
    "lesion_id": "lesion",
    "sha256": "file",
    HASH: "picture",
}
_SHARED = {**_NOUNS, "sha256": "identical file", HASH: "copied picture"}


def _each_image_once(sides: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the sides without images of a side before: two manifests may have images of val in common."""
    found: dict[str, pd.DataFrame] = {}
    seen: set[Any] = set()
    for name, frame in sides.items():
        if "isic_id" in frame:
            found[name] = frame[~frame["isic_id"].isin(seen)]
            seen.update(frame["isic_id"].dropna())
        else:
            found[name] = frame
    return found


def _n_different(frames: Iterable[pd.DataFrame], column: str) -> int:
    """How many there are of an identity, not how many images have one."""
    return len(set().union(*(set(frame[column].dropna()) for frame in frames if column in frame)))


def _n_shared(left: pd.DataFrame, right: pd.DataFrame, column: str) -> int:
    if column not in left or column not in right:
        return 0
    return len(set(left[column].dropna()) & set(right[column].dropna()))


def _hashes(frame: pd.DataFrame) -> np.ndarray:
    """The distinct hashes of a subset, (n,) uint64."""
    if HASH not in frame:
        return np.zeros(0, dtype=np.uint64)
    numbers = [
        int(value, 16) if isinstance(value, str) else int(value) % 2**HASH_BITS
        for value in frame[HASH].dropna()
    ]
    return np.unique(np.array(numbers, dtype=np.uint64))
