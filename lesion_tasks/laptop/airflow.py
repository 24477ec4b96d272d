"""The checkout -> Airflow's four processes, on the embedded Postgres and on 127.0.0.1 only.

Airflow is configured only by environment variables; the airflow.cfg that it writes holds only defaults.

    <home>/airflow/secrets.json     generated keys        } readable by
    <home>/airflow/passwords.json   the user's password   } their owner only
    <home>/airflow/logs             of tasks
    <home>/airflow/run              process ids and output of the four processes
"""

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psycopg2

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.pools import POOLS
from lesion_tasks.database.embedded import postgres
from lesion_tasks.database.embedded.ports import free_port, holder, is_free
from lesion_tasks.laptop.airflow_api import AirflowApi
from lesion_tasks.laptop.processes import (
    Service,
    ensure_started,
    inherited_environment,
    is_outdated,
    leader,
    stop,
    wait_for,
)

CHECKOUT = Path(__file__).parents[2]
USERNAME = "admin"
# One of each role, to try what it may; Airflow writes a password for each that has none.
USERS = {USERNAME: "admin", "op": "op", "user": "user", "viewer": "viewer"}
START_TIMEOUT_S = 180.0
# How many tasks may run at once. One training uses all cores by itself.
PARALLEL_TASKS = max(2, min(4, os.cpu_count() or 2))
API_SERVER = "api-server"
# What the processes need that only read DAGs and tell people.
OF_READERS = ("LESION_CATALOG", "LESION_NOTIFY")


DAGS_FOLDER = CHECKOUT / "dags"


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Airflow's files under the home folder."""

    home: Path

    @property
    def airflow_home(self) -> Path:
        return self.home.resolve() / "airflow"

    @property
    def run(self) -> Path:
        return self.airflow_home / "run"

    @property
    def passwords(self) -> Path:
        return self.airflow_home / "passwords.json"

    @property
    def secrets(self) -> Path:
        return self.airflow_home / "secrets.json"

    @property
    def port(self) -> Path:
        return self.airflow_home / "port"

    @property
    def migrated(self) -> Path:
        return self.airflow_home / "migrated"


def start(
    home: Path,
    settings: Mapping[str, str],
    *,
    port: int | None = None,
    say: Callable[[str], None] = print,
) -> AirflowApi:
    """Start Airflow under `home` with `settings` (the `LESION_*` variables of tasks); return its API.

    Processes that already run with these settings are left alone. Raises `UnusableInputError` if `port` is in
    use, and `RuntimeError` with the end of the log if a process does not start.
    """
    paths = Paths(home=home)
    paths.run.mkdir(parents=True, exist_ok=True)
    database = postgres.database_url(home, "airflow")
    chosen_port = choose_port(home, port)
    environment = _configuration(paths, database, chosen_port, DAGS_FOLDER)
    _migrate(paths, database, environment, say)
    services = _services(environment, settings)
    # All at once: each takes seconds to end.
    stop(paths.run, [service.name for service in services if is_outdated(paths.run, service)])
    for service in services:
        if ensure_started(paths.run, service):
            say(f"airflow {service.name} starts")
    api = connect(home)
    wait_for(paths.run, API_SERVER, lambda: api.health()["metadatabase"] == "healthy", START_TIMEOUT_S)
    api.warm_up()
    for name, (slots, description) in POOLS.items():
        api.ensure_pool(name, slots, description)
    for component in ("scheduler", "dag-processor", "triggerer"):
        is_ready = partial(_is_component_healthy, api, component)
        wait_for(paths.run, component, is_ready, START_TIMEOUT_S)
    return api


def _services(environment: Mapping[str, str], settings: Mapping[str, str]) -> list[Service]:
    command = str(Path(sys.executable).with_name("airflow"))
    plugins = "".join(path.read_text() for path in sorted((CHECKOUT / "plugins").glob("*.py")))
    # Tasks are children of the scheduler: the others need only to know what the forms offer, and whom to tell.
    with_settings = {**environment, **settings}
    with_some = {**environment, **{name: settings.get(name, "") for name in OF_READERS}}
    return [
        Service(name=name, command=(command, *arguments), settings=given, depends_on=plugins)
        for name, arguments, given in (
            (API_SERVER, ("api-server",), with_settings),
            ("scheduler", ("scheduler", "--skip-serve-logs"), with_settings),
            ("dag-processor", ("dag-processor",), with_some),
            ("triggerer", ("triggerer", "--skip-serve-logs"), with_some),
        )
    ]


def _is_component_healthy(api: AirflowApi, component: str) -> bool:
    return api.health()[component.replace("-", "_")] == "healthy"


def connect(home: Path) -> AirflowApi:
    """Return the API of the Airflow that was started under `home`."""
    paths = Paths(home=home)
    try:
        password = json.loads(paths.passwords.read_text())[USERNAME]
        port = paths.port.read_text()
    except FileNotFoundError as error:
        raise UnusableInputError(
            f"Airflow under {home}: never started, {error.filename} is missing"
        ) from error
    return AirflowApi(url=f"http://127.0.0.1:{port}", username=USERNAME, password=password)


