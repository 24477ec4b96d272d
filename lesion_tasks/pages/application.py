"""The pages as a web application, the leaderboard first: every route guarded, everything read only, no word of Airflow.

What stands outside, Airflow's own, comes in as functions: who may read, what a person may start, what a task returned.
Routes are plain functions: they wait for the database, and must not hold up a server's loop.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.image_ids import MAX_ID_CHARACTERS
from lesion_tasks.bucket import MissingObjectError
from lesion_tasks.catalog import TASKS, own_entries
from lesion_tasks.catalog.approvals import (
    ASKING,
    ASKS_NOBODY,
    HOW_TO_OVERRIDE,
    MIN_REASON,
    NEVER_OVERRIDABLE,
    OVERRIDABLE,
)
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.catalog.lookup import find_split, find_task
from lesion_tasks.catalog.variants import RETRAIN_SHARE
from lesion_tasks.curation.reason_counts import KINDS, count_left_out, list_left_out
from lesion_tasks.curation.synthetic_images import are_all_synthetic
from lesion_tasks.evaluation.find_suspects import MIN_DETAIL
from lesion_tasks.evaluation.leaderboard import LeaderboardFilter, list_manifests, read_leaderboard_rows
from lesion_tasks.ingest.changes import KINDS as CHANGE_KINDS
from lesion_tasks.pages.activity import (
    KEPT_DAYS,
    N_AT_WORK,
    WITHOUT_WORDS,
    OvertakenBy,
    Run,
    Runs,
    is_deciding,
    read_activity,
)
from lesion_tasks.pages.data_in_motion import (
    changed_of_tasks,
    changed_of_training,
    headline,
    read_motion,
)
from lesion_tasks.pages.data_state import find_changes, read_data
from lesion_tasks.pages.decisions_page import N_DECISIONS, read_champion
from lesion_tasks.pages.open_question import AskedNow, find_overtaken, read_asked_now, read_question
from lesion_tasks.pages.page_of_list import ROWS_PER_PAGE, PageNumber, Shown, address_but, show
from lesion_tasks.pages.pipeline import being_prepared, counts_in_words, read_state
from lesion_tasks.pages.pruned_page import REMOVED_NOTHING, read_pruned
from lesion_tasks.pages.rendering import (
    PAGE_POLICY,
    STATIC,
    STORED_POLICY,
    dated,
    in_theme,
    render,
    static_file,
)
from lesion_tasks.pages.report_list import KINDS as REPORT_KINDS
from lesion_tasks.pages.report_list import read_reports
from lesion_tasks.pages.report_now import read_now
from lesion_tasks.pages.run_results import RESULT_TASKS, find_result
from lesion_tasks.pages.side_by_side import MAX_TRAININGS, read_side_by_side
from lesion_tasks.pages.stored_files import StoredFile, read_image, read_report_file
from lesion_tasks.pages.suspects_page import KINDS as SUSPECT_KINDS
from lesion_tasks.pages.suspects_page import read_requests_asked, read_suspects
from lesion_tasks.pages.training_page import TryOf, read_training
from lesion_tasks.pages.what_next import NextStep, next_step
from lesion_tasks.reports.index import LeaderboardRow
from lesion_tasks.reports.plot import share_scale, whisker
from lesion_tasks.reports.words import OUTCOMES
from lesion_tasks.splits.exclusions import REASONS
from lesion_tasks.splits.member_list import count_listed, find_pictures, list_listed
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

MAX_RESULTS = 40  # of one run, that are shown
N_FAILED = 8  # runs, on the first page
# The pages that show figures or models, or what they rest on; the first one names everything that is at work.
RESTING = frozenset({"leaderboard", "champion", "data", "suspects", "reports"})


router = APIRouter()


def build_application(
    *,
    open_workspace: Callable[[], Workspace],
    may_read: Callable[..., Any],
    may_start: Callable[..., Collection[str]],
    returned_by: Callable[[str, str, str, int | None], Any],
    try_of: TryOf,
    runs: Runs,
) -> FastAPI:
    """The application.

    `may_read` is a dependency that raises for whoever may not read; `may_start` one that returns the DAGs that a person
    may trigger. `returned_by` says what a task returned: DAG, run, task, map index (-1: not mapped; None: a list of
    what all of them did). `try_of` finds the try of a task that was training at a moment; `runs` are those of the
    pipeline's DAGs.
    """

    def note_startable(request: Request, startable: Annotated[Any, Depends(may_start)]) -> None:
        request.state.startable = startable

    app = FastAPI(
        title="Lesions",
        dependencies=[Depends(may_read), Depends(note_startable)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    for kind in (UnusableInputError, MissingObjectError):
        app.add_exception_handler(kind, _not_found)
    app.add_exception_handler(Exception, _failed)
    app.state.open_workspace = open_workspace
    app.state.returned_by = returned_by
    app.state.try_of = try_of
    app.state.runs = runs
    app.include_router(router)
    return app


def _workspace(request: Request) -> Workspace:
    found: Workspace = request.app.state.open_workspace()
    return found


def _root(request: Request) -> str:
    """The path below which the pages are, with a slash at the end."""
    return str(request.scope.get("root_path", "")).rstrip("/") + "/"


def _page(
    request: Request,
    template: str,
    active: str = "",
    status: int = 200,
    *,
    tasks_marked: Sequence[str] = (),  # the mark on the page is about the data of their champions
    training_marked: str | None = None,  # and about those of this training
    **facts: Any,
) -> Response:
    def to_do_next(task: str | None = None) -> NextStep | None:
        with _workspace(request).engine.connect() as connection:
            return next_step(connection, task)

    is_marked = status == 200 and (active in RESTING or bool(tasks_marked))
    has_motion = active in RESTING
    asked = [("task", name) for name in tasks_marked]
    asked += [("training", training_marked)] if training_marked else []
    asked += [] if has_motion else [("has_motion", "false")]
    body = render(
        template,
        root=_root(request),
        tasks=TASKS,
        has_synthetic=_has_synthetic(request, status),
        min_reason=MIN_REASON,
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        active=active,
        mark=f"mark?{urlencode(asked)}" if is_marked else None,
        **(_mark(request, tasks_marked, training_marked, has_motion=has_motion) if is_marked else {}),
        next_step=to_do_next,  # asked only by what is empty
        **facts,
    )
    headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(body, status_code=status, headers=headers)


def _mark(
    request: Request, tasks: Sequence[str], training_id: str | None, *, has_motion: bool
) -> dict[str, Any]:
    """What the mark about changes of the data shows, if anything."""
    with _workspace(request).engine.connect() as connection:
        motion = read_motion(connection, request.app.state.runs) if has_motion else []
        changed = changed_of_tasks(connection, tasks)
        changed += [] if training_id is None else changed_of_training(connection, training_id)
    return {
        "motion": motion,
        "changed": changed,
        "headline": headline(motion, changed),
        "retrain_share": RETRAIN_SHARE,
    }


@router.get("/mark")
def show_mark(
    request: Request,
    task: Annotated[list[str] | None, Query()] = None,
    training: str | None = None,
    has_motion: bool = True,
) -> Response:
    """The mark of a page alone, with which it renews it."""
    tasks = [find_task(name).name for name in task or []]
    body = render(
        "mark.html.j2", root=_root(request), **_mark(request, tasks, training, has_motion=has_motion)
    )
    headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(body, headers=headers)


def _asked_now(request: Request, at_work: Sequence[Run]) -> list[AskedNow]:
    with _workspace(request).engine.connect() as connection:
        return read_asked_now(
            connection, at_work, find_overtaken(connection, at_work, {}), root=_root(request)
        )


def _has_synthetic(request: Request, status: int) -> bool:
    """Whether a program drew all pictures; a page about a failure does not ask a database that may be the cause."""
    if status != 200:
        return False
    with _workspace(request).engine.connect() as connection:
        return are_all_synthetic(connection)


def _stored(file: StoredFile) -> Response:
    headers = {
        "Content-Security-Policy": STORED_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
        "Referrer-Policy": "no-referrer",
    }
    return Response(file.data, media_type=file.content_type, headers=headers)


def _dated(file: StoredFile) -> StoredFile:
    if not file.content_type.startswith("text/html"):
        return file
    return replace(file, data=dated(file.data, datetime.now(UTC)))


def _not_found(request: Request, error: Exception) -> Response:
    words = str(error).replace(own_entries.read_from(), "")  # a place on the server is nobody's business here
    return _page(request, "message.html.j2", status=404, title="Nothing to show", words=words)


def _failed(request: Request, error: Exception) -> Response:
    log.error("page %s", request.url.path, exc_info=error)
    words = f"{type(error).__name__}: the log of the API server says more."
    return _page(request, "message.html.j2", status=500, title="This page could not be made", words=words)


@router.get("/")
def show_pipeline(request: Request) -> Response:
    """Where the pipeline stands."""
    workspace = _workspace(request)
    state = read_state(workspace)
    asked_now: list[AskedNow] = []
    with workspace.engine.connect() as connection:

        def overtaken(at_work: Sequence[Run]) -> OvertakenBy:
            found = find_overtaken(connection, at_work, state.now)
            asked_now.extend(read_asked_now(connection, at_work, found, root=_root(request)))
            return found

        activity = read_activity(request.app.state.runs, N_FAILED, overtaken)
    unended = [one.ingestion_id for one in state.ingestions if one.ended_at is None]
    startable = request.state.startable
    return _page(
        request,
        "pipeline.html.j2",
        "pipeline",
        tasks_marked=list(TASKS),
        asked_now=asked_now,
        may_answer=bool(set(ASKING) & set(startable)),
        state=state,
        activity=activity,
        ingesting={name: request.app.state.runs.find("ingest_isic", name) for name in unended},
        n_at_work=activity.count_running(len(state.running)),
        preparing=being_prepared(activity.training, state.running),
        without_words=WITHOUT_WORDS,
        kept_days=KEPT_DAYS,
        in_words=counts_in_words,
        startable=startable,
    )


@router.get("/leaderboard")
def choose_leaderboard(request: Request) -> Response:
    """The leaderboard of the first task."""
    return RedirectResponse(f"{_root(request)}leaderboard/{next(iter(TASKS))}")


@router.get("/leaderboard/{task}")
def show_leaderboard(
    request: Request,
    task: str,
    words: str = "",
    manifest: str = "",
    is_sound: bool = False,
    has_archived: bool = False,
    number: PageNumber = 1,
) -> Response:
    """A page of a task's leaderboard."""
    about = find_task(task)
    wanted = LeaderboardFilter(
        words=words[:100], manifest=manifest[:64], is_sound=is_sound, has_archived=has_archived
    )
    with _workspace(request).engine.connect() as connection:
        shown = _leaderboard_page(connection, task, wanted, number)
        manifests = list_manifests(connection, task)
    measure = leading_measure(task)
    figures = [row.figures.get(measure) for row in shown.rows]
    scale = share_scale(figures)
    bars = [
        None
        if figure is None or figure.value is None
        else whisker(figure.value, figure.low, figure.high, scale=scale, reference=0.5)
        for figure in figures
    ]
    asked = [
        ("words", wanted.words),
        ("manifest", wanted.manifest),
        ("is_sound", "true" if is_sound else ""),
        ("has_archived", "true" if has_archived else ""),
    ]
    return _page(
        request,
        "leaderboard.html.j2",
        "leaderboard",
        tasks_marked=[task],
        task=about,
        measure=measure,
        second="sensitivity_at_90_specificity" if about.positive else "balanced_accuracy",
        rows=list(zip(shown.rows, figures, bars, strict=True)),
        scale=scale,
        wanted=wanted,
        manifests=manifests,
        shown=shown,
        address=address_but(asked, "number"),
        max_trainings=MAX_TRAININGS,
    )


