"""seal predictions and evaluations"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


ACTIONS = "'promoted', 'refused', 'rolled_back'"
NEW_ACTIONS = "'rejected', 'expired', 'superseded'"
# Predictions made before there were digests are sealed as they are stored now.
SEAL_PREDICTIONS = """
    INSERT INTO prediction_set (training_id, manifest_digest, subset, n_images, sha256)
    SELECT training_id, manifest_digest, subset, count(*), encode(sha256(string_agg(
        convert_to(isic_id, 'UTF8')
            || (SELECT string_agg(float8send(p), ''::bytea ORDER BY place)
                FROM unnest(probabilities) WITH ORDINALITY AS one (p, place)),
        ''::bytea ORDER BY isic_id COLLATE "C")), 'hex')
    FROM prediction GROUP BY training_id, manifest_digest, subset
"""


def upgrade() -> None:
    op.create_table(
        "prediction_set",
        sa.Column("training_id", sa.Text(), nullable=False, comment="whose predictions"),
        sa.Column("manifest_digest", sa.Text(), nullable=False, comment="on which manifest"),
        sa.Column("subset", sa.Text(), nullable=False, comment="val or test"),
        sa.Column("n_images", sa.Integer(), nullable=False, comment="rows of `prediction` that belong to it"),
        sa.Column(
            "sha256",
            sa.Text(),
            nullable=False,
            comment="over its rows by id: the id in UTF-8, then each probability as 8 bytes, big-endian",
        ),
        sa.ForeignKeyConstraint(
            ["manifest_digest"], ["manifest.digest"], name=op.f("fk_prediction_set_manifest_digest_manifest")
        ),
        sa.ForeignKeyConstraint(
            ["training_id"],
            ["training.training_id"],
            name=op.f("fk_prediction_set_training_id_training"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("training_id", "manifest_digest", "subset", name=op.f("pk_prediction_set")),
    )
    op.execute(SEAL_PREDICTIONS)
    op.add_column(
        "evaluation",
        sa.Column(
            "document_sha256", sa.Text(), nullable=True, comment="of the document as Postgres writes it"
        ),
    )
    op.execute(
        "UPDATE evaluation SET document_sha256 = encode(sha256(convert_to(document::text, 'UTF8')), 'hex')"
    )
    op.alter_column("evaluation", "document_sha256", nullable=False)
    op.drop_constraint(op.f("fk_prediction_training_id_training"), "prediction", type_="foreignkey")
    op.drop_constraint(op.f("fk_prediction_manifest_digest_manifest"), "prediction", type_="foreignkey")
    op.create_foreign_key(
        op.f("fk_prediction_training_id_manifest_digest_subset_prediction_set"),
        "prediction",
        "prediction_set",
        ["training_id", "manifest_digest", "subset"],
        ["training_id", "manifest_digest", "subset"],
        onupdate="CASCADE",
        ondelete="CASCADE",
    )
    op.add_column(
        "promotion",
        sa.Column(
            "request_id",
            sa.Text(),
            nullable=True,
            comment="who asked for it, such as a run of Airflow: a repeat finds its decision and makes no second one",
        ),
    )
    op.alter_column(
        "promotion",
        "action",
        existing_type=sa.TEXT(),
        comment="promoted, refused (by the rule), rejected (by a person), expired, superseded or rolled_back",
        existing_comment="promoted, refused or rolled_back",
        existing_nullable=False,
    )
    op.drop_constraint(op.f("ck_promotion_known_action"), "promotion")
    op.create_check_constraint(
        op.f("ck_promotion_known_action"), "promotion", f"action in ({ACTIONS}, {NEW_ACTIONS})"
    )
    op.create_unique_constraint(
        op.f("uq_promotion_request_id_training_id"), "promotion", ["request_id", "training_id"]
    )
    op.add_column(
        "training",
        sa.Column("threshold_rule", sa.Text(), nullable=True, comment="by which rule it was chosen"),
    )
    op.execute("UPDATE training SET threshold_rule = 'highest balanced accuracy' WHERE threshold IS NOT NULL")


def downgrade() -> None:
    op.execute("DELETE FROM promotion WHERE action in (" + NEW_ACTIONS + ")")  # noqa: S608 - our own words
    op.drop_constraint(op.f("ck_promotion_known_action"), "promotion")
    op.create_check_constraint(op.f("ck_promotion_known_action"), "promotion", f"action in ({ACTIONS})")
    op.drop_column("training", "threshold_rule")
    op.drop_constraint(op.f("uq_promotion_request_id_training_id"), "promotion", type_="unique")
    op.alter_column(
        "promotion",
        "action",
        existing_type=sa.TEXT(),
        comment="promoted, refused or rolled_back",
        existing_comment="promoted, refused (by the rule), rejected (by a person), expired, superseded or rolled_back",
        existing_nullable=False,
    )
    op.drop_column("promotion", "request_id")
    op.drop_constraint(
        op.f("fk_prediction_training_id_manifest_digest_subset_prediction_set"),
        "prediction",
        type_="foreignkey",
    )
    op.create_foreign_key(
        op.f("fk_prediction_manifest_digest_manifest"),
        "prediction",
        "manifest",
        ["manifest_digest"],
        ["digest"],
    )
    op.create_foreign_key(
        op.f("fk_prediction_training_id_training"),
        "prediction",
        "training",
        ["training_id"],
        ["training_id"],
        ondelete="CASCADE",
    )
    op.drop_column("evaluation", "document_sha256")
    op.drop_table("prediction_set")
