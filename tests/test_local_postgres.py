"""The embedded Postgres: starts anywhere, survives being killed, and is stopped alone."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from lesion_tasks import UnusableInputError
from lesion_tasks.database.embedded import account, idle_stop, postgres
from lesion_tasks.database.embedded.ports import holder, is_free


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home folder in which nothing ever ran."""
    yield tmp_path / "home"
    postgres.stop(tmp_path / "home")


@pytest.fixture(scope="module")
def stopped_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a complete cluster and no server: copying it is quicker than making one."""
    home = tmp_path_factory.mktemp("stopped") / "home"
    postgres.ensure_running(home)
    postgres.stop(home)
    return home


@pytest.fixture
def home(new_home: Path, stopped_home: Path) -> Path:
    """A home folder of this test's own, in which a server ran before."""
    subprocess.run(["cp", "-a", str(stopped_home), str(new_home)], check=True)
    return new_home


def connect(url: str, database: str = "lesions") -> "psycopg2.extensions.connection":
    return psycopg2.connect(f"{url.replace('+psycopg2', '')}/{database}")


def ask(url: str, statement: str) -> object:
    connection = connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
        answer = cursor.fetchone() if cursor.description else None
    connection.close()
    return answer and answer[0]


def server_pid(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])


def test_both_databases_exist_after_the_first_start(new_home: Path) -> None:
    url = postgres.ensure_running(new_home)
    for database in postgres.DATABASES:
        connect(url, database).close()


def test_a_running_server_is_used_again(home: Path) -> None:
    url = postgres.ensure_running(home)
    pid = server_pid(home)
    assert postgres.ensure_running(home) == url
    assert server_pid(home) == pid


def test_committed_rows_survive_a_killed_server(home: Path) -> None:
    url = postgres.ensure_running(home)
    ask(url, "create table kept as select 7 as n")
    os.kill(server_pid(home), signal.SIGKILL)
    assert ask(postgres.ensure_running(home), "select n from kept") == 7


def test_an_address_stays_valid_over_a_restart(home: Path) -> None:
    url = postgres.ensure_running(home)
    assert postgres.stop(home)
    assert postgres.ensure_running(home) == url


def test_another_port_is_taken_when_the_old_one_is_in_use(home: Path) -> None:
    url = postgres.ensure_running(home)
    postgres.stop(home)
    port = int(url.rpartition(":")[2])
    squatter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert squatter.stdout is not None
    squatter.stdout.readline()
    assert not is_free(port)
    assert str(squatter.pid) in holder(port)
    try:
        moved = postgres.ensure_running(home)
        assert moved != url
        assert ask(moved, "select 1") == 1
    finally:
        squatter.communicate(b"\n")


def test_a_pid_file_that_names_a_stranger_does_not_stop_a_start(home: Path) -> None:
    postgres.ensure_running(home)
    postgres.stop(home)
    (home / "postgres" / "data" / "postmaster.pid").write_text(
        f"{os.getpid()}\n/elsewhere\n0\n1\n\n127.0.0.1\n"
    )
    assert postgres.running_server(home) is None
    assert ask(postgres.ensure_running(home), "select 1") == 1


