"""Every table, in the order the data takes. A rule that can be a key or a constraint is one.

    scope, namespace, ingestion -> record -> record_version -> stored_file -> uncurated -> lesion, image | reject
      -> ungrouped -> picture_landmarks -> picture_pair -> correction -> correction_request -> placement -> cohort_image
      -> group_subset -> split_member -> split_state -> manifest -> pixel_shard, pixel_row -> search -> search_trial
      -> training -> training_epoch, training_failure, prediction -> evaluation -> promotion -> watch
      -> archival, pruning, delivery

Times are UTC. Shares and probabilities are 0 to 1. Lengths carry their unit in the name.
"""

from datetime import date, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lesion_tasks.archive.image_ids import IMAGE_ID_FORM

# Of a column whose few values repeat from row to row, so that a dictionary makes its Parquet smaller.
REPEATS = {"repeats": True}


class Base(DeclarativeBase):
    """Types by annotation, and names for every constraint, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own protocol
        str: Text,
        float: Double,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: ARRAY(Text),
        list[float]: ARRAY(Double),
    }
    written_by: ClassVar[
        tuple[str, ...]
    ] = ()  # the steps that insert, change or delete rows: room and module


class Scope(Base):
    """A part of an archive that is kept up to date, and how far it has been read."""

    __tablename__ = "scope"
    written_by = (
        "database.triggers",
        "ingest.append",
        "ingest.idle",
        "ingest.scope",
        "ingest.snapshot_handover",
    )

    scope_id: Mapped[str] = mapped_column(
        primary_key=True, comment="16 hex digits of source, query, collections"
    )
    source: Mapped[str] = mapped_column(comment="base URL of the API, or a folder")
    query: Mapped[str] = mapped_column(comment="search DSL; empty: everything")
    collections: Mapped[str] = mapped_column(server_default="", comment="collection ids, comma-separated")
    watermark_at: Mapped[datetime | None] = mapped_column(
        comment="`created` up to which the append pass is complete"
    )
    next_watermark_at: Mapped[datetime | None] = mapped_column(
        comment="newest `created` when the running append pass began"
    )
    next_cursor: Mapped[str | None] = mapped_column(
        comment="where a killed append pass goes on, empty for the first page; committed with the rows before it"
    )
    sweep_prefix: Mapped[str | None] = mapped_column(comment="id prefix the rolling sweep reads next")
    poll: Mapped[dict[str, Any] | None] = mapped_column(
        comment="what the source answered when it was last polled"
    )
    polled_at: Mapped[datetime | None] = mapped_column(comment="when the source was last polled")
    idle: Mapped[dict[str, Any] | None] = mapped_column(
        comment="what the last look found when nothing was left to do; gone as soon as anything changes"
    )


class Namespace(Base):
    """Whose pictures the ids of a namespace name: one folder's, and those that say that they continue it."""

    __tablename__ = "namespace"
    written_by = ("ingest.scope",)
    __table_args__ = (
        Index("ix_namespace_first", "namespace", unique=True, postgresql_where=text("continues is null")),
    )

    namespace: Mapped[str] = mapped_column(primary_key=True, comment="what an own id has before its dot")
    source: Mapped[str] = mapped_column(primary_key=True, comment="a folder that uses it")
    continues: Mapped[str | None] = mapped_column(comment="the folder that used it first; null: this one")


class Ingestion(Base):
    """One run of ingestion, by Airflow or by hand: shows what changed since a run, and when a pass was last done."""

    __tablename__ = "ingestion"
    written_by = ("ingest.runs",)

    ingestion_id: Mapped[str] = mapped_column(
        primary_key=True, comment="Airflow's id of the run, or one made for a run by hand"
    )
    scope_id: Mapped[str] = mapped_column(
        comment="what it read; the scope's row is written when it is polled"
    )
    began_at: Mapped[datetime] = mapped_column(comment="when its first try began")
    ended_at: Mapped[datetime | None] = mapped_column(
        comment="when all its passes were done; null while it runs and for one that failed"
    )
    counts: Mapped[dict[str, Any] | None] = mapped_column(comment="what each pass counted, by pass")


class Record(Base):
    """What is known about one archive id: its current version, and when it was seen or missed."""

    __tablename__ = "record"
    written_by = ("ingest.reconcile", "ingest.write_records")
    __table_args__ = (
        ForeignKeyConstraint(
            ["isic_id", "version"],
            ["record_version.isic_id", "record_version.version"],
            deferrable=True,
            initially="DEFERRED",
        ),
        CheckConstraint(f"isic_id ~ '^{IMAGE_ID_FORM}$'", name="isic_id_form"),
        Index(None, "changed_at"),
    )

    isic_id: Mapped[str] = mapped_column(primary_key=True, comment="the archive's id, or namespace.name")
    version: Mapped[int] = mapped_column(comment="the current version of the record")
    first_seen_at: Mapped[datetime] = mapped_column(comment="first time we read it")
    last_seen_at: Mapped[datetime] = mapped_column(comment="last time a read returned it")
    changed_at: Mapped[datetime] = mapped_column(comment="when the current version was first read")
    missing_since: Mapped[datetime | None] = mapped_column(
        comment="first complete read in which it was not listed"
    )
    withdrawn_at: Mapped[datetime | None] = mapped_column(
        comment="when a repeated 404 confirmed that it is gone"
    )


class RecordVersion(Base):
    """One state of a record as the archive sent it, untouched. Versions are added, never changed."""

    __tablename__ = "record_version"
    written_by = ("ingest.write_records",)
    __table_args__ = (CheckConstraint("version >= 1", name="version_counts_from_one"),)

    isic_id: Mapped[str] = mapped_column(primary_key=True, comment="the archive's id")
    version: Mapped[int] = mapped_column(primary_key=True, comment="1, 2, 3 ... per id")
    record_hash: Mapped[str] = mapped_column(comment="SHA-256 of the canonical record")
    document: Mapped[dict[str, Any]] = mapped_column(comment="the record as sent")
    seen_at: Mapped[datetime] = mapped_column(comment="when this version was first read")


