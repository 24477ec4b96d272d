"""Settings -> the database and the bucket they name, opened once by the code that starts a step and passed to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from lesion_tasks.bucket import Bucket, open_bucket
from lesion_tasks.database.connection import database_url, engine_for
from lesion_tasks.settings import Settings, read_settings


class Workspace:
    """Where a step reads and writes. Each part is opened on first use: not every step needs both."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def engine(self) -> Engine:
        """The database; if the settings name none, the embedded Postgres is started."""
        return engine_for(database_url(self.settings))

    @cached_property
    def bucket(self) -> Bucket:
        """The bucket; raises UnusableInputError or UnavailableError that names it."""
        return open_bucket(self.settings)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session in one transaction: committed at the end, rolled back on any error."""
        with Session(self.engine) as session, session.begin():
            yield session


def open_workspace() -> Workspace:
    """The workspace that the environment's settings name."""
    return Workspace(read_settings())
