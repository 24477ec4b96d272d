"""A whole bucket -> one tar on standard output, and back, for backups of the team's stack.

    python -m lesion_tasks.deployment.bucket_tar save > bucket.tar
    python -m lesion_tasks.deployment.bucket_tar load < bucket.tar

It holds everything in the bucket of LESION_BUCKET_URL, also objects outside its prefix, such as task logs. One object
at a time is held in memory. `load` replaces objects with the same key and removes nothing.
"""

import io
import sys
import tarfile
from typing import TYPE_CHECKING, BinaryIO

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.bucket import naming_s3, s3_client
from lesion_tasks.metrics.counted import plural
from lesion_tasks.settings import read_settings

if TYPE_CHECKING:
    from botocore.client import BaseClient

CONTENT_TYPE = "content-type"


def save(client: "BaseClient", bucket_name: str, stream: BinaryIO) -> int:
    """Write every object of a bucket into an uncompressed tar; return how many."""
    n_objects = 0
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket_name):
            for item in page.get("Contents", ()):
                found = client.get_object(Bucket=bucket_name, Key=item["Key"])
                data = found["Body"].read()
                member = tarfile.TarInfo(item["Key"])
                member.size = len(data)
                member.mtime = int(item["LastModified"].timestamp())
                member.pax_headers = {CONTENT_TYPE: found["ContentType"]}
                tar.addfile(member, io.BytesIO(data))
                n_objects += 1
    return n_objects


def load(client: "BaseClient", bucket_name: str, stream: BinaryIO) -> int:
    """Put every member of such a tar into a bucket; return how many.

    Raises UnusableInputError on a member that is not a plain file, and on a tar that ends too early.
    """
    n_objects = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is None:
                    raise UnusableInputError(f"tar member {member.name!r}: expected a plain file")
                # Nothing is unpacked to a disk, so a name cannot lead outside the bucket.
                client.put_object(
                    Bucket=bucket_name,
                    Key=member.name,
                    Body=file.read(),
                    ContentType=member.pax_headers.get(CONTENT_TYPE, "application/octet-stream"),
                )
                n_objects += 1
    except tarfile.TarError as error:
        raise UnusableInputError(
            f"tar after {plural(n_objects, 'object')}: {error}, expected what `save` wrote"
        ) from error
    return n_objects


def main() -> None:
    """See the module."""
    words = sys.argv[1:]
    try:
        url = read_settings().bucket_url
        if words not in (["save"], ["load"]):
            raise UnusableInputError(f"{' '.join(words)!r}: expected save or load")
        if not url.startswith("s3://"):
            raise UnusableInputError(
                f"bucket {url}: copy a directory with cp or rsync; expected s3://bucket/prefix"
            )
        bucket_name = url.removeprefix("s3://").partition("/")[0]
        with naming_s3(url):
            client = s3_client()
            if words == ["save"]:
                n_objects = save(client, bucket_name, sys.stdout.buffer)
            else:
                n_objects = load(client, bucket_name, sys.stdin.buffer)
    except (UnusableInputError, UnavailableError) as error:
        sys.exit(f"lesion: {error}")
    print(plural(n_objects, "object"), file=sys.stderr)


if __name__ == "__main__":
    main()
