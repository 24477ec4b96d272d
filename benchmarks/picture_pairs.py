"""Pictures in memory -> what curation knows of each, which pairs it would compare, and which are copies by its rules.

What the benchmarks about copies and look-alikes share.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesion_tasks.archive.picture import Picture, read_picture
from lesion_tasks.curation.landmarks import landmarks_of, read_grey
from lesion_tasks.curation.picture_similarity import (
    MIN_PRINT_CORRELATION,
    detail_correlation,
    near_pairs,
    print_correlation,
    read_detail,
)
from lesion_tasks.curation.registration import (
    MIN_AGREEING_PLACES,
    n_agreeing_places,
    registered_correlation,
)
from lesion_tasks.curation.shared_landmarks import pairs_in_common


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is kept of a picture."""

    perceptual_hash: int
    thumbprint: np.ndarray
    detail: np.ndarray
    grey: np.ndarray
    marks: np.ndarray


def read_known(data: bytes) -> Known:
    picture, grey = read_picture(data), read_grey(data)
    assert isinstance(picture, Picture)
    return Known(
        perceptual_hash=picture.perceptual_hash,
        thumbprint=np.frombuffer(picture.thumbprint, dtype=np.uint8),
        detail=read_detail(data),
        grey=grey,
        marks=landmarks_of(grey),
    )


def lesion_by_id(folder: Path) -> dict[str, str]:
    """The lesions that `metadata.csv` names."""
    with (folder / "metadata.csv").open() as file:
        return {row["isic_id"]: row["lesion_id"] for row in csv.DictReader(file)}


def alike_by_hash(known: Sequence[Known]) -> list[tuple[int, int]]:
    """Pairs whose hashes are near and whose thumbprints agree."""
    prints = np.array([one.thumbprint for one in known])
    near = near_pairs(np.array([one.perceptual_hash for one in known], dtype=np.int64))
    alike = print_correlation(prints[near[:, 0]], prints[near[:, 1]]) >= MIN_PRINT_CORRELATION
    return [(i, j) for i, j in near[alike].tolist()]


def sharing_landmarks(marks: Sequence[np.ndarray], *, n_fresh: int | None = None) -> list[tuple[int, int]]:
    """Pairs that share landmarks at places that agree; `n_fresh`: only with one of so many at the end."""
    owners = np.repeat(np.arange(len(marks), dtype=np.int32), [len(one) for one in marks])
    fresh = None if n_fresh is None else np.arange(len(marks)) >= len(marks) - n_fresh
    found = pairs_in_common(np.concatenate(marks), owners, fresh=fresh)
    return [(i, j) for i, j in found.tolist() if n_agreeing_places(marks[i], marks[j]) >= MIN_AGREEING_PLACES]


def details_of(one: Known, other: Known) -> tuple[float, float]:
    """How far the detail of two pictures agrees: as it lies, and laid upon each other."""
    return (
        detail_correlation(one.detail, other.detail),
        registered_correlation(one.grey, other.grey, one.marks, other.marks),
    )
