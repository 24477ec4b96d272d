"""Old trainings, checkpoints, manifests, pixels, features and predictions that nothing needs -> gone, by policy.

By hand only.

Says what could go, and removes it only where the form says so. The policy stands in
`lesion_tasks/catalog/retention.py`. Never pruned: what was ever champion, what a decision names, the newest of a
variant, what runs, and whatever a kept thing needs. Each thing that goes leaves a row in the table `pruning`.

Safe to clear: a run that was interrupted is gone on with, and what is gone is gone.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from lesion_airflow import DEFAULT_ARGS, TAGS, TELL_WHEN_RED, open_workspace, refuse_unusable
from lesion_tasks.catalog.approvals import UNNAMED


@dag(
    dag_display_name="8 Prune",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "is_deleting": Param(
            False,
            type="boolean",
            title="Delete",
            description="Remove what the policy lets go. Off: only say what that is, in the log and in the result.",
        ),
    },
    description="What nothing needs any more -> gone, by policy",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "upkeep"],
)
def prune() -> None:
    @task(execution_timeout=timedelta(hours=6))
    def remove(params: dict[str, Any], dag_run: Any) -> dict[str, int]:
        """Say what could go, or remove it; returns how many things, objects and bytes."""
        from lesion_tasks.upkeep.prune import prune_and_tell

        refuse_unusable()
        return prune_and_tell(
            open_workspace(),
            is_deleting=params["is_deleting"],
            pruned_by=dag_run.triggering_user_name or UNNAMED,
            request_id=dag_run.run_id,
        )

    remove()


prune()
