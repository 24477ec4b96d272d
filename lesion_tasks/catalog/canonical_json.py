"""A value -> the bytes of JSON that its digest is taken over: the same for equal values, on every machine."""

import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Keys sorted, no spaces, ASCII alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