class ScopeRecord(Base):
    """Which scopes a record was listed in. Two scopes can share one database."""

    __tablename__ = "scope_record"
    written_by = ("ingest.reconcile", "ingest.snapshot_handover", "ingest.write_records")

    scope_id: Mapped[str] = mapped_column(ForeignKey("scope.scope_id"), primary_key=True, comment="the scope")
    isic_id: Mapped[str] = mapped_column(
        ForeignKey("record.isic_id"), primary_key=True, comment="listed in that scope"
    )
    # Two sources may describe one id differently. A scope's record has changed only if it differs from what that scope
    # last sent, so that reading A, B and A again gives two versions and not three.
    record_hash: Mapped[str] = mapped_column(comment="of the record as this scope last sent it")
    missing_since: Mapped[datetime | None] = mapped_column(
        comment="first complete read in which this scope did not list it; null while it is listed"
    )


class Withdrawal(Base):
    """One absence of a record from its archive: when it was confirmed, and when it ended."""

    __tablename__ = "withdrawal"
    written_by = ("ingest.reconcile", "ingest.write_records")

    isic_id: Mapped[str] = mapped_column(
        ForeignKey("record.isic_id"), primary_key=True, comment="the archive's id"
    )
    withdrawn_at: Mapped[datetime] = mapped_column(
        primary_key=True, comment="when a repeated 404 confirmed it"
    )
    returned_at: Mapped[datetime | None] = mapped_column(
        comment="when a read returned the record again; null while it is gone"
    )


class RefusedRecord(Base):
    """Something an archive sent that cannot be a record, with the reason."""

    __tablename__ = "refused_record"
    written_by = ("ingest.write_records",)

    refusal_id: Mapped[str] = mapped_column(primary_key=True, comment="SHA-256 of scope and what was sent")
    scope_id: Mapped[str] = mapped_column(ForeignKey("scope.scope_id"), comment="where it came from")
    isic_id: Mapped[str | None] = mapped_column(
        comment="its id where that is well formed, for counting what a prefix lists"
    )
    reason: Mapped[str] = mapped_column(comment="a reason word")
    detail: Mapped[str] = mapped_column(comment="what was found and what was expected")
    document: Mapped[str] = mapped_column(comment="what was sent, cut at 10,000 characters")
    seen_at: Mapped[datetime] = mapped_column(comment="when it was last read")


class StoredFile(Base):
    """The file of a record: verified and in the bucket, or the reason why it is not."""

    __tablename__ = "stored_file"
    written_by = (
        "ingest.download",
        "ingest.find_replaced_files",
        "ingest.snapshot_handover",
        "upkeep.verify_bucket",
    )
    __table_args__ = (
        CheckConstraint("rendition in ('thumbnail_256', 'full')", name="known_rendition"),
        CheckConstraint(
            "(reason is null) = (object_key is not null and sha256 is not null)", name="stored_or_refused"
        ),
        Index(None, "sha256"),
        Index("ix_stored_file_refused", "reason", postgresql_where=text("reason is not null")),
    )

    isic_id: Mapped[str] = mapped_column(
        ForeignKey("record.isic_id"), primary_key=True, comment="whose picture"
    )
    rendition: Mapped[str] = mapped_column(primary_key=True, comment="thumbnail_256 or full")
    url: Mapped[str] = mapped_column(comment="where it was fetched from, without query string")
    object_key: Mapped[str | None] = mapped_column(comment="key in the bucket; null when refused")
    size_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="length of the stored object")
    sha256: Mapped[str | None] = mapped_column(comment="of the stored bytes")
    perceptual_hash: Mapped[int | None] = mapped_column(
        BigInteger, comment="64-bit DCT hash of the picture as a signed integer"
    )
    thumbprint: Mapped[bytes | None] = mapped_column(
        comment="16 x 16 grey levels of the picture, row by row: tells look-alikes from copies"
    )
    etag: Mapped[str | None] = mapped_column(comment="the server's word for this state of the object")
    record_size_bytes: Mapped[int | None] = mapped_column(
        BigInteger,
        comment="size in the record when it was fetched; not the object's length, but it changes with it",
    )
    width_px: Mapped[int | None] = mapped_column(info=REPEATS, comment="of the decoded picture")
    height_px: Mapped[int | None] = mapped_column(info=REPEATS, comment="of the decoded picture")
    reason: Mapped[str | None] = mapped_column(comment="why there is no usable file; null when stored")
    detail: Mapped[str | None] = mapped_column(comment="what was found and what was expected")
    n_attempts: Mapped[int] = mapped_column(server_default="1", comment="times a fetch was tried")
    fetched_at: Mapped[datetime] = mapped_column(comment="when the last try ended")
    checked_at: Mapped[datetime | None] = mapped_column(
        comment="when the server was last asked whether it still has this file"
    )
    is_replaced: Mapped[bool] = mapped_column(
        server_default="false", comment="the server has another file by now: it is fetched again"
    )


class Lesion(Base):
    """A lesion belongs to one patient. The key makes a second patient impossible."""

    __tablename__ = "lesion"
    written_by = ("curation.lesion_patients",)
    __table_args__ = (UniqueConstraint("lesion_id", "patient_key"),)

    lesion_id: Mapped[str] = mapped_column(
        primary_key=True, comment="the archive's id, or namespace.lesion:name"
    )
    patient_key: Mapped[str] = mapped_column(comment="patient_id, or empty where the archive gives none")
    is_contested: Mapped[bool] = mapped_column(
        server_default="false", comment="records name two patients: no image of it is used"
    )


