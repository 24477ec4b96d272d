"""Ask one question about a candidate"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "open_question",
        sa.Column("task", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column("training_id", sa.Text(), nullable=False, comment="the candidate"),
        sa.Column(
            "request_id",
            sa.Text(),
            nullable=False,
            comment="who asks: a run of Airflow and the task, as in promotion",
        ),
        sa.Column(
            "previous_training_id",
            sa.Text(),
            nullable=True,
            comment="the champion that it names; null: there was none",
        ),
        sa.Column(
            "findings_sha256",
            sa.Text(),
            nullable=True,
            comment="what the candidate's evaluation found that it shows",
        ),
        sa.Column(
            "is_override",
            sa.Boolean(),
            nullable=False,
            comment="whether it is about a training that the gates refused",
        ),
        sa.Column(
            "is_forced",
            sa.Boolean(),
            nullable=False,
            comment="whether an approval promotes despite the gates",
        ),
        sa.Column(
            "asked_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when",
        ),
        sa.Column(
            "ends_at", sa.DateTime(timezone=True), nullable=False, comment="when it expires at the latest"
        ),
        sa.ForeignKeyConstraint(
            ["previous_training_id"],
            ["training.training_id"],
            name=op.f("fk_open_question_previous_training_id_training"),
        ),
        sa.ForeignKeyConstraint(
            ["training_id"], ["training.training_id"], name=op.f("fk_open_question_training_id_training")
        ),
        sa.PrimaryKeyConstraint("task", "training_id", name=op.f("pk_open_question")),
    )


def downgrade() -> None:

    op.drop_table("open_question")
