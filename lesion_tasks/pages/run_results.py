"""A run or a task of Airflow, and what it returned -> the page about it, or why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, select

from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.approvals import RULE
from lesion_tasks.catalog.titles import split_title
from lesion_tasks.curation.correction_requests import page_of
from lesion_tasks.curation.corrections import find_request
from lesion_tasks.database.pruned import find_pruning, has_pruned, pruned_in_words
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.decisions import decisions_of_run, last_decisions, line_of
from lesion_tasks.evaluation.evaluation_record import find_report, trainings_of
from lesion_tasks.evaluation.leaderboard import LeaderboardFilter, read_leaderboard_rows
from lesion_tasks.evaluation.publish import HELD_OUT_FOLDER
from lesion_tasks.ingest.runs import has_begun
from lesion_tasks.pages.activity import ASKING, AT_WORK, N_NAMED, Run, TaskOfRun
from lesion_tasks.pages.pruned_page import REMOVED_NOTHING
from lesion_tasks.promotion.questions import ENDED_UNANSWERED
from lesion_tasks.reports.environment import is_digest
from lesion_tasks.reports.index import DecisionLine, PromotionState
from lesion_tasks.reports.words import decider, quoted, sentences
from lesion_tasks.serving.predict_job import PAGE, is_job, key_of
from lesion_tasks.splits.data_report import page_key
from lesion_tasks.splits.manifest import find_manifest
from lesion_tasks.watching.watch import find_watch_report
from lesion_tasks.workspace import Workspace

DAGS = (
    "ingest_isic",
    "build_splits",
    "train_variants",
    "leave_out",
    "promote_model",
    "rollback_champion",
    "correct_data",
    "verify_bucket",
    "report_overdue",
    "prune",
    "watch_champion",
    "predict_images",
)
# The tasks that return the evaluation or the manifest that they made.
_EVALUATING = {
    ("train_variants", "each.evaluate"), ("promote_model", "score_again"), ("leave_out", "train"),
    ("leave_out", "report"), ("watch_champion", "watch"),
}  # fmt: skip
# The tasks whose results are those of a whole run.
RESULT_TASKS = {
    "train_variants": "each.evaluate", "build_splits": "each.split", "predict_images": "finish", "leave_out": "report",
    "watch_champion": "watch", "promote_model": "decide",
}  # fmt: skip
_SPLITTING = {("build_splits", "each.split"), ("build_splits", "each.materialize")}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Where to look, or kind words."""

    address: str | None  # below the pages' prefix
    words: str
    decisions: list[DecisionLine]
    standings: Mapping[str, PromotionState] = field(default_factory=dict)  # of their trainings, now
    undecided: list[tuple[str, Sequence[str]]] = field(
        default_factory=list
    )  # why not, and the runs that are named
    pages: list[tuple[str, str]] = field(default_factory=list)  # of several results: name and address
    run: Run | None = None  # as far as Airflow keeps it
    failed: list[TaskOfRun] = field(default_factory=list)  # what went wrong, if something did
    then: str | None = None  # the DAG that starts because of it, which may not have begun
    followed: Sequence[Run] = ()  # the runs that did
    is_awaited: bool = False  # what it makes would have a page, and there is none yet
    is_missing: bool = False  # there is no such run, and it left nothing

    @property
    def is_empty(self) -> bool:
        """Whether nothing was made, or nothing that this page knows."""
        return self.address is None and not self.decisions and not self.undecided and not self.pages


