"""A cohort -> its manifest for a task: every image that can be judged, as test, and why the others cannot."""

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import TASKS, Split, Task
from lesion_tasks.catalog.lookup import find_cohort
from lesion_tasks.database.bulk import copy_dicts, copy_rows
from lesion_tasks.splits.cohort_images import gather_cohorts, why_none
from lesion_tasks.splits.exclusions import Facts, reason_to_leave_out
from lesion_tasks.splits.funnel import funnel_of_members, left_out_in_words
from lesion_tasks.splits.manifest import record_manifest
from lesion_tasks.splits.manifest_checks import check_rows
from lesion_tasks.splits.manifest_rows import manifest_rows
from lesion_tasks.splits.members import MEMBERSHIP_VERSION
from lesion_tasks.splits.split import lock_images
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


class NoImageToJudgeError(UnusableInputError):
    """A cohort of which no image can be judged by the rules of a task."""


_FACTS = text("""
    SELECT i.isic_id, i.group_id, i.image_type, i.image_manipulation, i.diagnosis, i.sex,
           EXISTS (SELECT FROM correction d WHERE d.task = c.task AND d.isic_id = i.isic_id
                   AND d.decision = 'label_set_aside' AND d.withdrawn_at IS NULL) AS is_doubted
    FROM cohort_image c JOIN image i USING (isic_id)
    WHERE c.task = :task AND c.cohort = :cohort ORDER BY i.isic_id
""")


def build_cohort(workspace: Workspace, name: str, task: str) -> str:
    """Judge every image of a cohort by the rules of a task and return the digest of its manifest.

    Running it again on the same images gives the same digest. Raises `NoImageToJudgeError` for a cohort of which
    no image can be judged, and `UnusableInputError` for one that is not declared or whose query cannot be read.
    """
    cohort = find_cohort(name, task)
    asked = cohort.task_for(TASKS[task])
    split = Split(name=cohort.split_name(task), task=task)
    with workspace.engine.begin() as connection:
        lock_images(connection, asked)
        gather_cohorts(connection, asked)
        _judge(connection, split, asked, name)
        table = manifest_rows(connection, split, {})
        left_out = list(left_out_in_words(connection, split.name))
        if not len(table):
            why = left_out or [f"no curated image belongs to it{why_none(connection, cohort)}"]
            if cohort.image_types is None and _is_of_another_kind(connection, split):
                why.append(
                    "image_types in its entry of the catalogue says which kinds of pictures it judges on"
                )
            raise NoImageToJudgeError("; ".join([f"cohort {name!r}: no image can be judged", *why]))
        if objection := check_rows(table.to_pandas(), asked):
            raise UnusableInputError(f"cohort {name!r}: {objection}")
        counts = _class_counts(table, asked)
        digest = record_manifest(
            connection,
            workspace.bucket,
            split=split.name,
            task=task,
            cohort=name,
            recipe={"cohort": asdict(cohort), "task": asdict(asked), "rules_version": MEMBERSHIP_VERSION},
            table=table,
            counts={"test": counts},
            funnel=funnel_of_members(connection, split.name, ("test",)),
        )
    log.info("cohort %s: %s", name, ", ".join(f"{n:,} {label}" for label, n in counts.items()))
    for words in left_out:
        log.info("cohort %s: %s", name, words)
    return digest


def _is_of_another_kind(connection: Connection, split: Split) -> bool:
    """Whether images are left out for their image type."""
    statement = text(
        "SELECT EXISTS (SELECT FROM split_member WHERE split = :split AND reason = 'image_type')"
    )
    return bool(connection.execute(statement, {"split": split.name}).scalar_one())


def _judge(connection: Connection, split: Split, task: Task, cohort: str) -> None:
    """Write the members of a cohort anew, as a split that has nothing but a test set."""
    values = {"split": split.name}
    connection.execute(text("DELETE FROM split_member WHERE split = :split"), values)
    connection.execute(text("DELETE FROM group_subset WHERE split = :split"), values)
    connection.execute(
        text("""
            INSERT INTO split_state (split, task, recipe_digest, curated_in) VALUES (:split, :task, '', 0)
            ON CONFLICT (split) DO NOTHING
        """),
        {**values, "task": task.name},
    )
    judged = []
    for row in connection.execute(_FACTS, {"task": task.name, "cohort": cohort}):
        facts = Facts(
            image_type=row.image_type,
            image_manipulation=row.image_manipulation,
            diagnosis=tuple(row.diagnosis),
            sex=row.sex,
        )
        reason = reason_to_leave_out(task, facts) or ("label_set_aside" if row.is_doubted else None)
        is_in = reason is None
        judged.append(
            {
                "split": split.name,
                "isic_id": row.isic_id,
                "group_id": row.group_id if is_in else None,
                "subset": "test" if is_in else None,
                "label": task.label_of(facts.diagnosis) if is_in else None,
                "reason": reason,
            }
        )
    groups = sorted({one["group_id"] for one in judged if one["group_id"] is not None})
    copy_rows(
        connection,
        "group_subset",
        ("split", "group_id", "subset"),
        ((split.name, group_id, "test") for group_id in groups),
    )
    copy_dicts(connection, "split_member", judged)


def _class_counts(table: "pa.Table", task: Task) -> dict[str, int]:
    counted = table.group_by("label").aggregate([([], "count_all")]).to_pylist()
    by_label = {row["label"]: int(row["count_all"]) for row in counted}
    return {label: by_label.get(label, 0) for label in task.classes}
