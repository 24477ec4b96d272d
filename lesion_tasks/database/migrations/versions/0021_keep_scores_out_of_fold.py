"""Keep scores out of fold: those of train are a subset of their own"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0017"
branch_labels = None
depends_on = None

_BEFORE = "val or test"
_NOW = "val or test; train of a variant with folds, by models that did not see the image"


def upgrade() -> None:
    _comment(_NOW)


def downgrade() -> None:
    _comment(_BEFORE)


def _comment(words: str) -> None:
    for table in ("prediction_set", "prediction"):
        op.alter_column(table, "subset", existing_type=sa.Text(), existing_nullable=False, comment=words)
