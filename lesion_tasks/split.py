"""Curated images -> the members of a split, and one immutable manifest.

Every image of the catalogue gets a row in `split_member`: in a subset with a label, or left out with a reason.
The subset of an identity is a hash, so growth moves nobody; a group whose parts hash to different subsets is
quarantined. Running it again on the same catalogue gives the same digest and changes nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import SPLITS, TASKS, Split, Task
from lesion_tasks.database import copy_rows, database_url, engine_for
from lesion_tasks.grouping import QUARANTINE, SUBSETS, subset_of, unit_interval
from lesion_tasks.manifest import COLUMNS, object_key, write_manifest
from lesion_tasks.store import open_store

if TYPE_CHECKING:
    import pandas as pd

# Below this a subset cannot hold both classes of anything, and a figure on it means nothing.
MIN_IMAGES_PER_CLASS = 1

_IMAGES = """
    SELECT i.isic_id, i.group_id, i.atom_id, i.patient_id, i.lesion_id, i.diagnosis, i.sha256, f.object_key,
           f.perceptual_hash, f.size_bytes, f.width_px, f.height_px, i.image_type, i.image_manipulation, i.sex,
           i.age_years, i.size_mm, i.anatom_site, i.fitzpatrick_skin_type, i.diagnosis_confirm_type,
           i.attribution, i.copyright_license, i.record_version
    FROM image i JOIN stored_file f USING (isic_id, rendition) ORDER BY i.isic_id
"""


def build_split(name: str) -> str:
    """Assign every image under one split recipe and return the manifest's digest."""
    if name not in SPLITS:
        raise UnusableInputError(f"unknown split {name!r}, expected one of {', '.join(sorted(SPLITS))}")
    split = SPLITS[name]
    task = TASKS[split.task]
    recipe = {"split": asdict(split), "task": asdict(task)}
    store = open_store()
    with engine_for(database_url()).begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"split {name}"})
        images = _read_images(connection)
        members = assign_members(images, split, task)
        rows = manifest_rows(images, members)
        counts = class_counts(rows, task)
        _check_counts(name, counts)
        digest = write_manifest(store, name, recipe, rows)
        _store_members(connection, name, members)
        connection.execute(
            text("""
                INSERT INTO manifest (digest, split, task, recipe, object_key, n_images, class_counts, funnel,
                                      created_at, built_at)
                VALUES (:digest, :split, :task, :recipe, :key, :n, :counts, :funnel, :now, :now)
                ON CONFLICT (digest) DO UPDATE SET built_at = excluded.built_at, funnel = excluded.funnel
            """),
            {
                "digest": digest,
                "split": name,
                "task": task.name,
                "recipe": _json(recipe),
                "key": object_key(name, digest),
                "n": len(rows),
                "counts": _json(counts),
                "funnel": _json(_funnel(connection, members)),
                "now": datetime.now(UTC),
            },
        )
    return digest


def _read_images(connection: Connection) -> "pd.DataFrame":
    import pandas as pd

    images = pd.read_sql_query(text(_IMAGES), connection)
    if images.empty:
        raise UnusableInputError(
            "the catalogue holds no curated image, expected some: ingest and curate first"
        )
    # Missing text is None in every column, whatever the driver made of it, so that the digest does not vary.
    for column in images.columns[images.dtypes != "float64"]:
        values = images[column].astype(object)
        images[column] = values.where(values.notna(), None)
    for column in ("size_bytes", "width_px", "height_px", "perceptual_hash", "record_version"):
        images[column] = images[column].astype("int64")
    for column in ("age_years", "size_mm"):
        images[column] = images[column].astype("float64")
    return images


def assign_members(images: "pd.DataFrame", split: Split, task: Task) -> "pd.DataFrame":
    """Judge every image under a recipe.

    Returns the columns isic_id, group_id, group_subset (train, val, test or quarantine), label, reason (None
    for members), is_balanced (val and test: part of the balanced draw; train: True), in the order of `images`.
    """
    import pandas as pd

    label_by_path = {path: task.label_of(path) for path in set(map(tuple, images["diagnosis"]))}
    labels = [label_by_path[tuple(path)] for path in images["diagnosis"]]
    subsets = _group_subsets(images, task)
    reasons = [
        _reason_to_leave_out(task, *row)
        for row in zip(
            images["image_type"],
            images["image_manipulation"],
            images["diagnosis"],
            labels,
            images["sex"],
            subsets,
            strict=True,
        )
    ]
    # Objects, so that what is missing stays None: pandas' own text columns would make it NaN.
    members = images[["isic_id", "group_id"]].assign(
        label=pd.Series(labels, index=images.index, dtype=object),
        group_subset=pd.Series(subsets, index=images.index, dtype=object),
        reason=pd.Series(reasons, index=images.index, dtype=object),
        is_balanced=False,
    )
    draw = [unit_interval(f"{task.salt}:draw", isic_id) for isic_id in members["isic_id"]]
    is_in = members["reason"].isna()
    for subset in SUBSETS:
        eligible = members[is_in & (members["group_subset"] == subset)]
        chosen = _balanced_draw(eligible, draw, split.max_per_class if subset != "test" else None, task)
        if subset == "train" and split.max_per_class is not None:
            members.loc[eligible.index.difference(chosen), "reason"] = "beyond_balance"
        members.loc[eligible.index if subset == "train" else chosen, "is_balanced"] = True
    return members


