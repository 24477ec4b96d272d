"""Keep own pictures by namespace"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_NOW = "isic_id ~ '^(ISIC_[0-9]{7}|[a-z][a-z0-9-]{1,23}[.][A-Za-z0-9_-]{1,64})$'"
_BEFORE = "isic_id ~ '^ISIC_[0-9]{7}$'"

# Table, column, may be null, comment before and now.
_COMMENTS = [
    ("record", "isic_id", False, "the archive's id", "the archive's id, or namespace.name"),
    (
        "lesion",
        "lesion_id",
        False,
        "the archive's id, IL_ and 7 digits",
        "the archive's id, or namespace.lesion:name",
    ),
    (
        "image",
        "patient_id",
        True,
        "IP_ and 7 digits; null where unknown",
        "IP_ and 7 digits, or namespace.patient:name; null where unknown",
    ),
    (
        "image",
        "lesion_id",
        True,
        "IL_ and 7 digits; null where unknown",
        "IL_ and 7 digits, or namespace.lesion:name; null where unknown",
    ),
]


def upgrade() -> None:
    for table, column, is_optional, _, now in _COMMENTS:
        op.alter_column(table, column, existing_type=sa.Text(), existing_nullable=is_optional, comment=now)
    op.create_table(
        "namespace",
        sa.Column("namespace", sa.Text(), nullable=False, comment="what an own id has before its dot"),
        sa.Column("source", sa.Text(), nullable=False, comment="a folder that uses it"),
        sa.Column(
            "continues", sa.Text(), nullable=True, comment="the folder that used it first; null: this one"
        ),
        sa.PrimaryKeyConstraint("namespace", "source", name=op.f("pk_namespace")),
    )
    op.create_index(
        "ix_namespace_first",
        "namespace",
        ["namespace"],
        unique=True,
        postgresql_where=sa.text("continues is null"),
    )
    op.drop_constraint(op.f("ck_record_isic_id_form"), "record", type_="check")
    op.create_check_constraint(op.f("ck_record_isic_id_form"), "record", _NOW)


def downgrade() -> None:
    for table, column, is_optional, before, _ in _COMMENTS:
        op.alter_column(table, column, existing_type=sa.Text(), existing_nullable=is_optional, comment=before)
    op.drop_constraint(op.f("ck_record_isic_id_form"), "record", type_="check")
    op.create_check_constraint(op.f("ck_record_isic_id_form"), "record", _BEFORE)
    op.drop_table("namespace")
