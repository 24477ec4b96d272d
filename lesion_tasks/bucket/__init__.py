"""The bucket door: objects by key, in a directory or in S3, each read held against its SHA-256 where one is stored.

Both keep the same promises. An object is visible whole or not at all. Keys are slash-separated words; a key that could
leave the bucket is refused. Objects that are memory-mapped are returned as a local file: the object itself in a
directory bucket, a cached copy of an S3 object.
"""

from pathlib import Path

from lesion_tasks.bucket.check_sha256 import AlteredObjectError, digest_of_file, get_verified, verified_path
from lesion_tasks.bucket.directory_bucket import DirectoryBucket
from lesion_tasks.bucket.objects import (
    ABANDONED_AFTER_S,
    OCTETS,
    PARTS,
    Bucket,
    MissingObjectError,
    reading_object,
)
from lesion_tasks.bucket.s3_bucket import S3Bucket, naming_s3, s3_client
from lesion_tasks.settings import Settings

__all__ = [
    "ABANDONED_AFTER_S",
    "OCTETS",
    "PARTS",
    "AlteredObjectError",
    "Bucket",
    "DirectoryBucket",
    "MissingObjectError",
    "S3Bucket",
    "digest_of_file",
    "get_verified",
    "naming_s3",
    "open_bucket",
    "reading_object",
    "s3_client",
    "verified_path",
]


def open_bucket(settings: Settings) -> Bucket:
    """Open the bucket of the settings, or raise `UnusableInputError` or `UnavailableError` naming it."""
    if settings.bucket_url.startswith("s3://"):
        return S3Bucket(settings.bucket_url, cache=settings.cache)
    return DirectoryBucket(Path(settings.bucket_url))
