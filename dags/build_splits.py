"""Records and files -> images -> splits -> arrays. Whenever `images` change, and by hand.

Curation turns every record into an image with one label and one group, or a reject with a reason. Each split then
becomes an immutable manifest, named by its digest, and its pixels are decoded once for each size and shape that a
variant needs. Images that are already there are not touched again.

Every task is safe to clear. A split that cannot be built does not keep the others from being announced, but the run
stays red.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, TriggerRule, dag, task, task_group

from lesion_airflow import (
    DEFAULT_ARGS,
    IMAGES,
    SPLITS,
    TAGS,
    TELL_WHEN_RED,
    note_lineage,
    open_workspace,
    refuse_unusable,
    results,
    skip_unless,
    stay_red,
)
from lesion_tasks.catalog import SPLITS as RECIPES
from lesion_tasks.catalog import InputSize

NAMES = sorted(RECIPES)


@dag(
    dag_display_name="2 Build splits",
    schedule=[IMAGES],
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "splits": Param(
            None,
            type=["null", "array"],
            minItems=1,
            items={"enum": NAMES},
            examples=NAMES,
            title="Splits",
            description="Which splits to build. Empty: those that the scheduled variants need, and those of your own "
            "catalogue.",
        ),
    },
    description="Records and files -> curated images, split manifests and decoded pixels",
    on_failure_callback=TELL_WHEN_RED,
    doc_md=__doc__,
    tags=[*TAGS, "data"],
)
def build_splits() -> None:
    @task(execution_timeout=timedelta(hours=4))
    def curate() -> dict[str, int]:
        """Turn records and files into images, or rejects with a reason."""
        from lesion_tasks.curation.curate import curate_images

        return curate_images(open_workspace())

    @task
    def choose(params: dict[str, Any]) -> list[dict[str, Any]]:
        """Name the splits to build, and the sizes and shapes in which variants use their pictures."""
        from lesion_tasks.splits.plan import plan_splits

        refuse_unusable()
        planned = plan_splits(open_workspace(), params["splits"] or ())
        return [{"name": one.name, "sizes": [str(size) for size in one.sizes]} for one in planned]

    @task(map_index_template="{{ task.op_kwargs['name'] }}")
    def split(name: str) -> str:
        """Assign groups to train, val and test, and write the manifest."""
        from lesion_tasks.splits.split import build_split
        from lesion_tasks.upkeep.lineage import of_manifest

        workspace = open_workspace()
        digest = build_split(workspace, name)
        note_lineage(of_manifest(workspace, digest))
        return digest

    @task(execution_timeout=timedelta(hours=8), map_index_template="{{ task.op_kwargs['name'] }}")
    def materialize(name: str, digest: str, sizes: list[str]) -> dict[str, str]:
        """Decode the manifest's pixels once for each size and shape."""
        from lesion_tasks.pixels.materialize import materialize_manifest

        for size in sizes:
            materialize_manifest(open_workspace(), digest, InputSize.parse(size))
        return {"split": name, "digest": digest}

    @task_group
    def each(name: str, sizes: list[str]) -> Any:
        return materialize(name=name, digest=split(name=name), sizes=sizes)

    @task(outlets=[SPLITS], trigger_rule=TriggerRule.ALL_DONE)
    def announce(built: Any, outlet_events: Any) -> dict[str, str]:
        """Name the manifest of each split, once, after all are built."""
        digests = {one["split"]: one["digest"] for one in results(built)}
        skip_unless(bool(digests), "no split was built")
        outlet_events[SPLITS].extra = digests
        return digests

    names = choose()
    curate() >> names
    built = each.expand_kwargs(names)
    announce(built)
    built >> stay_red()


build_splits()
