"""Archive and prune"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pruning",
        sa.Column("pruning_id", sa.Integer(), autoincrement=True, nullable=False, comment="1, 2, 3 ..."),
        sa.Column(
            "kind",
            sa.Text(),
            nullable=False,
            comment="training, model (of a training whose report stays), checkpoints, manifest, pixels or features",
        ),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="id of the training, prefix of checkpoints, digest, or key of a shard",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="in words"),
        sa.Column("pruned_by", sa.Text(), nullable=False, comment="who asked for it"),
        sa.Column("request_id", sa.Text(), nullable=True, comment="the run of Airflow; null by hand"),
        sa.Column(
            "n_objects",
            sa.Integer(),
            nullable=False,
            comment="objects it had in the bucket when it was chosen",
        ),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, comment="of these objects"),
        sa.Column(
            "began_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when it was given up: from then on nothing uses it",
        ),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the last of it was gone; null: a run ended before, and the next one goes on",
        ),
        sa.Column(
            "made_again_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="a manifest: when a build gave it again, so that it is no longer missing",
        ),
        sa.CheckConstraint(
            "kind in ('training', 'model', 'checkpoints', 'manifest', 'pixels', 'features')",
            name=op.f("ck_pruning_known_kind"),
        ),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_pruning_has_reason")),
        sa.PrimaryKeyConstraint("pruning_id", name=op.f("pk_pruning")),
    )
    op.create_index(op.f("ix_pruning_kind_name"), "pruning", ["kind", "name"], unique=False)
    op.create_index(
        "ix_pruning_open",
        "pruning",
        ["kind", "name"],
        unique=True,
        postgresql_where=sa.text("ended_at is null"),
    )
    op.create_table(
        "archival",
        sa.Column("training_id", sa.Text(), nullable=False, comment="what was put aside"),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=False, comment="when"),
        sa.Column("reason", sa.Text(), nullable=False, comment="why, in words"),
        sa.Column("archived_by", sa.Text(), nullable=False, comment="who asked for it"),
        sa.Column(
            "returned_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was taken back; null while it is archived",
        ),
        sa.Column("returned_by", sa.Text(), nullable=True, comment="who took it back"),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_archival_has_reason")),
        sa.ForeignKeyConstraint(
            ["training_id"], ["training.training_id"], name=op.f("fk_archival_training_id_training")
        ),
        sa.PrimaryKeyConstraint("training_id", "archived_at", name=op.f("pk_archival")),
    )
    op.create_index(
        "ix_archival_open",
        "archival",
        ["training_id"],
        unique=True,
        postgresql_where=sa.text("returned_at is null"),
    )


def downgrade() -> None:
    op.drop_index("ix_archival_open", table_name="archival", postgresql_where=sa.text("returned_at is null"))
    op.drop_table("archival")
    op.drop_index("ix_pruning_open", table_name="pruning", postgresql_where=sa.text("ended_at is null"))
    op.drop_index(op.f("ix_pruning_kind_name"), table_name="pruning")
    op.drop_table("pruning")
