"""Manifests -> trainings -> evaluations. When `splits` change, weekly, and by hand.

On schedule it trains the variants whose data changed enough since their last training, and skips the rest.
By hand, choose any variants; a split that one of them needs and that was never built is built first. A
training that already exists (same variant, manifest, code and seed) is reused and not run again, unless requested.

Safe to clear: a training continues after its last complete epoch. One failed variant does not keep the others
from being evaluated and announced, but the run stays red.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import (
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    Param,
    TriggerRule,
    dag,
    task,
    task_group,
)

from lesion_airflow import (
    DEFAULT_ARGS,
    EVALUATES,
    EVALUATIONS,
    SPLITS,
    TAGS,
    TELL_WHEN_RED,
    TRAINS,
    approval_param,
    count,
    note_lineage,
    note_unmade,
    open_workspace,
    refuse_unusable,
    refusing_arguments,
    results,
    skip_unless,
    stay_red,
)
from lesion_notices import tell
from lesion_tasks.catalog import COHORTS, RETRAIN_SHARE, VARIANTS, Variant
from lesion_tasks.catalog.approvals import ASKS_NOBODY
from lesion_tasks.catalog.cohorts import NONE_OF_THEM
from lesion_tasks.catalog.recipe import MAX_TRIALS
from lesion_tasks.catalog.schedules import SCHEDULES
from lesion_tasks.catalog.shortened import changeable_fields

BY_TIME = CronTriggerTimetable(SCHEDULES["train_variants"].cron, timezone="UTC", run_immediately=timedelta(0))
NAMES = sorted(VARIANTS)
COHORT_NAMES = [*sorted(COHORTS), NONE_OF_THEM] if COHORTS else []
SEARCHABLE = [name for name in NAMES if VARIANTS[name].search]


def shown(variant: Variant) -> str:
    """A variant in the form's list: what it is, and what it asks for."""
    parts = [variant, *(VARIANTS[name] for name in variant.members)]
    asks = ["needs weights"] if any(part.backbone and part.is_pretrained for part in parts) else []
    asks += ["can be searched"] if variant.search else []
    return "; ".join([f"{variant.name} ({variant.title})", *asks])


POLICIES = {
    "changed": "Those for which enough data changed since their last training",
    "always": "All of them",
}


def unchanged(names: list[str]) -> str:
    """Why some variants are not trained, and what would train them."""
    return (
        f"Not trained: {', '.join(names)}. Less than {RETRAIN_SHARE:.0%} of the images of the split changed since the "
        f'last training, and "Which of them" is "{POLICIES["changed"]}". "{POLICIES["always"]}" trains them if the '
        'same training does not exist yet, "Train again" in any case'
    )


