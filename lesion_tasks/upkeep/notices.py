"""What happened, and what is overdue -> notices in words, for the log and for whoever asked for them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from lesion_tasks.catalog import TASKS
from lesion_tasks.curation.correction_requests import page_of
from lesion_tasks.database.schema import CorrectionRequest, Delivery, Ingestion, Watch
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.evaluation_record import find_by_id, findings_digest
from lesion_tasks.metrics.counted import plural
from lesion_tasks.reports.words import quoted
from lesion_tasks.workspace import Workspace

# What people are told about -> whether somebody should look.
EVENTS = {
    "promoted": False,
    "rolled_back": False,
    "refused": False,
    "rejected": False,
    "expired": True,
    "superseded": False,
    "not_promoted": True,
    "waiting": True,
    "unsound": True,
    "failed": True,
    "late": True,
    "overdue": True,
    "shifted": True,
}


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing to tell, once: a task that is cleared or tried again has the same thing to tell."""

    event: str  # one of EVENTS
    about: (
        str | None
    )  # ids that name what happened; None: Airflow itself hands it over once, as what ends a run
    subject: str
    text: str
    page: str = ""  # the address of the product's page with more, from the root of its pages

    @property
    def is_alarming(self) -> bool:
        """Whether somebody should look."""
        return EVENTS[self.event]

    def as_dict(self) -> dict[str, Any]:
        """A dictionary ready for JSON."""
        names = ("event", "subject", "text", "page", "is_alarming")
        return {name: getattr(self, name) for name in names}


@contextmanager
def delivering(workspace: Workspace, notice: Notice, connection: str) -> Iterator[bool]:
    """Whether a notice is still to be sent to a connection; noted as sent if the block ends without an error.

    Of two at once, one waits for the other. Whoever is killed between telling and noting tells it again.
    """
    note = (
        insert(Delivery)
        .values(event=notice.event, about=notice.about, connection=connection, subject=notice.subject)
        .on_conflict_do_nothing()
        .returning(Delivery.event)
    )
    with workspace.engine.begin() as transaction:
        yield transaction.execute(note).scalar() is not None


def forget_deliveries(connection: Connection, before: datetime, *, is_deleting: bool) -> int:
    """Count the notes of deliveries before a moment, or remove them; what happens again after that is sent anew."""
    told = Delivery.told_at < before
    if is_deleting:
        return connection.execute(delete(Delivery).where(told)).rowcount
    return connection.execute(select(func.count()).where(told)).scalar_one()


def of_decision(decision: Mapping[str, Any], request_id: str) -> Notice | None:
    """What a request decided about a task; None if there was nothing to decide."""
    # Who asked for an override waits for an answer, also if there is nothing to decide.
    is_in_vain = decision["is_override"] and decision["action"] == "none"
    event = "not_promoted" if is_in_vain else decision["action"]
    if event not in EVENTS:
        return None
    task = TASKS.get(decision["task"])
    title = task.title if task else decision["task"]  # a task may go while its last run decides
    return Notice(
        event=event,
        about=f"{decision['task']} {request_id}",
        subject=f"{title}: {decision['training_id']} {event.replace('_', ' ')}",
        text=decision["reason"],
        page=f"champion/{quote(decision['task'])}",
    )


def of_correction(ended: CorrectionRequest) -> Notice | None:
    """That a request to correct the data was rejected, or ended without an answer; None if it was done."""
    if ended.outcome not in EVENTS:
        return None
    images = " and ".join(name for name in (ended.isic_id, ended.other_isic_id) if name)
    said = f" by {ended.answered_by}" if ended.outcome == "rejected" else ""
    return Notice(
        event=ended.outcome,
        about=f"correction {ended.request_id}",
        subject=f"Correction of {images} ({ended.decision.replace('_', ' ')}): {ended.outcome}{said}",
        text=f"{ended.asked_by} asked: {quoted(ended.reason)}. Answer: {ended.answer_reason or 'none in words'}",
        page=page_of(ended),
    )


def of_evaluation(workspace: Workspace, evaluation_id: str) -> Notice | None:
    """That an evaluation failed its integrity checks; None if it is sound."""
    with workspace.engine.connect() as connection:
        found = find_by_id(connection, evaluation_id)
        digest = findings_digest(connection, evaluation_id)
    if found.is_sound:
        return None
    return Notice(
        event="unsound",
        about=f"{evaluation_id} {digest}",
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
        about=f"{watch.watch_id} {watch.document_sha256}",
        subject=f"{TASKS[watch.task].title}: what the champion sees or says of new images has changed",
        text=watch.verdict,
        page=watch.report_key,
    )


def overdue(workspace: Workspace, request_id: str, *, now: datetime | None = None) -> list[Notice]:
    """What has not happened for too long: a complete ingestion, a new champion of a task that has one.

    It is sent again at the next request: as long as it has not happened.
    """
    now = now or datetime.now(UTC)
    found = []
    with workspace.session() as session:
        last = session.scalar(select(func.max(Ingestion.ended_at)))
    limit = workspace.settings.ingestion_max_days
    if last is None or now - last > timedelta(days=limit):
        found.append(
            Notice(
                event="overdue",
                about=f"ingestion {request_id}",
                subject="No ingestion has been completed for a long time",
                text=f"{_last_one(now, last)}; people are told after {plural(limit, 'day')}.",
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
                        about=f"{name} {request_id}",
                        subject=f"{task.title}: the champion is {plural((now - since).days, 'day')} old",
                        text=f"Nothing better was found since {since.date()}; people are told after "
                        f"{plural(limit, 'day')}.",
                        page=f"champion/{quote(name)}",
                    )
                )
    return found


def _last_one(now: datetime, ended: datetime | None) -> str:
    return (
        "There has been none yet"
        if ended is None
        else f"The last one ended {plural((now - ended).days, 'day')} ago"
    )
