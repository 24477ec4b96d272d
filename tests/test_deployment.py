"""Files that a team deploys from: read without an engine, they keep what they promise."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from lesion_tasks.database.connection import engine_for
from lesion_tasks.database.schema import Base
from lesion_tasks.deployment.prepare_services import _let_reader_read
from lesion_tasks.laptop.airflow import _services as airflow_services
from lesion_tasks.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
SECRET = re.compile(r"PASSWORD|SECRET|FERNET_KEY|ACCESS_KEY")


def script(name: str) -> ModuleType:
    """A script of docker/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docker" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written_env(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "env"
    subprocess.run([sys.executable, ROOT / "docker" / "write_env.py", path], check=True, capture_output=True)
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def test_an_existing_env_keeps_its_secrets_and_gets_those_it_lacks(tmp_path: Path) -> None:
    before = written_env(tmp_path)
    path = tmp_path / "env"
    kept = "".join(
        f"{name}={value}\n" for name, value in before.items() if name != "LESIONS_READER_DB_PASSWORD"
    )
    path.write_text(kept.rstrip("\n"))
    after = written_env(tmp_path)
    assert after.pop("LESIONS_READER_DB_PASSWORD")
    assert after == {name: value for name, value in before.items() if name in after}
    assert written_env(tmp_path).keys() == before.keys()


def test_an_s3_that_somebody_else_runs_gets_no_made_up_accounts(tmp_path: Path) -> None:
    accounts = script("write_env").S3_ACCOUNTS
    before = written_env(tmp_path)
    assert len({before[name] for name in accounts}) == len(accounts) == 6
    old = "".join(f"{name}={value}\n" for name, value in before.items() if name not in accounts)
    (tmp_path / "env").write_text(old + "S3_ENDPOINT_URL=https://s3.example.org\n")
    assert not set(accounts) & written_env(tmp_path).keys()


# --------------------------------------------------------------------------------------------------- compose


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gives_up_every_right_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "network_mode" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_of_others_is_named_with_its_version(name: str) -> None:
    image = SERVICES[name]["image"]
    if not image.startswith("lesion-"):
        assert re.search(r":v?\d[\w.]*}?$", image), image


def test_every_secret_is_asked_for_and_none_has_a_default() -> None:
    text = (ROOT / "docker-compose.yaml").read_text()
    used = re.findall(r"\$\{([A-Z0-9_]+)([^{}]*)", text)
    secrets = {name for name, _ in used if SECRET.search(name)}
    assert len(secrets) >= 10
    accounts = set(script("write_env").S3_ACCOUNTS)  # these fall back on S3_ACCESS_KEY and S3_SECRET_KEY
    for name, rest in used:
        if name in secrets - accounts:
            assert rest in ("", ":?run `make env` first"), f"{name}{rest}"
    required = {name for name, rest in used if rest.startswith(":?")}
    assert secrets - required == accounts


def test_ports_are_published_on_the_loopback_address_by_default() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"api-server": ["${LESION_BIND:-127.0.0.1}:${LESION_PORT:-8080}:8080"]}


def test_both_queues_have_workers_and_models_one_slot() -> None:
    commands = {name: service.get("command") for name, service in SERVICES.items()}
    assert commands["worker"] == "celery worker --queues default --concurrency 4"
    for name in ("trainer", "trainer-gpu"):
        assert commands[name] == "celery worker --queues gpu --concurrency 1"
    assert [SERVICES[name]["profiles"] for name in ("trainer", "trainer-gpu", "s3")] == [
        ["cpu"],
        ["gpu"],
        ["s3"],
    ]


def test_pools_are_those_of_the_laptop_and_train_one_model_at_a_time() -> None:
    from lesion_tasks.catalog.pools import GPU_POOL, POOLS
    from lesion_tasks.deployment import prepare_services as deployment
    from lesion_tasks.laptop import airflow

    assert deployment.POOLS is airflow.POOLS
    assert POOLS[GPU_POOL][0] == 1


def test_only_workers_and_init_may_change_the_data_and_the_api_server_reads_it() -> None:
    roles = {
        name: service["environment"]["LESION_DATABASE_URL"].partition("://")[2].partition(":")[0]
        for name, service in SERVICES.items()
        if "LESION_DATABASE_URL" in str(service["environment"])
    }
    writer, reader = "lesions", "lesions_reader"
    assert roles == {
        "init": writer, "worker": writer, "trainer": writer, "trainer-gpu": writer, "api-server": reader,
    }  # fmt: skip


