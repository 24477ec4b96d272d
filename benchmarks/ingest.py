"""Ingestion against `isic image download`, and against merely downloading and parsing the same pages.

    make bench-ingest ISIC_PYTHON=ENVIRONMENT/bin/python

Same server, same files, one run. The peer is isic-cli 12.7.0 in an environment of its own (Python 3.12 or newer). Ours
verifies, hashes, stores and commits; the peer writes files. Times are those of whole commands, with the start of the
interpreter and the loading of modules; what each took from the call on is printed beside them.

- First download: both read the listing and all files. Added latency is a round trip: every answer is that much later,
  and so is the first one on a connection once more, for its handshake. isic-cli has ten threads and opens a connection
  for each file; we keep ours open, `--connections` of them. Without latency the first number given is used; with it
  each is tried, and the last is held to the target.
- Nothing new: both are called again. Judged for an archive of the size of the largest `--records`, of which the peer
  has every file (empty ones of the right length, which is all that it looks at) and we have every row.
- Records: our append pass, against asking for the same pages and parsing them with the same HTTP client.

The last line is a JSON object; `passed` tells whether all targets were met.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
from PIL import Image
from sqlalchemy import text

from benchmarks.kill_ingest import archive_server, environment_for

MIN_RATIO_BY_LATENCY = {0.0: 2.0, 30.0: 3.0}
MIN_NOTHING_NEW_RATIO = 100.0
MAX_RECORDS_RATIO = 2.0
MAX_MEMORY_RATIO = 1.2

# The last line of standard error: seconds from the call on, and the peak of memory. (What the kernel tells of a child
# that ended includes its parent's memory at the fork.)
TIMED = """
import sys, time
{imports}
t = time.perf_counter()
try:
    {call}
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(time.perf_counter() - t, peak.split()[1], file=sys.stderr)
"""
OURS = TIMED.format(
    imports="from lesion_tasks.ingest.passes import ingest; from lesion_tasks.workspace import open_workspace",
    call="ingest(open_workspace(), passes={passes}, rendition='full', query='', n_connections={n_connections})",
)
PEER = TIMED.format(
    imports="import isic_cli.cli as c; c.DOMAINS['dev'] = sys.argv.pop(1)",
    call="c.main()",
)
# What any reader of the listing has to do: ask for each page and parse it.
PAGES = TIMED.format(
    imports="""
import asyncio, json, aiohttp
async def main(url):
    async with aiohttp.ClientSession() as session:
        while url:
            async with session.get(url) as answer:
                url = json.loads(await answer.read())["next"]
""",
    call="asyncio.run(main(sys.argv[1] + '/api/v2/images/search/?limit=100'))",
)
# What a finished download of every file leaves behind, without the download.
HAVE_EVERY_FILE = """
    INSERT INTO stored_file (isic_id, rendition, url, object_key, size_bytes, sha256, perceptual_hash, thumbprint,
                             record_size_bytes, width_px, height_px, fetched_at)
    SELECT isic_id, 'full', split_part(file ->> 'url', '?', 1), 'images/full/' || isic_id || '.jpg', size,
           md5(isic_id) || md5(isic_id || 'f'), hashtext(isic_id), decode(repeat(md5(isic_id), 16), 'hex'),
           size, 600, 450, now()
    FROM record_version, LATERAL (SELECT document -> 'files' -> 'full' AS file) AS f,
         LATERAL (SELECT (file ->> 'size')::bigint AS size) AS s
    ORDER BY isic_id
"""


def peer_download(isic_python: str, origin: str) -> list[str]:
    """The command with which isic-cli downloads images from a server of ours; options and the folder follow."""
    command = (isic_python, "-c", PEER, origin, "--dev", "--guest", "--no-version-check", "image", "download")
    return list(command)


def our_ingest(passes: Sequence[str], n_connections: int = 10) -> list[str]:
    """The command that ingests what the environment says."""
    return [sys.executable, "-c", OURS.format(passes=tuple(passes), n_connections=n_connections)]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process took."""

    wall_s: float
    call_s: float  # without the start of the interpreter and the loading of modules
    cpu_s: float  # of the process alone, without server and database
    peak_mb: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """One comparison that was made, and what it should show."""

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    target: float | None  # None: for information
    is_limit: bool = False  # the ratio should be at most the target

    @property
    def passed(self) -> bool:
        if self.target is None:
            return True
        return self.ratio <= self.target if self.is_limit else self.ratio >= self.target


def cost_of(command: Sequence[str], environment: dict[str, str] | None = None) -> Cost:
    """Run a process to its end and measure it. Modules are compiled once for both, as in any installation."""
    environment = dict(os.environ if environment is None else environment)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    words = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{words[-2000:]}")
    call_s, peak_kb = words.splitlines()[-1].split()
    return Cost(
        wall_s=wall_s,
        call_s=float(call_s),
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mb=int(peak_kb) / 1024,
    )


