"""A few thousand images through every step in a fresh home -> what other numbers of images would take.

    python benchmarks/sizes.py --images 2000
    python benchmarks/sizes.py --images 2000 --source /data/snapshot

Serves a synthetic archive, or a download folder, on this machine, and runs each step as its own command: its duration
and its peak memory are its own. Then `lesion estimate-size` scales what lies there. The archive answers from the same
machine, so hours of reading from it are those of this machine and not of a network.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STEPS = (
    ("setup",),
    ("ingest",),
    ("curate",),
    ("split", "malignancy_natural"),
    ("materialize", "malignancy_natural"),
)
TRAININGS = (
    ("train", "smoke"),
    ("train", "metadata_logistic"),
    ("train", "cnn_scratch", "--max-epochs", "2"),
    ("evaluate",),
)


def measure(words: tuple[str, ...], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; seconds, and GB of memory at most."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "lesion_tasks", *words], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"lesion {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, used.ru_maxrss * 1024 / 1e9


@click.command(help=__doc__)
@click.option("--images", "n_images", default=2_000, show_default=True, help="How many records at most.")
@click.option("--source", help="A download folder to serve. Default: drawn pictures.")
@click.option("--untrained", is_flag=True, help="Without trainings and their evaluations.")
@click.option("--port", default=8_765, show_default=True, help="Where the archive is served.")
def main(n_images: int, source: str | None, untrained: bool, port: int) -> None:
    """See the module."""
    from lesion_tasks.database.embedded import postgres

    with tempfile.TemporaryDirectory(prefix="sizes-") as home:
        Path(home).chmod(0o755)  # as root, the database server runs as another user
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LESION_")},
            "PYTHONPATH": str(ROOT),
            "LESION_HOME": home,
            "LESION_MAX_RECORDS": str(n_images),
            "LESION_ARCHIVE_URL": f"http://127.0.0.1:{port}/api/v2/",
        }
        serve = ["-m", "archive_server", "--port", str(port), "--source", source or f"synthetic:{n_images}"]
        server = subprocess.Popen([sys.executable, *serve], env=environment, cwd=ROOT)
        try:
            time.sleep(5)
            print("| Step | Seconds | Memory at most, GB |\n| --- | --- | --- |")
            for words in (*STEPS, *(() if untrained else TRAININGS)):
                seconds, memory_gb = measure(words, environment)
                print(f"| `lesion {' '.join(words)}` | {seconds:.1f} | {memory_gb:.2f} |", flush=True)
            subprocess.run(
                [sys.executable, "-m", "lesion_tasks", "estimate-size"], env=environment, check=True
            )
        finally:
            server.terminate()
            server.wait()
            postgres.stop(Path(home))


if __name__ == "__main__":
    main()
