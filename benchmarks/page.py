"""The heaviest page of the plugin on 5,000 evaluated trainings and 500,000 images, on the server.

A small database of drawn pictures with one evaluated, promoted training is made as in life; its rows are then repeated
under other ids, documents and all: most trainings were decided on, some wait, and people are asked about one. Airflow's
own database has two years of runs of the DAGs, some at work, some failed, and the questions that are open. Each page is
asked for through the plugin's application, with Airflow's guard and without a network. The peer is what a notebook
would do for one of these pages: read the leaderboard's figures of all trainings with pandas and write them as HTML. The
last line is a JSON object.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))

import httpx
import pandas as pd
from sqlalchemy import Connection, text

from benchmarks.kill_train import prepare
from lesion_tasks.database.connection import engine_for
from lesion_tasks.database.embedded import postgres
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.promotion.promote import promote_model
from lesion_tasks.promotion.questions import Asker, Question, write_questions
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace

ROOT = Path(__file__).resolve().parents[1]
N_TRAININGS, N_IMAGES = 5_000, 500_000
N_RUNS = 700  # of each DAG, in two years
N_AT_WORK, N_FAILED, N_WAITING = 6, 40, 30
N_PICTURES = 400
N_ROUNDS = 7
MAX_MS = 300.0
TASK = "malignancy"
RUN_ID = "manual__2026-03-01T10:00:00"


def repeat(connection: Connection, table: str, times: int, changed: Mapping[str, str]) -> None:
    """Repeat a table's rows some times. `changed`: columns as expressions of the copy's number k."""
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
    connection.execute(
        text(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} "  # noqa: S608 - our own words
            f"FROM (SELECT *, row_number() OVER () AS r FROM {table}) one, generate_series(1, {times}) AS k"
        )
    )


def fill(url: str) -> tuple[list[str], Question]:
    """Make the database; return the trainings that were really made, and what a person is asked about the last."""
    prepare(url, "metadata_logistic", N_PICTURES)
    workspace = open_workspace()
    training_ids = [train_variant(workspace, "metadata_logistic", again=True) for _ in range(2)]
    evaluate_training(workspace, training_ids[0])
    promote_model(workspace, task=TASK, is_forced=True)
    evaluate_training(workspace, training_ids[1])
    promote_model(workspace, task=TASK)  # which gains nothing
    training_ids.append(train_variant(workspace, "metadata_logistic", again=True))
    evaluate_training(workspace, training_ids[2])
    asker = Asker(run_id=RUN_ID, wait=timedelta(days=7), is_asking=lambda _: True)
    (question,) = write_questions(workspace, tasks=[TASK], approval="always", asker=asker)
    copy_id = f"'ISIC_' || lpad((1000000 + k * {N_PICTURES} + r)::text, 7, '0')"
    with engine_for(url).begin() as connection:
        connection.execute(
            text("SET LOCAL session_replication_role = replica")
        )  # triggers and keys once are enough
        for table in ("record_version", "record", "image"):
            repeat(connection, table, N_IMAGES // N_PICTURES, {"isic_id": copy_id})
        own = {
            "training_id": "training_id || '-copy-' || k",
            "evaluation_id": "evaluation_id || '-copy-' || k",
            "finished_at": "finished_at - k * interval '1 hour'",
            "started_at": "started_at - k * interval '1 hour'",
        }
        for table in ("training", "evaluation", "test_opening", "promotion", "training_epoch"):
            repeat(
                connection, table, N_TRAININGS // len(training_ids), own | {"sequence": "sequence + 2 * k"}
            )
        # One champion: the copies of its decision are refusals.
        connection.execute(
            text("""
                UPDATE promotion SET action = 'refused', previous_training_id = NULL
                WHERE training_id LIKE '%-copy-%' AND action = 'promoted'
            """)
        )
        connection.execute(
            text("""
                UPDATE training SET variant = variant || '-' || n FROM (
                    SELECT training_id AS id, row_number() OVER () AS n FROM training
                    WHERE training_id LIKE :last LIMIT :n) one
                WHERE one.id = training_id
            """),
            {"last": f"{training_ids[2]}-copy-%", "n": N_WAITING},
        )  # fmt: skip
    with engine_for(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return training_ids, question


def fill_airflow(question: Question) -> None:
    """Make Airflow's own database: runs that ended, failed or are at work, with their tasks, and open questions."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, stdout=subprocess.DEVNULL)
    from airflow.models.dagrun import DagRun
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunType

    from lesion_airflow import REASON
    from lesion_tasks.pages.run_results import DAGS

    moment = datetime.now(UTC) - timedelta(hours=1)

    def ran(session: Any, dag_id: str, run_id: str, state: str, tasks: Mapping[str, str]) -> Any:
        session.add(
            DagRun(
                dag_id=dag_id, run_id=run_id, run_type=DagRunType.MANUAL, run_after=moment, state=state,
                start_date=moment,
            )
        )  # fmt: skip
        session.flush()
        for task_id, task_state in tasks.items():
            with DAG(dag_id, schedule=None):
                task = EmptyOperator(task_id=task_id)
            place = -1 if task_id == "compare" else 0
            ti = TaskInstance(task, dag_version_id=None, run_id=run_id, state=task_state, map_index=place)
            ti._rendered_map_index, ti.try_number, ti.start_date = TASK, 1, moment
            session.add(ti)
            session.flush()
            if task_id == "ask":
                session.add(
                    HITLDetail(
                        ti_id=ti.id, options=["Approve", "Reject"], subject=question.subject, params={}
                    )
                )
            if task_state == "failed":
                XComModel.set(
                    key=REASON,
                    value="x" * 300,
                    dag_id=dag_id,
                    task_id=task_id,
                    run_id=run_id,
                    map_index=0,
                    session=session,
                )
        if "ask" in tasks:
            XComModel.set(
                key="return_value", value=[asdict(question)], dag_id=dag_id, task_id="compare", run_id=run_id,
                session=session,
            )  # fmt: skip
        found = session.query(DagRun).filter_by(dag_id=dag_id, run_id=run_id).one()
        found.end_date = None if state == "running" else moment

    done = {f"task_{place}": "success" for place in range(8)}
    with create_session() as session:
        for dag_id in DAGS:
            ran(session, dag_id, "ended", "success", done)
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.flush()
        copies = {"run_id": "run_id || '-copy-' || k", "id": "gen_random_uuid()"}
        repeat(session.connection(), "dag_run", N_RUNS, {"run_id": copies["run_id"]})
        repeat(session.connection(), "task_instance", N_RUNS, copies)
    with create_session() as session:
        for place in range(N_FAILED):
            ran(session, "ingest_isic", f"failed_{place}", "failed", {**done, "fetch": "failed"})
        for place in range(N_AT_WORK):
            tasks = (
                {"each.train": "running", "each.evaluate": "scheduled"}
                if place % 2
                else {"ask": "awaiting_input"}
            )
            dag_id, run_id = (
                ("train_variants", f"work_{place}")
                if place % 2
                else ("promote_model", f"{RUN_ID}{place or ''}")
            )
            compared = {} if place % 2 else {"compare": "success"}
            ran(session, dag_id, run_id, "running", {**compared, **tasks})
    with create_session() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(
            text("VACUUM ANALYZE")
        )