class Image(Base):
    """A curated image: one verified object, typed metadata, one group."""

    __tablename__ = "image"
    written_by = (
        "curation.apply_correction",
        "curation.assign_groups",
        "curation.curate",
        "curation.lesion_patients",
        "curation.store_landmarks",
    )
    __table_args__ = (
        ForeignKeyConstraint(
            ["lesion_id", "patient_key"],
            ["lesion.lesion_id", "lesion.patient_key"],
            deferrable=True,
            initially="DEFERRED",
        ),
        ForeignKeyConstraint(
            ["isic_id", "record_version"], ["record_version.isic_id", "record_version.version"]
        ),
        ForeignKeyConstraint(["isic_id", "rendition"], ["stored_file.isic_id", "stored_file.rendition"]),
        CheckConstraint("sex in ('female', 'male')", name="known_sex"),
        CheckConstraint("age_years between 0 and 120", name="age_in_range"),
        CheckConstraint("size_mm > 0 and size_mm < 1000", name="size_in_range"),
        Index(None, "group_id"),
        Index(None, "atom_id"),
        Index(None, "lesion_id"),
        Index(None, "sha256"),
        Index(None, "curated_in"),
        # The hashes of all images, with which each day's new ones are compared: read from the index alone.
        Index("ix_image_hash", "isic_id", postgresql_include=["perceptual_hash"]),
    )

    isic_id: Mapped[str] = mapped_column(primary_key=True, comment="the archive's id")
    record_version: Mapped[int] = mapped_column(info=REPEATS, comment="the version it was curated from")
    rendition: Mapped[str] = mapped_column(comment="the stored file it stands for")
    rules_version: Mapped[int] = mapped_column(comment="version of the curation rules")
    sha256: Mapped[str] = mapped_column(comment="of the picture's bytes")
    patient_id: Mapped[str | None] = mapped_column(
        comment="IP_ and 7 digits, or namespace.patient:name; null where unknown"
    )
    patient_key: Mapped[str] = mapped_column(
        Computed("coalesce(patient_id, '')", persisted=True),
        comment="patient_id or empty, for the lesion's key",
    )
    lesion_id: Mapped[str | None] = mapped_column(
        comment="IL_ and 7 digits, or namespace.lesion:name; null where unknown"
    )
    group_id: Mapped[str] = mapped_column(
        comment="connected component over patient, lesion, identical bytes and copies of a picture"
    )
    atom_id: Mapped[str] = mapped_column(
        comment="patient_id, else lesion_id, else isic_id: what the subset hash is taken of"
    )
    diagnosis: Mapped[list[str]] = mapped_column(comment="diagnosis path, level 1 first; empty: undiagnosed")
    diagnosis_confirm_type: Mapped[str | None] = mapped_column(
        info=REPEATS, comment="how the diagnosis was confirmed"
    )
    image_type: Mapped[str | None] = mapped_column(info=REPEATS, comment="as the archive says")
    image_manipulation: Mapped[str | None] = mapped_column(comment="as the archive says")
    sex: Mapped[str | None] = mapped_column(info=REPEATS, comment="female or male; null where unknown")
    age_years: Mapped[float | None] = mapped_column(
        info=REPEATS, comment="age_approx: five-year steps, 85 means 85 or more"
    )
    size_mm: Mapped[float | None] = mapped_column(comment="clin_size_long_diam_mm, the longest diameter")
    anatom_site: Mapped[str | None] = mapped_column(
        info=REPEATS, comment="anatom_site_1, or the older vocabulary mapped to it"
    )
    fitzpatrick_skin_type: Mapped[str | None] = mapped_column(info=REPEATS, comment="Fitzpatrick I to VI")
    copyright_license: Mapped[str | None] = mapped_column(info=REPEATS, comment="as the archive says")
    attribution: Mapped[str | None] = mapped_column(info=REPEATS, comment="as the archive says")
    perceptual_hash: Mapped[int | None] = mapped_column(
        BigInteger, comment="as in stored_file: 64-bit DCT hash of the picture"
    )
    curated_at: Mapped[datetime] = mapped_column(comment="when this row was last changed")
    curated_in: Mapped[int] = mapped_column(
        BigInteger,
        server_default="0",
        comment="number of the curation that last changed the row or its group",
    )


class Reject(Base):
    """A record that cannot become an image, with the reason."""

    __tablename__ = "reject"
    written_by = ("curation.curate", "curation.lesion_patients")
    __table_args__ = (Index(None, "reason"), Index(None, "curated_in"))

    isic_id: Mapped[str] = mapped_column(
        ForeignKey("record.isic_id"), primary_key=True, comment="the archive's id"
    )
    reason: Mapped[str] = mapped_column(comment="a reason word")
    detail: Mapped[str] = mapped_column(comment="what was found and what was expected")
    record_version: Mapped[int] = mapped_column(comment="the version it was judged from")
    rules_version: Mapped[int] = mapped_column(comment="version of the curation rules")
    curated_at: Mapped[datetime] = mapped_column(comment="when this row was last changed")
    curated_in: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="number of the curation that last changed the row"
    )


class Uncurated(Base):
    """A record that arrived or changed, or whose file did, since it was last judged.

    Triggers on `record` and `stored_file` write it, so no writer can forget to; a daily curation reads one day's ids.
    """

    __tablename__ = "uncurated"
    written_by = ("curation.curate", "curation.lesion_patients", "database.triggers")

    isic_id: Mapped[str] = mapped_column(primary_key=True, comment="the archive's id")


class AdoptedRules(Base):
    """A version of the curation rules by which every record was, or is being, judged again."""

    __tablename__ = "adopted_rules"
    written_by = ("curation.curate",)

    adopted_at: Mapped[datetime] = mapped_column(primary_key=True, comment="when; the last one is in force")
    rules_version: Mapped[int] = mapped_column(comment="version of the curation rules")


class Ungrouped(Base):
    """An image that arrived, changed or left since groups were last computed. While there is one, no split is built."""

    __tablename__ = "ungrouped"
    written_by = (
        "curation.apply_correction",
        "curation.assign_groups",
        "curation.curate",
        "curation.lesion_patients",
        "curation.store_landmarks",
    )

    isic_id: Mapped[str] = mapped_column(primary_key=True, comment="the archive's id")
    old_group_id: Mapped[str | None] = mapped_column(
        comment="its group before the change; null for a new one"
    )


class PicturePair(Base):
    """Two pictures that look alike from afar, and whether a closer look found them to be the same.

    A fact about bytes: it holds whatever the records say, and is never computed twice.
    """

    __tablename__ = "picture_pair"
    written_by = ("curation.copies",)
    __table_args__ = (
        CheckConstraint("sha256 < other_sha256", name="smaller_first"),
        Index(None, "other_sha256"),
        # The most alike first, whatever number of pairs there is.
        Index(
            "ix_picture_pair_detail_correlation",
            text("detail_correlation DESC"),
            postgresql_where=text("not is_copy"),
        ),
    )

    sha256: Mapped[str] = mapped_column(primary_key=True, comment="of the one picture's bytes")
    other_sha256: Mapped[str] = mapped_column(primary_key=True, comment="of the other's")
    n_bits: Mapped[int] = mapped_column(comment="in which their perceptual hashes differ")
    print_correlation: Mapped[float] = mapped_column(comment="of their 16 x 16 thumbprints, -1 to 1")
    detail_correlation: Mapped[float | None] = mapped_column(
        comment="of their fine detail, -1 to 1; null where a picture could not be read"
    )
    is_copy: Mapped[bool] = mapped_column(comment="both show the same picture: their groups are joined")


