"""Groups -> by which links their images are tied to one another, and the groups that they are without some of them."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.curation.copies import copies_among
from lesion_tasks.curation.corrections import joined_pairs
from lesion_tasks.curation.grouping import groups_of

_IDENTITIES = {"patient_id": "patient", "lesion_id": "lesion", "sha256": "bytes"}


@dataclass(frozen=True)
class Tie:
    """The next image on the way from one to another, and what it shares with the one before."""

    by: str  # patient, lesion, bytes, picture, or "a person's word"
    isic_id: str


class Ties:
    """The images of some groups, and what ties them."""

    def __init__(self, connection: Connection, group_ids: Collection[str]) -> None:
        self._rows: Sequence[Any] = connection.execute(
            text("""
                SELECT isic_id, group_id, atom_id, patient_id, lesion_id, sha256 FROM image
                WHERE group_id = ANY(:ids) ORDER BY isic_id
            """),
            {"ids": sorted(group_ids)},
        ).all()
        number: dict[str, int] = {}
        for row in self._rows:
            number.setdefault(row.sha256, len(number))
        files = list(number)
        self._copies = [(files[i], files[j]) for i, j in copies_among(connection, number).tolist()]
        here = {row.isic_id for row in self._rows}
        self._joined = [(a, b) for a, b in joined_pairs(connection) if a in here and b in here]
        self._shown_by: dict[str, list[str]] = defaultdict(list)
        for row in self._rows:
            self._shown_by[row.sha256].append(row.isic_id)

    @property
    def group_by_image(self) -> dict[str, str]:
        """The group of each image, as it is."""
        return {row.isic_id: row.group_id for row in self._rows}

    def groups_without(self, left_out: Collection[str]) -> dict[str, str]:
        """The group of each image that is not left out, if those were not there."""
        import numpy as np

        rows = [row for row in self._rows if row.isic_id not in left_out]
        at = {row.isic_id: i for i, row in enumerate(rows)}
        first = {row.sha256: i for i, row in reversed(list(enumerate(rows)))}
        links = [(first[a], first[b]) for a, b in self._copies if a in first and b in first]
        links += [(at[a], at[b]) for a, b in self._joined if a in at and b in at]
        groups = groups_of(
            atoms=[row.atom_id for row in rows],
            lesions=[row.lesion_id for row in rows],
            sha256s=[row.sha256 for row in rows],
            copies=np.array(links, dtype=np.int64).reshape(-1, 2),
        )
        return dict(zip(at, groups, strict=True))

    def way(self, start: str, ends: Collection[str]) -> list[Tie]:
        """The shortest way from an image to one of others, without the first; empty if there is none."""
        came: dict[str, tuple[str, Tie] | None] = {start: None}
        waiting = deque([start])
        seen: set[tuple[str, str]] = set()
        while waiting:
            here = waiting.popleft()
            if here in ends and here != start:
                found = []
                step = came[here]
                while step is not None:
                    found.append(step[1])
                    step = came[step[0]]
                return found[::-1]
            for tie in self._ties_of(here, seen):
                if tie.isic_id not in came:
                    came[tie.isic_id] = (here, tie)
                    waiting.append(tie.isic_id)
        return []

    def _ties_of(self, isic_id: str, seen: set[tuple[str, str]]) -> Iterator[Tie]:
        """What ties an image to others, but for identities that are `seen`: whoever has one is reached by then."""
        for shared in self._shared_by.get(isic_id, ()):
            if shared not in seen:
                seen.add(shared)
                yield from (Tie(shared[0], other) for other in self._images_with[shared])
        yield from self._pairs.get(isic_id, ())

    @cached_property
    def _images_with(self) -> Mapping[tuple[str, str], Sequence[str]]:
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for column, by in _IDENTITIES.items():
            for row in self._rows:
                if (value := getattr(row, column)) is not None:
                    found[by, value].append(row.isic_id)
        return found

    @cached_property
    def _shared_by(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for shared, isic_ids in self._images_with.items():
            for isic_id in isic_ids:
                found[isic_id].append(shared)
        return found

    @cached_property
    def _pairs(self) -> Mapping[str, Sequence[Tie]]:
        """Of each image those that it is tied to alone: by pictures that look alike, or by a person."""
        found: dict[str, list[Tie]] = defaultdict(list)
        pairs = [
            ("picture", *one)
            for a, b in self._copies
            for one in product(self._shown_by[a], self._shown_by[b])
        ]
        for by, one, other in [*pairs, *(("a person's word", *pair) for pair in self._joined)]:
            found[one].append(Tie(by, other))
            found[other].append(Tie(by, one))
        return found
