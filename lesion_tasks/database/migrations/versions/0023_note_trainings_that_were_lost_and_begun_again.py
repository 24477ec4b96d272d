"""Note trainings that were lost and begun again"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
    CREATE OR REPLACE FUNCTION note_loss() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO training_failure
            SELECT NEW.training_id, clock_timestamp(),
                   'lost: its process ended without notice, and it was begun again before anybody noted that',
                   (SELECT count(*) FROM training_epoch e WHERE e.training_id = NEW.training_id);
        RETURN NULL;
    END $$
    """)
    op.execute("""
    CREATE OR REPLACE TRIGGER note_failure AFTER UPDATE OF status, reason ON training FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.reason IS DISTINCT FROM NEW.reason)
    EXECUTE FUNCTION note_failure()
    """)
    op.execute("""
    CREATE OR REPLACE TRIGGER note_loss AFTER UPDATE OF status ON training FOR EACH ROW
    WHEN (OLD.status = 'running' AND NEW.status = 'running') EXECUTE FUNCTION note_loss()
    """)


def downgrade() -> None:
    op.execute("""
    CREATE OR REPLACE TRIGGER note_failure AFTER UPDATE OF status ON training FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_failure()
    """)
    op.execute("DROP TRIGGER note_loss ON training")
    op.execute("DROP FUNCTION note_loss()")
