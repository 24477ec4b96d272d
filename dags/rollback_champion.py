"""An earlier champion -> champion again, with a reason. By hand only.

The history is kept: a rollback is one more row, not the removal of one. Safe to clear: putting back the
model that is champion already changes nothing.
"""

from typing import Any

from airflow.sdk import Param, dag, task

from lesion_airflow import CHAMPION, DEFAULT_ARGS, TAGS, open_workspace


@dag(
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "training_id": Param(
            None,
            type=["null", "string"],
            title="Training",
            description="The training to put back. Empty: the champion before the current one.",
        ),
        "reason": Param(
            type="string",
            minLength=10,
            title="Reason",
            description="Why; kept in the history and shown in the report.",
        ),
    },
    description="Put an earlier champion back",
    doc_md=__doc__,
    tags=TAGS,
)
def rollback_champion() -> None:
    @task(outlets=[CHAMPION])
    def roll_back(params: dict[str, Any], dag_run: Any, outlet_events: Any) -> dict[str, Any]:
        """Publish the earlier model, and write down why."""
        from lesion_tasks.promotion.promote import rollback_champion as put_back

        result = put_back(
            open_workspace(),
            training_id=params["training_id"],
            reason=params["reason"],
            decided_by=dag_run.triggering_user_name or "unnamed person",
        )
        outlet_events[CHAMPION].extra = result
        return result

    roll_back()


rollback_champion()
