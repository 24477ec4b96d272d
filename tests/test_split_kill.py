"""Curation, splits and materialization, killed at random moments, end in the rows and digests of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from catalogue import add_records, archive_record, labelled_records, rows_of
from sqlalchemy import event
from test_curate import skin_jpeg

from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import InputSize
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import database_url, engine_for
from lesion_tasks.database.schema import Base
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.settings import Settings, read_settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace

SPLIT = "malignancy_balanced_5000"


def fill(settings: Settings) -> None:
    """Lesions, copies, rejects, and a lesion of two patients: something for every statement to do."""
    add_records(settings, labelled_records(240))
    clinical = {"diagnosis_1": "Benign", "sex": "male"}
    odd = [
        archive_record("ISIC_0009001", lesion_id="IL_0009001", **clinical),
        archive_record("ISIC_0009002", lesion_id="IL_0009002", **clinical),
        archive_record("ISIC_0009003", lesion_id="IL_0009003", patient_id="IP_0000001", **clinical),
        archive_record("ISIC_0009004", lesion_id="IL_0009003", patient_id="IP_0000002", **clinical),
        archive_record("ISIC_0009005", **clinical),
    ]
    pictures = {"ISIC_0009001": skin_jpeg(1, 95), "ISIC_0009002": skin_jpeg(1, 70), "ISIC_0009005": b""}
    add_records(settings, odd, picture_by_id=pictures, hashed=True)


def grow(settings: Settings) -> None:
    """What a day brings: new images, and edits of old ones that join and split groups."""
    add_records(settings, labelled_records(20, first=1_001))
    add_records(settings, [archive_record("ISIC_0000007", lesion_id="IL_0009001", sex="male")], version=2)


def materialize() -> None:
    with engine_for(database_url(read_settings())).connect() as connection:
        newest = "SELECT digest FROM manifest ORDER BY built_at DESC LIMIT 1"
        digest = connection.exec_driver_sql(newest).scalar_one()
    materialize_manifest(open_workspace(), digest, InputSize(16))


STEPS: tuple[Callable[[], object], ...] = (
    lambda: curate_images(open_workspace()),
    lambda: build_split(open_workspace(), SPLIT),
    materialize,
)


def counted(step: Callable[[], object], dies_at: int | None = None) -> int:
    """Run a step and return its number of statements and commits; kill this process before the one asked for."""
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = engine_for(database_url(read_settings()))
    with small_batches():
        for name in ("before_cursor_execute", "commit"):
            event.listen(engine, name, count)
        step()
        for name in ("before_cursor_execute", "commit"):
            event.remove(engine, name, count)
    return seen


@contextmanager
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lesion_tasks.curation.curate.BATCH_ROWS", 60)
        patch.setattr("lesion_tasks.pixels.materialize.SHARD_IMAGES", 40)
        yield


def is_killed(number: int, dies_at: int) -> bool:
    """Run a step in a process of its own, which kills itself; False when it came to its end before."""
    code = f"import test_split_kill as t; t.counted(t.STEPS[{number}], {dies_at})"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=False)
    assert done.returncode in {0, -signal.SIGKILL}
    return done.returncode != 0


# Everything but times, and the numbers of curations: a killed one uses up a number.
TABLES = (
    "SELECT isic_id, record_version, sha256, patient_id, lesion_id, group_id, atom_id, diagnosis FROM image",
    "SELECT isic_id, reason, detail, record_version FROM reject",
    "SELECT * FROM lesion",
    "SELECT * FROM picture_pair",
    "SELECT * FROM placement",
    "SELECT * FROM group_subset",
    "SELECT * FROM split_member",
    "SELECT digest, object_key, n_images, class_counts::text, funnel::text FROM manifest",
    "SELECT * FROM pixel_row",
    "SELECT object_key, n_images, sha256 FROM pixel_shard",
    "SELECT * FROM uncurated",
    "SELECT * FROM ungrouped",
)


def left_behind(settings: Settings) -> list[object]:
    bucket = open_bucket(settings)
    objects = [
        (key, bucket.get(key)) for prefix in ("pixels/", "splits/") for key in bucket.list_keys(prefix)
    ]
    return [[sorted(map(repr, rows_of(settings, table))) for table in TABLES], sorted(objects)]


def empty(settings: Settings, bucket: Path) -> None:
    shutil.rmtree(bucket)
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with engine_for(settings.database_url or "").begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {tables}")


def test_killed_runs_leave_what_undisturbed_ones_do(settings: Settings, tmp_path: Path) -> None:
    n_statements = []
    for change in (fill, grow):
        change(settings)
        n_statements += [counted(step) for step in STEPS]
    expected = left_behind(settings)
    empty(settings, tmp_path / "bucket")

    chance = random.Random(20_260)
    n_killed = 0
    for change, n_kills in ((fill, 2), (grow, 1)):
        change(settings)
        for number, step in enumerate(STEPS):
            # The later moment first: what was done by then is not done again, so the next run is a shorter one.
            for moment in sorted(chance.sample(range(1, n_statements.pop(0)), n_kills), reverse=True):
                n_killed += is_killed(number, moment)
            counted(step)
    assert n_killed >= 2 * len(STEPS)
    assert left_behind(settings) == expected
