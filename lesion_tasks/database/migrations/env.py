"""Alembic's entry: migrations run against the engine that `lesion_tasks.database.connection.migrate` hands over."""

from alembic import context

import lesion_tasks.database.trigger_changes  # noqa: F401 - makes Alembic compare triggers as it compares tables
from lesion_tasks.database.connection import IS_MIGRATING, database_url, engine_for
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.database.schema import Base
from lesion_tasks.settings import read_settings

engine = context.config.attributes.get("engine") or engine_for(database_url(read_settings()))
# One migrator at a time: two starters wait for each other instead of colliding.
with hold_lock(engine, Lock.MIGRATION), engine.connect() as connection:
    context.configure(
        connection=connection.execution_options(**{IS_MIGRATING: True}), target_metadata=Base.metadata
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
