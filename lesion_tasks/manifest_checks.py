"""The rows of a manifest -> nothing, or an error that names the first promise they break, before anything trains."""

from typing import TYPE_CHECKING

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import Split, Task
from lesion_tasks.grouping import SUBSETS

if TYPE_CHECKING:
    import pyarrow as pa

# Below this a subset cannot hold every class, and a figure on it means nothing.
MIN_IMAGES_PER_CLASS = 1
# Classes of groups fall into subsets by chance. A subset whose share of a class is this many standard errors off
# was not drawn by chance: the hash, the grouping or the labels are broken.
MAX_STANDARD_ERRORS = 8.0
MIN_DIFFERENCE = 0.03  # quarantine takes more from small subsets than from large ones; that is no fault


def check_manifest(table: "pa.Table", split: Split, task: Task) -> None:
    """Raise `UnusableInputError` unless the rows keep every promise of a manifest."""
    for check in (_check_values, _check_identities, _check_classes, _check_balance, _check_shares):
        if objection := check(table, split, task):
            raise UnusableInputError(f"split {split.name!r}: {objection}")


def _check_values(table: "pa.Table", split: Split, task: Task) -> str | None:
    """Every column of the right kind, in its range."""
    import pyarrow.compute as pc

    if pc.count_distinct(table["isic_id"]).as_py() != len(table):
        return (
            f"{len(table):,} rows have {pc.count_distinct(table['isic_id']).as_py():,} ids, expected one each"
        )
    for name, allowed in (
        ("subset", set(SUBSETS)),
        ("label", set(task.classes)),
        ("image_type", set(task.image_types)),
        ("sex", {"female", "male"} if task.requires_sex else {"female", "male", None}),
    ):
        if unknown := set(pc.unique(table[name]).to_pylist()) - allowed:
            return f"{name} is {', '.join(map(repr, sorted(unknown, key=str)))}, expected {sorted(allowed, key=str)}"
    for name, low, high in (
        ("age_years", 0, 120), ("size_mm", 0, 1_000), ("width_px", 1, 1e6), ("height_px", 1, 1e6),
        ("size_bytes", 1, 1e12), ("record_version", 1, 1e9),
    ):  # fmt: skip
        bounds = pc.min_max(table[name]).as_py()
        if bounds["min"] is not None and not low <= bounds["min"] <= bounds["max"] <= high:
            return f"{name} ranges from {bounds['min']:g} to {bounds['max']:g}, expected {low:g} to {high:g}"
    for name in ("object_key", "group_id", "sha256"):
        if table[name].null_count:
            return f"{table[name].null_count:,} rows have no {name}, expected one each"
    is_digest = pc.match_substring_regex(table["sha256"], "^[0-9a-f]{64}$")
    if not pc.all(is_digest, min_count=0).as_py():
        return "a sha256 is no digest, expected 64 hexadecimal digits"
    return None


def _check_identities(table: "pa.Table", split: Split, task: Task) -> str | None:
    """One group, lesion, patient or file in one subset; one lesion with one patient."""
    import pyarrow.compute as pc

    for name, other in (
        ("group_id", "subset"), ("patient_id", "subset"), ("lesion_id", "subset"), ("sha256", "subset"),
        ("lesion_id", "patient_id"),
    ):  # fmt: skip
        known = table.filter(pc.is_valid(table[name])).select([name, other])
        pairs = known.group_by([name, other]).aggregate([])
        n_twice = len(pairs) - pc.count_distinct(pairs[name]).as_py()
        if n_twice:
            return f"{n_twice:,} times one {name} has two values of {other}, expected one"
    return None


def _check_classes(table: "pa.Table", split: Split, task: Task) -> str | None:
    """Every class in every subset."""
    import pyarrow.compute as pc

    for subset in SUBSETS:
        labels = table.filter(pc.equal(table["subset"], subset))["label"]
        counts = {row["values"]: row["counts"] for row in pc.value_counts(labels).to_pylist()}
        if short := [label for label in task.classes if counts.get(label, 0) < MIN_IMAGES_PER_CLASS]:
            found = ", ".join(f"{counts.get(label, 0):,} {label}" for label in task.classes)
            return f"subset {subset} has {found}, expected some of {', '.join(short)}"
    return None


def _check_balance(table: "pa.Table", split: Split, task: Task) -> str | None:
    """Balanced draws hold as many of each class."""
    import pyarrow.compute as pc

    for subset in SUBSETS if split.max_per_class is not None else ("val", "test"):
        is_drawn = pc.and_(pc.equal(table["subset"], subset), table["is_balanced"])
        counts = {
            row["values"]: row["counts"]
            for row in pc.value_counts(table.filter(is_drawn)["label"]).to_pylist()
        }
        if len({counts.get(label, 0) for label in task.classes}) != 1:
            return f"the balanced draw of {subset} has {counts}, expected as many of each class"
    return None


def _check_shares(table: "pa.Table", split: Split, task: Task) -> str | None:
    """Val and test hold their share of each class, within chance of groups."""
    for label, subset, share, expected, error in subset_shares(table, split, task):
        if abs(share - expected) > max(MAX_STANDARD_ERRORS * error, MIN_DIFFERENCE):
            return (
                f"{subset} holds {share:.1%} of the groups with {label}, expected {expected:.1%} "
                f"within {MAX_STANDARD_ERRORS:g} standard errors of {error:.1%}"
            )
    return None


def subset_shares(table: "pa.Table", split: Split, task: Task) -> list[tuple[str, str, float, float, float]]:
    """How the groups of each class fall into subsets: class, subset, share, expected share, its standard error.

    Balanced train sets leave images out, so there the shares are those between val and test.
    """
    groups = (
        table.select(["group_id", "subset", "label"]).group_by(["group_id", "subset", "label"]).aggregate([])
    )
    counts = {
        (row["label"], row["subset"]): int(row["count_all"])
        for row in groups.group_by(["label", "subset"]).aggregate([([], "count_all")]).to_pylist()
    }
    expected = {"test": task.test_share, "val": task.val_share}
    if split.max_per_class is None:
        expected["train"] = 1 - task.test_share - task.val_share
    whole = sum(expected.values())
    found = []
    for label in task.classes:
        n = sum(counts.get((label, subset), 0) for subset in expected)
        for subset, part in expected.items():
            share = part / whole
            if n:
                error = (share * (1 - share) / n) ** 0.5
                found.append((label, subset, counts.get((label, subset), 0) / n, share, error))
    return found
