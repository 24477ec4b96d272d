"""The bucket and the database -> how much lies there, by kind, and how much of it could be pruned."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.catalog.retention import RETENTION
from lesion_tasks.database.pruned import KINDS
from lesion_tasks.upkeep.prunable import Prunable, find_prunable
from lesion_tasks.workspace import Workspace

# What each first folder of the bucket holds.
_WORDS = {
    "images": "pictures of the archive",
    "pixels": "decoded pixels",
    "features": "features of frozen backbones",
    "masks": "lesion masks",
    "segmenters": "segmenters",
    "splits": "manifests",
    "trainings": "checkpoints of trainings",
    "searches": "checkpoints of searches",
    "models": "models",
    "reports": "reports",
    "champions": "champions",
    "predictions": "predictions of pictures",
    "watching": "what champions saw of new images",
}


@dataclass(frozen=True, kw_only=True)
class Use:
    """How much one kind of thing takes."""

    where: str  # "bucket" or "database"
    what: str
    n: int  # objects, or rows by the last statistics
    size_bytes: int  # with indexes, in the database
    n_prunable: int = 0  # of the n
    prunable_bytes: int = 0  # in the database in proportion to the rows

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def disk_use(workspace: Workspace) -> list[Use]:
    """Everything that lies in the bucket and the database, the largest first."""
    totals = totals_by_folder(workspace.bucket.list_sizes())
    with workspace.engine.begin() as connection:
        prunable = list(find_prunable(connection, workspace.bucket, RETENTION, now=datetime.now(UTC)))
        going = totals_by_folder(pair for one in prunable for pair in one.size_by_key.items())
        rows_going = _rows_that_could_go(connection, prunable)
        tables = sizes_by_table(connection)
    use = [
        Use(
            where="bucket",
            what=_WORDS.get(folder, folder),
            n=n,
            size_bytes=size_bytes,
            n_prunable=going.get(folder, (0, 0))[0],
            prunable_bytes=going.get(folder, (0, 0))[1],
        )
        for folder, (n, size_bytes) in totals.items()
    ]
    for name, (n, size_bytes) in tables.items():
        n_prunable = min(rows_going.get(name, 0), n)
        use.append(
            Use(
                where="database",
                what=name,
                n=n,
                size_bytes=size_bytes,
                n_prunable=n_prunable,
                prunable_bytes=round(size_bytes * n_prunable / max(n, 1)),
            )
        )
    return sorted(use, key=lambda one: -one.size_bytes)


def totals_by_folder(sizes: Iterable[tuple[str, int]]) -> dict[str, tuple[int, int]]:
    """Objects and bytes by the first folder of their keys; of keys without one, under "other"."""
    found: dict[str, tuple[int, int]] = {}
    for key, size_bytes in sizes:
        folder = key.partition("/")[0] if "/" in key else "other"
        n, total = found.get(folder, (0, 0))
        found[folder] = n + 1, total + size_bytes
    return found


def sizes_by_table(connection: Connection) -> dict[str, tuple[int, int]]:
    """Rows by the last statistics, and bytes with indexes, of every table."""
    rows = connection.execute(
        text("""
            SELECT relname, greatest(reltuples, 0)::bigint AS n, pg_total_relation_size(c.oid) AS size_bytes
            FROM pg_class c JOIN pg_namespace s ON s.oid = relnamespace
            WHERE relkind = 'r' AND nspname = current_schema()
        """)
    )
    return {row.relname: (row.n, row.size_bytes) for row in rows}


def _rows_that_could_go(connection: Connection, prunable: list[Prunable]) -> dict[str, int]:
    """Rows of the largest table that go with trainings: predictions."""
    names = [one.name for one in prunable if one.kind in KINDS["training"]]
    n_predictions: int = connection.execute(
        text("SELECT coalesce(sum(n_images), 0) FROM prediction_set WHERE training_id = ANY(:names)"),
        {"names": names},
    ).scalar_one()
    return {"prediction": n_predictions}