def test_starters_at_the_same_time_share_one_server(new_home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lesion_tasks.database.embedded.postgres import ensure_running; "
        "print(ensure_running(Path(sys.argv[1])))"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code, str(new_home)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    urls = {starter.communicate()[0].strip() for starter in starters}
    assert len(urls) == 1
    assert ask(urls.pop(), "select 1") == 1


def test_stopping_leaves_other_servers_alone(home: Path, tmp_path: Path) -> None:
    other_home = tmp_path / "other"
    other = postgres.ensure_running(other_home)
    try:
        postgres.ensure_running(home)
        assert postgres.stop(home)
        assert postgres.running_server(home) is None
        assert ask(other, "select 1") == 1
    finally:
        postgres.stop(other_home)


def test_stopping_what_never_ran_is_no_error_and_makes_nothing(new_home: Path) -> None:
    assert not postgres.stop(new_home)
    assert not new_home.exists()


def test_a_path_longer_than_a_unix_socket_allows_works(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    try:
        assert ask(postgres.ensure_running(deep), "select 1") == 1
    finally:
        postgres.stop(deep)


def test_a_first_start_that_was_killed_is_done_anew(new_home: Path) -> None:
    (new_home / "postgres" / "data.new").mkdir(parents=True)
    (new_home / "postgres" / "data.new" / "PG_VERSION").write_text("18")
    assert ask(postgres.ensure_running(new_home), "select 1") == 1


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(UnusableInputError, match=r"home folder .*home.*LESION_HOME"):
        postgres.ensure_running(tmp_path / "home")


def test_a_cluster_of_another_version_is_named(home: Path) -> None:
    postgres.ensure_running(home)
    postgres.stop(home)
    (home / "postgres" / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(UnusableInputError, match=r"made by version 12, expected 18"):
        postgres.ensure_running(home)


def test_the_password_is_for_its_owner_alone(home: Path) -> None:
    url = postgres.ensure_running(home)
    assert (home / "postgres" / "password").stat().st_mode & 0o077 == 0
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(url.replace(url.split(":")[2].split("@")[0], "guess"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give the server to somebody else")
def test_root_without_namespaces_gives_the_server_to_nobody(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "_namespace_prefix", tuple)
    base = tmp_path_factory.mktemp("reachable")
    below = Path(tempfile.gettempdir())
    for folder in (base, *base.parents):
        if folder != below and folder.is_relative_to(below):  # pytest's own, as many as there are
            folder.chmod(0o755)
    try:
        assert ask(postgres.ensure_running(base / "home"), "select 1") == 1
        assert psutil.Process(server_pid(base / "home")).uids().real == account.NOBODY
    finally:
        postgres.stop(base / "home")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give the server to somebody else")
def test_root_without_namespaces_is_told_of_a_closed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "_namespace_prefix", tuple)
    tmp_path.chmod(0o700)
    with pytest.raises(UnusableInputError, match=r"user 65534.*cannot reach it; expected"):
        postgres.ensure_running(tmp_path / "home")


def test_a_server_that_nobody_asks_is_stopped_and_one_in_use_is_not(home: Path) -> None:
    url = postgres.ensure_running(home)
    connection = connect(url)
    watch = threading.Thread(
        target=idle_stop.stop_when_idle, args=(home,), kwargs={"idle_s": 0.5, "look_s": 0.1}
    )
    watch.start()
    watch.join(timeout=1.5)
    assert postgres.running_server(home) is not None
    connection.close()
    for _ in range(8):  # sessions that end before anybody looks count as well
        ask(url, "SELECT 1")
        watch.join(timeout=0.2)
    assert watch.is_alive()
    watch.join(timeout=30)
    assert not watch.is_alive()
    assert postgres.running_server(home) is None


def test_a_watch_ends_with_the_server_that_it_began_with(home: Path) -> None:
    postgres.ensure_running(home)
    ended = []
    watch = threading.Thread(
        target=lambda: ended.append(idle_stop.stop_when_idle(home, idle_s=3600, look_s=0.5))
    )
    watch.start()
    postgres.stop(home)
    postgres.ensure_running(home)
    watch.join(timeout=30)
    assert ended == [False]
    assert postgres.running_server(home) is not None


def test_a_server_is_watched_by_one_process_which_ends_with_it(home: Path) -> None:
    postgres.ensure_running(home)
    postgres.ensure_running(home)

    def watches() -> list[psutil.Process]:
        name = "lesion_tasks.database.embedded.idle_stop"
        found = ((one, one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"]))
        return [one for one, command in found if name in command and str(home) in command]

    (watch,) = watches()
    postgres.stop(home)
    # It looks once a minute, and notices the end without a look.
    gone, left = psutil.wait_procs([watch], timeout=idle_stop.LOOK_S / 3)
    assert (gone, left) == ([watch], [])


def test_commands_say_what_they_did_to_the_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESION_HOME", str(home))

    def run(name: str) -> dict[str, str]:
        command = [sys.executable, "-m", "lesion_tasks", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr}

    assert run("stop") == {"postgres": "was not running"}
    first = run("setup")
    assert ": created the tables, at migration 0" in first["database"]
    assert first["bucket"] == str(home / "bucket")
    assert ": tables were there already, at migration 0" in run("setup")["database"]
    connection = connect(postgres.ensure_running(home))
    assert "1 session open, of another command or of a demo" in run("stop")["error"]
    connection.close()
    assert run("stop") == {"postgres": "stopped"}
    assert postgres.running_server(home) is None
