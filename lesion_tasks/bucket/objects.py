"""What every bucket promises: objects by key, each visible whole or not at all.

Keys are slash-separated words; a key that could leave the bucket is refused.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from lesion_tasks import UnavailableError, UnusableInputError

OCTETS = "application/octet-stream"
PARTS = (
    ".parts"  # in a bucket's or a cache's folder: files that are being written; no key part starts with a dot
)
ABANDONED_AFTER_S = 86_400.0  # a writer that has not finished after a day was killed
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*(/[A-Za-z0-9_][A-Za-z0-9_.=+-]*)*")


class MissingObjectError(UnusableInputError):
    """No object has that key."""

    def __init__(self, key: str, url: str) -> None:
        super().__init__(f"bucket {url} (LESION_BUCKET_URL): no object {key!r}, expected one")


class Bucket(Protocol):
    """What both back ends promise; the same contract test runs against each."""

    url: str
    is_local: bool  # reading and writing do not use a network

    def put(self, key: str, data: bytes, *, content_type: str = OCTETS) -> None:
        """Write an object whole, replacing an existing one."""

    def put_file(self, key: str, path: Path, *, content_type: str = OCTETS) -> None:
        """Write an object from a file, without holding it in memory."""

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read an object, or its first bytes up to a number of them, or raise `MissingObjectError`."""

    def digest(self, key: str) -> str:
        """SHA-256 of an object as the bucket holds it, in hexadecimal digits, or raise `MissingObjectError`."""

    def exists(self, key: str) -> bool:
        """Tell whether an object has that key."""

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, sorted."""

    def list_sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield the keys that start with `prefix`, sorted, with the size of each object in bytes."""

    def delete(self, key: str) -> None:
        """Remove an object; do nothing if there is none."""

    def local_path(self, key: str) -> Path:
        """Return a local file with the object's bytes, or raise `MissingObjectError`.

        Only for objects that never change under their key: a cached copy is not compared with the bucket again.
        """


@contextlib.contextmanager
def reading_object(bucket: Bucket, key: str) -> Iterator[None]:
    """Report any exception raised while an object's bytes are parsed as a damaged object, in one line.

    Libraries fail in many ways on truncated or foreign bytes. Our own errors pass unchanged.
    """
    try:
        yield
    except (UnusableInputError, UnavailableError, MemoryError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnusableInputError(
            f"bucket {bucket.url} (LESION_BUCKET_URL): object {key!r} is damaged: {words}; expected it whole, as it "
            "was written"
        ) from error


def checked(key: str) -> str:
    if not _KEY.fullmatch(key) or len(key) > 900:
        raise ValueError(
            f"{key!r} is not an object key: expected words of A-Z a-z 0-9 _ . = + - between slashes"
        )
    return key


def remove_abandoned(parts: Path) -> None:
    """Remove what killed writers left behind. It is all in one folder, so looking costs almost nothing."""
    if not parts.is_dir():
        return
    for path in parts.iterdir():
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                path.unlink()