def test_tasks_logs_and_pages_each_have_keys_of_their_own_and_init_those_of_the_bucket() -> None:
    keys = {
        name: service["environment"]["AWS_ACCESS_KEY_ID"].partition("{")[2].partition(":")[0]
        for name, service in SERVICES.items()
        if "AWS_ACCESS_KEY_ID" in str(service["environment"])
    }
    tasks = "S3_TASKS_ACCESS_KEY"
    assert keys == {
        "init": "S3_ACCESS_KEY", "worker": tasks, "trainer": tasks, "trainer-gpu": tasks,
        "api-server": "S3_READER_ACCESS_KEY",
    }  # fmt: skip
    assert all(
        "S3_LOGS_ACCESS_KEY" in service["environment"]["AIRFLOW_CONN_BUCKET"]
        for service in SERVICES.values()
        if "AIRFLOW_CONN_BUCKET" in str(service["environment"])
    )


def test_the_accounts_of_the_s3_server_are_written_as_it_reads_them(tmp_path: Path) -> None:
    service = SERVICES["s3-accounts"]
    environment = written_env(tmp_path)
    given = {name: environment[f"S3_{name}"] for name in service["environment"]}
    body = service["command"][0].replace("$$", "$").replace("/accounts/", f"{tmp_path}/")
    command = [*service["entrypoint"], body]
    subprocess.run(command, env={"PATH": os.environ["PATH"], **given}, check=True)
    accounts = json.loads((tmp_path / "users.json").read_text())["accessAccounts"]
    assert {key: (account["access"], account["role"]) for key, account in accounts.items()} == {
        given[f"{who}_ACCESS_KEY"]: (given[f"{who}_ACCESS_KEY"], "user")
        for who in ("TASKS", "LOGS", "READER")
    }
    assert (tmp_path / "users.json").stat().st_mode & 0o077 == 0
    refused = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], **given, "LOGS_SECRET_KEY": ""},
        capture_output=True,
        check=False,
    )
    assert b"make env" in refused.stderr
    assert refused.returncode != 0


def test_the_bucket_is_opened_to_each_account_by_its_document(monkeypatch: pytest.MonkeyPatch) -> None:
    from lesion_tasks.deployment.prepare_services import ACCOUNTS, bucket_policy

    monkeypatch.setattr("lesion_tasks.deployment.prepare_services.RIGHTS", ROOT / "deploy" / "s3")
    policy = bucket_policy("skin", {who: f"key-of-{who}" for who in ACCOUNTS})
    resources = {
        statement["Principal"]["AWS"][0]: statement["Resource"]
        for statement in policy["Statement"]
        if "PutObject" in str(statement["Action"])
    }
    assert resources == {
        "key-of-tasks": "arn:aws:s3:::skin/data/*",
        "key-of-logs": "arn:aws:s3:::skin/logs/*",
    }
    assert "lesion" not in json.dumps(policy)


def test_workers_hold_no_secret_of_the_services() -> None:
    for name in ("worker", "trainer", "trainer-gpu"):
        text = str(SERVICES[name]["environment"])
        for secret in ("AIRFLOW_DB_PASSWORD", "AIRFLOW_JWT_SECRET", "AIRFLOW_FERNET_KEY", "SQL_ALCHEMY_CONN"):
            assert secret not in text, name
    environment = SERVICES["scheduler"]["environment"]
    assert {"AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET"} <= environment.keys()


def test_every_process_of_airflow_sees_the_catalogue_folder_and_cannot_write_it() -> None:
    for name, service in SERVICES.items():
        if service["image"].startswith("lesion-"):
            assert "${LESION_CATALOG:-./catalog}:/opt/lesion/catalog:ro" in service["volumes"], name
    assert "LESION_CATALOG=/opt/lesion/catalog" in (ROOT / "docker" / "Dockerfile").read_text()
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "values.yaml").read_text())
    worker = yaml.safe_load((ROOT / "deploy" / "helm" / "gpu-worker.yaml").read_text())
    pod = worker["spec"]["template"]["spec"]
    for volumes, mounts in (
        (values["volumes"], values["volumeMounts"]),
        (pod["volumes"], pod["containers"][0]["volumeMounts"]),
    ):
        assert {"name": "catalog", "configMap": {"name": "lesion-catalog", "optional": True}} in volumes
        assert {"name": "catalog", "mountPath": "/opt/lesion/catalog", "readOnly": True} in mounts
    given = {"LESION_CATALOG": "/somewhere", "LESION_HOME": "/elsewhere"}
    services = {service.name: service.settings for service in airflow_services({}, given)}
    assert {name: of.get("LESION_CATALOG") for name, of in services.items()} == dict.fromkeys(
        services, "/somewhere"
    )


