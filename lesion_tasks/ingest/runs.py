"""Runs of ingestion -> rows that show what changed since a run, and when a pass was last done."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from lesion_tasks import UnusableInputError
from lesion_tasks.database.schema import Ingestion
from lesion_tasks.ingest.scope import Trust, scope_key
from lesion_tasks.workspace import Workspace

N_RUNS_NAMED = 5


def begin_ingestion(
    workspace: Workspace,
    ingestion_id: str | None = None,
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
) -> str:
    """Note that a run begins, and return its id. A retried run keeps the time of its first attempt."""
    key = scope_key(workspace, source, query, collections, trust)
    now = datetime.now(UTC)
    ingestion_id = ingestion_id or f"by_hand__{now.isoformat()}"
    with key.workspace.session() as session:
        session.execute(
            insert(Ingestion)
            .values(ingestion_id=ingestion_id, scope_id=key.scope_id, began_at=now)
            .on_conflict_do_nothing()
        )
    return ingestion_id


def end_ingestion(workspace: Workspace, ingestion_id: str, counts: dict[str, Any]) -> None:
    """Note that all passes of a run are done, and what each counted."""
    with workspace.session() as session:
        session.execute(
            update(Ingestion)
            .where(Ingestion.ingestion_id == ingestion_id)
            .values(ended_at=datetime.now(UTC), counts=counts)
        )


def has_begun(workspace: Workspace, ingestion_id: str) -> bool:
    """Whether a run of this id ever began."""
    with workspace.session() as session:
        return session.get(Ingestion, ingestion_id) is not None


def last_done(
    workspace: Workspace,
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
) -> dict[str, datetime]:
    """Return, by pass, when the last complete run of a scope that included it began.

    The first read of a scope is a sweep of all of it, see `passes.choose_passes`.
    """
    key = scope_key(workspace, source, query, collections, trust)
    pass_label = func.jsonb_object_keys(Ingestion.counts).label("pass")
    runs = (
        select(pass_label, Ingestion.began_at)
        .where(Ingestion.scope_id == key.scope_id, Ingestion.ended_at.is_not(None))
        .subquery()
    )
    with key.workspace.session() as session:
        found = session.execute(
            select(runs.c["pass"], func.min(runs.c.began_at), func.max(runs.c.began_at)).group_by(
                runs.c["pass"]
            )
        ).all()
    done = {name: last for name, _, last in found}
    if "append" in done and "sweep" not in done:
        done["sweep"] = next(first for name, first, _ in found if name == "append")
    return done


def moment_of(workspace: Workspace, since: str) -> datetime:
    """Return the moment given by a time (UTC if it has no zone) or by the id of a run: when that run began.

    Raises UnusableInputError for anything else.
    """
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        return _began_at(workspace, since)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _began_at(workspace: Workspace, ingestion_id: str) -> datetime:
    if not ingestion_id.isprintable():
        raise UnusableInputError(f"{ingestion_id!a}: expected a time such as 2026-01-31T06:00:00 or a run")
    with workspace.session() as session:
        found = session.scalar(select(Ingestion.began_at).where(Ingestion.ingestion_id == ingestion_id))
        if found is not None:
            return found
        newest = select(Ingestion.ingestion_id).order_by(Ingestion.began_at.desc()).limit(N_RUNS_NAMED)
        known = ", ".join(session.scalars(newest))
    raise UnusableInputError(
        f"{ingestion_id!r}: neither a time such as 2026-01-31T06:00:00 nor a run; the newest runs are {known or 'none'}"
    )


def recent_ingestions(workspace: Workspace, n: int) -> list[Ingestion]:
    """The ingestions that began last, newest first, detached."""
    with workspace.session() as session:
        rows = list(session.scalars(select(Ingestion).order_by(Ingestion.began_at.desc()).limit(n)))
        session.expunge_all()
    return rows
