"""What lies here, and how long it took -> the disk, memory, time and requests that other numbers of images would take.

Everything is measured here and scaled, but for memory, which is recorded nowhere. Assumed: pictures of the same size on
average; the same splits, input sizes and backbones; the same share of images in each subset; as many epochs. Where a
split draws so many images of a class and no more, epochs grow no further.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.api import PAGE_LENGTH
from lesion_tasks.catalog.ingest_passes import SWEEP_SHARE
from lesion_tasks.metrics.counted import plural
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
                f"{plural(n_here, 'image')} here, expected at least {MIN_IMAGES} to measure on: ingest and curate "
                "some first"
            )
        tables = sizes_by_table(connection)
        in_force = sum(
            size_bytes
            for one in manifests_in_force(connection)
            for _, size_bytes in workspace.bucket.list_sizes(one.object_key)
        )
        prediction_bytes = _prediction_bytes(connection, tables["prediction"][1])
        reading_s = _reading_seconds(connection)
        trainings = _last_trainings(connection)

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
            line("hours: records and pictures from the archive", "hours", reading_s, SECONDS_PER_HOUR),
            *(
                SizeLine(
                    what=f"hours: training {one.variant}, {plural(one.n_epochs, 'epoch')}",
                    unit="hours",
                    here=one.hours(1.0),
                    values=tuple(one.hours(n / n_here) for n in n_images),
                )
                for one in trainings
            ),
        ),
    )


def _prediction_bytes(connection: Connection, all_bytes: int) -> float | None:
    """Bytes of the predictions of one training, on average; None where there is none."""
    n: int = connection.execute(text("SELECT count(DISTINCT training_id) FROM prediction_set")).scalar_one()
    return all_bytes / n if n else None


def _reading_seconds(connection: Connection) -> float | None:
    """Seconds that reading all images took here; None where no file came from an archive."""
    n_files, n_here, seconds = connection.execute(
        text("""
            SELECT (SELECT count(*) FROM stored_file f WHERE EXISTS (
                        SELECT FROM ingestion i WHERE f.fetched_at BETWEEN i.began_at AND i.ended_at)),
                   (SELECT count(*) FROM image),
                   (SELECT extract(epoch FROM sum(ended_at - began_at)) FROM ingestion i WHERE EXISTS (
                        SELECT FROM stored_file f WHERE f.fetched_at BETWEEN i.began_at AND i.ended_at))
        """)
    ).one()
    return float(seconds) * n_here / n_files if n_files else None


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """How long a training took, in seconds."""

    variant: str
    n_epochs: int
    in_epochs: float
    around: float  # before the first epoch (features of a frozen backbone), between folds, after the last (predictions)
    room: float  # how many times as many images may be there before an epoch grows no further

    def hours(self, scale: float) -> float:
        """Of a training on `scale` times as many images."""
        return (self.in_epochs * min(scale, self.room) + self.around * scale) / SECONDS_PER_HOUR


def _last_trainings(connection: Connection) -> list[_Timed]:
    """The last finished training of each variant; without the time between epochs, in which it may have lain killed.

    One that ended before its first epoch began anew when it was run again, so that wait is left out too. What is done
    between folds counts: as often as there are such waits the usual one of as many of the longest.
    """
    rows = connection.execute(
        text("""
            SELECT t.training_id, count(e.epoch) AS n_epochs, coalesce(sum(e.duration_s), 0) AS in_epochs,
                   extract(epoch FROM t.finished_at - t.started_at
                       - coalesce(max(e.ended_at) - min(e.ended_at), interval '0'))::float
                       - coalesce((array_agg(e.duration_s ORDER BY e.epoch))[1], 0) AS around,
                   coalesce((t.recipe->>'n_folds')::int, 0) AS n_folds,
                   coalesce(array_agg(e.waited ORDER BY e.waited DESC) FILTER (WHERE e.waited > 0), '{}') AS waits,
                   (m.recipe->'split'->>'max_per_class')::int AS most,
                   (SELECT max(n::int) FROM jsonb_each_text(m.class_counts->'train') AS c (label, n)) AS largest
            FROM training t JOIN manifest m ON m.digest = t.manifest_digest
            LEFT JOIN (
                SELECT training_id, epoch, duration_s, ended_at,
                       extract(epoch FROM ended_at - lag(ended_at) OVER trained)::float - duration_s AS waited
                FROM training_epoch WINDOW trained AS (PARTITION BY training_id ORDER BY epoch)
            ) e ON e.training_id = t.training_id
            WHERE t.status = 'finished' GROUP BY t.training_id, m.digest
        """)
    )
    by_id = {row.training_id: row for row in rows}
    last = {one.variant: by_id[one.training_id] for one in list_finished(connection)}
    return [
        _Timed(
            variant=variant,
            n_epochs=row.n_epochs,
            in_epochs=row.in_epochs,
            around=max(0.0, row.around) + _between_folds(row.waits, row.n_folds),
            room=max(1.0, row.most / row.largest) if row.most and row.largest else math.inf,
        )
        for variant, row in last.items()
    ]


def _between_folds(waits: Sequence[float], n_folds: int) -> float:
    """Seconds of everything between folds, from the waits between epochs, longest first.

    Each counts like the middle one of them, so that a wait in which the training lay killed counts little; of two
    folds, whose one wait may be such, like the next longest, between two epochs.
    """
    n_waits = n_folds - 1
    longest = waits[: max(2, n_waits)]
    return longest[len(longest) // 2] * n_waits if longest and n_waits > 0 else 0.0
