"""The bucket door: objects by key, in a directory or in S3, each read held against its SHA-256 where one is stored.

Both keep the same promises. An object is visible whole or not at all. Keys are slash-separated words; a key that could
leave the bucket is refused. Objects that are memory-mapped are returned as a local file: the object itself in a
directory bucket, a cached copy of an S3 object.
"""

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.addresses import masked
from lesion_tasks.scratch import naming_full_disk
from lesion_tasks.settings import Settings

if TYPE_CHECKING:
    from botocore.client import BaseClient

CHUNK_BYTES = 1 << 20
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


class AlteredObjectError(UnusableInputError):
    """An object does not match its stored digest."""


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


def get_verified(bucket: "Bucket", key: str, sha256: str, *, kind: str) -> bytes:
    """Read an object and check it against its stored digest.

    Raises `AlteredObjectError`, worded with `kind` (such as "model"), if they differ, and `MissingObjectError`.
    """
    data = bucket.get(key)
    _hold(hashlib.sha256(data).hexdigest(), sha256, f"{kind} {key}")
    return data


def verified_path(bucket: "Bucket", key: str, sha256: str, *, kind: str) -> Path:
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


def open_bucket(settings: Settings) -> Bucket:
    """Open the bucket of the settings, or raise `UnusableInputError` or `UnavailableError` naming it."""
    if settings.bucket_url.startswith("s3://"):
        return S3Bucket(settings.bucket_url, cache=settings.cache)
    return DirectoryBucket(Path(settings.bucket_url))


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


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key) or len(key) > 900:
        raise ValueError(
            f"{key!r} is not an object key: expected words of A-Z a-z 0-9 _ . = + - between slashes"
        )
    return key


def _open_private(path: str, flags: int) -> int:
    """Open a new file that only its owner may write."""
    return os.open(path, flags, 0o644)


def _remove_abandoned(parts: Path) -> None:
    """Remove what killed writers left behind. It is all in one folder, so looking costs almost nothing."""
    if not parts.is_dir():
        return
    for path in parts.iterdir():
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                path.unlink()


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

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        try:
            with (self.root / _checked(key)).open("rb") as file:
                return file.read(at_most)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise MissingObjectError(key, self.url) from None

    def digest(self, key: str) -> str:
        return digest_of_file(self.local_path(key))

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

    def list_sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for key in self.list_keys(prefix):
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                yield key, (self.root / key).stat().st_size

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
        with naming_s3(self.url):
            client = s3_client()
            client.head_bucket(Bucket=self.bucket_name)
        return client

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{_checked(key)}" if self.prefix else _checked(key)

    def put(self, key: str, data: bytes, *, content_type: str = OCTETS) -> None:
        with naming_s3(self.url, key, "put"):
            self.client.put_object(
                Bucket=self.bucket_name, Key=self._key(key), Body=data, ContentType=content_type
            )

    def put_file(self, key: str, path: Path, *, content_type: str = OCTETS) -> None:
        with path.open("rb") as file, naming_s3(self.url, key, "put"):
            self.client.upload_fileobj(
                file, self.bucket_name, self._key(key), ExtraArgs={"ContentType": content_type}
            )

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        with (
            naming_s3(self.url, key, "get"),
            contextlib.closing(
                self.client.get_object(Bucket=self.bucket_name, Key=self._key(key))["Body"]
            ) as body,
        ):
            data: bytes = body.read(at_most)
        return data

    def digest(self, key: str) -> str:
        found = hashlib.sha256()
        with naming_s3(self.url, key, "get"):
            body = self.client.get_object(Bucket=self.bucket_name, Key=self._key(key))["Body"]
            for chunk in body.iter_chunks(CHUNK_BYTES):
                found.update(chunk)
        return found.hexdigest()

    def exists(self, key: str) -> bool:
        try:
            with naming_s3(self.url, key, "head"):
                self.client.head_object(Bucket=self.bucket_name, Key=self._key(key))
        except MissingObjectError:
            return False
        return True

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        yield from (key for key, _ in self.list_sizes(prefix))

    def list_sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        base = f"{self.prefix}/" if self.prefix else ""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket_name, Prefix=base + prefix
        )
        pages = iter(pages)
        while True:
            with naming_s3(self.url, base + prefix, "list"):
                page = next(pages, None)
            if page is None:
                return
            yield from ((item["Key"].removeprefix(base), item["Size"]) for item in page.get("Contents", ()))

    def delete(self, key: str) -> None:
        with naming_s3(self.url, key, "delete"):
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
            with naming_s3(self.url, key, "get"), naming_full_disk(f"cache {self.cache}", self.cache, key):
                self.client.download_file(self.bucket_name, self._key(key), name)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
        return target


