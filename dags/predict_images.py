"""Pictures and a model -> a table of predictions and a page about them. By hand only.

The pictures are those of a folder that the workers see, of a prefix of the bucket, or of a cohort. The first task lists
them and names the job by a digest of what it found; the tables and the page lie in the bucket under that name, at the
addresses in the last task's log. For research, not for diagnosis.

Every task is safe to clear: predicting goes on with the first part that is missing, and the rows are the same.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from lesion_airflow import (
    COMPARES,
    DEFAULT_ARGS,
    TAGS,
    TELL_WHEN_RED,
    open_workspace,
    refuse_unusable,
    task_param,
)


@dag(
    dag_display_name="Predict pictures",
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "source": Param(
            type="string",
            minLength=1,
            title="Pictures",
            description="A folder under one of LESION_SOURCE_FOLDERS, bucket:PREFIX for objects of the bucket, or "
            "cohort:NAME.",
        ),
        "task": task_param("The task whose champion predicts."),
        "training_id": Param(
            None,
            type=["null", "string"],
            title="Training",
            description="Another model than the champion. Empty: the champion.",
        ),
        "table": Param(
            None,
            type=["null", "string"],
            title="Table",
            description="A CSV file under one of LESION_SOURCE_FOLDERS with a row for each picture: image, and "
            "age_years, sex, size_mm. Empty: all metadata is missing, or a cohort's own.",
        ),
    },
    description="Pictures and a model -> a table of predictions and a page",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "predictions"],
)
def predict_images() -> None:
    @task
    def plan(params: dict[str, Any]) -> str:
        """List the pictures with their metadata, look at the model and the first picture, and name the job."""
        from pathlib import Path

        from lesion_tasks.serving.predict_job import plan_predictions

        refuse_unusable()
        return plan_predictions(
            open_workspace(),
            params["source"],
            task=params["task"],
            training_id=params["training_id"],
            table=Path(params["table"]) if params["table"] else None,
            is_from_form=True,
        )

    @task(**COMPARES, execution_timeout=timedelta(hours=24))
    def predict(job_id: str) -> dict[str, int]:
        """Predict every part of the job that is not there yet."""
        from lesion_tasks.serving.predict_job import run_predictions

        return run_predictions(open_workspace(), job_id, is_from_form=True)

    @task
    def finish(job_id: str) -> str:
        """Join the parts into the tables and write the page; the log has their addresses."""
        from lesion_tasks.serving.predict_job import finish_predictions

        return finish_predictions(open_workspace(), job_id).job_id

    job_id = plan()
    predict(job_id) >> finish(job_id)


predict_images()
