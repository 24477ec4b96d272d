"""Alembic's entry: migrations run against the engine that `lesion_tasks.database.connection.migrate` hands over."""

from alembic import context

import lesion_tasks.database.trigger_changes  # noqa: F401 - has triggers compared, as Alembic compares tables
from lesion_tasks.database.connection import database_url, engine_for
from lesion_tasks.database.schema import Base

engine = context.config.attributes.get("engine") or engine_for(database_url())
with engine.connect() as connection:
    # One migrator at a time: two starters wait for each other instead of colliding.
    connection.exec_driver_sql("SELECT pg_advisory_lock(20260101)")
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
    connection.exec_driver_sql("SELECT pg_advisory_unlock(20260101)")
