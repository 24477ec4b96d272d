"""Many rows at once: in and out of Postgres by COPY."""

import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks.database.migration_state import MISSING, refuse_other_migration

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BY_POSITION = 5
SPOOL_BYTES = (
    16_000_000  # of a table that is copied to another database, before the rest goes to a temporary file
)
_COPY_HEADER, _COPY_HEADER_BYTES = b"PGCOPY\n\xff\r\n\0", 19


def copy_out(connection: Connection, query: str, schema: "pa.Schema | None" = None) -> "pa.Table":
    """Run a query by COPY: every column as text, or typed by the schema. Far less memory than rows of objects."""
    import pyarrow as pa
    import pyarrow.csv as csv

    buffer = io.BytesIO()
    with _cursor(connection) as cursor:
        cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)", buffer)
    buffer.seek(0)
    names = schema.names if schema is not None else buffer.readline().decode().strip().split(",")
    buffer.seek(0)
    types = dict(zip(names, schema.types if schema is not None else [pa.string()] * len(names), strict=True))
    return csv.read_csv(
        buffer,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=types,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
        ),
    )


def copy_out_bytes(
    connection: Connection,
    query: str,
    *,
    name_length: int,
    n_rows: int,
    consume: Callable[[list[bytes], list[bytes]], None],
) -> None:
    """Run a query for names of one length and binary values, none of them null, and hand them over `n_rows` at a time.

    By COPY in Postgres' binary format: takes a tenth of the time of fetching rows. A row there is its number of values
    (2 bytes), and each value's length (4 bytes) and bytes.
    """
    rows: list[bytes] = []

    def hand_over() -> None:
        begin = 6
        end = begin + name_length
        consume([row[begin:end] for row in rows], [row[end + 4 :] for row in rows])
        rows.clear()

    class Rows:
        def write(self, data: bytes) -> None:  # libpq hands over one row at a time
            if data.startswith(_COPY_HEADER):
                data = data[_COPY_HEADER_BYTES:]
            if len(data) > 2:  # -1, where the number of values stands, ends the answer
                rows.append(data)
            if len(rows) == n_rows:
                hand_over()

    with _cursor(connection) as cursor:
        cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", Rows())
    if rows:
        hand_over()


def copy_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Append rows of a few values, in the order of `columns`, by COPY and return how many.

    Values: str, bytes, numbers, bool, datetime, None, dict for JSON, or list for arrays. Raises ValueError for more
    than MOST_BY_POSITION columns: nobody would notice if two were swapped, so use `copy_dicts` for such rows.
    """
    if len(columns) > MOST_BY_POSITION:
        raise ValueError(f"{table}: {len(columns)} values by position, expected at most {MOST_BY_POSITION}")
    return _copy_in(connection, table, columns, rows)


def copy_dicts(connection: Connection, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append rows keyed by column by COPY and return how many. All rows must have the columns of the first."""
    columns, rows = _columns_of(rows)
    return _copy_in(connection, table, columns, _in_order(table, columns, rows)) if columns else 0


def upsert_rows(
    connection: Connection, table: str, key: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> int:
    """Insert rows keyed by column, or update those whose key already exists; return how many."""
    columns, rows = _columns_of(rows)
    if not columns:
        return 0
    names = _quoted(columns)
    connection.execute(
        text(f'CREATE TEMP TABLE upsert_rows ON COMMIT DROP AS SELECT {names} FROM "{table}" WITH NO DATA')  # noqa: S608 - names from our own code
    )
    n_rows = _copy_in(connection, "upsert_rows", columns, _in_order(table, columns, rows))
    changes = ", ".join(f'"{column}" = excluded."{column}"' for column in columns if column not in key)
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    connection.execute(
        text(
            f'INSERT INTO "{table}" ({names}) SELECT {names} FROM upsert_rows '  # noqa: S608
            f"ON CONFLICT ({_quoted(key)}) DO {action}"
        )
    )
    connection.execute(text("DROP TABLE upsert_rows"))
    return n_rows


def _columns_of(rows: Iterable[Mapping[str, Any]]) -> tuple[list[str], Iterable[Mapping[str, Any]]]:
    """The columns of the first row, and all rows; no columns if there are no rows."""
    rows = iter(rows)
    first = next(rows, None)
    return ([], ()) if first is None else (list(first), chain((first,), rows))


def _in_order(
    table: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> Iterator[Sequence[Any]]:
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{table}: a row with {', '.join(row)}, expected {', '.join(columns)}")
        yield [row[column] for column in columns]


def _copy_in(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Send rows in COPY's text format. Takes half the time of CSV, which has to double every quote in JSON."""
    n_rows = 0
    buffer = io.BytesIO()
    for row in rows:
        buffer.write(("\t".join([_field(value) for value in row]) + "\n").encode())
        n_rows += 1
    buffer.seek(0)
    with _cursor(connection) as cursor:
        cursor.copy_expert(f'COPY "{table}" ({_quoted(columns)}) FROM STDIN', buffer)
    return n_rows


def copy_across(source: Connection, target: Connection, table: str, columns: Sequence[str]) -> int:
    """Append all rows of a table to the same table of another database and return how many."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        with _cursor(source) as cursor:
            cursor.copy_expert(f'COPY (SELECT {_quoted(columns)} FROM "{table}") TO STDOUT', spool)  # noqa: S608
        spool.seek(0)
        with _cursor(target) as cursor:
            cursor.copy_expert(f'COPY "{table}" ({_quoted(columns)}) FROM STDIN', spool)
            n_rows: int = cursor.rowcount
    return n_rows


def _quoted(columns: Iterable[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


@contextmanager
def _cursor(connection: Connection) -> Iterator[Any]:
    """The driver's own cursor. SQLAlchemy does not see its errors, so those of another migration are reported here."""
    cursor = connection.connection.cursor()
    try:
        yield cursor
    except MISSING as error:
        refuse_other_migration(connection.engine, error)
        raise
    finally:
        cursor.close()


def _field(value: Any) -> str:
    if value is None:
        return "\\N"
    words = value if type(value) is str else _in_words(value)
    if "\\" in words:
        words = words.replace("\\", "\\\\")
    if "\n" in words:
        words = words.replace("\n", "\\n")
    if "\t" in words:
        words = words.replace("\t", "\\t")
    if "\r" in words:
        words = words.replace("\r", "\\r")
    return words


def _in_words(value: Any) -> str:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return "{" + ",".join(_array_item(item) for item in value) + "}"
    return str(value)


def _array_item(item: Any) -> str:
    if isinstance(item, str):
        escaped = item.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "NULL" if item is None else str(item)
