"""The bucket door: objects by key, in a directory or in S3, with the same promises.

An object is visible whole or not at all. Keys are slash-separated words; a key that could leave the bucket is
refused. Objects that are read by memory map come as a local file: the object itself in a directory bucket, a
cached copy of an S3 object.
"""

import contextlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.scratch import naming_full_disk
from lesion_tasks.settings import Settings, read_settings

if TYPE_CHECKING:
    from botocore.client import BaseClient

OCTETS = "application/octet-stream"
PARTS = (
    ".parts"  # in a bucket's or a cache's folder: files that are being written; no key part starts with a dot
)
ABANDONED_AFTER_S = 86_400.0  # a writer that has not finished after a day was killed
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*(/[A-Za-z0-9_][A-Za-z0-9_.=+-]*)*")


class MissingObjectError(KeyError):
    """No object has that key."""

    def __init__(self, key: str, url: str) -> None:
        super().__init__(key)
        self.message = f"no object {key!r} in bucket {url}"

    def __str__(self) -> str:
        return self.message


class Bucket(Protocol):
    """What both back ends promise; one contract test runs against each."""

    url: str
    is_local: bool  # reading and writing wait for no network

    def put(self, key: str, data: bytes, *, content_type: str = OCTETS) -> None:
        """Write an object whole, replacing one that is there."""

    def put_file(self, key: str, path: Path, *, content_type: str = OCTETS) -> None:
        """The same from a file, without holding it in memory."""

    def get(self, key: str) -> bytes:
        """Read an object, or raise `MissingObjectError`."""

    def exists(self, key: str) -> bool:
        """Tell whether an object has that key."""

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def local_path(self, key: str) -> Path:
        """Return a local file with the object's bytes, or raise `MissingObjectError`.

        For objects that never change under their key: a cached copy is not compared with the bucket again.
        """


def open_bucket(settings: Settings | None = None) -> Bucket:
    """Open the bucket of the settings, or raise `UnusableInputError` or `UnavailableError` naming it."""
    settings = settings or read_settings()
    if settings.bucket_url.startswith("s3://"):
        return S3Bucket(settings.bucket_url, cache=settings.cache)
    return DirectoryBucket(Path(settings.bucket_url))


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key) or len(key) > 900:
        raise ValueError(f"{key!r} is no object key: expected words of A-Z a-z 0-9 _ . = + - between slashes")
    return key


def _open_private(path: str, flags: int) -> int:
    """Open a new file that its owner alone may write."""
    return os.open(path, flags, 0o644)


def _remove_abandoned(parts: Path) -> None:
    """Remove what killed writers left. All of it lies in one folder, so looking costs next to nothing."""
    if not parts.is_dir():
        return
    for path in parts.iterdir():
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                path.unlink()


class DirectoryBucket:
    """A bucket that is a directory. Objects are written in a folder of its own and renamed into their place."""

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
        _remove_abandoned(self._parts)

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
        target = self.root / _checked(key)
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

    def get(self, key: str) -> bytes:
        try:
            return (self.root / _checked(key)).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise MissingObjectError(key, self.url) from None

    def exists(self, key: str) -> bool:
        return (self.root / _checked(key)).is_file()

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        found = sorted(
            path.relative_to(self.root).as_posix()
            for path in folder.rglob("*")
            if not path.name.startswith(".") and path.is_file()
        )
        yield from (key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        (self.root / _checked(key)).unlink(missing_ok=True)

    def local_path(self, key: str) -> Path:
        path = self.root / _checked(key)
        if not path.is_file():
            raise MissingObjectError(key, self.url)
        return path


class S3Bucket:
    """A bucket in S3 or a server that speaks it. Endpoint and credentials are boto3's own `AWS_*` settings."""

    is_local = False

    def __init__(self, url: str, *, cache: Path) -> None:
        self.url = url.rstrip("/")
        self.bucket_name, _, self.prefix = self.url.removeprefix("s3://").partition("/")
        self.cache = cache / "s3" / self.bucket_name
        _remove_abandoned(self.cache / PARTS)
        self.client = self._connect()

    def _connect(self) -> "BaseClient":
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.exceptions import ConnectionError as NoConnectionError

        # The standard mode retries throttling, 5xx and broken connections with back-off.
        client = boto3.client(
            "s3",
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 8},
                connect_timeout=5,
                read_timeout=60,
                max_pool_connections=32,
            ),
        )
        try:
            client.head_bucket(Bucket=self.bucket_name)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status >= 500 or status == 429:
                raise UnavailableError(f"bucket {self.url}: status {status}") from error
            found = {403: "access denied", 404: "no such bucket"}.get(status, f"status {status}")
            raise UnusableInputError(f"bucket {self.url}: {found}") from error
        # Refused, reset, timed out: a server that may come back.
        except (NoConnectionError, HTTPClientError) as error:
            raise UnavailableError(f"bucket {self.url} cannot be reached: {error}") from error
        except BotoCoreError as error:
            raise UnusableInputError(f"bucket {self.url} cannot be reached: {error}") from error
        return client

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{_checked(key)}" if self.prefix else _checked(key)

    def put(self, key: str, data: bytes, *, content_type: str = OCTETS) -> None:
        self.client.put_object(
            Bucket=self.bucket_name, Key=self._key(key), Body=data, ContentType=content_type
        )

    def put_file(self, key: str, path: Path, *, content_type: str = OCTETS) -> None:
        self.client.upload_file(
            str(path), self.bucket_name, self._key(key), ExtraArgs={"ContentType": content_type}
        )

    def get(self, key: str) -> bytes:
        with self._missing_as_error(key):
            body: bytes = self.client.get_object(Bucket=self.bucket_name, Key=self._key(key))["Body"].read()
        return body

    def exists(self, key: str) -> bool:
        try:
            with self._missing_as_error(key):
                self.client.head_object(Bucket=self.bucket_name, Key=self._key(key))
        except MissingObjectError:
            return False
        return True

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        base = f"{self.prefix}/" if self.prefix else ""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket_name, Prefix=base + prefix
        )
        for page in pages:
            yield from (item["Key"].removeprefix(base) for item in page.get("Contents", ()))

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket_name, Key=self._key(key))

    def local_path(self, key: str) -> Path:
        target = self.cache / self._key(key)
        if target.is_file():
            return target
        parts = self.cache / PARTS
        for folder in (target.parent, parts):
            folder.mkdir(parents=True, exist_ok=True)
        # Downloaded under another name: a killed download never looks like the object.
        handle, name = tempfile.mkstemp(dir=parts)
        os.close(handle)
        try:
            with self._missing_as_error(key), naming_full_disk(f"cache {self.cache}", self.cache, key):
                self.client.download_file(self.bucket_name, self._key(key), name)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
        return target

    @contextlib.contextmanager
    def _missing_as_error(self, key: str) -> Iterator[None]:
        from botocore.exceptions import ClientError

        try:
            yield
        except ClientError as error:
            code: Any = error.response["Error"].get("Code")
            if code in {"404", "NoSuchKey", "NotFound"}:
                raise MissingObjectError(key, self.url) from None
            raise
