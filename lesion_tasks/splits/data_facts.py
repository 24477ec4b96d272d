"""A manifest's rows and the images around them -> the tables of its page, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks.catalog import Split, Task
from lesion_tasks.catalog.image_columns import MAY_BE_MISSING
from lesion_tasks.catalog.titles import label
from lesion_tasks.metrics.counted import plural
from lesion_tasks.splits.manifest_checks import subset_shares
from lesion_tasks.splits.subset_or_quarantine import SUBSETS

if TYPE_CHECKING:
    import pyarrow as pa

# The Arrow columns that are counted, each in a table of its own; ages and sizes in steps.
COUNTED = (
    "image_type", "age", "sex", "anatom_site", "fitzpatrick_skin_type", "size", "diagnosis_confirm_type",
    "attribution", "copyright_license", "pixels",
)  # fmt: skip
MAX_VALUES = 20  # rows of one table; the rest are added up


def class_rows(class_counts: Mapping[str, Mapping[str, int]], task: Task) -> list[dict[str, Any]]:
    """Images by subset and class, with the share of each class."""
    rows = []
    for subset in ("train", "val", "val_balanced", "test", "test_balanced"):
        counts = class_counts[subset]
        whole = sum(counts.values())
        rows.append(
            {
                "subset": subset,
                "n": whole,
                "classes": [
                    {"n": counts[label], "share": counts[label] / whole if whole else None}
                    for label in task.classes
                ],
            }
        )
    return rows


def share_rows(table: "pa.Table", split: Split, task: Task) -> list[dict[str, Any]]:
    """How the groups of each class are distributed, against the requested shares, in standard errors."""
    return [
        {
            "label": label,
            "subset": subset,
            "share": share,
            "expected": expected,
            "errors": (share - expected) / error if error else 0.0,
        }
        for label, subset, share, expected, error in subset_shares(table, split, task)
    ]


def missing_rows(table: "pa.Table") -> list[dict[str, Any]]:
    """The share of images without a value, by field and subset."""
    import pyarrow.compute as pc

    parts = {subset: table.filter(pc.equal(table["subset"], subset)) for subset in SUBSETS}
    return [
        {
            "field": field,
            "shares": [part[field].null_count / len(part) if len(part) else None for part in parts.values()],
        }
        for field in MAY_BE_MISSING
    ]


def imputation_rows(table: "pa.Table") -> list[dict[str, Any]]:
    """What replaces a missing number: the mean over train, beside that over all images; None without values."""
    import pyarrow.compute as pc

    train = table.filter(pc.equal(table["subset"], "train"))
    return [
        {
            "field": field,
            "n_missing": table[field].null_count,
            "train_mean": pc.mean(train[field]).as_py(),
            "overall_mean": pc.mean(table[field]).as_py(),
        }
        for field in ("age_years", "size_mm")
    ]


def value_tables(table: "pa.Table", task: Task) -> list[dict[str, Any]]:
    """For each field: images by value and subset, and the share of the positive class among all with that value."""
    table = _with_steps(table)
    tables = []
    for column in COUNTED:
        counted = table.group_by([column, "subset", "label"]).aggregate([([], "count_all")]).to_pylist()
        rows: dict[str, dict[str, Any]] = {}
        for entry in counted:
            row = rows.setdefault(
                _word(entry[column]), {"n": 0, "n_positive": 0, **dict.fromkeys(SUBSETS, 0)}
            )
            row["n"] += entry["count_all"]
            row[entry["subset"]] += entry["count_all"]
            row["n_positive"] += entry["count_all"] * (entry["label"] == task.positive)
        tables.append(
            {"title": label(column), "rows": _leading_rows(rows, by_name=column in {"age", "size"})}
        )
    return tables


def _with_steps(table: "pa.Table") -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    def step(column: str, width: int, unit: str) -> "pa.ChunkedArray":
        low = pc.cast(pc.multiply(pc.floor(pc.divide(table[column], width)), width), pa.int64())
        steps = pc.drop_null(pc.unique(low))
        words = pa.array([f"{v:>2} to {v + width - 1} {unit}" for v in steps.to_pylist()], pa.string())
        return pc.take(words, pc.index_in(low, value_set=steps))

    pixels = pc.binary_join_element_wise(
        pc.cast(table["width_px"], pa.string()), pc.cast(table["height_px"], pa.string()), " x "
    )
    return (
        table.append_column("age", step("age_years", 10, "years"))
        .append_column("size", step("size_mm", 5, "mm"))
        .append_column("pixels", pixels)
    )


def _word(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _leading_rows(rows: dict[str, dict[str, Any]], *, by_name: bool) -> list[dict[str, Any]]:
    """The most common values first, or sorted by name; the rest are added up."""
    ordered = sorted(rows.items(), key=lambda item: item[0] if by_name else (-item[1]["n"], item[0]))
    shown = [{"value": value, **row} for value, row in ordered[:MAX_VALUES]]
    if rest := ordered[MAX_VALUES:]:
        total: dict[str, Any] = {"value": plural(len(rest), "other value")}
        total |= {key: sum(row[key] for _, row in rest) for key in ("n", "n_positive", *SUBSETS)}
        shown.append(total)
    return shown


def group_rows(table: "pa.Table") -> list[dict[str, Any]]:
    """Groups of the manifest by the number of its images that they hold."""
    sizes = table.group_by("group_id").aggregate([([], "count_all")])["count_all"].to_pylist()
    edges = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, 100), (101, None))
    rows = []
    for low, high in edges:
        inside = [n for n in sizes if n >= low and (high is None or n <= high)]
        if inside:
            words = f"{low}" if low == high else f"{low} and more" if high is None else f"{low} to {high}"
            rows.append({"size": words, "n_groups": len(inside), "n_images": sum(inside)})
    return rows


def quarantine_counts(connection: Connection, split: str, assignment: str) -> dict[str, int]:
    """Groups and images in quarantine, and how many of the images were in a subset before."""
    row = connection.execute(
        text("""
            SELECT count(DISTINCT m.group_id) AS groups, count(*) AS images, count(p.isic_id) AS former
            FROM split_member m LEFT JOIN placement p ON p.assignment = :assignment AND p.isic_id = m.isic_id
            WHERE m.split = :split AND m.reason = 'quarantined'
        """),
        {"split": split, "assignment": assignment},
    ).one()
    return {"n_groups": row.groups, "n_images": row.images, "n_former_members": row.former}


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """Two pictures that look alike, how much, and where their images stand: in a subset, or why in none."""

    sha256: str
    other_sha256: str
    n_bits: int
    print_correlation: float
    detail_correlation: float
    isic_id: str
    other_isic_id: str
    object_key: str
    other_object_key: str
    lesion_id: str | None
    other_lesion_id: str | None
    place: str | None
    other_place: str | None
    picture: str | None = None  # as an address that holds it; None: not read, or not as it was stored
    other_picture: str | None = None


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What shows the same thing: numbers, and the most doubtful pairs with their pictures' keys."""

    n_identical_files: int
    n_images_of_identical_files: int
    n_copies: int
    n_look_alikes: int
    copies: list[ShownPair]
    look_alikes: list[ShownPair]


