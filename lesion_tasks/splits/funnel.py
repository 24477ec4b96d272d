"""A split's members and rejects -> the steps from records to subsets, each with what it left out and why."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.archive.printable import printable
from lesion_tasks.catalog import Task
from lesion_tasks.catalog.entries import did_you_mean
from lesion_tasks.metrics.counted import plural
from lesion_tasks.splits.exclusions import REASONS
from lesion_tasks.splits.subset_or_quarantine import SUBSETS


def funnel_of(connection: Connection, split: str) -> list[dict[str, Any]]:
    """The steps in order. Each has step and n (negative: left out), and a reason if images were left out."""
    n_records = connection.execute(text("SELECT count(*) FROM record")).scalar_one()
    rejects = connection.execute(text("SELECT reason, count(*) AS n FROM reject GROUP BY reason")).all()
    return [
        {"step": "records", "n": n_records},
        *_losses("rejected", {row.reason: row.n for row in rejects}),
        *funnel_of_members(connection, split, SUBSETS),
    ]


def funnel_of_members(connection: Connection, split: str, subsets: Sequence[str]) -> list[dict[str, Any]]:
    """The steps from images to subsets."""
    members = connection.execute(
        text(
            "SELECT reason, subset, count(*) AS n FROM split_member WHERE split = :split GROUP BY reason, subset"
        ),
        {"split": split},
    ).all()
    inside = {row.subset: row.n for row in members if row.reason is None}
    left_out = {row.reason: row.n for row in members if row.reason is not None}
    return [
        {"step": "images", "n": sum(row.n for row in members)},
        *_losses("left out", left_out),
        *({"step": subset, "n": inside.get(subset, 0)} for subset in subsets),
    ]


def _losses(step: str, n_by_reason: dict[str, int]) -> list[dict[str, Any]]:
    order = list(REASONS)
    known = sorted(n_by_reason, key=lambda word: (order.index(word) if word in order else len(order), word))
    return [{"step": step, "reason": reason, "n": -n_by_reason[reason]} for reason in known]


N_LOOKED_AT = 1_000  # left-out images of each reason whose values are read
N_VALUES_NAMED = 3

# The value that an image was left out for, as its record has it: what curation could not read, it holds as missing.
_FOUND = {
    "image_type": "v.document #>> '{metadata,acquisition,image_type}'",
    "image_manipulation": "v.document #>> '{metadata,acquisition,image_manipulation}'",
    "no_diagnosis": "v.document #>> '{metadata,clinical,diagnosis_1}'",
    "indeterminate": "array_to_string(i.diagnosis, ' > ')",
    "diagnosis_not_in_task": "array_to_string(i.diagnosis, ' > ')",
    "no_sex": "v.document #>> '{metadata,clinical,sex}'",
    "set_aside": """(SELECT string_agg(DISTINCT c.cohort, ', ') FROM cohort_image c JOIN split_state s USING (task)
        WHERE s.split = m.split AND c.isic_id = m.isic_id)""",
    "quarantined": "m.group_id",
}
_EACH = {"set_aside"}  # reasons of which every value is named: each cohort


def left_out_in_words(connection: Connection, split: str) -> Iterator[str]:
    """Yield one line for each reason for which images are left out of a split: how many, and the values found."""
    statement = text("SELECT reason, count(*) AS n FROM split_member WHERE split = :split GROUP BY reason")
    n_by_reason = {row.reason: row.n for row in connection.execute(statement, {"split": split}) if row.reason}
    for reason, n in sorted(n_by_reason.items(), key=lambda item: -item[1]):
        words = f"{n:,} left out, {reason}: {REASONS[reason].rstrip('.')}"
        if reason in _FOUND:
            words += f"; found {_values_found(connection, split, reason)}"
            words += f" in the first {N_LOOKED_AT:,}" if n > N_LOOKED_AT and reason not in _EACH else ""
        yield words


def _values_found(connection: Connection, split: str, reason: str) -> str:
    statement = text(f"""
        SELECT value, count(*) AS n FROM (
            SELECT {_FOUND[reason]} AS value
            FROM split_member m JOIN image i USING (isic_id)
            JOIN record_version v ON v.isic_id = m.isic_id AND v.version = i.record_version
            WHERE m.split = :split AND m.reason = :reason ORDER BY m.isic_id LIMIT :n_looked_at
        ) AS looked_at GROUP BY value ORDER BY n DESC, value LIMIT :n_named
    """)  # noqa: S608 - our own expressions
    rows = connection.execute(
        statement,
        {
            "split": split,
            "reason": reason,
            "n_looked_at": None if reason in _EACH else N_LOOKED_AT,
            "n_named": None if reason in _EACH else N_VALUES_NAMED,
        },
    )
    return ", ".join(
        f"{printable(repr(row.value), 200) if row.value else 'no value'} {plural(row.n, 'time')}"
        for row in rows
    )


def unmatched_rules(connection: Connection, task: Task) -> Iterator[str]:
    """Yield one line for each rule that no image's diagnosis begins with, and the diagnosis that it resembles."""
    known = [
        tuple(path) for path in connection.execute(text("SELECT DISTINCT diagnosis FROM image")).scalars()
    ]
    for rule in task.rules:
        depth = len(rule.path)
        beginnings = {" > ".join(path[:depth]) for path in known if len(path) >= depth}
        if (wanted := " > ".join(rule.path)) not in beginnings:
            # Nobody who writes of malignant lesions means benign ones, however alike the rest is spelt.
            is_misspelt = all(path[:1] != rule.path[:1] for path in known)
            alike = {one for one in beginnings if is_misspelt or one.split(" > ")[0] == rule.path[0]}
            meant = did_you_mean(wanted, alike)
            yield f"no image's diagnosis begins with the rule of {rule.label!r}, {wanted}{meant}"