def write_download(folder: Path, n_images: int, width_px: int) -> None:
    """Draw a download folder; the same pictures each time."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["isic_id", "attribution", "copyright_license", "image_type", "diagnosis_1", "sex"])
        for number in sorted(random.choice(10**7, n_images, replace=False)):
            writer.writerow([f"ISIC_{number:07d}", "A hospital", "CC-0", "dermoscopic", "Benign", "male"])
            coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
            picture = coarse.resize((width_px, width_px * 3 // 4), Image.Resampling.BICUBIC)
            picture.save(folder / "images" / f"ISIC_{number:07d}.jpg", quality=85)


def compare_downloads(
    server_url: str,
    home: Path,
    n_images: int,
    latency_ms: float,
    connections: Sequence[int],
    isic_python: str,
) -> list[Target]:
    """Images the first time, and again with nothing new."""
    found: list[Target] = []
    passes = ("append", "fetch")
    with archive_server(str(home / "download"), 0, latency_ms=latency_ms) as origin:
        # The peer first: what the server keeps in memory then favours us as little as possible.
        peer = [*peer_download(isic_python, origin), str(home / f"peer-{latency_ms:g}")]
        theirs = cost_of(peer)
        _print(f"isic-cli, {latency_ms:g} ms", theirs)
        for n_connections in connections:
            environment = environment_for(server_url, home, f"latency_{latency_ms:g}_{n_connections}")
            environment["LESION_ARCHIVE_URL"] = f"{origin}/api/v2/"
            own = cost_of(our_ingest(passes, n_connections), environment)
            _print(f"ours, {latency_ms:g} ms, {n_connections} connections", own)
            is_judged = n_connections == connections[-1]
            found.append(
                Target(
                    name=f"{n_images:,} images, {latency_ms:g} ms, {n_connections} connections",
                    ours=n_images / own.wall_s,
                    peer=n_images / theirs.wall_s,
                    unit="images/s",
                    ratio=theirs.wall_s / own.wall_s,
                    target=MIN_RATIO_BY_LATENCY.get(latency_ms) if is_judged else None,
                )
            )
        found += _again(
            f"{n_images:,} images, {latency_ms:g} ms", peer, our_ingest(passes), environment, None
        )
    return found


def _again(
    title: str, peer: list[str], ours: list[str], environment: dict[str, str], target: float | None
) -> list[Target]:
    """Both once more, where nothing is new: as commands, and from the call on."""
    theirs, own = cost_of(peer), cost_of(ours, environment)
    _print(f"isic-cli again, {title}", theirs)
    _print(f"ours again, {title}", own)
    pairs = (
        ("whole command", own.wall_s, theirs.wall_s, target),
        ("from the call on", own.call_s, theirs.call_s, None),
    )
    return [
        Target(
            name=f"nothing new, {title}, {what}",
            ours=our_s,
            peer=their_s,
            unit="s",
            ratio=their_s / our_s,
            target=wanted,
        )
        for what, our_s, their_s, wanted in pairs
    ]


def compare_records(server_url: str, home: Path, counts: Sequence[int], isic_python: str) -> list[Target]:
    """Metadata alone, against downloading and parsing the same pages; peak memory by size; then nothing new."""
    found: list[Target] = []
    costs: dict[int, Cost] = {}
    for n_records in sorted(counts):
        is_largest = n_records == max(counts)
        environment = environment_for(server_url, home, f"records_{n_records}")
        with archive_server(f"synthetic:{n_records}:1", 0) as origin:
            environment["LESION_ARCHIVE_URL"] = f"{origin}/api/v2/"
            pages = cost_of([sys.executable, "-c", PAGES, origin])
            _print(f"pages of {n_records:,} records", pages)
            own = costs[n_records] = cost_of(our_ingest(("append",)), environment)
            _print(f"ours, {n_records:,} records", own)
            found.append(
                Target(
                    name=f"{n_records:,} records, downloaded and parsed only = 1",
                    ours=own.wall_s,
                    peer=pages.wall_s,
                    unit="s",
                    ratio=own.wall_s / pages.wall_s,
                    target=MAX_RECORDS_RATIO if is_largest else None,
                    is_limit=True,
                )
            )
            if is_largest and isic_python:
                own_again = our_ingest(("append", "fetch"))
                have_every_file(environment, home / "peer-records", own_again)
                peer = [*peer_download(isic_python, origin), str(home / "peer-records")]
                found += _again(
                    f"{n_records:,} images, 0 ms", peer, own_again, environment, MIN_NOTHING_NEW_RATIO
                )
    fewest, most = min(costs), max(costs)
    found.append(
        Target(
            name=f"peak memory, {most:,} records, {fewest:,} = 1",
            ours=costs[most].peak_mb,
            peer=costs[fewest].peak_mb,
            unit="MB",
            ratio=costs[most].peak_mb / costs[fewest].peak_mb,
            target=MAX_MEMORY_RATIO,
            is_limit=True,
        )
    )
    return found


def have_every_file(environment: dict[str, str], folder: Path, ours: list[str]) -> None:
    """Leave what complete downloads leave: rows for us, and a run that finds nothing more; files for the peer."""
    from lesion_tasks.database.connection import engine_for

    folder.mkdir()
    with engine_for(environment["LESION_DATABASE_URL"]).begin() as connection:
        connection.execute(text(HAVE_EVERY_FILE))
        for isic_id, size in connection.execute(text("SELECT isic_id, size_bytes FROM stored_file")):
            with (folder / f"{isic_id}.jpg").open("wb") as file:
                file.truncate(size)
    cost = cost_of(ours, environment)
    _print("ours, the run after which nothing is left", cost)


def _print(title: str, cost: Cost) -> None:
    print(
        f"  {title}: {cost.wall_s:.2f} s, {cost.call_s:.3f} s from the call on, {cost.cpu_s:.2f} s of CPU, "
        f"{cost.peak_mb:.0f} MB",
        flush=True,
    )


def warm_up(isic_python: str) -> None:
    """Have both sides' modules compiled and in the disk's cache."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    ours = "lesion_tasks.ingest, lesion_tasks.archive.picture, archive_server.server"
    for python, modules in ((isic_python, "isic_cli.cli"), (sys.executable, ours)):
        subprocess.run([python, "-c", f"import {modules}"], check=True, env=environment)