def duplicate_facts(connection: Connection, table: "pa.Table", split: str, n_shown: int) -> Duplicates:
    """Identical files of the manifest, and copies in the whole database that identities do not reveal."""
    import pyarrow.compute as pc

    sizes = table.group_by("sha256").aggregate([([], "count_all")])["count_all"]
    identical = sizes.filter(pc.greater(sizes, 1))
    counts = connection.execute(
        text("""
            SELECT is_copy, count(*) FROM picture_pair p
            WHERE EXISTS (SELECT FROM image WHERE sha256 = p.sha256)
              AND EXISTS (SELECT FROM image WHERE sha256 = p.other_sha256)
            GROUP BY is_copy
        """)
    ).all()
    by_kind = {bool(is_copy): int(n) for is_copy, n in counts}
    return Duplicates(
        n_identical_files=len(identical),
        n_images_of_identical_files=int(pc.sum(identical).as_py() or 0),
        n_copies=by_kind.get(True, 0),
        n_look_alikes=by_kind.get(False, 0),
        copies=_pairs(connection, split, n_shown, is_copy=True),
        look_alikes=_pairs(connection, split, n_shown // 3, is_copy=False),
    )


def _pairs(connection: Connection, split: str, n_shown: int, *, is_copy: bool) -> list[ShownPair]:
    """Pairs with their pictures' keys, doubtful ones first: the least similar copies, the most similar look-alikes."""
    order = "ASC" if is_copy else "DESC"
    rows = connection.execute(
        text(f"""
            SELECT p.sha256, p.other_sha256, p.n_bits, p.print_correlation, p.detail_correlation, a.isic_id,
                   b.isic_id AS other_isic_id,
                   fa.object_key, fb.object_key AS other_object_key, a.lesion_id, b.lesion_id AS other_lesion_id,
                   coalesce(ma.subset, ma.reason) AS place, coalesce(mb.subset, mb.reason) AS other_place
            FROM picture_pair p
            JOIN image a ON a.sha256 = p.sha256 JOIN image b ON b.sha256 = p.other_sha256
            JOIN stored_file fa ON fa.isic_id = a.isic_id AND fa.rendition = a.rendition
            JOIN stored_file fb ON fb.isic_id = b.isic_id AND fb.rendition = b.rendition
            LEFT JOIN split_member ma ON ma.split = :split AND ma.isic_id = a.isic_id
            LEFT JOIN split_member mb ON mb.split = :split AND mb.isic_id = b.isic_id
            WHERE p.is_copy = :is_copy AND p.detail_correlation IS NOT NULL
            ORDER BY p.detail_correlation {order}, a.isic_id, b.isic_id LIMIT :n
        """),  # noqa: S608 - one of two words
        {"split": split, "is_copy": is_copy, "n": n_shown},
    )
    return [ShownPair(**row._mapping) for row in rows]


def changes_since(before: "pa.Table", now: "pa.Table") -> dict[str, Any]:
    """What became of the images of an earlier manifest of the same split."""
    import pyarrow.compute as pc

    position = pc.index_in(
        now["isic_id"], value_set=before["isic_id"].combine_chunks()
    )  # null: not there before
    is_old = pc.is_valid(position)
    old, then = now.filter(is_old), before.take(pc.drop_null(position))

    def differs(column: str) -> Any:
        return pc.not_equal(old[column], then[column])

    is_other = {"subset": differs("subset"), "label": differs("label")}
    is_moved = pc.or_(is_other["subset"], is_other["label"])
    left = before.filter(pc.invert(pc.is_in(before["isic_id"], value_set=now["isic_id"].combine_chunks())))
    added = now.filter(pc.invert(is_old))
    counts = {
        "added": len(added),
        "left": len(left),
        **{name: _n_true(mask) for name, mask in is_other.items()},
        "picture": _n_true(differs("sha256")),
        "unchanged": len(old) - _n_true(is_moved),
    }
    return {"counts": counts, "by_subset": {"added": _by_subset(added), "left": _by_subset(left)}}


def _n_true(mask: "pa.ChunkedArray") -> int:
    import pyarrow.compute as pc

    return int(pc.sum(mask).as_py() or 0)


def _by_subset(table: "pa.Table") -> dict[str, int]:
    import pyarrow.compute as pc

    counted = {row["values"]: row["counts"] for row in pc.value_counts(table["subset"]).to_pylist()}
    return {subset: int(counted.get(subset, 0)) for subset in SUBSETS}
