"""A question in SQL -> rows, without changing anything."""

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from lesion_tasks import UnusableInputError

MAX_ROWS = 10_000


def ask(engine: Engine, question: str) -> list[dict[str, Any]]:
    """The first MAX_ROWS rows, by column.

    Raises `UnusableInputError` for what is not one question, or would change something.
    """
    statement = question.strip().rstrip(";").rstrip()
    if ";" in statement:  # a second statement could end the transaction that only reads
        raise UnusableInputError("SQL: a semicolon inside it, expected one statement")
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        try:
            found = connection.execution_options(stream_results=True).exec_driver_sql(
                statement.replace("%", "%%")  # the driver would look for parameters
            )
            return [dict(row) for row in found.mappings().fetchmany(MAX_ROWS)]
        except DBAPIError as error:
            said = str(error.orig).strip().splitlines()
            raise UnusableInputError(f"SQL: {said[0] if said else type(error).__name__}") from error