@dag(
    dag_display_name="3 Train and evaluate variants",
    schedule=AssetOrTimeSchedule(timetable=BY_TIME, assets=[SPLITS]),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "variants": Param(
            None,
            type=["null", "array"],
            minItems=1,
            items={"enum": NAMES},
            examples=NAMES,
            values_display={name: shown(variant) for name, variant in VARIANTS.items()},
            title="Variants",
            description="Which variants to train. Empty: those of the setting LESION_VARIANTS.",
        ),
        "policy": Param(
            "changed",
            type="string",
            enum=list(POLICIES),
            values_display=POLICIES,
            title="Which of them",
            description="Whether to skip a variant whose data has hardly changed since its last training. Trainings "
            "that are shorter, rehearsed, or have other values of some fields are others than that one, and are not "
            "skipped.",
        ),
        "again": Param(
            False,
            type="boolean",
            title="Train again",
            description="Run every chosen training again even if the same one already exists.",
        ),
        "trials": Param(
            0,
            type="integer",
            minimum=0,
            maximum=MAX_TRIALS,
            title="Search trials",
            section="Shorter or searched",
            description=(
                "Before training, run this many trials of a Bayesian search on val for the best parameters: only for "
                f"{', '.join(SEARCHABLE)}. Trials of an earlier run on the same data count."
            ),
        ),
        "cohorts": Param(
            None,
            type=["null", "array"],
            minItems=1,
            items={"enum": COHORT_NAMES} if COHORT_NAMES else {"type": "string"},
            examples=COHORT_NAMES,
            values_display={
                name: f"{name} ({COHORTS[name].title if name in COHORTS else 'no cohort, and no name beside it'})"
                for name in COHORT_NAMES
            },
            title="Cohorts",
            description=(
                "On which cohorts of other people's data each training is judged. Empty: all of its task"
                + (
                    f". {NONE_OF_THEM}: no cohort; a promotion makes up for it."
                    if COHORTS
                    else "; none is declared."
                )
            ),
        ),
        "approval": approval_param(
            unasked="the gates decide",
            section="The promotion that follows",
            description="Whether promote_model, which the new evaluations start, waits for an answer before anything "
            "is decided. Always and Never are about what this form trains alone: nothing is decided about other "
            "candidates. What people are asked about one of those ends all the same if it is no longer the best or the "
            "newest of its variant, or if the champion is another by then. As the setting says: about all that wait. "
            "Where several runs start it together, whoever wants to be asked is. " + ASKS_NOBODY,
        ),
        "max_epochs": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="At most this many epochs",
            section="Shorter or searched",
            description="In each stage. Empty: as many as the variant says.",
        ),
        "changes": Param(
            None,
            type=["null", "object"],
            # Not `propertyNames`: what it says of a misspelt name lists all others.
            properties={name: {} for name in changeable_fields()},
            additionalProperties=False,
            title="Other values of some fields",
            section="Shorter or searched",
            description=(
                'For these trainings alone, such as {"seed": 2} or {"learning.ema_momentum": 0}: what one change '
                "brings, or how much of a result is chance. Never promoted. Empty: none."
            ),
        ),
        "rehearsal": Param(
            False,
            type="boolean",
            title="Rehearsal",
            section="Shorter or searched",
            description="One epoch on tiny pictures, to see that everything runs. Never promoted.",
        ),
    },
    description="Split manifests -> trained and evaluated models",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "models"],
)
def train_variants() -> None:
    @task
    def choose(params: dict[str, Any]) -> list[str]:
        """Name the variants to train; none means that there is nothing to do."""
        from lesion_tasks.catalog.lookup import cohorts_chosen, refuse_misspelt_cohorts
        from lesion_tasks.training.train import choose_variants

        refuse_unusable()
        workspace = open_workspace()
        how = {
            "again": params["again"],
            "n_trials": params["trials"],
            "is_smoke_run": params["rehearsal"],
            "changes": params["changes"],
        }
        with refusing_arguments():
            refuse_misspelt_cohorts(cohorts_chosen(params["cohorts"]) or ())
            named = choose_variants(workspace, variants=params["variants"] or None, policy="always", **how)
            # A shortened training is another than the one since which data may have changed.
            is_shortened = params["rehearsal"] or params["max_epochs"] is not None
            if is_shortened or params["policy"] == "always":
                return named
            chosen = choose_variants(workspace, variants=named, policy=params["policy"], **how)
        if left := [name for name in named if name not in chosen]:
            note_unmade(unchanged(left))
        return chosen

    @task(
        **TRAINS,
        execution_timeout=timedelta(hours=12),
        map_index_template="{{ task.op_kwargs['variant'] }}",
    )
    def train(variant: str, params: dict[str, Any], dag_run: Any) -> str:
        """Train one variant on the newest manifest of its split."""
        from lesion_tasks.training.prepare import prepare_and_train
        from lesion_tasks.training.run_record import find_finished
        from lesion_tasks.upkeep.lineage import of_training

        workspace = open_workspace()
        training_id = prepare_and_train(
            workspace,
            variant,
            again=params["again"],
            is_smoke_run=params["rehearsal"],
            max_epochs=params["max_epochs"],
            n_trials=params["trials"],
            changes=params["changes"],
        )
        note_lineage(of_training(workspace, training_id))
        with workspace.engine.connect() as connection:
            finished_at = find_finished(connection, training_id).finished_at
        if finished_at is not None and finished_at < dag_run.start_date:
            note_unmade(
                f'{training_id} existed already: not trained again; "Train again" in the form repeats it'
            )
        return training_id

    @task(
        **EVALUATES,
        execution_timeout=timedelta(hours=2),
        map_index_template="{{ task.op_kwargs['training_id'] }}",
    )
    def evaluate(training_id: str, params: dict[str, Any]) -> str:
        """Check one training's predictions, compute all figures, write its report; tell people if it is not sound."""
        from lesion_tasks.catalog.lookup import cohorts_chosen, cohorts_left
        from lesion_tasks.evaluation.evaluate import evaluate_training
        from lesion_tasks.upkeep import lineage, notices

        workspace = open_workspace()
        chosen = cohorts_chosen(params["cohorts"])
        cohorts = None if chosen is None else cohorts_left(chosen)
        evaluation_id = evaluate_training(workspace, training_id, cohorts=cohorts)
        note_lineage(lineage.of_evaluation(workspace, evaluation_id))
        unsound = notices.of_evaluation(workspace, evaluation_id)
        count({"evaluations": 1, "unsound_evaluations": int(unsound is not None)})
        tell(unsound)
        return evaluation_id

    @task_group
    def each(variant: str) -> Any:
        return evaluate(training_id=train(variant=variant))

    @task(outlets=[EVALUATIONS], trigger_rule=TriggerRule.ALL_DONE)
    def announce(evaluated: Any, params: dict[str, Any], outlet_events: Any) -> int:
        """Name the new evaluations, once, after all are made, and whether a person is to be asked about them."""
        ids = results(evaluated)
        skip_unless(bool(ids), "nothing was evaluated")
        outlet_events[EVALUATIONS].extra = {"evaluations": ids, "approval": params["approval"]}
        return len(ids)

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def note_lost() -> list[str]:
        """Write the reason to the row of a training whose worker was killed in its last attempt."""
        from lesion_tasks.training.train import note_lost_trainings

        return note_lost_trainings(open_workspace())

    evaluated = each.expand(variant=choose())
    announce(evaluated)
    evaluated >> [note_lost(), stay_red()]


train_variants()