def find_result(
    workspace: Workspace,
    *,
    dag_id: str,
    run_id: str | None,
    task_id: str | None,
    returned: Any,
    map_index: int = -1,
    made: Sequence[Any] = (),
    run: Run | None = None,
) -> RunResult:
    """The page about a run or a task: what it made, and why it failed if it did.

    `returned` is what the task returned; None: nothing yet. `made`: what the run's tasks of RESULT_TASKS returned.
    `run`: how far it is.
    """
    found = _find_made(workspace, dag_id=dag_id, run_id=run_id, task_id=task_id, returned=returned, made=made)
    if run is None:
        left_something = (
            found.address or found.decisions or found.undecided or found.pages or returned or made
        )
        return found if left_something or dag_id not in DAGS or run_id is None else _missing(dag_id, run_id)
    if task_id is not None and run.tasks and all(one.task_id != task_id for one in run.tasks):
        words = f"There is no task {task_id[:250]} in this run of {dag_id}."
        return RunResult(address=None, words=words, decisions=[], run=run, is_missing=True)
    task = None if task_id is None else run.find(task_id, map_index)
    # How a correction ended is the same for each of its tasks as for its run.
    is_of_run = task_id is None or (
        run.dag_id == "correct_data" and task is not None and not _failures_of(run, task)
    )
    if is_of_run:
        failed, words = run.failed if run.state == "failed" else [], _state_of_run(run, found)
        found = replace(found, pages=[*found.pages, *_where_it_asks(run)])
    elif task is None:  # one that is mapped and was not made: its run says more
        failed, words = run.failed, found.words
    else:
        failed, words = _failures_of(run, task), _state_of_task(task, found)
    return replace(found, run=run, failed=failed, words=words)


def _failures_of(run: Run, task: TaskOfRun) -> list[TaskOfRun]:
    """What is to be said of a task's failure: its own, or those that kept it from running."""
    if task.state == "upstream_failed":
        return [one for one in run.failed if one is not task]
    return [task] if task.state in ("failed", "up_for_retry") else []


def _state_of_run(run: Run, found: RunResult) -> str:
    """How a run ended, or how far it is, where that says more than what it made."""
    if run.state == "failed":
        return "This run failed."
    if run.state == "running":
        return f"{_at_work_in(run)}{' So far:' if found.decisions or found.undecided else ''}"
    if not found.is_empty:
        unmade = _unmade(run)
        return " ".join([*unmade, "What this run made or found:" if unmade and found.pages else found.words])
    if run.state == "queued":
        return "This run waits to begin."
    if not found.is_awaited:
        return found.words
    skipped = dict.fromkeys(task.reason for task in run.tasks if task.state == "skipped" and task.reason)
    said = f"This run succeeded, and made nothing new{': ' if skipped else ''}{'; '.join(skipped)}."
    return " ".join([said, *_unmade(run)])


def _unmade(run: Run) -> list[str]:
    """Why tasks that succeeded made less than was asked for, each once."""
    noted = dict.fromkeys(task.reason for task in run.tasks if task.state == "success" and task.reason)
    return [sentences(reason) for reason in noted]


def _at_work_in(run: Run) -> str:
    """How far a run is that has not ended, and whether it waits for a person."""
    asking = [task.words for task in run.tasks if AT_WORK.get(task.state or "") == ASKING]
    at_work = [task.words for task in run.tasks if task.state in AT_WORK and task.words not in asking]
    waits = f" It waits for a person: {', '.join(asking[:N_NAMED])}." if asking else ""
    if asking and not at_work:
        return f"This run has not ended.{waits}"
    return f"This run has not ended. At work: {', '.join(at_work[:N_NAMED]) or 'between two tasks'}.{waits}"


def _where_it_asks(run: Run) -> list[tuple[str, str]]:
    """The pages with the questions that a run has open: name and address."""
    asking = [task for task in run.tasks if AT_WORK.get(task.state or "") == ASKING]
    if run.dag_id == "correct_data":
        return [("Answer on the page Suspects", f"suspects/{next(iter(TASKS))}")] if asking else []
    return [
        (f"Answer on the page Champion: {_title_of(one.label)}", f"champion/{one.label}")
        for one in asking
        if one.label in TASKS
    ]


def _state_of_task(task: TaskOfRun, found: RunResult) -> str:
    """How a task ended, or how far it is, where that says more than what it made."""
    told = {
        "failed": "This task failed.",
        "up_for_retry": "This task failed, and Airflow tries it again by itself.",
        "upstream_failed": "This task did not run, because another failed before it.",
        "skipped": f"This task had nothing to do{f': {task.reason}' if task.reason else ''}.",
        "scheduled": "This task waits for its turn.",
        "queued": "This task waits for its turn.",
    }
    if task.state == "success" and task.reason:
        return sentences(task.reason)
    return told.get(task.state or "", found.words)


