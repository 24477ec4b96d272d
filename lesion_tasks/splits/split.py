"""Curated images -> the members of a split, and one immutable manifest.

Every image of the database gets a row in `split_member`: in a subset with a label, or left out with a reason.
Only images that changed since the split was last built, and those of their groups, are judged again. The subset of
an identity is a hash, so growth moves no one; a group whose parts belong to different subsets is quarantined.
Running it again on the same images gives the same digest and changes nothing.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import TASKS, Split, Task, own_entries
from lesion_tasks.catalog.cohorts import conditions_of
from lesion_tasks.catalog.lookup import find_split
from lesion_tasks.curation.corrections import digest_in_force
from lesion_tasks.curation.findings import large_identities
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.metrics.known_identities import find_unknown, note_of
from lesion_tasks.splits.balance import draw_balance
from lesion_tasks.splits.cohort_images import gather_cohorts
from lesion_tasks.splits.data_report import write_data_report
from lesion_tasks.splits.funnel import funnel_of, left_out_in_words, unmatched_rules
from lesion_tasks.splits.known_by_subset import known_by_subset
from lesion_tasks.splits.manifest import record_manifest
from lesion_tasks.splits.manifest_checks import check_manifest, small_subsets
from lesion_tasks.splits.manifest_rows import manifest_rows, rows_before
from lesion_tasks.splits.members import MEMBERSHIP_VERSION, judge_changes
from lesion_tasks.splits.subset_or_quarantine import SUBSETS
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


def build_split(workspace: Workspace, name: str, *, told: set[str] | None = None) -> str:
    """Assign every image under one split recipe and return the manifest's digest.

    `told`: names of cohorts without an image that the log has named already, for whoever builds several splits.
    Raises `UnusableInputError` before anything is written if the images cannot make this split, or if a check of the
    manifest fails.
    """
    split = find_split(name)
    task = TASKS[split.task]
    bucket = workspace.bucket
    with workspace.engine.begin() as connection:
        lock_images(connection, task)
        gather_cohorts(connection, task, told=set() if told is None else told)
        has_news = judge_changes(connection, split, task)
        draw_balance(connection, split, task)
        before = rows_before(connection, bucket, split) if has_news else {}
        table = manifest_rows(connection, split, before)
        left_out = list(left_out_in_words(connection, split.name))
        try:
            check_manifest(table, split, task)
        except UnusableInputError as error:
            unmatched = unmatched_rules(connection, task)
            raise UnusableInputError("; ".join([str(error), *unmatched, *left_out])) from error
        doubts = large_identities(connection)
        # A built-in task is made for every archive; a rule of one's own that finds nothing may be misspelt.
        if own_entries.is_own("task", task.name):
            doubts = [*doubts, *unmatched_rules(connection, task)]
        known = known_by_subset(table)
        doubts = [*doubts, *small_subsets(table, task, known)]
        counts = class_counts(table, task)
        recipe = {"split": asdict(split), "task": asdict(task), "rules_version": MEMBERSHIP_VERSION}
        digest = record_manifest(
            connection,
            bucket,
            split=split.name,
            task=task.name,
            # A recipe without cohorts or corrections is as it always was.
            recipe=recipe
            | ({"cohorts": cohorts} if (cohorts := conditions_of(task.name)) else {})
            | (
                {"corrections": corrections}
                if (corrections := digest_in_force(connection, task.name, split.name))
                else {}
            ),
            table=table,
            counts=counts,
            funnel=funnel_of(connection, split.name),
        )
        write_data_report(bucket, connection, digest, {**before, digest: table})
    _say(split, counts)
    for words in left_out:
        log.info("%s: %s", split.name, words)
    if (note := note_of(known)) is not None:
        log.log(logging.WARNING if find_unknown(known) else logging.INFO, "%s: %s", split.name, note)
    for words in doubts:
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


def lock_images(connection: Connection, task: Task) -> None:
    """Wait until no curation runs and no other split is drawn for this task; refuse half-curated images."""
    lock_until_commit(connection, Lock.CURATION, is_shared=True)
    lock_until_commit(connection, Lock.ASSIGNMENT, task.assignment)
    n_images, n_ungrouped = connection.execute(
        text("SELECT (SELECT count(*) FROM (SELECT FROM image LIMIT 1) i), (SELECT count(*) FROM ungrouped)")
    ).one()
    if not n_images:
        raise UnusableInputError(
            "the database holds no curated image, expected some: ingest and curate first"
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
