"""A bucket in a directory. What is memory-mapped is the object itself."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket.check_sha256 import digest_of_file
from lesion_tasks.bucket.objects import OCTETS, PARTS, MissingObjectError, checked, remove_abandoned
from lesion_tasks.scratch import naming_full_disk


def _open_private(path: str, flags: int) -> int:
    """Open a new file that only its owner may write."""
    return os.open(path, flags, 0o644)


class DirectoryBucket:
    """A bucket that is a directory. Objects are written in a separate folder and renamed into place."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnusableInputError(f"bucket {self.url}: {error.strerror}, expected a directory") from error
        if not os.access(self.root, os.W_OK):
            raise UnusableInputError(f"bucket {self.url}: not writable")
        self._parts = self.root / PARTS
        remove_abandoned(self._parts)

    def put(self, key: str, data: bytes, *, content_type: str = OCTETS) -> None:
        with self._replacing(key) as temporary, open(temporary, "xb", opener=_open_private) as file:
            file.write(data)

    def put_file(self, key: str, path: Path, *, content_type: str = OCTETS) -> None:
        import shutil

        with self._replacing(key) as temporary:
            temporary.touch(mode=0o644, exist_ok=False)
            shutil.copyfile(path, temporary)

    @contextlib.contextmanager
    def _replacing(self, key: str) -> Iterator[Path]:
        target = self.root / checked(key)
        temporary = self._parts / f".{os.getpid()}-{secrets.token_hex(6)}"
        try:
            if not self._parts.is_dir():
                self._parts.mkdir(parents=True, exist_ok=True)
            with naming_full_disk(f"bucket {self.url}", self.root, key):
                yield temporary
                try:
                    temporary.replace(target)
                except FileNotFoundError:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        try:
            with (self.root / checked(key)).open("rb") as file:
                return file.read(at_most)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise MissingObjectError(key, self.url) from None

    def digest(self, key: str) -> str:
        return digest_of_file(self.local_path(key))

    def exists(self, key: str) -> bool:
        return (self.root / checked(key)).is_file()

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        found = sorted(
            path.relative_to(self.root).as_posix()
            for path in folder.rglob("*")
            if not path.name.startswith(".") and path.is_file()
        )
        yield from (key for key in found if key.startswith(prefix))

    def list_sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for key in self.list_keys(prefix):
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                yield key, (self.root / key).stat().st_size

    def delete(self, key: str) -> None:
        (self.root / checked(key)).unlink(missing_ok=True)

    def local_path(self, key: str) -> Path:
        path = self.root / checked(key)
        if not path.is_file():
            raise MissingObjectError(key, self.url)
        return path
