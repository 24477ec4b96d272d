"""Which passes a run does, in which order; and all of them in one process."""

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import RETRY, Retry
from lesion_tasks.catalog.ingest_passes import DEFAULT_PASSES, INGEST_PASSES, SWEEP_SHARE
from lesion_tasks.catalog.pools import N_CONNECTIONS
from lesion_tasks.ingest.append import append_records, poll_scope, told
from lesion_tasks.ingest.fetch import fetch_files
from lesion_tasks.ingest.find_replaced_files import check_files
from lesion_tasks.ingest.reconcile import MAX_VANISHED_SHARE, reconcile_records
from lesion_tasks.ingest.scope import Trust, read_scope, scope_key
from lesion_tasks.ingest.sweep import sweep_records
from lesion_tasks.ingest.vocabulary_check import check_vocabulary
from lesion_tasks.workspace import Workspace


def choose_passes(
    workspace: Workspace,
    wanted: Collection[str],
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
) -> list[str]:
    """The passes that a run does of those that are wanted, in their order.

    Where `append` is about to read a scope completely for the first time, it is not swept: every record is new.
    """
    if unknown := set(wanted) - set(INGEST_PASSES):
        raise UnusableInputError(f"passes {sorted(unknown)}: expected some of {', '.join(INGEST_PASSES)}")
    known = read_scope(scope_key(workspace, source, query, collections, trust))
    is_first_read = "append" in wanted and (known is None or known.watermark_at is None)
    return [name for name in INGEST_PASSES if name in wanted and not (name == "sweep" and is_first_read)]


def ingest(
    workspace: Workspace,
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
    passes: tuple[str, ...] = DEFAULT_PASSES,
    sweep_share: float = SWEEP_SHARE,
    max_vanished_share: float = MAX_VANISHED_SHARE,
    rendition: str | None = None,
    n_connections: int = N_CONNECTIONS,
    retry: Retry = RETRY,
    retry_refused_after: timedelta | None = None,
) -> dict[str, Any]:
    """Poll, then run the named passes in their order; return the counts of each.

    Repeating it changes nothing if nothing changed. A scope that was just read completely is not swept. A person waits
    for this, perhaps after repairing a source, so refused files are tried again at once unless told otherwise.
    """
    scope: dict[str, Any] = {"source": source, "query": query, "collections": collections, "trust": trust}
    door: dict[str, Any] = {"n_connections": n_connections, "retry": retry}
    key = scope_key(workspace, source, query, collections, trust)
    chosen = choose_passes(workspace, passes, **scope)
    newest = poll_scope(key, read_scope(key), retry=retry)
    done: dict[str, Any] = {"poll": told(key, newest)}
    shares: dict[str, Any] = {"max_vanished_share": max_vanished_share}
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "append": lambda: append_records(workspace, **scope, **door, newest=newest),
        "reconcile": lambda: reconcile_records(workspace, **scope, **door, **shares),
        "sweep": lambda: sweep_records(workspace, **scope, **door, **shares, sweep_share=sweep_share),
        "check_files": lambda: check_files(workspace, **scope, **door),
        "fetch": lambda: fetch_files(
            workspace, **scope, **door, rendition=rendition, retry_refused_after=retry_refused_after
        ),
        "vocabulary": lambda: check_vocabulary(workspace, **scope),
    }
    return done | {name: run[name]() for name in chosen}
