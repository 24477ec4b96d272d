"""Note what waits for curation"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Many rows at once are noted at once. Ids in order, so that two writers of the same rows wait and do not deadlock.
NOTE_INSERTED = """
    CREATE FUNCTION note_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO uncurated SELECT DISTINCT isic_id FROM inserted ORDER BY isic_id ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$
"""
NOTE_CHANGED = """
    CREATE FUNCTION note_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO uncurated VALUES (coalesce(NEW.isic_id, OLD.isic_id)) ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$
"""
# What curation and manifests read of a row; the rest (when it was last seen, how often it was tried) is no news.
OF_RECORD = ("version", "withdrawn_at")
OF_FILE = (
    "object_key", "size_bytes", "sha256", "perceptual_hash", "thumbprint", "width_px", "height_px", "reason",
    "detail",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "uncurated",
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.PrimaryKeyConstraint("isic_id", name=op.f("pk_uncurated")),
    )
    op.create_table(
        "adopted_rules",
        sa.Column(
            "adopted_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when; the last one is in force",
        ),
        sa.Column("rules_version", sa.Integer(), nullable=False, comment="version of the curation rules"),
        sa.PrimaryKeyConstraint("adopted_at", name=op.f("pk_adopted_rules")),
    )
    op.create_check_constraint(
        op.f("ck_split_member_member_has_group"), "split_member", "subset is null or group_id is not null"
    )
    op.create_index(
        "ix_split_member_group",
        "split_member",
        ["split", "group_id"],
        unique=False,
        postgresql_where=sa.text("group_id is not null"),
    )
    op.drop_index("ix_stored_file_state", table_name="stored_file", postgresql_include=["sha256", "reason"])
    op.drop_index(
        "ix_image_state",
        table_name="image",
        postgresql_include=["record_version", "rules_version", "rendition", "sha256", "perceptual_hash"],
    )
    op.create_index(
        "ix_image_hash", "image", ["isic_id"], unique=False, postgresql_include=["perceptual_hash"]
    )
    op.execute(NOTE_INSERTED)
    op.execute(NOTE_CHANGED)
    for table, columns in (("record", OF_RECORD), ("stored_file", OF_FILE)):
        is_other = " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in columns)
        op.execute(
            f"CREATE TRIGGER note_inserted AFTER INSERT ON {table} REFERENCING NEW TABLE AS inserted "
            "FOR EACH STATEMENT EXECUTE FUNCTION note_inserted()"
        )
        op.execute(
            f"CREATE TRIGGER note_updated AFTER UPDATE OF {', '.join(columns)} ON {table} "
            f"FOR EACH ROW WHEN ({is_other}) EXECUTE FUNCTION note_changed()"
        )
    op.execute(
        "CREATE TRIGGER note_deleted AFTER DELETE ON stored_file FOR EACH ROW EXECUTE FUNCTION note_changed()"
    )
    op.execute("INSERT INTO uncurated SELECT isic_id FROM record")


def downgrade() -> None:
    for table in ("record", "stored_file"):
        for name in ("note_inserted", "note_updated", "note_deleted"):
            op.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
    op.execute("DROP FUNCTION note_inserted")
    op.execute("DROP FUNCTION note_changed")
    op.drop_index(
        "ix_split_member_group", table_name="split_member", postgresql_where=sa.text("group_id is not null")
    )
    op.drop_index("ix_image_hash", table_name="image", postgresql_include=["perceptual_hash"])
    op.create_index(
        "ix_image_state",
        "image",
        ["isic_id"],
        unique=False,
        postgresql_include=["record_version", "rules_version", "rendition", "sha256", "perceptual_hash"],
    )
    op.create_index(
        "ix_stored_file_state",
        "stored_file",
        ["isic_id", "rendition"],
        unique=False,
        postgresql_include=["sha256", "reason"],
    )
    op.drop_constraint(op.f("ck_split_member_member_has_group"), "split_member")
    op.drop_table("adopted_rules")
    op.drop_table("uncurated")
