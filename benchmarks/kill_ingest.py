"""Ingestion killed at random moments, against a faulty archive, ends in what an undisturbed run leaves.

    python -m benchmarks.kill_ingest --kills 50
    python -m benchmarks.kill_ingest --kills 10 --restart-postgres
    python -m benchmarks.kill_ingest --kills 10 --s3-start "command that starts it" --s3-pids "folder/*.pid"

Two runs through the same story (an archive that is read, grows, is edited and loses images) on the same port: one
undisturbed, one with 5 % of all answers faulty and the process killed with SIGKILL at random moments, again and
again until each chapter is complete. Then rows, versions and objects are compared, all of them. Instead of the run,
the database under it can be restarted, or an S3 server killed with SIGKILL and started again: that server's
address and secrets are boto3's own AWS_* variables, and it must keep what it acknowledged.
"""

import glob
import hashlib
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import click
from sqlalchemy import make_url, text

FAULTS = "429=0.005,500=0.005,502=0.005,503=0.005,reset=0.01,truncate=0.01,wrong=0.005,html200=0.0025,html502=0.0025"
# Each chapter changes the archive and is then ingested completely.
CHAPTERS: tuple[tuple[str, ...], ...] = (
    (),
    ("grow?images=60&embargoed=6",),
    ("edit?images=12&kind=metadata", "edit?images=5&kind=relabel"),
    ("withdraw?images=4", "release?images=6"),
    ("grow?images=40", "edit?images=4&kind=relicense"),
)
OPEN = "from lesion_tasks.workspace import open_workspace; "
RUN = OPEN + "from lesion_tasks.ingest.passes import ingest; ingest(open_workspace(), sweep_share=1.0)"
CONFIRM = (
    OPEN + "from datetime import timedelta; from lesion_tasks.ingest.reconcile import reconcile_records as r;"
    "r(open_workspace(), confirm_after=timedelta(0))"
)
TABLES = {
    "record": "SELECT isic_id, version, missing_since IS NULL, withdrawn_at IS NULL FROM record",
    "record_version": "SELECT isic_id, version, record_hash, document::text FROM record_version",
    "scope_record": "SELECT scope_id, isic_id, record_hash, missing_since IS NULL FROM scope_record",
    "withdrawal": "SELECT isic_id, returned_at IS NULL FROM withdrawal",
    "refused_record": "SELECT refusal_id, reason FROM refused_record",
    "stored_file": "SELECT isic_id, rendition, url, object_key, size_bytes, sha256, perceptual_hash, reason "
    "FROM stored_file",
    "scope": "SELECT scope_id, watermark_at, next_cursor FROM scope",
}


@dataclass(kw_only=True)
class Killing:
    """How often and when to kill, and what: the run itself, or something under it."""

    n_kills: int
    longest_s: float
    seed: int = 0
    restart: Callable[[], None] | None = None  # called instead of killing the run
    done: int = 0
    n_at_work: int = 0  # of them in a run that had begun to read, and not while it was starting
    n_red: int = 0  # runs that ended with an error because of it
    moments_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)


