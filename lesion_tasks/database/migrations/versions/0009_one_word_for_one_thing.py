"""One word for one thing: columns named as the code names them"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

RENAMED = (
    ("scope", "probe", "poll"),
    ("scope", "probed_at", "polled_at"),
    ("scope", "settled", "idle"),
    ("placement", "draw", "assignment"),
    ("pixel_row", "fit", "input_size"),
)
# Whoever changes one of these takes the notes in scope.idle away, by hand too.
WATCHED = ("record", "scope_record", "refused_record", "stored_file")


def upgrade() -> None:
    for table, before, after in RENAMED:
        op.alter_column(table, before, new_column_name=after)
    _watch("unsettle", "end_idle", "idle")


def downgrade() -> None:
    for table, before, after in RENAMED:
        op.alter_column(table, after, new_column_name=before)
    _watch("end_idle", "unsettle", "settled")


def _watch(before: str, after: str, column: str) -> None:
    for table in WATCHED:
        op.execute(f"ALTER TRIGGER {before} ON {table} RENAME TO {after}")
    op.execute(f"ALTER FUNCTION {before}() RENAME TO {after}")
    op.execute(
        sa.text(f"""
            CREATE OR REPLACE FUNCTION {after}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                UPDATE scope SET {column} = NULL WHERE {column} IS NOT NULL;
                RETURN NULL;
            END $$
        """)
    )
