"""keep searches and their trials"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "search",
        sa.Column(
            "search_id",
            sa.Text(),
            nullable=False,
            comment="digits of a SHA-256 over recipe, manifest, weights and code",
        ),
        sa.Column("variant", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column(
            "recipe",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the variant's fields, with the search space",
        ),
        sa.Column(
            "manifest_digest",
            sa.Text(),
            nullable=False,
            comment="what its trials learned from; its test stayed closed",
        ),
        sa.Column("weights_sha256", sa.Text(), nullable=True, comment="of the weights file"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, comment="when it first began"),
        sa.ForeignKeyConstraint(
            ["manifest_digest"], ["manifest.digest"], name=op.f("fk_search_manifest_digest_manifest")
        ),
        sa.PrimaryKeyConstraint("search_id", name=op.f("pk_search")),
    )
    op.create_table(
        "search_trial",
        sa.Column("search_id", sa.Text(), nullable=False, comment="the search"),
        sa.Column(
            "number", sa.Integer(), nullable=False, comment="from 0; decides the trial with those before"
        ),
        sa.Column(
            "parameters",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="field of the variant -> value",
        ),
        sa.Column(
            "val_auc", sa.Double(), nullable=True, comment="AUC on the natural val; null where it failed"
        ),
        sa.Column(
            "reason", sa.Text(), nullable=True, comment="why it failed, such as a loss that is not a number"
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False, comment="when it ended"),
        sa.CheckConstraint(
            "(val_auc is null) <> (reason is null)", name=op.f("ck_search_trial_figure_or_reason")
        ),
        sa.CheckConstraint("val_auc between 0 and 1", name=op.f("ck_search_trial_val_auc_is_an_auc")),
        sa.ForeignKeyConstraint(
            ["search_id"],
            ["search.search_id"],
            name=op.f("fk_search_trial_search_id_search"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_search_trial")),
    )


def downgrade() -> None:
    op.drop_table("search_trial")
    op.drop_table("search")
