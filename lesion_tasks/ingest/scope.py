"""Which part of which archive -> its row, its lock and an open listing."""

import hashlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from lesion_tasks import UnusableInputError
from lesion_tasks.addresses import MalformedAddressError, has_user, shown, split_address
from lesion_tasks.archive.api import ApiListing, is_api
from lesion_tasks.archive.client import N_CONNECTIONS, RETRY, ArchiveClient, Retry
from lesion_tasks.archive.listing import Listing
from lesion_tasks.archive.table_mapping import MAPPING_NAME
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.database.schema import Scope
from lesion_tasks.settings import PUBLIC_ARCHIVE_URL, Settings
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# Who names a source: a person at a terminal of this machine, who can read its files anyway, or a form that anybody
# with access to the UI can fill in.
Trust = Literal["operator", "form"]
MAX_COLLECTION_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class ScopeKey:
    """A scope as its caller names it, completed from the settings."""

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
        """The source without credentials, as it may be stored."""
        return shown(self.source) if is_api(self.source) else self.source

    @property
    def title(self) -> str:
        """A few words for messages."""
        narrowed = [self.query] if self.query else []
        narrowed += [f"collections {self.collections}"] if self.collections else []
        return f"{self.stored_source} ({', '.join(narrowed) or 'everything'})"


def scope_key(
    workspace: Workspace,
    source: str | None,
    query: str | None,
    collections: str,
    trust: Trust = "operator",
) -> ScopeKey:
    """Fill in the settings' source and query.

    Raises UnusableInputError for a source that is not valid or that `trust` does not allow, for a query with
    unprintable characters, and for collections that are not numbers.
    """
    settings = workspace.settings
    query = (settings.query if query is None else query).strip()
    if not query.isprintable():
        raise UnusableInputError(f"query {query[:200]!a}: expected printable characters")
    ids = [part.strip() for part in collections.split(",")] if collections.strip() else []
    if wrong := [part for part in ids if not (part.isdecimal() and len(part) <= MAX_COLLECTION_DIGITS)]:
        raise UnusableInputError(
            f"collections {collections[:200]!a}: {wrong[0][:80]!a} found, expected numbers and commas"
        )
    return ScopeKey(
        source=_checked_source(source, settings, trust) if source else settings.archive_url,
        query=query,
        collections=",".join(str(number) for number in sorted({int(part) for part in ids})),
        workspace=workspace,
    )


def _checked_source(source: str, settings: Settings, trust: Trust) -> str:
    """Return an address with its trailing slash, or a folder's absolute path. Trust is decided only here."""
    source = source.strip()
    title = f"source {shown(source)[:200]!a}"
    if not source.isprintable():
        raise UnusableInputError(f"{title}: expected printable characters")
    if is_api(source):
        _check_address(title, source)
        if trust == "form":
            _check_address_of_form(title, source, settings)
        return source.rstrip("/") + "/"
    if "://" in source or source.lower().startswith("file:"):
        raise UnusableInputError(f"{title}: expected an http or https address, or the path of a folder")
    folder = _without_dots(Path(source).absolute())
    if trust == "form":
        _check_folder_of_form(title, folder, settings)
    return str(folder)


def _without_dots(folder: Path) -> Path:
    """The same place without `..`, so that `../clinic` and `/home/me/clinic` are one source. Other links stay."""
    place = Path(folder.anchor)
    for part in folder.relative_to(place).parts:
        place = Path(os.path.realpath(place)).parent if part == ".." else place / part
    return place


def _check_address(title: str, source: str) -> None:
    try:
        parts = split_address(source)
    except MalformedAddressError as error:
        raise UnusableInputError(f"{title}: {error}, expected the address of an archive") from None
    if not parts.hostname or parts.query or parts.fragment:
        raise UnusableInputError(f"{title}: expected the address of an archive, such as {PUBLIC_ARCHIVE_URL}")


def _check_address_of_form(title: str, source: str, settings: Settings) -> None:
    if has_user(source):
        # Form input stays in the scheduler's tables, where anybody can read it.
        raise UnusableInputError(
            f"{title}: a user or password found, expected them in LESION_ARCHIVE_URL only"
        )
    allowed = settings.archive_hosts | {urlsplit(PUBLIC_ARCHIVE_URL).hostname}
    if urlsplit(source).hostname not in allowed:
        raise UnusableInputError(
            f"{title}: from a form, expected the public archive, the host of LESION_ARCHIVE_URL, or one of "
            "LESION_ARCHIVE_HOSTS"
        )


