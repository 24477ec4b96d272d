"""Curated images -> the members of a split, and one immutable manifest.

Every image of the catalogue gets a row in `split_member`: in a subset with a label, or left out with a reason.
Only images that changed since the split was last built, and those of their groups, are judged again. The subset of
an identity is a hash, so growth moves nobody; a group whose parts belong to different subsets is quarantined.
Running it again on the same catalogue gives the same digest and changes nothing.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import SPLITS, TASKS, Split, Task
from lesion_tasks.data_report import write_data_report
from lesion_tasks.database import copy_rows, database_url, engine_for
from lesion_tasks.grouping import SUBSETS, group_subsets, unit_interval
from lesion_tasks.manifest import COLUMNS, arrow_schema, object_key, write_manifest
from lesion_tasks.manifest_checks import check_manifest
from lesion_tasks.rules import REASONS, Facts, reason_of_subset, reason_to_leave_out
from lesion_tasks.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

RULES_VERSION = 1  # raise it whenever the rules of this module or of `rules` change


def build_split(name: str) -> str:
    """Assign every image under one split recipe and return the manifest's digest.

    Raises `UnusableInputError` before anything is written when the images cannot make this split, or when a check
    of the manifest fails.
    """
    if name not in SPLITS:
        raise UnusableInputError(f"unknown split {name!r}, expected one of {', '.join(sorted(SPLITS))}")
    split = SPLITS[name]
    task = TASKS[split.task]
    store = open_store()
    with engine_for(database_url()).begin() as connection:
        _lock(connection, task)
        _judge_changes(connection, split, task)
        _draw_balance(connection, split, task)
        table = _impute(_read_members(connection, name), split)
        check_manifest(table, split, task)
        digest = _store_manifest(connection, store, split, task, table)
        write_data_report(store, connection, digest, table)
    return digest


def _lock(connection: Connection, task: Task) -> None:
    """Wait until nobody curates and nobody else draws for this task; refuse a catalogue that is half curated."""
    connection.execute(text("SELECT pg_advisory_xact_lock_shared(hashtext('curate'))"))
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:draw))"), {"draw": f"draw {task.draw}"})
    n_images, n_ungrouped = connection.execute(
        text("SELECT (SELECT count(*) FROM (SELECT FROM image LIMIT 1) i), (SELECT count(*) FROM ungrouped)")
    ).one()
    if not n_images:
        raise UnusableInputError(
            "the catalogue holds no curated image, expected some: ingest and curate first"
        )
    if n_ungrouped:
        raise UnusableInputError(
            f"{n_ungrouped:,} images wait for their group, expected none: curation did not finish, run it again"
        )


# --- Judging: what an image says of itself -----------------------------------------------------------------------

_FACTS = """
    SELECT i.isic_id, i.group_id, i.atom_id, i.image_type, i.image_manipulation,
           to_json(i.diagnosis)::text AS diagnosis, i.sex, p.subset AS placed
    FROM image i LEFT JOIN placement p ON p.draw = '{draw}' AND p.isic_id = i.isic_id
    {where} ORDER BY i.isic_id
