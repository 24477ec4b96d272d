"""Who may see and start what, by Airflow's own auth manager: the table of docs/airflow.md is what is asked here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lesion_tasks.settings import Settings

ROOT = Path(__file__).parents[1]
ROLES = ("anonymous", "viewer", "user", "op", "admin")
# Asks the plugin's application as the API server mounts it, in a process in which Airflow is configured.
SCRIPT = """
import asyncio, json, sys
sys.argv = ["airflow", "api-server"]
import httpx
from airflow.api_fastapi.app import get_auth_manager, init_auth_manager
init_auth_manager()
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from lesion_pages import LesionPages

(mounted,) = LesionPages.fastapi_apps
app = mounted["app"]
values = {"task": "malignancy", "name": "pages.js", "isic_id": "x", "training_id": "x", "path": "x.html"}
values["theme"] = "dark"
paths = [route.path.replace(":path", "").format(**values) for route in app.routes]
decided = ("promote_model", "rollback_champion", "correct_data")

async def ask(role):
    headers = {}
    if role != "anonymous":
        user = SimpleAuthManagerUser(username=role, role=role.upper())
        headers["Authorization"] = "Bearer " + get_auth_manager().generate_jwt(user)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow.example", headers=headers) as client:
        codes = {path: (await client.get(path)).status_code for path in paths}
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
    offered = ['data-may="yes"' in champion, "Your role may not start" not in suspects]
    return {"codes": codes, "may": may, "offered": offered if role != "anonymous" else [False, False]}

print(json.dumps({role: asyncio.run(ask(role)) for role in sys.stdin.read().split()}))
"""


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


def asked(home: Path, settings: Settings) -> dict[str, Any]:
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
    for command, given in (
        ([sys.executable, "-m", "airflow", "db", "migrate"], ""),
        ([sys.executable, "-c", SCRIPT], " ".join(ROLES)),
    ):
        done = subprocess.run(
            command, env=environment, input=given, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_roles_may_do_what_the_document_says(settings: Settings, airflow_home: Path) -> None:
    found = asked(airflow_home, settings)
    page = (ROOT / "docs" / "airflow.md").read_text()
    told = {
        cells[0]: cells[1:]
        for line in page.splitlines()
        if line.startswith("| ") and (cells := re.findall(r"\| ([^|]+?) (?=\|)", line)) and cells[0] in ROLES
    }
    assert tuple(told) == ROLES
    for role, (reads, decides) in told.items():
        codes = found[role]["codes"]
        assert len(codes) >= 15
        refused = {path for path, code in codes.items() if code in (401, 403)}
        assert refused == (set() if reads == "yes" else set(codes)), role
        failed = {path for path, code in codes.items() if code >= 500}
        assert failed == set(), role
        assert set(found[role]["may"] + found[role]["offered"]) == {decides == "yes"}, role
