"""The declared triggers and a database's own -> what a migration has to change; Alembic's autogeneration calls it.

Postgres rewrites a definition in its own form. So the declared triggers are created, read back as Postgres writes them
and rolled back: both sides are then in the same form.
"""

from collections.abc import Mapping
from typing import Any

from alembic.autogenerate import comparators, renderers
from alembic.operations import ops
from sqlalchemy import Connection, text

from lesion_tasks.database.triggers import FUNCTIONS, TRIGGERS

# The name as DROP needs it, and the statement that creates or replaces it. Functions first: triggers call them.
_DEFINITIONS = text("""
    SELECT 'FUNCTION ' || proname || '()' AS name, pg_get_functiondef(oid) AS definition FROM pg_proc
    WHERE prorettype = 'trigger'::regtype AND pronamespace = current_schema()::regnamespace
    UNION ALL
    SELECT 'TRIGGER ' || tgname || ' ON ' || relname, pg_get_triggerdef(pg_trigger.oid)
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace
    ORDER BY name
""")


def definitions(connection: Connection) -> dict[str, str]:
    """What a database has: name, such as `TRIGGER end_idle ON record` -> the statement that creates it."""
    return {row.name: row.definition for row in connection.execute(_DEFINITIONS)}


def declared_definitions(connection: Connection) -> dict[str, str]:
    """What it would have if it were created as declared; leaves no trace."""
    attempt = connection.begin_nested()
    for name in sorted(definitions(connection), reverse=True):
        connection.exec_driver_sql(f"DROP {name}")
    for statement in [declared.create for declared in FUNCTIONS] + [declared.create for declared in TRIGGERS]:
        connection.exec_driver_sql(statement)
    found = definitions(connection)
    attempt.rollback()
    return found


def _agree(one: str | None, other: str) -> bool:
    """Whether two definitions are the same apart from line breaks."""
    return one is not None and one.split() == other.split()


class ChangeTriggers(ops.MigrateOperation):
    """A change from some definitions to others."""

    def __init__(self, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        self.before, self.after = before, after

    def reverse(self) -> "ChangeTriggers":
        """The change that undoes this one."""
        return ChangeTriggers(self.after, self.before)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """What `alembic check` shows."""
        return ("change_triggers", self.statements())

    def statements(self) -> list[str]:
        """What to execute: functions are created before the triggers that call them, and dropped after them."""
        made = [
            statement.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)
            for name, statement in sorted(self.after.items())
            if not _agree(self.before.get(name), statement)
        ]
        return made + [f"DROP {name}" for name in sorted(self.before, reverse=True) if name not in self.after]


@comparators.dispatch_for("schema")
def _compare(autogenerate: Any, upgrade: ops.UpgradeOps, schemas: Any) -> None:
    connection = autogenerate.connection
    change = ChangeTriggers(definitions(connection), declared_definitions(connection))
    if change.statements():
        upgrade.ops.append(change)


@renderers.dispatch_for(ChangeTriggers)
def _render(autogenerate: Any, change: ChangeTriggers) -> list[str]:
    return [f'op.execute("""\n{statement}\n""")' for statement in change.statements()]
