"""What a deployment needs before its services start: both databases migrated, pools, bucket, the UI's password.

    python -m lesion_tasks.deployment.prepare_services

Run by the compose file's `init` service before any other; safe to run again at every start.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.ingest_passes import POOLS
from lesion_tasks.database.connection import migrate
from lesion_tasks.settings import read_settings


def main() -> None:
    """Prepare everything, or end with the first thing that is wrong."""
    settings = read_settings()
    try:
        migrate(settings.database_url)
        _create_bucket(settings.bucket_url)
    except UnusableInputError as error:
        sys.exit(f"lesion: {error}")
    subprocess.run(["airflow", "db", "migrate"], check=True)
    # One command for all of them: each costs seconds to start.
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        pools = {
            name: {"slots": slots, "description": what, "include_deferred": True}
            for name, (slots, what) in POOLS.items()
        }
        json.dump(pools, file)
        file.flush()
        subprocess.run(["airflow", "pools", "import", file.name], check=True)
    _write_password(
        Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]),
        os.environ["AIRFLOW_UI_PASSWORD"],
    )


def _create_bucket(url: str) -> None:
    """Create the bucket of an s3:// URL where there is none; directories make themselves."""
    if not url.startswith("s3://"):
        return
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    name = url.removeprefix("s3://").partition("/")[0]
    client = boto3.client("s3")
    try:
        client.create_bucket(Bucket=name)
    except client.exceptions.BucketAlreadyOwnedByYou:
        return
    except ClientError as error:
        raise UnusableInputError(f"bucket {name!r} cannot be created: {error}") from error
    except BotoCoreError as error:
        raise UnusableInputError(f"bucket {name!r} cannot be reached: {error}") from error


def _write_password(path: Path, password: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"admin": password}, file)


if __name__ == "__main__":
    main()
