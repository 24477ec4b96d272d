"""Which part of which archive -> its row, its lock and an open listing."""

import hashlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.api import ApiListing, is_api
from lesion_tasks.archive.client import N_CONNECTIONS, RETRY, ArchiveClient, Retry, shown
from lesion_tasks.archive.listing import Listing
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.database.schema import Scope
from lesion_tasks.settings import Settings
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScopeKey:
    """A scope as its caller names it, with what the settings leave open filled in."""

    source: str  # base URL with trailing slash, or a folder's absolute path
    query: str
    collections: str
    workspace: Workspace

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.workspace.settings

    @property
    def scope_id(self) -> str:
        """16 hexadecimal digits of source (without credentials), query and collections."""
        parts = "\n".join((self.stored_source, self.query, self.collections))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    @property
    def stored_source(self) -> str:
        """The source as it may be written down."""
        return shown(self.source) if is_api(self.source) else self.source

    @property
    def title(self) -> str:
        """A few words for messages."""
        narrowed = [self.query] if self.query else []
        narrowed += [f"collections {self.collections}"] if self.collections else []
        return f"{self.stored_source} ({', '.join(narrowed) or 'everything'})"


def scope_key(workspace: Workspace, source: str | None, query: str | None, collections: str) -> ScopeKey:
    """Fill in the settings' source and query; raise UnusableInputError for collections that are no numbers."""
    settings = workspace.settings
    source = source or settings.archive_url
    ids = [part.strip() for part in collections.split(",")] if collections.strip() else []
    if wrong := [part for part in ids if not part.isdigit()]:
        raise UnusableInputError(
            f"collections {collections!r}: {wrong[0]!r} found, expected numbers and commas"
        )
    source = source.rstrip("/") + "/" if is_api(source) else str(Path(source).absolute())
    return ScopeKey(
        source=source,
        query=(settings.query if query is None else query).strip(),
        collections=",".join(str(number) for number in sorted({int(part) for part in ids})),
        workspace=workspace,
    )


@asynccontextmanager
async def open_listing(
    key: ScopeKey, *, n_connections: int = N_CONNECTIONS, retry: Retry = RETRY, is_first_contact: bool = False
) -> AsyncIterator[Listing]:
    """Open the source of a scope: the one session with it."""
    if not is_api(key.source):
        from lesion_tasks.archive.local import LocalListing

        yield LocalListing(key.source, query=key.query, collections=key.collections)
        return
    base = urlsplit(key.source)
    client = ArchiveClient(
        hosts=key.settings.archive_hosts | {base.hostname or ""},
        allow_http=base.scheme == "http",
        n_connections=n_connections,
        retry=retry,
        fails_at_first_contact=is_first_contact,
    )
    async with client:
        yield ApiListing(client, key.source, query=key.query, collections=key.collections)
        if client.n_faults:
            log.info("%s: %d failed attempts were made good by others", key.title, client.n_faults)


def read_scope(key: ScopeKey) -> Scope | None:
    """Return the scope's row, detached; None before it is first polled."""
    with key.workspace.session() as session:
        scope = session.scalar(select(Scope).where(Scope.scope_id == key.scope_id))
        if scope is not None:
            session.expunge(scope)
        return scope


def polled_scope(key: ScopeKey) -> Scope:
    """Return the scope's row; raise UnusableInputError where it was never polled."""
    scope = read_scope(key)
    if scope is None:
        raise UnusableInputError(f"{key.title}: never polled so far, expected that before")
    return scope


def n_listed(key: ScopeKey) -> int:
    """Count the ids that a scope lists, those of refused records too."""
    statement = text("""
        SELECT (SELECT count(*) FROM scope_record WHERE scope_id = :scope_id AND missing_since IS NULL)
            + (SELECT count(DISTINCT isic_id) FROM refused_record AS refused
               WHERE scope_id = :scope_id AND isic_id LIKE 'ISIC_%' AND NOT EXISTS (
                   SELECT FROM scope_record AS listed
                   WHERE listed.scope_id = :scope_id AND listed.isic_id = refused.isic_id
                       AND listed.missing_since IS NULL))
    """)
    with key.workspace.session() as session:
        return session.scalar(statement, {"scope_id": key.scope_id}) or 0


def n_listed_by_prefix(key: ScopeKey, n_digits: int, prefix: str = "") -> dict[str, int]:
    """Count the ids that a scope lists, by their first digits; only those under `prefix`."""
    statement = text("""
        SELECT left(isic_id, :length) AS prefix, count(*) FROM (
            SELECT isic_id FROM scope_record
            WHERE scope_id = :scope_id AND missing_since IS NULL AND isic_id LIKE :pattern
            UNION
            SELECT isic_id FROM refused_record WHERE scope_id = :scope_id AND isic_id LIKE :pattern
        ) AS listed GROUP BY 1
    """)
    values = {"scope_id": key.scope_id, "length": 5 + n_digits, "pattern": f"{prefix or 'ISIC_'}%"}
    with key.workspace.session() as session:
        return {row[0]: row[1] for row in session.execute(statement, values)}


def save_scope(key: ScopeKey, **values: object) -> None:
    """Insert or update the scope's row."""
    fixed = {"source": key.stored_source, "query": key.query, "collections": key.collections}
    with key.workspace.session() as session:
        session.execute(
            insert(Scope)
            .values(scope_id=key.scope_id, **fixed, **values)
            .on_conflict_do_update(index_elements=["scope_id"], set_={**fixed, **values})
        )


@contextmanager
def scope_lock(key: ScopeKey, part: str) -> Iterator[None]:
    """Hold the only right to write one part of a scope; a second run waits, and says so."""
    shown = f"{part} of {key.title}"
    with hold_lock(key.workspace.engine, Lock.SCOPE_PART, f"{key.scope_id} {part}", shown=shown):
        yield
