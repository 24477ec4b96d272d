"""Keep the landmarks of pictures"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "picture_landmarks",
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the picture's bytes"),
        sa.Column(
            "landmarks",
            sa.LargeBinary(),
            nullable=False,
            comment="8 bytes each, little-endian: 48 bits code, 4 scale, 6 x, 6 y; empty where it could not be read",
        ),
        sa.Column("version", sa.Integer(), nullable=False, comment="of the rules by which they were found"),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_picture_landmarks")),
    )


def downgrade() -> None:
    op.drop_table("picture_landmarks")
