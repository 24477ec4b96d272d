"""List trainings without reading their documents"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_FIGURES = {
    "test_figures": (
        "test_natural",
        "the document's figures of the natural test set, to list trainings without reading documents",
    ),
    "balanced_figures": ("test_balanced", "the same of the balanced test set"),
    "val_figures": ("val", "the same of val"),
}
_NOW = "connected component over patient, lesion, identical bytes and copies of a picture"
_BEFORE = "connected component over patient, lesion, identical bytes and near-duplicates"


def upgrade() -> None:
    for column, (subset, comment) in _FIGURES.items():
        path = f"document #> '{{subsets,{subset},figures}}'"
        op.add_column(
            "evaluation",
            sa.Column(
                column,
                postgresql.JSONB(),
                sa.Computed(path, persisted=True),
                nullable=True,
                comment=comment,
            ),
        )
    op.create_index(
        "ix_stored_file_refused", "stored_file", ["reason"], postgresql_where=sa.text("reason is not null")
    )
    op.alter_column("image", "group_id", existing_type=sa.Text(), comment=_NOW, existing_nullable=False)


def downgrade() -> None:
    op.alter_column("image", "group_id", existing_type=sa.Text(), comment=_BEFORE, existing_nullable=False)
    op.drop_index("ix_stored_file_refused", table_name="stored_file")
    for column in _FIGURES:
        op.drop_column("evaluation", column)
