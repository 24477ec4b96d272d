"""A source of records and files, and what has happened to it since -> what the server can list and serve.

Holdings keep records sorted by `created`, an index by id, and the answers to recent searches, so that plain
listings and id-prefix searches never look at every record.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from archive_server.state import State
from archive_server.table import Key, Table
from lesion_tasks.archive.query import TOP_LEVEL_FIELDS, And, Expression, Or, Term, parse
from lesion_tasks.archive.vocabulary import ACQUISITION_FIELDS, ISIC_ID

N_KEPT_SEARCHES = 64
RENDITIONS = ("full", "thumbnail_256")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """The bytes of one rendition, as an object store has them."""

    content: bytes
    media_type: str
    modified_at: datetime


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A named set of images: those that satisfy a query."""

    id: int
    name: str
    description: str
    query: str
    created_us: int
    doi: str | None = None
    is_pinned: bool = False
    is_locked: bool = True


class Source(Protocol):
    """What holdings are made of. Positions count records in the order of `created`."""

    name: str  # what a state file is checked against
    collections: tuple[Collection, ...]
    can_grow: bool

    def n_initial(self) -> int:
        """Return the number of records before any change."""

    def load(self, n_images: int) -> tuple[Table, np.ndarray]:
        """Return the records and their `created`, (N,) int64 microseconds since 1970, ascending."""

    def complete(self, position: int, record: dict[str, Any]) -> None:
        """Add to a record, in place, what only its file shows (pixel sizes)."""

    def extension(self, position: int) -> str:
        """Return the file name extension of the full image, with its dot."""

    def size_bytes(self, position: int, rendition: str, record: Mapping[str, Any]) -> int:
        """Return the recorded size, which need not be the size of the file."""

    def total_bytes(self, positions: np.ndarray) -> int:
        """Return the sum of the recorded sizes of the full images."""

    def file(self, position: int, rendition: str, revision: int) -> StoredFile | None:
        """Return a rendition's bytes; None if there is no such file."""

    def has_at_hand(self, position: int, rendition: str, revision: int) -> bool:
        """Tell whether a rendition only needs to be read, in less time than handing it to a thread takes."""


