"""A temporary file on the local disk while a step needs it; when a disk fills up, the error says which one."""

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lesion_tasks import UnusableInputError

# NumPy says how many items it could write but sets no errno; the free space on the disk then decides.
_NO_ROOM_BYTES = 1 << 16


@contextlib.contextmanager
def scratch_file(name: str) -> Iterator[Path]:
    """Yield the path of a file with this name in its own folder under TMPDIR, removed at the end.

    Raises UnusableInputError, naming the folder, if the disk fills up while the file is written.
    """
    below = tempfile.gettempdir()
    # Inside the folder's own context: once it is removed, the free space no longer shows that the disk was full.
    told = naming_full_disk(f"scratch folder {below}", Path(below), name)
    with tempfile.TemporaryDirectory() as folder, told:
        yield Path(folder) / name


@contextlib.contextmanager
def naming_full_disk(place: str, folder: Path, what: str) -> Iterator[None]:
    """Turn an OSError caused by a full disk under `folder` into a message for an operator; re-raise all others."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT} or (
            error.errno is None and shutil.disk_usage(folder).free < _NO_ROOM_BYTES
        ):
            raise UnusableInputError(f"{place}: disk full while writing {what!r}") from error
        raise
