"""Labels that are probably wrong, pairs that probably show one lesion, and what people decided about such."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.curation.corrections import list_answered, list_corrections
from lesion_tasks.database.schema import Correction, CorrectionRequest
from lesion_tasks.evaluation.find_suspects import SuspectPair, suspect_labels_of, suspect_pairs
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
        return max(1, -(-self.n_found // N_SHOWN))


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


def _page(rows: Sequence[T], number: int, n_found: int, first: int | None = None) -> Shown[T]:
    """A page of a list, or of a part of it that begins at `first`."""
    start = (number - 1) * N_SHOWN
    skipped = start - (first or 0)
    return Shown(rows=list(rows[skipped : skipped + N_SHOWN]), number=number, first=start, n_found=n_found)


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
    alike, n_alike = suspect_pairs(workspace, N_SHOWN, first=(pairs - 1) * N_SHOWN)
    with workspace.engine.connect() as connection:
        decided = list_corrections(connection)
        answered = list_answered(connection, N_SHOWN)
    return SuspectsState(
        task=task,
        title=title,
        problem=problem,
        labels=_page(found, labels, len(found)),
        pairs=_page(alike, pairs, n_alike, first=(pairs - 1) * N_SHOWN),
        decided=decided,
        answered=answered,
    )
