"""A champion and a day -> the images that arrived since its training data, by month, and those to compare them with.

What counts is when an image arrived, that is, when its record was first read, and not when it was taken. Images of
people, lesions or pictures that the training data hold are left out. They are compared with the champion's own test
set, the only part of its data that it has not learned from, and which the same hash drew from the same archive. An
archive also sends images that no manifest takes, most of them without a label: all others of before that the hash would
have put into test stand for them. Both sides are drawn by the same rules, or nothing but the rules would differ.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import TASKS, Task
from lesion_tasks.catalog.lookup import find_task, question_of
from lesion_tasks.catalog.tasks import assignment_of
from lesion_tasks.database.bulk import copy_out
from lesion_tasks.database.schema import Manifest, Training
from lesion_tasks.evaluation.cohort_overlap import counted, find_overlaps
from lesion_tasks.evaluation.decisions import champion_of, tasks_with_champion
from lesion_tasks.metrics.cohort_document import Overlap
from lesion_tasks.splits.exclusions import RULES, Facts
from lesion_tasks.splits.manifest import find_manifest, read_manifest
from lesion_tasks.splits.subset_or_quarantine import subset_of, unit_interval
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

# Images that are looked at, in whole groups: of each month of arrival, and of those to compare with.
MAX_OF_MONTH = 2_048
MAX_OF_REFERENCE = 4_096
_SALT = "watched"
# An image that fails one of these is not of the task's kind, whether or not it has a label so far.
_UNLIKE = ("image_type", "image_manipulation", "no_sex")
# What is asked of every image of the database is little; the rest is read of those that are drawn.
_FACTS = """
    i.isic_id, i.group_id, i.atom_id, i.image_type, i.image_manipulation, i.sex,
    to_json(i.diagnosis)::text AS diagnosis, to_char(r.first_seen_at AT TIME ZONE 'UTC', 'YYYY-MM') AS month,
    EXISTS (SELECT FROM correction d WHERE d.task = '{task}' AND d.isic_id = i.isic_id
            AND d.decision = 'label_set_aside' AND d.withdrawn_at IS NULL) AS is_doubted
"""
_DETAILS = text("""
    SELECT i.isic_id, i.patient_id, i.lesion_id, i.sha256, f.object_key, i.age_years, i.size_mm, i.anatom_site,
           i.fitzpatrick_skin_type, i.diagnosis_confirm_type, i.attribution
    FROM image i JOIN stored_file f USING (isic_id, rendition) WHERE i.isic_id = ANY(:ids)
""")
# Images of cohorts are on neither side: no manifest of a split holds them, and they may have judged the champion.
NEW = """
    SELECT {columns} FROM image i JOIN record r USING (isic_id)
    WHERE r.first_seen_at > '{since}' AND r.first_seen_at < '{until}' AND r.withdrawn_at IS NULL AND {no_cohort}
    ORDER BY i.isic_id COLLATE "C"
"""
BEFORE = """
    SELECT {columns} FROM image i JOIN record r USING (isic_id)
    WHERE r.first_seen_at <= '{since}' AND r.withdrawn_at IS NULL AND {no_cohort} AND NOT EXISTS (
        SELECT FROM placement p
        WHERE p.assignment = '{assignment}' AND p.isic_id = i.isic_id AND p.subset <> 'test')
    ORDER BY i.isic_id COLLATE "C"