@contextmanager
def archive_server(source: str, port: int, faults: str = "", latency_ms: float = 0) -> Iterator[str]:
    """Serve a source in a process of its own and yield its origin."""
    command = [sys.executable, "-m", "archive_server", "--port", str(port), "--source", source]
    command += ["--faults", faults, "--latency-ms", str(latency_ms), "--keep-files", "5000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(" at ")[1].strip().removesuffix("/api/v2/")
        finally:
            process.terminate()


def tell(origin: str, change: str) -> None:
    """Change the archive."""
    with urlopen(Request(f"{origin}/admin/{change}", method="POST")):  # noqa: S310 - our own server
        pass


def live_through(
    origin: str,
    environment: dict[str, str],
    killing: Killing | None,
    chapters: tuple[tuple[str, ...], ...] = CHAPTERS,
) -> None:
    """Ingest every chapter completely, killed or not."""
    environment = environment | {"LESION_ARCHIVE_URL": f"{origin}/api/v2/", "LESION_QUERY": ""}
    for number, changes in enumerate(chapters):
        for change in changes:
            tell(origin, change)
        if killing is not None:
            n_chapters_left = len(chapters) - number
            _kill_runs(environment, killing, -(-(killing.n_kills - killing.done) // n_chapters_left))
        _run(environment, RUN)
    _run(environment, CONFIRM)
    _run(environment, CONFIRM)


def _kill_runs(environment: dict[str, str], killing: Killing, n_kills: int) -> None:
    """Start runs and kill them; one that ends before its moment does not count, and its moment comes earlier."""
    longest_s = killing.longest_s
    while n_kills:
        moment_s = killing.random.uniform(0.3, longest_s)
        started_at = datetime.now(UTC)
        with subprocess.Popen([sys.executable, "-c", RUN], env=environment) as process:
            try:
                process.wait(moment_s)
            except subprocess.TimeoutExpired:
                if killing.restart is None:
                    process.send_signal(signal.SIGKILL)
                else:
                    killing.n_at_work += _has_begun(environment, started_at)
                    killing.restart()
                process.wait()
                killing.n_at_work += killing.restart is None and _has_begun(environment, started_at)
                killing.n_red += killing.restart is not None and process.returncode != 0
                n_kills -= 1
                killing.done += 1
                killing.moments_s.append(moment_s)
            else:
                longest_s = max(0.6, 0.8 * longest_s)


def _has_begun(environment: dict[str, str], started_at: datetime) -> bool:
    """Tell whether the run that started then has made its first note."""
    from lesion_tasks.database.connection import engine_for

    with engine_for(environment["LESION_DATABASE_URL"]).connect() as connection:
        polled_at = connection.scalar(text("SELECT max(polled_at) FROM scope"))
    return polled_at is not None and polled_at >= started_at


def _run(environment: dict[str, str], code: str) -> None:
    """Run to the end; a red run is run again, as a scheduler would."""
    for _ in range(5):
        result = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        if result.returncode == 0:
            return
    raise SystemExit(f"five runs in a row failed: {code}")


def left_behind(environment: dict[str, str]) -> dict[str, Any]:
    """Return every row, by table, and every object's digest, by key."""
    from lesion_tasks.bucket import open_bucket
    from lesion_tasks.database.connection import engine_for
    from lesion_tasks.settings import read_settings

    found: dict[str, Any] = {}
    with engine_for(environment["LESION_DATABASE_URL"]).connect() as connection:
        for table, statement in TABLES.items():
            found[table] = sorted(tuple(map(str, row)) for row in connection.execute(text(statement)))
    bucket = open_bucket(read_settings(environment))
    found["objects"] = {
        key: hashlib.sha256(bucket.get(key)).hexdigest() for key in bucket.list_keys("images/")
    }
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Say where two states differ."""
    found = []
    for name in one:
        if one[name] != other[name]:
            only_one = set(one[name]) - set(other[name])
            only_other = set(other[name]) - set(one[name])
            found.append(f"{name}: {sorted(only_one)[:3]} against {sorted(only_other)[:3]}")
    return found


def environment_for(server_url: str, folder: Path, name: str, bucket_url: str = "") -> dict[str, str]:
    """Make a fresh, migrated database for one run, and name an empty bucket: below `folder`, or where told."""
    from lesion_tasks.database.connection import engine_for, migrate

    administration = make_url(server_url).set(database="postgres").render_as_string(hide_password=False)
    with engine_for(administration).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    migrate(url)
    own = {
        "LESION_HOME": str(folder),
        "LESION_DATABASE_URL": url,
        "LESION_BUCKET_URL": f"{bucket_url or folder / 'bucket'}-{name}",
    }
    return {**os.environ, **own, "PYTHONPATH": str(Path(__file__).parent.parent)}


def new_s3_bucket() -> str:
    """Create a bucket on the server of the AWS_* variables, and return the URL of a place in it."""
    import boto3

    bucket = f"lesion-kill-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/run"


def restart_s3(start: str, pid_files: str) -> None:
    """Kill every process that the files name, and start the server again."""
    pids = [int(Path(path).read_text()) for path in glob.glob(pid_files)]  # noqa: PTH207 - a pattern, not a folder
    if not pids:
        raise SystemExit(f"{pid_files}: no such file, expected process ids of the S3 server")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while any(Path(f"/proc/{pid}/cmdline").exists() and _is_alive(pid) for pid in pids):
        time.sleep(0.05)
    subprocess.run(shlex.split(start), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _is_alive(pid: int) -> bool:
    """Tell a process from what is left of one until its parent looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@click.command()
@click.option("--kills", default=50, show_default=True)
@click.option("--images", default=400, show_default=True)
@click.option("--longest-s", default=4.0, show_default=True, help="Latest moment of a kill.")
@click.option("--seed", default=0, show_default=True)
@click.option("--latency-ms", default=5.0, show_default=True)
@click.option("--restart-postgres", is_flag=True, help="Restart the database under a run, not kill the run.")
@click.option("--s3-start", default="", help="Kill and restart an S3 server: the command that starts it.")
@click.option("--s3-pids", default="", help="Pattern of the files that hold its process ids.")
def main(
    kills: int,
    images: int,
    longest_s: float,
    seed: int,
    latency_ms: float,
    restart_postgres: bool,
    s3_start: str,
    s3_pids: str,
) -> None:
    """Compare a killed story with an undisturbed one; exit status 1 where they differ."""
    from lesion_tasks.database.embedded import postgres

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        server_url = postgres.ensure_running(home)
        killing = Killing(n_kills=kills, longest_s=longest_s, seed=seed)

        def restart_database() -> None:
            postgres.stop(home)
            assert postgres.ensure_running(home) == server_url

        if restart_postgres:
            killing.restart = restart_database
        if s3_start:
            killing.restart = lambda: restart_s3(s3_start, s3_pids)
        bucket_url = new_s3_bucket() if s3_start else ""
        try:
            started = time.monotonic()
            undisturbed = environment_for(server_url, home, "undisturbed", bucket_url)
            with archive_server(f"synthetic:{images}:1", 0) as origin:
                port = int(origin.rpartition(":")[2])
                live_through(origin, undisturbed, None)
            print(f"undisturbed: {time.monotonic() - started:.0f} s")
            started = time.monotonic()
            disturbed = environment_for(server_url, home, "disturbed", bucket_url)
            with archive_server(f"synthetic:{images}:1", port, f"{FAULTS},seed={seed}", latency_ms) as origin:
                live_through(origin, disturbed, killing)
            print(
                f"disturbed: {killing.done} kills, {killing.n_at_work} of them after the run had begun to read, "
                f"{killing.n_red} runs red of it, in {time.monotonic() - started:.0f} s"
            )
            expected, found = left_behind(undisturbed), left_behind(disturbed)
        finally:
            postgres.stop(home)
    for table, content in expected.items():
        print(f"  {table}: {len(content)}")
    if wrong := differences(expected, found):
        raise SystemExit("DIFFERENT\n" + "\n".join(wrong))
    print("the same rows, versions and objects")


if __name__ == "__main__":
    main()
