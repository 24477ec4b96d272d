"""Watch the champion"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "watch",
        sa.Column("watch_id", sa.Text(), nullable=False, comment="training and day"),
        sa.Column("task", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column("training_id", sa.Text(), nullable=False, comment="the champion"),
        sa.Column("until", sa.Date(), nullable=False, comment="what arrived before this day was looked at"),
        sa.Column("is_alarming", sa.Boolean(), nullable=False, comment="something passed its bound"),
        sa.Column("verdict", sa.Text(), nullable=False, comment="in a few sentences"),
        sa.Column(
            "document",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="metrics.json: every comparison and point",
        ),
        sa.Column(
            "document_sha256", sa.Text(), nullable=False, comment="of the document as Postgres writes it"
        ),
        sa.Column("report_key", sa.Text(), nullable=False, comment="report.html in the bucket"),
        sa.Column("watched_at", sa.DateTime(timezone=True), nullable=False, comment="when it last changed"),
        sa.ForeignKeyConstraint(
            ["training_id"], ["training.training_id"], name=op.f("fk_watch_training_id_training")
        ),
        sa.PrimaryKeyConstraint("watch_id", name=op.f("pk_watch")),
        sa.UniqueConstraint("training_id", "until", name=op.f("uq_watch_training_id_until")),
    )
    op.create_index(op.f("ix_watch_task_until"), "watch", ["task", "until"], unique=False)


def downgrade() -> None:
    op.drop_table("watch")