class PictureLandmarks(Base):
    """The landmarks by which altered copies of a picture are found, computed once for its bytes."""

    __tablename__ = "picture_landmarks"
    written_by = ("curation.store_landmarks",)

    sha256: Mapped[str] = mapped_column(primary_key=True, comment="of the picture's bytes")
    landmarks: Mapped[bytes] = mapped_column(
        comment="8 bytes each, little-endian: 48 bits code, 4 scale, 6 x, 6 y; empty where it could not be read"
    )
    version: Mapped[int] = mapped_column(comment="of the rules by which they were found")


class Correction(Base):
    """A person's decision about a label, or about whether two images show one lesion. Withdrawn, never changed."""

    __tablename__ = "correction"
    written_by = ("curation.corrections",)
    __table_args__ = (
        CheckConstraint(
            "decision in ('label_set_aside', 'label_kept', 'lesions_joined', 'lesions_apart')",
            name="known_decision",
        ),
        CheckConstraint(
            "(decision like 'lesions%') = (other_isic_id is not null)", name="pair_has_two_images"
        ),
        CheckConstraint("(decision like 'label%') = (task is not null)", name="label_has_a_task"),
        CheckConstraint("isic_id < other_isic_id", name="smaller_first"),
        CheckConstraint("reason <> ''", name="has_reason"),
        CheckConstraint("(withdrawn_at is null) = (withdrawn_by is null)", name="withdrawn_by_somebody"),
        UniqueConstraint("request_id"),
        Index(
            "ix_correction_label",
            "task",
            "isic_id",
            unique=True,
            postgresql_where=text("task is not null and withdrawn_at is null"),
        ),
        Index(
            "ix_correction_pair",
            "isic_id",
            "other_isic_id",
            unique=True,
            postgresql_where=text("task is null and withdrawn_at is null"),
        ),
    )

    correction_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, comment="1, 2, 3 ...")
    decision: Mapped[str] = mapped_column(
        comment="label_set_aside: in no subset; lesions_joined: in one group; label_kept, lesions_apart: as it was"
    )
    isic_id: Mapped[str] = mapped_column(ForeignKey("record.isic_id"), comment="the image")
    other_isic_id: Mapped[str | None] = mapped_column(
        ForeignKey("record.isic_id"), comment="of a pair, the other one"
    )
    task: Mapped[str | None] = mapped_column(comment="of a label: name in the catalogue")
    reason: Mapped[str] = mapped_column(comment="why, in words")
    decided_by: Mapped[str] = mapped_column(comment="who decided")
    decided_at: Mapped[datetime] = mapped_column(server_default=func.now(), comment="when")
    request_id: Mapped[str | None] = mapped_column(
        comment="who asked for it, such as a run of Airflow: a repeat finds its decision"
    )
    withdrawn_at: Mapped[datetime | None] = mapped_column(comment="when it was taken back; null: in force")
    withdrawn_by: Mapped[str | None] = mapped_column(comment="who took it back")


class CorrectionRequest(Base):
    """What a run was asked to correct, and how that ended: applied, or why not, and who answered."""

    __tablename__ = "correction_request"
    written_by = ("curation.corrections",)
    __table_args__ = (
        CheckConstraint(
            "decision in ('label_set_aside', 'label_kept', 'lesions_joined', 'lesions_apart', 'withdrawn')",
            name="known_decision",
        ),
        CheckConstraint("outcome in ('applied', 'rejected', 'expired', 'superseded')", name="known_outcome"),
        CheckConstraint(
            "correction_id is not null or (outcome <> 'applied' and decision <> 'withdrawn')",
            name="says_which",
        ),
        CheckConstraint("reason <> ''", name="has_reason"),
    )

    request_id: Mapped[str] = mapped_column(primary_key=True, comment="the run of Airflow: a repeat finds it")
    decision: Mapped[str] = mapped_column(
        comment="as in correction, or withdrawn: that one is to be taken back"
    )
    isic_id: Mapped[str] = mapped_column(ForeignKey("record.isic_id"), comment="as in correction")
    other_isic_id: Mapped[str | None] = mapped_column(
        ForeignKey("record.isic_id"), comment="as in correction"
    )
    task: Mapped[str | None] = mapped_column(comment="as in correction")
    correction_id: Mapped[int | None] = mapped_column(
        ForeignKey("correction.correction_id"),
        comment="the decision that was made, or that is to be withdrawn",
    )
    reason: Mapped[str] = mapped_column(comment="why, in the words of who asked for it")
    asked_by: Mapped[str] = mapped_column(comment="who asked for it")
    outcome: Mapped[str] = mapped_column(comment="applied, rejected, expired or superseded")
    answered_by: Mapped[str | None] = mapped_column(comment="who answered; null: nobody was asked")
    answer_reason: Mapped[str] = mapped_column(
        comment="the words of the answer, or why there is none; may be empty"
    )
    ended_at: Mapped[datetime] = mapped_column(server_default=func.now(), comment="when it ended")


class Placement(Base):
    """The first subset of an image under one assignment. Never changed: no image moves from test to train."""

    __tablename__ = "placement"
    written_by = ("splits.members",)
    __table_args__ = (CheckConstraint("subset in ('train', 'val', 'test')", name="known_subset"),)

    assignment: Mapped[str] = mapped_column(
        primary_key=True, comment="task, salt and shares: what subsets depend on"
    )
    isic_id: Mapped[str] = mapped_column(primary_key=True, comment="the archive's id")
    subset: Mapped[str] = mapped_column(comment="train, val or test")


class CohortImage(Base):
    """An image that judges the models of a task: triggers refuse it in train and val of every split of the task."""

    __tablename__ = "cohort_image"
    written_by = ("splits.cohort_images",)

    task: Mapped[str] = mapped_column(primary_key=True, comment="name in the catalogue")
    isic_id: Mapped[str] = mapped_column(
        ForeignKey("record.isic_id"), primary_key=True, comment="the archive's id"
    )
    cohort: Mapped[str] = mapped_column(primary_key=True, comment="name in the catalogue")


