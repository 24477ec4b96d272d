"""A database URL -> its engine, which waits where waiting helps and fails at once where it does not; migrating."""

import logging
import time
from functools import lru_cache
from typing import Any

import psycopg2
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from lesion_tasks import UnavailableError, UnusableInputError, addresses
from lesion_tasks.database.migration_state import (
    MIGRATIONS,
    MISSING,
    MigrationState,
    migration_state,
    refuse_other_migration,
    shown_url,
)
from lesion_tasks.settings import Settings

log = logging.getLogger(__name__)

# Execution option of the connection that migrates: until it is done, the tables are not those that this version needs.
IS_MIGRATING = "is_migrating"
# A restarted Postgres is back within seconds. Longer waits are better left to an Airflow retry.
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


def database_url(settings: Settings) -> str:
    """Return the database's URL, starting the embedded Postgres if the settings name no database."""
    if settings.database_url is not None:
        return settings.database_url
    from lesion_tasks.database.embedded.postgres import ensure_running

    return (
        make_url(ensure_running(settings.home)).set(database="lesions").render_as_string(hide_password=False)
    )


@lru_cache(maxsize=8)
def engine_for(url: str) -> Engine:
    """One engine for each URL; opens a connection to see whether a database answers."""
    # Without its options: a password can be one of them.
    shown = addresses.shown(url)
    try:
        engine = create_engine(
            make_url(url).set(drivername="postgresql+psycopg2"),
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5},
        )
    except (ArgumentError, ValueError) as error:
        raise UnusableInputError(f"LESION_DATABASE_URL {shown}: {error}") from error

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> Any:
        return _connect_patiently(shown, parameters)

    @event.listens_for(engine, "handle_error")
    def explain(context: Any) -> None:
        is_migrating = context.connection is not None and context.connection.get_execution_options().get(
            IS_MIGRATING
        )
        if isinstance(context.original_exception, MISSING) and not is_migrating:
            refuse_other_migration(engine, context.original_exception)

    engine.connect().close()
    return engine


def _connect_patiently(shown: str, parameters: dict[str, Any]) -> Any:
    """Connect, waiting for a server that is down for a moment.

    Raises UnusableInputError at once if waiting cannot help, and UnavailableError after the last wait.
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


def migrate(url: str) -> MigrationState:
    """Bring the tables to the newest migration; do nothing if they are already there. Returns the state before.

    Raises UnusableInputError if another version brought the database to a migration that this one does not know.
    """
    from alembic import command
    from alembic.config import Config

    engine = engine_for(url)
    state = migration_state(engine)
    if state.is_unknown:
        raise UnusableInputError(f"database {shown_url(engine)} {state}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine
    command.upgrade(config, "head")
    return state
