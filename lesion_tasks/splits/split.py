"""Curated images -> the members of a split, and one immutable manifest.

Every image of the catalogue gets a row in `split_member`: in a subset with a label, or left out with a reason.
Only images that changed since the split was last built, and those of their groups, are judged again. The subset of
an identity is a hash, so growth moves no one; a group whose parts belong to different subsets is quarantined.
Running it again on the same catalogue gives the same digest and changes nothing.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import SPLITS, TASKS, Split, Task
from lesion_tasks.curation.findings import large_identities
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.splits.balance import draw_balance
from lesion_tasks.splits.data_report import write_data_report
from lesion_tasks.splits.funnel import funnel_of, left_out_in_words
from lesion_tasks.splits.manifest import object_key, write_manifest
from lesion_tasks.splits.manifest_checks import check_manifest
from lesion_tasks.splits.manifest_rows import manifest_rows, rows_before
from lesion_tasks.splits.members import MEMBERSHIP_VERSION, judge_changes
from lesion_tasks.splits.subset_or_quarantine import SUBSETS
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


def build_split(workspace: Workspace, name: str) -> str:
    """Assign every image under one split recipe and return the manifest's digest.

    Raises `UnusableInputError` before anything is written if the images cannot make this split, or if a check of the
    manifest fails.
    """
    if name not in SPLITS:
        raise UnusableInputError(f"unknown split {name!r}, expected one of {', '.join(sorted(SPLITS))}")
    split = SPLITS[name]
    task = TASKS[split.task]
    bucket = workspace.bucket
    with workspace.engine.begin() as connection:
        _lock(connection, task)
        has_news = judge_changes(connection, split, task)
        draw_balance(connection, split, task)
        before = rows_before(connection, bucket, split) if has_news else {}
        table = manifest_rows(connection, split, before)
        left_out = list(left_out_in_words(connection, split.name))
        try:
            check_manifest(table, split, task)
        except UnusableInputError as error:
            raise UnusableInputError("; ".join([str(error), *left_out])) from error
        large = large_identities(connection)
        counts = class_counts(table, task)
        digest = _store_manifest(connection, bucket, split, task, table, counts)
        write_data_report(bucket, connection, digest, {**before, digest: table})
    _say(split, counts)
    for words in left_out:
        log.info("%s: %s", split.name, words)
    for words in large:
        log.warning("%s: %s", split.name, words)
    return digest


def _say(split: Split, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Log the number of images of each class, and where the draw found fewer than it may take."""
    for subset, by_label in counts.items():
        log.info(
            "%s: %s: %s", split.name, subset, ", ".join(f"{n:,} {label}" for label, n in by_label.items())
        )
    if split.max_per_class is not None and (fewest := min(counts["train"].values())) < split.max_per_class:
        log.warning(
            "%s: train has %s of the rarest class, fewer than the %s of each that the split may draw",
            split.name,
            f"{fewest:,}",
            f"{split.max_per_class:,}",
        )


def _lock(connection: Connection, task: Task) -> None:
    """Wait until no curation runs and no other draw for this task; refuse a half-curated catalogue."""
    lock_until_commit(connection, Lock.CURATION, is_shared=True)
    lock_until_commit(connection, Lock.ASSIGNMENT, task.assignment)
    n_images, n_ungrouped = connection.execute(
        text("SELECT (SELECT count(*) FROM (SELECT FROM image LIMIT 1) i), (SELECT count(*) FROM ungrouped)")
    ).one()
    if not n_images:
        raise UnusableInputError(
            "the catalogue holds no curated image, expected some: ingest and curate first"
        )
    if n_ungrouped:
        raise UnusableInputError(
            f"{n_ungrouped:,} images have no group yet, expected none: curation did not finish, run it again"
        )


def class_counts(table: "pa.Table", task: Task) -> dict[str, dict[str, int]]:
    """Images by subset and class; `test_balanced` and `val_balanced` are draws from test and val."""
    grouped = table.group_by(["subset", "label", "is_balanced"]).aggregate([([], "count_all")]).to_pylist()
    counts: dict[str, dict[str, int]] = {}
    for subset in SUBSETS:
        inside = [row for row in grouped if row["subset"] == subset]
        for name, some in ((subset, inside), (f"{subset}_balanced", [r for r in inside if r["is_balanced"]])):
            if name != "train_balanced":
                counts[name] = {
                    label: sum(int(row["count_all"]) for row in some if row["label"] == label)
                    for label in task.classes
                }
    return counts


def _store_manifest(
    connection: Connection,
    bucket: Bucket,
    split: Split,
    task: Task,
    table: "pa.Table",
    counts: Mapping[str, Mapping[str, int]],
) -> str:
    recipe = {"split": asdict(split), "task": asdict(task), "rules_version": MEMBERSHIP_VERSION}
    digest = write_manifest(bucket, split.name, recipe, table)
    connection.execute(
        text("""
            INSERT INTO manifest (digest, split, task, recipe, object_key, n_images, class_counts, funnel,
                                  created_at, built_at)
            VALUES (:digest, :split, :task, :recipe, :key, :n, :counts, :funnel, :now, :now)
            ON CONFLICT (digest) DO UPDATE SET built_at = excluded.built_at, funnel = excluded.funnel
        """),
        {
            "digest": digest,
            "split": split.name,
            "task": task.name,
            "recipe": json.dumps(recipe),
            "key": object_key(split.name, digest),
            "n": len(table),
            "counts": json.dumps(counts),
            "funnel": json.dumps(funnel_of(connection, split.name)),
            "now": datetime.now(UTC),
        },
    )
    connection.execute(
        text("""
            UPDATE pruning SET made_again_at = now()
            WHERE kind = 'manifest' AND name = :digest AND made_again_at IS NULL
        """),
        {"digest": digest},
    )
    return digest
