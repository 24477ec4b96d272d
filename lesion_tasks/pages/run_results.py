"""A run or a task of Airflow, and what it returned -> the page about it, or why there is none."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lesion_tasks.database.schema import Promotion
from lesion_tasks.evaluation.decisions import decisions_of_run
from lesion_tasks.evaluation.evaluation_record import find_report
from lesion_tasks.reports.environment import is_digest
from lesion_tasks.splits.data_report import page_key
from lesion_tasks.workspace import Workspace

DAGS = (
    "ingest_isic",
    "build_splits",
    "train_variants",
    "promote_model",
    "rollback_champion",
    "verify_bucket",
    "report_overdue",
)
# The tasks that return the evaluation or the manifest that they made.
_EVALUATING = {("train_variants", "each.evaluate"), ("promote_model", "score_again")}
_SPLITTING = {("build_splits", "each.split"), ("build_splits", "each.materialize")}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Where to look, or kind words."""

    address: str | None  # below the pages' prefix
    words: str
    decisions: list[Promotion]


def find_result(
    workspace: Workspace, *, dag_id: str, run_id: str | None, task_id: str | None, returned: Any
) -> RunResult:
    """The page about a run or a task. `returned` is what the task returned; None: nothing yet."""
    if dag_id not in DAGS or run_id is None:
        return _nothing(
            "This DAG does not belong to the skin-lesion pipeline, so there is nothing to show here."
        )
    if dag_id == "ingest_isic":
        return RunResult(
            address=f"data?since={quote(run_id, safe='')}",
            words="What changed in the records since this ingestion began.",
            decisions=[],
        )
    if dag_id in ("promote_model", "rollback_champion") and (dag_id, task_id) not in _EVALUATING:
        with workspace.engine.connect() as connection:
            decisions = decisions_of_run(connection, run_id)
        if decisions:
            return RunResult(
                address=f"champion/{decisions[0].task}", words="What this run decided.", decisions=decisions
            )
        return _nothing("This run has not decided anything yet, or there was nothing to decide.")
    digest = returned.get("digest") if isinstance(returned, dict) else returned
    if isinstance(digest, str) and is_digest(digest):
        return RunResult(address=page_key(digest), words="The data of this manifest.", decisions=[])
    if isinstance(returned, str):
        with workspace.engine.connect() as connection:
            key = find_report(connection, returned)
        if key is not None:
            return RunResult(address=key, words="The report of this evaluation.", decisions=[])
    if task_id is None:
        return RunResult(address="", words="What this run made is shown at its tasks.", decisions=[])
    if (dag_id, task_id) in _EVALUATING | _SPLITTING:
        return _nothing("This task has not finished yet. When it has, its report is shown here.")
    return _nothing("This task makes no report of its own.")


def _nothing(words: str) -> RunResult:
    return RunResult(address=None, words=words, decisions=[])
