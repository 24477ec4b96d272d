"""Prune predictions, a kind of their own; and order look-alike pictures by how alike they are"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_BEFORE = {
    "kinds": "kind in ('training', 'model', 'checkpoints', 'manifest', 'pixels', 'features')",
    "kind": "training, model (of a training whose report stays), checkpoints, manifest, pixels or features",
    "name": "id of the training, prefix of checkpoints, digest, or key of a shard",
}
_NOW = {
    "kinds": "kind in ('training', 'model', 'checkpoints', 'manifest', 'pixels', 'features', 'predictions')",
    "kind": "training, model (of a training whose report stays), checkpoints, manifest, pixels, features or "
    "predictions",
    "name": "id of the training or of the prediction job, prefix of checkpoints, digest, or key of a shard",
}


def upgrade() -> None:
    _change(_NOW)
    op.create_index(
        op.f("ix_picture_pair_detail_correlation"),
        "picture_pair",
        [sa.text("detail_correlation DESC")],
        postgresql_where=sa.text("not is_copy"),
    )


def downgrade() -> None:
    op.drop_index(
        op.f("ix_picture_pair_detail_correlation"),
        table_name="picture_pair",
        postgresql_where=sa.text("not is_copy"),
    )
    op.execute("DELETE FROM pruning WHERE kind = 'predictions'")
    _change(_BEFORE)


def _change(words: dict[str, str]) -> None:
    op.drop_constraint(op.f("ck_pruning_known_kind"), "pruning", type_="check")
    op.create_check_constraint(op.f("ck_pruning_known_kind"), "pruning", words["kinds"])
    for column in ("kind", "name"):
        op.alter_column(
            "pruning", column, existing_type=sa.Text(), existing_nullable=False, comment=words[column]
        )
