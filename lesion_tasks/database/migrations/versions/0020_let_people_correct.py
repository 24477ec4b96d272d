"""Let people correct labels and pairs"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "correction",
        sa.Column("correction_id", sa.Integer(), autoincrement=True, nullable=False, comment="1, 2, 3 ..."),
        sa.Column(
            "decision",
            sa.Text(),
            nullable=False,
            comment="label_set_aside: in no subset; lesions_joined: in one group; label_kept, lesions_apart: as it was",
        ),
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the image"),
        sa.Column("other_isic_id", sa.Text(), nullable=True, comment="of a pair, the other one"),
        sa.Column("task", sa.Text(), nullable=True, comment="of a label: name in the catalogue"),
        sa.Column("reason", sa.Text(), nullable=False, comment="why, in words"),
        sa.Column("decided_by", sa.Text(), nullable=False, comment="who decided"),
        sa.Column(
            "decided_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when",
        ),
        sa.Column(
            "request_id",
            sa.Text(),
            nullable=True,
            comment="who asked for it, such as a run of Airflow: a repeat finds its decision",
        ),
        sa.Column(
            "withdrawn_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was taken back; null: in force",
        ),
        sa.Column("withdrawn_by", sa.Text(), nullable=True, comment="who took it back"),
        sa.CheckConstraint(
            "decision in ('label_set_aside', 'label_kept', 'lesions_joined', 'lesions_apart')",
            name=op.f("ck_correction_known_decision"),
        ),
        sa.CheckConstraint(
            "(decision like 'lesions%') = (other_isic_id is not null)",
            name=op.f("ck_correction_pair_has_two_images"),
        ),
        sa.CheckConstraint(
            "(decision like 'label%') = (task is not null)", name=op.f("ck_correction_label_has_a_task")
        ),
        sa.CheckConstraint("isic_id < other_isic_id", name=op.f("ck_correction_smaller_first")),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_correction_has_reason")),
        sa.CheckConstraint(
            "(withdrawn_at is null) = (withdrawn_by is null)",
            name=op.f("ck_correction_withdrawn_by_somebody"),
        ),
        sa.ForeignKeyConstraint(["isic_id"], ["record.isic_id"], name=op.f("fk_correction_isic_id_record")),
        sa.ForeignKeyConstraint(
            ["other_isic_id"], ["record.isic_id"], name=op.f("fk_correction_other_isic_id_record")
        ),
        sa.PrimaryKeyConstraint("correction_id", name=op.f("pk_correction")),
        sa.UniqueConstraint("request_id", name=op.f("uq_correction_request_id")),
    )
    op.create_index(
        "ix_correction_label",
        "correction",
        ["task", "isic_id"],
        unique=True,
        postgresql_where=sa.text("task is not null and withdrawn_at is null"),
    )
    op.create_index(
        "ix_correction_pair",
        "correction",
        ["isic_id", "other_isic_id"],
        unique=True,
        postgresql_where=sa.text("task is null and withdrawn_at is null"),
    )


def downgrade() -> None:
    op.drop_index("ix_correction_pair", table_name="correction")
    op.drop_index("ix_correction_label", table_name="correction")
    op.drop_table("correction")