def test_stores_are_reached_by_those_that_use_them_and_reach_nobody_else() -> None:
    networks = {name: set(service.get("networks", ["default"])) for name, service in SERVICES.items()}
    assert networks["postgres"] == networks["s3"] == {"storage"}
    assert networks["redis"] == {"broker"}
    assert {name for name, found in networks.items() if "broker" in found} == {
        "redis", "init", "scheduler", "worker", "trainer", "trainer-gpu",
    }  # fmt: skip
    assert COMPOSE["networks"] == {
        "default": None,
        "storage": {"internal": True},
        "broker": {"internal": True},
    }


def test_the_role_of_the_pages_reads_every_table_and_changes_none(settings: Settings) -> None:
    engine = engine_for(settings.database_url or "")
    with engine.begin() as connection:
        connection.execute(
            text("""
                DO $$ BEGIN
                    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'lesions_reader') THEN
                        CREATE ROLE lesions_reader LOGIN;
                    END IF;
                END $$
            """)
        )
    _let_reader_read(settings.database_url)
    for table in Base.metadata.tables:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL ROLE lesions_reader"))
            connection.execute(text(f'SELECT * FROM "{table}" LIMIT 0'))
        with pytest.raises(ProgrammingError, match="permission denied"), engine.begin() as connection:
            connection.execute(text("SET LOCAL ROLE lesions_reader"))
            connection.execute(text(f'DELETE FROM "{table}"'))


def test_docker_compose_itself_takes_the_files(tmp_path: Path) -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip(
            "there is no `docker compose` on this machine; its form was read by the tests above alone"
        )
    written_env(tmp_path)
    command = ["docker", "compose", "-f", "docker-compose.yaml", "-f", "docker/compose.test.yaml"]
    for env_file, status in ((tmp_path / "env", 0), (Path(os.devnull), 1)):
        result = subprocess.run(
            [*command, "--env-file", str(env_file), "config", "--quiet"],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AIRFLOW_"))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode != 0) == bool(status), result.stderr


# ----------------------------------------------------------------------------------------------- .env, health


def test_generated_secrets_are_long_differ_and_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    first = written_env(tmp_path)
    assert (tmp_path / "env").stat().st_mode & 0o777 == 0o600
    secrets = [value for name, value in first.items() if SECRET.search(name)]
    assert len(secrets) == len(set(secrets)) >= 10
    assert min(len(value) for value in secrets) >= 40
    assert written_env(tmp_path) == first, "an existing file is left as it is"


@pytest.mark.parametrize(
    ("command", "check"),
    [
        ("airflow\0api-server\0", "check_api"),
        ("/sbin/docker-init\0--\0airflow\0celery\0worker\0--queues\0gpu\0", "check_worker"),
    ],
)
def test_health_is_asked_of_what_runs(command: str, check: str) -> None:
    module = script("healthy")
    assert module.check_for(command.split("\0")) is getattr(module, check)


@pytest.mark.parametrize(("status", "is_healthy"), [("healthy", True), ("unhealthy", False)])
def test_a_component_is_as_healthy_as_the_api_says(
    status: str, is_healthy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"dag_processor": {"status": status}}).encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Api)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/execution/"
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", url)
    check = script("healthy").check_for(["airflow", "dag-processor"])
    try:
        if is_healthy:
            check()
        else:
            with pytest.raises(ValueError, match="dag_processor is unhealthy"):
                check()
    finally:
        server.shutdown()
        server.server_close()


# -------------------------------------------------------------------------------------------------- Dockerfile