def s3_client() -> "BaseClient":
    """Return an S3 client. All code uses this one, so that it all reaches the same servers."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        config=Config(
            # The standard mode retries throttling, 5xx and broken connections with back-off.
            retries={"mode": "standard", "total_max_attempts": 8},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=32,
            # The checksums that boto3 adds by default since 1.36 are refused by older Ceph, Google's server and others.
            # TCP and TLS check data in transit, and our own digests check what matters.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextlib.contextmanager
def naming_s3(url: str, key: str | None = None, verb: str = "reach") -> Iterator[None]:
    """Report what S3, the network or a setting did wrong in one line with bucket, key and setting.

    Raises MissingObjectError if there is no such object, UnavailableError for what may pass, and UnusableInputError
    for what will stay wrong. The library's own error is not chained: a log would show it in full, with any password
    of the endpoint.
    """
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnectionError
    from urllib3.exceptions import HTTPError

    title = f"bucket {url} (LESION_BUCKET_URL)" + ("" if key is None else f": cannot {verb} {key!r}")
    try:
        yield
    except ClientError as error:
        raise _answer(error, title, key, url) from None
    # Refused, reset, timed out, cut off: a server that may come back.
    except (NoConnectionError, HTTPClientError, HTTPError) as error:
        raise UnavailableError(f"{title}: {_one_line(error)}; {_WHERE}") from None
    # A malformed endpoint, region, profile, proxy or certificate bundle; no credentials.
    except (BotoCoreError, ValueError, OSError) as error:
        if key is not None and not isinstance(error, BotoCoreError):
            raise  # not caused by a setting: the client already exists
        raise UnusableInputError(f"{title}: {_one_line(error)}; {_WHERE}") from None


_WHERE = "the server is the one in AWS_ENDPOINT_URL, or Amazon's if that is unset; see the other AWS_* settings too"
_STATUSES = {
    301: "the bucket is in another region, see AWS_DEFAULT_REGION",
    400: "the server rejects the request, see AWS_DEFAULT_REGION and AWS_ENDPOINT_URL",
    401: "access denied, see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    403: "access denied, see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions",
    404: "no such bucket, see AWS_ENDPOINT_URL",
}


def _answer(error: Any, title: str, key: str | None, url: str) -> Exception:
    """Return the error that an S3 server's answer amounts to."""
    said = error.response.get("Error", {})
    code = str(said.get("Code") or "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if key and code in {"404", "NoSuchKey", "NotFound"}:
        return MissingObjectError(key, url)
    words = _STATUSES.get(status, "see AWS_ENDPOINT_URL")
    found = f"{title}: status {status} {'' if code == str(status) else code}".rstrip()
    message = f"{found}: {words}"
    # 501 is permanent: the server lacks something that the request needs.
    if status == 429 or (status >= 500 and status != 501) or code in {"SlowDown", "RequestTimeout"}:
        return UnavailableError(message)
    return UnusableInputError(message)


def _one_line(error: Exception) -> str:
    return masked(" ".join(str(error).split()))[:300]