def stop_all(home: Path) -> list[str]:
    """Stop Airflow's processes under `home` and the tasks they run; return the names of those that ran."""
    return stop(Paths(home=home).run)


# ------------------------------------------------------------------------------------------ configuration


def _configuration(paths: Paths, database: str, port: int, dags_folder: Path) -> dict[str, str]:
    """Return Airflow's whole configuration as environment variables."""
    keys = _keys(paths)
    _write_password_once(paths)
    options = {
        "core": {
            "executor": "LocalExecutor",
            "parallelism": str(PARALLEL_TASKS),
            "dags_folder": str(dags_folder.resolve()),
            "plugins_folder": str(CHECKOUT / "plugins"),
            "load_examples": "False",
            "fernet_key": keys["fernet"],
            "simple_auth_manager_users": ",".join(f"{name}:{role}" for name, role in USERS.items()),
            "simple_auth_manager_passwords_file": str(paths.passwords),
            "execution_api_server_url": f"http://127.0.0.1:{port}/execution/",
        },
        "database": {"sql_alchemy_conn": database},
        "api": {
            "host": "127.0.0.1",
            "port": str(port),
            "base_url": f"http://127.0.0.1:{port}",
            "workers": "1",
            "secret_key": keys["api"],
            "instance_name": "Lesion workflow",
        },
        "api_auth": {"jwt_secret": keys["jwt"], "jwt_issuer": "lesion-workflow"},
        "logging": {
            "base_log_folder": str(paths.airflow_home / "logs"),
            "dag_processor_child_process_log_directory": str(paths.airflow_home / "logs" / "dag_processor"),
        },
        "scheduler": {
            # The longest pause between one task's end and the next one's start. A scheduler loop costs about 20 ms.
            "scheduler_idle_sleep_time": "0.3",
            # A task whose machine was switched off is tried again after this long.
            "task_instance_heartbeat_timeout": "60",
        },
        "workers": {
            # A task that ends just before its supervisor checks is noticed only at the next heartbeat. At the default
            # of 5 s that doubled the time of the whole path.
            "min_heartbeat_interval": "1",
            "max_failed_heartbeats": "30",
        },
        "dag_processor": {
            "parsing_processes": "1",
            # An edited DAG file is noticed after this long; unchanged ones cost a second each time.
            "min_file_process_interval": "60",
            "refresh_interval": "30",
            "print_stats_interval": "0",
        },
        "triggerer": {"capacity": "20"},
    }
    environment = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": value
        for section, entries in options.items()
        for name, value in entries.items()
    }
    not_proxied = ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1", "localhost"]))
    return environment | {
        "AIRFLOW_HOME": str(paths.airflow_home),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": not_proxied,
        "no_proxy": not_proxied,
    }


def _keys(paths: Paths) -> dict[str, str]:
    """Return the generated keys, which the first call creates."""
    if not paths.secrets.exists():
        fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        keys = {"fernet": fernet, "api": secrets.token_hex(32), "jwt": secrets.token_hex(64)}
        _write_private(paths.secrets, json.dumps(keys))
    found: dict[str, str] = json.loads(paths.secrets.read_text())
    return found


def _write_password_once(paths: Paths) -> None:
    if not paths.passwords.exists():
        _write_private(paths.passwords, json.dumps({USERNAME: secrets.token_urlsafe(12)}))


def _write_private(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".new")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    unfinished.rename(path)


def choose_port(home: Path, wanted: int | None) -> int:
    """Return the port for the API server: the requested one, else that of the last time, else any free one.

    Raises `UnusableInputError` if the requested one is in use.
    """
    paths = Paths(home=home)
    if leader(paths.run, API_SERVER) is not None:
        present = int(paths.port.read_text())
        if wanted in (None, present):
            return present
    if wanted is None:
        paths.run.mkdir(parents=True, exist_ok=True)
        return free_port(paths.port)
    if not is_free(wanted):
        raise UnusableInputError(
            f"port {wanted} on 127.0.0.1: {holder(wanted)}; expected a free port (PORT=<number>, or none)"
        )
    paths.run.mkdir(parents=True, exist_ok=True)
    paths.port.write_text(str(wanted))
    return wanted


def _migrate(paths: Paths, database: str, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Migrate Airflow's own tables unless they are known to be current: the command takes seconds to find out."""
    is_newest = paths.migrated.exists() and paths.migrated.read_text() == version("apache-airflow")
    if is_newest and _has_tables(database):
        return
    say("Airflow is preparing its database")
    result = subprocess.run(
        [str(Path(sys.executable).with_name("airflow")), "db", "migrate"],
        env={**inherited_environment(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"airflow db migrate ended with {result.returncode}:\n{result.stdout[-3000:]}")
    paths.migrated.write_text(version("apache-airflow"))


def _has_tables(database: str) -> bool:
    connection = psycopg2.connect(database.replace("+psycopg2", ""))
    try:
        with connection.cursor() as cursor:
            cursor.execute("select to_regclass('dag_run') is not null")
            row = cursor.fetchone()
            return row is not None and bool(row[0])
    finally:
        connection.close()
