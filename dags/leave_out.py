"""Splits -> a variant trained without each institution, tested on it, and one report about all of them. By hand.

Internal-external cross-validation: what a model of this recipe may expect at an institution that it has never seen, and
how much institutions differ. Collections or anatomical sites can be held out in the same way. Each is held out by
several trainings with other seeds, so that their luck is not taken for a difference. None of these trainings is ever
promoted, and none is on the leaderboard.

All learn from the manifest that was in force when the run began, whatever the archive adds meanwhile. Only which
collections list an image is looked up for each fold: ingest nothing while collections are held out. Every task is safe
to clear: a training continues after its last complete epoch, and what is finished on the same data is found again.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from lesion_airflow import (
    DEFAULT_ARGS,
    TAGS,
    TELL_WHEN_RED,
    TRAINS,
    note_lineage,
    open_workspace,
    refuse_unusable,
    results,
)
from lesion_tasks.catalog import SPLITS, VARIANTS
from lesion_tasks.catalog.split_recipes import HELD_OUT_BY, N_TRAININGS

NAMES = sorted(name for name, variant in VARIANTS.items() if SPLITS[variant.split].is_whole)


@dag(
    dag_display_name="Leave one institution out",
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "variant": Param(
            type="string",
            enum=NAMES,
            values_display={name: f"{name} ({VARIANTS[name].title})" for name in NAMES},
            title="Variant",
            description="Which recipe to train without each institution. None is preset: some train for hours.",
        ),
        "by": Param(
            "attribution",
            type="string",
            enum=list(HELD_OUT_BY),
            values_display={name: f"{one.capitalize()} ({name})" for name, one in HELD_OUT_BY.items()},
            title="Held out",
            description="What is held out, one after the other. Those with too few images are named in the report.",
        ),
        "n_seeds": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Trainings of each",
            description=f"With other seeds: with one, the luck of training is not told apart from what is held out. "
            f"Empty: {N_TRAININGS}, or one where another seed gives the same model.",
        ),
        "max_epochs": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="At most this many epochs",
            description="In each stage. Empty: as many as the variant says.",
        ),
        "rehearsal": Param(
            False,
            type="boolean",
            title="Rehearsal",
            description="One epoch on tiny pictures, to see that everything runs.",
        ),
    },
    description="A recipe tested where it never learned, institution by institution",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "models"],
)
def leave_out() -> None:
    @task(execution_timeout=timedelta(hours=8))
    def choose(params: dict[str, Any]) -> list[dict[str, Any]]:
        """Name what is held out of which manifest, after building the split and the pixels that the variant needs."""
        from lesion_tasks.evaluation.held_out_report import choose_folds

        refuse_unusable()
        workspace = open_workspace()
        chosen = choose_folds(
            workspace,
            params["variant"],
            params["by"],
            n_seeds=params["n_seeds"],
            is_smoke_run=params["rehearsal"],
        )
        return [fold.as_json for fold in chosen]

    @task(
        **TRAINS,
        execution_timeout=timedelta(hours=14),
        map_index_template="{{ task.op_kwargs['fold']['words'] }}",
    )
    def train(fold: dict[str, Any], params: dict[str, Any]) -> str:
        """Train without one of them, and evaluate on all of it."""
        from lesion_tasks.evaluation.held_out_report import Fold, train_fold
        from lesion_tasks.upkeep.lineage import of_training

        workspace = open_workspace()
        training_id = train_fold(
            workspace,
            params["variant"],
            Fold.from_json(fold),
            is_smoke_run=params["rehearsal"],
            max_epochs=params["max_epochs"],
        )
        note_lineage(of_training(workspace, training_id))
        return training_id

    @task
    def report(chosen: list[dict[str, Any]], trained: Any, params: dict[str, Any]) -> str:
        """Put all of them together: a page with a forest plot, and the same as JSON."""
        from lesion_tasks.evaluation.held_out_report import report_held_out

        digest = chosen[0]["manifest_digest"]
        return report_held_out(open_workspace(), digest, params["by"], results(trained))

    chosen = choose()
    report(chosen, train.expand(fold=chosen))


leave_out()
