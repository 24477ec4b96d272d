"""The database door: what may pass is waited for, what is wrong is named at once."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url, text

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.database import connection as database
from lesion_tasks.database.connection import engine_for


def answer(url: str) -> object:
    with engine_for(url).connect() as connection:
        return connection.scalar(text("SELECT 1"))


def forward(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
    except OSError:
        pass
    finally:
        for end in (one, other):
            end.close()


@contextmanager
def opening_later(url: str, after_s: float) -> Iterator[str]:
    """A port that refuses connections, and after a while leads to the server at `url`."""
    target = make_url(url)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))

        def accept() -> None:
            time.sleep(after_s)
            listener.listen()
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection((target.host or "", target.port or 0))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=forward, args=ends, daemon=True).start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        port = listener.getsockname()[1]
        yield target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        listener.shutdown(socket.SHUT_RDWR)
    accepting.join()


def test_a_database_that_is_down_for_a_moment_is_waited_for(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with opening_later(database_url, after_s=0.2) as url:
        assert answer(url) == 1
        engine_for(url).dispose()
    assert "next attempt in" in caplog.text
    assert str(make_url(url).password) not in caplog.text


def test_a_connection_that_broke_is_replaced(database_url: str) -> None:
    assert answer(database_url) == 1
    with engine_for(database_url).connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    assert answer(database_url) == 1


def test_a_database_that_stays_down_is_unavailable_and_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "WAITS_S", (0.01,))
    with pytest.raises(
        UnavailableError, match=r"database postgresql://x:\*\*\*@127\.0\.0\.1:9/z cannot be reached"
    ) as told:
        engine_for("postgresql://x:secret@127.0.0.1:9/z")
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"password": "secret"}, "password authentication failed"),
        ({"username": "nobody"}, "nobody"),
        ({"database": "no_such_database"}, 'database "no_such_database" does not exist'),
        ({"host": "nowhere.invalid"}, "could not translate host name"),
    ],
)
def test_a_wrong_address_name_or_password_is_told_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], words: str
) -> None:
    def wait(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s for what stays wrong")

    monkeypatch.setattr("lesion_tasks.database.connection.time.sleep", wait)
    with pytest.raises(UnusableInputError, match=words) as told:
        engine_for(make_url(database_url).set(**wrong).render_as_string(hide_password=False))
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_database_without_tables_says_which_command_makes_them(postgres_url: str) -> None:
    url = make_url(postgres_url).set(database="postgres").render_as_string(hide_password=False)
    with (
        pytest.raises(UnusableInputError, match=r'relation "record" does not exist.*run `lesion setup`'),
        engine_for(url).connect() as connection,
    ):
        connection.execute(text("SELECT count(*) FROM record"))
    engine_for(url).dispose()
