"""All rows and objects of an installation -> another database and bucket, such as a demo's into those of a team.

Rows are those of one moment, in one transaction, and their objects follow, so that in the end every object that a row
names is there. An object that is there in its length already is not copied again, so a copy that was killed goes on.
The source is not changed.
"""

import mimetypes
from collections.abc import Iterator

from sqlalchemy import Connection, exists, func, select

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import OCTETS, Bucket
from lesion_tasks.database.bulk import copy_across
from lesion_tasks.database.connection import migrate
from lesion_tasks.database.schema import Base, Uncurated
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.progress import progress
from lesion_tasks.workspace import Workspace


def copy_installation(source: Workspace, *, database_url: str, bucket_url: str) -> dict[str, int]:
    """Copy everything; returns the numbers of rows and objects copied.

    Raises `UnusableInputError` if the other database holds other rows already. One that holds as many rows in every
    table as this one, as after a copy that was killed, gets the missing objects alone.
    """
    settings = source.settings.model_copy(update={"database_url": database_url, "bucket_url": bucket_url})
    target = Workspace(settings)
    if (target.engine.url, target.bucket.url) == (source.engine.url, source.bucket.url):
        raise UnusableInputError(f"copy to {bucket_url}: it is where everything is already")
    migrate(database_url)
    with (
        source.engine.connect().execution_options(isolation_level="REPEATABLE READ") as here,
        target.engine.begin() as there,
    ):
        n_rows = _copy_rows(here, there)
    n_objects = _copy_objects(source.bucket, target.bucket)
    publish(target)
    return {"rows": n_rows, "objects": n_objects}


def _copy_rows(here: Connection, there: Connection) -> int:
    tables = Base.metadata.sorted_tables
    if any(there.scalar(select(exists(select(table)))) for table in tables):
        differing = [
            table.name
            for table in tables
            if here.scalar(select(func.count()).select_from(table))
            != there.scalar(select(func.count()).select_from(table))
        ]
        if differing:
            raise UnusableInputError(
                f"database {there.engine.url.render_as_string()}: it holds rows, and other ones in "
                f"{', '.join(differing[:5])}; expected an empty database"
            )
        return 0
    there.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
    n_rows = 0
    with progress("copy rows", len(tables)) as advance:
        # The last: triggers add to it as the others are filled.
        for table in sorted(tables, key=lambda table: table is Uncurated.__table__):
            if table is Uncurated.__table__:
                there.execute(table.delete())
            columns = [column.name for column in table.columns if column.computed is None]
            n_rows += copy_across(here, there, table.name, columns)
            for column in table.primary_key:
                if column.autoincrement is True:
                    last = select(func.coalesce(func.max(column), 0) + 1).scalar_subquery()
                    serial = func.pg_get_serial_sequence(table.name, column.name)
                    there.execute(select(func.setval(serial, last, False)))
            advance(1, table.name)
    return n_rows


def _copy_objects(here: Bucket, there: Bucket) -> int:
    """Copy the objects that the other bucket lacks, one in memory at a time."""
    n_objects = 0
    with progress("copy objects", None) as advance:
        for key in _missing(here, there):
            there.put(key, here.get(key), content_type=mimetypes.guess_type(key)[0] or OCTETS)
            n_objects += 1
            advance(1)
    return n_objects


def _missing(here: Bucket, there: Bucket) -> Iterator[str]:
    """Keys whose object the other bucket does not hold in the same length; both lists are sorted alike."""
    present = there.list_sizes()
    found = next(present, None)
    for key, size_bytes in here.list_sizes():
        while found is not None and found[0] < key:
            found = next(present, None)
        if found != (key, size_bytes):
            yield key