def _leaderboard_page(
    connection: Connection, task: str, wanted: LeaderboardFilter, number: int
) -> Shown[LeaderboardRow]:
    def read(n: int, first: int) -> tuple[list[LeaderboardRow], int]:
        return read_leaderboard_rows(connection, task, wanted=wanted, n=n, first=first, has_best=True)

    rows, n_found = read(ROWS_PER_PAGE, (number - 1) * ROWS_PER_PAGE)
    if rows or number == 1:
        return Shown(rows=rows, number=number, n_found=n_found, size=ROWS_PER_PAGE)
    return show(number, read(1, 0)[1], lambda n, first: read(n, first)[0])  # beyond the last one


@router.get("/compare")
def show_side_by_side(request: Request, training: Annotated[list[str] | None, Query()] = None) -> Response:
    """Several trainings side by side."""
    found = read_side_by_side(_workspace(request), training or [])
    return _page(request, "compare.html.j2", "leaderboard", found=found)


@router.get("/training/{training_id}")
def show_training(request: Request, training_id: str) -> Response:
    """A training that failed, or was tried again: when, why, with which settings, and what to do."""
    state = read_training(_workspace(request), training_id, request.app.state.try_of)
    return _page(request, "training_page.html.j2", "pipeline", state=state)


@router.get("/champion")
def choose_champion(request: Request) -> Response:
    """The champion of the first task."""
    return RedirectResponse(f"{_root(request)}champion/{next(iter(TASKS))}")


