"""The database door: engines, sessions, migrations and bulk rows."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.orm import Session

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.settings import Settings, read_settings

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
# A Postgres that is restarted is back within seconds. After these, an Airflow retry is the better place to wait.
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
# What the server or the resolver says when the address, the name or the password is wrong. Everything else (refused,
# starting up, too many clients, reset) may pass.
_WRONG = (
    "could not translate host name",
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    'database "',  # "... does not exist"
    'role "',
    "invalid port number",
)


def database_url(settings: Settings | None = None) -> str:
    """Return the database's URL, starting the embedded Postgres where the settings name none."""
    settings = settings or read_settings()
    if settings.database_url is not None:
        return settings.database_url
    from lesion_tasks.database.embedded.postgres import ensure_running

    return (
        make_url(ensure_running(settings.home)).set(database="lesions").render_as_string(hide_password=False)
    )


@lru_cache(maxsize=8)
def engine_for(url: str) -> Engine:
    """One engine for each URL; the first connection tells whether anything is there."""
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg2"),
        pool_pre_ping=True,
        connect_args={"connect_timeout": 5},
    )
    shown = make_url(url).render_as_string(hide_password=True)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> Any:
        return _connect_patiently(shown, parameters)

    @event.listens_for(engine, "handle_error")
    def explain(context: Any) -> None:
        missing = (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn)
        if isinstance(context.original_exception, missing):
            problem = str(context.original_exception).partition("\n")[0]
            raise UnusableInputError(
                f"database {shown} lacks what this version needs ({problem}): run `lesion setup`"
            ) from context.original_exception

    engine.connect().close()
    return engine


def _connect_patiently(shown: str, parameters: dict[str, Any]) -> Any:
    """Connect, waiting for a server that is down for a moment.

    Raises UnusableInputError at once where it will stay wrong, and UnavailableError after the last wait.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return psycopg2.connect(**parameters)
        except psycopg2.OperationalError as error:
            message = f"database {shown} cannot be reached: {' '.join(str(error).split())}"
            if any(words in str(error) for words in _WRONG):
                raise UnusableInputError(message) from error
            if wait_s is None:
                raise UnavailableError(message) from error
            log.info("%s; next attempt in %g s", message, wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def open_session(settings: Settings | None = None) -> Iterator[Session]:
    """A session in one transaction: committed at the end, rolled back on any error."""
    with Session(engine_for(database_url(settings))) as session, session.begin():
        yield session


@contextmanager
def advisory_lock(engine: Engine, name: str) -> Iterator[None]:
    """Hold a lock on a name, waiting for it first. It ends with the connection, so a killed holder frees it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": name})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtext(:name))"), {"name": name})


@contextmanager
def free_advisory_lock(engine: Engine, name: str) -> Iterator[bool]:
    """Hold a lock on a name where nobody else does; gives whether it is held, and never waits."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        lock = {"name": name}
        is_held: bool = connection.execute(
            text("SELECT pg_try_advisory_lock(hashtext(:name))"), lock
        ).scalar_one()
        try:
            yield is_held
        finally:
            if is_held:
                connection.execute(text("SELECT pg_advisory_unlock(hashtext(:name))"), lock)


def migrate(url: str | None = None) -> None:
    """Bring the tables to the newest migration; does nothing where they are there already."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine_for(url or database_url())
    command.upgrade(config, "head")