def test_the_image_is_built_from_the_lock_and_runs_as_nobody_special() -> None:
    lines = [
        line for line in (ROOT / "docker" / "Dockerfile").read_text().splitlines() if line[:1] not in "# "
    ]
    words = [line.split(maxsplit=1) for line in lines if line]
    assert {rest for word, rest in words if word == "USER"} == {"50000:50000"}
    assert words[-1][0] == "ENTRYPOINT"
    assert "HEALTHCHECK" in {word for word, _ in words}
    assert "ADD" not in {word for word, _ in words}
    assert not any(rest.startswith(". ") for word, rest in words if word == "COPY"), "the whole context"
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert "--require-hashes --no-deps" in text
    assert not re.search(r"apt-get|curl|wget|:latest", text)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*", (
        "nothing goes to the builder unless named"
    )


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "docker").glob("*.sh")), *sorted((ROOT / "requirements").glob("*.sh"))]
)
def test_a_shell_script_is_one_and_stops_at_the_first_error(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert "set -euo pipefail" in path.read_text()
    assert path.stat().st_mode & 0o100


DOCKER = """#!/bin/sh
# A stack as `docker compose` tells of it: one line for each call, and what it is given on standard input.
stopped=$CALLS.stopped
case "$*" in
  "compose ps --services --status running") [ -e "$stopped" ] && printf 'postgres\\nredis\\ns3\\n%s' "$STUBBORN" ;;
  "compose ps --services") printf 'postgres\\nredis\\ns3\\n%s' "$SERVICES" ;;
  *) echo "$*" >> "$CALLS"; [ -t 0 ] || cat >> "$CALLS" ;;
esac
case "$*" in "compose stop"*) touch "$stopped" ;; esac
case "$*" in *"$FAILS"*) exit 1 ;; esac
"""


def restored(
    tmp_path: Path, *, fails: str = "nothing", services: str = "worker\ntrainer\n", stubborn: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What restore.sh says, and the calls of docker that it made, in order, with the files it gave to them."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    folder = tmp_path / "backup"
    folder.mkdir()
    for name in ("airflow.dump", "lesions.dump", "bucket.tar"):
        (folder / name).write_text(f"content of {name}\n")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "FAILS": fails,
        "SERVICES": services,
        "STUBBORN": stubborn,
    }
    result = subprocess.run(
        [ROOT / "docker" / "restore.sh", folder],
        env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    calls = tmp_path / "calls"
    return result, calls.read_text().splitlines() if calls.exists() else []


def test_a_restore_stops_what_writes_before_it_touches_the_bucket_and_publishes_at_last(
    tmp_path: Path,
) -> None:
    result, calls = restored(tmp_path)
    assert result.returncode == 0, result.stderr
    words = ("compose stop worker trainer", "bucket_tar load", "content of bucket.tar", "content of airflow.dump",
             "content of lesions.dump", "compose run --rm --no-deps -T init", "-m lesion_tasks publish",
             "compose start worker trainer")  # fmt: skip
    places = [next((i for i, call in enumerate(calls) if word in call), -1) for word in words]
    assert -1 not in places, calls
    assert places == sorted(places)
    assert len(calls) == places[-1] + 1


@pytest.mark.parametrize("step", ["bucket_tar", "pg_restore", "init", "publish"])
def test_a_restore_that_fails_leaves_what_writes_stopped(tmp_path: Path, step: str) -> None:
    result, calls = restored(tmp_path, fails=step)
    assert result.returncode != 0
    assert "compose stop worker trainer" in calls
    assert not any(call.startswith("compose start") for call in calls)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ({"stubborn": "worker\n"}, "still running: worker"),
        ({"services": ""}, "the stack is not running"),
    ],
)
def test_a_restore_is_refused_while_something_writes_or_nothing_runs(
    tmp_path: Path, stack: dict[str, str], message: str
) -> None:
    result, calls = restored(tmp_path, **stack)
    assert result.returncode == 1
    assert message in result.stderr
    assert not any("content of" in call for call in calls)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_pins_everything_by_hash_and_names_no_host(path: Path) -> None:
    text = path.read_text()
    pins = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[\w,-]+\])?==\S+ \\$", text, re.MULTILINE)
    assert pins
    assert text.count("    --hash=sha256:") >= len(pins)
    # Every line is a pin or a hash: no address, no option, nothing loose.
    assert [
        line
        for line in text.splitlines()
        if line
        and not re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+( ;.*)? \\$|    --hash=sha256:[0-9a-f]{64}( \\)?$", line)
    ] == []
    if path.stem.startswith(("airflow", "worker")):
        assert "celery==5.6." in text


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_no_lock_brings_tensorflow_twice(path: Path) -> None:
    """`tensorflow` and `tensorflow-cpu` provide the same module; KerasHub asks for the former by `tensorflow-text`."""
    found = [Requirement(line.rstrip(" \\")) for line in path.read_text().splitlines() if "==" in line]
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")):
        there = {"sys_platform": system, "platform_machine": machine}
        names = {one.name for one in found if one.marker is None or one.marker.evaluate(there)}
        assert len(names & {"tensorflow", "tensorflow-cpu"}) == (path.stem not in ("airflow", "site", "uv"))
        assert "tensorflow-text" not in names
        assert ("keras-hub" in names) is (path.stem in ("dev", "kerashub"))


# ---------------------------------------------------------------------------------------------- beyond compose