@router.get("/champion/{task}")
def show_champion(request: Request, task: str) -> Response:
    """A task's champion and its history."""
    state = read_champion(_workspace(request), task)
    # Whoever deletes a run in Airflow leaves the row of its question until the next run.
    there = {
        name: run
        for name, run in state.asked.items()
        if (found := request.app.state.runs.find(run.dag_id, run.run_id)) is not None and found.is_at_work
    }
    state = replace(state, asked=there)
    promoting = request.app.state.runs.at_work(N_AT_WORK, "promote_model")
    asked_now = _asked_now(request, promoting)
    startable = request.state.startable
    return _page(
        request,
        "champion.html.j2",
        "champion",
        tasks_marked=[task],
        asked_now=asked_now,
        state=state,
        deciding=[run for run in promoting if is_deciding(run, task, TASKS)],
        startable=startable,
        n_decisions=N_DECISIONS,
        can_be_overridden=OVERRIDABLE,
        never_overridden=NEVER_OVERRIDABLE,
        asks_nobody=ASKS_NOBODY,
        how_to_override=HOW_TO_OVERRIDE,
        outcomes=OUTCOMES,
    )


@router.get("/data")
def show_data(request: Request, since: str | None = None) -> Response:
    """The data and its changes."""
    return _page(
        request,
        "data_state.html.j2",
        "data",
        tasks_marked=list(TASKS),
        state=read_data(_workspace(request), since or None),
    )


