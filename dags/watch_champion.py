"""The champion and what arrived since its training data -> shifts, figures over time, a page. Monthly, and by hand.

Without labels: whether metadata, pictures, scores and answers of new images differ from the champion's own test set,
by more than chance and by more than a stated bound. With labels, as they arrive: its figures on images that took no
part in training or choosing it. People are told when a bound is passed; the champion's variant is trained again only
where the form or the setting LESION_RETRAINING says so, and its model then has to win like any other.

Every task is safe to clear: what the champion saw of an image is kept, and the same images and labels give the same
page.
"""

from datetime import date, timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param, TriggerRule, dag, get_current_context, task

from lesion_airflow import (
    COMPARES,
    DEFAULT_ARGS,
    TAGS,
    TELL_WHEN_RED,
    WATCHES,
    open_workspace,
    refuse_unusable,
    results,
    skip_unless,
    stay_red,
    tasks_param,
)
from lesion_notices import tell
from lesion_tasks.catalog.retraining import AS_SET, RETRAININGS
from lesion_tasks.catalog.schedules import SCHEDULES


def day_of(params: dict[str, Any]) -> date | None:
    """Before which day to look: the form's, or that of a run of the schedule, also a late one; None: at everything."""
    if params["until"]:
        return date.fromisoformat(params["until"])
    run = get_current_context()["dag_run"]
    return run.run_after.date() if run.run_type in {"scheduled", "backfill"} else None


@dag(
    dag_display_name="9 Watch the champion",
    schedule=SCHEDULES["watch_champion"].cron,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "tasks": tasks_param(
            "Tasks whose champion is watched; those without one, or with a newer one, are passed over."
        ),
        "until": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Until",
            description="Look at what arrived before this day. Empty: at everything; on schedule, at whole months.",
        ),
        "retraining": Param(
            AS_SET,
            type="string",
            enum=list(RETRAININGS),
            values_display=RETRAININGS,
            title="Train again",
            description="Whether to start train_variants with the champion's variant.",
        ),
    },
    description="New images and the champion -> shifts, figures over time",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "predictions"],
)
def watch_champion() -> None:
    @task
    def choose(params: dict[str, Any]) -> list[str]:
        """Name the tasks whose champion can be watched."""
        from lesion_tasks.catalog.lookup import tasks_left
        from lesion_tasks.watching.watch import champions_to_watch

        refuse_unusable()
        found = champions_to_watch(open_workspace(), tasks_left(params["tasks"]), day_of(params))
        skip_unless(bool(found), "no task has a champion to watch: the log above says why")
        return found

    @task(
        **COMPARES,
        execution_timeout=timedelta(hours=6),
        map_index_template="{{ task.op_kwargs['name'] }}",
    )
    def watch(name: str, params: dict[str, Any]) -> str:
        """Look at new images, compare, write the page; tell people if a bound is passed."""
        from lesion_tasks.upkeep.notices import of_watch
        from lesion_tasks.watching.watch import champions_to_watch
        from lesion_tasks.watching.watch import watch_champion as watch_one

        workspace, until = open_workspace(), day_of(params)
        # While this task waited for its slot, another may have become champion.
        skip_unless(
            bool(champions_to_watch(workspace, [name], until)), "nothing to watch: the log above says why"
        )
        found = watch_one(workspace, name, until)
        tell(of_watch(found))
        return found.watch_id

    @task(outlets=[WATCHES], trigger_rule=TriggerRule.ALL_DONE)
    def announce(watched: Any, outlet_events: Any) -> int:
        """Name the new pages, once, after all are made."""
        ids = results(watched)
        skip_unless(bool(ids), "nothing was watched")
        outlet_events[WATCHES].extra = {"watches": ids}
        return len(ids)

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def choose_retraining(watched: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Name the variants to train again; skipped where none is to be."""
        from lesion_tasks.watching.watch import variants_to_retrain

        variants = variants_to_retrain(open_workspace(), results(watched), retraining=params["retraining"])
        skip_unless(bool(variants), "nothing passed a bound, or nothing is to be trained")
        return {"variants": variants, "policy": "always"}

    watched = watch.expand(name=choose())
    announce(watched)
    TriggerDagRunOperator(
        task_id="retrain",
        doc_md="Start `train_variants`, once for a run, with the variants of the champions whose watch passed a bound.",
        trigger_dag_id="train_variants",
        trigger_run_id="watch__{{ run_id }}",
        conf=choose_retraining(watched),  # type: ignore[arg-type]  # rendered when it is there
        skip_when_already_exists=True,
    )
    watched >> stay_red()


watch_champion()
