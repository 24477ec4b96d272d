"""One training, killed with SIGKILL at random moments, against the same training undisturbed: the same in the end.

    python -m benchmarks.kill_train --kills 10 [--variant cnn_scratch] [--images 400] [--epochs 16]

Real processes run `lesion train` on a database of drawn pictures, each time from another home folder, as another
worker would: only the database and the bucket are shared. After every kill the training's row is asked what it says.
At the end the weights (of the stored model), the history of epochs and the predictions of both are compared, number
by number. The last line is a JSON object.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from sqlalchemy import make_url, text

from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog.lookup import find_variant
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for, migrate
from lesion_tasks.database.embedded import postgres
from lesion_tasks.settings import read_settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.train import note_lost_trainings
from lesion_tasks.workspace import open_workspace


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Where a training runs: settings for the processes, and what they are asked."""

    environment: Mapping[str, str]
    folder: Path
    arguments: tuple[str, ...]

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Start `lesion train` from a home folder of its own."""
        home = self.folder / f"worker-{number}"
        home.mkdir(parents=True, exist_ok=True)
        environment = {**self.environment, "LESION_HOME": str(home)}
        with (self.folder / "log.txt").open("ab") as log:
            command = [sys.executable, "-m", "lesion_tasks", "train", *self.arguments]
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


@dataclass(kw_only=True)
class Killed:
    """How often a training was killed, where it stood then, and what its row said."""

    epochs_done: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def n_epochs(url: str) -> int:
    """Epochs that the only training has on record."""
    with engine_for(url).connect() as connection:
        n: int = connection.execute(text("SELECT count(*) FROM training_epoch")).scalar_one()
    return n


def kill_until_done(worker: Worker, url: str, n_kills: int, longest_s: float, seed: int) -> Killed:
    """Kill a training n times at random moments of its learning, then let it end.

    The moment is counted from the row saying that it runs, or, two times of three, from an epoch that was not there
    before: so that the training comes further, and is hit within an epoch, between two, and before the first.
    """
    generator = random.Random(seed)
    killed = Killed()
    for number in range(n_kills):
        before = n_epochs(url)
        process = worker.start(number)
        while process.poll() is None and not (
            n_epochs(url) > before if number % 3 else status_and_reason(url)[0] == "running"
        ):
            time.sleep(0.02)
        time.sleep(generator.uniform(0, longest_s))
        if process.poll() is not None:
            raise RuntimeError(f"ended before kill {number + 1}, see {worker.folder / 'log.txt'}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.epochs_done.append(n_epochs(url))
        deadline = time.monotonic() + 10  # until the server has noticed that its client is gone
        while not note_lost_trainings(open_workspace()) and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.reasons.append(status_and_reason(url)[1] or "")
    if worker.start(n_kills).wait():
        raise RuntimeError(f"the training failed, see {worker.folder / 'log.txt'}")
    return killed


def status_and_reason(url: str) -> tuple[str, str | None]:
    """What the only training's row says; "none" while there is none."""
    with engine_for(url).connect() as connection:
        row = connection.execute(text("SELECT status, reason FROM training")).one_or_none()
    return ("none", None) if row is None else (row.status, row.reason)


def outcome(url: str) -> dict[str, Any]:
    """The finished training: its weights as bytes, figures by epoch, predictions, and its row's last word."""
    with engine_for(url).connect() as connection:
        (key,) = connection.execute(text("SELECT model_key FROM training")).scalars()
        history = connection.execute(text("SELECT epoch, figures FROM training_epoch ORDER BY epoch")).all()
        predictions = connection.execute(
            text("SELECT subset, isic_id, probabilities FROM prediction ORDER BY 1, 2")
        ).all()
    with zipfile.ZipFile(io.BytesIO(open_bucket(read_settings()).get(key))) as archive:
        weights = archive.read("model.weights.h5")
    return {
        "weights": _arrays(weights),
        "history": [tuple(row) for row in history],
        "predictions": [tuple(row) for row in predictions],
        "row": status_and_reason(url),
    }


