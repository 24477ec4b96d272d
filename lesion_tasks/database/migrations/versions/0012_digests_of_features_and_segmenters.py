"""Keep the digests of features and segmenters"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What was stored without a digest cannot be held against one: it is computed once more when it is next asked for.
    op.execute("DELETE FROM feature_row")
    op.execute("DELETE FROM feature_shard")
    op.add_column(
        "feature_shard", sa.Column("sha256", sa.Text(), nullable=False, comment="of the object's bytes")
    )
    op.create_table(
        "segmenter",
        sa.Column("segmenter_id", sa.Text(), nullable=False, comment="digest of its recipe and its pictures"),
        sa.Column("object_key", sa.Text(), nullable=False, comment="the .keras object in the bucket"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the object's bytes"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="when it was stored"),
        sa.PrimaryKeyConstraint("segmenter_id", name=op.f("pk_segmenter")),
    )


def downgrade() -> None:
    op.drop_table("segmenter")
    op.drop_column("feature_shard", "sha256")
