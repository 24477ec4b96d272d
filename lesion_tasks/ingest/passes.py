"""All layers, in order, in one process."""

from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import N_CONNECTIONS, RETRY, Retry
from lesion_tasks.ingest.append import append_records, probe_scope, told
from lesion_tasks.ingest.check_files import check_files
from lesion_tasks.ingest.fetch import fetch_files
from lesion_tasks.ingest.reconcile import MAX_VANISHED_SHARE, reconcile_records
from lesion_tasks.ingest.scope import read_scope, scope_key
from lesion_tasks.ingest.sweep import SHARD_SHARE, sweep_records

LAYERS = ("append", "reconcile", "sweep", "check_files", "fetch")
# Asking for files that are there pays only when it is spread over months.
DEFAULT_LAYERS = ("append", "reconcile", "sweep", "fetch")


def ingest(
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    layers: tuple[str, ...] = DEFAULT_LAYERS,
    shard_share: float = SHARD_SHARE,
    max_vanished_share: float = MAX_VANISHED_SHARE,
    rendition: str | None = None,
    n_connections: int = N_CONNECTIONS,
    retry: Retry = RETRY,
) -> dict[str, Any]:
    """Probe, then run the named layers in their order; return the counts of each.

    Repeating it changes nothing where nothing changed. A scope that was read completely just now is not swept.
    """
    if unknown := set(layers) - set(LAYERS):
        raise UnusableInputError(f"layers {sorted(unknown)}: expected some of {', '.join(LAYERS)}")
    scope: dict[str, Any] = {"source": source, "query": query, "collections": collections}
    door: dict[str, Any] = {"n_connections": n_connections, "retry": retry}
    key = scope_key(source, query, collections)
    known = read_scope(key)
    is_first_read = known is None or known.watermark_at is None
    newest = probe_scope(key, known, retry=retry)
    done: dict[str, Any] = {"probe": told(key, newest)}
    if "append" in layers:
        done["append"] = append_records(**scope, **door, newest=newest)
    if "reconcile" in layers:
        done["reconcile"] = reconcile_records(**scope, **door, max_vanished_share=max_vanished_share)
    if "sweep" in layers and not ("append" in layers and is_first_read):
        done["sweep"] = sweep_records(
            **scope, **door, shard_share=shard_share, max_vanished_share=max_vanished_share
        )
    if "check_files" in layers:
        done["check_files"] = check_files(**scope, **door)
    if "fetch" in layers:
        done["fetch"] = fetch_files(**scope, **door, rendition=rendition)
    return done
