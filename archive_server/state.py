"""The changes to an archive since it was made <-> one JSON file, so that they survive a restart."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lesion_tasks import UnusableInputError


@dataclass(kw_only=True)
class State:
    """Growth, edits and withdrawals, by id."""

    source: str  # the name of the source this state belongs to
    path: Path | None = None  # where it is kept; None: only in memory
    n_images: int = 0  # after growth; 0: the source's initial number
    n_changes: int = 0  # admin requests that have changed something; salts the next random choice
    edits: dict[str, dict[str, Any]] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    embargoed: list[str] = field(default_factory=list)
    file_revisions: dict[str, int] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file whole: under a temporary name, then renamed."""
        if self.path is None:
            return
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=1))
        temporary.replace(self.path)


def load_state(path: Path | None, source: str) -> State:
    """Read a state file; an absent one is a new archive.

    Raises UnusableInputError if the file is damaged or belongs to another source.
    """
    if path is None or not path.exists():
        return State(source=source, path=path)
    try:
        content = json.loads(path.read_text())
        state = State(**content, path=path)
    except (ValueError, TypeError) as error:
        raise UnusableInputError(
            f"state file {path}: {error}; expected one that this server wrote"
        ) from error
    if state.source != source:
        raise UnusableInputError(
            f"state file {path}: found the state of {state.source!r}, expected that of {source!r}; "
            "remove it or name another"
        )
    return state
