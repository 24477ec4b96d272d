"""What lies here, and how long it took -> the disk, memory, time and requests that other numbers of images would take.

Everything is measured here and scaled, but for memory, which is recorded nowhere. Assumed: pictures of the same size on
average; the same splits, input sizes and backbones; the same share of images in each subset.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.api import PAGE_LENGTH
from lesion_tasks.catalog.ingest_passes import SWEEP_SHARE
from lesion_tasks.splits.manifest import manifests_in_force
from lesion_tasks.training.run_record import list_finished
from lesion_tasks.upkeep.disk_use import sizes_by_table, totals_by_folder
from lesion_tasks.workspace import Workspace

DEFAULT_N_IMAGES = (10_000, 100_000, 600_000)
# Fewer say little about the average picture.
MIN_IMAGES = 100
# Images -> GB at most while they are curated and split, which takes the most before training: `make bench-splits`.
CURATION_MEMORY = ((10_000, 0.29), (100_000, 0.60), (1_000_000, 1.98))
# Folders that grow with the number of images, and not with that of trainings.
GROWING = {
    "images": "pictures",
    "pixels": "decoded pixels",
    "features": "features of frozen backbones",
    "masks": "lesion masks",
}
OF_TRAININGS = ("prediction", "prediction_set", "training", "training_epoch", "evaluation")
SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True, kw_only=True)
class SizeLine:
    """One quantity: what it was here, and what it would be for each number of images; None: not measured."""

    what: str
    unit: str  # GB, MB, hours, or empty for a number
    here: float | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class SizeEstimate:
    """Quantities for several numbers of images."""

    n_measured: int  # images here
    n_images: tuple[int, ...]
    lines: tuple[SizeLine, ...]


def estimate_size(workspace: Workspace, n_images: Sequence[int]) -> SizeEstimate:
    """Scale what this installation measures; raises `UnusableInputError` for fewer than MIN_IMAGES images here."""
    folders = totals_by_folder(workspace.bucket.list_sizes())
    with workspace.engine.connect() as connection:
        n_here: int = connection.execute(text("SELECT count(*) FROM image")).scalar_one()
        if n_here < MIN_IMAGES:
            raise UnusableInputError(
                f"{n_here:,} images here, expected at least {MIN_IMAGES} to measure on: ingest and curate some first"
            )
        tables = sizes_by_table(connection)
        in_force = sum(
            size_bytes
            for one in manifests_in_force(connection)
            for _, size_bytes in workspace.bucket.list_sizes(one.object_key)
        )
        prediction_bytes = _prediction_bytes(connection, tables["prediction"][1])
        hours = _hours(connection)

    def line(what: str, unit: str, here: float | None, scale: float = 1.0) -> SizeLine:
        """A quantity in proportion to the number of images; `scale` is the unit."""
        each = None if here is None else here / scale
        return SizeLine(
            what=what,
            unit=unit,
            here=each,
            values=tuple(None if each is None else each * n / n_here for n in n_images),
        )

    disk = {name: folders[folder][1] for folder, name in GROWING.items() if folder in folders}
    disk |= {
        "manifests in force": in_force,
        "database without trainings": sum(
            size for name, (_, size) in tables.items() if name not in OF_TRAININGS
        ),
    }
    n_objects = sum(folders[folder][0] for folder in GROWING if folder in folders)
    memory = [float(value) for value in np.interp([n_here, *n_images], *np.transpose(CURATION_MEMORY))]
    return SizeEstimate(
        n_measured=n_here,
        n_images=tuple(n_images),
        lines=(
            *(line(f"disk: {name}", "GB", size, 1e9) for name, size in disk.items()),
            line("disk: all of these", "GB", sum(disk.values()), 1e9),
            line("disk: predictions of one training", "MB", prediction_bytes, 1e6),
            line("objects in the bucket", "", n_objects),
            line("requests to the archive, first load", "", n_here + n_here / PAGE_LENGTH),
            line("requests to the archive, sweep of a night", "", SWEEP_SHARE * n_here / PAGE_LENGTH),
            SizeLine(what="memory: curation and splits", unit="GB", here=memory[0], values=tuple(memory[1:])),
            *(line(name, "hours", value) for name, value in hours.items()),
        ),
    )


def _prediction_bytes(connection: Connection, all_bytes: int) -> float | None:
    """Bytes of the predictions of one training, on average; None where there is none."""
    n: int = connection.execute(text("SELECT count(DISTINCT training_id) FROM prediction_set")).scalar_one()
    return all_bytes / n if n else None


def _hours(connection: Connection) -> dict[str, float | None]:
    """Hours that reading all images took here, and the epochs of the last training of each variant."""
    n_files, n_here, seconds = connection.execute(
        text("""
            SELECT (SELECT count(*) FROM stored_file f WHERE EXISTS (
                        SELECT FROM ingestion i WHERE f.fetched_at BETWEEN i.began_at AND i.ended_at)),
                   (SELECT count(*) FROM image),
                   (SELECT extract(epoch FROM sum(ended_at - began_at)) FROM ingestion i WHERE EXISTS (
                        SELECT FROM stored_file f WHERE f.fetched_at BETWEEN i.began_at AND i.ended_at))
        """)
    ).one()
    hours: dict[str, float | None] = {
        "hours: records and pictures from the archive": float(seconds) / SECONDS_PER_HOUR * n_here / n_files
        if n_files
        else None
    }
    epochs = {
        row.training_id: row
        for row in connection.execute(
            text("""
                SELECT training_id, count(*) AS n, sum(duration_s) AS seconds
                FROM training_epoch GROUP BY training_id HAVING sum(duration_s) > 0
            """)
        )
    }
    last = {
        one.variant: epochs[one.training_id] for one in list_finished(connection) if one.training_id in epochs
    }
    for variant, done in last.items():
        name = f"hours: training {variant}, {done.n} epoch{'s' * (done.n > 1)}"
        hours[name] = done.seconds / SECONDS_PER_HOUR
    return hours
