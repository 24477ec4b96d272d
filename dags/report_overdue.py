"""What has not happened for too long -> notices. Every morning, and by hand.

Tells when no ingestion has been completed for LESION_INGESTION_MAX_DAYS, or a task's champion is older than
LESION_CHAMPION_MAX_DAYS: in the log, and to the connections of LESION_NOTIFY. Safe to clear: whoever
was sent in a run is not sent again by it.
"""

from airflow.sdk import dag, get_current_context, task

from lesion_airflow import DEFAULT_ARGS, TAGS, TELL_WHEN_RED, open_workspace
from lesion_notices import tell
from lesion_tasks.catalog.schedules import SCHEDULES


@dag(
    dag_display_name="7 Report what is overdue",
    schedule=SCHEDULES["report_overdue"].cron,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    description="Stalled ingestion and old champions -> notices",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "upkeep"],
)
def report_overdue() -> None:
    @task
    def report() -> int:
        """Tell about each thing that is overdue; returns how many there are."""
        from lesion_tasks.upkeep.notices import overdue

        notices = overdue(open_workspace(), get_current_context()["run_id"])
        tell(*notices)
        return len(notices)

    report()


report_overdue()
