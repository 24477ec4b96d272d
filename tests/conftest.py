"""What tests share: one embedded Postgres, a fresh database for each test that asks, and its own bucket."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalogue import add_records, administer, filled_once, labelled_records, materialize_natural
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from sqlalchemy import make_url

from lesion_tasks.catalog import VARIANTS, own_entries
from lesion_tasks.curation import copies, store_landmarks
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.curation.landmarks import landmarks_of
from lesion_tasks.curation.registration import n_agreeing_places
from lesion_tasks.database.connection import engine_for, migrate
from lesion_tasks.database.embedded import postgres
from lesion_tasks.settings import Settings, read_settings
from lesion_tasks.workspace import open_workspace

# A busy machine is no failure: no example is timed.
hypothesis_settings.register_profile(
    "untimed", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option of our own."""
    parser.addoption(
        "--every-variant",
        action="store_true",
        help="train every variant through the scheduler, not two of them",
    )


def pytest_configure() -> None:
    """Nothing rests on entries of somebody's own in the checkout."""
    os.environ[own_entries.VARIABLE] = os.devnull
    own_entries.refresh()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: where files are divided among processes, nobody waits for them in the end."""
    items.sort(
        key=lambda item: (
            item.get_closest_marker("scheduler") is None,
            item.get_closest_marker("minutes") is None,
        )
    )


@pytest.fixture(scope="session", autouse=True)
def pictures_compared_once() -> Iterator[None]:
    """Most tests curate the same drawn pictures: what follows from them alone is computed once in a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_landmarks, "landmarks_of", _once(landmarks_of))
        patch.setattr(copies, "n_agreeing_places", _once(n_agreeing_places))
        yield


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, which remembers what it found."""
    found: dict[tuple[Any, ...], Any] = {}

    def remembered(*arrays: np.ndarray) -> Any:
        key = tuple((array.shape, array.tobytes()) for array in arrays)
        if key not in found:
            found[key] = function(*arrays)
        return found[key]

    return remembered


@pytest.fixture(autouse=True)
def logging_as_it_was() -> None:
    """Airflow sets up logging for its whole process when a test first uses it: undo what other tests would notice."""
    logging.getLogger().setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.startswith("lesion"):
            logger.disabled, logger.propagate = False, True


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the Postgres server that TEST_POSTGRES_URL names, or of one that lives as long as the session."""
    if named := os.environ.get(
        "TEST_POSTGRES_URL"
    ):  # postgresql+psycopg2://user:password@host:port, a superuser
        yield named
        return
    home = tmp_path_factory.mktemp("postgres-home")
    yield postgres.ensure_running(home)
    postgres.stop(home)


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> str:
    """The name of a database with all tables and no rows, for copying."""
    name = "template_lesions"
    administer(postgres_url, f'CREATE DATABASE "{name}"')
    url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    migrate(url)
    engine_for(url).dispose()
    return name


@contextmanager
def _fresh_database(postgres_url: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    yield url
    engine_for(url).dispose()
    engine_for.cache_clear()
    administer(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def database_url(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """A fresh, migrated database."""
    with _fresh_database(postgres_url, migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """A fresh, migrated database for all tests of a file."""
    with _fresh_database(postgres_url, migrated_template) as url:
        yield url


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a fresh catalogue, in force for every step that the test calls."""
    monkeypatch.setenv("LESION_HOME", str(tmp_path))
    monkeypatch.setenv("LESION_DATABASE_URL", database_url)
    monkeypatch.setenv("LESION_BUCKET_URL", str(tmp_path / "bucket"))
    # Nothing in a test talks to the public archive.
    monkeypatch.setenv("LESION_ARCHIVE_URL", "http://127.0.0.1:9/api/v2/")
    monkeypatch.delenv("LESION_VARIANTS", raising=False)
    monkeypatch.delenv("LESION_WEIGHTS", raising=False)
    return read_settings()


@pytest.fixture
def small(settings: Settings) -> Iterator[Settings]:
    """A curated catalogue with one split at 32 px; the catalogue of variants may be changed and is put back."""

    def fill() -> None:
        add_records(settings, labelled_records(240))
        curate_images(open_workspace())
        materialize_natural()

    filled_once(settings, "small", fill)
    before = dict(VARIANTS)
    yield settings
    VARIANTS.clear()
    VARIANTS.update(before)