def _check_folder_of_form(title: str, folder: Path, settings: Settings) -> None:
    """Refuse a folder without revealing what is there."""
    if not settings.may_be_named_in_form(folder):
        raise UnusableInputError(
            f"{title}: from a form, expected a folder under one of LESION_SOURCE_FOLDERS"
        )


@asynccontextmanager
async def open_listing(
    key: ScopeKey, *, n_connections: int = N_CONNECTIONS, retry: Retry = RETRY, is_first_contact: bool = False
) -> AsyncIterator[Listing]:
    """Open the only session with a scope's source."""
    if not is_api(key.source):
        from lesion_tasks.archive.local import LocalListing

        try:
            listing = LocalListing(key.source, query=key.query, collections=key.collections)
        except OSError as error:
            raise UnusableInputError(
                f"source {key.source[:200]!a}: {error.strerror or error}, expected a readable folder"
            ) from error
        if listing.namespace is not None:
            _claim_namespace(key, listing.namespace, listing.download.continues)
        yield listing
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
            log.info("%s: %d failed attempts succeeded when retried", key.title, client.n_faults)


def _claim_namespace(key: ScopeKey, namespace: str, continues: str | None) -> None:
    """Note the first folder that uses a namespace, and those that continue it; raise UnusableInputError for any other.

    Two folders that both have a picture `img1` would otherwise be versions of one record.
    """
    values = {"namespace": namespace, "source": key.stored_source}
    note = text("""
        INSERT INTO namespace (namespace, source, continues) VALUES (:namespace, :source, :continues)
        ON CONFLICT DO NOTHING
    """)
    with key.workspace.session() as session:
        read = text("SELECT source FROM namespace WHERE namespace = :namespace AND continues IS NULL")
        first = session.scalar(read, values)
        if first is None:
            session.execute(note, {**values, "continues": None})
            first = session.scalar(read, values)
        if continues == first != key.stored_source:
            session.execute(note, {**values, "continues": first})
    if first not in {key.stored_source, continues}:
        raise UnusableInputError(
            f"{key.title}: namespace {namespace!r} is that of {first}, expected another one in {MAPPING_NAME}; "
            f"if these are the same pictures, moved, or more of them with other names, continues = {str(first)!r} there"
        )


def read_scope(key: ScopeKey) -> Scope | None:
    """Return the scope's row, detached; None before it is first polled."""
    with key.workspace.session() as session:
        scope = session.scalar(select(Scope).where(Scope.scope_id == key.scope_id))
        if scope is not None:
            session.expunge(scope)
        return scope


def polled_scope(key: ScopeKey) -> Scope:
    """Return the scope's row; raise UnusableInputError if it was never polled."""
    scope = read_scope(key)
    if scope is None:
        raise UnusableInputError(f"{key.title}: never polled, expected a poll first")
    return scope


def n_listed(key: ScopeKey) -> int:
    """Count the ids that a scope lists, including those of refused records."""
    statement = text("""
        SELECT (SELECT count(*) FROM scope_record WHERE scope_id = :scope_id AND missing_since IS NULL)
            + (SELECT count(DISTINCT isic_id) FROM refused_record AS refused
               WHERE scope_id = :scope_id AND isic_id IS NOT NULL AND NOT EXISTS (
                   SELECT FROM scope_record AS listed
                   WHERE listed.scope_id = :scope_id AND listed.isic_id = refused.isic_id
                       AND listed.missing_since IS NULL))
    """)
    with key.workspace.session() as session:
        return session.scalar(statement, {"scope_id": key.scope_id}) or 0


def n_listed_by_prefix(key: ScopeKey, n_digits: int) -> dict[str, int]:
    """Count the archive's own ids that a scope lists, by their first digits."""
    statement = text("""
        SELECT left(isic_id, :length) AS prefix, count(*) FROM (
            SELECT isic_id FROM scope_record
            WHERE scope_id = :scope_id AND missing_since IS NULL AND isic_id LIKE 'ISIC_%'
            UNION
            SELECT isic_id FROM refused_record WHERE scope_id = :scope_id AND isic_id LIKE 'ISIC_%'
        ) AS listed GROUP BY 1
    """)
    values = {"scope_id": key.scope_id, "length": 5 + n_digits}
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
    """Hold the exclusive right to write one part of a scope; a second run waits, and logs that it does."""
    shown = f"{part} of {key.title}"
    with hold_lock(key.workspace.engine, Lock.SCOPE_PART, f"{key.scope_id} {part}", shown=shown):
        yield
