"""A database and the migrations of this version -> which migration it is at, and what to do about that."""

from dataclasses import dataclass
from pathlib import Path

import psycopg2.errors
from sqlalchemy import Engine

from lesion_tasks import UnusableInputError

MIGRATIONS = Path(__file__).parent / "migrations"
# What Postgres raises if the database is at another migration, or if a statement is misspelt.
MISSING = (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn)


@dataclass(frozen=True, kw_only=True)
class MigrationState:
    """Which migration a database is at."""

    current: str | None  # None before the first migration
    known: tuple[str, ...]  # of this version, newest first

    @property
    def is_newest(self) -> bool:
        """Whether the tables are those that this version needs."""
        return self.current == self.known[0]

    @property
    def is_unknown(self) -> bool:
        """Whether another version, most likely a newer one, made the tables."""
        return self.current is not None and self.current not in self.known

    @property
    def upgrade(self) -> str:
        """What an upgrade from here did, in words."""
        if self.is_newest:
            return f"tables were there already, at migration {self.known[0]}"
        if self.current is None:
            return f"created the tables, at migration {self.known[0]}"
        return f"brought the tables from migration {self.current} to {self.known[0]}"

    def __str__(self) -> str:
        if self.is_unknown:
            return (
                f"is at migration {self.current}, which this version does not know (it knows {self.known[-1]} to "
                f"{self.known[0]}): run the version that made it, or a newer one"
            )
        at = "no migration" if self.current is None else f"migration {self.current}"
        return f"is at {at}, this version needs {self.known[0]}: run `lesion setup`"


def migration_state(engine: Engine) -> MigrationState:
    """Read the state of a database over a separate connection."""
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return MigrationState(current=current, known=tuple(script.revision for script in scripts))


def refuse_other_migration(engine: Engine, error: Exception) -> None:
    """Replace an error of MISSING by UnusableInputError if the tables are not those of this version.

    If they are, the statement is wrong, and its own error says so best.
    """
    state = migration_state(engine)
    if not state.is_newest:
        raise UnusableInputError(f"database {shown_url(engine)} {state}") from error


def shown_url(engine: Engine) -> str:
    """The database's URL without its password."""
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=True)
