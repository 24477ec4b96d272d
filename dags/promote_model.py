"""Evaluations -> a decision, and perhaps a new champion. When there are new `evaluations`, and by hand.

The best candidate of each task is compared with the champion on the same images; a champion that was not
yet scored on them is scored first. The candidate is promoted when it passes every gate; the reasons are
written down either way. An evaluation that failed its integrity checks can be read, but never promoted.

Safe to clear: deciding twice on the same evaluations gives the same answer and changes nothing.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, TriggerRule, dag, task

from lesion_airflow import (
    CHAMPION,
    DEFAULT_ARGS,
    EVALUATIONS,
    GPU_QUEUE,
    TAGS,
    open_workspace,
    results,
    skip_unless,
)
from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.ingest_passes import GPU_POOL

NAMES = sorted(TASKS)


def decider(answer: dict[str, Any] | None, is_forced: bool, dag_run: Any) -> str:
    """Who answers for the decision: whoever approved; for a forced one, whoever triggered it; else the rule."""
    if answer:
        return str(answer["responded_by_user"]["name"])
    return (dag_run.triggering_user_name or "unnamed person") if is_forced else "rule"


@dag(
    schedule=[EVALUATIONS],
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "tasks": Param(
            NAMES,
            type="array",
            items={"enum": NAMES},
            examples=NAMES,
            values_display={name: entry.title for name, entry in TASKS.items()},
            title="Tasks",
            description="For which tasks to look for a better model.",
        ),
        "is_asked": Param(
            False,
            type="boolean",
            title="Ask a person",
            description="Wait for an approval under Required Actions before anything is published.",
        ),
        "is_forced": Param(
            False,
            type="boolean",
            title="Despite the gates",
            description="Promote the best candidate even if it misses a gate; never despite a failed "
            "integrity check.",
        ),
    },
    description="Evaluations -> the champion, with reasons",
    doc_md=__doc__,
    tags=TAGS,
)
def promote_model() -> None:
    @task
    def standings() -> str:
        """Describe what there is to decide on: the leaderboard, as a table."""
        from lesion_tasks.promotion.promote import leaderboard

        rows = leaderboard(open_workspace())
        columns = list(rows[0]) if rows else ["nothing to compare"]
        lines = [columns, ["---"] * len(columns), *([str(row[name]) for name in columns] for row in rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def is_person_asked(params: dict[str, Any]) -> bool:
        """Skip the approval unless it was asked for."""
        return bool(params["is_asked"])

    approve = ApprovalOperator(
        task_id="approve",
        subject="May the best evaluated model become champion?",
        body="{{ ti.xcom_pull(task_ids='standings') }}",
        response_timeout=timedelta(days=7),
        execution_timeout=None,  # the wait has its own limit
        ignore_downstream_trigger_rules=True,  # a refusal ends the run: nothing is promoted
    )

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def plan(params: dict[str, Any]) -> list[dict[str, Any]]:
        """Name the champions that were not yet scored on their candidate's images."""
        from lesion_tasks.promotion.promote import plan_promotion

        plans = [plan_promotion(open_workspace(), task=name) for name in params["tasks"]]
        return [missing for one in plans for missing in one["rescore"]]

    @task(
        queue=GPU_QUEUE,
        pool=GPU_POOL,
        execution_timeout=timedelta(hours=2),
        map_index_template="{{ task.op_kwargs['training_id'] }}",
    )
    def score_again(training_id: str, manifest_digest: str) -> str:
        """Evaluate a champion on the images that its candidate was evaluated on."""
        from lesion_tasks.evaluation.evaluate import evaluate_training

        return evaluate_training(open_workspace(), training_id, manifest_digest=manifest_digest)

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def name_tasks(params: dict[str, Any], ti: Any, dag_run: Any) -> list[dict[str, str]]:
        """Name the tasks to decide on, and who answers for it."""
        decided_by = decider(ti.xcom_pull(task_ids="approve"), params["is_forced"], dag_run)
        return [{"task_name": name, "decided_by": decided_by} for name in params["tasks"]]

    @task(map_index_template="{{ task.op_kwargs['task_name'] }}")
    def promote(task_name: str, decided_by: str, params: dict[str, Any]) -> dict[str, Any]:
        """Compare, decide, write the reasons down, and publish."""
        from lesion_tasks.promotion.promote import promote_model as promote_best

        return promote_best(
            open_workspace(), task=task_name, is_forced=params["is_forced"], decided_by=decided_by
        )

    @task(outlets=[CHAMPION])
    def announce(decisions: Any, outlet_events: Any) -> int:
        """Name the new champions, if there are any."""
        promoted = [decision for decision in results(decisions) if decision.get("is_promoted")]
        skip_unless(bool(promoted), "every champion stays")
        outlet_events[CHAMPION].extra = {"promoted": promoted}
        return len(promoted)

    missing = plan()
    names = name_tasks()
    standings() >> is_person_asked() >> approve >> missing
    score_again.expand_kwargs(missing) >> names
    announce(promote.expand_kwargs(names))


promote_model()
