"""Keep own pictures by namespace"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None

_NOW = "isic_id ~ '^(ISIC_[0-9]{7}|[a-z][a-z0-9-]{1,23}[.][A-Za-z0-9_-]{1,64})$'"
_BEFORE = "isic_id ~ '^ISIC_[0-9]{7}$'"


def upgrade() -> None:
    op.create_table(
        "namespace",
        sa.Column("namespace", sa.Text(), nullable=False, comment="what an own id has before its dot"),
        sa.Column("source", sa.Text(), nullable=False, comment="the folder that used it first"),
        sa.PrimaryKeyConstraint("namespace", name=op.f("pk_namespace")),
    )
    op.drop_constraint(op.f("ck_record_isic_id_form"), "record", type_="check")
    op.create_check_constraint(op.f("ck_record_isic_id_form"), "record", _NOW)


def downgrade() -> None:
    op.drop_constraint(op.f("ck_record_isic_id_form"), "record", type_="check")
    op.create_check_constraint(op.f("ck_record_isic_id_form"), "record", _BEFORE)
    op.drop_table("namespace")
