"""An object or file and the SHA-256 that was stored of it -> its bytes, or an error that says that it was altered."""

import hashlib
from pathlib import Path

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket.objects import Bucket


class AlteredObjectError(UnusableInputError):
    """An object does not match its stored digest."""


def get_verified(bucket: Bucket, key: str, sha256: str, *, kind: str) -> bytes:
    """Read an object and check it against its stored digest.

    Raises `AlteredObjectError`, worded with `kind` (such as "model"), if they differ, and `MissingObjectError`.
    """
    data = bucket.get(key)
    _hold(hashlib.sha256(data).hexdigest(), sha256, f"{kind} {key}")
    return data


def verified_path(bucket: Bucket, key: str, sha256: str, *, kind: str) -> Path:
    """The same for an object that is read by memory map: a local file with its bytes."""
    path = bucket.local_path(key)
    found = digest_of_file(path)
    if found != sha256 and not bucket.is_local:
        # Perhaps only the cached copy was damaged.
        path.unlink(missing_ok=True)
        path = bucket.local_path(key)
        found = digest_of_file(path)
    _hold(found, sha256, f"{kind} {key}")
    return path


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hold(found: str, sha256: str, what: str) -> None:
    if found != sha256:
        raise AlteredObjectError(
            f"{what}: SHA-256 is {found[:12]}, expected {sha256[:12]}: it was changed after it was stored; "
            "`lesion verify` repairs what can be made again"
        )