"""
# Whole groups: what a group gains or loses is news for all its members.
_OF_CHANGED_GROUPS = "WHERE i.group_id IN (SELECT group_id FROM image WHERE curated_in > {since})"


def _judge_changes(connection: Connection, split: Split, task: Task) -> None:
    """Bring `group_subset`, `split_member` and `placement` up to date, but for the balanced draw."""
    recipe_digest = hashlib.sha256(
        json.dumps([asdict(split), asdict(task), RULES_VERSION], sort_keys=True).encode()
    ).hexdigest()
    since = connection.execute(
        text("SELECT curated_in FROM split_state WHERE split = :split AND recipe_digest = :digest"),
        {"split": split.name, "digest": recipe_digest},
    ).scalar_one_or_none()
    where = "" if since is None else _OF_CHANGED_GROUPS.format(since=int(since))
    draw = task.draw.replace("'", "''")
    facts = _copy_out(connection, _FACTS.format(draw=draw, where=where)).to_pandas()
    members = judge_images(facts, task)
    _forget_members(connection, split.name, facts["isic_id"] if since is not None else None, since)
    _store_members(connection, split.name, members)
    _store_placements(connection, task, members)
    connection.execute(
        text("""
            INSERT INTO split_state (split, recipe_digest, curated_in)
            SELECT :split, :digest, greatest((SELECT max(curated_in) FROM image),
                                             (SELECT max(curated_in) FROM reject), 0)
            ON CONFLICT (split) DO UPDATE SET recipe_digest = excluded.recipe_digest, curated_in = excluded.curated_in
        """),
        {"split": split.name, "digest": recipe_digest},
    )


def judge_images(facts: "pd.DataFrame", task: Task) -> "pd.DataFrame":
    """Judge images, in whole groups: facts -> isic_id, group_id, group_subset, label, reason (None for members).

    `facts` has the columns isic_id, group_id, atom_id, image_type, image_manipulation, diagnosis (a list, or JSON of
    one), sex, and perhaps placed: the subset an image has stood in before, None where it never has.
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
    subsets = group_subsets(
        facts["group_id"].tolist(),
        facts["atom_id"].tolist(),
        _objects(facts["placed"]) if "placed" in facts else [None] * len(facts),
        salt=task.salt,
        val_share=task.val_share,
        test_share=task.test_share,
    )

    # Objects, so that what is missing stays None: pandas' own text columns would make it NaN.
    def column(values: list[Any]) -> "pd.Series":
        return pd.Series(values, index=facts.index, dtype=object)

    return pd.DataFrame(
        {
            "isic_id": facts["isic_id"],
            "group_id": facts["group_id"],
            "group_subset": column(subsets),
            "label": column([judged[key][0] for key in keys]),
            "reason": column(
                [judged[key][1] or reason_of_subset(s) for key, s in zip(keys, subsets, strict=True)]
            ),
        }
    )


def _judge(
    task: Task, image_type: str | None, manipulation: str | None, diagnosis: Any, sex: str | None
) -> tuple[str | None, str | None]:
    path = tuple(json.loads(diagnosis) if isinstance(diagnosis, str) else diagnosis)
    facts = Facts(image_type=image_type, image_manipulation=manipulation, diagnosis=path, sex=sex)
    return task.label_of(path), reason_to_leave_out(task, facts)


def _forget_members(
    connection: Connection, split: str, isic_ids: "pd.Series | None", since: int | None
) -> None:
    """Delete the rows of images that are judged again or are images no longer; None: all of the split."""
    if isic_ids is None:
        connection.execute(text("DELETE FROM split_member WHERE split = :split"), {"split": split})
        connection.execute(text("DELETE FROM group_subset WHERE split = :split"), {"split": split})
        return
    connection.execute(text("CREATE TEMP TABLE forgotten (isic_id text) ON COMMIT DROP"))
    copy_rows(connection, "forgotten", ("isic_id",), ((isic_id,) for isic_id in isic_ids))
    connection.execute(
        text("INSERT INTO forgotten SELECT isic_id FROM reject WHERE curated_in > :since"), {"since": since}
    )
    connection.execute(
        text("""
            CREATE TEMP TABLE emptied ON COMMIT DROP AS
            SELECT DISTINCT m.group_id FROM split_member m JOIN forgotten USING (isic_id)
            WHERE m.split = :split AND m.group_id IS NOT NULL
        """),
        {"split": split},
    )
    connection.execute(
        text("DELETE FROM split_member m USING forgotten f WHERE m.split = :split AND m.isic_id = f.isic_id"),
        {"split": split},
    )
    # Their groups were judged whole, so no member is left in any of them.
    connection.execute(
        text("DELETE FROM group_subset g USING emptied e WHERE g.split = :split AND g.group_id = e.group_id"),
        {"split": split},
    )


