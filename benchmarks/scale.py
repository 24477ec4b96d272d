"""What more workers bring, measured, and what follows for the whole archive, by arithmetic.

    python benchmarks/scale.py               all three; the last line is a JSON object
    python benchmarks/scale.py ingest        files fetched by 1, 2 and 4 processes from a server with 50 ms latency
    python benchmarks/scale.py train         the same variants trained by 1 and by 2 processes
    python benchmarks/scale.py whole         the whole archive on 8 workers and one GPU: arithmetic from rates

A process stands for a worker: each opens its own connections to archive, database and bucket, as a Celery worker's
task does. All of them share this machine's cores with the server and the database, which limits what is seen. The
peer is one worker; the target is what the most workers together must reach of files.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ingest import write_download
from benchmarks.kill_ingest import archive_server, environment_for

OPEN = "from lesion_tasks.workspace import open_workspace; "
APPEND = (
    OPEN + "from lesion_tasks.ingest.passes import ingest; "
    "ingest(open_workspace(), passes=('append',), query='')"
)
RANGES = (
    OPEN + "from lesion_tasks.ingest.fetch import fetch_ranges; "
    "print('\\n'.join(fetch_ranges(open_workspace(), ranges={n}, query='')))"
)
FETCH = (
    OPEN + "import sys; "
    "from lesion_tasks.ingest.fetch import fetch_files; fetch_files(open_workspace(), sys.argv[1], query='')"
)
PREPARE = """
import sys
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.training.prepare import prepare_training
from lesion_tasks.workspace import open_workspace
workspace = open_workspace()
ingest(workspace, passes=("append", "fetch"))
curate_images(workspace)
for name in sys.argv[1:]:
    prepare_training(workspace, name)