class GroupSubset(Base):
    """The one subset of a group under a split. The key makes a second one impossible."""

    __tablename__ = "group_subset"
    written_by = ("splits.cohort_manifest", "splits.members")
    __table_args__ = (
        UniqueConstraint("split", "group_id", "subset"),
        CheckConstraint("subset in ('train', 'val', 'test', 'quarantine')", name="known_subset"),
    )

    split: Mapped[str] = mapped_column(primary_key=True, comment="name in the catalogue")
    group_id: Mapped[str] = mapped_column(primary_key=True, comment="as in image")
    subset: Mapped[str] = mapped_column(
        comment="train, val or test; quarantine when the group's parts hash to different subsets"
    )


class SplitMember(Base):
    """The place of one image in one split: in a subset with a label, or left out with a reason."""

    __tablename__ = "split_member"
    written_by = ("splits.balance", "splits.cohort_images", "splits.cohort_manifest", "splits.members")
    __table_args__ = (
        ForeignKeyConstraint(
            ["split", "group_id", "subset"],
            ["group_subset.split", "group_subset.group_id", "group_subset.subset"],
        ),
        CheckConstraint("(reason is null) = (label is not null and subset is not null)", name="in_or_out"),
        # Without a group the key above would not be checked.
        CheckConstraint("subset is null or group_id is not null", name="member_has_group"),
        # Deleting a group looks up its members: without this index, that reads the whole split for each group.
        Index("ix_split_member_group", "split", "group_id", postgresql_where=text("group_id is not null")),
        Index("ix_split_member_set_aside", "split", postgresql_where=text("reason = 'set_aside'")),
    )

    split: Mapped[str] = mapped_column(primary_key=True, comment="name in the catalogue")
    isic_id: Mapped[str] = mapped_column(
        ForeignKey("record.isic_id"), primary_key=True, comment="the archive's id"
    )
    group_id: Mapped[str | None] = mapped_column(comment="as in image")
    subset: Mapped[str | None] = mapped_column(info=REPEATS, comment="train, val or test")
    label: Mapped[str | None] = mapped_column(info=REPEATS, comment="a class of the task")
    reason: Mapped[str | None] = mapped_column(comment="why it is left out; null when it is in")
    is_balanced: Mapped[bool] = mapped_column(
        server_default="false", comment="val and test: part of the balanced draw; train: a member"
    )


class SplitState(Base):
    """What the members of a split were computed from, so that only what changed since is judged again."""

    __tablename__ = "split_state"
    written_by = ("splits.cohort_manifest", "splits.members")

    split: Mapped[str] = mapped_column(primary_key=True, comment="name in the catalogue")
    task: Mapped[str] = mapped_column(comment="name in the catalogue: whose cohorts it must not hold")
    recipe_digest: Mapped[str] = mapped_column(comment="SHA-256 of split recipe, task recipe and rules")
    curated_in: Mapped[int] = mapped_column(BigInteger, comment="the last curation that was seen")


class Manifest(Base):
    """An immutable list of images with subset and label, named by its digest; the rows are in the bucket."""

    __tablename__ = "manifest"
    written_by = ("splits.manifest",)
    __table_args__ = (Index(None, "split", "built_at"),)

    digest: Mapped[str] = mapped_column(primary_key=True, comment="SHA-256 over the canonical rows")
    split: Mapped[str] = mapped_column(
        comment="name in the catalogue, or cohort-<name>-<task>, or <split>-without-<digest>"
    )
    cohort: Mapped[str | None] = mapped_column(
        comment="the cohort whose images it lists, all as test; null for a split's"
    )
    held_out: Mapped[str | None] = mapped_column(
        comment="what never teaches and is all of its test, such as attribution: Clinic B; null otherwise"
    )
    task: Mapped[str] = mapped_column(comment="name in the catalogue")
    recipe: Mapped[dict[str, Any]] = mapped_column(comment="the split and task recipes it was made by")
    object_key: Mapped[str] = mapped_column(comment="the parquet file in the bucket")
    n_images: Mapped[int] = mapped_column(comment="rows in all subsets")
    class_counts: Mapped[dict[str, Any]] = mapped_column(comment="images by subset and class")
    funnel: Mapped[list[Any]] = mapped_column(comment="records to members: what was left out, why, how many")
    created_at: Mapped[datetime] = mapped_column(comment="when it was first made")
    built_at: Mapped[datetime] = mapped_column(
        comment="when the recipe last gave this digest: the newest is in force"
    )


class PixelShard(Base):
    """A stored array of decoded pictures, uint8 (n, side, side, 3)."""

    __tablename__ = "pixel_shard"
    written_by = ("pixels.materialize", "upkeep.verify_bucket")

    object_key: Mapped[str] = mapped_column(primary_key=True, comment="an .npy object in the bucket")
    n_images: Mapped[int] = mapped_column(comment="rows of the array")
    sha256: Mapped[str] = mapped_column(comment="of the object's bytes")
    created_at: Mapped[datetime] = mapped_column(comment="when it was written")


class PixelRow(Base):
    """Where the pixels of one picture are stored, at one input size."""

    __tablename__ = "pixel_row"
    written_by = ("pixels.materialize", "upkeep.verify_bucket")

    input_size: Mapped[str] = mapped_column(primary_key=True, comment="side and policy, such as 128-squash")
    sha256: Mapped[str] = mapped_column(primary_key=True, comment="of the picture's bytes")
    object_key: Mapped[str] = mapped_column(ForeignKey("pixel_shard.object_key"), comment="the shard")
    row_index: Mapped[int] = mapped_column(comment="row in the shard, from 0")


class FeatureShard(Base):
    """A stored array of a frozen backbone's features of pictures, float32 (n, features)."""

    __tablename__ = "feature_shard"
    written_by = ("training.frozen_features", "upkeep.verify_bucket")

    object_key: Mapped[str] = mapped_column(primary_key=True, comment="an .npy object in the bucket")
    features_id: Mapped[str] = mapped_column(comment="digest of the recipe")
    recipe: Mapped[dict[str, Any]] = mapped_column(
        comment="backbone, weights, size and preprocessing that gave them"
    )
    n_images: Mapped[int] = mapped_column(comment="rows of the array")
    n_features: Mapped[int] = mapped_column(comment="columns of the array")
    sha256: Mapped[str] = mapped_column(comment="of the object's bytes")
    created_at: Mapped[datetime] = mapped_column(comment="when it was written")


