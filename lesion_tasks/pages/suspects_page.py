"""Labels that are probably wrong, pairs that probably show one lesion, and what people decided about such."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.curation.corrections import list_answered, list_corrections
from lesion_tasks.database.schema import Correction, CorrectionRequest
from lesion_tasks.evaluation.find_suspects import (
    SuspectPair,
    count_suspect_pairs,
    suspect_labels_of,
    suspect_pairs,
)
from lesion_tasks.metrics.counted import n_pages
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    from lesion_tasks.metrics.suspects import SuspectLabel

N_SHOWN = 24
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Shown(Generic[T]):
    """One page of a list."""

    rows: list[T]
    number: int  # of the page, from 1
    first: int  # the place of its first row, from 0
    n_found: int

    @property
    def n_pages(self) -> int:
        return n_pages(self.n_found, N_SHOWN)


@dataclass(frozen=True, kw_only=True)
class SuspectsState:
    """What the page about suspects shows."""

    task: str
    title: str
    problem: str  # why no label is suspect; empty: they were looked for
    labels: "Shown[SuspectLabel]"
    pairs: Shown[SuspectPair]
    decided: list[Correction]  # in force, the newest first
    answered: list[CorrectionRequest]  # what people were asked about, the newest first


def read_suspects(workspace: Workspace, task: str, *, labels: int = 1, pairs: int = 1) -> SuspectsState:
    """The suspects of a task by its champion, `labels` and `pairs` being the pages that are wanted.

    Raises `UnusableInputError` for an unknown task.
    """
    title = find_task(task).title
    found: list[SuspectLabel] = []
    problem = ""
    try:
        found = suspect_labels_of(workspace, task)
    except UnusableInputError as error:
        problem = str(error)
    # A page beyond the last one, as after the last of a list was decided, is the last one.
    labels = min(labels, n_pages(len(found), N_SHOWN))
    of_labels = (labels - 1) * N_SHOWN
    with workspace.engine.connect() as connection:
        n_alike = count_suspect_pairs(connection)
        pairs = min(pairs, n_pages(n_alike, N_SHOWN))
        of_pairs = (pairs - 1) * N_SHOWN
        alike = suspect_pairs(connection, N_SHOWN, first=of_pairs)
        decided = list_corrections(connection)
        answered = list_answered(connection, N_SHOWN)
    return SuspectsState(
        task=task,
        title=title,
        problem=problem,
        labels=Shown(
            rows=found[of_labels : of_labels + N_SHOWN], number=labels, first=of_labels, n_found=len(found)
        ),
        pairs=Shown(rows=alike, number=pairs, first=of_pairs, n_found=n_alike),
        decided=decided,
        answered=answered,
    )
