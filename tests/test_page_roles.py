"""Who may see and start what, by Airflow's own auth manager: the table of docs/airflow.md is what is asked here."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from test_training_page import DIGEST, begun

from lesion_tasks.catalog.approvals import PAGES
from lesion_tasks.evaluation.evaluation_record import record_evaluation
from lesion_tasks.promotion.questions import Question
from lesion_tasks.settings import Settings
from lesion_tasks.training.run_record import Outcome, finish
from lesion_tasks.workspace import open_workspace

ROOT = Path(__file__).parents[1]
ROLES = ("anonymous", "viewer", "user", "op", "admin")
# Asks the plugin's application as the API server mounts it, in a process in which Airflow is configured.
SCRIPT = """
import asyncio, json, sys
from datetime import UTC, datetime, timedelta
given = json.load(sys.stdin)
sys.argv = ["airflow", "api-server"]
import httpx
from airflow.api_fastapi.app import get_auth_manager, init_auth_manager
init_auth_manager()
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from lesion_airflow import REASON, REFUSED
from lesion_pages import LesionPages

from airflow.models.dagrun import DagRun
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from airflow.utils.types import DagRunType

def ran(session, dag_id, task_id, run_id, label, map_index=-1):
    with DAG(dag_id):
        task = EmptyOperator(task_id=task_id)
    moment = datetime.fromisoformat(given["failed_at"])
    session.add(DagRun(dag_id=dag_id, run_id=run_id, run_type=DagRunType.MANUAL, run_after=moment))
    session.flush()
    ti = TaskInstance(task, dag_version_id=None, run_id=run_id, state="running", map_index=map_index)
    ti._rendered_map_index, ti.try_number, ti.start_date = label, 1, moment - timedelta(minutes=9)
    session.add(ti)
    session.flush()
    return ti, moment

with create_session() as session:
    # The first try fails and is kept as history; the second begins 20 seconds later and still runs.
    ti, moment = ran(session, "train_variants", "each.train", "run+1", given["variant"], 0)
    ti.end_date, ti.state = moment + timedelta(seconds=1), TaskInstanceState.FAILED
    TaskInstanceHistory.record_ti(ti, session=session)
    ti.try_number, ti.start_date, ti.end_date = 2, moment + timedelta(seconds=21), None
    ti.state = TaskInstanceState.RUNNING
    ran(session, "promote_model", "compare", "run+2", None)
    # A run that failed, as the callback of our tasks leaves it.
    ti, moment = ran(session, "build_splits", "choose", "run+3", None)
    ti.state, ti.end_date = TaskInstanceState.FAILED, moment
    ti.dag_run.state, ti.dag_run.end_date = "failed", datetime.now(UTC)
    XComModel.set(
        key=REASON, value=given["reason"], dag_id="build_splits", task_id="choose", run_id="run+3", session=session
    )
    # Runs that were refused for what they were started with: after the last run of the DAG began, and before.
    for run_id, hours in (("refused-last", 1), ("refused-before", -1)):
        ti, _ = ran(session, "promote_model", "plan", run_id, None)
        ti.state = TaskInstanceState.FAILED
        ti.dag_run.state, ti.dag_run.end_date = "failed", datetime.now(UTC) + timedelta(hours=hours)
        for key, value in ((REASON, run_id), (REFUSED, True)):
            XComModel.set(
                key=key, value=value, dag_id="promote_model", task_id="plan", run_id=run_id, session=session
            )
    # A question that was answered, whose task has not noticed yet.
    ti, moment = ran(session, "promote_model", "ask", "run+5", "malignancy", 0)
    ti.state, ti.dag_run.state = TaskInstanceState.AWAITING_INPUT, "running"
    session.add(
        HITLDetail(
            ti_id=ti.id, options=["Approve", "Reject"], subject="May it?", params={}, responded_at=moment,
            responded_by={"id": "ada", "name": "Ada"}, chosen_options=["Reject"],
            params_input={"reason": "too few of children"},
        )
    )
    with DAG("promote_model"):
        comparing = EmptyOperator(task_id="compare")
    session.add(TaskInstance(comparing, dag_version_id=None, run_id="run+5", state="success"))
    session.flush()
    XComModel.set(
        key="return_value", value=[{**given["question"], "request_id": "run+5 malignancy"}],
        dag_id="promote_model", task_id="compare", run_id="run+5", session=session,
    )
    ran(session, "promote_model", "score_again", "run+4", "smoke-1", 0)[0].dag_run.state = "running"
    XComModel.set(
        key="return_value", value=[given["question"]], dag_id="promote_model", task_id="compare", run_id="run+2",
        session=session,
    )

(mounted,) = LesionPages.fastapi_apps
app = mounted["app"]
values = {"task": "malignancy", "name": "pages.js", "isic_id": "x", "path": "x.html", "theme": "dark", "place": "0"}
values |= {"training_id": given["training_id"], "split": "x"}
paths = [route.path.replace(":path", "").format(**values) for route in app.routes]
failed = "/result?dag=build_splits&run=run%2B3"
asked = {
    "/question": "/question?dag=promote_model&run=run%2B2&map_index=0",
    "/result": failed + "&task=choose&map_index={MAP_INDEX}",
}
decided = ("promote_model", "rollback_champion", "correct_data")

