"""A person's decision about a suspect label or pair -> a correction, and the groups that follow. By hand only.

The page "Suspects" starts it. The decision is kept with its reason and who made it, and can be withdrawn in the same
way; splits follow when they are next built, which the new state of the images starts. Safe to clear: a decision is made
once, and withdrawn once.
"""

from typing import Any

from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

from lesion_airflow import (
    DEFAULT_ARGS,
    IMAGES,
    TAGS,
    TELL_WHEN_RED,
    open_workspace,
    refuse_misspelt,
    task_param,
)
from lesion_tasks.catalog.approvals import MIN_CORRECTION_REASON, UNNAMED


@dag(
    dag_display_name="Correct the data",
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "decision": Param(
            "label_set_aside",
            type="string",
            enum=["label_set_aside", "label_kept", "lesions_joined", "lesions_apart", "withdrawn"],
            title="Decision",
            description="About the label of one image, or about whether two images show one lesion; or that such a "
            "decision is taken back.",
        ),
        "correction": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Number",
            description="Of a withdrawal: the number of the decision, as the page Suspects lists it.",
        ),
        "isic_id": Param(type="string", minLength=1, title="Image", description="The id of the image."),
        "other_isic_id": Param(
            None, type=["null", "string"], title="Other image", description="Of a pair, the other image."
        ),
        "task": task_param("Whose label it is; not asked of a pair."),
        "reason": Param(
            type="string",
            minLength=MIN_CORRECTION_REASON,
            pattern=r"\S",
            title="Reason",
            description="Why; kept with the decision, of a withdrawal in the log and in the form of this run.",
        ),
    },
    description="Record a person's decision about a suspect label or pair",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "decisions"],
)
def correct_data() -> None:
    @task(outlets=[IMAGES])
    def correct(params: dict[str, Any], dag_run: Any) -> int:
        """Record the decision, or take one back, and compute the groups."""
        from lesion_tasks.curation import apply_correction

        refuse_misspelt()
        person = dag_run.triggering_user_name or UNNAMED
        asked = {name: params[name] for name in ("isic_id", "other_isic_id", "reason")}
        number: int | None = params["correction"]
        if params["decision"] == apply_correction.WITHDRAWN:
            return apply_correction.withdraw_by_form(open_workspace(), number, **asked, withdrawn_by=person)
        if number is not None:
            raise AirflowFailException(f"number {number}: only a withdrawal has one, expected none")
        return apply_correction.correct(
            open_workspace(),
            params["decision"],
            **asked,
            task=params["task"],
            decided_by=person,
            request_id=dag_run.run_id,
        )

    correct()


correct_data()
