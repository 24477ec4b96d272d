"""Labels that the champion disagrees with, pairs that may show one lesion, and what people decided about such."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.curation.correction_requests import CorrectionQuestion, Request, is_open
from lesion_tasks.curation.corrections import (
    count_answered,
    count_corrections,
    list_answered,
    list_corrections,
)
from lesion_tasks.database.schema import Correction, CorrectionRequest
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.find_suspects import (
    SuspectLabels,
    SuspectPair,
    count_suspect_pairs,
    suspect_labels_of,
    suspect_pairs,
)
from lesion_tasks.pages.activity import ASKING, AT_WORK, N_AT_WORK, Runs
from lesion_tasks.pages.page_of_list import Shown, show
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    from lesion_tasks.metrics.suspects import SuspectLabel

log = logging.getLogger(__name__)

# The lists of the page, one at a time -> how many to a page.
SIZES = {"labels": 10, "pairs": 10, "decided": 50, "answered": 50}
KINDS = {
    "labels": "Labels",
    "pairs": "Pairs",
    "decided": "Decisions in force",
    "answered": "Asked about, and withdrawn",
}
# What a question is about: the images and whose label it is (None: not about a label), or a decision by its number.
About = tuple[tuple[str, ...], str | None] | int
Returned = Callable[[str, str, str, int], Any]


@dataclass(frozen=True, kw_only=True)
class SuspectsState:
    """What the page about suspects shows."""

    task: str
    title: str
    problem: str  # why no label is suspect; empty: they were looked for
    has_champion: bool
    looked_at: str  # among which images labels were looked for; empty: among none
    shown: (
        "Shown[SuspectLabel | SuspectPair | Correction | CorrectionRequest]"  # of the list that is asked for
    )
    subset_by_id: Mapping[str, str]
    asked: Mapping[About, Request]  # what a person is asked about now

    def asked_about(self, *isic_ids: str) -> Request | None:
        """What a person is asked now about a label of this task, or about a pair."""
        return self.asked.get((tuple(sorted(isic_ids)), self.task if len(isic_ids) == 1 else None))

    def asked_to_withdraw(self, correction_id: int) -> Request | None:
        """What a person is asked now about the withdrawal of a decision."""
        return self.asked.get(correction_id)


def read_suspects(
    workspace: Workspace, task: str, *, kind: str, number: int, asked: Mapping[About, Request]
) -> SuspectsState:
    """A page of one of KINDS: suspects of a task by its champion, or what was decided.

    Raises `UnusableInputError` for an unknown task or list.
    """
    title = find_task(task).title
    if kind not in KINDS:
        raise UnusableInputError(f"kind {kind[:100]!r}: expected one of {', '.join(KINDS)}")
    found: SuspectLabels | None = None
    problem = ""
    with workspace.engine.connect() as connection:
        has_champion = champion_of(connection, task) is not None
    if kind == "labels" and has_champion:
        try:
            found = suspect_labels_of(workspace, task)
        except UnusableInputError as error:
            problem = str(error)
    labels = found.labels if found else []
    with workspace.engine.connect() as connection:
        n_found, read = _list(connection, kind, labels)
        return SuspectsState(
            task=task,
            title=title,
            problem=problem,
            has_champion=has_champion,
            looked_at=found.looked_at if found else "",
            shown=show(number, n_found, read, size=SIZES[kind]),
            subset_by_id=found.subset_by_id if found else {},
            asked=asked,
        )


def _list(
    connection: Connection, kind: str, labels: "Sequence[SuspectLabel]"
) -> tuple[int, Callable[[int, int], Sequence[Any]]]:
    """How many a list has, and what reads some of them: how many, from the one at which place."""
    if kind == "labels":
        return len(labels), lambda n, first: labels[first : first + n]
    if kind == "pairs":
        return count_suspect_pairs(connection), lambda n, first: suspect_pairs(connection, n, first=first)
    if kind == "decided":
        return count_corrections(connection), lambda n, first: list_corrections(connection, n=n, first=first)
    return count_answered(connection), lambda n, first: list_answered(connection, n, first=first)


def read_requests_asked(connection: Connection, runs: Runs, returned_by: Returned) -> dict[About, Request]:
    """What runs of `correct_data` ask a person about now, without those that are overtaken."""
    asked: dict[About, Request] = {}
    for run in runs.at_work(N_AT_WORK, "correct_data"):
        if not any(AT_WORK.get(task.state or "") == ASKING for task in run.tasks):
            continue
        for one in returned_by(run.dag_id, run.run_id, "propose", -1) or ():
            try:
                request = Request(**CorrectionQuestion(**one).request)
            except TypeError as error:
                log.warning("run %s asks what another release asked: %s", run.run_id, error)
                continue
            if is_open(connection, request):
                asked[_about(request)] = request
    return asked


def _about(request: Request) -> About:
    if request.correction_id is not None:
        return request.correction_id
    return tuple(sorted(request.isic_ids)), request.task if len(request.isic_ids) == 1 else None
