"""Evaluations -> a decision, and perhaps a new champion. When there are new `evaluations`, and by hand.

1. **plan**: which champion has to be evaluated on its candidate's images first,
2. **score_again**: evaluate it there,
3. **compare**: candidate and champion on the same images; what there is to decide,
4. **ask**: a person, if the form or the setting LESION_APPROVAL says so: one question for each task,
5. **decide**: promote, refuse, or do as the person said; every outcome is a row with its reason,
6. **announce**: the new champions,
7. **close**: what it still asks, if it failed.

A candidate is promoted when it passes every gate. An evaluation that failed its integrity checks can be read, but never
promoted. There is one question about each candidate: a run that finds one open names the run that asks it. A question
that is still open when a better candidate arrives ends as superseded within minutes; it does not block anything
else. A training that the gates refused can be promoted all the same: by its name, with a reason and "Despite the
gates".

In a run that new evaluations started, the form that started the trainings may have chosen whether a person is asked:
the run is then about these trainings alone, and the other candidates wait for a run of their own.

Safe to clear: a run that has decided finds its decision again, and deciding twice on the same evaluations changes
nothing.
"""

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, TriggerRule, dag, get_current_context, task

from lesion_airflow import (
    CHAMPION,
    COMPARES,
    DEFAULT_ARGS,
    EVALUATIONS,
    TAGS,
    TELL_WHEN_RED,
    AskAboutCandidate,
    announce_decision,
    approval_params,
    note_kept_answers,
    open_workspace,
    refuse_unusable,
    refusing_arguments,
    results,
    skip_unless,
    tasks_param,
)
from lesion_tasks.catalog.approvals import (
    ASKS_NOBODY,
    CHOICES,
    MAX_REASON,
    UNNAMED,
    WHY,
    most_careful,
    overrides_in_words,
)

if TYPE_CHECKING:
    from lesion_tasks.promotion.overrides import Force
    from lesion_tasks.workspace import Workspace


def approval_of(params: dict[str, Any]) -> str:
    """Whether a person is asked: as the form says, or in a run that new evaluations started as their makers chose."""
    events = get_current_context()["triggering_asset_events"].get(EVALUATIONS) or ()
    return most_careful(event.extra.get("approval") for event in events) if events else params["approval"]


def only_of() -> list[str] | None:
    """The trainings that a run is about; None: all that wait, as by hand or where nobody chose whether to ask.

    Whoever chooses that in the form of `train_variants` chooses for what it trains, not for others that wait.
    """
    events = get_current_context()["triggering_asset_events"].get(EVALUATIONS) or ()
    if not events or any(event.extra.get("approval") not in CHOICES for event in events):
        return None
    from lesion_tasks.evaluation.evaluation_record import trainings_of

    evaluations = [one for event in events for one in event.extra["evaluations"]]
    with open_workspace().engine.connect() as connection:
        return trainings_of(connection, evaluations)


def is_asking(run_id: str) -> bool:
    """Whether a run can still decide by an answer: it has not ended, and no task on the way there has failed."""
    if not is_there(run_id):
        return False
    states = get_current_context()["ti"].get_task_states("promote_model", run_ids=[run_id]).get(run_id, {})
    return not any(
        state in ("failed", "upstream_failed", "skipped", "removed")
        for name, state in states.items()
        if name in ("compare", "gather") or name.startswith("ask")
    )


def end_abandoned(workspace: "Workspace") -> None:
    """End the questions of runs that are gone without their last task, as when somebody deletes them in Airflow."""
    from lesion_tasks.evaluation.open_questions import asking_runs

    with workspace.engine.connect() as connection:
        asking = asking_runs(connection)
    for run_id in sorted(asking):
        if not is_there(run_id):
            end_run(workspace, run_id)


def end_run(workspace: "Workspace", run_id: str) -> None:
    """Keep the answers that no task of a run has noted, and end what it still asks."""
    from lesion_tasks.promotion.questions import end_questions_of_run

    note_kept_answers(workspace, run_id)
    end_questions_of_run(workspace, run_id)


def is_there(run_id: str) -> bool:
    """Whether Airflow has a run that has not ended."""
    count: int = get_current_context()["ti"].get_dr_count(
        "promote_model", run_ids=[run_id], states=["queued", "running"]
    )
    return count > 0


def force_of(params: dict[str, Any], dag_run: Any) -> "Force | None":
    """What a run is to do despite the gates, if anything: a refusal to override, or the best candidate, and why."""
    from lesion_tasks.promotion.overrides import read_force

    return read_force(
        params["training"],
        params["override_reason"],
        is_forced=params["is_forced"],
        asked_by=dag_run.triggering_user_name or UNNAMED,
        run_id=dag_run.run_id,
    )


