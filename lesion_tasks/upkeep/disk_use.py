"""The bucket and the database -> how much lies there, by kind."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import text

from lesion_tasks.workspace import Workspace

# What each first folder of the bucket holds.
_KINDS = {
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
}


@dataclass(frozen=True, kw_only=True)
class Use:
    """How much one kind of thing takes."""

    where: str  # "bucket" or "database"
    what: str
    n: int  # objects, or rows by the last statistics
    size_bytes: int  # with indexes, in the database

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def disk_use(workspace: Workspace) -> list[Use]:
    """Everything that lies in the bucket and the database, the largest first."""
    sizes: dict[str, list[int]] = {}
    for key, size_bytes in workspace.bucket.list_sizes():
        folder = key.partition("/")[0] if "/" in key else "other"
        found = sizes.setdefault(folder, [0, 0])
        found[0] += 1
        found[1] += size_bytes
    use = [
        Use(where="bucket", what=_KINDS.get(folder, folder), n=n, size_bytes=size_bytes)
        for folder, (n, size_bytes) in sizes.items()
    ]
    with workspace.engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT relname, greatest(reltuples, 0)::bigint AS n, pg_total_relation_size(c.oid) AS size_bytes
                FROM pg_class c JOIN pg_namespace s ON s.oid = relnamespace
                WHERE relkind = 'r' AND nspname = current_schema()
            """)
        )
        use += [Use(where="database", what=row.relname, n=row.n, size_bytes=row.size_bytes) for row in rows]
    return sorted(use, key=lambda one: -one.size_bytes)
