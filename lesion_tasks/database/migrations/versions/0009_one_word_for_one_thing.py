"""One word for one thing: columns named as the code names them"""

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
# (table, column, comment before, comment after), by the new name.
COMMENTS = (
    ("scope", "poll", "what the last probe answered", "what the source answered when it was last polled"),
    ("scope", "polled_at", "when the last probe was made", "when the source was last polled"),
    (
        "ingestion",
        "scope_id",
        "what it read; the scope's row is written by its probe",
        "what it read; the scope's row is written when it is polled",
    ),
    (
        "ingestion",
        "ended_at",
        "when all its layers were done; null while it runs and for one that failed",
        "when all its passes were done; null while it runs and for one that failed",
    ),
    ("ingestion", "counts", "what each layer counted, by layer", "what each pass counted, by pass"),
    (
        "refused_record",
        "isic_id",
        "its id where that is well formed, for counting shards",
        "its id where that is well formed, for counting what a prefix lists",
    ),
)
# A change of any of these, also by hand, removes the notes in scope.idle.
WATCHED = ("record", "scope_record", "refused_record", "stored_file")


def upgrade() -> None:
    for table, before, after in RENAMED:
        op.alter_column(table, before, new_column_name=after)
    for table, column, _, after in COMMENTS:
        op.alter_column(table, column, comment=after)
    _watch("unsettle", "end_idle", "idle")


def downgrade() -> None:
    for table, column, before, _ in COMMENTS:
        op.alter_column(table, column, comment=before)
    for table, before, after in RENAMED:
        op.alter_column(table, after, new_column_name=before)
    _watch("end_idle", "unsettle", "settled")


def _watch(before: str, after: str, column: str) -> None:
    for table in WATCHED:
        op.execute(f"ALTER TRIGGER {before} ON {table} RENAME TO {after}")
    op.execute(f"ALTER FUNCTION {before}() RENAME TO {after}")
    body = f"BEGIN UPDATE scope SET {column} = NULL WHERE {column} IS NOT NULL; RETURN NULL; END"  # noqa: S608
    op.execute(f"CREATE OR REPLACE FUNCTION {after}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
