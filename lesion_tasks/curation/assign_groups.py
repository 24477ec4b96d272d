"""Images that arrived, changed or left -> `image.group_id` of them and whatever they touch, and of no others.

Everything that can split or join a group is noted in `ungrouped` by the transaction that did it. Here the pictures of
new images are compared, the groups that any of this can touch are computed from their members' links, and the notes
are deleted. The result is the same as computing all groups from all images at once.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks.bucket import Bucket
from lesion_tasks.curation.copies import compare_pictures, copies_among
from lesion_tasks.curation.corrections import joined_pairs
from lesion_tasks.curation.grouping import groups_of
from lesion_tasks.database.bulk import copy_rows

if TYPE_CHECKING:
    import numpy as np

# Changes are numbered, so that a split can query those it has not seen.
NEXT_NUMBER = text("""
    SELECT 1 + greatest((SELECT max(curated_in) FROM image), (SELECT max(curated_in) FROM reject), 0)
""")

# Everything that a change can touch: the groups that changed images were in, and those that they, their identities,
# bytes, copies or a person's decision lead to now. No other group gains or loses a link. A day's images are few, but
# the planner cannot know how few images share an identity with them: `OFFSET 0` makes it look each one up instead of
# reading the whole table.
_TOUCHED = """
    WITH fresh AS (
        SELECT i.isic_id, i.atom_id, i.lesion_id, i.sha256, i.group_id FROM image i JOIN ungrouped USING (isic_id)
    ), alike AS (
        SELECT sha256 FROM fresh
        UNION SELECT other_sha256 FROM picture_pair WHERE is_copy AND sha256 IN (SELECT sha256 FROM fresh)
        UNION SELECT sha256 FROM picture_pair WHERE is_copy AND other_sha256 IN (SELECT sha256 FROM fresh)
    ), joined AS (
        SELECT other_isic_id AS isic_id FROM correction JOIN fresh USING (isic_id)
        WHERE decision = 'lesions_joined' AND withdrawn_at IS NULL
        UNION SELECT c.isic_id FROM correction c JOIN fresh f ON c.other_isic_id = f.isic_id
        WHERE c.decision = 'lesions_joined' AND c.withdrawn_at IS NULL
    ), linked AS (
        SELECT old_group_id AS group_id FROM ungrouped WHERE old_group_id IS NOT NULL
        UNION SELECT group_id FROM fresh
        UNION SELECT i.group_id FROM (SELECT DISTINCT atom_id FROM fresh) f
            CROSS JOIN LATERAL (SELECT group_id FROM image WHERE atom_id = f.atom_id OFFSET 0) i
        UNION SELECT i.group_id FROM (SELECT DISTINCT lesion_id FROM fresh) f
            CROSS JOIN LATERAL (SELECT group_id FROM image WHERE lesion_id = f.lesion_id OFFSET 0) i
        UNION SELECT i.group_id FROM alike f
            CROSS JOIN LATERAL (SELECT group_id FROM image WHERE sha256 = f.sha256 OFFSET 0) i
        UNION SELECT i.group_id FROM joined f
            CROSS JOIN LATERAL (SELECT group_id FROM image WHERE isic_id = f.isic_id OFFSET 0) i
    )
    SELECT i.* FROM linked CROSS JOIN LATERAL (
        SELECT isic_id, atom_id, lesion_id, sha256, group_id FROM image WHERE group_id = linked.group_id OFFSET 0
    ) i ORDER BY i.isic_id
"""
_ALL = "SELECT isic_id, atom_id, lesion_id, sha256, group_id FROM image ORDER BY isic_id"
_FEW = 0.1  # share of images up to which it pays to look up which others they touch


def regroup(connection: Connection, bucket: Bucket, compared: Collection[str] = ()) -> dict[str, int]:
    """Compare new pictures, then compute every group that a change can touch; returns counts.

    `compared` are image ids that are noted, and whose pictures were compared before.
    """
    import numpy as np

    fresh = set(connection.execute(text("SELECT isic_id FROM ungrouped")).scalars())
    if not fresh:
        return {"compared": 0, "regrouped": 0}
    new = fresh.difference(compared)
    n_compared = compare_pictures(connection, bucket, new) if new else 0
    n_images = connection.execute(text("SELECT count(*) FROM image")).scalar_one()
    rows = connection.execute(text(_TOUCHED if len(fresh) < _FEW * n_images else _ALL)).all()
    number = {row.sha256: i for i, row in enumerate(rows)}
    groups = groups_of(
        atoms=[row.atom_id for row in rows],
        lesions=[row.lesion_id for row in rows],
        sha256s=[row.sha256 for row in rows],
        copies=np.concatenate([copies_among(connection, number), _joined_among(connection, rows)])
        if rows
        else np.empty((0, 2), dtype=np.int64),
    )
    connection.execute(text("CREATE TEMP TABLE regrouped (isic_id text, group_id text) ON COMMIT DROP"))
    # If a group gained or lost a member, all its members count as changed, even if its name stays the same. Images that
    # changed themselves were numbered when they did.
    n_rows = copy_rows(
        connection,
        "regrouped",
        ("isic_id", "group_id"),
        (
            (row.isic_id, group)
            for row, group in zip(rows, groups, strict=True)
            if row.group_id != group or row.isic_id not in fresh
        ),
    )
    connection.execute(
        text("""
            UPDATE image i SET group_id = m.group_id, curated_in = :number FROM regrouped m
            WHERE m.isic_id = i.isic_id
        """),
        {"number": int(connection.execute(NEXT_NUMBER).scalar_one())},
    )
    connection.execute(text("DELETE FROM ungrouped"))
    return {"compared": n_compared, "regrouped": n_rows}


def _joined_among(connection: Connection, rows: Sequence[Any]) -> "np.ndarray":
    """Pairs of the rows that a person found to show one lesion, as row numbers: (m, 2) int64."""
    import numpy as np

    number = {row.isic_id: i for i, row in enumerate(rows)}
    pairs = [
        (number[one], number[other])
        for one, other in joined_pairs(connection)
        if one in number and other in number
    ]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