class Holdings:
    """Everything visible, by listing order, by id and by query."""

    def __init__(self, source: Source, state: State) -> None:
        self.source = source
        self.state = state
        self._load()

    def _load(self) -> None:
        n_images = self.state.n_images or self.source.n_initial()
        self.table, self.created_us = self.source.load(n_images)
        ids = self.table.column(("record", "isic_id"))
        self.isic_ids: list[str] = ids.values
        # Sorted ids, and the position of each: ids are distinct, so a code stands for one record.
        positions = np.empty(len(ids.values), np.int64)
        positions[ids.codes] = np.arange(len(ids.codes))
        order = sorted(range(len(ids.values)), key=ids.values.__getitem__)
        self.sorted_ids = np.array([ids.values[code] for code in order], dtype="U12")
        self.position_by_rank = positions[np.array(order, np.int64)] if order else positions
        for isic_id, changes in self.state.edits.items():
            self._apply(isic_id, changes)
        self._show()

    def _show(self) -> None:
        """Recompute what is visible; forget earlier searches."""
        is_visible = np.ones(self.table.n_records, bool)
        for isic_id in (*self.state.withdrawn, *self.state.embargoed):
            position = self._position(isic_id)
            if position is not None:
                is_visible[position] = False
        self.is_visible = is_visible
        self.visible = np.flatnonzero(is_visible)
        self.visible_created_us = self.created_us[self.visible]
        self._searches: OrderedDict[tuple, np.ndarray] = OrderedDict()

    def _apply(self, isic_id: str, changes: Mapping[str, Any]) -> None:
        position = self._position(isic_id)
        if position is not None:
            for field, value in changes.items():
                self.table.column(field_key(field)).set(position, value)

    def _position(self, isic_id: str) -> int | None:
        rank = int(np.searchsorted(self.sorted_ids, isic_id))
        if rank < len(self.sorted_ids) and self.sorted_ids[rank] == isic_id:
            return int(self.position_by_rank[rank])
        return None

    def position_of(self, isic_id: str) -> int | None:
        """Return the position of a visible image; None if there is none with this id."""
        if not ISIC_ID.fullmatch(isic_id):
            return None
        position = self._position(isic_id)
        return position if position is not None and self.is_visible[position] else None

    def select(self, query: str = "", collections: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Return (positions, created) of the visible images that match, both ascending.

        Raises QueryError and QueryCrashError as `query.parse` does.
        """
        expression = parse(query)
        if expression is None and not collections:
            return self.visible, self.visible_created_us
        key = (query.strip(), collections)
        positions = self._searches.get(key)
        if positions is None:
            chosen = self._matching(expression)
            if collections:
                member = np.zeros(self.table.n_records, bool)
                for collection in self.source.collections:
                    if collection.id in collections:
                        member[self._matching(parse(collection.query))] = True
                chosen = chosen[member[chosen]]
            positions = chosen[self.is_visible[chosen]]
            self._searches[key] = positions
            if len(self._searches) > N_KEPT_SEARCHES:
                self._searches.popitem(last=False)
        else:
            self._searches.move_to_end(key)
        return positions, self.created_us[positions]

    def _matching(self, expression: Expression | None) -> np.ndarray:
        """Return ascending positions, visible or not."""
        match expression:
            case None:
                return np.arange(self.table.n_records)
            case Term(field="isic_id", prefix=str(prefix)):
                return self._with_prefix(prefix, is_exact=expression.is_exact)
            case Term():
                column = self.table.column(field_key(expression.field))
                return np.flatnonzero(column.where(expression.matches))
            case And():
                parts = [self._matching(part) for part in expression.parts]
                chosen = min(parts, key=len)
                for part in parts:
                    if part is not chosen:
                        chosen = np.intersect1d(chosen, part, assume_unique=True)
                return chosen
            case Or():
                return np.unique(np.concatenate([self._matching(part) for part in expression.parts]))

    def _with_prefix(self, prefix: str, *, is_exact: bool) -> np.ndarray:
        first = int(np.searchsorted(self.sorted_ids, prefix))
        last = first
        if is_exact:
            last += int(first < len(self.sorted_ids) and self.sorted_ids[first] == prefix)
        else:
            last = int(np.searchsorted(self.sorted_ids, prefix + "\uffff"))
        return np.sort(self.position_by_rank[first:last])

    def record(self, position: int, origin: str) -> dict[str, Any]:
        """Return one API record, with the URLs of its files at `origin`."""
        record = self.table.record(position)
        self.source.complete(position, record)
        isic_id = record["isic_id"]
        paths = {
            "full": f"images/{isic_id}{self.source.extension(position)}",
            "thumbnail_256": f"thumbnails/{isic_id}_thumbnail.jpg",
        }
        return {
            "isic_id": isic_id,
            "copyright_license": record.get("copyright_license", ""),
            "attribution": record.get("attribution", ""),
            "files": {
                rendition: {
                    "url": f"{origin}/{paths[rendition]}",
                    "size": self.source.size_bytes(position, rendition, record),
                }
                for rendition in RENDITIONS
            },
            "metadata": record["metadata"],
            "public": record["public"],
        }

    def file(self, isic_id: str, rendition: str) -> StoredFile | None:
        """Return the bytes of a visible image; None if it is not visible or has no file."""
        position = self.position_of(isic_id)
        if position is None:
            return None
        return self.source.file(position, rendition, self.state.file_revisions.get(isic_id, 0))

    def has_at_hand(self, isic_id: str, rendition: str) -> bool:
        """Tell whether `file` answers at once."""
        position = self.position_of(isic_id)
        revision = self.state.file_revisions.get(isic_id, 0)
        return position is None or self.source.has_at_hand(position, rendition, revision)

    def visible_id(self, position: int) -> str:
        """Return the id of the record at a position."""
        return self.table.column(("record", "isic_id"))[position]

    def changed(self, *, has_grown: bool = False) -> None:
        """Apply what was written to the state, and save it."""
        if has_grown:
            self._load()
        else:
            self._show()
        self.state.save()

    def edit(self, isic_id: str, changes: Mapping[str, Any]) -> None:
        """Set fields of one record (None: remove) and keep them in the state; call `changed` afterwards."""
        self.state.edits.setdefault(isic_id, {}).update(changes)
        self._apply(isic_id, changes)


def field_key(field: str) -> Key:
    """Return the table's key for a metadata field name."""
    if field in TOP_LEVEL_FIELDS or field == "attribution":
        return ("record", field)
    return ("acquisition" if field in ACQUISITION_FIELDS else "clinical", field)
