"""A split and what to hold out (an institution, a collection, a site) -> a manifest whose test is all of it.

Whatever shares a group with it, and whatever nobody can tell the origin of, teaches nothing. Everything else of train
and val stays where it is; the split's own test set stays closed, what is held out too. The rows are those of one
manifest of the split, so the same manifest gives the same ones again, whatever the archive has added since.
Collections alone are not in the manifest: they are those that list an image when the fold is built.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import SPLITS, TASKS, Split, Task
from lesion_tasks.catalog.entries import unknown
from lesion_tasks.catalog.lookup import find_split
from lesion_tasks.catalog.split_recipes import HELD_OUT_BY
from lesion_tasks.database.schema import Manifest
from lesion_tasks.metrics.counted import plural
from lesion_tasks.splits.balance import draw_members
from lesion_tasks.splits.data_report import write_data_report
from lesion_tasks.splits.institution_names import names_none
from lesion_tasks.splits.manifest import (
    as_table,
    find_manifest,
    read_manifest,
    record_manifest,
    refuse_redefined,
)
from lesion_tasks.splits.manifest_checks import check_manifest
from lesion_tasks.splits.split import class_counts
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

log = logging.getLogger(__name__)

# Groups of each class that train must keep, or there is nothing to learn from.
MIN_GROUPS_TO_LEARN = 10


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What never teaches: one value, where it is recorded (a key of `HELD_OUT_BY`), and the whole split's manifest."""

    by: str
    value: str
    manifest_digest: str

    @property
    def words(self) -> str:
        return f"{self.by}: {self.value}"

    def split_name(self, split: str) -> str:
        """The name under which its manifests are kept, unlike any split's."""
        return f"{split}-without-{hashlib.sha256(self.words.encode()).hexdigest()[:10]}"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One value, and how much of a split's train and val it has; `reason` says why it is not held out by itself."""

    value: str
    n_images: int
    n_groups_by_class: Mapping[str, int]
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Every value of a split's train and val, the largest first. `n_unknown`: images of none, which teach nothing."""

    by: str
    found: tuple[Origin, ...]
    n_unknown: int
    n_of_several: int  # images of more than one value

    @property
    def held_out(self) -> list[Origin]:
        return [one for one in self.found if one.reason is None]


def find_origins(workspace: Workspace, manifest_digest: str, by: str) -> Origins:
    """The values that a manifest of a split can be tested on one after the other, and why the others cannot.

    A value is held out by itself if it has at least ten groups of each class, as an interval of an AUC needs, and as
    many are left in train without it. One that is too small teaches in every fold and is tested in none; pooled with
    others it would be no site. Raises `UnusableInputError` if fewer than two can be held out.
    """
    manifest, rows, values = _read(workspace, manifest_digest, by)
    task = TASKS[manifest.task]
    found = []
    is_open = _is_open(rows)
    for value in _known(rows, values):
        is_held = _is_held(rows, values, value)
        groups = rows[is_held].groupby("label")["group_id"].nunique()
        by_class = {label: int(groups.get(label, 0)) for label in task.classes}
        found.append(
            Origin(
                value=value,
                n_images=int(is_held.sum()),
                n_groups_by_class=by_class,
                reason=_why_not(rows, values, is_held, by_class, task),
            )
        )
    found.sort(key=lambda one: (-one.n_images, one.value))
    origins = Origins(
        by=by,
        found=tuple(found),
        n_unknown=int((values[is_open].map(len) == 0).sum()),
        n_of_several=int((values[is_open].map(len) > 1).sum()),
    )
    if len(origins.held_out) < 2:
        told = "; ".join(f"{one.value}: {one.reason or 'can be'}" for one in found[:5]) or "no image has any"
        raise UnusableInputError(
            f"split {manifest.split!r} by {by}: {len(origins.held_out)} of {len(found)} values can be held out, "
            f"expected at least 2 ({told})"
        )
    return origins


def build_held_out(workspace: Workspace, held_out: HeldOut) -> str:
    """Write the manifest of a split whose test set is what is held out; returns its digest, the same every time."""
    manifest, rows, values = _read(workspace, held_out.manifest_digest, held_out.by)
    split, task = find_split(manifest.split), TASKS[manifest.task]
    is_held = _is_held(rows, values, held_out.value)
    if not is_held.any():
        known = _known(rows, values)
        raise UnusableInputError(f"split {split.name!r}: {unknown(held_out.by, held_out.value, known)}")
    steps = _steps(rows, values, is_held)
    part = rows[(steps == "").to_numpy()].copy()
    part["subset"] = part["subset"].where(~is_held[(steps == "").to_numpy()], "test")
    drawn = draw_members(part[["isic_id", "subset", "label"]], split, task)
    table = as_table(part.assign(is_balanced=drawn["is_balanced"]))
    check_manifest(table, split, task, held_out.words)
    with workspace.engine.begin() as connection:
        counts = class_counts(table, task)
        digest = record_manifest(
            connection,
            workspace.bucket,
            split=held_out.split_name(split.name),
            held_out=held_out.words,
            task=task.name,
            recipe=manifest.recipe | {"held_out": {"by": held_out.by, "value": held_out.value}},
            table=table,
            counts=counts,
            funnel=_funnel(steps, counts),
        )
        write_data_report(workspace.bucket, connection, digest, {digest: table})
    for subset, by_label in counts.items():
        words = ", ".join(f"{n:,} {label}" for label, n in by_label.items())
        log.info("%s without %s: %s: %s", split.name, held_out.words, subset, words)
    return digest


