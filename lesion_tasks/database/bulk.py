"""Many rows at once: in and out of Postgres by COPY."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

if TYPE_CHECKING:
    import pyarrow as pa


def copy_out(connection: Connection, query: str, schema: "pa.Schema | None" = None) -> "pa.Table":
    """Run a query by COPY: every column as text, or as the schema says. Far less memory than rows of objects."""
    import pyarrow as pa
    import pyarrow.csv as csv

    buffer = io.BytesIO()
    cursor = connection.connection.cursor()
    cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)", buffer)
    cursor.close()
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


def copy_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Append rows by COPY and return how many. Values: str, bytes, numbers, bool, None, dict, or list for arrays."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    n_rows = 0
    for row in rows:
        writer.writerow([_copy_value(value) for value in row])
        n_rows += 1
    buffer.seek(0)
    names = ", ".join(f'"{column}"' for column in columns)
    cursor = connection.connection.cursor()
    cursor.copy_expert(f"COPY \"{table}\" ({names}) FROM STDIN WITH (FORMAT csv, NULL '\\N')", buffer)
    cursor.close()
    return n_rows


def _copy_value(value: Any) -> Any:
    if value is None:
        return "\\N"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return "{" + ",".join(_array_item(item) for item in value) + "}"
    return value


def _array_item(item: Any) -> str:
    if isinstance(item, str):
        escaped = item.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(item)


def upsert_rows(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    key: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> int:
    """Insert rows, or update those whose key is there already, through a temporary table; return how many."""
    names = ", ".join(f'"{column}"' for column in columns)
    connection.execute(
        text(f'CREATE TEMP TABLE upsert_rows ON COMMIT DROP AS SELECT {names} FROM "{table}" WITH NO DATA')  # noqa: S608 - names from our own code
    )
    n_rows = copy_rows(connection, "upsert_rows", columns, rows)
    changes = ", ".join(f'"{column}" = excluded."{column}"' for column in columns if column not in key)
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    connection.execute(
        text(
            f'INSERT INTO "{table}" ({names}) SELECT {names} FROM upsert_rows '  # noqa: S608
            f"ON CONFLICT ({', '.join(key)}) DO {action}"
        )
    )
    connection.execute(text("DROP TABLE upsert_rows"))
    return n_rows
