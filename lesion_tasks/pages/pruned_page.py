"""What was pruned: each thing that went, when, why, by whom and in which run."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lesion_tasks.database.schema import Pruning
from lesion_tasks.pages.page_of_list import Shown, show
from lesion_tasks.workspace import Workspace

REMOVED_NOTHING = (
    "This run removed nothing: it had nothing to remove, or it was a dry run, whose log says what could go."
)


@dataclass(frozen=True, kw_only=True)
class PrunedKind:
    """What went of one kind, altogether."""

    kind: str
    n_things: int
    n_objects: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class PrunedState:
    """What the page about prunings shows."""

    request_id: str  # the run that is asked for; empty: all
    kinds: list[PrunedKind]
    shown: Shown[Pruning]  # the last first, detached


def read_pruned(workspace: Workspace, request_id: str, number: int) -> PrunedState:
    """A page of the prunings of one run or of all; what went of each kind counts all of them."""
    wanted = [Pruning.request_id == request_id] if request_id else []
    totals = (
        select(Pruning.kind, func.count(), func.sum(Pruning.n_objects), func.sum(Pruning.size_bytes))
        .where(*wanted)
        .group_by(Pruning.kind)
        .order_by(func.sum(Pruning.size_bytes).desc(), Pruning.kind)
    )
    some = select(Pruning).where(*wanted).order_by(Pruning.pruning_id.desc())
    with Session(workspace.engine, expire_on_commit=False) as session:
        kinds = [
            PrunedKind(kind=kind, n_things=n_things, n_objects=int(n_objects), size_bytes=int(size_bytes))
            for kind, n_things, n_objects, size_bytes in session.execute(totals)
        ]
        shown = show(
            number,
            sum(kind.n_things for kind in kinds),
            lambda n, first: list(session.scalars(some.offset(first).limit(n))),
        )
        session.expunge_all()
    return PrunedState(request_id=request_id, kinds=kinds, shown=shown)
