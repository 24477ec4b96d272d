"""Reports and pictures of the bucket -> bytes to serve, each only where the database or its key says that it may be."""

from dataclasses import dataclass

from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.image_ids import MAX_ID_CHARACTERS
from lesion_tasks.bucket import MissingObjectError, get_verified
from lesion_tasks.database.pruned import find_pruning, pruned_in_words
from lesion_tasks.reports.environment import is_path_beside
from lesion_tasks.workspace import Workspace

_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "md": "text/plain; charset=utf-8",
    "png": "image/png",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """Bytes and what they are."""

    data: bytes
    content_type: str


def read_report_file(workspace: Workspace, path: str) -> StoredFile:
    """A file below `reports/` in the bucket.

    Raises `UnusableInputError` for a path that is none or whose report was pruned, and `MissingObjectError` if there is
    no such file.
    """
    ending = path.rpartition(".")[2]
    if not is_path_beside(path) or ending not in _TYPES:
        raise UnusableInputError(f"{path[:200]!r}: expected the path of a report's file")
    try:
        data = workspace.bucket.get(f"reports/{path}")
    except MissingObjectError:
        say_if_pruned(workspace, path)
        raise
    return StoredFile(data=data, content_type=_TYPES[ending])


def say_if_pruned(workspace: Workspace, path: str) -> None:
    """Raise `UnusableInputError` that says so if the report of which `path` is a file was pruned."""
    folder, _, rest = path.partition("/")
    thing, name = ("manifest", rest.removesuffix(".html")) if folder == "data" else ("training", folder)
    with workspace.engine.connect() as connection:
        found = find_pruning(connection, thing, name)
    if found is not None:
        raise UnusableInputError(f"The report of {thing} {name} was {pruned_in_words(found)}.")


def read_image(workspace: Workspace, isic_id: str) -> StoredFile:
    """The stored picture of an image, checked against its digest; raises `UnusableInputError` if there is none."""
    with workspace.engine.connect() as connection:
        row = connection.execute(
            text("""
                SELECT f.object_key, f.sha256 FROM image i JOIN stored_file f USING (isic_id, rendition)
                WHERE i.isic_id = :id AND f.object_key IS NOT NULL
            """),
            {"id": isic_id[:MAX_ID_CHARACTERS]},
        ).one_or_none()
    if row is None:
        raise UnusableInputError(f"{isic_id[:MAX_ID_CHARACTERS]!r}: no image of this id has a picture")
    data = get_verified(workspace.bucket, row.object_key, row.sha256, kind="picture")
    return StoredFile(data=data, content_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")
