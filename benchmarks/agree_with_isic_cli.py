"""isic-cli as an independent judge: what it downloads and what our ingestion stored agree, field by field.

    python -m benchmarks.agree_with_isic_cli --isic-python ENVIRONMENT/bin/python

Both read the same local archive, one after the other. Compared are every field of every record with the peer's
`metadata.csv`, and every full image byte by byte. The environment needs Python 3.12 or newer and isic-cli 12.7.0.
"""

import csv
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click
from sqlalchemy import text

from benchmarks.ingest import peer_download
from benchmarks.kill_ingest import archive_server, environment_for
from lesion_tasks.workspace import open_workspace

RECORD_FIELDS = ("isic_id", "attribution", "copyright_license")


def as_row(document: dict[str, Any]) -> dict[str, str]:
    """Flatten a record as the peer writes it; absent values are left out."""
    flat = {field: document.get(field) for field in RECORD_FIELDS}
    for group in ("acquisition", "clinical"):
        flat |= document["metadata"].get(group, {})
    return {field: str(value) for field, value in flat.items() if value is not None}


def differences(expected: Path, environment: dict[str, str]) -> list[str]:
    """Compare the peer's folder with our database and bucket; return what differs."""
    from lesion_tasks.bucket import open_bucket
    from lesion_tasks.database.connection import engine_for
    from lesion_tasks.settings import read_settings

    with (expected / "metadata.csv").open(newline="") as stream:
        theirs = {row["isic_id"]: {k: v for k, v in row.items() if v != ""} for row in csv.DictReader(stream)}
    with engine_for(environment["LESION_DATABASE_URL"]).connect() as connection:
        documents = connection.scalars(
            text("SELECT document FROM record JOIN record_version USING (isic_id, version)")
        )
        ours = {document["isic_id"]: as_row(document) for document in documents}
        keys = connection.execute(text("SELECT isic_id, object_key FROM stored_file WHERE reason IS NULL"))
        key_by_id = {row.isic_id: row.object_key for row in keys}
    found = [f"record {isic_id}: on one side only" for isic_id in theirs.keys() ^ ours.keys()]
    for isic_id in theirs.keys() & ours.keys():
        for field in theirs[isic_id].keys() | ours[isic_id].keys():
            one, other = theirs[isic_id].get(field), ours[isic_id].get(field)
            if one != other:
                found.append(f"record {isic_id}, {field}: isic-cli has {one!r}, we have {other!r}")
    files = {path.stem: path for path in expected.glob("ISIC_*.*")}
    found += [f"file {isic_id}: on one side only" for isic_id in files.keys() ^ key_by_id.keys()]
    bucket = open_bucket(read_settings(environment))
    for isic_id in files.keys() & key_by_id.keys():
        if files[isic_id].read_bytes() != bucket.get(key_by_id[isic_id]):
            found.append(f"file {isic_id}: other bytes")
    click.echo(
        f"{len(theirs):,} records, {sum(map(len, theirs.values())):,} values, {len(files):,} files compared"
    )
    return found


@click.command()
@click.option("--source", default="synthetic:500:1", show_default=True, help="What the local archive serves.")
@click.option("--query", default="", help="Search DSL; empty: everything.")
@click.option("--isic-python", required=True, help="Python of an environment with isic-cli.")
def main(source: str, query: str, isic_python: str) -> None:
    """Exit status 1 where they differ."""
    from lesion_tasks.database.embedded import postgres

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        try:
            environment = environment_for(postgres.ensure_running(home), home, "agreement")
            with archive_server(source, 0) as origin:
                peer = peer_download(isic_python, origin)
                peer += [*(["--search", query] if query else []), str(home / "peer")]
                subprocess.run(peer, check=True, stdout=subprocess.DEVNULL)
                environment["LESION_ARCHIVE_URL"] = f"{origin}/api/v2/"
                os.environ.update(environment)
                from lesion_tasks.ingest.passes import ingest

                ingest(open_workspace(), query=query, rendition="full")
            found = differences(home / "peer", environment)
        finally:
            postgres.stop(home)
    if found:
        raise SystemExit("DIFFERENT\n" + "\n".join(sorted(found)[:20]))
    click.echo("they agree")


if __name__ == "__main__":
    main()
