"""Keep features of frozen backbones."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feature_shard",
        sa.Column("object_key", sa.Text(), nullable=False, comment="an .npy object in the bucket"),
        sa.Column("features_id", sa.Text(), nullable=False, comment="digest of the recipe"),
        sa.Column(
            "recipe",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="backbone, weights, size and preprocessing that gave them",
        ),
        sa.Column("n_images", sa.Integer(), nullable=False, comment="rows of the array"),
        sa.Column("n_features", sa.Integer(), nullable=False, comment="columns of the array"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="when it was written"),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_feature_shard")),
    )
    op.create_table(
        "feature_row",
        sa.Column("features_id", sa.Text(), nullable=False, comment="digest of the recipe"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the picture's bytes"),
        sa.Column("object_key", sa.Text(), nullable=False, comment="the shard"),
        sa.Column("row_index", sa.Integer(), nullable=False, comment="row in the shard, from 0"),
        sa.ForeignKeyConstraint(
            ["object_key"], ["feature_shard.object_key"], name=op.f("fk_feature_row_object_key_feature_shard")
        ),
        sa.PrimaryKeyConstraint("features_id", "sha256", name=op.f("pk_feature_row")),
    )


def downgrade() -> None:
    op.drop_table("feature_row")
    op.drop_table("feature_shard")
