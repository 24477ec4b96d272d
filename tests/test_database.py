"""The database door: what may pass is waited for, what is wrong is named at once."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError

import lesion_tasks
from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.database import connection as database
from lesion_tasks.database.bulk import copy_dicts, copy_out, copy_rows
from lesion_tasks.database.connection import engine_for, migrate
from lesion_tasks.database.locks import Lock, hold_lock, hold_lock_if_free, lock_until_commit

PACKAGE = Path(lesion_tasks.__file__).parent


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
        UnavailableError, match=r"database postgresql://127\.0\.0\.1:9/z cannot be reached"
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


def failing_read(url: str, statement: str) -> None:
    with engine_for(url).connect() as connection:
        connection.execute(text(statement))


def test_a_database_without_tables_says_which_command_makes_them(postgres_url: str) -> None:
    url = make_url(postgres_url).set(database="postgres").render_as_string(hide_password=False)
    with pytest.raises(
        UnusableInputError, match=r"is at no migration, this version needs \d{4}: run `lesion setup`"
    ):
        failing_read(url, "SELECT count(*) FROM record")
    engine_for(url).dispose()


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("0008", r"is at migration 0008, this version needs \d{4}: run `lesion setup`"),
        ("9999", r"is at migration 9999, which this version does not know \(it knows 0008 to \d{4}\)"),
    ],
)
def test_an_older_or_newer_database_is_told_by_its_migration(database_url: str, at: str, words: str) -> None:
    with engine_for(database_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :at"), {"at": at})
        connection.execute(text("ALTER TABLE record DROP COLUMN changed_at CASCADE"))
    for statement in ("SELECT changed_at FROM record", "SELECT * FROM no_such_table"):
        with pytest.raises(UnusableInputError, match=words):
            failing_read(database_url, statement)


def test_a_misspelt_column_of_the_newest_database_is_an_error_and_no_advice(database_url: str) -> None:
    with pytest.raises(ProgrammingError, match='column "chnaged_at" does not exist'):
        failing_read(database_url, "SELECT chnaged_at FROM record")


def test_a_database_of_a_newer_version_is_not_migrated(database_url: str) -> None:
    with engine_for(database_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UnusableInputError, match=r"is at migration 9999.*or a newer one"):
        migrate(database_url)


def test_a_lock_is_one_for_its_kind_and_name(database_url: str) -> None:
    engine = engine_for(database_url)
    with hold_lock(engine, Lock.PIXELS, "64-squash"):
        for lock, name, is_free in (
            (Lock.PIXELS, "64-squash", False),
            (Lock.PIXELS, "128-squash", True),
            (Lock.FEATURES, "64-squash", True),
        ):
            with hold_lock_if_free(engine, lock, name) as is_held:
                assert is_held == is_free
    with hold_lock_if_free(engine, Lock.PIXELS, "64-squash") as is_held:
        assert is_held


def test_a_shared_lock_keeps_out_only_whoever_wants_it_alone(database_url: str) -> None:
    engine = engine_for(database_url)
    with engine.begin() as one, engine.begin() as other:
        lock_until_commit(one, Lock.CURATION, is_shared=True)
        lock_until_commit(other, Lock.CURATION, is_shared=True)
        with hold_lock_if_free(engine, Lock.CURATION) as is_held:
            assert not is_held
    with hold_lock_if_free(engine, Lock.CURATION) as is_held:
        assert is_held


def test_no_other_module_takes_a_lock_of_the_database() -> None:
    takers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search("pg_(try_)?advisory|hashtext", path.read_text())
    }
    assert takers == {"database/locks.py"}


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "a_text": TEXTS | st.none() | st.sampled_from(["\\N", "\\", "\\.", "\t\r\n", '"', "{}", "NULL"]),
            "a_number": st.integers(-(2**63), 2**63 - 1) | st.none(),
            "a_float": st.floats(allow_nan=False) | st.none(),
            "a_flag": st.booleans() | st.none(),
            "a_time": st.datetimes(timezones=st.just(UTC)) | st.none(),
            "some_bytes": st.binary() | st.none(),
            "some_texts": st.lists(TEXTS | st.none()) | st.none(),
            "some_floats": st.lists(st.floats(allow_nan=False)) | st.none(),
            "a_document": st.dictionaries(TEXTS, TEXTS | st.integers(-9, 9) | st.lists(TEXTS)) | st.none(),
        }
    ),
    max_size=5,
)


@given(rows=ROWS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_goes_in_by_copy_is_what_is_there(database_url: str, rows: list[dict[str, Any]]) -> None:
    with engine_for(database_url).begin() as connection:
        connection.execute(
            text("""
                CREATE TEMP TABLE copied (n serial, a_text text, a_number bigint, a_float double precision,
                    a_flag boolean, a_time timestamptz, some_bytes bytea, some_texts text[],
                    some_floats double precision[], a_document json) ON COMMIT DROP
            """)
        )
        assert copy_dicts(connection, "copied", rows) == len(rows)
        found = connection.execute(text("SELECT * FROM copied ORDER BY n")).mappings().all()
    for row, there in zip(rows, found, strict=True):
        for name, value in row.items():
            seen = bytes(there[name]) if isinstance(there[name], memoryview) else there[name]
            assert seen == value, name


def test_rows_with_other_columns_than_the_first_are_refused(database_url: str) -> None:
    first = {"lesion_id": "IL_0000001", "patient_key": "", "is_contested": False}
    with engine_for(database_url).connect() as connection:
        with pytest.raises(ValueError, match="a row with lesion_id, expected lesion_id, patient_key"):
            copy_dicts(connection, "lesion", [first, {"lesion_id": "IL_0000002"}])
        with pytest.raises(KeyError, match="patient_key"):
            copy_dicts(connection, "lesion", [first, {"lesion_id": "x", "patient": "", "is_contested": True}])


def test_many_values_by_position_are_refused(database_url: str) -> None:
    columns = ("isic_id", "rendition", "url", "object_key", "sha256", "reason")
    with (
        engine_for(database_url).connect() as connection,
        pytest.raises(ValueError, match="stored_file: 6 values by position, expected at most 5"),
    ):
        copy_rows(connection, "stored_file", columns, [("ISIC_0000001", *columns[1:])])


def test_copying_into_an_older_database_says_that_it_is_older(database_url: str) -> None:
    with engine_for(database_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0008'"))
    older = r"is at migration 0008.*run `lesion setup`"
    engine = engine_for(database_url)
    with pytest.raises(UnusableInputError, match=older), engine.begin() as connection:
        copy_rows(connection, "lesion", ("no_such_column",), [("x",)])
    with pytest.raises(UnusableInputError, match=older), engine.begin() as connection:
        copy_out(connection, "SELECT no_such_column FROM lesion")
