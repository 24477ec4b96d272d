"""A selection of records -> counts per value of each searchable field."""

from typing import Any

import numpy as np

from archive_server.holdings import Holdings, field_key
from lesion_tasks.archive.vocabulary import SEARCH_BOOLEANS, SEARCH_NUMBERS, SEARCH_STRINGS

THICKNESS_BOUNDS_MM = tuple(step / 2 for step in range(11))  # 0.0 to 5.0; the last range is open
_NOT_FACETS = {"isic_id", "public"}


def count_facets(holdings: Holdings, positions: np.ndarray) -> dict[str, Any]:
    """Return the facets object for the records at these positions."""
    fields = sorted((SEARCH_STRINGS | SEARCH_NUMBERS | SEARCH_BOOLEANS) - _NOT_FACETS)
    return {field: _facet(field, *_counts(holdings, field, positions), len(positions)) for field in fields}


def _counts(holdings: Holdings, field: str, positions: np.ndarray) -> tuple[list[Any], list[int]]:
    column = holdings.table.column(field_key(field))
    codes = column.codes[positions]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.values))
    present = [(value, int(count)) for value, count in zip(column.values, counts, strict=True) if count]
    return [value for value, _ in present], [count for _, count in present]


def _facet(field: str, values: list[Any], counts: list[int], n_records: int) -> dict[str, Any]:
    n_present = sum(counts)
    meta = {"missing_count": n_records - n_present, "present_count": n_present}
    pairs = sorted(zip(values, counts, strict=True), key=lambda pair: (-pair[1], str(pair[0])))
    if field in SEARCH_BOOLEANS:
        buckets = [
            {"key": int(value), "key_as_string": str(value).lower(), "doc_count": count}
            for value, count in pairs
        ]
    elif field == "mel_thick_mm":
        buckets = _ranges(pairs)
    elif field in SEARCH_NUMBERS:
        buckets = _histogram(pairs, 5 if field == "age_approx" else 10)
    else:
        n_listed = 100 if field.startswith(("diagnosis_", "anatom_site_")) else 10
        buckets = [{"key": value, "doc_count": count} for value, count in pairs[:n_listed]]
    return {"meta": meta, "buckets": buckets}


def _histogram(pairs: list[tuple[Any, int]], interval: int) -> list[dict[str, Any]]:
    count_by_start: dict[float, int] = {}
    for value, count in pairs:
        start = float(value) // interval * interval
        count_by_start[start] = count_by_start.get(start, 0) + count
    return [{"key": start, "doc_count": count} for start, count in sorted(count_by_start.items())]


def _ranges(pairs: list[tuple[Any, int]]) -> list[dict[str, Any]]:
    ends: tuple[float | str, ...] = (*THICKNESS_BOUNDS_MM[1:], "*")
    buckets = []
    for start, end in zip(THICKNESS_BOUNDS_MM, ends, strict=True):
        stop = float("inf") if isinstance(end, str) else end
        n_inside = sum(count for value, count in pairs if start <= float(value) < stop)
        buckets.append({"key": f"{start}-{end}", "from": start, "to": end, "doc_count": n_inside})
    return buckets
