"""All rows and objects of an installation -> another database and bucket, such as a demo's into those of a team.

Before anything else the target is marked: an object of its bucket says of which installation it is the copy, and
whether the copy has ended. Rows are those of one moment, in one transaction, and their objects follow, so that in the
end every object that a row names is there. A copy that was killed is begun anew with its rows, which may have become
more, and goes on with its objects. Until it has ended nobody else may use the target. The source is not changed.
"""

import json
import logging
import mimetypes
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, Engine, MetaData, Table, exists, func, inspect, select

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import OCTETS, Bucket, MissingObjectError
from lesion_tasks.database.bulk import copy_across
from lesion_tasks.database.connection import migrate
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.database.migration_state import shown_url
from lesion_tasks.database.schema import Archival, Base, Ingestion, Manifest, Promotion, Training, Uncurated
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.progress import progress
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

MARKER = "copy.json"
# What tells one installation from another: rows that stay for good, by columns that never change.
_TELLING = (
    (Ingestion.ingestion_id, Ingestion.began_at),
    (Manifest.digest,),
    (Training.training_id, Training.fingerprint),
    (Promotion.promotion_id, Promotion.decided_at),
    (Archival.training_id, Archival.archived_at),
)
# Objects that may be written again under their key: their length says nothing about what they hold.
_REWRITTEN = (".json", ".html")
# No row names these objects, and a training or a search that runs removes them.
_PASSING = re.compile(r"trainings/|searches/|segmenters/[^/]+/epoch-")


class _Marker(BaseModel, frozen=True):
    """What the target says about the copy in it."""

    rows: list[str]  # that told the copied installation from others when the copy began
    database: str  # into which it was copied, without its password
    began_at: datetime
    ended_at: datetime | None = None


def copy_installation(source: Workspace, *, database_url: str, bucket_url: str) -> dict[str, int]:
    """Copy everything; returns the numbers of rows and objects copied, both 0 if the copy had ended already.

    Raises `UnusableInputError`, with nothing changed, if the other database or bucket holds anything but a begun copy
    of this installation.
    """
    settings = source.settings.model_copy(update={"database_url": database_url, "bucket_url": bucket_url})
    target = Workspace(settings)
    if (target.engine.url, target.bucket.url) == (source.engine.url, source.bucket.url):
        raise UnusableInputError(f"copy to {bucket_url}: it is where everything is already")
    with (
        hold_lock(target.engine, Lock.COPY),
        source.engine.connect().execution_options(isolation_level="REPEATABLE READ") as here,
    ):
        rows = _telling(here)
        marker = _read_marker(target.bucket)
        if marker is None:
            _refuse_used(target)
            marker = _Marker(rows=sorted(rows), database=shown_url(target.engine), began_at=datetime.now(UTC))
            _write_marker(target.bucket, marker)
        else:
            _refuse_other(target, marker, rows)
            if marker.ended_at is not None:
                log.warning("the copy to %s ended on %s: nothing more is copied", bucket_url, marker.ended_at)
                return {"rows": 0, "objects": 0}
        migrate(database_url)
        with target.engine.begin() as there:
            n_rows = _copy_rows(here, there)
        n_objects = _copy_objects(source.bucket, target.bucket)
        publish(target)
        _write_marker(target.bucket, marker.model_copy(update={"ended_at": datetime.now(UTC)}))
    return {"rows": n_rows, "objects": n_objects}


def _read_marker(bucket: Bucket) -> _Marker | None:
    try:
        return _Marker.model_validate_json(bucket.get(MARKER))
    except MissingObjectError:
        return None
    except ValidationError as error:
        raise UnusableInputError(
            f"bucket {bucket.url}: {MARKER} is not the marker of a copy: {error}"
        ) from error


def _write_marker(bucket: Bucket, marker: _Marker) -> None:
    data = json.dumps(marker.model_dump(mode="json"), indent=2).encode()
    bucket.put(MARKER, data, content_type="application/json")


def _telling(connection: Connection) -> set[str]:
    """What tells an installation from others; of an older migration, by the tables that it has."""
    there = set(inspect(connection).get_table_names())
    found = set()
    for columns in _TELLING:
        name = columns[0].class_.__tablename__
        for row in connection.execute(select(*columns)) if name in there else ():
            words = (
                one.astimezone(UTC).isoformat() if isinstance(one, datetime) else str(one) for one in row
            )
            found.add(f"{name} {' '.join(words)}")
    return found


def _refuse_used(target: Workspace) -> None:
    """Raise unless database and bucket are empty; a database may have tables."""
    key = next(iter(target.bucket.list_keys()), None)
    if key is not None:
        raise UnusableInputError(
            f"bucket {target.bucket.url}: it holds objects, such as {key!r}; expected an empty bucket, or folder of one"
        )
    used = _tables_with_rows(target.engine)
    if used:
        raise UnusableInputError(
            f"database {shown_url(target.engine)}: it holds rows in {', '.join(used[:5])}; expected an empty database"
        )


def _refuse_other(target: Workspace, marker: _Marker, rows: set[str]) -> None:
    """Raise if the marked copy is of another installation, or the database is not the copy's or was used."""
    title = f"bucket {target.bucket.url}: it holds a copy begun on {marker.began_at.date()}"
    lacking = sorted(set(marker.rows) - rows)
    if lacking:
        raise UnusableInputError(
            f"{title} of another installation: {lacking[0]!r} is not here; expected an empty bucket"
        )
    used = _tables_with_rows(target.engine)
    if used and marker.database != shown_url(target.engine):
        raise UnusableInputError(
            f"{title} into database {marker.database}, and {shown_url(target.engine)} holds rows in "
            f"{', '.join(used[:5])}; expected the same or an empty database"
        )
    if marker.ended_at is None:
        with target.engine.connect() as there:
            strange = sorted(_telling(there) - rows)
        if strange:
            raise UnusableInputError(
                f"{title} that has not ended, and its database was used since: {strange[0]!r} is not here"
            )


def _tables_with_rows(engine: Engine) -> list[str]:
    """Every table of a database that holds rows, Alembic's left out; whoever made it."""
    with engine.connect() as connection:
        names = sorted({*inspect(connection).get_table_names()} - {"alembic_version"})
        return [
            name
            for name in names
            if connection.scalar(select(exists(select(1).select_from(Table(name, MetaData())))))
        ]


def _copy_rows(here: Connection, there: Connection) -> int:
    tables = Base.metadata.sorted_tables
    if any(
        there.scalar(select(exists(select(table)))) for table in tables
    ):  # of this copy when it was killed
        there.exec_driver_sql(f"TRUNCATE {', '.join(table.name for table in tables)}")
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
    """Copy the objects that the other bucket lacks or may hold in another state, one in memory at a time."""
    n_objects = 0
    with progress("copy objects", None) as advance:
        for key in _missing(here, there):
            try:
                data = here.get(key)
            except MissingObjectError:
                if not _PASSING.match(key):
                    raise
                continue
            there.put(key, data, content_type=mimetypes.guess_type(key)[0] or OCTETS)
            n_objects += 1
            advance(1)
    return n_objects


def _missing(here: Bucket, there: Bucket) -> Iterator[str]:
    """Keys whose object the other bucket may not hold as it is; both lists are sorted alike."""
    present = there.list_sizes()
    found = next(present, None)
    for key, size_bytes in here.list_sizes():
        while found is not None and found[0] < key:
            found = next(present, None)
        if key != MARKER and (found != (key, size_bytes) or key.endswith(_REWRITTEN)):
            yield key
