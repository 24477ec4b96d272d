"""Ingestion against `isic image download`, and against merely downloading the same pages.

    python -m benchmarks.ingest --isic-python ENVIRONMENT/bin/python

Same server, same files, one run. The peer is isic-cli 12.7.0 in an environment of its own (Python 3.12 or newer).
Ours verifies, hashes, stores and commits; the peer writes files. Times are of whole processes, start-up included.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.kill_ingest import archive_server, environment_for

OURS = (
    "from lesion_tasks.ingest import ingest;"
    "ingest(layers={layers}, rendition='full', query='', n_connections={n_connections})"
)
PEER = "import sys, isic_cli.cli as c; c.DOMAINS['dev'] = sys.argv.pop(1); c.main()"


def peer_download(isic_python: str, origin: str) -> list[str]:
    """The command with which isic-cli downloads images from a server of ours; options and the folder follow."""
    command = (isic_python, "-c", PEER, origin, "--dev", "--guest", "--no-version-check", "image", "download")
    return list(command)


# What any reader of the listing has to do: ask for each page and parse it.
PAGES = """
import asyncio, json, sys, aiohttp
async def main(url):
    async with aiohttp.ClientSession() as session:
        while url:
            async with session.get(url) as answer:
                url = json.loads(await answer.read())["next"]
asyncio.run(main(sys.argv[1] + "/api/v2/images/search/?limit=100"))
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process took."""

    wall_s: float
    cpu_s: float  # of the process alone, without server and database
    peak_mb: float


def cost_of(command: Sequence[str], environment: dict[str, str] | None = None) -> Cost:
    """Run a process to its end and measure it."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    words = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{words[-2000:]}")
    return Cost(
        wall_s=time.perf_counter() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss / 1024,
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
    source: Path,
    n_images: int,
    latency_ms: float,
    n_connections: int,
    isic_python: str,
) -> None:
    """Images the first time, and again with nothing new."""
    environment = environment_for(server_url, home, f"latency_{latency_ms:g}")
    with archive_server(str(source), 0, latency_ms=latency_ms) as origin:
        environment["LESION_ARCHIVE_URL"] = f"{origin}/api/v2/"
        layers = ("append", "fetch")
        ours = [sys.executable, "-c", OURS.format(layers=layers, n_connections=n_connections)]
        peer = [*peer_download(isic_python, origin), str(home / f"peer-{latency_ms:g}")]
        for title in ("first", "nothing new"):
            # The peer first: what the server keeps in memory then favours us as little as possible.
            theirs = cost_of(peer) if isic_python else None
            own = cost_of(ours, environment)
            line = f"{latency_ms:g} ms, {title}: ours {_shown(own, n_images)}"
            if theirs is not None:
                line += f"; isic-cli {_shown(theirs, n_images)}; ratio {theirs.wall_s / own.wall_s:.1f}"
            print(line, flush=True)


def _shown(cost: Cost, n_images: int) -> str:
    return f"{cost.wall_s:.2f} s ({n_images / cost.wall_s:,.0f} images/s, {cost.cpu_s:.2f} s of CPU)"


def compare_records(server_url: str, home: Path, counts: Sequence[int]) -> None:
    """Metadata alone, against downloading and parsing the same pages; peak memory by size."""
    for n_records in counts:
        environment = environment_for(server_url, home, f"records_{n_records}")
        with archive_server(f"synthetic:{n_records}:1", 0) as origin:
            environment["LESION_ARCHIVE_URL"] = f"{origin}/api/v2/"
            pages = cost_of([sys.executable, "-c", PAGES, origin])
            own = cost_of(
                [sys.executable, "-c", OURS.format(layers=("append",), n_connections=10)], environment
            )
        print(
            f"{n_records:,} records: ours {own.wall_s:.1f} s, pages alone {pages.wall_s:.1f} s, "
            f"ratio {own.wall_s / pages.wall_s:.2f}; CPU {own.cpu_s:.1f} and {pages.cpu_s:.1f} s; "
            f"peak memory {own.peak_mb:.0f} MB",
            flush=True,
        )


@click.command()
@click.option("--images", default=5_000, show_default=True)
@click.option("--width-px", default=256, show_default=True)
@click.option(
    "--latency-ms", "latencies_ms", multiple=True, type=float, default=(0.0, 30.0), show_default=True
)
@click.option("--records", multiple=True, type=int, default=(5_000, 500_000), show_default=True)
@click.option("--connections", default=10, show_default=True, help="isic-cli has 10.")
@click.option("--isic-python", default="", help="Python of an environment with isic-cli; empty: ours alone.")
def main(
    images: int,
    width_px: int,
    latencies_ms: Sequence[float],
    records: Sequence[int],
    connections: int,
    isic_python: str,
) -> None:
    """Print times and ratios."""
    from lesion_tasks.local import postgres

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        server_url = postgres.ensure_running(home)
        try:
            if images:
                write_download(home / "download", images, width_px)
                for latency_ms in latencies_ms:
                    compare_downloads(
                        server_url, home, home / "download", images, latency_ms, connections, isic_python
                    )
            compare_records(server_url, home, [count for count in records if count])
        finally:
            postgres.stop(home)


if __name__ == "__main__":
    main()