def _find_made(
    workspace: Workspace,
    *,
    dag_id: str,
    run_id: str | None,
    task_id: str | None,
    returned: Any,
    made: Sequence[Any],
) -> RunResult:
    if dag_id not in DAGS or run_id is None:
        return _nothing(
            "This DAG does not belong to the skin-lesion pipeline, so there is nothing to show here."
        )
    if dag_id == "ingest_isic":
        if not has_begun(workspace, run_id):
            return _awaited("This run has not read anything yet.")
        return RunResult(
            address=f"data?since={quote(run_id, safe='')}",
            words="What changed in the records since this ingestion began.",
            decisions=[],
        )
    if dag_id == "prune":
        with workspace.engine.connect() as connection:
            if not has_pruned(connection, run_id):
                return _nothing(REMOVED_NOTHING)
        return RunResult(
            address=f"pruned?run={quote(run_id, safe='')}",
            words="What this run removed, and why.",
            decisions=[],
        )
    if dag_id in ("promote_model", "rollback_champion") and (dag_id, task_id) not in _EVALUATING:
        with workspace.engine.connect() as connection:
            rows = decisions_of_run(connection, run_id)
        told = [one for one in (*made, returned) if isinstance(one, dict) and one.get("action") == "none"]
        undecided = [
            (f"{_title_of(one['task'])}: {sentences(one['reason'])}", one.get("runs", ())) for one in told
        ]
        if rows or undecided:
            task = rows[0].task if rows else told[0]["task"]
            words = "What this run decided." if rows else "This run decided nothing, and says why."
            if rows and all(row.reason == ENDED_UNANSWERED for row in rows):
                about = ", ".join(row.training_id for row in rows)
                words = f"This run asked about {about}; it was ended before anybody answered."
            return RunResult(
                address=f"champion/{task}",
                words=words,
                decisions=[line_of(row) for row in rows],
                standings=_standings(workspace, [row.training_id for row in rows]),
                undecided=undecided,
            )
        return _awaited("This run has not decided anything yet, or there was nothing to decide.")
    if dag_id == "correct_data":
        return _asked_for(workspace, run_id)
    return _result_of_tasks(workspace, dag_id, task_id, returned, made)


def _title_of(task: str) -> str:
    return TASKS[task].title if task in TASKS else task  # it may have left the catalogue


def _asked_for(workspace: Workspace, run_id: str) -> RunResult:
    """How a request to correct the data ended."""
    with workspace.engine.connect() as connection:
        found = find_request(connection, run_id)
    if found is None:
        return _awaited("This run has not corrected anything yet.")
    by = f" by {decider(found.answered_by)}" if found.answered_by else ""
    is_typed = found.answered_by not in (None, RULE)
    said = quoted(found.answer_reason) if is_typed and found.answer_reason else found.answer_reason
    why = f": {said}" if said else ""
    about = " and ".join(name for name in (found.isic_id, found.other_isic_id) if name)
    decision = found.decision.replace("_", " ")
    return RunResult(
        address=f"{page_of(found)}&kind={'decided' if found.outcome == 'applied' else 'answered'}",
        words=sentences(f"{decision.capitalize()}, {about}: {found.outcome}{by}{why}"),
        decisions=[],
        then="build_splits" if found.outcome == "applied" else None,
    )


def _result_of_tasks(
    workspace: Workspace, dag_id: str, task_id: str | None, returned: Any, made: Sequence[Any]
) -> RunResult:
    """The page about what tasks returned: a job, a manifest or a training."""
    if dag_id == "predict_images":
        return _predictions(workspace, [*made, returned])
    if (dag_id, task_id) == ("train_variants", "each.train"):
        return _trained(returned)
    digest = returned.get("digest") if isinstance(returned, dict) else returned
    if isinstance(digest, str) and is_digest(digest):
        return RunResult(address=page_key(digest), words="The data of this manifest.", decisions=[])
    if isinstance(returned, str):
        with workspace.engine.connect() as connection:
            key = _key_of(connection, returned)
        if key is not None:
            return RunResult(address=key, words="The report of this evaluation.", decisions=[])
    if task_id is None and dag_id in RESULT_TASKS:
        with workspace.engine.connect() as connection:
            pages = [page for one in made if (page := _page_of(connection, one)) is not None]
            decided = _decided_about(connection, made) if dag_id == "train_variants" else []
        words = (
            "What this run made:"
            if pages
            else "This run has not made anything yet, or there was nothing new."
        )
        return RunResult(
            address=None,
            words=words,
            decisions=decided,
            standings=_standings(workspace, [one.training_id for one in decided]),
            pages=pages,
            is_awaited=not pages,
        )
    if (dag_id, task_id) in _EVALUATING | _SPLITTING:
        return _awaited("This task has not finished yet. When it has, its report is shown here.")
    return _nothing("This task makes no report of its own.")