def _read(workspace: Workspace, manifest_digest: str, by: str) -> "tuple[Manifest, pd.DataFrame, pd.Series]":
    """A manifest of a split, its rows, and the set of values of each row.

    Raises `UnusableInputError` if something cannot be held out of it, or its split is defined otherwise by now.
    """
    if by not in HELD_OUT_BY:
        raise UnusableInputError(f"hold out by {unknown('part of a record', by, HELD_OUT_BY)}")
    with workspace.engine.connect() as connection:
        manifest = find_manifest(connection, manifest_digest)
        refuse_to_hold_out(find_split(manifest.split))
        refuse_redefined(manifest.recipe, manifest.split)
        rows = read_manifest(workspace.bucket, manifest.object_key)
        values = _values(connection, rows, by)
    return manifest, rows, values


def refuse_to_hold_out(split: Split) -> None:
    """Raise `UnusableInputError` for a split of whose manifest no fair test can be made of what is held out."""
    if split.is_whole:
        return
    others = [name for name, one in SPLITS.items() if one.task == split.task and one.is_whole]
    why = (
        f"its manifest has at most {split.max_per_class:,} train images of a class, so what is held out would not be "
        "all of it, with classes as frequent as in life"
        if split.imputation == "none"
        else "its missing values are filled in from all images, also from those that would be held out"
    )
    raise UnusableInputError(
        f"split {split.name!r}: {why}; expected a variant on {' or '.join(others) or 'a split without either'}"
    )


def _values(connection: Connection, rows: "pd.DataFrame", by: str) -> "pd.Series":
    """The set of values of each row; empty where nothing tells."""
    if by != "collections":
        return rows[by].map(lambda value: frozenset() if names_none(value) else frozenset({value}))
    found = connection.execute(
        text("""
            SELECT l.isic_id, array_agg(DISTINCT trim(one)) AS known
            FROM scope_record l JOIN scope s USING (scope_id), unnest(string_to_array(s.collections, ',')) AS one
            WHERE s.collections <> '' AND l.missing_since IS NULL GROUP BY l.isic_id
        """).execution_options(stream_results=True)
    )
    wanted = set(rows["isic_id"])
    known = {row.isic_id: frozenset(row.known) for row in found if row.isic_id in wanted}
    return rows["isic_id"].map(lambda isic_id: known.get(isic_id, frozenset()))


def _is_open(rows: "pd.DataFrame") -> "np.ndarray":
    """(n,) whether a row may be looked at: the task's own test set is opened by its own evaluations alone."""
    return (rows["subset"] != "test").to_numpy()


def _is_held(rows: "pd.DataFrame", values: "pd.Series", value: str) -> "np.ndarray":
    """(n,) whether a row is held out, and so tested, with this value."""
    return _is_open(rows) & values.map(lambda some: value in some).to_numpy(dtype=bool)


def _known(rows: "pd.DataFrame", values: "pd.Series") -> list[str]:
    return sorted({one for some in values[_is_open(rows)] for one in some})


def _steps(rows: "pd.DataFrame", values: "pd.Series", is_held: Any) -> "pd.Series":
    """Why each row has no place in the fold, as `exclusions.REASONS` has it; an empty text for one that has."""
    import numpy as np
    import pandas as pd

    is_tied = rows["group_id"].isin(rows["group_id"][is_held]).to_numpy()
    is_known = values.map(len).to_numpy() > 0
    reasons = np.select(
        [~_is_open(rows), is_held, is_tied, ~is_known],
        ["kept_closed", "", "tied_to_held_out", "unknown_origin"],
        "",
    )
    return pd.Series(reasons, index=rows.index, dtype=object)


def _why_not(
    rows: "pd.DataFrame", values: "pd.Series", is_held: Any, by_class: Mapping[str, int], task: Task
) -> str | None:
    from lesion_tasks.metrics.binary import MIN_GROUPS

    for label, n in by_class.items():
        if n < MIN_GROUPS:
            return f"{plural(n, 'group')} with {label}, floor {MIN_GROUPS}"
    left = rows[(_steps(rows, values, is_held) == "").to_numpy() & ~is_held]
    for subset, least in (("train", MIN_GROUPS_TO_LEARN), ("val", 1)):
        groups = left[left["subset"] == subset].groupby("label")["group_id"].nunique()
        for label in task.classes:
            if (n := int(groups.get(label, 0))) < least:
                return f"without it {subset} has {plural(n, 'group')} with {label}, floor {least}"
    return None


def _funnel(steps: "pd.Series", counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """From the images of the whole split to the subsets of the fold, as `funnel` has it."""
    lost = steps[steps != ""].value_counts()
    return [
        {"step": "images of the split", "n": len(steps)},
        *({"step": "left out", "reason": str(reason), "n": -int(n)} for reason, n in lost.items()),
        *({"step": subset, "n": sum(counts[subset].values())} for subset in ("train", "val", "test")),
    ]