"""
_NO_COHORT = "NOT EXISTS (SELECT FROM cohort_image c WHERE c.task = '{task}' AND c.isic_id = i.isic_id)"


class NothingToWatchError(UnusableInputError):
    """A task has no champion, or nothing can have arrived since its data were made."""


@dataclass(frozen=True, kw_only=True)
class WatchedChampion:
    """A champion, what it learned from, and until when something new is looked for."""

    training: Training
    manifest: Manifest
    task: Task
    until: date

    @property
    def since(self) -> datetime:
        """Its training data were made then."""
        return self.manifest.created_at

    @property
    def placing(self) -> dict[str, Any]:
        """The salt and shares by which its data were divided."""
        recipe = self.manifest.recipe.get("task", {})
        return {
            name: recipe.get(name, getattr(self.task, name)) for name in ("salt", "val_share", "test_share")
        }

    @property
    def watch_id(self) -> str:
        return f"{self.training.training_id}-until-{self.until.isoformat()}"


@dataclass(frozen=True, kw_only=True, eq=False)
class WatchedImages:
    """The images to look at, with metadata, label (None: none so far) and month of arrival, and what was left out.

    `reference`: those to compare with. `by_month`: new ones, by month such as 2026-10, oldest first, without months of
    which all are left out. `n_by_month`: how many of the task's kind arrived in each.
    """

    reference: "pd.DataFrame"
    by_month: "Mapping[str, pd.DataFrame]"
    n_by_month: Mapping[str, int]
    n_unlike: Mapping[str, int] = field(default_factory=dict)
    overlaps: list[Overlap] = field(default_factory=list)
    n_not_drawn: int = 0


def find_watched(connection: Connection, task: str, until: date) -> WatchedChampion:
    """The champion of a task.

    Raises `NothingToWatchError`, `ChangedQuestionError` if the task asks something else by now, and
    `UnusableInputError` if its data are no longer there.
    """
    find_task(task)
    champion = champion_of(connection, task)
    if champion is None:
        others = ", ".join(tasks_with_champion(connection))
        raise NothingToWatchError(
            f"task {task!r} has no champion yet, expected one to watch: promote a model first"
            f"{f', or name a task that has one: {others}' if others else ''}"
        )
    training = champion.training
    question_of(training.training_id, task, training.classes)
    manifest = find_manifest(connection, training.manifest_digest)
    if until <= manifest.created_at.astimezone(UTC).date():
        raise NothingToWatchError(
            f"until {until}: expected a day after {manifest.created_at.date()}, when the data of "
            f"{training.training_id} were made"
        )
    return WatchedChampion(
        training=training,
        manifest=manifest,
        task=TASKS[task],
        until=until,
    )


def find_images(workspace: Workspace, watched: WatchedChampion) -> WatchedImages:
    """List what is to be looked at; the same data give the same list."""
    import pandas as pd

    own = read_manifest(workspace.bucket, watched.manifest.object_key)
    with workspace.engine.connect() as connection:
        before, _ = _judged(_read(connection, BEFORE, watched), watched.task)
        arrived, n_unlike = _judged(_read(connection, NEW, watched), watched.task)
        reference = _with_details(connection, _drawn(_reference(before, own, watched), MAX_OF_REFERENCE))
        n_by_month = {str(month): len(rows) for month, rows in arrived.groupby("month", sort=True)}
        drawn = [_drawn(rows, MAX_OF_MONTH) for _, rows in arrived.groupby("month", sort=True)]
        new = _with_details(connection, pd.concat(drawn, ignore_index=True) if drawn else arrived)
        # Of a group on both sides the two samples would not be independent.
        rest = reference[~reference["isic_id"].isin(own["isic_id"])].assign(subset="test")
        overlaps = find_overlaps(connection, new, pd.concat([own, rest], ignore_index=True))
    kept = new[~new["isic_id"].isin([one.isic_id for one in overlaps])]
    return WatchedImages(
        reference=reference,
        by_month={
            str(month): rows.reset_index(drop=True) for month, rows in kept.groupby("month", sort=True)
        },
        n_by_month=n_by_month,
        n_unlike=n_unlike,
        overlaps=counted(overlaps),
        n_not_drawn=len(arrived) - len(new),
    )


def _read(connection: Connection, query: str, watched: WatchedChampion) -> "pd.DataFrame":
    asked = filled(
        query,
        task=watched.task.name,
        assignment=assignment_of(watched.task.name, **watched.placing),
        since=watched.since.isoformat(),
        until=datetime.combine(watched.until, time(), UTC).isoformat(),
    )
    rows = copy_out(connection, asked).to_pandas()
    return rows.assign(is_doubted=rows["is_doubted"] == "t")


def filled(query: str, **words: str) -> str:
    """NEW or BEFORE with its task, assignment, since and until."""
    quoted = {name: word.replace("'", "''") for name, word in words.items()}
    task = quoted["task"]
    return query.format(columns=_FACTS.format(task=task), no_cohort=_NO_COHORT.format(task=task), **quoted)


def _with_details(connection: Connection, rows: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    found = connection.execute(_DETAILS, {"ids": rows["isic_id"].tolist()})
    details = pd.DataFrame(found.all(), columns=list(found.keys()), dtype=object).set_index("isic_id")
    numbers = {name: pd.to_numeric(details[name]).astype(float) for name in ("age_years", "size_mm")}
    return rows.join(details.assign(**numbers), on="isic_id")


def _judged(rows: "pd.DataFrame", task: Task) -> "tuple[pd.DataFrame, dict[str, int]]":
    """The images of the task's kind, each with its label or None; and of the others how many, by why they are not."""
    import json

    import pandas as pd

    known: dict[Any, tuple[str | None, str | None]] = {}
    labels, reasons = [], []
    columns = [
        rows[name].astype(object).where(rows[name].notna(), None)
        for name in ("image_type", "image_manipulation", "diagnosis", "sex")
    ]
    for key in zip(*columns, strict=True):
        if key not in known:
            image_type, manipulation, diagnosis, sex = key
            path = tuple(json.loads(diagnosis))
            facts = Facts(image_type=image_type, image_manipulation=manipulation, diagnosis=path, sex=sex)
            unlike = (name for name, fails in RULES if name in _UNLIKE and fails(task, facts))
            known[key] = task.label_of(path), next(unlike, None)
        label, reason = known[key]
        labels.append(label)
        reasons.append(reason)
    told = rows.assign(
        label=pd.Series(labels, index=rows.index, dtype=object).where(~rows["is_doubted"], None)
    )
    is_unlike = pd.Series(reasons, index=rows.index, dtype=object).notna()
    return told[~is_unlike].reset_index(drop=True), dict(Counter(reason for reason in reasons if reason))


