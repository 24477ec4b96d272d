"""What a person asks for about a suspect label or pair -> a correction, and the groups that follow. By hand only.

1. **propose**: checks what is asked for; what there is to decide,
2. **ask**: a person, if the form or the setting LESION_APPROVAL says so,
3. **correct**: do it, or as the person said; every outcome is a row with its reason.

The page "Suspects" starts it. A decision is kept with its reason and who made it, and can be withdrawn, which is asked
about in the same way; splits follow when they are next built, which the new state of the images starts. A question that
is still open when something else was decided about the same label or pair ends as superseded within minutes; it
does not block anything else.

Safe to clear: a run that has ended finds how, and changes nothing more.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, TriggerRule, dag, task

from lesion_airflow import (
    DEFAULT_ARGS,
    IMAGES,
    TAGS,
    TELL_WHEN_RED,
    AskAboutCorrection,
    announce_correction,
    approval_params,
    open_workspace,
    refuse_unusable,
    results,
    skip_unless,
    task_param,
)
from lesion_tasks.catalog.approvals import (
    LABEL_DECISIONS,
    MAX_REASON,
    MIN_REASON,
    PAIR_DECISIONS,
    UNNAMED,
    WHY,
    WITHDRAWN,
)

if TYPE_CHECKING:
    from lesion_tasks.curation.correction_requests import Request

DECISIONS = {
    "label_set_aside": "Set the label aside: the image is in no subset of the task's splits",
    "label_kept": "The label is right: it is no longer a suspect",
    "lesions_joined": "One lesion: both images are in one group",
    "lesions_apart": "Two lesions: the pair is no longer a suspect",
    WITHDRAWN: "Withdraw an earlier correction, by its number",
}
ASKED_FOR = ("decision", "isic_id", "other_isic_id", "task", "correction", "reason")


def request_of(params: dict[str, Any], dag_run: Any) -> "Request":
    """What a run is asked for, and by whom."""
    from lesion_tasks.curation.correction_requests import read_request

    return read_request(
        open_workspace(),
        **{name: params[name] for name in ASKED_FOR},
        asked_by=dag_run.triggering_user_name or UNNAMED,
        request_id=dag_run.run_id,
    )


@dag(
    dag_display_name="Correct the data",
    schedule=None,
    # Runs that wait for a person must not block the next one, nor be so many that the scheduler has no time for others;
    # corrections take turns on their own lock.
    max_active_runs=64,
    default_args=DEFAULT_ARGS,
    params={
        "decision": Param(
            "label_set_aside",
            type="string",
            enum=[*LABEL_DECISIONS, *PAIR_DECISIONS, WITHDRAWN],
            values_display=DECISIONS,
            title="Decision",
            description="About the label of one image, about whether two images show one lesion, or that an earlier "
            "correction is withdrawn.",
        ),
        "isic_id": Param(
            None,
            type=["null", "string"],
            title="Image",
            description="The id of the image; a withdrawal may leave it out.",
        ),
        "other_isic_id": Param(
            None, type=["null", "string"], title="Other image", description="Of a pair, the other image."
        ),
        "task": task_param("Whose label it is; not asked of a pair or a withdrawal."),
        "correction": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Number",
            description="Of a withdrawal: the number of the correction, as the page Suspects lists it.",
        ),
        "reason": Param(
            type="string",
            minLength=MIN_REASON,
            maxLength=MAX_REASON,
            pattern=r"\S",
            title="Reason",
            description=f"{WHY}; kept with the decision, or with what became of this run.",
        ),
        **approval_params(page="Suspects", unasked="it is done at once"),
    },
    description="Record a person's decision about a suspect label or pair",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "decisions"],
)
def correct_data() -> None:
    @task
    def propose(params: dict[str, Any], dag_run: Any) -> list[dict[str, Any]]:
        """Check what is asked for; the question about it, if a person is asked."""
        from lesion_tasks.curation.correction_requests import write_questions

        refuse_unusable()
        questions = write_questions(
            open_workspace(), request_of(params, dag_run), approval=params["approval"]
        )
        return [asdict(question) for question in questions]

    ask = AskAboutCorrection.partial(
        task_id="ask",
        execution_timeout=None,  # the wait has its own limit
        map_index_template="{{ task.told_as }}",
    )

    @task(outlets=[IMAGES], trigger_rule=TriggerRule.NONE_FAILED)
    def correct(answers: Any, params: dict[str, Any], dag_run: Any) -> int | None:
        """Make the correction or withdraw one, and compute the groups; or record why not."""
        from lesion_tasks.curation.correction_requests import Request, settle

        answer = next(iter(results(answers)), None)
        request = request_of(params, dag_run) if answer is None else Request(**answer["request"])
        ended = settle(open_workspace(), request, answer, approval=params["approval"])
        announce_correction(ended)
        skip_unless(ended.outcome == "applied", f"{ended.outcome}: {ended.answer_reason}")
        return ended.correction_id

    correct(ask.expand_kwargs(propose()).output)


correct_data()