@dag(
    dag_display_name="4 Promote a model",
    schedule=[EVALUATIONS],
    # A run that waits for a person must not block the next one; decisions take turns on their own lock.
    max_active_runs=16,
    default_args=DEFAULT_ARGS,
    params={
        "tasks": tasks_param("Tasks for which to look for a better model."),
        **approval_params(
            page="Champion",
            unasked="the gates decide",
            more="It holds for every candidate of the tasks above, also one that another run asks about: if the gates "
            "decide about it, that question ends as superseded. " + ASKS_NOBODY,
        ),
        "is_forced": Param(
            False,
            type="boolean",
            title="Despite the gates",
            section="Despite the gates",
            description_md="Promote the best candidate even if it misses a gate, or a refused training by its name, "
            "with a reason. Where a person is asked about it, that question ends as superseded: the page Champion "
            "lists what is asked. " + overrides_in_words(),
        ),
        "training": Param(
            None,
            type=["null", "string"],
            title="A refused training",
            section="Despite the gates",
            description="The id of a training that the gates refused, to be promoted all the same. Empty: the best "
            "candidate that waits.",
        ),
        "override_reason": Param(
            None,
            type=["null", "string"],
            title='Reason (required with "Despite the gates")',
            section="Despite the gates",
            description=f"Required for every promotion despite the gates. {WHY}; kept with the decision.",
            maxLength=MAX_REASON,
        ),
    },
    description="Evaluations -> the champion, with reasons",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "decisions"],
)
def promote_model() -> None:
    @task
    def plan(params: dict[str, Any], dag_run: Any) -> list[dict[str, str]]:
        """Name the champions that were not yet evaluated on their candidate's images."""
        from lesion_tasks.promotion.overrides import tasks_to_decide
        from lesion_tasks.promotion.promote import plan_promotion

        refuse_unusable()
        workspace = open_workspace()
        end_abandoned(workspace)
        force, only = force_of(params, dag_run), only_of()
        with refusing_arguments(are_meant=force is not None):
            names = tasks_to_decide(workspace, params["tasks"], force)
            plans = [plan_promotion(workspace, task=name, force=force, only=only) for name in names]
        return [missing for one in plans for missing in one["rescore"]]

    @task(
        **COMPARES,
        execution_timeout=timedelta(hours=2),
        map_index_template="{{ task.op_kwargs['missing']['training_id'] }}",
    )
    def score_again(missing: dict[str, str]) -> str:
        """Evaluate a champion on its candidate's images."""
        from lesion_tasks.evaluation.evaluate import evaluate_training

        return evaluate_training(open_workspace(), **missing)

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def compare(params: dict[str, Any], dag_run: Any) -> list[dict[str, Any]]:
        """Write the questions, one for each task that has a candidate to ask about; none if nobody is asked."""
        from lesion_tasks.promotion.questions import Asker, write_questions

        questions = write_questions(
            open_workspace(),
            tasks=params["tasks"],
            approval=approval_of(params),
            is_forced=params["is_forced"],
            force=force_of(params, dag_run),
            only=only_of(),
            asker=Asker(
                run_id=dag_run.run_id, wait=timedelta(hours=params["wait_hours"]), is_asking=is_asking
            ),
        )
        return [asdict(question) for question in questions]

    ask = AskAboutCandidate.partial(
        task_id="ask",
        execution_timeout=None,  # the wait has its own limit
        map_index_template="{{ task.task_name }}",
    )

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def gather(answers: Any, params: dict[str, Any], dag_run: Any) -> list[dict[str, Any]]:
        """Name the tasks to decide on, with the answers of those who were asked."""
        from lesion_tasks.promotion.questions import gather_answers

        instructions = gather_answers(
            open_workspace(),
            tasks=params["tasks"],
            answers=results(answers),
            approval=approval_of(params),
            is_forced=params["is_forced"],
            triggered_by=dag_run.triggering_user_name,
            force=force_of(params, dag_run),
        )
        return [asdict(instruction) for instruction in instructions]

    @task(map_index_template="{{ task.op_kwargs['instruction']['task'] }}{{ done | default('') }}")
    def decide(instruction: dict[str, Any], params: dict[str, Any], dag_run: Any) -> dict[str, Any]:
        """Decide, record the reasons, publish, and tell people."""
        from lesion_tasks.evaluation.open_questions import request_of
        from lesion_tasks.promotion.promote import promote_model as promote_best

        decision = promote_best(
            open_workspace(),
            **instruction,
            is_forced=params["is_forced"],
            request_id=request_of(dag_run.run_id, instruction["task"]),
            force=force_of(params, dag_run),
            only=only_of(),
        ).as_dict()
        get_current_context()["done"] = f": {decision['action']}"
        announce_decision(decision)
        return decision

    @task(outlets=[CHAMPION])
    def announce(decisions: Any, outlet_events: Any) -> int:
        """Name the new champions, if there are any."""
        promoted = [decision for decision in results(decisions) if decision.get("is_promoted")]
        skip_unless(bool(promoted), "every champion stays")
        outlet_events[CHAMPION].extra = {"promoted": promoted}
        return len(promoted)

    @task
    def close(dag_run: Any) -> None:
        """End what the run still asks, however it ended: nobody's answer would be heeded."""
        end_run(open_workspace(), dag_run.run_id)

    missing = plan()
    questions = compare()
    # With `expand_kwargs` Airflow would render each value as a template; a task of `ask` has none to render.
    score_again.expand(missing=missing) >> questions
    answers = ask.expand_kwargs(questions)
    # A teardown has no say in whether the run is red, and runs too if somebody marks the run as failed.
    announce(decide.expand(instruction=gather(answers.output))) >> close().as_teardown()


promote_model()