def _reference(before: "pd.DataFrame", own: "pd.DataFrame", watched: WatchedChampion) -> "pd.DataFrame":
    """The champion's test set, and without a label whatever else of before the hash would have put there."""
    import pandas as pd

    by_id = own[own["subset"] == "test"].set_index("isic_id")["label"]
    in_test = before[before["isic_id"].isin(by_id.index)]
    in_test = in_test.assign(label=in_test["isic_id"].map(by_id))
    # What was labelled since would be on the new side with or without its label.
    rest = before[~before["isic_id"].isin(own["isic_id"])].assign(label=None)
    rest = rest[~rest["group_id"].isin(own["group_id"][own["subset"] != "test"])]
    is_there = [subset_of(atom, **watched.placing) == "test" for atom in rest["atom_id"]]
    return pd.concat([in_test, rest[is_there]], ignore_index=True)


def position_of(key: str) -> float:
    """Where a group or an image stands among those to look at, 0 to 1."""
    return unit_interval(_SALT, key)


def _drawn(rows: "pd.DataFrame", n_most: int) -> "pd.DataFrame":
    """Whole groups in the order of a hash, as many as fit; at least one. Sorted by that order and by image id."""
    positions = rows["group_id"].map({one: position_of(one) for one in rows["group_id"].unique()})
    ordered = rows.assign(position=positions).sort_values(["position", "isic_id"], kind="stable")
    ends = ordered.groupby("position", sort=True).size().cumsum()
    fitting = ends[ends <= n_most]
    n_kept = int(fitting.iloc[-1]) if len(fitting) else (int(ends.iloc[0]) if len(ends) else 0)
    return ordered.drop(columns="position").iloc[:n_kept].reset_index(drop=True)


def one_of_each_group(rows: "pd.DataFrame") -> "pd.DataFrame":
    """One image of each group, drawn by the hash of its id: the unit of every comparison."""
    positions = rows["isic_id"].map(position_of)
    ordered = rows.assign(position=positions).sort_values("position", kind="stable")
    return (
        ordered.drop_duplicates("group_id")
        .drop(columns="position")
        .sort_values("isic_id")
        .reset_index(drop=True)
    )
