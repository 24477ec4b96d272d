"""What happened, and what is overdue -> notices in words, for the log and for whoever wants to be told."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from sqlalchemy import func, select

from lesion_tasks.catalog import TASKS
from lesion_tasks.database.schema import Ingestion, Watch
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.evaluation_record import find_by_id
from lesion_tasks.workspace import Workspace

# What people are told about -> whether somebody should look.
EVENTS = {
    "promoted": False,
    "rolled_back": False,
    "refused": False,
    "rejected": False,
    "expired": True,
    "superseded": False,
    "waiting": True,
    "unsound": True,
    "failed": True,
    "late": True,
    "overdue": True,
    "shifted": True,
}


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing to tell. `page` is the address of the product's page with more, from the root of its pages."""

    event: str  # one of EVENTS
    subject: str
    text: str
    page: str = ""

    @property
    def is_alarming(self) -> bool:
        """Whether somebody should look."""
        return EVENTS[self.event]

    def as_dict(self) -> dict[str, Any]:
        """A dictionary fit for JSON."""
        return asdict(self) | {"is_alarming": self.is_alarming}


def of_decision(decision: Mapping[str, Any]) -> Notice | None:
    """What was decided about a task; None if there was nothing to decide."""
    if decision["action"] not in EVENTS:
        return None
    task = TASKS.get(decision["task"])
    title = task.title if task else decision["task"]  # a task may go while its last run decides
    return Notice(
        event=decision["action"],
        subject=f"{title}: {decision['training_id']} {decision['action'].replace('_', ' ')}",
        text=decision["reason"],
        page=f"champion/{quote(decision['task'])}",
    )


def of_evaluation(workspace: Workspace, evaluation_id: str) -> Notice | None:
    """That an evaluation failed its integrity checks; None if it is sound."""
    with workspace.engine.connect() as connection:
        found = find_by_id(connection, evaluation_id)
    if found.is_sound:
        return None
    return Notice(
        event="unsound",
        subject=f"{found.training_id}: integrity checks failed ({', '.join(found.failed_checks)})",
        text=found.verdict,
        page=found.report_key,
    )


def of_watch(watch: Watch) -> Notice | None:
    """What a watch found beyond its bounds; None if nothing was."""
    if not watch.is_alarming:
        return None
    return Notice(
        event="shifted",
        subject=f"{TASKS[watch.task].title}: what the champion sees or says of new images has changed",
        text=watch.verdict,
        page=watch.report_key,
    )


def overdue(workspace: Workspace, *, now: datetime | None = None) -> list[Notice]:
    """What has not happened for too long: a complete ingestion, a new champion of a task that has one."""
    now = now or datetime.now(UTC)
    found = []
    with workspace.session() as session:
        last = session.scalar(select(func.max(Ingestion.ended_at)))
    limit = workspace.settings.ingestion_max_days
    if last is None or now - last > timedelta(days=limit):
        found.append(
            Notice(
                event="overdue",
                subject="No ingestion has been completed for a long time",
                text=f"{_last_one(now, last)}; people are told after {limit} days.",
            )
        )
    limit = workspace.settings.champion_max_days
    with workspace.engine.connect() as connection:
        for name, task in TASKS.items():
            champion = champion_of(connection, name)
            since = champion.decision.decided_at if champion else None
            if since is not None and now - since > timedelta(days=limit):
                found.append(
                    Notice(
                        event="overdue",
                        subject=f"{task.title}: the champion is {(now - since).days} days old",
                        text=f"Nothing better was found since {since.date()}; people are told after {limit} days.",
                        page=f"champion/{quote(name)}",
                    )
                )
    return found


def _last_one(now: datetime, ended: datetime | None) -> str:
    return "There has been none yet" if ended is None else f"The last one ended {(now - ended).days} days ago"
