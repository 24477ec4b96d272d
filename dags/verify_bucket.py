"""The bucket -> objects that were changed or lost, repaired where possible. A part each week, and by hand.

Pictures, pixels, features, segmenters and models are checked against the digests in the database, a thirteenth of them
each week; manifests, masks, predictions and evaluations every time. What can be made again is removed and made again by
the step that made it. If something is lost that nothing can make again, the task is red and its log names it.

Safe to clear: checking again changes nothing that is intact.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from lesion_airflow import DEFAULT_ARGS, TAGS, TELL_WHEN_RED, open_workspace
from lesion_tasks.catalog.schedules import SCHEDULES
from lesion_tasks.catalog.verification_plan import N_VERIFICATION_PARTS


@dag(
    dag_display_name="6 Verify the bucket",
    schedule=SCHEDULES["verify_bucket"].cron,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "part": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=N_VERIFICATION_PARTS,
            title="Part",
            description=f"Which of {N_VERIFICATION_PARTS} parts of the objects. Empty: this week's part.",
        ),
        "is_repairing": Param(
            True,
            type="boolean",
            title="Repair",
            description="Make again what can be made again. Off: only report what is wrong.",
        ),
    },
    description="The bucket checked against the database",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "upkeep"],
)
def verify_bucket() -> None:
    @task(execution_timeout=timedelta(hours=12))
    def verify(params: dict[str, Any], dag_run: Any) -> dict[str, int]:
        """Read a part of the objects, and repair."""
        from lesion_tasks.upkeep.verify_bucket import verify_part_due

        return verify_part_due(
            open_workspace(),
            part=params["part"],
            is_repairing=params["is_repairing"],
            moment=dag_run.run_after,
        )

    verify()


verify_bucket()
