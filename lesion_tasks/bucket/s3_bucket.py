"""A bucket in S3, or in a server that speaks it. What is memory-mapped is a cached copy."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.addresses import masked
from lesion_tasks.bucket.objects import OCTETS, PARTS, MissingObjectError, checked, remove_abandoned
from lesion_tasks.scratch import naming_full_disk

if TYPE_CHECKING:
    from botocore.client import BaseClient

CHUNK_BYTES = 1 << 20


class S3Bucket:
    """A bucket in S3 or a server that speaks it. Endpoint and credentials are boto3's own `AWS_*` settings."""

    is_local = False

    def __init__(self, url: str, *, cache: Path) -> None:
        self.url = url.rstrip("/")
        self.bucket_name, _, self.prefix = self.url.removeprefix("s3://").partition("/")
        self.cache = cache / "s3" / self.bucket_name
        remove_abandoned(self.cache / PARTS)
        self.client = self._connect()

    def _connect(self) -> "BaseClient":
        with naming_s3(self.url):
            client = s3_client()
            client.head_bucket(Bucket=self.bucket_name)
        return client

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{checked(key)}" if self.prefix else checked(key)

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