def _arrays(weights: bytes) -> dict[str, bytes]:
    """Every array of a weights file by name: the file itself has times in it."""
    import h5py

    found: dict[str, bytes] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(keep)
    return found


def prepare(url: str, variant: str, n_images: int) -> None:
    """Fill an empty database and bucket with drawn pictures, split for a variant."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # where the drawn pictures are made
    from catalogue import add_records, labelled_records

    migrate(url)
    add_records(read_settings(), labelled_records(n_images))
    curate_images(open_workspace())
    build_split(open_workspace(), find_variant(variant).split)


def run(
    server_url: str,
    folder: Path,
    arguments: tuple[str, ...],
    *,
    n_images: int,
    n_kills: int,
    longest_s: float,
    seed: int,
) -> dict[str, Any]:
    """Run `lesion train` with these arguments undisturbed and killed, each in a database and bucket of its own.

    Returns what was compared, and how it went.
    """
    found, killed = {}, Killed()
    for name in ("undisturbed", "killed"):
        with _environment(server_url, folder / name, name) as environment:
            url = environment["LESION_DATABASE_URL"]
            prepare(url, arguments[0], n_images)
            worker = Worker(environment=environment, folder=folder / name, arguments=arguments)
            if name == "killed":
                killed = kill_until_done(worker, url, n_kills, longest_s, seed)
            elif worker.start(0).wait():
                raise RuntimeError(f"the training failed, see {worker.folder / 'log.txt'}")
            found[name] = outcome(url)
            engine_for(url).dispose()
    return {
        "n_kills": len(killed.epochs_done),
        "epochs_done_at_kills": killed.epochs_done,
        "n_epochs": len(found["killed"]["history"]),
        "said_lost": sum("lost" in reason for reason in killed.reasons),
        "row_in_the_end": found["killed"]["row"],
        "same": {
            part: found["killed"][part] == found["undisturbed"][part]
            for part in ("weights", "history", "predictions")
        },
    }


@contextmanager
def _environment(server_url: str, folder: Path, name: str) -> Iterator[dict[str, str]]:
    """Settings of an empty database and bucket, in force for this process too."""
    database = f"{name}_{os.getpid()}"
    administration = make_url(server_url).set(database="postgres").render_as_string(hide_password=False)
    with engine_for(administration).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'CREATE DATABASE "{database}"'))
    own = {
        "LESION_HOME": str(folder),
        "LESION_DATABASE_URL": make_url(server_url)
        .set(database=database)
        .render_as_string(hide_password=False),
        "LESION_BUCKET_URL": str(folder / "bucket"),
        "LESION_WEIGHTS": "none",
    }
    before = dict(os.environ)
    os.environ.update(own)
    try:
        yield {**before, **own}
    finally:
        os.environ.clear()
        os.environ.update(before)


@click.command()
@click.option("--variant", default="cnn_scratch", show_default=True)
@click.option("--images", "n_images", default=400, show_default=True)
@click.option("--epochs", default=16, show_default=True)
@click.option("--kills", "n_kills", default=10, show_default=True)
@click.option("--longest", "longest_s", default=3.0, show_default=True, help="Seconds until a kill, at most.")
@click.option("--seed", type=int, help="Of the moments. Default: a new one, printed.")
def main(variant: str, n_images: int, epochs: int, n_kills: int, longest_s: float, seed: int | None) -> None:
    """Compare a training that is killed with one that is not."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "postgres"
        try:
            found = run(
                postgres.ensure_running(home),
                Path(folder),
                (variant, "--max-epochs", str(epochs)),
                n_images=n_images,
                n_kills=n_kills,
                longest_s=longest_s,
                seed=seed,
            )
        finally:
            postgres.stop(home)
    print(json.dumps({"variant": variant, "n_images": n_images, "seed": seed, **found}))
    sys.exit(0 if all(found["same"].values()) else 1)


if __name__ == "__main__":
    main()
