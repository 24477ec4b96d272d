"""The rows of a manifest -> nothing, or an error that names rows that break a promise, before anything trains."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.image_ids import IMAGE_ID_FORM, IMAGE_ID_IN_WORDS
from lesion_tasks.catalog import Split, Task
from lesion_tasks.catalog.gates import gates_of
from lesion_tasks.catalog.printed_numbers import percent
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.known_identities import KnownIdentities
from lesion_tasks.splits.subset_or_quarantine import SUBSETS

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pandera
    import pyarrow as pa

# Below this a subset cannot hold every class, and a figure on it means nothing.
MIN_IMAGES_PER_CLASS = 1
# Groups of a class fall into subsets by chance. A subset whose share of a class is this many standard errors off
# was not drawn by chance: the hash, the grouping or the labels are broken.
MAX_STANDARD_ERRORS = 8.0
MIN_DIFFERENCE = 0.03  # quarantine takes more from small subsets than from large ones; that is not a fault
# Models of this quality are to be had (docs/results.md); a test set that asks for a better one is small.
MAX_NEEDED_AUC = 0.85
N_NAMED = 5  # rows that a message names for each broken promise


def check_manifest(table: "pa.Table", split: Split, task: Task, held_out: str | None = None) -> None:
    """Raise `UnusableInputError` unless the rows keep every promise of a manifest.

    With something held out, its images are the test set, however many they are.
    """
    name = f"split {split.name!r}" + (f" without {held_out}" if held_out else "")
    if objection := check_rows(table.to_pandas(), task):
        raise UnusableInputError(f"{name}: {objection}")
    for check in (_check_classes, _check_balance, *(() if held_out else (_check_shares,))):
        if objection := check(table, split, task):
            raise UnusableInputError(f"{name}: {objection}")


def check_rows(frame: "pd.DataFrame", task: Task) -> str | None:
    """Everything that is wrong with single rows, with the ids of some; None if nothing is."""
    import pandera.pandas as pandera

    try:
        row_schema(task).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        return _in_words(error.failure_cases, frame)
    return None


def row_schema(task: Task) -> "pandera.DataFrameSchema":
    """The promises about single rows: values within their ranges, and identities on one side only."""
    import pandera.pandas as pandera

    def one_of(values: Sequence[str], *, is_optional: bool = False) -> pandera.Column:
        check = pandera.Check.isin(list(values), error=f"expected one of {', '.join(values)}")
        return pandera.Column(checks=check, nullable=is_optional)

    def number(low: float, high: float, *, is_optional: bool = False) -> pandera.Column:
        check = pandera.Check.in_range(low, high, error=f"expected {low:,g} to {high:,g}")
        return pandera.Column(checks=check, nullable=is_optional)

    def text(form: str, words: str, *, is_unique: bool = False) -> pandera.Column:
        return pandera.Column(checks=pandera.Check.str_matches(form, error=words), unique=is_unique)

    return pandera.DataFrameSchema(
        {
            "isic_id": text(f"^{IMAGE_ID_FORM}$", f"expected {IMAGE_ID_IN_WORDS}", is_unique=True),
            "subset": one_of(SUBSETS),
            "label": one_of(task.classes),
            "group_id": pandera.Column(),
            "sha256": text("^[0-9a-f]{64}$", "expected 64 hexadecimal digits"),
            "object_key": pandera.Column(),
            "image_type": one_of(task.image_types),
            "sex": one_of(("female", "male"), is_optional=not task.requires_sex),
            "age_years": number(0, 120, is_optional=True),
            "size_mm": number(0, 1_000, is_optional=True),
            "width_px": number(1, 1e6, is_optional=True),
            "height_px": number(1, 1e6, is_optional=True),
            "size_bytes": number(1, 1e12, is_optional=True),
            "record_version": number(1, 1e9),
        },
        checks=[
            *(_alone(name, "subset") for name in ("group_id", "patient_id", "lesion_id", "sha256")),
            _alone("lesion_id", "patient_id"),
        ],
    )


def _alone(name: str, other: str) -> "pandera.Check":
    """Check that all rows with one value of `name` have the same value of `other`; vectorised, by numbering both."""
    import pandas as pd
    import pandera.pandas as pandera

    def is_alone(frame: pd.DataFrame) -> pd.Series:
        (codes, _), (others, _) = pd.factorize(frame[name]), pd.factorize(frame[other])
        is_known = codes >= 0
        codes, others = codes[is_known], others[is_known]
        first = np.full(codes.max(initial=-1) + 1, -1)
        first[codes] = others  # one row of each; all others must agree with it
        is_torn = np.zeros(len(first), dtype=bool)
        is_torn[codes[first[codes] != others]] = True
        is_right = np.ones(len(frame), dtype=bool)
        is_right[is_known] = ~is_torn[codes]
        return pd.Series(is_right, index=frame.index)

    return pandera.Check(is_alone, error=f"expected one {other} for each {name}")


def _in_words(failures: "pd.DataFrame", frame: "pd.DataFrame") -> str:
    """Every broken promise with the number of rows that break it, and some of them by id and value."""
    told = []
    # A check of whole rows reports every column of each: together they are one promise.
    of_column = failures["column"].where(failures["schema_context"] == "Column", "")
    for (column, check), some in failures.groupby([of_column, "check"], sort=False, dropna=False):
        if some["index"].isna().any():  # about the whole table, such as a missing column
            told.append(f"{check}: {some['failure_case'].iloc[0]}")
            continue
        rows = some["index"].drop_duplicates().astype(int)
        shown = [_row_in_words(frame, row, column) for row in rows[:N_NAMED]]
        rest = f" and {len(rows) - N_NAMED:,} more" if len(rows) > N_NAMED else ""
        words = _PANDERAS_OWN.get(str(check), str(check))
        place = f" ({column})" if column in frame else ""
        told.append(f"{words}{place}: {', '.join(shown)}{rest}")
    return "; ".join(told)


_PANDERAS_OWN = {"field_uniqueness": "expected each value once", "not_nullable": "expected a value"}


def _row_in_words(frame: "pd.DataFrame", row: int, column: Any) -> str:
    isic_id = frame["isic_id"].iloc[row]
    if column not in frame:
        return str(isic_id)
    value = frame[column].iloc[row]
    return f"{isic_id} has {value.item() if isinstance(value, np.generic) else value!r}"


def _check_classes(table: "pa.Table", split: Split, task: Task) -> str | None:
    """Check that every class is in every subset."""
    import pyarrow.compute as pc

    for subset in SUBSETS:
        labels = table.filter(pc.equal(table["subset"], subset))["label"]
        counts = {row["values"]: row["counts"] for row in pc.value_counts(labels).to_pylist()}
        if short := [label for label in task.classes if counts.get(label, 0) < MIN_IMAGES_PER_CLASS]:
            found = ", ".join(f"{counts.get(label, 0):,} {label}" for label in task.classes)
            return f"subset {subset} has {found}, expected some of {', '.join(short)}"
    return None


def _check_balance(table: "pa.Table", split: Split, task: Task) -> str | None:
    """Check that balanced draws hold the same number of each class."""
    import pyarrow.compute as pc

    for subset in SUBSETS if split.max_per_class is not None else ("val", "test"):
        is_drawn = pc.and_(pc.equal(table["subset"], subset), table["is_balanced"])
        counts = {
            row["values"]: row["counts"]
            for row in pc.value_counts(table.filter(is_drawn)["label"]).to_pylist()
        }
        if len({counts.get(label, 0) for label in task.classes}) != 1:
            return f"the balanced draw of {subset} has {counts}, expected the same number of each class"
    return None


def _check_shares(table: "pa.Table", split: Split, task: Task) -> str | None:
    """Check that val and test hold their share of each class, within what chance allows for groups."""
    for label, subset, share, expected, error in subset_shares(table, split, task):
        if abs(share - expected) > max(MAX_STANDARD_ERRORS * error, MIN_DIFFERENCE):
            return (
                f"{subset} holds {percent(share)} of the groups with {label}, expected {percent(expected)} "
                f"within {MAX_STANDARD_ERRORS:g} standard errors of {percent(error)}"
            )
    return None


def small_subsets(table: "pa.Table", task: Task, known: Mapping[str, KnownIdentities]) -> list[str]:
    """What val and test are too small for, in words; empty where each class has enough groups in both.

    `known`: for how many images of each subset patient and lesion are known.
    """
    from lesion_tasks.metrics.binary import MIN_GROUPS
    from lesion_tasks.metrics.needed_auc import needed_auc

    groups = table.select(["group_id", "subset", "label"]).group_by(["subset", "label"])
    counts = {
        (row["subset"], row["label"]): int(row["group_id_count_distinct"])
        for row in groups.aggregate([("group_id", "count_distinct")]).to_pylist()
    }
    found = []
    for subset, share in (("val", task.val_share), ("test", task.test_share)):
        fewest = min(task.classes, key=lambda label: counts.get((subset, label), 0))
        if (n := counts.get((subset, fewest), 0)) < MIN_GROUPS:
            found.append(
                f"{subset} has {plural(n, 'group')} ({known[subset].group}) of {fewest}; below {MIN_GROUPS} figures "
                f"have no interval, and checks cannot tell enough for a promotion. Its share is {share:g}: {_MORE}"
            )
        elif subset == "test" and task.positive is not None:
            gate = next(gate for gate in gates_of(task.name) if gate.is_leading)
            n_groups = {label: counts[subset, label] for label in task.classes}
            needed = needed_auc(gate.floor, *n_groups.values())
            if needed is None or needed > MAX_NEEDED_AUC:
                shown = " and ".join(plural(n, f"{label} group") for label, n in n_groups.items())
                found.append(
                    f"test has {shown} ({known[subset].group}): to become the first champion, a model needs an AUC of "
                    f"about {needed or 1:.2f} here, for an interval from so few groups to begin at "
                    f"{gate.floor:.2f}, and checks may be unable to tell. Its share is {share:g}: {_MORE}"
                )
    return found


_MORE = "a task of your own may hold out more (docs/your-own-pictures.md, with a few hundred pictures)"


def subset_shares(table: "pa.Table", split: Split, task: Task) -> list[tuple[str, str, float, float, float]]:
    """How the groups of each class fall into subsets: class, subset, share, expected share, its standard error.

    Balanced train sets leave images out, so there the shares are relative to val and test only.
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