@router.get("/changes")
def show_changes(request: Request, since: str = "", kind: str = "", number: PageNumber = 1) -> Response:
    """What changed in the records since a moment, of one kind or of every kind."""
    if kind and kind not in CHANGE_KINDS:
        raise UnusableInputError(f"kind {kind[:100]!r}: expected one of {', '.join(CHANGE_KINDS)}")
    workspace = _workspace(request)
    changes = find_changes(workspace, since[:250] or None)
    shown = changes.page(kind, number)
    with workspace.engine.connect() as connection:
        pictures = find_pictures(connection, [change.isic_id for change in shown.rows])
    return _page(
        request,
        "changes.html.j2",
        "data",
        changes=changes,
        kind=kind,
        shown=shown,
        pictures=pictures,
        address=address_but([("since", changes.asked), ("kind", kind)], "number"),
    )


@router.get("/left-out/{place}")
def show_left_out(
    request: Request,
    place: str,
    reason: str = "",
    number: PageNumber = 1,
) -> Response:
    """Everything that was left out for one reason before any split."""
    if place not in (places := [str(one) for one in range(len(KINDS))]):
        raise UnusableInputError(f"list {place[:100]!r}: expected one of {', '.join(places)}")
    kind, reason = KINDS[int(place)], reason[:100]
    with _workspace(request).engine.connect() as connection:
        shown = show(
            number,
            count_left_out(connection, kind, reason),
            lambda n, first: list_left_out(connection, kind, reason, n=n, first=first),
        )
    address = address_but([("reason", reason)], "number")
    return _page(request, "left_out.html.j2", "data", what=kind, reason=reason, shown=shown, address=address)