def print_table(found: Sequence[Target]) -> None:
    """One line for each comparison."""
    rows = [("", "ours", "peer", "ratio", "target", "")]
    for one in found:
        wanted = "" if one.target is None else f"{'<=' if one.is_limit else '>='} {one.target:g}"
        verdict = "" if one.target is None else "met" if one.passed else "MISSED"
        digits = 0 if one.unit == "images/s" else 3 if one.ours < 1 else 1
        rows.append(
            (
                one.name,
                f"{one.ours:,.{digits}f} {one.unit}",
                f"{one.peer:,.{digits}f} {one.unit}",
                f"{one.ratio:.2f}",
                wanted,
                verdict,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def summary(found: Sequence[Target]) -> dict[str, object]:
    """The first target in the form that all benchmarks have, and all of them."""
    judged = [one for one in found if one.target is not None]
    first = judged[0]
    return {
        "name": f"ingest: {first.name}",
        "ours": round(first.ours, 1),
        "peer": round(first.peer, 1),
        "unit": first.unit,
        "ratio": round(first.ratio, 2),
        "target": first.target,
        "passed": all(one.passed for one in judged),
        "targets": [
            {
                "name": one.name,
                "ours": round(one.ours, 3),
                "peer": round(one.peer, 3),
                "unit": one.unit,
                "ratio": round(one.ratio, 2),
                "target": one.target,
                "at_most": one.is_limit,
                "passed": one.passed,
            }
            for one in judged
        ],
    }


@click.command()
@click.option("--images", default=5_000, show_default=True)
@click.option("--width-px", default=256, show_default=True)
@click.option(
    "--latency-ms", "latencies_ms", multiple=True, type=float, default=(0.0, 30.0), show_default=True
)
@click.option("--records", multiple=True, type=int, default=(5_000, 500_000), show_default=True)
@click.option(
    "--connections",
    multiple=True,
    type=int,
    default=(10, 24),
    show_default=True,
    help="10 is our default, and what isic-cli has.",
)
@click.option("--isic-python", envvar="ISIC_PYTHON", help="Python of an environment with isic-cli 12.7.0.")
def main(
    images: int,
    width_px: int,
    latencies_ms: Sequence[float],
    records: Sequence[int],
    connections: Sequence[int],
    isic_python: str | None,
) -> None:
    """Print a table and a JSON object; exit status 1 where a target is missed."""
    from lesion_tasks.database.embedded import postgres

    if not isic_python:
        raise click.UsageError(
            "no isic-cli to compare with; make one, such as: python3.12 -m venv isic && "
            "isic/bin/pip install isic-cli==12.7.0, and say ISIC_PYTHON=isic/bin/python"
        )
    found: list[Target] = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        server_url = postgres.ensure_running(home)
        try:
            warm_up(isic_python)
            if images:
                write_download(home / "download", images, width_px)
                for latency_ms in latencies_ms:
                    tried = connections if latency_ms else connections[:1]
                    found += compare_downloads(server_url, home, images, latency_ms, tried, isic_python)
            if records:
                found += compare_records(server_url, home, records, isic_python)
        finally:
            postgres.stop(home)
    print_table(found)
    result = summary(found)
    print(json.dumps(result))
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
