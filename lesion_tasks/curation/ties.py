"""Groups -> by which links their images are tied to one another, and the groups that they are without some of them."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
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
        while waiting:
            here = waiting.popleft()
            if here in ends and here != start:
                found = []
                step = came[here]
                while step is not None:
                    found.append(step[1])
                    step = came[step[0]]
                return found[::-1]
            for tie in self._next.get(here, ()):
                if tie.isic_id not in came:
                    came[tie.isic_id] = (here, tie)
                    waiting.append(tie.isic_id)
        return []

    @cached_property
    def _next(self) -> Mapping[str, Sequence[Tie]]:
        found: dict[str, list[Tie]] = defaultdict(list)
        for by, one, other in self._pairs():
            found[one].append(Tie(by, other))
            found[other].append(Tie(by, one))
        return found

    def _pairs(self) -> Iterator[tuple[str, str, str]]:
        for column, by in _IDENTITIES.items():
            same: dict[str | None, list[str]] = defaultdict(list)
            for row in self._rows:
                same[getattr(row, column)].append(row.isic_id)
            same.pop(None, None)
            yield from ((by, *pair) for some in same.values() for pair in combinations(some, 2))
        for a, b in self._copies:
            yield from (("picture", *pair) for pair in product(self._shown_by[a], self._shown_by[b]))
        yield from (("a person's word", *pair) for pair in self._joined)
