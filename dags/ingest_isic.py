"""Archive -> records and files. Daily, and by hand.

The layers run in this order, each on what the ones before it left:

- **append** reads what the archive added since the last time,
- **reconcile** compares counts per id prefix and reads again where they differ,
- **sweep** reads a share of all records again, so that every change is found in the end,
- **fetch** gets the files that are missing, checks them and stores them.

Every task goes on where it was stopped, so any of them is safe to clear. A file that cannot be used is a
row with a reason; only too many of those make a task red.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param, TriggerRule, dag, task

from lesion_airflow import ARCHIVE_POOL, DEFAULT_ARGS, IMAGES, TAGS, results, skip_unless, total

# Switching the DAG on by day is no reason to start at once.
EVERY_NIGHT = CronTriggerTimetable("30 1 * * *", timezone="UTC", run_immediately=timedelta(0))
LAYERS = ["append", "reconcile", "sweep", "fetch"]


@dag(
    schedule=EVERY_NIGHT,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "layers": Param(
            LAYERS,
            type="array",
            items={"enum": LAYERS},
            examples=LAYERS,
            title="Layers",
            description="What to do; they always run in the order append, reconcile, sweep, fetch.",
        ),
        "query": Param(
            None,
            type=["null", "string"],
            title="Query",
            description="Search text of the archive that limits the records, such as "
            "`image_type:dermoscopic`. Empty: the setting LESION_QUERY.",
        ),
        "source": Param(
            None,
            type=["null", "string"],
            title="Source",
            description="Address of an archive, or a download folder. Empty: the setting LESION_ARCHIVE_URL.",
        ),
        "sweep_share": Param(
            0.03,
            type="number",
            exclusiveMinimum=0,
            maximum=1,
            title="Share to sweep",
            description="Share of all records that one run reads again; 0.03 comes round once a month.",
        ),
        "fetch_tasks": Param(
            2,
            type="integer",
            minimum=1,
            maximum=64,
            title="Fetch tasks",
            description="Into how many parallel tasks the missing files are divided.",
        ),
    },
    description="The ISIC Archive -> records and verified files",
    doc_md=__doc__,
    tags=TAGS,
)
def ingest_isic() -> None:
    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(minutes=10))
    def probe(params: dict[str, Any]) -> dict[str, Any]:
        """Ask whether the archive answers as expected, and how much it holds."""
        from lesion_tasks.ingest import probe_archive

        return probe_archive(query=params["query"], source=params["source"])

    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(hours=12))
    def append(params: dict[str, Any]) -> dict[str, Any]:
        """Read records that are new."""
        from lesion_tasks.ingest import append_records

        skip_unless("append" in params["layers"], "the layer append was not chosen")
        return append_records(query=params["query"], source=params["source"])

    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(hours=6), trigger_rule=TriggerRule.NONE_FAILED)
    def reconcile(params: dict[str, Any]) -> dict[str, Any]:
        """Compare counts, and read again where they differ."""
        from lesion_tasks.ingest import reconcile_records

        skip_unless("reconcile" in params["layers"], "the layer reconcile was not chosen")
        return reconcile_records(query=params["query"], source=params["source"])

    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(hours=6), trigger_rule=TriggerRule.NONE_FAILED)
    def sweep(params: dict[str, Any]) -> dict[str, Any]:
        """Read the records again that were not read for the longest time."""
        from lesion_tasks.ingest import sweep_records

        skip_unless("sweep" in params["layers"], "the layer sweep was not chosen")
        share = params["sweep_share"]
        return sweep_records(query=params["query"], source=params["source"], shard_share=share)

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def divide(params: dict[str, Any]) -> list[str]:
        """Divide the files that are missing into parts."""
        from lesion_tasks.ingest import fetch_shards

        skip_unless("fetch" in params["layers"], "the layer fetch was not chosen")
        return fetch_shards(shards=params["fetch_tasks"], query=params["query"], source=params["source"])

    @task(
        pool=ARCHIVE_POOL,
        execution_timeout=timedelta(hours=24),
        map_index_template="{{ task.op_kwargs['shard'] }}",
    )
    def fetch(shard: str, params: dict[str, Any]) -> dict[str, Any]:
        """Get one part of the missing files, check each, and store it."""
        from lesion_tasks.ingest import fetch_files

        return fetch_files(shard, query=params["query"], source=params["source"])

    # Once, after all: a mapped task with outlets would announce each of its parts.
    @task(outlets=[IMAGES], trigger_rule=TriggerRule.NONE_FAILED)
    def announce(layers: list[dict[str, Any] | None], parts: Any, outlet_events: Any) -> dict[str, int]:
        """Say what changed. Also when nothing did: a run that was stopped may have left something unsaid."""
        changed = total([*layers, *results(parts)])
        outlet_events[IMAGES].extra = changed
        return changed

    layers = [append(), reconcile(), sweep()]
    parts = divide()
    probe() >> layers[0] >> layers[1] >> layers[2] >> parts
    announce(layers, fetch.expand(shard=parts))


ingest_isic()