async def ask(role):
    headers = {}
    if role != "anonymous":
        user = SimpleAuthManagerUser(username=role, role=role.upper())
        headers["Authorization"] = "Bearer " + get_auth_manager().generate_jwt(user)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow.example", headers=headers) as client:
        answers = {path: await client.get(asked.get(path, path)) for path in paths}
        champion, suspects = [(await client.get(f"/{name}/malignancy")).text for name in ("champion", "suspects")]
    manager = get_auth_manager()
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    may = [
        role != "anonymous"
        and manager.is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=dag_id), user=user
        )
        for dag_id in decided
    ]
    # What a page offers is what Airflow would let its reader start.
    offered = ['data-may="promote_model"' in champion, "Your role may not start" not in suspects]
    names = ("/training/" + given["training_id"], "/question", "/", "/result")
    shown = {name: answers[name].text for name in names}
    codes = {path: answer.status_code for path, answer in answers.items()}
    if role == "anonymous":
        offered = [False, False]
    return {"shown": list(shown.values()), "codes": codes, "may": may, "offered": offered}

told = {role: asyncio.run(ask(role)) for role in given["roles"]}

# An answer is kept as Airflow takes it, whatever becomes of the task that asks.
from lesion_answers import Answers

async def taken(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})

async def swallow(message): pass

path = "/api/v2/dags/promote_model/dagRuns/run+5/taskInstances/ask/0/hitlDetails"
for _ in range(2):
    asyncio.run(Answers(taken)({"type": "http", "method": "PATCH", "path": path}, None, swallow))
with create_session() as session:
    kept = [
        XComModel.deserialize_value(one)
        for one in session.query(XComModel).filter_by(run_id="run+5", task_id="compare", key="answer 0")
    ]
print(json.dumps({**told, "kept": kept}))
"""


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


def asked(home: Path, settings: Settings, given: dict[str, Any]) -> dict[str, Any]:
    environment = {
        **os.environ,
        **settings.as_environment(),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this test that is long enough for HS512, and of no other use",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
    }
    for command, sent in (
        ([sys.executable, "-m", "airflow", "db", "migrate"], ""),
        ([sys.executable, "-c", SCRIPT], json.dumps(given)),
    ):
        done = subprocess.run(
            command, env=environment, input=sent, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def add_rows() -> dict[str, Any]:
    """A training that failed, and a question about another one, as the product writes them; in words for the script."""
    engine = open_workspace().engine
    failed = begun("cnn_scratch")
    with pytest.raises(ValueError, match="cause"), Outcome(engine, failed):
        raise ValueError("the cause")
    candidate = begun("metadata_logistic")
    with engine.begin() as connection:
        finish(connection, candidate, model_key="x", model_sha256="0" * 64)
        failed_at = connection.execute(text("SELECT failed_at FROM training_failure")).scalar_one()
        document = {
            "training": {"training_id": candidate}, "manifest": {"digest": DIGEST},
            "is_sound": True, "failed_checks": [], "verdict": "x",
        }  # fmt: skip
        record_evaluation(connection, f"{candidate}-own", document, report_key="reports/x/report.html")
    question = Question(
        task_name="malignancy",
        asked_about=candidate,
        asked_against=None,
        subject="May it?",
        body=f"**Candidate** [report]({PAGES}reports/x/report.html)",
        assigned_users=[],
    )
    return {
        "roles": ROLES,
        "training_id": failed,
        "variant": "cnn_scratch",
        "failed_at": failed_at.isoformat(),
        "reason": "splits: unknown mine; expected some of malignancy_natural",
        "question": asdict(question),
    }


def test_roles_may_do_what_the_document_says(settings: Settings, airflow_home: Path) -> None:
    given = add_rows()
    found = asked(airflow_home, settings, given)
    page = (ROOT / "docs" / "airflow.md").read_text()
    told = {
        cells[0]: cells[1:]
        for line in page.splitlines()
        if line.startswith("| ") and (cells := re.findall(r"\| ([^|]+?) (?=\|)", line)) and cells[0] in ROLES
    }
    assert tuple(told) == ROLES
    reason = "too few of children"
    kept = {"chosen_options": ["Reject"], "person": "Ada", "reason": reason, "max_tries": 0}
    assert found["kept"] == [kept]
    with open_workspace().engine.connect() as connection:
        rows = connection.execute(text("SELECT action, decided_by, reason FROM promotion")).all()
    assert [tuple(row) for row in rows] == [("rejected", "Ada", f"Rejected by Ada: \u201c{reason}\u201d.")]
    for role, (reads, decides) in told.items():
        codes = found[role]["codes"]
        assert len(codes) >= 15
        refused = {path for path, code in codes.items() if code in (401, 403)}
        assert refused == (set() if reads == "yes" else set(codes)), role
        failed = {path for path, code in codes.items() if code >= 500}
        assert failed == set(), role
        assert set(found[role]["may"] + found[role]["offered"]) == {decides == "yes"}, role
        if reads == "yes":
            training, question, pipeline, result = found[role]["shown"]
            for page in (pipeline, result):
                assert given["reason"] in page, "why a run failed"
            assert "This task failed." in result
            assert re.search(r"runs</span> <a [^>]+>score again smoke-1</a>", pipeline)
            assert "ValueError: the cause" in training
            assert "taskInstances/each.train/logs/1?map_index=0" in training, (
                "the try that failed, not the next"
            )
            assert re.search(
                r'run <a href="dags/train_variants/runs/run%2B1" [^>]+>run\+1</a>, try 1', training
            )
            assert "ask malignancy: answered by Ada" in pipeline
            assert "refused-last" in pipeline and "refused-before" not in pipeline
            assert json.loads(question) == {
                "asked_about": given["question"]["asked_about"],
                "title": "Logistic regression on age, sex and lesion size",
                "pictures": [],
                "is_open": True,
                "can_promote": True,
                "body": '<p><strong>Candidate</strong> <a href="/read/x/report.html">report</a></p>\n',
            }
