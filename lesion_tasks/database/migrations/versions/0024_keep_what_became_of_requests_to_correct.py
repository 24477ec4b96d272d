"""Keep what became of corrections that somebody asked for"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "correction_request",
        sa.Column("request_id", sa.Text(), nullable=False, comment="the run of Airflow: a repeat finds it"),
        sa.Column(
            "decision",
            sa.Text(),
            nullable=False,
            comment="as in correction, or withdrawn: that one is to be taken back",
        ),
        sa.Column("isic_id", sa.Text(), nullable=False, comment="as in correction"),
        sa.Column("other_isic_id", sa.Text(), nullable=True, comment="as in correction"),
        sa.Column("task", sa.Text(), nullable=True, comment="as in correction"),
        sa.Column(
            "correction_id",
            sa.Integer(),
            nullable=True,
            comment="the decision that was made, or that is to be withdrawn",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="why, in the words of who asked for it"),
        sa.Column("asked_by", sa.Text(), nullable=False, comment="who asked for it"),
        sa.Column("outcome", sa.Text(), nullable=False, comment="applied, rejected, expired or superseded"),
        sa.Column("answered_by", sa.Text(), nullable=True, comment="who answered; null: nobody was asked"),
        sa.Column(
            "answer_reason",
            sa.Text(),
            nullable=False,
            comment="the words of the answer, or why there is none; may be empty",
        ),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it ended",
        ),
        sa.CheckConstraint(
            "correction_id is not null or (outcome <> 'applied' and decision <> 'withdrawn')",
            name=op.f("ck_correction_request_says_which"),
        ),
        sa.CheckConstraint(
            "decision in ('label_set_aside', 'label_kept', 'lesions_joined', 'lesions_apart', 'withdrawn')",
            name=op.f("ck_correction_request_known_decision"),
        ),
        sa.CheckConstraint(
            "outcome in ('applied', 'rejected', 'expired', 'superseded')",
            name=op.f("ck_correction_request_known_outcome"),
        ),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_correction_request_has_reason")),
        sa.ForeignKeyConstraint(
            ["correction_id"],
            ["correction.correction_id"],
            name=op.f("fk_correction_request_correction_id_correction"),
        ),
        sa.ForeignKeyConstraint(
            ["isic_id"], ["record.isic_id"], name=op.f("fk_correction_request_isic_id_record")
        ),
        sa.ForeignKeyConstraint(
            ["other_isic_id"], ["record.isic_id"], name=op.f("fk_correction_request_other_isic_id_record")
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_correction_request")),
    )


def downgrade() -> None:

    op.drop_table("correction_request")