def _store_members(connection: Connection, split: str, members: "pd.DataFrame") -> None:
    # Only groups that have a say in this split; the key refuses a group in two subsets.
    is_of_group = members["reason"].isna() | (members["reason"] == "quarantined")
    groups = members.loc[is_of_group, ["group_id", "group_subset"]].drop_duplicates()
    copy_rows(
        connection,
        "group_subset",
        ("split", "group_id", "subset"),
        ((split, *row) for row in groups.itertuples(index=False, name=None)),
    )
    copy_rows(
        connection,
        "split_member",
        ("split", "isic_id", "group_id", "subset", "label", "reason"),
        (
            (split, isic_id, group, subset, label, None)
            if reason is None
            else (split, isic_id, group if reason == "quarantined" else None, None, None, reason)
            for isic_id, group, subset, label, reason in members.itertuples(index=False, name=None)
        ),
    )


def _store_placements(connection: Connection, task: Task, members: "pd.DataFrame") -> None:
    """Remember where images stand that had no place before."""
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
            INSERT INTO placement (draw, isic_id, subset) SELECT :draw, isic_id, subset FROM placed
            ON CONFLICT DO NOTHING
        """),
        {"draw": task.draw},
    )


# --- The balanced draw: which members a subset keeps when classes shall be equal ------------------------------------


def balanced_draw(
    isic_ids: Sequence[str], labels: Sequence[str], at_most: int | None, task: Task
) -> list[bool]:
    """Tell which images are drawn: as many of each class as the rarest one has, at most `at_most`, by lowest hash.

    A smaller draw is a part of a larger one, and an image that is in stays in as images come, unless the draw is
    full and one with a lower hash takes its place.
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
    """Draw from the eligible images of all subsets: isic_id, subset, label -> the same and is_balanced, is_member."""
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
        parts.append(part.assign(is_balanced=drawn, is_member=drawn if is_capped else True))
    return pd.concat(parts)


_ELIGIBLE = """
    SELECT isic_id, coalesce(subset, 'train') AS subset, label, is_balanced, reason IS NULL AS is_member, group_id
    FROM split_member
    WHERE split = '{split}' AND label IS NOT NULL ORDER BY isic_id
"""


def _draw_balance(connection: Connection, split: Split, task: Task) -> None:
    """Take the balanced draw anew and write down what it changed."""
    before = _copy_out(connection, _ELIGIBLE.format(split=split.name)).to_pandas()
    for flag in ("is_balanced", "is_member"):
        before[flag] = before[flag] == "t"
    after = draw_members(before[["isic_id", "subset", "label"]], split, task)
    both = before.merge(
        after[["isic_id", "is_balanced", "is_member"]], on="isic_id", suffixes=("_before", "")
    )
    is_changed = (both["is_balanced"] != both["is_balanced_before"]) | (
        both["is_member"] != both["is_member_before"]
    )
    connection.execute(
        text("""
            CREATE TEMP TABLE drawn (isic_id text PRIMARY KEY, is_balanced boolean, is_member boolean) ON COMMIT DROP
        """)
    )
    copy_rows(
        connection,
        "drawn",
        ("isic_id", "is_balanced", "is_member"),
        both.loc[is_changed, ["isic_id", "is_balanced", "is_member"]].itertuples(index=False, name=None),
    )
    # Whoever is left out keeps label and group: a later draw may take it in.
    connection.execute(
        text("""
            UPDATE split_member m SET is_balanced = d.is_balanced,
                subset = CASE WHEN d.is_member THEN coalesce(m.subset, 'train') END,
                reason = CASE WHEN NOT d.is_member THEN 'beyond_balance' END
            FROM drawn d WHERE m.split = :split AND m.isic_id = d.isic_id
        """),
        {"split": split.name},
    )


# --- The manifest -------------------------------------------------------------------------------------------------

