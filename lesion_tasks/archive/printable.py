"""Text from an archive or about one -> text that a terminal, a log and a page can show as it is.

An escape character moves a terminal's cursor or recolours its lines, and a bidirectional override lets a reader see
another word than the one that is compared. Neither is part of any metadata, so both are taken off where text enters.
"""

import re
from typing import Any

# C0 but tab and the line ends, DEL, C1, and Unicode's embeddings, overrides and isolates (UAX 9, section 2).
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# The same in JSON: the C0 controls are escaped there (\b and \f by a letter), and a backslash before may be one too.
_CONTROL_IN_JSON = re.compile("\\\\u00[01][0-9a-f]|\\\\[bf]|[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,}")


def printable(value: object, limit: int = 500) -> str:
    """Words for a message or a detail: one line of at most `limit` ASCII characters, the others escaped.

    Without the address that Python gives an object without a name: equal reasons stay equal.
    """
    line = " ".join(_ADDRESS.sub("", str(value)).split())
    return _CONTROL.sub(_escaped, line).encode("ascii", "backslashreplace").decode()[:limit]


def _escaped(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape").decode()


def without_controls(value: Any) -> Any:
    """Take control characters off every text of a JSON value, keys too; U+0000 as well."""
    if isinstance(value, str):
        return _CONTROL.sub("", value)
    if isinstance(value, list):
        return [without_controls(item) for item in value]
    if isinstance(value, dict):
        return {_CONTROL.sub("", name): without_controls(item) for name, item in value.items()}
    return value


def may_have_controls(document: str) -> bool:
    """Tell whether a JSON text (not ASCII-only) may hold one; true also for some texts that hold none."""
    if document.isascii() and not any(sign in document for sign in ("\\u00", "\\b", "\\f", "\x7f")):
        return False  # nearly every record, for a quarter of the search's time
    return _CONTROL_IN_JSON.search(document) is not None