class FeatureRow(Base):
    """Where the features of one picture are stored, for one recipe."""

    __tablename__ = "feature_row"
    written_by = ("training.frozen_features", "upkeep.verify_bucket")

    features_id: Mapped[str] = mapped_column(primary_key=True, comment="digest of the recipe")
    sha256: Mapped[str] = mapped_column(primary_key=True, comment="of the picture's bytes")
    object_key: Mapped[str] = mapped_column(ForeignKey("feature_shard.object_key"), comment="the shard")
    row_index: Mapped[int] = mapped_column(comment="row in the shard, from 0")


class Segmenter(Base):
    """A stored network that outlines lesions; several variants may share it."""

    __tablename__ = "segmenter"
    written_by = ("training.segmentation", "upkeep.verify_bucket")

    segmenter_id: Mapped[str] = mapped_column(
        primary_key=True, comment="digest of its recipe and its pictures"
    )
    object_key: Mapped[str] = mapped_column(comment="the .keras object in the bucket")
    sha256: Mapped[str] = mapped_column(comment="of the object's bytes")
    created_at: Mapped[datetime] = mapped_column(comment="when it was stored")


class Training(Base):
    """One execution of a variant on one manifest."""

    __tablename__ = "training"
    written_by = ("training.run_record",)
    __table_args__ = (
        CheckConstraint("status in ('running', 'finished', 'failed')", name="known_status"),
        CheckConstraint(
            "status <> 'finished' or (model_key is not null and model_sha256 is not null)",
            name="finished_has_model",
        ),
        Index(None, "fingerprint"),
        Index(None, "variant", "started_at"),
    )

    training_id: Mapped[str] = mapped_column(primary_key=True, comment="variant and fingerprint digits")
    variant: Mapped[str] = mapped_column(comment="name in the catalogue")
    task: Mapped[str] = mapped_column(comment="name in the catalogue")
    fingerprint: Mapped[str] = mapped_column(comment="SHA-256 of variant, manifest, weights, code and seed")
    recipe: Mapped[dict[str, Any]] = mapped_column(comment="the variant's fields")
    manifest_digest: Mapped[str] = mapped_column(
        ForeignKey("manifest.digest"), comment="what it learned from"
    )
    weights: Mapped[str | None] = mapped_column(comment="name or place of the pretrained weights")
    weights_sha256: Mapped[str | None] = mapped_column(comment="of the weights file")
    seed: Mapped[int] = mapped_column(comment="of weights, order and augmentation")
    code_version: Mapped[str] = mapped_column(comment="git commit, or the package's version")
    versions: Mapped[dict[str, Any]] = mapped_column(comment="of the libraries that computed it")
    status: Mapped[str] = mapped_column(comment="running, finished or failed")
    reason: Mapped[str | None] = mapped_column(comment="why it failed")
    classes: Mapped[list[str]] = mapped_column(comment="the order of the model's outputs")
    threshold: Mapped[float | None] = mapped_column(comment="chosen on val; null for more than two classes")
    threshold_rule: Mapped[str | None] = mapped_column(comment="by which rule it was chosen")
    trainer_figures: Mapped[dict[str, Any] | None] = mapped_column(
        comment="AUC and loss by subset as the trainer computed them, by position"
    )
    model_key: Mapped[str | None] = mapped_column(comment="the .keras object in the bucket")
    model_sha256: Mapped[str | None] = mapped_column(comment="of the .keras object")
    started_at: Mapped[datetime] = mapped_column(comment="when it first began")
    finished_at: Mapped[datetime | None] = mapped_column(comment="when its manifest was written")


class TrainingEpoch(Base):
    """The figures of one epoch, written while the training runs."""

    __tablename__ = "training_epoch"
    written_by = ("training.run_record",)

    training_id: Mapped[str] = mapped_column(
        ForeignKey("training.training_id", ondelete="CASCADE"), primary_key=True, comment="the training"
    )
    epoch: Mapped[int] = mapped_column(primary_key=True, comment="from 1")
    figures: Mapped[dict[str, Any]] = mapped_column(comment="loss, val_loss, auc, val_auc ...")
    duration_s: Mapped[float] = mapped_column(comment="wall time of the epoch")
    ended_at: Mapped[datetime] = mapped_column(comment="when it ended")


class TrainingFailure(Base):
    """One failure of a training; it stays when the training is tried again, and when that succeeds.

    Triggers on `training` write it, so whoever notes a failure, or begins what was lost again, cannot forget it.
    """

    __tablename__ = "training_failure"
    written_by = ("database.triggers",)

    training_id: Mapped[str] = mapped_column(
        ForeignKey("training.training_id"), primary_key=True, comment="the training"
    )
    failed_at: Mapped[datetime] = mapped_column(
        primary_key=True, comment="when it was noted; one that was killed is noted later"
    )
    reason: Mapped[str] = mapped_column(comment="in words")
    n_epochs: Mapped[int] = mapped_column(comment="complete by then: tried again, it continues after them")


class Search(Base):
    """A Bayesian search for the parameters of a variant on one manifest."""

    __tablename__ = "search"
    written_by = ("training.search",)

    search_id: Mapped[str] = mapped_column(
        primary_key=True, comment="digits of a SHA-256 over recipe, manifest, weights and code"
    )
    variant: Mapped[str] = mapped_column(comment="name in the catalogue")
    recipe: Mapped[dict[str, Any]] = mapped_column(comment="the variant's fields, with the search space")
    manifest_digest: Mapped[str] = mapped_column(
        ForeignKey("manifest.digest"), comment="what its trials learned from; its test stayed closed"
    )
    weights_sha256: Mapped[str | None] = mapped_column(comment="of the weights file")
    started_at: Mapped[datetime] = mapped_column(comment="when it first began")


