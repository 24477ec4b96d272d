"""note when nothing is left to do"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# What a note in scope.settled speaks of. Whoever changes one of these takes the notes away, by hand too.
WATCHED = ("record", "scope_record", "refused_record", "stored_file")


def upgrade() -> None:
    op.add_column(
        "scope",
        sa.Column(
            "settled",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what the last look found when nothing was left to do; gone as soon as anything changes",
        ),
    )
    op.execute("""
        CREATE FUNCTION unsettle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE scope SET settled = NULL WHERE settled IS NOT NULL;
            RETURN NULL;
        END $$
    """)
    for table in WATCHED:
        op.execute(
            f"CREATE TRIGGER unsettle AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION unsettle()"
        )


def downgrade() -> None:
    for table in WATCHED:
        op.execute(f"DROP TRIGGER unsettle ON {table}")
    op.execute("DROP FUNCTION unsettle()")
    op.drop_column("scope", "settled")
