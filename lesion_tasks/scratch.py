"""A file on this machine's own disk for as long as a step needs it, and a disk that fills told by its name."""

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lesion_tasks import UnusableInputError

# NumPy says how many items it could write, and no number of an error: then the room that is left tells.
_NO_ROOM_BYTES = 1 << 16


@contextlib.contextmanager
def scratch_file(name: str) -> Iterator[Path]:
    """The path of a file of this name in a folder of its own below TMPDIR, removed at the end.

    Raises UnusableInputError, naming the folder, when the disk fills while it is written.
    """
    below = tempfile.gettempdir()
    # Told before the folder goes, while the room that is left still tells.
    told = naming_full_disk(f"scratch folder {below}", Path(below), name)
    with tempfile.TemporaryDirectory() as folder, told:
        yield Path(folder) / name


@contextlib.contextmanager
def naming_full_disk(place: str, folder: Path, what: str) -> Iterator[None]:
    """Tell an OSError for lack of room on the disk of `folder` in the words of an operator; let others rise."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT} or (
            error.errno is None and shutil.disk_usage(folder).free < _NO_ROOM_BYTES
        ):
            raise UnusableInputError(f"{place}: disk full while writing {what!r}") from error
        raise
