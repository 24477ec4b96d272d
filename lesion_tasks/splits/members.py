"""Curated images -> the place of each in a split: in a subset with a label, or left out with a reason.

Only images that changed since the split was last built are judged again, in whole groups: what a group gains or loses
concerns all its members. Images that are judged again, or are gone, are listed in the temporary table `news`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks.catalog import Split, Task
from lesion_tasks.database.bulk import copy_dicts, copy_out, copy_rows
from lesion_tasks.splits.balance import drawn_subsets
from lesion_tasks.splits.exclusions import Facts, reason_of_subset, reason_to_leave_out
from lesion_tasks.splits.subset_or_quarantine import QUARANTINE, group_subsets

if TYPE_CHECKING:
    import pandas as pd

MEMBERSHIP_VERSION = 1  # raise it whenever the rules of this module, of `balance` or of `exclusions` change

_FACTS = """
    SELECT i.isic_id, i.group_id, i.atom_id, i.image_type, i.image_manipulation,
           to_json(i.diagnosis)::text AS diagnosis, i.sex, p.subset AS placed,
           EXISTS (SELECT FROM cohort_image c WHERE c.task = '{task}' AND c.isic_id = i.isic_id) AS is_set_aside,
           EXISTS (SELECT FROM correction d WHERE d.task = '{task}' AND d.isic_id = i.isic_id
                   AND d.decision = 'label_set_aside' AND d.withdrawn_at IS NULL) AS is_doubted
    FROM image i LEFT JOIN placement p ON p.assignment = '{assignment}' AND p.isic_id = i.isic_id
    {where} ORDER BY i.isic_id
"""
# Images that changed, and those that a cohort has taken from the split or given back since it was last built.
_OF_CHANGED_GROUPS = """
    WHERE i.group_id IN (
        SELECT group_id FROM image WHERE curated_in > {since}
        UNION SELECT own.group_id FROM split_member m JOIN image own USING (isic_id)
        WHERE m.split = '{split}' AND m.reason = 'set_aside' AND (m.group_id IS NOT NULL OR NOT EXISTS (
            SELECT FROM cohort_image c WHERE c.task = '{task}' AND c.isic_id = m.isic_id)))
