"""Records and stored files -> images, or rejects with a reason word; then `assign_groups` for all.

Every write of a record or a file leaves its id in `uncurated`, by triggers of the database, so nothing compares the
whole database to find out what is new. Ids are taken from there in batches, each batch one transaction that also
judges them, so a killed run continues where it stopped. Images that arrived, changed or left are noted in the same
transaction (`ungrouped`), and only the groups that they can touch are computed again: a daily run costs what one day's
images cost. Groups depend on what the database holds, not on the order in which it arrived.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.curation.assign_groups import NEXT_NUMBER, regroup
from lesion_tasks.curation.cleaning import CLEANING_VERSION, CuratedImage, Rejected, curate_record
from lesion_tasks.curation.findings import Findings, known_identities, large_identities
from lesion_tasks.curation.grouping import atom_of
from lesion_tasks.curation.lesion_patients import settle_lesions
from lesion_tasks.curation.store_landmarks import mark_pictures
from lesion_tasks.database.bulk import upsert_rows
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.progress import progress
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

BATCH_ROWS = 5_000

_LAST_RULES = text("SELECT rules_version FROM adopted_rules ORDER BY adopted_at DESC LIMIT 1")
_ADOPT_RULES = text("""
    WITH judged AS (
        INSERT INTO uncurated SELECT isic_id FROM image UNION ALL SELECT isic_id FROM reject ON CONFLICT DO NOTHING
    )
    INSERT INTO adopted_rules (rules_version, adopted_at) VALUES (:rules, clock_timestamp())
""")
# Deleted before their records are read: a writer that changes one of them meanwhile waits, and adds its id again.
_TAKE = text("""
    WITH taken AS (
        DELETE FROM uncurated WHERE isic_id IN (
            SELECT isic_id FROM uncurated WHERE isic_id > :after ORDER BY isic_id LIMIT :n
        ) RETURNING isic_id
    ) SELECT isic_id FROM taken ORDER BY isic_id
""")
# One stored rendition for each record: usable before refused, then larger before smaller.
_BATCH = text("""
    SELECT r.isic_id, r.version, v.document, r.withdrawn_at IS NOT NULL AS is_withdrawn,
           f.rendition, f.sha256, f.reason, f.detail, f.perceptual_hash
    FROM record r
    JOIN record_version v USING (isic_id, version)
    LEFT JOIN LATERAL (
        SELECT * FROM stored_file s WHERE s.isic_id = r.isic_id ORDER BY (s.reason IS NULL) DESC, s.rendition LIMIT 1
    ) f ON true
    WHERE r.isic_id = ANY(:ids) ORDER BY r.isic_id
