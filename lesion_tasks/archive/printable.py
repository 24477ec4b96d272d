"""Text from or about an archive -> text that a terminal, a log and a page can show unchanged.

An escape character moves a terminal's cursor or recolours its lines, and a bidirectional override makes a reader see
a different word from the one that is compared. Neither belongs in metadata, so both are removed where text enters.
"""

import re
from typing import Any

# C0 except tab and line ends, DEL, C1, and Unicode's embeddings, overrides and isolates (UAX 9, section 2).
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# The same in JSON, where C0 controls are escaped (\b and \f by a letter). An escaped backslash before them matches too.
_CONTROL_IN_JSON = re.compile("\\\\u00[01][0-9a-f]|\\\\[bf]|[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,}")


def printable(value: object, limit: int = 500) -> str:
    """Text for a message or a detail: one line of at most `limit` ASCII characters, all others escaped.

    Leaves out the memory address that Python shows for an object without a name, so that equal reasons stay equal.
    """
    line = " ".join(_ADDRESS.sub("", str(value)).split())
    return _CONTROL.sub(_escaped, line).encode("ascii", "backslashreplace").decode()[:limit]


def _escaped(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape").decode()


def without_controls(value: Any) -> Any:
    """Remove control characters, including U+0000, from every string of a JSON value, keys too."""
    if isinstance(value, str):
        return _CONTROL.sub("", value)
    if isinstance(value, list):
        return [without_controls(item) for item in value]
    if isinstance(value, dict):
        return {_CONTROL.sub("", name): without_controls(item) for name, item in value.items()}
    return value


def may_have_controls(document: str) -> bool:
    """Tell whether a JSON text (not ASCII-only) may hold control characters; true also for some texts without any."""
    if document.isascii() and not any(sign in document for sign in ("\\u00", "\\b", "\\f", "\x7f")):
        return False  # nearly every record; takes a quarter of the search's time
    return _CONTROL_IN_JSON.search(document) is not None
