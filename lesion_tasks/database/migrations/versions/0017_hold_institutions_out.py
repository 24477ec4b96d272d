"""Hold institutions out"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

BEFORE = "name in the catalogue, or cohort-<name>-<task>"
NOW = "name in the catalogue, or cohort-<name>-<task>, or <split>-without-<digest>"


def upgrade() -> None:
    op.add_column(
        "manifest",
        sa.Column(
            "held_out",
            sa.Text(),
            nullable=True,
            comment="what never teaches and is all of its test, such as attribution: Clinic B; null otherwise",
        ),
    )
    op.alter_column("manifest", "split", existing_type=sa.Text(), existing_nullable=False, comment=NOW)


def downgrade() -> None:
    op.alter_column("manifest", "split", existing_type=sa.Text(), existing_nullable=False, comment=BEFORE)
    op.drop_column("manifest", "held_out")
