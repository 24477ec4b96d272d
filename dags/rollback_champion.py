"""An earlier champion -> champion again, with a reason. By hand only.

The history is kept: a rollback adds a row and removes none. Safe to clear: restoring the model that is already champion
changes nothing.
"""

from typing import Any

from airflow.sdk import Param, dag, task

from lesion_airflow import (
    CHAMPION,
    DEFAULT_ARGS,
    TAGS,
    TELL_WHEN_RED,
    announce_decision,
    open_workspace,
    refuse_unusable,
    task_param,
)
from lesion_notices import link_to
from lesion_tasks.catalog.approvals import MIN_REASON, UNNAMED, WHY


@dag(
    dag_display_name="5 Roll back the champion",
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "task": task_param("The task whose champion is replaced."),
        "training_id": Param(
            None,
            type=["null", "string"],
            title="Training",
            description_md="The id of the training to restore. Empty: the latest champion before the current one that "
            f"nobody rolled back from. [The page Champion]({link_to('champion')}) lists all that can be restored, "
            "and starts this from there.",
        ),
        "reason": Param(
            type="string",
            minLength=MIN_REASON,
            pattern=r"\S.*\S",
            title="Reason",
            description=f"{WHY}; kept in the history, and in the report.",
        ),
    },
    description="Restore an earlier champion",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "decisions"],
)
def rollback_champion() -> None:
    @task(outlets=[CHAMPION])
    def roll_back(params: dict[str, Any], dag_run: Any, outlet_events: Any) -> dict[str, Any]:
        """Publish the earlier model, record why, and tell people."""
        from lesion_tasks.promotion.promote import rollback_champion as put_back

        refuse_unusable()
        result = put_back(
            open_workspace(),
            training_id=params["training_id"],
            reason=params["reason"],
            task=params["task"],
            decided_by=dag_run.triggering_user_name or UNNAMED,
            request_id=dag_run.run_id,
        ).as_dict()
        outlet_events[CHAMPION].extra = result
        announce_decision(result)
        return result

    roll_back()


rollback_champion()
