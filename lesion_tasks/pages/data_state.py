"""The data now: the splits in force with their funnels, what was left out and why, and what changed since a moment."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

from lesion_tasks import UnusableInputError
from lesion_tasks.curation.reason_counts import KINDS as LEFT_OUT_KINDS
from lesion_tasks.curation.reason_counts import NO_IMAGE, ReasonCount, count_reasons
from lesion_tasks.database.schema import Manifest
from lesion_tasks.ingest.changes import KINDS, Change, read_changes
from lesion_tasks.ingest.runs import moment_of
from lesion_tasks.splits.manifest import manifests_in_force
from lesion_tasks.splits.subset_or_quarantine import SUBSETS
from lesion_tasks.workspace import Workspace

DEFAULT_DAYS = 7
MAX_CHANGES, N_SHOWN = 2_000, 100


@dataclass(frozen=True, kw_only=True)
class SplitState:
    """The manifest in force of a split."""

    manifest: Manifest
    funnel: list[tuple[dict[str, Any], str]]  # each step, and the page that lists what it counts
    n_by_subset: dict[str, int]
    n_quarantined: int


@dataclass(frozen=True, kw_only=True)
class DataState:
    """What the page about data shows."""

    since: datetime
    problem: str  # why what was asked for is not shown; empty: it is
    n_by_kind: dict[str, int]  # changes, by kind
    changes: list[Change]  # the latest of them
    is_cut: bool  # there are more than were counted
    splits: list[SplitState]
    left_out: dict[str, list[ReasonCount]]


def read_data(workspace: Workspace, since: str | None = None) -> DataState:
    """The state of the data by the database. `since` is a time or the id of an ingestion; None: the last week.

    So is anything that is neither, and the state says it.
    """
    moment, problem = datetime.now(UTC) - timedelta(days=DEFAULT_DAYS), ""
    if since:
        try:
            moment = moment_of(workspace, since)
        except UnusableInputError as error:
            problem = str(error)
    found = list(islice(read_changes(workspace, moment), MAX_CHANGES + 1))
    counted = Counter(change.kind for change in found[:MAX_CHANGES])
    with workspace.engine.connect() as connection:
        splits = [_split_state(manifest) for manifest in manifests_in_force(connection)]
        left_out = count_reasons(connection)
    latest = sorted(found, key=lambda change: (change.seen_at, change.isic_id), reverse=True)
    return DataState(
        since=moment,
        problem=problem,
        n_by_kind={kind: counted[kind] for kind in KINDS if counted[kind]},
        changes=latest[:N_SHOWN],
        is_cut=len(found) > MAX_CHANGES,
        splits=splits,
        left_out=left_out,
    )


def _place_of(subset: str) -> tuple[bool, int]:
    """Train, val and test, then what is drawn from them."""
    base, _, drawn = subset.partition("_")
    return bool(drawn), SUBSETS.index(base)


def _split_state(manifest: Manifest) -> SplitState:
    return SplitState(
        manifest=manifest,
        funnel=[(step, _list_of(manifest.split, step)) for step in manifest.funnel],
        n_by_subset={
            subset: sum(manifest.class_counts[subset].values())
            for subset in sorted(manifest.class_counts, key=_place_of)
        },
        n_quarantined=sum(-step["n"] for step in manifest.funnel if step.get("reason") == "quarantined"),
    )


def _list_of(split: str, step: Mapping[str, Any]) -> str:
    """The page that lists what a step of a funnel counts, from the root of the pages."""
    name, reason = step["step"], step.get("reason")
    if name == "rejected":
        return f"left-out/{LEFT_OUT_KINDS.index(NO_IMAGE)}?{urlencode({'reason': reason})}"
    if name == "records":
        return "records"
    asked = {"reason": reason} if reason else {"subset": name} if name in SUBSETS else {}
    return f"members/{quote(split, safe='')}" + (f"?{urlencode(asked)}" if asked else "")