""")


def curate_images(workspace: Workspace) -> dict[str, int]:
    """Bring `image` and `reject` up to date; returns counts of judged rows by outcome, and of values not read.

    Safe to run again or to kill: a row that is up to date is not touched, and each batch is one transaction.
    """
    counts: Counter[str] = Counter(images=0, rejects=0)
    findings = Findings()
    engine = workspace.engine
    with engine.begin() as connection:
        # One curation at a time, so that no split is built from half of one.
        lock_until_commit(connection, Lock.CURATION)
        if connection.execute(_LAST_RULES).scalar_one_or_none() != CLEANING_VERSION:
            connection.execute(_ADOPT_RULES, {"rules": CLEANING_VERSION})
        n_waiting = connection.execute(text("SELECT count(*) FROM uncurated")).scalar_one()
        first_number = int(connection.execute(NEXT_NUMBER).scalar_one())
    last = ""
    with progress("curate", total=n_waiting) as advance:
        while True:
            with engine.begin() as connection:
                lock_until_commit(connection, Lock.CURATION)
                ids = list(connection.execute(_TAKE, {"after": last, "n": BATCH_ROWS}).scalars())
                if not ids:
                    break
                batch = _curate_batch(connection, connection.execute(_BATCH, {"ids": ids}).all(), findings)
            counts.update(batch)
            # Images that must be judged again may have lower ids.
            last = "" if batch["reopened"] else ids[-1]  # in the order of the database, which is not Python's
            advance(len(ids))
    mark_pictures(engine, workspace.bucket, NEXT_NUMBER)
    with engine.begin() as connection:
        lock_until_commit(connection, Lock.CURATION)
        counts.update(regroup(connection, workspace.bucket))
        large = large_identities(connection, since=first_number)
        known = known_identities(connection)
        totals = connection.execute(
            text("SELECT (SELECT count(*) FROM image), (SELECT count(*) FROM reject)")
        ).one()
    counts["all_images"], counts["all_rejects"] = int(totals[0]), int(totals[1])
    counts.update({f"unread_{name}": n for name, n in findings.n_unread.items()})
    unknown = [known.caution] if known.caution is not None and counts["images"] else []
    for words in (*findings.unread_in_words(), *large, *unknown):
        log.warning("curate: %s", words)
    for words in findings.rejects_in_words():
        log.info("curate: %s", words)
    return dict(counts)


def _curate_batch(connection: Connection, rows: Sequence[Any], findings: Findings) -> Counter[str]:
    judged = [
        curate_record(
            row.document,
            row.version,
            None if row.rendition is None else row._mapping,
            is_withdrawn=row.is_withdrawn,
        )
        for row in rows
    ]
    images = [item for item in judged if isinstance(item, CuratedImage)]
    rejects = [item for item in judged if isinstance(item, Rejected)]
    number = int(connection.execute(NEXT_NUMBER).scalar_one())
    connection.execute(_NOTE_CHANGED, {"ids": [item.isic_id for item in judged]})
    images, contested, n_reopened = settle_lesions(
        connection, images, [item.isic_id for item in judged], number
    )
    rejects += contested
    for row in rows:
        findings.note_record(row.document)
    for reject in rejects:
        findings.note_reject(reject)
    connection.execute(_NOTE_NEW, {"ids": [image.isic_id for image in images]})
    _drop(connection, "image", [item.isic_id for item in rejects])
    _drop(connection, "reject", [item.isic_id for item in images])
    stamp = {
        "rules_version": CLEANING_VERSION,
        "curated_at": datetime.now(UTC),
        "curated_in": number,
    }
    hash_by_id = {row.isic_id: row.perceptual_hash for row in rows}
    upsert_rows(
        connection,
        "image",
        ["isic_id"],
        (_image_row(image) | {"perceptual_hash": hash_by_id[image.isic_id]} | stamp for image in images),
    )
    upsert_rows(connection, "reject", ["isic_id"], (vars(reject) | stamp for reject in rejects))
    by_reason = Counter(f"rejected_{reject.reason}" for reject in rejects)
    return Counter(images=len(images), rejects=len(rejects), reopened=n_reopened) + by_reason


# An image's present group is the one that may split when the image leaves or changes.
_NOTE_CHANGED = text("""
    INSERT INTO ungrouped (isic_id, old_group_id) SELECT isic_id, group_id FROM image WHERE isic_id = ANY(:ids)
    ON CONFLICT DO NOTHING
""")
_NOTE_NEW = text("""
    INSERT INTO ungrouped (isic_id) SELECT unnest(CAST(:ids AS text[])) ON CONFLICT DO NOTHING
""")


def _image_row(image: CuratedImage) -> dict[str, Any]:
    """The image's facts, and its group until groups are computed: its identity alone."""
    atom = atom_of(image.patient_id, image.lesion_id, image.isic_id)
    return vars(image) | {"group_id": atom, "atom_id": atom}


def _drop(connection: Connection, table: str, isic_ids: list[str]) -> None:
    connection.execute(text(f"DELETE FROM {table} WHERE isic_id = ANY(:ids)"), {"ids": isic_ids})  # noqa: S608