class SearchTrial(Base):
    """One set of parameters that a search tried, written when the trial ended."""

    __tablename__ = "search_trial"
    written_by = ("training.search",)
    __table_args__ = (
        CheckConstraint("(val_auc is null) <> (reason is null)", name="figure_or_reason"),
        CheckConstraint("val_auc between 0 and 1", name="val_auc_is_an_auc"),
    )

    search_id: Mapped[str] = mapped_column(
        ForeignKey("search.search_id", ondelete="CASCADE"), primary_key=True, comment="the search"
    )
    number: Mapped[int] = mapped_column(
        primary_key=True, comment="from 0; decides the trial with those before"
    )
    parameters: Mapped[dict[str, Any]] = mapped_column(comment="field of the variant -> value")
    val_auc: Mapped[float | None] = mapped_column(comment="AUC on the natural val; null where it failed")
    reason: Mapped[str | None] = mapped_column(comment="why it failed, such as a loss that is not a number")
    ended_at: Mapped[datetime] = mapped_column(comment="when it ended")


PREDICTED_SUBSETS = "val or test; train of a variant with folds, by models that did not see the image"


class PredictionSet(Base):
    """All predictions of one training for one subset of a manifest, under one digest that every read checks."""

    __tablename__ = "prediction_set"
    written_by = ("training.predictions",)

    training_id: Mapped[str] = mapped_column(
        ForeignKey("training.training_id", ondelete="CASCADE"), primary_key=True, comment="whose predictions"
    )
    manifest_digest: Mapped[str] = mapped_column(
        ForeignKey("manifest.digest"), primary_key=True, comment="on which manifest"
    )
    subset: Mapped[str] = mapped_column(primary_key=True, comment=PREDICTED_SUBSETS)
    n_images: Mapped[int] = mapped_column(comment="rows of `prediction` that belong to it")
    sha256: Mapped[str] = mapped_column(
        comment="over its rows by id: the id in UTF-8, then each probability as 8 bytes, big-endian"
    )


class Prediction(Base):
    """What one training predicts for one image. The key makes a second prediction, or a row by position, impossible."""

    __tablename__ = "prediction"
    written_by = ("training.predictions",)
    __table_args__ = (
        ForeignKeyConstraint(
            ["training_id", "manifest_digest", "subset"],
            ["prediction_set.training_id", "prediction_set.manifest_digest", "prediction_set.subset"],
            ondelete="CASCADE",
            onupdate="CASCADE",
        ),
    )

    training_id: Mapped[str] = mapped_column(primary_key=True, comment="whose prediction")
    manifest_digest: Mapped[str] = mapped_column(primary_key=True, comment="on which manifest")
    subset: Mapped[str] = mapped_column(primary_key=True, comment=PREDICTED_SUBSETS)
    isic_id: Mapped[str] = mapped_column(primary_key=True, comment="of which image")
    probabilities: Mapped[list[float]] = mapped_column(comment="by class, in the training's order; sum to 1")


class Evaluation(Base):
    """Everything computed from one training's predictions on one manifest."""

    __tablename__ = "evaluation"
    written_by = ("evaluation.evaluation_record",)
    __table_args__ = (UniqueConstraint("training_id", "manifest_digest"),)

    evaluation_id: Mapped[str] = mapped_column(primary_key=True, comment="training and manifest digits")
    training_id: Mapped[str] = mapped_column(ForeignKey("training.training_id"), comment="what was evaluated")
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifest.digest"), comment="on which manifest")
    is_sound: Mapped[bool] = mapped_column(comment="no blocking integrity check failed")
    failed_checks: Mapped[list[str]] = mapped_column(comment="names of the blocking checks that failed")
    verdict: Mapped[str] = mapped_column(comment="one sentence")
    document: Mapped[dict[str, Any]] = mapped_column(comment="metrics.json")
    document_sha256: Mapped[str] = mapped_column(comment="of the document as Postgres writes it")
    test_figures: Mapped[dict[str, Any] | None] = mapped_column(
        Computed("document #> '{subsets,test_natural,figures}'", persisted=True),
        comment="the document's figures of the natural test set, to list trainings without reading documents",
    )
    balanced_figures: Mapped[dict[str, Any] | None] = mapped_column(
        Computed("document #> '{subsets,test_balanced,figures}'", persisted=True),
        comment="the same of the balanced test set",
    )
    val_figures: Mapped[dict[str, Any] | None] = mapped_column(
        Computed("document #> '{subsets,val,figures}'", persisted=True), comment="the same of val"
    )
    cohort_figures: Mapped[dict[str, Any] | None] = mapped_column(
        Computed("document #> '{other_data,figures}'", persisted=True),
        comment="the leading figure on each cohort, by its name",
    )
    report_key: Mapped[str] = mapped_column(comment="report.html in the bucket")
    evaluated_at: Mapped[datetime] = mapped_column(comment="when it was last computed")


class TestOpening(Base):
    """One look at a test set. Every look is counted and shown."""

    __tablename__ = "test_opening"
    written_by = ("evaluation.evaluation_record",)

    opening_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, comment="1, 2, 3 ...")
    training_id: Mapped[str] = mapped_column(ForeignKey("training.training_id"), comment="who looked")
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifest.digest"), comment="at which test set")
    why: Mapped[str] = mapped_column(comment="evaluation, or comparison with a candidate")
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now(), comment="when")


class Promotion(Base):
    """One decision about the champion of a task. The latest one that installed a training names the champion."""

    __tablename__ = "promotion"
    written_by = ("evaluation.decisions",)
    __table_args__ = (
        UniqueConstraint("task", "sequence"),
        UniqueConstraint("request_id", "training_id"),
        CheckConstraint(
            "action in ('promoted', 'refused', 'rejected', 'expired', 'superseded', 'rolled_back')",
            name="known_action",
        ),
        CheckConstraint("reason <> ''", name="has_reason"),
    )

    promotion_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, comment="1, 2, 3 ...")
    task: Mapped[str] = mapped_column(comment="name in the catalogue")
    sequence: Mapped[int] = mapped_column(
        Integer, comment="1, 2, 3 ... per task: of two decisions at once, one fails on this key"
    )
    action: Mapped[str] = mapped_column(
        comment="promoted, refused (by the rule), rejected (by a person), expired, superseded or rolled_back"
    )
    request_id: Mapped[str | None] = mapped_column(
        comment="who asked for it, such as a run of Airflow: a repeat finds its decision and makes no second one"
    )
    training_id: Mapped[str] = mapped_column(
        ForeignKey("training.training_id"), comment="candidate, or champion again"
    )
    previous_training_id: Mapped[str | None] = mapped_column(
        ForeignKey("training.training_id"), comment="the champion before; null for the first"
    )
    manifest_digest: Mapped[str | None] = mapped_column(
        ForeignKey("manifest.digest"), comment="on which both were compared"
    )
    reason: Mapped[str] = mapped_column(comment="in words")
    figures: Mapped[dict[str, Any]] = mapped_column(comment="what was compared, and every objection")
    decided_by: Mapped[str] = mapped_column(comment="rule, or who asked for it")
    decided_at: Mapped[datetime] = mapped_column(server_default=func.now(), comment="when")


