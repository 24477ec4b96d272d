"""The data now: the splits in force with their funnels, what was left out and why, and what changed since a moment.

Every number leads to the list of what it counts.
"""

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
from lesion_tasks.database.schema import Ingestion, Manifest
from lesion_tasks.ingest.changes import KINDS, Change, read_changes
from lesion_tasks.ingest.runs import moment_of, recent_ingestions
from lesion_tasks.pages.page_of_list import Shown, show
from lesion_tasks.reports.words import by_subset
from lesion_tasks.splits.manifest import manifests_in_force
from lesion_tasks.splits.subset_or_quarantine import SUBSETS
from lesion_tasks.workspace import Workspace

DEFAULT_DAYS = 7
QUARANTINED = "quarantined"
MAX_CHANGES, N_INGESTIONS = 2_000, 50


@dataclass(frozen=True, kw_only=True)
class SplitState:
    """The manifest in force of a split."""

    manifest: Manifest
    funnel: list[tuple[dict[str, Any], str]]  # each step, and the page that lists what it counts
    sizes: list[
        tuple[str, int, str]
    ]  # of each subset, then of the quarantine: its name, images, and their page


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What changed in the records since a moment."""

    since: datetime
    asked: str  # what was asked for, as an address has it; empty: nothing, or nothing that is known
    problem: str  # why what was asked for is not shown; empty: it is
    found: list[Change]  # the newest first
    is_cut: bool  # there are more than were read

    @property
    def n_by_kind(self) -> dict[str, int]:
        """How many changes there are of each kind that there is."""
        counted = Counter(change.kind for change in self.found)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    def page(self, kind: str, number: int) -> Shown[Change]:
        """A page of the changes of a kind; empty: of every kind."""
        some = [change for change in self.found if kind in ("", change.kind)]
        return show(number, len(some), lambda n, first: some[first : first + n])


@dataclass(frozen=True, kw_only=True)
class DataState:
    """What the page about data shows."""

    changes: Changes
    ingestions: list[Ingestion]  # that one may ask for, the newest first
    splits: list[SplitState]
    left_out: dict[str, list[ReasonCount]]


def find_changes(workspace: Workspace, since: str | None = None) -> Changes:
    """What changed since a time or the beginning of an ingestion, given by its id; None: within the last week.

    So it is for anything that is neither, and the answer says it.
    """
    moment, problem = datetime.now(UTC) - timedelta(days=DEFAULT_DAYS), ""
    if since:
        try:
            moment = moment_of(workspace, since)
        except UnusableInputError as error:
            problem = str(error)
    found = list(islice(read_changes(workspace, moment), MAX_CHANGES + 1))
    return Changes(
        since=moment,
        asked="" if problem else since or "",
        problem=problem,
        found=sorted(found[:MAX_CHANGES], key=lambda change: (change.seen_at, change.isic_id), reverse=True),
        is_cut=len(found) > MAX_CHANGES,
    )


def read_data(workspace: Workspace, since: str | None = None) -> DataState:
    """The state of the data by the database, and what changed `since`, as `find_changes` has it."""
    with workspace.engine.connect() as connection:
        splits = [_split_state(manifest) for manifest in manifests_in_force(connection)]
        left_out = count_reasons(connection)
    return DataState(
        changes=find_changes(workspace, since),
        ingestions=recent_ingestions(workspace, N_INGESTIONS),
        splits=splits,
        left_out=left_out,
    )


def _split_state(manifest: Manifest) -> SplitState:
    sizes = [
        (subset, sum(counts.values()), _members_of(manifest.split, subset=subset))
        for subset, counts in by_subset(manifest.class_counts)
    ]
    n_quarantined = sum(-step["n"] for step in manifest.funnel if step.get("reason") == QUARANTINED)
    quarantine = "in quarantine", n_quarantined, _members_of(manifest.split, reason=QUARANTINED)
    return SplitState(
        manifest=manifest,
        funnel=[(step, _list_of(manifest.split, step)) for step in manifest.funnel],
        sizes=[*sizes, quarantine],
    )


def _list_of(split: str, step: Mapping[str, Any]) -> str:
    """The page that lists what a step of a funnel counts, from the root of the pages."""
    name, reason = step["step"], step.get("reason")
    if name == "rejected":
        return f"left-out/{LEFT_OUT_KINDS.index(NO_IMAGE)}?{urlencode({'reason': reason})}"
    if name == "records":
        return "records"
    if reason:
        return _members_of(split, reason=reason)
    return _members_of(split, subset=name) if name in SUBSETS else _members_of(split)


def _members_of(split: str, **asked: str) -> str:
    return f"members/{quote(split, safe='')}" + (f"?{urlencode(asked)}" if asked else "")