"""
TRAIN = (
    OPEN + "import sys; "
    "from lesion_tasks.training.train import train_variant; "
    "[train_variant(open_workspace(), name) for name in sys.argv[1:]]"
)


def run_all(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> float:
    """Start commands together, wait for all; return the seconds until the last one ended."""
    begun = time.perf_counter()
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in running:
        words = process.communicate()[1]
        if process.returncode:
            raise SystemExit(words[-2000:])
    return time.perf_counter() - begun


def python(code: str, *arguments: str) -> list[str]:
    """A process that runs `code`."""
    return [sys.executable, "-c", code, *arguments]


MIN_RATIO = 2.0  # files a second of the most workers against one


@click.group(help=__doc__, invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """See the module."""
    if context.invoked_subcommand is not None:
        return
    rates = context.invoke(ingest)
    seconds = context.invoke(train)
    context.invoke(whole)
    most = max(rates)
    result = {
        "name": f"scale: {most} ingest workers against one",
        "ours": round(rates[most], 1),
        "peer": round(rates[1], 1),
        "unit": "images/s",
        "ratio": round(rates[most] / rates[1], 2),
        "target": MIN_RATIO,
        "rates_by_workers": {n: round(rate, 1) for n, rate in rates.items()},
        "training_seconds_by_workers": {n: round(s, 1) for n, s in seconds.items()},
        "n_cores": os.cpu_count(),
        "passed": rates[most] / rates[1] >= MIN_RATIO,
    }
    print(json.dumps(result))
    sys.exit(0 if result["passed"] else 1)


@main.command()
@click.option("--images", default=3_000, show_default=True)
@click.option("--latency-ms", default=50.0, show_default=True)
@click.option("--workers", "counts", multiple=True, type=int, default=(1, 2, 4), show_default=True)
def ingest(images: int, latency_ms: float, counts: Sequence[int]) -> dict[int, float]:
    """Fetch the same files with each number of workers, into a fresh database and bucket each time.

    Images a second by the number of workers, with the start of their processes.
    """
    from lesion_tasks.database.embedded import postgres

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        server_url = postgres.ensure_running(home)
        write_download(home / "download", images, 256)
        rates: dict[int, float] = {}
        try:
            with archive_server(str(home / "download"), 0, latency_ms=latency_ms) as origin:
                for n in counts:
                    environment = environment_for(server_url, home, f"workers_{n}")
                    environment["LESION_ARCHIVE_URL"] = f"{origin}/api/v2/"
                    run_all([python(APPEND)], environment)
                    shards = subprocess.run(
                        python(RANGES.format(n=n)),
                        env=environment,
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stdout.split()
                    seconds = run_all([python(FETCH, shard) for shard in shards], environment)
                    rates[n] = images / seconds
                    print(
                        f"{n} workers, {latency_ms:g} ms: {rates[n]:,.0f} images/s ({seconds:.1f} s with "
                        f"start-up), {rates[n] / rates[counts[0]]:.2f} times the first line",
                        flush=True,
                    )
        finally:
            postgres.stop(home)
    return rates


@main.command()
@click.option("--images", default=1_500, show_default=True)
@click.option("--variants", default="smoke,metadata_mlp,metadata_logistic", show_default=True)
@click.option("--workers", "counts", multiple=True, type=int, default=(1, 2), show_default=True)
def train(images: int, variants: str, counts: Sequence[int]) -> dict[int, float]:
    """Train the same variants with each number of workers, each taking every n-th; seconds by that number."""
    from lesion_tasks.database.embedded import postgres

    names = variants.split(",")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        server_url = postgres.ensure_running(home)
        took: dict[int, float] = {}
        try:
            with archive_server(f"synthetic:{images}", 0) as origin:
                for n in counts:
                    environment = environment_for(server_url, home, f"trainers_{n}")
                    environment |= {"LESION_ARCHIVE_URL": f"{origin}/api/v2/", "TF_CPP_MIN_LOG_LEVEL": "3"}
                    run_all([python(PREPARE, *names)], environment)
                    took[n] = run_all([python(TRAIN, *names[k::n]) for k in range(n)], environment)
                    print(
                        f"{n} workers, {len(names)} variants: {took[n]:.1f} s, {took[counts[0]] / took[n]:.2f} times "
                        f"the first line, on {os.cpu_count()} cores",
                        flush=True,
                    )
        finally:
            postgres.stop(home)
    return took


@main.command()
@click.option("--images", default=600_000, show_default=True)
@click.option("--workers", default=8, show_default=True)
@click.option(
    "--records-per-s", default=100.0, show_default=True, help="One lister; the API is read in order."
)
@click.option("--images-per-s", default=100.0, show_default=True, help="Files that one worker fetches.")
@click.option(
    "--share-of-gain", default=0.5, show_default=True, help="What each worker after the first adds."
)
@click.option("--limit-per-s", default=400.0, show_default=True, help="What the archive answers at most.")
@click.option("--curate-per-s", default=3_500.0, show_default=True, help="Records curated and grouped.")
@click.option(
    "--decode-per-s", default=900.0, show_default=True, help="Pictures that one worker materializes."
)
@click.option(
    "--eligible", default=0.2, show_default=True, help="Share that a split of dermoscopic images takes."
)
@click.option("--features-per-s", default=2_000.0, show_default=True, help="A frozen base on the GPU.")
@click.option(
    "--train-per-s", default=1_500.0, show_default=True, help="Pictures forward and back on the GPU."
)
@click.option("--epochs", default=30, show_default=True)
@click.option("--variants", default=10, show_default=True, help="Half of them on frozen features.")
def whole(
    images: int,
    workers: int,
    records_per_s: float,
    images_per_s: float,
    share_of_gain: float,
    limit_per_s: float,
    curate_per_s: float,
    decode_per_s: float,
    eligible: float,
    features_per_s: float,
    train_per_s: float,
    epochs: int,
    variants: int,
) -> None:
    """Arithmetic, not a measurement: hours for the first time through, from the rates given."""
    fetched_per_s = min(limit_per_s, images_per_s * (1 + share_of_gain * (workers - 1)))
    n_eligible = images * eligible
    n_frozen = variants // 2
    hours = {
        "records, one lister": images / records_per_s,
        f"files, {workers} workers at {fetched_per_s:,.0f}/s together": images / fetched_per_s,
        "curate, group and split, one worker": images / curate_per_s,
        "materialize, one worker": n_eligible / decode_per_s,
        f"features of {n_frozen} frozen bases, one GPU": n_frozen * n_eligible / features_per_s,
        f"{variants - n_frozen} variants through the GPU, {epochs} epochs": (variants - n_frozen)
        * n_eligible
        * epochs
        / train_per_s,
    }
    for title, seconds in hours.items():
        print(f"{seconds / 3600:8.2f} h  {title}")
    print(f"{sum(hours.values()) / 3600:8.2f} h  altogether, one after the other")


if __name__ == "__main__":
    main()