class OpenQuestion(Base):
    """What a person is asked about a candidate, until something is decided about it: one question for each."""

    __tablename__ = "open_question"
    written_by = ("evaluation.open_questions",)

    task: Mapped[str] = mapped_column(primary_key=True, comment="name in the catalogue")
    training_id: Mapped[str] = mapped_column(
        ForeignKey("training.training_id"), primary_key=True, comment="the candidate"
    )
    request_id: Mapped[str] = mapped_column(
        comment="who asks: a run of Airflow and the task, as in promotion"
    )
    previous_training_id: Mapped[str | None] = mapped_column(
        ForeignKey("training.training_id"), comment="the champion that it names; null: there was none"
    )
    findings_sha256: Mapped[str | None] = mapped_column(
        comment="what the candidate's evaluation found that it shows"
    )
    is_override: Mapped[bool] = mapped_column(comment="whether it is about a training that the gates refused")
    is_forced: Mapped[bool] = mapped_column(comment="whether an approval promotes despite the gates")
    ends_at: Mapped[datetime] = mapped_column(comment="when it expires at the latest")
    approved_by: Mapped[str | None] = mapped_column(comment="who approved it, until its run decides")


class Watch(Base):
    """What had become of a champion's images and figures by a day; done again, with the labels that arrived since."""

    __tablename__ = "watch"
    written_by = ("watching.watch",)
    __table_args__ = (UniqueConstraint("training_id", "until"), Index(None, "task", "until"))

    watch_id: Mapped[str] = mapped_column(primary_key=True, comment="training and day")
    task: Mapped[str] = mapped_column(comment="name in the catalogue")
    training_id: Mapped[str] = mapped_column(ForeignKey("training.training_id"), comment="the champion")
    until: Mapped[date] = mapped_column(comment="what arrived before this day was looked at")
    is_alarming: Mapped[bool] = mapped_column(comment="something passed its bound")
    verdict: Mapped[str] = mapped_column(comment="in a few sentences")
    document: Mapped[dict[str, Any]] = mapped_column(comment="metrics.json: every comparison and point")
    document_sha256: Mapped[str] = mapped_column(comment="of the document as Postgres writes it")
    report_key: Mapped[str] = mapped_column(comment="report.html in the bucket")
    watched_at: Mapped[datetime] = mapped_column(comment="when it last changed")


class Archival(Base):
    """A time during which a training is put aside by hand: no candidate, and not on the leaderboard at first."""

    __tablename__ = "archival"
    written_by = ("promotion.archive_training",)
    __table_args__ = (
        CheckConstraint("reason <> ''", name="has_reason"),
        Index("ix_archival_open", "training_id", unique=True, postgresql_where=text("returned_at is null")),
    )

    training_id: Mapped[str] = mapped_column(
        ForeignKey("training.training_id"), primary_key=True, comment="what was put aside"
    )
    archived_at: Mapped[datetime] = mapped_column(primary_key=True, comment="when")
    reason: Mapped[str] = mapped_column(comment="why, in words")
    archived_by: Mapped[str] = mapped_column(comment="who asked for it")
    returned_at: Mapped[datetime | None] = mapped_column(
        comment="when it was taken back; null while it is archived"
    )
    returned_by: Mapped[str | None] = mapped_column(comment="who took it back")


class Pruning(Base):
    """Something that was pruned: its bytes went, its rows stay, and this one says when, why and by whom."""

    __tablename__ = "pruning"
    written_by = ("splits.manifest", "upkeep.prune")
    __table_args__ = (
        CheckConstraint(
            "kind in ('training', 'model', 'checkpoints', 'manifest', 'pixels', 'features', 'predictions')",
            name="known_kind",
        ),
        CheckConstraint("reason <> ''", name="has_reason"),
        Index(None, "kind", "name"),
        Index("ix_pruning_open", "kind", "name", unique=True, postgresql_where=text("ended_at is null")),
    )

    pruning_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, comment="1, 2, 3 ...")
    kind: Mapped[str] = mapped_column(
        comment="training, model (of a training whose report stays), checkpoints, manifest, pixels, features or "
        "predictions"
    )
    name: Mapped[str] = mapped_column(
        comment="id of the training or of the prediction job, prefix of checkpoints, digest, or key of a shard"
    )
    reason: Mapped[str] = mapped_column(comment="in words")
    pruned_by: Mapped[str] = mapped_column(comment="who asked for it")
    request_id: Mapped[str | None] = mapped_column(comment="the run of Airflow; null by hand")
    n_objects: Mapped[int] = mapped_column(comment="objects it had in the bucket when it was chosen")
    size_bytes: Mapped[int] = mapped_column(BigInteger, comment="of these objects")
    began_at: Mapped[datetime] = mapped_column(comment="when it was given up: from then on nothing uses it")
    ended_at: Mapped[datetime | None] = mapped_column(
        comment="when the last of it was gone; null: a run ended before, and the next one goes on"
    )
    made_again_at: Mapped[datetime | None] = mapped_column(
        comment="a manifest: when a build gave it again, so that it is no longer missing"
    )


class Delivery(Base):
    """One notice that reached one connection: what is here already is not sent there again."""

    __tablename__ = "delivery"
    written_by = ("upkeep.notices",)

    event: Mapped[str] = mapped_column(primary_key=True, comment="what kind of thing happened")
    about: Mapped[str] = mapped_column(primary_key=True, comment="to what: ids that name it once and for all")
    connection: Mapped[str] = mapped_column(primary_key=True, comment="Airflow's connection by which it went")
    subject: Mapped[str] = mapped_column(comment="in one line")
    told_at: Mapped[datetime] = mapped_column(server_default=func.now(), comment="when")
