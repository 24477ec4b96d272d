"""Labels that are probably wrong, pairs that probably show one lesion, and what people decided about such."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.curation.corrections import list_answered, list_corrections
from lesion_tasks.database.schema import Correction, CorrectionRequest
from lesion_tasks.evaluation.find_suspects import SuspectPair, suspect_labels_of, suspect_pairs
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    from lesion_tasks.metrics.suspects import SuspectLabel

N_SHOWN = 24


@dataclass(frozen=True, kw_only=True)
class SuspectsState:
    """What the page about suspects shows."""

    task: str
    title: str
    problem: str  # why no label is suspect; empty: they were looked for
    labels: "list[SuspectLabel]"  # the first of them
    n_labels: int
    pairs: list[SuspectPair]
    decided: list[Correction]  # in force, the newest first
    answered: list[CorrectionRequest]  # what people were asked about, the newest first


def read_suspects(workspace: Workspace, task: str) -> SuspectsState:
    """The suspects of a task by its champion; raises `UnusableInputError` for an unknown task."""
    title = find_task(task).title
    labels: list[SuspectLabel] = []
    problem = ""
    try:
        labels = suspect_labels_of(workspace, task)
    except UnusableInputError as error:
        problem = str(error)
    with workspace.engine.connect() as connection:
        decided = list_corrections(connection)
        answered = list_answered(connection, N_SHOWN)
    return SuspectsState(
        task=task,
        title=title,
        problem=problem,
        labels=labels[:N_SHOWN],
        n_labels=len(labels),
        pairs=suspect_pairs(workspace, N_SHOWN),
        decided=decided,
        answered=answered,
    )
