"""All passes, in order, in one process."""

from datetime import timedelta
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import RETRY, Retry
from lesion_tasks.catalog.ingest_passes import DEFAULT_PASSES, INGEST_PASSES, SWEEP_SHARE
from lesion_tasks.catalog.pools import N_CONNECTIONS
from lesion_tasks.ingest.append import append_records, poll_scope, told
from lesion_tasks.ingest.check_files import check_files
from lesion_tasks.ingest.fetch import fetch_files
from lesion_tasks.ingest.reconcile import MAX_VANISHED_SHARE, reconcile_records
from lesion_tasks.ingest.scope import Trust, read_scope, scope_key
from lesion_tasks.ingest.sweep import sweep_records
from lesion_tasks.ingest.vocabulary_check import check_vocabulary
from lesion_tasks.workspace import Workspace


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
    if unknown := set(passes) - set(INGEST_PASSES):
        raise UnusableInputError(f"passes {sorted(unknown)}: expected some of {', '.join(INGEST_PASSES)}")
    scope: dict[str, Any] = {"source": source, "query": query, "collections": collections, "trust": trust}
    door: dict[str, Any] = {"n_connections": n_connections, "retry": retry}
    key = scope_key(workspace, source, query, collections, trust)
    known = read_scope(key)
    is_first_read = known is None or known.watermark_at is None
    newest = poll_scope(key, known, retry=retry)
    done: dict[str, Any] = {"poll": told(key, newest)}
    if "append" in passes:
        done["append"] = append_records(workspace, **scope, **door, newest=newest)
    if "reconcile" in passes:
        done["reconcile"] = reconcile_records(
            workspace, **scope, **door, max_vanished_share=max_vanished_share
        )
    if "sweep" in passes and not ("append" in passes and is_first_read):
        done["sweep"] = sweep_records(
            workspace, **scope, **door, sweep_share=sweep_share, max_vanished_share=max_vanished_share
        )
    if "check_files" in passes:
        done["check_files"] = check_files(workspace, **scope, **door)
    if "fetch" in passes:
        done["fetch"] = fetch_files(
            workspace, **scope, **door, rendition=rendition, retry_refused_after=retry_refused_after
        )
    if "vocabulary" in passes:
        done["vocabulary"] = check_vocabulary(workspace, **scope)
    return done
