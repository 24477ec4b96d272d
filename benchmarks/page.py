"""The heaviest page of the plugin on 5,000 evaluated trainings and 500,000 images, on the server.

A small catalogue of drawn pictures with one evaluated, promoted training is made as in life; its rows are then repeated
under other ids, documents and all. Every page is asked for through the application itself, without Airflow's own guard
and without a network. The peer is what a notebook would do for one of these pages: read the leaderboard's figures of
all trainings with pandas and write them as HTML. The last line is a JSON object.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import pandas as pd
from sqlalchemy import Connection, text

from benchmarks.kill_train import prepare
from lesion_tasks.database.connection import engine_for
from lesion_tasks.database.embedded import postgres
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.pages.activity import Run
from lesion_tasks.pages.application import build_application
from lesion_tasks.promotion.promote import promote_model
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace

N_TRAININGS, N_IMAGES = 5_000, 500_000
N_PICTURES = 400
N_ROUNDS = 7
MAX_MS = 300.0
TASK = "malignancy"


def repeat(connection: Connection, table: str, n: int, changed: Mapping[str, str]) -> None:
    """Repeat a table's rows until there are about n. `changed`: columns as expressions of the copy's number k."""
    columns = connection.execute(
        text("""
            SELECT column_name FROM information_schema.columns
            WHERE table_name = :table AND is_generated = 'NEVER' AND is_identity = 'NO'
                AND coalesce(column_default, '') NOT LIKE 'nextval%'
        """),
        {"table": table},
    ).scalars()
    names = list(columns)
    values = [changed.get(name, name) for name in names]
    n_rows = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608 - our own words
    connection.execute(
        text(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} "  # noqa: S608 - our own words
            f"FROM (SELECT *, row_number() OVER () AS r FROM {table}) one, generate_series(1, {n // n_rows}) AS k"
        )
    )


def fill(url: str) -> list[str]:
    """Make the catalogue; return the trainings that were really made."""
    prepare(url, "metadata_logistic", N_PICTURES)
    workspace = open_workspace()
    training_ids = [train_variant(workspace, "metadata_logistic", again=True) for _ in range(2)]
    for training_id in training_ids:
        evaluate_training(workspace, training_id)
    promote_model(workspace, task=TASK, is_forced=True)
    copy_id = f"'ISIC_' || lpad((1000000 + k * {N_PICTURES} + r)::text, 7, '0')"
    with engine_for(url).begin() as connection:
        connection.execute(
            text("SET LOCAL session_replication_role = replica")
        )  # triggers and keys once are enough
        for table in ("record_version", "record", "image"):
            repeat(connection, table, N_IMAGES, {"isic_id": copy_id})
        own = {
            "training_id": "training_id || '-copy-' || k",
            "evaluation_id": "evaluation_id || '-copy-' || k",
        }
        for table in ("training", "evaluation", "test_opening"):
            repeat(connection, table, N_TRAININGS, own)
    with engine_for(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return training_ids


class NoRuns:
    """What Airflow says where nothing is at work."""

    def at_work(self, n: int) -> list[Run]:
        """None."""
        return []

    def failed(self, n: int) -> tuple[list[Run], int]:
        """None."""
        return [], 0

    def find(self, dag_id: str, run_id: str) -> Run | None:
        """None."""
        return None


def page_ms(path: str) -> float:
    """Median milliseconds of a page on the server, after a first look."""
    application = build_application(
        open_workspace=open_workspace,
        may_read=lambda: None,
        may_start=lambda: ("promote_model", "rollback_champion"),
        returned_by=lambda *_: None,
        try_of=lambda *_: None,
        runs=NoRuns(),
    )

    async def ask() -> list[float]:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow.example") as client:
            taken = []
            for _ in range(N_ROUNDS + 1):
                started = time.perf_counter()
                answer = await client.get(path)
                taken.append(1000 * (time.perf_counter() - started))
                if answer.status_code != 200:
                    raise RuntimeError(f"{path}: {answer.status_code}")
            return taken[1:]

    return median(asyncio.run(ask()))


def peer_ms(url: str) -> float:
    """Median milliseconds of reading all figures with pandas and writing them as HTML."""
    query = text("""
        SELECT t.training_id, t.variant, e.is_sound, e.verdict, e.test_figures FROM evaluation e
        JOIN training t USING (training_id, manifest_digest) WHERE t.task = :task
    """)
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        with engine_for(url).connect() as connection:
            found = pd.read_sql(query, connection, params={"task": TASK})
        figures = pd.json_normalize(found.pop("test_figures").tolist())[["auc.value"]]
        found.join(figures).sort_values("auc.value", ascending=False).to_html()
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ.update(LESION_HOME=folder, LESION_WEIGHTS="none")
        os.environ.pop("LESION_BUCKET_URL", None)
        try:
            postgres.ensure_running(home)
            url = postgres.database_url(home, "lesions")
            os.environ["LESION_DATABASE_URL"] = url
            first, second = fill(url)
            paths: dict[str, Any] = {
                "pipeline": "/",
                "leaderboard": f"/leaderboard/{TASK}",
                "last page of it": f"/leaderboard/{TASK}?number={N_TRAININGS // 50}",
                "filtered": f"/leaderboard/{TASK}?words=-copy-2499&is_sound=1",
                "side by side": f"/compare?training={first}&training={second}",
                "champion": f"/champion/{TASK}",
                "data": "/data",
            }
            taken = {name: page_ms(path) for name, path in paths.items()}
            for name, milliseconds in taken.items():
                print(f"{name}: {milliseconds:.0f} ms")
            peer = peer_ms(url)
        finally:
            postgres.stop(home)
    heaviest = max(taken, key=lambda name: taken[name])
    passed = taken[heaviest] <= MAX_MS
    print(
        json.dumps(
            {
                "name": f"page: the heaviest of {N_TRAININGS:,} trainings and {N_IMAGES:,} images ({heaviest})",
                "ours": round(taken[heaviest]),
                "peer": round(peer),
                "unit": "ms",
                "ratio": round(peer / taken[heaviest], 2),
                "target": MAX_MS,
                "by_page": {name: round(value) for name, value in taken.items()},
                "passed": passed,
            }
        )
    )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