@router.get("/records")
def show_records(request: Request, number: PageNumber = 1) -> Response:
    """Every record that came from an archive."""
    return _listed(request, None, "", "", number)


@router.get("/members/{split}")
def show_members(
    request: Request, split: str, reason: str = "", subset: str = "", number: PageNumber = 1
) -> Response:
    """The images of a split: all of them, those of a subset, or those that were left out for a reason."""
    find_split(split)
    return _listed(request, split, subset[:100], reason[:100], number)


def _listed(request: Request, split: str | None, subset: str, reason: str, number: int) -> Response:
    wanted = {"subset": subset or None, "reason": reason or None}
    with _workspace(request).engine.connect() as connection:
        shown = show(
            number,
            count_listed(connection, split, **wanted),
            lambda n, first: list_listed(connection, split, **wanted, n=n, first=first),
        )
    address = address_but([("subset", subset), ("reason", reason)], "number")
    return _page(
        request,
        "members.html.j2",
        "data",
        split=split,
        subset=wanted["subset"],
        reason=wanted["reason"],
        explained=REASONS.get(reason, ""),
        shown=shown,
        address=address,
    )


@router.get("/pruned")
def show_pruned(request: Request, run: str = "", number: PageNumber = 1) -> Response:
    """What was pruned, of one run or ever."""
    state = read_pruned(_workspace(request), run[:250], number)
    address = address_but([("run", state.request_id)], "number")
    return _page(
        request, "pruned.html.j2", "data", state=state, address=address, removed_nothing=REMOVED_NOTHING
    )


@router.get("/suspects")
def choose_suspects(request: Request) -> Response:
    """The suspects of the first task."""
    return RedirectResponse(f"{_root(request)}suspects/{next(iter(TASKS))}")


