"""The champion of a task, and a day -> one row of `watch`, and a report: what has shifted since its training data.

    find      images that arrived since, and those to compare them with
    look      the champion's predictions and features of each, part by part (`looks`)
    judge     shifts of metadata, pictures, scores and labels (`shifts`), figures on newer images (`newer_figures`)
    store     the report, and then the row; the same data give the same of both

Killed at any moment, it goes on with the first part that is missing. Labels that arrive later change the rows of a day
when it is watched again.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select, text
from sqlalchemy.orm import Session

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import TASKS, VARIANTS
from lesion_tasks.catalog.lookup import ChangedQuestionError
from lesion_tasks.catalog.retraining import AS_SET
from lesion_tasks.catalog.titles import label
from lesion_tasks.catalog.watch_bounds import WATCH_BOUNDS
from lesion_tasks.database.schema import Watch
from lesion_tasks.evaluation.evaluation_record import DOCUMENT_DIGEST
from lesion_tasks.metrics.one_thread import one_thread_each
from lesion_tasks.metrics.watch_document import METHOD, ShiftTest, WatchDocument, WatchedFall
from lesion_tasks.pixels.picture_facts import FACTS
from lesion_tasks.serving.served_model import find_model
from lesion_tasks.watching.looks import Part, ask_for, look_at, parts_of, seen_images
from lesion_tasks.watching.watched_images import (
    NothingToWatchError,
    WatchedChampion,
    WatchedImages,
    find_images,
    find_watched,
    one_of_each_group,
)
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.newer_figures import NewerFigures

log = logging.getLogger(__name__)

FOLDER = "reports/watching"
_REFERENCE = ""  # beside the months
# The window is the last month, and those before it until it holds this many groups.
ENOUGH_GROUPS = 200


def champions_to_watch(
    workspace: Workspace, tasks: Sequence[str] = (), until: date | None = None
) -> list[str]:
    """The named tasks, by default all, whose champion can be watched until a day (default: tomorrow)."""
    found = []
    with workspace.engine.connect() as connection:
        for name in tasks or TASKS:
            try:
                find_watched(connection, name, until or tomorrow())
            except (NothingToWatchError, ChangedQuestionError) as error:
                log.info("passed over: %s", error)
            else:
                found.append(name)
    return found


def tomorrow() -> date:
    """The day before which everything has arrived so far, in UTC."""
    return datetime.now(UTC).date() + timedelta(days=1)


@one_thread_each()
def watch_champion(workspace: Workspace, task: str, until: date | None = None) -> Watch:
    """Watch the champion of a task on what arrived before a day (default: tomorrow); returns the row, detached.

    Raises `UnusableInputError` for a task without a champion, for a day before its training data were made, and for one
    that is yet to come.
    """
    from lesion_tasks.reports.watch_page import render_watch

    if until is not None and until > tomorrow():
        raise UnusableInputError(f"until {until}: expected {tomorrow()} at most, the day after today in UTC")
    with workspace.engine.connect() as connection:
        watched = find_watched(connection, task, until or tomorrow())
    images = find_images(workspace, watched)
    file = find_model(workspace, task, watched.training.training_id)
    rows_by_month = {_REFERENCE: images.reference, **images.by_month}
    parts = {month: parts_of(file, rows) for month, rows in rows_by_month.items()}
    asked = [part for some in parts.values() for part in some]
    ask_for(workspace.bucket, file, watched.until, asked)
    look_at(workspace.bucket, file, asked)
    document = _judge(workspace, watched, images, parts)
    folder = f"{FOLDER}/{watched.watch_id}"
    for name, (data, content_type) in render_watch(document).items():
        workspace.bucket.put(f"{folder}/{name}", data, content_type=content_type)
    key = f"{folder}/report.html"
    with workspace.engine.begin() as connection:
        _store(connection, document, key)
        found = find_watch(connection, document.watch_id)
    log.info("%s", document.words)
    log.info("report: %s/%s", workspace.bucket.url, key)
    return found


def _judge(
    workspace: Workspace,
    watched: WatchedChampion,
    images: WatchedImages,
    parts: Mapping[str, Sequence[Part]],
) -> WatchDocument:
    from lesion_tasks.metrics.newer_figures import measure_newer
    from lesion_tasks.metrics.shifts import find_shifts, too_few
    from lesion_tasks.metrics.two_samples import detectable_difference

    months = window_of(images.by_month, watched.until)
    seen = {
        month: seen_images(
            workspace.bucket,
            some,
            watched.task,
            watched.training.threshold,
            has_pictures=month == _REFERENCE or month in months,
        )
        for month, some in parts.items()
    }
    reference, new = seen[_REFERENCE], _joined([seen[month] for month in months], seen[_REFERENCE])
    units = one_of_each_group(reference), one_of_each_group(new)
    sizes = len(units[0]), len(units[1])
    reason = too_few(*sizes) if months else _why_no_month(images.n_by_month, watched)
    facts = FACTS if watched.training.recipe["side_px"] is not None else ()
    shifts = [] if reason else find_shifts(*units, facts)
    n_made = sum(one.p_value is not None for one in shifts)
    newer = measure_newer(
        reference,
        {month: seen[month] for month in images.by_month},
        watched.task,
        watched.training.threshold,
    )
    alarms = _alarms(shifts, newer.falls)
    n_looked_at = len(images.reference) + sum(len(rows) for rows in images.by_month.values())
    return WatchDocument(
        watch_id=watched.watch_id,
        task=watched.task.name,
        task_title=watched.task.title,
        training_id=watched.training.training_id,
        variant=watched.training.variant,
        title=watched.training.recipe["title"],
        manifest_digest=watched.manifest.digest,
        since=watched.since.astimezone(UTC).isoformat(timespec="seconds"),
        until=watched.until.isoformat(),
        first_month=months[0] if months else None,
        last_month=months[-1] if months else None,
        n_arrived=sum(images.n_by_month.values()),
        n_unlike=dict(images.n_unlike),
        overlaps=images.overlaps,
        n_not_drawn=images.n_not_drawn,
        n_unreadable=n_looked_at - sum(len(rows) for rows in seen.values()),
        n_new=len(new),
        n_new_groups=sizes[1],
        n_reference=len(reference),
        n_reference_groups=sizes[0],
        n_unlabelled=int(new["label"].isna().sum()),
        error_rate=WATCH_BOUNDS.error_rate,
        detectable=detectable_difference(*sizes, WATCH_BOUNDS.error_rate / n_made) if n_made else None,
        reason=reason,
        shifts=shifts,
        points=newer.points,
        falls=newer.falls,
        falls_reason=newer.reason,
        falls_without=list(newer.left_out),
        alarms=alarms,
        words=_words(shifts, newer, alarms, reason),
        method=METHOD,
    )


def window_of(by_month: "Mapping[str, pd.DataFrame]", until: date) -> list[str]:
    """The months whose images are compared, oldest first: the last one before a day, and those before it while too few
    groups have arrived; none if nothing arrived in the last one."""
    months, groups = [], set()
    if _month_before(until) in by_month:
        for month in sorted(by_month, reverse=True):
            months.append(month)
            groups |= set(by_month[month]["group_id"])
            if len(groups) >= ENOUGH_GROUPS:
                break
    return months[::-1]


def _why_no_month(n_by_month: Mapping[str, int], watched: WatchedChampion) -> str:
    until = watched.until
    month, first = _month_before(until), until.replace(day=1)
    if n_by_month.get(month):
        return f"all images that arrived in {month} are left out"
    since = watched.since.astimezone(UTC).date()
    after = f" after the data of its training ({since})" if f"{since:%Y-%m}" == month else ""
    if until.day == 1:
        return f"no image arrived in {month}{after}"
    earlier = f"; until {first} the month before it counts" if since < first else ""
    return f"no image arrived in {month} so far{after}{earlier}"


def _month_before(day: date) -> str:
    return (day - timedelta(days=1)).strftime("%Y-%m")


def _joined(some: "Sequence[pd.DataFrame]", like: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    return pd.concat(some, ignore_index=True) if some else like.iloc[:0]


def _alarms(shifts: Sequence[ShiftTest], falls: Sequence[WatchedFall]) -> list[str]:
    said = [f"{title_of(one)}: {one.words}" for one in shifts if one.is_beyond]
    return said + [f"{label(one.fall.measure)}: {one.fall.words}" for one in falls if one.is_beyond]


def title_of(one: ShiftTest) -> str:
    """What a test is about, in words."""
    what = f"all {one.kind}" if one.name == "told_apart" else label(one.name)
    return what if one.institution is None else f"{what} of {one.institution}"


def _words(
    shifts: Sequence[ShiftTest], newer: "NewerFigures", alarms: Sequence[str], reason: str | None
) -> str:
    n_within = sum(one.is_found and not one.is_beyond for one in shifts)
    n_made = sum(one.p_value is not None for one in shifts)
    if alarms:
        shown = "; ".join(alarms[:3]) + (f"; and {len(alarms) - 3} more" if len(alarms) > 3 else "")
        said = f"{len(alarms)} {'thing has' if len(alarms) == 1 else 'things have'} passed a bound. {shown}."
    elif reason:
        said = f"Whether anything has shifted cannot be determined: {reason}."
    elif n_within:
        said = (
            f"{n_within} of {n_made} comparisons differ by more than chance, none of them beyond its bound."
        )
    else:
        said = f"No shift was found in {n_made} comparisons."
    if newer.reason:
        return f"{said} Whether its figures hold on newer images cannot be determined: {newer.reason}."
    if any(one.is_beyond for one in newer.falls):
        return said
    is_all = all(one.fall.high is not None for one in newer.falls)
    which = "Its figures" if is_all else "Those of its figures that can be determined"
    return f"{said} {which} have not fallen beyond their bound."


def _store(connection: Connection, document: WatchDocument, report_key: str) -> None:
    """Write the row; one that says the same already is left as it is."""
    connection.execute(
        text(f"""
            INSERT INTO watch (watch_id, task, training_id, until, is_alarming, verdict, document, document_sha256,
                               report_key, watched_at)
            VALUES (:watch_id, :task, :training_id, :until, :is_alarming, :verdict, CAST(:document AS jsonb),
                    {DOCUMENT_DIGEST.format(":document")}, :key, now())
            ON CONFLICT (watch_id) DO UPDATE SET
                is_alarming = excluded.is_alarming, verdict = excluded.verdict, document = excluded.document,
                document_sha256 = excluded.document_sha256, watched_at = excluded.watched_at
            WHERE watch.document_sha256 <> excluded.document_sha256
        """),  # noqa: S608 - our own words
        {
            "watch_id": document.watch_id,
            "task": document.task,
            "training_id": document.training_id,
            "until": document.until,
            "is_alarming": bool(document.alarms),
            "verdict": document.words,
            "document": document.model_dump_json(),
            "key": report_key,
        },
    )


def find_watch(connection: Connection, watch_id: str) -> Watch:
    """A watch, detached."""
    with Session(connection, expire_on_commit=False) as session:
        found = session.scalars(select(Watch).where(Watch.watch_id == watch_id)).one()
        session.expunge_all()
    return found


def find_watch_report(connection: Connection, watch_id: str) -> str | None:
    """The key of the page of a watch; None if there is none of this id."""
    return connection.scalar(select(Watch.report_key).where(Watch.watch_id == watch_id))


def recent_watches(connection: Connection, task: str, n: int) -> list[Watch]:
    """The newest watches of the champions of a task, newest first, detached."""
    statement = select(Watch).where(Watch.task == task).order_by(Watch.until.desc(), Watch.watched_at.desc())
    with Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(statement.limit(n)))
        session.expunge_all()
    return rows


def variants_to_retrain(
    workspace: Workspace, watch_ids: Sequence[str], *, retraining: str = AS_SET
) -> list[str]:
    """The variants of the champions whose watch passed a bound; none unless a run, or else the setting, says so.

    `retraining`: one of RETRAININGS.
    """
    wanted = workspace.settings.retraining if retraining == AS_SET else retraining
    if wanted == "never":
        return []
    with workspace.engine.connect() as connection:
        found = [find_watch(connection, one) for one in watch_ids]
    return sorted({one.document["variant"] for one in found if one.is_alarming} & set(VARIANTS))