_MEMBERS = """
    SELECT {columns} FROM split_member m
    JOIN image i USING (isic_id) JOIN stored_file f USING (isic_id, rendition)
    WHERE m.split = '{split}' AND m.reason IS NULL ORDER BY m.isic_id COLLATE "C"
"""
_OF_MEMBER = ("isic_id", "subset", "label", "is_balanced")
_OF_FILE = ("object_key", "size_bytes", "width_px", "height_px")


def _read_members(connection: Connection, split: str) -> "pa.Table":
    def column(name: str) -> str:
        source = "m" if name in _OF_MEMBER else "f" if name in _OF_FILE else "i"
        return (
            f"coalesce(i.perceptual_hash, 0) AS {name}" if name == "perceptual_hash" else f"{source}.{name}"
        )

    query = _MEMBERS.format(columns=", ".join(column(name) for name in COLUMNS), split=split)
    return _copy_out(connection, query, arrow_schema())


def _copy_out(connection: Connection, query: str, schema: "pa.Schema | None" = None) -> "pa.Table":
    """Run a query by COPY: every column as text, or as the schema says. Far less memory than rows of objects."""
    import pyarrow as pa
    import pyarrow.csv as csv

    buffer = io.BytesIO()
    cursor = connection.connection.cursor()
    cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)", buffer)
    cursor.close()
    buffer.seek(0)
    names = schema.names if schema is not None else buffer.readline().decode().strip().split(",")
    buffer.seek(0)
    types = dict(zip(names, schema.types if schema is not None else [pa.string()] * len(names), strict=True))
    return csv.read_csv(
        buffer,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=types,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
        ),
    )


def _objects(values: "pd.Series") -> list[Any]:
    """A column as a list in which what is missing is None."""
    known = values.astype(object)
    return list(known.where(known.notna(), None))


def _impute(table: "pa.Table", split: Split) -> "pa.Table":
    """Fill in missing numbers as the recipe says; the paper's way looks at test images too, and is marked so."""
    import pyarrow.compute as pc

    if split.imputation == "none":
        return table
    for name in ("age_years", "size_mm"):
        mean = pc.mean(table[name])
        if mean.is_valid:
            table = table.set_column(
                table.schema.get_field_index(name), name, pc.fill_null(table[name], mean)
            )
    return table


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


def _store_manifest(connection: Connection, store: Store, split: Split, task: Task, table: "pa.Table") -> str:
    recipe = {"split": asdict(split), "task": asdict(task), "rules_version": RULES_VERSION}
    digest = write_manifest(store, split.name, recipe, table)
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
            "counts": json.dumps(class_counts(table, task)),
            "funnel": json.dumps(_funnel(connection, split.name)),
            "now": datetime.now(UTC),
        },
    )
    return digest


def _funnel(connection: Connection, split: str) -> list[dict[str, Any]]:
    """From records to members: each step with what it left out and why, in the order of the path."""

    def counted(query: str) -> list[tuple[str, int]]:
        rows = [(str(word), int(n)) for word, n in connection.execute(text(query), {"split": split})]
        order = list(REASONS)
        return sorted(rows, key=lambda row: (order.index(row[0]) if row[0] in order else len(order), row[0]))

    n_records = connection.execute(text("SELECT count(*) FROM record")).scalar_one()
    rejects = counted("SELECT reason, count(*) FROM reject GROUP BY reason")
    left_out = counted(
        "SELECT reason, count(*) FROM split_member WHERE split = :split AND reason IS NOT NULL GROUP BY reason"
    )
    members = dict(
        counted(
            "SELECT subset, count(*) FROM split_member WHERE split = :split AND reason IS NULL GROUP BY subset"
        )
    )
    n_images = sum(n for _, n in left_out) + sum(members.values())
    return [
        {"step": "records", "n": int(n_records)},
        *({"step": "rejected", "reason": reason, "n": -n} for reason, n in rejects),
        {"step": "images", "n": n_images},
        *({"step": "left out", "reason": reason, "n": -n} for reason, n in left_out),
        *({"step": subset, "n": members.get(subset, 0)} for subset in SUBSETS),
    ]
