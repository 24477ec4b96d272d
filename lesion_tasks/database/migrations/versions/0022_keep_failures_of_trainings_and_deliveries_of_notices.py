"""Keep failures of trainings and deliveries of notices"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "training_failure",
        sa.Column("training_id", sa.Text(), nullable=False, comment="the training"),
        sa.Column(
            "failed_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when it was noted; one that was killed is noted later",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="in words"),
        sa.Column(
            "n_epochs",
            sa.Integer(),
            nullable=False,
            comment="complete by then: tried again, it continues after them",
        ),
        sa.ForeignKeyConstraint(
            ["training_id"],
            ["training.training_id"],
            name=op.f("fk_training_failure_training_id_training"),
        ),
        sa.PrimaryKeyConstraint("training_id", "failed_at", name=op.f("pk_training_failure")),
    )
    op.create_table(
        "delivery",
        sa.Column("event", sa.Text(), nullable=False, comment="what kind of thing happened"),
        sa.Column("about", sa.Text(), nullable=False, comment="to what: ids that name it once and for all"),
        sa.Column("connection", sa.Text(), nullable=False, comment="Airflow's connection by which it went"),
        sa.Column("subject", sa.Text(), nullable=False, comment="in one line"),
        sa.Column(
            "told_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when",
        ),
        sa.PrimaryKeyConstraint("event", "about", "connection", name=op.f("pk_delivery")),
    )
    op.execute("""
    CREATE OR REPLACE FUNCTION note_failure() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO training_failure
            SELECT NEW.training_id, clock_timestamp(), coalesce(NEW.reason, 'unknown'),
                   (SELECT count(*) FROM training_epoch e WHERE e.training_id = NEW.training_id)
            WHERE NEW.status = 'failed';
        RETURN NULL;
    END $$
    """)
    op.execute("""
    CREATE OR REPLACE TRIGGER note_failure AFTER UPDATE OF status ON training FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_failure()
    """)
    # When they failed was not kept: the last that is known of them stands in for it.
    op.execute("""
        INSERT INTO training_failure
        SELECT t.training_id, coalesce(max(e.ended_at), t.started_at), coalesce(t.reason, 'unknown'), count(e.epoch)
        FROM training t LEFT JOIN training_epoch e USING (training_id)
        WHERE t.status = 'failed' GROUP BY t.training_id
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER note_failure ON training")
    op.execute("DROP FUNCTION note_failure()")
    op.drop_table("delivery")
    op.drop_table("training_failure")
