"""What a deployment needs before its services start: both databases migrated, pools, bucket, the UI's password.

    python -m lesion_tasks.deployment.prepare_services

Run by the compose file's `init` service before any other; safe to run again at every start.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import text

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.bucket import naming_s3, s3_client
from lesion_tasks.catalog.pools import POOLS
from lesion_tasks.database.connection import database_url, engine_for, migrate
from lesion_tasks.settings import read_settings

# Accounts of the compose file's own S3 server; each has a document of rights, mounted from deploy/s3.
ACCOUNTS = ("tasks", "logs", "reader")
RIGHTS = Path("/opt/lesion/s3")


def main() -> None:
    """Prepare everything, or end with the first thing that is wrong."""
    try:
        settings = read_settings()
        url = database_url(settings)
        migrate(url)
        _let_reader_read(url)
        _create_bucket(settings.bucket_url)
        _share_bucket(settings.bucket_url)
    except (UnusableInputError, UnavailableError) as error:
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


def _let_reader_read(url: str) -> None:
    """Grant the UI's role every table of now, if there is such a role: docker/postgres-reader.sh creates it."""
    with engine_for(url).begin() as connection:
        connection.execute(
            text("""
                DO $$ BEGIN
                    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'lesions_reader') THEN
                        EXECUTE format('GRANT CONNECT ON DATABASE %I TO lesions_reader', current_database());
                        GRANT USAGE ON SCHEMA public TO lesions_reader;
                        GRANT SELECT ON ALL TABLES IN SCHEMA public TO lesions_reader;
                    END IF;
                END $$
            """)
        )


def _create_bucket(url: str) -> None:
    """Create the bucket of an s3:// URL if it does not exist; directories are created when opened."""
    if not url.startswith("s3://"):
        return
    with naming_s3(url):
        client = s3_client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=_name_of(url))


def _name_of(url: str) -> str:
    """The bucket of an s3:// URL, without its prefix."""
    return url.removeprefix("s3://").partition("/")[0]


def _share_bucket(url: str) -> None:
    """Open the bucket of the compose file's own S3 server to its accounts, each with the rights of its document.

    Any other S3 gives its users their rights itself.
    """
    if os.environ.get("S3_ENDPOINT_URL"):
        return
    accounts = {who: os.environ.get(f"S3_{who.upper()}_ACCESS_KEY") for who in ACCOUNTS}
    principals = {who: key for who, key in accounts.items() if key}
    if not url.startswith("s3://") or not principals:
        return
    bucket = _name_of(url)
    with naming_s3(url):
        s3_client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(bucket_policy(bucket, principals)))


def bucket_policy(bucket: str, principals: dict[str, str]) -> dict[str, Any]:
    """The policy that gives each account of `principals` the rights of its document in the folder `RIGHTS`."""
    statements = []
    for who, principal in principals.items():
        document = (
            (RIGHTS / f"{who}.json").read_text().replace("arn:aws:s3:::lesion", f"arn:aws:s3:::{bucket}")
        )
        statements += [
            {**statement, "Principal": {"AWS": [principal]}}
            for statement in json.loads(document)["Statement"]
        ]
    return {"Version": "2012-10-17", "Statement": statements}


def _write_password(path: Path, password: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"admin": password}, file)


if __name__ == "__main__":
    main()