@router.get("/suspects/{task}")
def show_suspects(
    request: Request,
    task: str,
    kind: str = "labels",
    number: PageNumber = 1,
    image: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Labels or pairs that a person should look at, or what was decided; first the pictures that are asked about."""
    workspace = _workspace(request)
    with workspace.engine.connect() as connection:
        questions = read_requests_asked(connection, request.app.state.runs, request.app.state.returned_by)
    asked_now = _asked_now(request, request.app.state.runs.at_work(N_AT_WORK, "correct_data"))
    state = read_suspects(workspace, task, kind=kind, number=number, asked=questions)
    with workspace.engine.connect() as connection:
        named = [name[:MAX_ID_CHARACTERS] for name in (image or [])[:2]]
        there = find_pictures(connection, named)
    images = [name for name in named if name in there]
    asked = [("image", name) for name in images]
    return _page(
        request,
        "suspects.html.j2",
        "suspects",
        tasks_marked=[task],
        asked_now=asked_now,
        state=state,
        kind=kind,
        kinds=SUSPECT_KINDS,
        least_detail=MIN_DETAIL,
        startable=request.state.startable,
        images=images,
        address_of_kind=address_but(asked, "kind"),
        address=address_but([*asked, ("kind", kind)], "number"),
    )


@router.get("/reports")
def show_reports(
    request: Request, kind: str = "evaluations", words: str = "", number: PageNumber = 1
) -> Response:
    """The reports that there are, a kind at a time."""
    if kind not in REPORT_KINDS:
        raise UnusableInputError(f"kind {kind[:100]!r}: expected one of {', '.join(REPORT_KINDS)}")
    words = words[:100]
    return _page(
        request,
        "reports.html.j2",
        "reports",
        kind=kind,
        kinds=REPORT_KINDS,
        words=words,
        shown=read_reports(_workspace(request), kind, words, number),
        address=address_but([("kind", kind), ("words", words)], "number"),
    )


@router.get("/reports/{path:path}")
def send_report(request: Request, path: str) -> Response:
    """A file of a report; a page of it says on paper when it was opened."""
    return _stored(_dated(read_report_file(_workspace(request), path or "index.html")))


@router.get("/themed/{theme}/reports/{path:path}")
def send_themed_report(request: Request, theme: Literal["dark", "light"], path: str) -> Response:
    """A file of a report; a page of it in a theme, and so are those that it links to."""
    file = _dated(read_report_file(_workspace(request), path or "index.html"))
    if file.content_type.startswith("text/html"):
        file = replace(file, data=in_theme(file.data, theme))
    return _stored(file)


@router.get("/read/{path:path}")
def show_report(request: Request, path: str, is_bare: bool = False) -> Response:
    """A report below the navigation; bare, in a tab of the UI, which has its own."""
    if path in ("", "index.html"):  # the bucket's own list, for whoever reads it without a server
        return RedirectResponse(f"{_root(request)}reports")
    workspace = _workspace(request)
    read_report_file(workspace, path)  # one that is missing is said here, not in a frame
    now = read_now(workspace, path)
    about = None if now is None else now.training_id
    return _page(
        request, "reading.html.j2", "reports", training_marked=about, path=path, is_bare=is_bare, now=now
    )


@router.get("/image/{isic_id}")
def send_image(request: Request, isic_id: str) -> Response:
    """The picture of an image."""
    return _stored(read_image(_workspace(request), isic_id))


@router.get("/question")
def send_question(request: Request, dag: str, run: str, map_index: int) -> Response:
    """What the product knows of a question that Airflow keeps open."""
    if dag not in ASKING:
        raise UnusableInputError(f"DAG {dag!r}: it asks nobody, expected one of {', '.join(ASKING)}")
    returned = request.app.state.returned_by(dag, run, ASKING[dag], -1)
    found = read_question(_workspace(request), dag, returned, map_index, root=_root(request))
    headers = {"X-Content-Type-Options": "nosniff"}
    return Response(found.model_dump_json(), media_type="application/json", headers=headers)


@router.get("/static/{name}")
def send_static(name: str) -> Response:
    """A file that pages load."""
    if name not in STATIC:
        raise UnusableInputError(f"{name!r}: no such file")
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=300"}
    return Response(static_file(name), media_type=STATIC[name], headers=headers)


def _made_by(request: Request, dag_id: str | None, run_id: str | None) -> list[Any]:
    """What the mapped tasks of a run returned, as far as any did."""
    if dag_id not in RESULT_TASKS or not run_id:
        return []
    found: list[Any] = request.app.state.returned_by(dag_id, run_id, RESULT_TASKS[dag_id], None)
    return [one for one in found[:MAX_RESULTS] if one is not None]


@router.get("/result")
def show_result(
    request: Request, dag: str = "", run: str = "", task: str = "", map_index: str = ""
) -> Response:
    """What a run or a task made, for a tab of the UI."""
    # The UI leaves a placeholder as it is where an address has nothing for it.
    dag_id, run_id, task_id = (
        None if not value or value.startswith("{") else value for value in (dag, run, task)
    )
    place = int(map_index) if map_index.lstrip("-").isdecimal() else -1
    returned = (
        request.app.state.returned_by(dag_id, run_id, task_id, place)
        if dag_id and run_id and task_id
        else None
    )
    workspace = _workspace(request)
    found = find_result(
        workspace,
        dag_id=dag_id or "",
        run_id=run_id,
        task_id=task_id,
        returned=returned,
        map_index=place,
        made=_made_by(request, dag_id, run_id) if task_id is None else (),
        run=request.app.state.runs.find(dag_id, run_id) if dag_id and run_id else None,
    )
    if found.address is not None and found.address.startswith("reports/") and not found.failed:
        return RedirectResponse(f"{_root(request)}read/{found.address.removeprefix('reports/')}?is_bare=true")
    if dag_id and run_id and (task_id is None or dag_id == "correct_data"):
        found = replace(found, followed=request.app.state.runs.followed_by(dag_id, run_id))
    status = 404 if found.is_missing else 200
    return _page(request, "result.html.j2", status=status, found=found, without_words=WITHOUT_WORDS)
