"""Many records -> compact columns, and back.

A column holds each distinct value once and one 4-byte code per record, so 500,000 records take some hundred megabytes
less than as dictionaries, and a search checks each distinct value instead of each record.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

MISSING = -1
GROUPS = ("record", "acquisition", "clinical")

Key = tuple[str, str]  # (group, field); the group "record" is the record's own top level


class Column:
    """One field of all records: distinct values, and a code per record (-1: the field is absent)."""

    def __init__(self, values: Iterable[Any], codes: np.ndarray) -> None:
        self.values = list(values)
        self.codes = codes  # (N,) int32, -1 or an index into values
        self._code_by_value: dict[tuple[type, Any], int] | None = None

    def __getitem__(self, index: int) -> Any:
        code = self.codes[index]
        return None if code == MISSING else self.values[code]

    def code_of(self, value: Any) -> int:
        """Return the code of a value, adding the value if it is new."""
        if value is None:
            return MISSING
        if self._code_by_value is None:
            self._code_by_value = {(type(known), known): code for code, known in enumerate(self.values)}
        # The type is part of the key: True and 1 are equal in Python but different in JSON.
        code = self._code_by_value.setdefault((type(value), value), len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code

    def set(self, index: int, value: Any) -> None:
        """Store a value (None: make the field absent)."""
        self.codes[index] = self.code_of(value)

    def where(self, matches: Callable[[Any], bool]) -> np.ndarray:
        """Return an (N,) bool mask of the records whose value matches."""
        verdicts = np.fromiter((matches(value) for value in self.values), bool, len(self.values))
        return np.append(verdicts, matches(None))[self.codes]  # code -1 picks the last: the absent value


class Table:
    """All records of a source, by column, in listing order."""

    def __init__(self, columns: dict[Key, Column], n_records: int) -> None:
        self.columns = columns
        self.n_records = n_records

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> "Table":
        """Pack API-shaped records (`metadata.acquisition`, `metadata.clinical`, and scalars at the top)."""
        codes: dict[Key, list[int]] = {}
        columns: dict[Key, Column] = {}
        n_records = 0
        for record in records:
            for key, value in _cells(record):
                if key not in columns:
                    columns[key] = Column([], np.empty(0, np.int32))
                    codes[key] = []
                column_codes = codes[key]
                column_codes.extend([MISSING] * (n_records - len(column_codes)))
                column_codes.append(columns[key].code_of(value))
            n_records += 1
        for key, column in columns.items():
            codes[key].extend([MISSING] * (n_records - len(codes[key])))
            column.codes = np.array(codes[key], np.int32)
        return cls(columns, n_records)

    def column(self, key: Key) -> Column:
        """Return a column, creating an empty one for a field that no record has had so far."""
        if key not in self.columns:
            self.columns[key] = Column([], np.full(self.n_records, MISSING, np.int32))
        return self.columns[key]

    def record(self, index: int) -> dict[str, Any]:
        """Rebuild one API-shaped record, absent fields omitted."""
        groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for (group, field), column in self.columns.items():
            code = column.codes[index]
            if code != MISSING:
                groups[group][field] = column.values[code]
        return {
            **groups["record"],
            "metadata": {"acquisition": groups["acquisition"], "clinical": groups["clinical"]},
        }


def _cells(record: Mapping[str, Any]) -> Iterable[tuple[Key, Any]]:
    for field, value in record.items():
        if field == "metadata":
            for group, fields in value.items():
                for name, cell in fields.items():
                    yield (group, name), cell
        elif isinstance(value, str | int | float | bool):
            yield ("record", field), value