def _group_subsets(images: "pd.DataFrame", task: Task) -> list[str]:
    """The subset of each image's group: the one that all its atoms hash to, else quarantine."""
    subset_by_atom = {
        atom: subset_of(atom, salt=task.salt, val_share=task.val_share, test_share=task.test_share)
        for atom in images["atom_id"].unique()
    }
    subset_by_group: dict[str, str] = {}
    for group, atom in zip(images["group_id"], images["atom_id"], strict=True):
        subset = subset_by_atom[atom]
        if subset_by_group.setdefault(group, subset) != subset:
            subset_by_group[group] = QUARANTINE
    return [subset_by_group[group] for group in images["group_id"]]


def _reason_to_leave_out(
    task: Task,
    image_type: str | None,
    manipulation: str | None,
    diagnosis: Sequence[str],
    label: str | None,
    sex: str | None,
    subset: str,
) -> str | None:
    if image_type not in task.image_types:
        return "image_type"
    if manipulation in task.excluded_manipulations:
        return "image_manipulation"
    if label is None:
        return _reason_without_label(diagnosis)
    if task.requires_sex and sex not in {"female", "male"}:
        return "no_sex"
    return "quarantined" if subset == QUARANTINE else None


def _reason_without_label(diagnosis: Sequence[str]) -> str:
    if not diagnosis:
        return "no_diagnosis"
    return "indeterminate" if diagnosis[0] == "Indeterminate" else "diagnosis_not_in_task"


def _balanced_draw(eligible: "pd.DataFrame", draw: Sequence[float], at_most: int | None, task: Task) -> Any:
    """The index of as many images of each class as the rarest one has, at most `at_most`, by lowest hash."""
    import pandas as pd

    by_class = [eligible.index[eligible["label"] == label] for label in task.classes]
    n = min(len(index) for index in by_class)
    n = n if at_most is None else min(n, at_most)
    chosen = [sorted(index, key=lambda i: draw[i])[:n] for index in by_class]
    return pd.Index([i for part in chosen for i in part], dtype=eligible.index.dtype)


def manifest_rows(images: "pd.DataFrame", members: "pd.DataFrame") -> "pd.DataFrame":
    """The members with everything a training or an evaluation may look at, sorted by image id."""
    is_in = members["reason"].isna()
    rows = images[is_in].copy()
    rows["subset"] = members.loc[is_in, "group_subset"]
    rows["label"] = members.loc[is_in, "label"]
    rows["is_balanced"] = members.loc[is_in, "is_balanced"]
    return rows.sort_values("isic_id")[list(COLUMNS)].reset_index(drop=True)


def class_counts(rows: "pd.DataFrame", task: Task) -> dict[str, dict[str, int]]:
    """Images by subset and class; `test_balanced` and `val_balanced` are draws from test and val."""
    counts = {}
    for subset in SUBSETS:
        inside = rows[rows["subset"] == subset]
        counts[subset] = {label: int((inside["label"] == label).sum()) for label in task.classes}
        if subset != "train":
            drawn = inside[inside["is_balanced"]]
            counts[f"{subset}_balanced"] = {
                label: int((drawn["label"] == label).sum()) for label in task.classes
            }
    return counts


def _check_counts(name: str, counts: dict[str, dict[str, int]]) -> None:
    for subset in SUBSETS:
        if short := [label for label, n in counts[subset].items() if n < MIN_IMAGES_PER_CLASS]:
            found = ", ".join(f"{n:,} {label}" for label, n in counts[subset].items())
            raise UnusableInputError(
                f"split {name!r}: subset {subset} has {found}, expected some of {', '.join(short)}"
            )


def _store_members(connection: Connection, name: str, members: "pd.DataFrame") -> None:
    parameters = {"split": name}
    connection.execute(text("DELETE FROM split_member WHERE split = :split"), parameters)
    connection.execute(text("DELETE FROM group_subset WHERE split = :split"), parameters)
    groups = members[["group_id", "group_subset"]].drop_duplicates()
    copy_rows(
        connection,
        "group_subset",
        ("split", "group_id", "subset"),
        ((name, *row) for row in groups.itertuples(index=False, name=None)),
    )
    copy_rows(
        connection,
        "split_member",
        ("split", "isic_id", "group_id", "subset", "label", "reason"),
        (
            (name, isic_id, group, subset, label, None)
            if reason is None
            else (name, isic_id, None, None, None, reason)
            for isic_id, group, subset, label, reason in zip(
                members["isic_id"],
                members["group_id"],
                members["group_subset"],
                members["label"],
                members["reason"],
                strict=True,
            )
        ),
    )


def _funnel(connection: Connection, members: "pd.DataFrame") -> list[dict[str, Any]]:
    """From records to members: each step with what it left out and why, in the order of the path."""
    n_records = connection.execute(text("SELECT count(*) FROM record")).scalar_one()
    rejects = connection.execute(
        text("SELECT reason, count(*) FROM reject GROUP BY reason ORDER BY count(*) DESC, reason")
    ).all()
    left_out = Counter(reason for reason in members["reason"] if reason is not None)
    by_subset = Counter(
        subset
        for subset, reason in zip(members["group_subset"], members["reason"], strict=True)
        if reason is None
    )
    return [
        {"step": "records", "n": int(n_records)},
        *({"step": "rejected", "reason": reason, "n": -int(n)} for reason, n in rejects),
        {"step": "images", "n": len(members)},
        *({"step": "left out", "reason": reason, "n": -n} for reason, n in left_out.most_common()),
        *({"step": subset, "n": by_subset[subset]} for subset in SUBSETS),
    ]


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