"""


def judge_changes(connection: Connection, split: Split, task: Task) -> bool:
    """Bring `group_subset`, `split_member` and `placement` up to date, except for the balanced draw.

    Returns whether members of an earlier build were kept; if so, `news` has the ids of all others.
    """
    recipe_digest = hashlib.sha256(
        json.dumps([asdict(split), asdict(task), MEMBERSHIP_VERSION], sort_keys=True).encode()
    ).hexdigest()
    since = connection.execute(
        text("SELECT curated_in FROM split_state WHERE split = :split AND recipe_digest = :digest"),
        {"split": split.name, "digest": recipe_digest},
    ).scalar_one_or_none()
    assignment, task_name, name = (
        words.replace("'", "''") for words in (task.assignment, task.name, split.name)
    )
    where = "" if since is None else _OF_CHANGED_GROUPS.format(since=int(since), split=name, task=task_name)
    query = _FACTS.format(assignment=assignment, task=task_name, where=where)
    facts = copy_out(connection, query).to_pandas()
    for name in ("is_set_aside", "is_doubted"):
        facts[name] = facts[name] == "t"
    connection.execute(text("CREATE TEMP TABLE news (isic_id text PRIMARY KEY) ON COMMIT DROP"))
    if since is None:
        _forget_all(connection, split.name)
    else:
        _forget_news(connection, split.name, facts["isic_id"], since)
    # Before the members: a trigger asks whose cohorts they must not hold.
    connection.execute(
        text("""
            INSERT INTO split_state (split, task, recipe_digest, curated_in)
            SELECT :split, :task, :digest, greatest((SELECT max(curated_in) FROM image),
                                                    (SELECT max(curated_in) FROM reject), 0)
            ON CONFLICT (split) DO UPDATE SET task = excluded.task, recipe_digest = excluded.recipe_digest,
                curated_in = excluded.curated_in
        """),
        {"split": split.name, "task": task.name, "digest": recipe_digest},
    )
    members = judge_images(facts, task)
    _store_members(connection, split, members)
    _store_placements(connection, task, members)
    return since is not None


def judge_images(facts: "pd.DataFrame", task: Task) -> "pd.DataFrame":
    """Judge images, in whole groups: facts -> isic_id, group_id, group_subset, label, reason (None for members).

    `facts` has the columns isic_id, group_id, atom_id, image_type, image_manipulation, diagnosis (a list, or JSON of
    one), sex, and optionally placed: the subset that an image was in before, None if it never was in one;
    is_set_aside: whether a cohort has it; and is_doubted: whether a person set its label aside. Images of a cohort have
    no say in where the others of their group stand.
    """
    import pandas as pd

    columns = [_objects(facts[c]) for c in ("image_type", "image_manipulation", "diagnosis", "sex")]
    judged: dict[Any, tuple[str | None, str | None]] = {}
    keys = []
    for image_type, manipulation, diagnosis, sex in zip(*columns, strict=True):
        key = (image_type, manipulation, diagnosis if isinstance(diagnosis, str) else tuple(diagnosis), sex)
        if key not in judged:
            judged[key] = _judge(task, *key)
        keys.append(key)
    is_aside, is_doubted = (
        facts[name].tolist() if name in facts else [False] * len(facts)
        for name in ("is_set_aside", "is_doubted")
    )
    subsets = [QUARANTINE] * len(facts)
    voting = [row for row, aside in enumerate(is_aside) if not aside]
    found = group_subsets(
        facts["group_id"].iloc[voting].tolist(),
        facts["atom_id"].iloc[voting].tolist(),
        _objects(facts["placed"].iloc[voting]) if "placed" in facts else [None] * len(voting),
        salt=task.salt,
        val_share=task.val_share,
        test_share=task.test_share,
    )
    for row, subset in zip(voting, found, strict=True):
        subsets[row] = subset

    # Objects, so that missing values stay None: pandas' own text columns would make them NaN.
    def column(values: list[Any]) -> "pd.Series":
        return pd.Series(values, index=facts.index, dtype=object)

    return pd.DataFrame(
        {
            "isic_id": facts["isic_id"],
            "group_id": facts["group_id"],
            "group_subset": column(subsets),
            "label": column([judged[key][0] for key in keys]),
            "reason": column(
                [
                    ("set_aside" if aside else judged[key][1])
                    or ("label_set_aside" if doubted else reason_of_subset(subset))
                    for key, aside, doubted, subset in zip(keys, is_aside, is_doubted, subsets, strict=True)
                ]
            ),
        }
    )


def _judge(
    task: Task, image_type: str | None, manipulation: str | None, diagnosis: Any, sex: str | None
) -> tuple[str | None, str | None]:
    path = tuple(json.loads(diagnosis) if isinstance(diagnosis, str) else diagnosis)
    facts = Facts(image_type=image_type, image_manipulation=manipulation, diagnosis=path, sex=sex)
    return task.label_of(path), reason_to_leave_out(task, facts)


def _objects(values: "pd.Series") -> list[Any]:
    """A column as a list in which missing values are None."""
    known = values.astype(object)
    return list(known.where(known.notna(), None))


def _forget_all(connection: Connection, split: str) -> None:
    connection.execute(text("DELETE FROM split_member WHERE split = :split"), {"split": split})
    connection.execute(text("DELETE FROM group_subset WHERE split = :split"), {"split": split})


def _forget_news(connection: Connection, split: str, isic_ids: "pd.Series", since: int) -> None:
    """Note images that are judged again or no longer exist, and delete their rows."""
    copy_rows(connection, "news", ("isic_id",), ((isic_id,) for isic_id in isic_ids))
    connection.execute(
        text("INSERT INTO news SELECT isic_id FROM reject WHERE curated_in > :since ON CONFLICT DO NOTHING"),
        {"since": since},
    )
    connection.execute(
        text("ANALYZE news")
    )  # one day's ids: without this the planner expects a thousand times as many
    connection.execute(
        text("""
            CREATE TEMP TABLE emptied ON COMMIT DROP AS
            SELECT DISTINCT m.group_id FROM split_member m JOIN news USING (isic_id)
            WHERE m.split = :split AND m.group_id IS NOT NULL
        """),
        {"split": split},
    )
    connection.execute(text("ANALYZE emptied"))
    connection.execute(
        text("DELETE FROM split_member m USING news n WHERE m.split = :split AND m.isic_id = n.isic_id"),
        {"split": split},
    )
    # Their groups are judged whole, so no member is left in any of them.
    connection.execute(
        text("DELETE FROM group_subset g USING emptied e WHERE g.split = :split AND g.group_id = e.group_id"),
        {"split": split},
    )


def _store_members(connection: Connection, split: Split, members: "pd.DataFrame") -> None:
    drawn = drawn_subsets(split)
    # Only groups that matter in this split; the key refuses a group in two subsets.
    is_of_group = members["reason"].isna() | (members["reason"] == "quarantined")
    groups = members.loc[is_of_group, ["group_id", "group_subset"]].drop_duplicates()
    copy_rows(
        connection,
        "group_subset",
        ("split", "group_id", "subset"),
        ((split.name, *row) for row in groups.itertuples(index=False, name=None)),
    )
    copy_dicts(
        connection,
        "split_member",
        (_member(split, row, drawn) for row in members.itertuples(index=False)),
    )


def _member(split: Split, row: Any, drawn: Sequence[str]) -> dict[str, Any]:
    """The row of one judged image: in, or left out with a reason; of those left out, only quarantined keep a group."""
    is_in = row.reason is None
    return {
        "split": split.name,
        "isic_id": row.isic_id,
        "group_id": row.group_id if is_in or row.reason == "quarantined" else None,
        "subset": row.group_subset if is_in else None,
        "label": row.label if is_in else None,
        "reason": row.reason,
        "is_balanced": is_in and row.group_subset not in drawn,
    }


def _store_placements(connection: Connection, task: Task, members: "pd.DataFrame") -> None:
    """Store the subsets of images that had none before."""
    placed = members[members["reason"].isna()]
    connection.execute(text("CREATE TEMP TABLE placed (isic_id text, subset text) ON COMMIT DROP"))
    copy_rows(
        connection,
        "placed",
        ("isic_id", "subset"),
        placed[["isic_id", "group_subset"]].itertuples(index=False, name=None),
    )
    connection.execute(
        text("""
            INSERT INTO placement (assignment, isic_id, subset) SELECT :assignment, isic_id, subset FROM placed
            ON CONFLICT DO NOTHING
        """),
        {"assignment": task.assignment},
    )