def application() -> tuple[Any, dict[str, str]]:
    """The application as the plugin has it, and the headers of an administrator."""
    sys.argv = ["airflow", "api-server"]
    from airflow.api_fastapi.app import get_auth_manager, init_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    init_auth_manager()
    from lesion_pages import LesionPages

    (mounted,) = LesionPages.fastapi_apps
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="admin", role="ADMIN"))
    return mounted["app"], {"Authorization": f"Bearer {token}"}


def page_ms(app: Any, headers: dict[str, str], path: str) -> float:
    """Median milliseconds of a page on the server, after a first look."""

    async def ask() -> list[float]:
        transport = httpx.ASGITransport(app)
        address = "http://airflow.example"
        async with httpx.AsyncClient(transport=transport, base_url=address, headers=headers) as client:
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
            (first, second, _), question = fill(url)
            os.environ.update(
                AIRFLOW_HOME=str(home / "airflow"),
                AIRFLOW__CORE__LOAD_EXAMPLES="False",
                AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
                AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=postgres.database_url(home, "airflow"),
                AIRFLOW__API_AUTH__JWT_SECRET="a secret of this benchmark that is long enough for HS512",  # noqa: S106 - guards nothing
                PYTHONPATH=f"{ROOT}:{ROOT / 'plugins'}",
            )
            fill_airflow(question)
            app, headers = application()
            paths: dict[str, Any] = {
                "pipeline": "/",
                "leaderboard": f"/leaderboard/{TASK}",
                "last page of it": f"/leaderboard/{TASK}?number={N_TRAININGS // 50}",
                "filtered": f"/leaderboard/{TASK}?words=-copy-2499&is_sound=1",
                "side by side": f"/compare?training={first}&training={second}",
                "champion": f"/champion/{TASK}",
                "data": "/data",
                "a run's tab": f"/result?dag=promote_model&run={RUN_ID}&task={{TASK_ID}}",
                "a question": f"/question?dag=promote_model&run={RUN_ID}&map_index=0",
            }
            taken = {name: page_ms(app, headers, path) for name, path in paths.items()}
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
