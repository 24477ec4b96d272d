"""The catalogue: its tables, and the triggers that note what waits and what is done"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = None
branch_labels = None
depends_on = None

# Rows that are inserted together are noted together, ids in order, so that two writers of the same rows wait for each
# other and do not deadlock.
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
# A note in scope.settled is removed as soon as one of the watched tables changes.
UNSETTLE = """
        CREATE FUNCTION unsettle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE scope SET settled = NULL WHERE settled IS NOT NULL;
            RETURN NULL;
        END $$
"""
# The columns that curation and manifests read; changes of others (last seen, number of attempts) do not matter.
OF_RECORD = ("version", "withdrawn_at")
OF_FILE = (
    "object_key", "size_bytes", "sha256", "perceptual_hash", "thumbprint", "width_px", "height_px", "reason",
    "detail",
)  # fmt: skip
WATCHED = ("record", "scope_record", "refused_record", "stored_file")
# In the order in which they can be dropped.
TABLES = (
    "search_trial",
    "search",
    "adopted_rules",
    "uncurated",
    "ingestion",
    "feature_row",
    "feature_shard",
    "ungrouped",
    "split_state",
    "placement",
    "picture_pair",
    "image",
    "withdrawal",
    "training_epoch",
    "test_opening",
    "stored_file",
    "split_member",
    "scope_record",
    "reject",
    "promotion",
    "prediction",
    "evaluation",
    "training",
    "refused_record",
    "record",
    "pixel_row",
    "scope",
    "record_version",
    "pixel_shard",
    "manifest",
    "lesion",
    "group_subset",
)


def upgrade() -> None:
    op.create_table(
        "group_subset",
        sa.Column("split", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column("group_id", sa.Text(), nullable=False, comment="as in image"),
        sa.Column(
            "subset",
            sa.Text(),
            nullable=False,
            comment="train, val or test; quarantine when the group's parts hash to different subsets",
        ),
        sa.CheckConstraint(
            "subset in ('train', 'val', 'test', 'quarantine')", name=op.f("ck_group_subset_known_subset")
        ),
        sa.PrimaryKeyConstraint("split", "group_id", name=op.f("pk_group_subset")),
        sa.UniqueConstraint(
            "split", "group_id", "subset", name=op.f("uq_group_subset_split_group_id_subset")
        ),
    )
    op.create_table(
        "lesion",
        sa.Column("lesion_id", sa.Text(), nullable=False, comment="the archive's id, IL_ and 7 digits"),
        sa.Column(
            "patient_key",
            sa.Text(),
            nullable=False,
            comment="patient_id, or empty where the archive gives none",
        ),
        sa.Column(
            "is_contested",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="records name two patients: no image of it is used",
        ),
        sa.PrimaryKeyConstraint("lesion_id", name=op.f("pk_lesion")),
        sa.UniqueConstraint("lesion_id", "patient_key", name=op.f("uq_lesion_lesion_id_patient_key")),
    )
    op.create_table(
        "manifest",
        sa.Column("digest", sa.Text(), nullable=False, comment="SHA-256 over the canonical rows"),
        sa.Column("split", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column("task", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column(
            "recipe",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the split and task recipes it was made by",
        ),
        sa.Column("object_key", sa.Text(), nullable=False, comment="the parquet file in the bucket"),
        sa.Column("n_images", sa.Integer(), nullable=False, comment="rows in all subsets"),
        sa.Column(
            "class_counts",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="images by subset and class",
        ),
        sa.Column(
            "funnel",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="records to members: what was left out, why, how many",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="when it was first made"),
        sa.Column(
            "built_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when the recipe last gave this digest: the newest is in force",
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_manifest")),
    )
    op.create_index(op.f("ix_manifest_split_built_at"), "manifest", ["split", "built_at"], unique=False)
    op.create_table(
        "pixel_shard",
        sa.Column("object_key", sa.Text(), nullable=False, comment="an .npy object in the bucket"),
        sa.Column("n_images", sa.Integer(), nullable=False, comment="rows of the array"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the object's bytes"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="when it was written"),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_pixel_shard")),
    )
    op.create_table(
        "record_version",
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column("version", sa.Integer(), nullable=False, comment="1, 2, 3 ... per id"),
        sa.Column("record_hash", sa.Text(), nullable=False, comment="SHA-256 of the canonical record"),
        sa.Column(
            "document", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="the record as sent"
        ),
        sa.Column(
            "seen_at", sa.DateTime(timezone=True), nullable=False, comment="when this version was first read"
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_record_version_version_counts_from_one")),
        sa.PrimaryKeyConstraint("isic_id", "version", name=op.f("pk_record_version")),
    )
    op.create_table(
        "scope",
        sa.Column(
            "scope_id", sa.Text(), nullable=False, comment="16 hex digits of source, query, collections"
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="base URL of the API, or a folder"),
        sa.Column("query", sa.Text(), nullable=False, comment="search DSL; empty: everything"),
        sa.Column(
            "collections",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="collection ids, comma-separated",
        ),
        sa.Column(
            "watermark_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="`created` up to which the append pass is complete",
        ),
        sa.Column(
            "next_watermark_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="newest `created` when the running append pass began",
        ),
        sa.Column(
            "next_cursor",
            sa.Text(),
            nullable=True,
            comment="where a killed append pass goes on, empty for the first page; committed with the rows before it",
        ),
        sa.Column("sweep_prefix", sa.Text(), nullable=True, comment="id prefix the rolling sweep reads next"),
        sa.Column(
            "probe",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what the last probe answered",
        ),
        sa.Column(
            "probed_at", sa.DateTime(timezone=True), nullable=True, comment="when the last probe was made"
        ),
        sa.Column(
            "settled",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what the last look found when nothing was left to do; gone as soon as anything changes",
        ),
        sa.PrimaryKeyConstraint("scope_id", name=op.f("pk_scope")),
    )
    op.create_table(
        "pixel_row",
        sa.Column("fit", sa.Text(), nullable=False, comment="side and policy, such as 128-squash"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the picture's bytes"),
        sa.Column("object_key", sa.Text(), nullable=False, comment="the shard"),
        sa.Column("row_index", sa.Integer(), nullable=False, comment="row in the shard, from 0"),
        sa.ForeignKeyConstraint(
            ["object_key"], ["pixel_shard.object_key"], name=op.f("fk_pixel_row_object_key_pixel_shard")
        ),
        sa.PrimaryKeyConstraint("fit", "sha256", name=op.f("pk_pixel_row")),
    )
    op.create_table(
        "record",
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column("version", sa.Integer(), nullable=False, comment="the current version of the record"),
        sa.Column(
            "first_seen_at", sa.DateTime(timezone=True), nullable=False, comment="first time we read it"
        ),
        sa.Column(
            "last_seen_at", sa.DateTime(timezone=True), nullable=False, comment="last time a read returned it"
        ),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when the current version was first read",
        ),
        sa.Column(
            "missing_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="first complete read in which it was not listed",
        ),
        sa.Column(
            "withdrawn_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when a repeated 404 confirmed that it is gone",
        ),
        sa.CheckConstraint("isic_id ~ '^ISIC_[0-9]{7}$'", name=op.f("ck_record_isic_id_form")),
        sa.ForeignKeyConstraint(
            ["isic_id", "version"],
            ["record_version.isic_id", "record_version.version"],
            name=op.f("fk_record_isic_id_version_record_version"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("isic_id", name=op.f("pk_record")),
    )
    op.create_index(op.f("ix_record_changed_at"), "record", ["changed_at"], unique=False)
    op.create_table(
        "refused_record",
        sa.Column("refusal_id", sa.Text(), nullable=False, comment="SHA-256 of scope and what was sent"),
        sa.Column("scope_id", sa.Text(), nullable=False, comment="where it came from"),
        sa.Column(
            "isic_id",
            sa.Text(),
            nullable=True,
            comment="its id where that is well formed, for counting shards",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="a reason word"),
        sa.Column("detail", sa.Text(), nullable=False, comment="what was found and what was expected"),
        sa.Column("document", sa.Text(), nullable=False, comment="what was sent, cut at 10,000 characters"),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, comment="when it was last read"),
        sa.ForeignKeyConstraint(
            ["scope_id"], ["scope.scope_id"], name=op.f("fk_refused_record_scope_id_scope")
        ),
        sa.PrimaryKeyConstraint("refusal_id", name=op.f("pk_refused_record")),
    )
    op.create_table(
        "training",
        sa.Column("training_id", sa.Text(), nullable=False, comment="variant and fingerprint digits"),
        sa.Column("variant", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column("task", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of variant, manifest, weights, code and seed",
        ),
        sa.Column(
            "recipe", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="the variant's fields"
        ),
        sa.Column("manifest_digest", sa.Text(), nullable=False, comment="what it learned from"),
        sa.Column("weights", sa.Text(), nullable=True, comment="name or place of the pretrained weights"),
        sa.Column("weights_sha256", sa.Text(), nullable=True, comment="of the weights file"),
        sa.Column("seed", sa.Integer(), nullable=False, comment="of weights, order and augmentation"),
        sa.Column("code_version", sa.Text(), nullable=False, comment="git commit, or the package's version"),
        sa.Column(
            "versions",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="of the libraries that computed it",
        ),
        sa.Column("status", sa.Text(), nullable=False, comment="running, finished or failed"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why it failed"),
        sa.Column(
            "classes", postgresql.ARRAY(sa.Text()), nullable=False, comment="the order of the model's outputs"
        ),
        sa.Column(
            "threshold", sa.Double(), nullable=True, comment="chosen on val; null for more than two classes"
        ),
        sa.Column(
            "trainer_figures",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="AUC and loss by subset as the trainer computed them, by position",
        ),
        sa.Column("model_key", sa.Text(), nullable=True, comment="the .keras object in the bucket"),
        sa.Column("model_sha256", sa.Text(), nullable=True, comment="of the .keras object"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, comment="when it first began"),
        sa.Column(
            "finished_at", sa.DateTime(timezone=True), nullable=True, comment="when its manifest was written"
        ),
        sa.CheckConstraint(
            "status <> 'finished' or (model_key is not null and model_sha256 is not null)",
            name=op.f("ck_training_finished_has_model"),
        ),
        sa.CheckConstraint(
            "status in ('running', 'finished', 'failed')", name=op.f("ck_training_known_status")
        ),
        sa.ForeignKeyConstraint(
            ["manifest_digest"], ["manifest.digest"], name=op.f("fk_training_manifest_digest_manifest")
        ),
        sa.PrimaryKeyConstraint("training_id", name=op.f("pk_training")),
    )
    op.create_index(op.f("ix_training_fingerprint"), "training", ["fingerprint"], unique=False)
    op.create_index(
        op.f("ix_training_variant_started_at"), "training", ["variant", "started_at"], unique=False
    )
    op.create_table(
        "evaluation",
        sa.Column("evaluation_id", sa.Text(), nullable=False, comment="training and manifest digits"),
        sa.Column("training_id", sa.Text(), nullable=False, comment="what was evaluated"),
        sa.Column("manifest_digest", sa.Text(), nullable=False, comment="on which manifest"),
        sa.Column("is_sound", sa.Boolean(), nullable=False, comment="no blocking integrity check failed"),
        sa.Column(
            "failed_checks",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="names of the blocking checks that failed",
        ),
        sa.Column("verdict", sa.Text(), nullable=False, comment="one sentence"),
        sa.Column(
            "document", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="metrics.json"
        ),
        sa.Column("report_key", sa.Text(), nullable=False, comment="report.html in the bucket"),
        sa.Column(
            "evaluated_at", sa.DateTime(timezone=True), nullable=False, comment="when it was last computed"
        ),
        sa.ForeignKeyConstraint(
            ["manifest_digest"], ["manifest.digest"], name=op.f("fk_evaluation_manifest_digest_manifest")
        ),
        sa.ForeignKeyConstraint(
            ["training_id"], ["training.training_id"], name=op.f("fk_evaluation_training_id_training")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", name=op.f("pk_evaluation")),
        sa.UniqueConstraint(
            "training_id", "manifest_digest", name=op.f("uq_evaluation_training_id_manifest_digest")
        ),
    )
    op.create_table(
        "prediction",
        sa.Column("training_id", sa.Text(), nullable=False, comment="whose prediction"),
        sa.Column("manifest_digest", sa.Text(), nullable=False, comment="on which manifest"),
        sa.Column("subset", sa.Text(), nullable=False, comment="val or test"),
        sa.Column("isic_id", sa.Text(), nullable=False, comment="of which image"),
        sa.Column(
            "probabilities",
            postgresql.ARRAY(sa.Double()),
            nullable=False,
            comment="by class, in the training's order; sum to 1",
        ),
        sa.ForeignKeyConstraint(
            ["manifest_digest"], ["manifest.digest"], name=op.f("fk_prediction_manifest_digest_manifest")
        ),
        sa.ForeignKeyConstraint(
            ["training_id"],
            ["training.training_id"],
            name=op.f("fk_prediction_training_id_training"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "training_id", "manifest_digest", "subset", "isic_id", name=op.f("pk_prediction")
        ),
    )
    op.create_table(
        "promotion",
        sa.Column("promotion_id", sa.Integer(), autoincrement=True, nullable=False, comment="1, 2, 3 ..."),
        sa.Column("task", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column(
            "sequence",
            sa.Integer(),
            nullable=False,
            comment="1, 2, 3 ... per task: of two decisions at once, one fails on this key",
        ),
        sa.Column("action", sa.Text(), nullable=False, comment="promoted, refused or rolled_back"),
        sa.Column("training_id", sa.Text(), nullable=False, comment="candidate, or champion again"),
        sa.Column(
            "previous_training_id",
            sa.Text(),
            nullable=True,
            comment="the champion before; null for the first",
        ),
        sa.Column("manifest_digest", sa.Text(), nullable=True, comment="on which both were compared"),
        sa.Column("reason", sa.Text(), nullable=False, comment="in words"),
        sa.Column(
            "figures",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="what was compared, and every objection",
        ),
        sa.Column("decided_by", sa.Text(), nullable=False, comment="rule, or who asked for it"),
        sa.Column(
            "decided_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when",
        ),
        sa.CheckConstraint(
            "action in ('promoted', 'refused', 'rolled_back')", name=op.f("ck_promotion_known_action")
        ),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_promotion_has_reason")),
        sa.ForeignKeyConstraint(
            ["manifest_digest"], ["manifest.digest"], name=op.f("fk_promotion_manifest_digest_manifest")
        ),
        sa.ForeignKeyConstraint(
            ["previous_training_id"],
            ["training.training_id"],
            name=op.f("fk_promotion_previous_training_id_training"),
        ),
        sa.ForeignKeyConstraint(
            ["training_id"], ["training.training_id"], name=op.f("fk_promotion_training_id_training")
        ),
        sa.PrimaryKeyConstraint("promotion_id", name=op.f("pk_promotion")),
        sa.UniqueConstraint("task", "sequence", name=op.f("uq_promotion_task_sequence")),
    )
    op.create_table(
        "reject",
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column("reason", sa.Text(), nullable=False, comment="a reason word"),
        sa.Column("detail", sa.Text(), nullable=False, comment="what was found and what was expected"),
        sa.Column("record_version", sa.Integer(), nullable=False, comment="the version it was judged from"),
        sa.Column("rules_version", sa.Integer(), nullable=False, comment="version of the curation rules"),
        sa.Column(
            "curated_at", sa.DateTime(timezone=True), nullable=False, comment="when this row was last changed"
        ),
        sa.Column(
            "curated_in",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="number of the curation that last changed the row",
        ),
        sa.ForeignKeyConstraint(["isic_id"], ["record.isic_id"], name=op.f("fk_reject_isic_id_record")),
        sa.PrimaryKeyConstraint("isic_id", name=op.f("pk_reject")),
    )
    op.create_index(op.f("ix_reject_reason"), "reject", ["reason"], unique=False)
    op.create_index(op.f("ix_reject_curated_in"), "reject", ["curated_in"], unique=False)
    op.create_table(
        "scope_record",
        sa.Column("scope_id", sa.Text(), nullable=False, comment="the scope"),
        sa.Column("isic_id", sa.Text(), nullable=False, comment="listed in that scope"),
        sa.Column(
            "record_hash", sa.Text(), nullable=False, comment="of the record as this scope last sent it"
        ),
        sa.Column(
            "missing_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="first complete read in which this scope did not list it; null while it is listed",
        ),
        sa.ForeignKeyConstraint(["isic_id"], ["record.isic_id"], name=op.f("fk_scope_record_isic_id_record")),
        sa.ForeignKeyConstraint(
            ["scope_id"], ["scope.scope_id"], name=op.f("fk_scope_record_scope_id_scope")
        ),
        sa.PrimaryKeyConstraint("scope_id", "isic_id", name=op.f("pk_scope_record")),
    )
    op.create_table(
        "split_member",
        sa.Column("split", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column("group_id", sa.Text(), nullable=True, comment="as in image"),
        sa.Column("subset", sa.Text(), nullable=True, comment="train, val or test"),
        sa.Column("label", sa.Text(), nullable=True, comment="a class of the task"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why it is left out; null when it is in"),
        sa.Column(
            "is_balanced",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="val and test: part of the balanced draw; train: a member",
        ),
        sa.CheckConstraint(
            "(reason is null) = (label is not null and subset is not null)",
            name=op.f("ck_split_member_in_or_out"),
        ),
        sa.CheckConstraint(
            "subset is null or group_id is not null", name=op.f("ck_split_member_member_has_group")
        ),
        sa.ForeignKeyConstraint(["isic_id"], ["record.isic_id"], name=op.f("fk_split_member_isic_id_record")),
        sa.ForeignKeyConstraint(
            ["split", "group_id", "subset"],
            ["group_subset.split", "group_subset.group_id", "group_subset.subset"],
            name=op.f("fk_split_member_split_group_id_subset_group_subset"),
        ),
        sa.PrimaryKeyConstraint("split", "isic_id", name=op.f("pk_split_member")),
    )
    op.create_index(
        "ix_split_member_group",
        "split_member",
        ["split", "group_id"],
        unique=False,
        postgresql_where=sa.text("group_id is not null"),
    )
    op.create_table(
        "stored_file",
        sa.Column("isic_id", sa.Text(), nullable=False, comment="whose picture"),
        sa.Column("rendition", sa.Text(), nullable=False, comment="thumbnail_256 or full"),
        sa.Column(
            "url", sa.Text(), nullable=False, comment="where it was fetched from, without query string"
        ),
        sa.Column("object_key", sa.Text(), nullable=True, comment="key in the bucket; null when refused"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True, comment="length of the stored object"),
        sa.Column("sha256", sa.Text(), nullable=True, comment="of the stored bytes"),
        sa.Column(
            "perceptual_hash",
            sa.BigInteger(),
            nullable=True,
            comment="64-bit DCT hash of the picture as a signed integer",
        ),
        sa.Column(
            "thumbprint",
            sa.LargeBinary(),
            nullable=True,
            comment="16 x 16 grey levels of the picture, row by row: tells look-alikes from copies",
        ),
        sa.Column("etag", sa.Text(), nullable=True, comment="the server's word for this state of the object"),
        sa.Column(
            "record_size_bytes",
            sa.BigInteger(),
            nullable=True,
            comment="size in the record when it was fetched; not the object's length, but it changes with it",
        ),
        sa.Column("width_px", sa.Integer(), nullable=True, comment="of the decoded picture"),
        sa.Column("height_px", sa.Integer(), nullable=True, comment="of the decoded picture"),
        sa.Column(
            "reason", sa.Text(), nullable=True, comment="why there is no usable file; null when stored"
        ),
        sa.Column("detail", sa.Text(), nullable=True, comment="what was found and what was expected"),
        sa.Column(
            "n_attempts", sa.Integer(), server_default="1", nullable=False, comment="times a fetch was tried"
        ),
        sa.Column(
            "fetched_at", sa.DateTime(timezone=True), nullable=False, comment="when the last try ended"
        ),
        sa.Column(
            "checked_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the server was last asked whether it still has this file",
        ),
        sa.Column(
            "is_replaced",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="the server has another file by now: it is fetched again",
        ),
        sa.CheckConstraint(
            "rendition in ('thumbnail_256', 'full')", name=op.f("ck_stored_file_known_rendition")
        ),
        sa.CheckConstraint(
            "(reason is null) = (object_key is not null and sha256 is not null)",
            name=op.f("ck_stored_file_stored_or_refused"),
        ),
        sa.ForeignKeyConstraint(["isic_id"], ["record.isic_id"], name=op.f("fk_stored_file_isic_id_record")),
        sa.PrimaryKeyConstraint("isic_id", "rendition", name=op.f("pk_stored_file")),
    )
    op.create_index(op.f("ix_stored_file_sha256"), "stored_file", ["sha256"], unique=False)
    op.create_table(
        "test_opening",
        sa.Column("opening_id", sa.Integer(), autoincrement=True, nullable=False, comment="1, 2, 3 ..."),
        sa.Column("training_id", sa.Text(), nullable=False, comment="who looked"),
        sa.Column("manifest_digest", sa.Text(), nullable=False, comment="at which test set"),
        sa.Column("why", sa.Text(), nullable=False, comment="evaluation, or comparison with a candidate"),
        sa.Column(
            "opened_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when",
        ),
        sa.ForeignKeyConstraint(
            ["manifest_digest"], ["manifest.digest"], name=op.f("fk_test_opening_manifest_digest_manifest")
        ),
        sa.ForeignKeyConstraint(
            ["training_id"], ["training.training_id"], name=op.f("fk_test_opening_training_id_training")
        ),
        sa.PrimaryKeyConstraint("opening_id", name=op.f("pk_test_opening")),
    )
    op.create_table(
        "training_epoch",
        sa.Column("training_id", sa.Text(), nullable=False, comment="the training"),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="from 1"),
        sa.Column(
            "figures",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="loss, val_loss, auc, val_auc ...",
        ),
        sa.Column("duration_s", sa.Double(), nullable=False, comment="wall time of the epoch"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False, comment="when it ended"),
        sa.ForeignKeyConstraint(
            ["training_id"],
            ["training.training_id"],
            name=op.f("fk_training_epoch_training_id_training"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("training_id", "epoch", name=op.f("pk_training_epoch")),
    )
    op.create_table(
        "withdrawal",
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column(
            "withdrawn_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when a repeated 404 confirmed it",
        ),
        sa.Column(
            "returned_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when a read returned the record again; null while it is gone",
        ),
        sa.ForeignKeyConstraint(["isic_id"], ["record.isic_id"], name=op.f("fk_withdrawal_isic_id_record")),
        sa.PrimaryKeyConstraint("isic_id", "withdrawn_at", name=op.f("pk_withdrawal")),
    )
    op.create_table(
        "image",
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column("record_version", sa.Integer(), nullable=False, comment="the version it was curated from"),
        sa.Column("rendition", sa.Text(), nullable=False, comment="the stored file it stands for"),
        sa.Column("rules_version", sa.Integer(), nullable=False, comment="version of the curation rules"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the picture's bytes"),
        sa.Column("patient_id", sa.Text(), nullable=True, comment="IP_ and 7 digits; null where unknown"),
        sa.Column(
            "patient_key",
            sa.Text(),
            sa.Computed("coalesce(patient_id, '')", persisted=True),
            nullable=False,
            comment="patient_id or empty, for the lesion's key",
        ),
        sa.Column("lesion_id", sa.Text(), nullable=True, comment="IL_ and 7 digits; null where unknown"),
        sa.Column(
            "group_id",
            sa.Text(),
            nullable=False,
            comment="connected component over patient, lesion, identical bytes and near-duplicates",
        ),
        sa.Column(
            "atom_id",
            sa.Text(),
            nullable=False,
            comment="patient_id, else lesion_id, else isic_id: what the subset hash is taken of",
        ),
        sa.Column(
            "diagnosis",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="diagnosis path, level 1 first; empty: undiagnosed",
        ),
        sa.Column(
            "diagnosis_confirm_type", sa.Text(), nullable=True, comment="how the diagnosis was confirmed"
        ),
        sa.Column("image_type", sa.Text(), nullable=True, comment="as the archive says"),
        sa.Column("image_manipulation", sa.Text(), nullable=True, comment="as the archive says"),
        sa.Column("sex", sa.Text(), nullable=True, comment="female or male; null where unknown"),
        sa.Column(
            "age_years",
            sa.Double(),
            nullable=True,
            comment="age_approx: five-year steps, 85 means 85 or more",
        ),
        sa.Column(
            "size_mm", sa.Double(), nullable=True, comment="clin_size_long_diam_mm, the longest diameter"
        ),
        sa.Column(
            "anatom_site",
            sa.Text(),
            nullable=True,
            comment="anatom_site_1, or the older vocabulary mapped to it",
        ),
        sa.Column("fitzpatrick_skin_type", sa.Text(), nullable=True, comment="Fitzpatrick I to VI"),
        sa.Column("copyright_license", sa.Text(), nullable=True, comment="as the archive says"),
        sa.Column("attribution", sa.Text(), nullable=True, comment="as the archive says"),
        sa.Column(
            "curated_at", sa.DateTime(timezone=True), nullable=False, comment="when this row was last changed"
        ),
        sa.Column(
            "perceptual_hash",
            sa.BigInteger(),
            nullable=True,
            comment="as in stored_file: 64-bit DCT hash of the picture",
        ),
        sa.Column(
            "curated_in",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="number of the curation that last changed the row or its group",
        ),
        sa.CheckConstraint("sex in ('female', 'male')", name=op.f("ck_image_known_sex")),
        sa.CheckConstraint("age_years between 0 and 120", name=op.f("ck_image_age_in_range")),
        sa.CheckConstraint("size_mm > 0 and size_mm < 1000", name=op.f("ck_image_size_in_range")),
        sa.ForeignKeyConstraint(
            ["isic_id", "record_version"],
            ["record_version.isic_id", "record_version.version"],
            name=op.f("fk_image_isic_id_record_version_record_version"),
        ),
        sa.ForeignKeyConstraint(
            ["isic_id", "rendition"],
            ["stored_file.isic_id", "stored_file.rendition"],
            name=op.f("fk_image_isic_id_rendition_stored_file"),
        ),
        sa.ForeignKeyConstraint(
            ["lesion_id", "patient_key"],
            ["lesion.lesion_id", "lesion.patient_key"],
            name=op.f("fk_image_lesion_id_patient_key_lesion"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("isic_id", name=op.f("pk_image")),
    )
    op.create_index(op.f("ix_image_group_id"), "image", ["group_id"], unique=False)
    op.create_index(op.f("ix_image_atom_id"), "image", ["atom_id"], unique=False)
    op.create_index(op.f("ix_image_curated_in"), "image", ["curated_in"], unique=False)
    op.create_index(op.f("ix_image_lesion_id"), "image", ["lesion_id"], unique=False)
    op.create_index(op.f("ix_image_sha256"), "image", ["sha256"], unique=False)
    op.create_index(
        "ix_image_hash", "image", ["isic_id"], unique=False, postgresql_include=["perceptual_hash"]
    )
    op.create_table(
        "picture_pair",
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the one picture's bytes"),
        sa.Column("other_sha256", sa.Text(), nullable=False, comment="of the other's"),
        sa.Column("n_bits", sa.Integer(), nullable=False, comment="in which their perceptual hashes differ"),
        sa.Column(
            "print_correlation", sa.Double(), nullable=False, comment="of their 16 x 16 thumbprints, -1 to 1"
        ),
        sa.Column(
            "detail_correlation",
            sa.Double(),
            nullable=True,
            comment="of their fine detail, -1 to 1; null where a picture could not be read",
        ),
        sa.Column(
            "is_copy",
            sa.Boolean(),
            nullable=False,
            comment="both show the same picture: their groups are joined",
        ),
        sa.CheckConstraint("sha256 < other_sha256", name=op.f("ck_picture_pair_smaller_first")),
        sa.PrimaryKeyConstraint("sha256", "other_sha256", name=op.f("pk_picture_pair")),
    )
    op.create_index(op.f("ix_picture_pair_other_sha256"), "picture_pair", ["other_sha256"], unique=False)
    op.create_table(
        "placement",
        sa.Column("draw", sa.Text(), nullable=False, comment="task, salt and shares: what subsets depend on"),
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column("subset", sa.Text(), nullable=False, comment="train, val or test"),
        sa.CheckConstraint("subset in ('train', 'val', 'test')", name=op.f("ck_placement_known_subset")),
        sa.PrimaryKeyConstraint("draw", "isic_id", name=op.f("pk_placement")),
    )
    op.create_table(
        "split_state",
        sa.Column("split", sa.Text(), nullable=False, comment="name in the catalogue"),
        sa.Column(
            "recipe_digest",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of split recipe, task recipe and rules",
        ),
        sa.Column("curated_in", sa.BigInteger(), nullable=False, comment="the last curation that was seen"),
        sa.PrimaryKeyConstraint("split", name=op.f("pk_split_state")),
    )
    op.create_table(
        "ungrouped",
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column(
            "old_group_id",
            sa.Text(),
            nullable=True,
            comment="its group before the change; null for a new one",
        ),
        sa.PrimaryKeyConstraint("isic_id", name=op.f("pk_ungrouped")),
    )
    op.create_table(
        "feature_shard",
        sa.Column("object_key", sa.Text(), nullable=False, comment="an .npy object in the bucket"),
        sa.Column("features_id", sa.Text(), nullable=False, comment="digest of the recipe"),
        sa.Column(
            "recipe",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="backbone, weights, size and preprocessing that gave them",
        ),
        sa.Column("n_images", sa.Integer(), nullable=False, comment="rows of the array"),
        sa.Column("n_features", sa.Integer(), nullable=False, comment="columns of the array"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="when it was written"),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_feature_shard")),
    )
    op.create_table(
        "feature_row",
        sa.Column("features_id", sa.Text(), nullable=False, comment="digest of the recipe"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the picture's bytes"),
        sa.Column("object_key", sa.Text(), nullable=False, comment="the shard"),
        sa.Column("row_index", sa.Integer(), nullable=False, comment="row in the shard, from 0"),
        sa.ForeignKeyConstraint(
            ["object_key"], ["feature_shard.object_key"], name=op.f("fk_feature_row_object_key_feature_shard")
        ),
        sa.PrimaryKeyConstraint("features_id", "sha256", name=op.f("pk_feature_row")),
    )
    op.create_table(
        "ingestion",
        sa.Column(
            "ingestion_id",
            sa.Text(),
            nullable=False,
            comment="Airflow's id of the run, or one made for a run by hand",
        ),
        sa.Column(
            "scope_id",
            sa.Text(),
            nullable=False,
            comment="what it read; the scope's row is written by its probe",
        ),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False, comment="when its first try began"),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when all its layers were done; null while it runs and for one that failed",
        ),
        sa.Column(
            "counts",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what each layer counted, by layer",
        ),
        sa.PrimaryKeyConstraint("ingestion_id", name=op.f("pk_ingestion")),
    )
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
    op.execute(NOTE_INSERTED)
    op.execute(NOTE_CHANGED)
    op.execute(UNSETTLE)
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
    for table in WATCHED:
        op.execute(
            f"CREATE TRIGGER unsettle AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION unsettle()"
        )


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    for function in ("unsettle", "note_changed", "note_inserted"):
        op.execute(f"DROP FUNCTION {function}()")
