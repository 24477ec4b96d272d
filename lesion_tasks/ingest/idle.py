"""A scope with nothing left to do -> a note that says so, so that the next check reads one row and not every row.

Triggers in the database remove the notes as soon as anything changes in the tables that they are about.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text, update

from lesion_tasks.database.schema import Scope
from lesion_tasks.ingest.scope import ScopeKey, n_listed


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a search for wanted files found."""

    n_wanted: int
    due_at: datetime | None  # when the next refused file is due; None: none is
    n_refused: int


@dataclass(frozen=True, kw_only=True)
class IdleNote:
    """The content of a note."""

    n_listed: int  # ids that the scope lists, including those of refused records
    rendition: str  # every wanted file of this rendition is in the bucket, or refused
    due_at: datetime | None  # when a refused file is to be tried again; None: never
    n_refused: int  # files of that rendition that could not be used when they were last tried


def idle(key: ScopeKey, scope: Scope) -> IdleNote | None:
    """Return a scope's note; None if it has none, or if another version of this program wrote it."""
    note = scope.idle or {}
    if note.get("code_version") != key.settings.code_version:
        return None
    due_at = note["due_at"] and datetime.fromisoformat(note["due_at"])
    return IdleNote(
        n_listed=note["n_listed"], rendition=note["rendition"], due_at=due_at, n_refused=note["n_refused"]
    )


def is_fetched(key: ScopeKey, scope: Scope, rendition: str, *, retries_refused: bool = False) -> bool:
    """Tell whether a note says that no file of a rendition is wanted now.

    With `retries_refused` every refused one is wanted, due or not.
    """
    note = idle(key, scope)
    if note is None or note.rendition != rendition or (retries_refused and note.n_refused):
        return False
    return note.due_at is None or note.due_at > datetime.now(UTC)


def note_idle(key: ScopeKey, rendition: str, look: Callable[[], Look]) -> None:
    """Find out whether a file of a rendition is wanted, or when one will be; write a note if none is wanted.

    `look` is called only once no change can go unnoticed any more.
    """
    token = secrets.token_hex(8)
    with key.workspace.session() as session:
        # A writer whose trigger has already fired but who has not committed would go unnoticed: wait for it.
        session.execute(text("LOCK TABLE scope IN SHARE ROW EXCLUSIVE MODE"))
        session.execute(update(Scope).where(Scope.scope_id == key.scope_id).values(idle={"token": token}))
    seen = look()
    if seen.n_wanted:
        return
    note = {
        "code_version": key.settings.code_version,
        "n_listed": n_listed(key),
        "rendition": rendition,
        "due_at": seen.due_at.isoformat() if seen.due_at else None,
        "n_refused": seen.n_refused,
    }
    with key.workspace.session() as session:
        # The token is gone if anything changed since.
        session.execute(
            update(Scope)
            .where(Scope.scope_id == key.scope_id, Scope.idle["token"].astext == token)
            .values(idle=note)
        )