def _trained(returned: Any) -> RunResult:
    if isinstance(returned, str):
        words = "The training of this task: its settings, and every failure before it ended."
        return RunResult(address=f"training/{quote(returned, safe='')}", words=words, decisions=[])
    words = (
        "This training has not ended, or it failed: the first page lists it, and leads to why and what to do."
    )
    return RunResult(address="", words=words, decisions=[])


def _predictions(workspace: Workspace, returned: Sequence[Any]) -> RunResult:
    jobs = [name for name in returned if isinstance(name, str) and is_job(name)]
    for name in jobs:
        if workspace.bucket.exists(key := key_of(name, PAGE)):
            return RunResult(address=key, words="The predictions of this run.", decisions=[])
    with workspace.engine.connect() as connection:
        for name in jobs:
            if pruning := find_pruning(connection, "predictions", name):
                return _nothing(f"The predictions of this run were {pruned_in_words(pruning)}.")
    return _awaited(
        "This run has not finished yet. When it has, the page about its predictions is shown here."
    )


def _key_of(connection: Connection, returned: str) -> str | None:
    if _is_of_folds(returned):
        return returned
    return find_watch_report(connection, returned) or find_report(connection, returned)


def _is_of_folds(returned: str) -> bool:
    """Whether it is the key of a report about folds, not the id of an evaluation."""
    return returned.startswith(f"{HELD_OUT_FOLDER}/")


def _page_of(connection: Connection, returned: Any) -> tuple[str, str] | None:
    """Name and address of what one task made."""
    if not isinstance(returned, str):
        return None
    if _is_of_folds(returned):
        return f"Folds of {returned.split('/')[2]}", returned
    if (watched := find_watch_report(connection, returned)) is not None:
        return f"Watched: {returned}", watched
    if is_digest(returned):
        if find_pruning(connection, "manifest", returned) is not None:
            return None
        return f"Data: {split_title(find_manifest(connection, returned).split)}", page_key(returned)
    key = find_report(connection, returned)
    return None if key is None else (f"Evaluation of {key.split('/')[1]}", key)


def _decided_about(connection: Connection, made: Sequence[Any]) -> list[DecisionLine]:
    """What was decided last about the trainings that a run has made, by whichever run: whoever asked looks here."""
    ids = trainings_of(connection, [one for one in made if isinstance(one, str)])
    return [line_of(row) for row in last_decisions(connection, ids)]


def _standings(workspace: Workspace, training_ids: Sequence[str]) -> dict[str, PromotionState]:
    """Where some trainings stand now: what was decided about them once may have been undone since."""
    with workspace.engine.connect() as connection:
        asked = select(Training.training_id, Training.task).where(Training.training_id.in_(training_ids))
        by_task: dict[str, list[str]] = {}
        for training_id, task in connection.execute(asked):
            by_task.setdefault(task, []).append(training_id)
        return {
            row.training_id: row.state
            for task, ids in by_task.items()
            if task in TASKS
            for row in read_leaderboard_rows(
                connection, task, wanted=LeaderboardFilter(training_ids=ids, has_archived=True)
            )[0]
        }


def _awaited(words: str) -> RunResult:
    return RunResult(address=None, words=words, decisions=[], is_awaited=True)


def _missing(dag_id: str, run_id: str) -> RunResult:
    words = (
        f"There is no run {run_id} of {dag_id}. It was never started, or Airflow does not keep it any more; what a run "
        "made stays, and nothing here is of this one."
    )
    return RunResult(address=None, words=words, decisions=[], is_missing=True)


def _nothing(words: str) -> RunResult:
    return RunResult(address=None, words=words, decisions=[])