def test_values_of_the_chart_hold_no_secret_and_no_right_too_many() -> None:
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "values.yaml").read_text())
    assert values["executor"] == "CeleryExecutor"
    assert values["postgresql"] == {"enabled": False}
    for name in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"):
        assert values[name].startswith("lesion-")
    assert values["securityContexts"]["containers"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert values["config"]["core"]["plugins_folder"] == "/opt/lesion/app/plugins"
    assert {entry["queue"] for entry in values["workers"]["celery"]["sets"]} == {"default"}
    assert values["migrateDatabaseJob"]["command"] == [
        "python",
        "-m",
        "lesion_tasks.deployment.prepare_services",
    ]


JSON_TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip


def test_every_value_of_the_chart_is_one_that_its_schema_knows() -> None:
    """Paths, types and choices as the chart's schema of the named version has them."""
    chart = json.loads((ROOT / "tests" / "helm_chart_keys.json").read_text())
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "values.yaml").read_text())
    assert sorted(_strangers(values, "", chart)) == []
    misspelt = {**values, "apiServer": {**values["apiServer"], "replica": 2}, "excutor": "CeleryExecutor"}
    assert sorted(_strangers(misspelt, "", chart)) == ["apiServer.replica", "excutor"]
    wrong = {**values, "scheduler": {**values["scheduler"], "replicas": "two"}}
    assert sorted(_strangers(wrong, "", chart)) == ["scheduler.replicas: 'two'"]


def _strangers(value: Any, path: str, chart: dict[str, Any]) -> Iterator[str]:
    """Paths below `path` that the schema does not know, and values that it does not allow there."""
    known = chart["keys"].get(path)
    if path and known is None:
        if not path.startswith(tuple(f"{free}." for free in chart["free"])):
            yield path
        return
    if known and "type" in known:
        names = known["type"] if isinstance(known["type"], list) else [known["type"]]
        kinds = tuple(JSON_TYPES[name] for name in names)
        is_fitting = isinstance(value, kinds) and not (isinstance(value, bool) and "boolean" not in names)
        if not is_fitting or value not in known.get("enum", [value]):
            yield f"{path}: {value!r}"
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _strangers(inner, f"{path}.{name}" if path else name, chart)
    elif isinstance(value, list):
        for inner in value:
            yield from _strangers(inner, f"{path}[]", chart)


def test_the_worker_beside_the_chart_trains_one_model_at_a_time_on_one_gpu() -> None:
    found = yaml.safe_load((ROOT / "deploy" / "helm" / "gpu-worker.yaml").read_text())
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert found["spec"]["replicas"] == 1
    assert found["spec"]["strategy"] == {"type": "Recreate"}
    assert container["args"][-4:] == ["--queues", "gpu", "--concurrency", "1"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert found["spec"]["selector"]["matchLabels"] == found["spec"]["template"]["metadata"]["labels"]
    for entry in container["env"]:
        assert SECRET.search(entry["name"]) is None or "valueFrom" in entry, entry["name"]


@pytest.mark.parametrize("name", ["tasks", "logs", "reader"])
def test_a_policy_of_the_bucket_allows_named_actions_alone(name: str) -> None:
    policy = json.loads((ROOT / "deploy" / "s3" / f"{name}.json").read_text())
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        places = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        assert not any("*" in action for action in actions)
        assert all(
            place == "arn:aws:s3:::lesion" or place.startswith("arn:aws:s3:::lesion/") for place in places
        )
        if name == "reader":
            assert set(actions) <= {"s3:GetObject", "s3:ListBucket"}
        # Without it a bucket cannot be opened, and a missing object looks like a forbidden one.
        if "s3:ListBucket" in actions:
            assert "Condition" not in statement
    assert "s3:ListBucket" in str(policy)


# ------------------------------------------------------------------------------------------------------ pickle


@pytest.mark.parametrize(
    "path", sorted(p for folder in ("lesion_tasks", "dags", "plugins") for p in (ROOT / folder).rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)  # fmt: skip
def test_nothing_between_bucket_and_worker_is_a_pickle(path: Path) -> None:
    """No module that unpickles, no array or model that is read with leave to."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
            assert not {name.split(".")[0] for name in names} & {
                "pickle",
                "joblib",
                "dill",
                "cloudpickle",
                "shelve",
            }
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if node.func.attr in ("load", "save") and owner == "np":
                assert given.get("allow_pickle") is False or given.get("mmap_mode"), f"line {node.lineno}"
            assert node.func.attr not in ("read_pickle", "to_pickle", "unsafe_load"), f"line {node.lineno}"
            if node.func.attr == "load_model":
                assert given.get("safe_mode", True) is True, f"line {node.lineno}"
            assert given.get("allow_pickle") is not True, f"line {node.lineno}"
