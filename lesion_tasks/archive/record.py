"""What an archive sent -> a checked record with its canonical hash, or a refusal with its reason.

Unknown keys and values are data: only what cannot be stored, named or compared is refused. Control characters and
bidirectional overrides are removed here, where text enters, so that no table, page or terminal ever gets them.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from lesion_tasks.archive.image_ids import is_id_of
from lesion_tasks.archive.printable import may_have_controls, printable, without_controls
from lesion_tasks.archive.vocabulary import DECIMAL_FIELDS, ISIC_ID

# The largest record seen has 2 kB. Postgres would accept more, but a page of such records would be too large.
MAX_RECORD_BYTES = 65_536
KEPT_CHARACTERS = 10_000  # of a refused record
# The escape of U+0000, which Postgres cannot hold, and not an escaped backslash before "u0000".
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, kw_only=True)
class CheckedRecord:
    """A record that can be stored."""

    isic_id: str
    record_hash: str  # SHA-256 of the canonical record, 64 hexadecimal digits
    document: str  # the record as sent, minus control characters, as JSON text
    may_replace: bool = (
        True  # another source's description; False: somebody's own table about a picture of the archive
    )


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A record that cannot be stored, and why."""

    isic_id: str | None  # if it is well formed
    reason: str  # not_an_object, bad_id, wrong_shape, not_storable, too_large, or that of a `RefusedRow`
    detail: str
    document: str  # what was sent, truncated


class RefusedRow(dict[str, Any]):
    """A row of somebody's own table that cannot be a record, in the shape of one: its source knows why."""

    def __init__(self, isic_id: str, *, reason: str, detail: str, source: Mapping[str, Any]) -> None:
        groups: dict[str, Any] = {"acquisition": {}, "clinical": {}}
        super().__init__(isic_id=isic_id, metadata=groups, source=dict(source))
        self.reason = reason
        self.detail = detail


def check_record(value: Any, namespace: str | None = None) -> CheckedRecord | Refusal:
    """Check one item of a page: its id (before it becomes a key), its shape, and that Postgres can store it.

    With the namespace of its source, ids in it are well formed too.
    """
    if isinstance(value, RefusedRow):
        return _refuse(value, value.reason, value.detail, value["isic_id"] or None)
    if not isinstance(value, dict):
        return _refuse(value, "not_an_object", f"{type(value).__name__} found, expected an object")
    isic_id = value.get("isic_id")
    if not isinstance(isic_id, str) or not is_id_of(namespace, isic_id):
        return _refuse(value, "bad_id", f"isic_id is {str(isic_id)[:80]!r}, expected ISIC_ and 7 digits")
    if problem := _shape_problem(value):
        return _refuse(value, "wrong_shape", problem, isic_id)
    try:
        canonical = _canonical_object(value)
        canonical_text = _to_sorted_text(canonical)
        # If nothing had to be normalized, the sorted text is the record itself with its keys in another order.
        document = canonical_text if canonical == value else _to_sorted_text(value)
        size_bytes = len(document.encode())
        cleaned = without_controls(value) if may_have_controls(document) else value
    except (ValueError, RecursionError) as error:  # NaN, infinity, lone surrogates
        return _refuse(value, "not_storable", str(error)[:200], isic_id)
    if "\\u0000" in document and _NUL.search(document):
        return _refuse(value, "not_storable", "holds the character U+0000", isic_id)
    if cleaned != value:
        return check_record(cleaned, namespace)
    if size_bytes > MAX_RECORD_BYTES:
        return _refuse(
            value, "too_large", f"{size_bytes} bytes, expected at most {MAX_RECORD_BYTES}", isic_id
        )
    record_hash = hashlib.sha256(canonical_text.encode()).hexdigest()
    may_replace = namespace is None or not ISIC_ID.fullmatch(isic_id)
    return CheckedRecord(isic_id=isic_id, record_hash=record_hash, document=document, may_replace=may_replace)


def _shape_problem(record: dict[str, Any]) -> str | None:
    metadata = record.get("metadata")
    if not isinstance(metadata, dict):
        return f"metadata is {type(metadata).__name__}, expected an object"
    for group in ("acquisition", "clinical"):
        if not isinstance(metadata.get(group, {}), dict):
            return f"metadata.{group} is {type(metadata[group]).__name__}, expected an object"
    files = record.get("files", {})
    if not isinstance(files, dict):
        return f"files is {type(files).__name__}, expected an object"
    for rendition, file in files.items():
        if not isinstance(file, dict) or not isinstance(file.get("url"), str):
            return f"files.{rendition} has no url, expected an object with a url"
    return None


def _refuse(value: Any, reason: str, detail: str, isic_id: str | None = None) -> Refusal:
    try:
        text = json.dumps(value)[:KEPT_CHARACTERS]  # ASCII only, so that anything can be kept
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is not JSON"
    return Refusal(isic_id=isic_id, reason=reason, detail=printable(detail), document=text)


# Made once: `json.dumps` builds a new encoder at each call that has options.
_to_sorted_text = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
).encode


def _canonical_object(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in which equal values are spelled alike: URLs without query string, decimals normalized.

    "3.50", 3.5 and 3.500 are the same value if the vocabulary has a decimal; so are an absent key and null. Called for
    each record that is read.
    """
    canonical = {}
    for name, value in record.items():
        kind = type(value)
        if kind is dict:
            value = _canonical_object(value)
        elif value is None:
            continue
        elif kind is float or kind is list or name in _NORMALIZED_FIELDS:
            value = _canonical_value(name, value)
        canonical[name] = value
    return canonical


_NORMALIZED_FIELDS = DECIMAL_FIELDS | {"url"}


def _canonical_value(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_canonical_object(v) if isinstance(v, dict) else _canonical_value(name, v) for v in value]
    if name == "url":
        # Links to private images are signed afresh each day; the signature is in the query string.
        return value.partition("?")[0] if isinstance(value, str) else value
    if name in DECIMAL_FIELDS and not isinstance(value, bool):
        return _plain_number(value if isinstance(value, str) else repr(value)) if value is not None else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _plain_number(text: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if not number.is_finite():
        return text
    return str(number.normalize() + 0)  # + 0: no negative zero
