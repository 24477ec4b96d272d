"""The members of a split -> those that a subset keeps when classes are to be equal, by lowest hash."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Connection, text

from lesion_tasks.catalog import Split, Task
from lesion_tasks.database.bulk import copy_out, copy_rows
from lesion_tasks.splits.subset_or_quarantine import SUBSETS, unit_interval

if TYPE_CHECKING:
    import pandas as pd


def drawn_subsets(split: Split) -> tuple[str, ...]:
    """The subsets that get a balanced draw: val and test, and train if the recipe limits it."""
    return SUBSETS if split.max_per_class is not None else ("val", "test")


def balanced_draw(
    isic_ids: Sequence[str], labels: Sequence[str], at_most: int | None, task: Task
) -> list[bool]:
    """Tell which images are drawn: as many of each class as the rarest one has, at most `at_most`, by lowest hash.

    A smaller draw is part of a larger one, and a drawn image stays in as images arrive, unless the draw is full and
    one with a lower hash takes its place.
    """
    rows_by_label: dict[str, list[int]] = {label: [] for label in task.classes}
    for row, label in enumerate(labels):
        rows_by_label[label].append(row)
    n = min(len(rows) for rows in rows_by_label.values())
    n = n if at_most is None else min(n, at_most)
    is_drawn = [False] * len(labels)
    for rows in rows_by_label.values():
        for row in sorted(rows, key=lambda r: unit_interval(f"{task.salt}:draw", isic_ids[r]))[:n]:
            is_drawn[row] = True
    return is_drawn


def draw_members(members: "pd.DataFrame", split: Split, task: Task) -> "pd.DataFrame":
    """Draw from the eligible images of all subsets: isic_id, subset, label -> plus is_balanced and is_member."""
    import pandas as pd

    parts = []
    for subset in SUBSETS:
        part = members[members["subset"] == subset]
        is_capped = split.max_per_class is not None and subset == "train"
        if subset == "train" and not is_capped:
            drawn = [True] * len(part)
        else:
            at_most = None if subset == "test" else split.max_per_class
            drawn = balanced_draw(part["isic_id"].tolist(), part["label"].tolist(), at_most, task)
        is_drawn = np.array(drawn, dtype=bool)
        parts.append(part.assign(is_balanced=is_drawn, is_member=is_drawn if is_capped else True))
    return pd.concat(parts)


_ELIGIBLE = """
    SELECT isic_id, coalesce(subset, 'train') AS subset, label, is_balanced, reason IS NULL AS is_member
    FROM split_member
    WHERE split = '{split}' AND label IS NOT NULL AND coalesce(subset, 'train') IN ({subsets}) ORDER BY isic_id
"""


def draw_balance(connection: Connection, split: Split, task: Task) -> None:
    """Take the balanced draw again and store what it changed; images whose place changed are added to `news`."""
    subsets = ", ".join(f"'{subset}'" for subset in drawn_subsets(split))
    before = copy_out(connection, _ELIGIBLE.format(split=split.name, subsets=subsets)).to_pandas()
    for flag in ("is_balanced", "is_member"):
        before[flag] = before[flag] == "t"
    after = draw_members(before[["isic_id", "subset", "label"]], split, task).sort_index()
    is_changed = (after["is_balanced"] != before["is_balanced"]) | (after["is_member"] != before["is_member"])
    connection.execute(
        text("""
            CREATE TEMP TABLE drawn (isic_id text PRIMARY KEY, is_balanced boolean, is_member boolean) ON COMMIT DROP
        """)
    )
    copy_rows(
        connection,
        "drawn",
        ("isic_id", "is_balanced", "is_member"),
        after.loc[is_changed, ["isic_id", "is_balanced", "is_member"]].itertuples(index=False, name=None),
    )
    connection.execute(text("ANALYZE drawn"))
    # Images that are left out keep label and group: a later draw may take them in.
    connection.execute(
        text("""
            UPDATE split_member m SET is_balanced = d.is_balanced,
                subset = CASE WHEN d.is_member THEN coalesce(m.subset, 'train') END,
                reason = CASE WHEN NOT d.is_member THEN 'beyond_balance' END
            FROM drawn d WHERE m.split = :split AND m.isic_id = d.isic_id
        """),
        {"split": split.name},
    )
    connection.execute(text("INSERT INTO news SELECT isic_id FROM drawn ON CONFLICT DO NOTHING"))
