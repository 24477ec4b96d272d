"""Archive -> records and files. By each pass's schedule, and by hand.

The passes run in this order, each on the result of the ones before it; only `vocabulary` does not wait for files:

- **append** reads what the archive added since the last time,
- **reconcile** compares counts per id prefix and reads again where they differ,
- **sweep** reads a share of all records again, so that every change is found eventually,
- **check_files** checks a share of all files, so that a replaced one is found,
- **fetch** downloads the files that are missing or replaced, checks them and stores them,
- **vocabulary** counts fields and values that the archive's published rules do not know; it changes nothing.

A scheduled run does the passes that are due. A manual run does those that are chosen in its form. Every task continues
where it was stopped, so any of them is safe to clear. A file that cannot be used is a row with a reason; only too many
of those make a task red. A refused file is due again after an hour, then four, and so on; a run by hand and a task's
retry do not wait for that. `lesion changes --since <id of a run>` lists what changed since that run began.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import (
    MultipleCronTriggerTimetable,
    Param,
    TriggerRule,
    dag,
    get_current_context,
    task,
)

from lesion_airflow import (
    DEFAULT_ARGS,
    IMAGES,
    TAGS,
    TELL_WHEN_RED,
    count,
    due,
    open_workspace,
    refuse_unusable,
    results,
    retry_refused,
    skip_unless,
    tell_when_late,
    total,
)
from lesion_tasks.catalog.ingest_passes import CHECK_SHARE, DEFAULT_PASSES, INGEST_PASSES, SWEEP_SHARE
from lesion_tasks.catalog.pools import ARCHIVE_POOL, CONNECTIONS_PER_TASK, FILES_PER_RANGE, MAX_RANGES
from lesion_tasks.catalog.schedules import SCHEDULES

# A pass that missed its time is done in the next run.
CRONS = {name: SCHEDULES[name].cron for name in INGEST_PASSES}
NAMES = list(INGEST_PASSES)
TITLE = "1 Ingest images"
LIMIT = timedelta(hours=24)


@dag(
    dag_display_name=TITLE,
    # Unpausing the DAG during the day must not start a run at once.
    schedule=MultipleCronTriggerTimetable(
        *sorted(set(CRONS.values())), timezone="UTC", run_immediately=timedelta(0)
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "passes": Param(
            list(DEFAULT_PASSES),
            type="array",
            minItems=1,
            items={"enum": NAMES},
            examples=NAMES,
            title="Passes",
            description="What a manual run does, always in the order of the list. A scheduled run does what is due.",
        ),
        "query": Param(
            None,
            type=["null", "string"],
            title="Query",
            section="What is read",
            description="Search text of the archive that limits the records, such as "
            "image_type:dermoscopic. Empty: the setting LESION_QUERY.",
        ),
        "collections": Param(
            None,
            type=["null", "string"],
            pattern="^[0-9, ]*$",
            title="Collections",
            section="What is read",
            description="Numbers of the archive's collections, separated by commas; images in any of them. "
            "Empty: no limit.",
        ),
        "source": Param(
            None,
            type=["null", "string"],
            # No user and no password: form input stays in Airflow's tables.
            pattern="^(?![^/]*//.*@)",
            title="Source",
            section="What is read",
            description="Address of an archive that the settings allow, without user or password, or a folder under "
            "one of LESION_SOURCE_FOLDERS: a download, or the archive's own snapshot "
            "(ISIC_metadata.parquet and ISIC_images.zip); ingestion from LESION_ARCHIVE_URL then continues where the "
            "snapshot ends. Empty: the setting LESION_ARCHIVE_URL.",
        ),
        "sweep_share": Param(
            SWEEP_SHARE,
            type="number",
            exclusiveMinimum=0,
            maximum=1,
            title="Share to sweep",
            section="How much at once",
            description="Share of all records that one run reads again; "
            "0.15 each night reads all of them within a week.",
        ),
        "check_share": Param(
            CHECK_SHARE,
            type="number",
            exclusiveMinimum=0,
            maximum=1,
            title="Share of files to check",
            section="How much at once",
            description="Share of all files that one run checks; "
            "0.04 each week checks all of them within half a year.",
        ),
        "fetch_tasks": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=64,
            title="Fetch tasks",
            section="How much at once",
            description="The number of parallel tasks into which the missing files are divided, by id prefix. "
            f"Empty: one for each {FILES_PER_RANGE:,}, at most {MAX_RANGES}.",
        ),
    },
    description="The ISIC Archive -> records and verified files",
    on_failure_callback=TELL_WHEN_RED,
    deadline=tell_when_late(TITLE, "ingest_isic", LIMIT),
    doc_md=__doc__,
    tags=[*TAGS, "data"],
)
def ingest_isic() -> None:
    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(minutes=10))
    def poll(params: dict[str, Any], dag_run: Any) -> list[str]:
        """Check that the archive answers as expected and how much it holds; name the passes to do."""
        from lesion_tasks.ingest.append import poll_archive
        from lesion_tasks.ingest.passes import choose_passes
        from lesion_tasks.ingest.runs import begin_ingestion, last_done

        refuse_unusable()
        begin_ingestion(open_workspace(), dag_run.run_id, **_scope(params))
        poll_archive(open_workspace(), **_scope(params))
        in_time = due(CRONS, last_done(open_workspace(), **_scope(params)), dag_run.run_after)
        wanted = in_time if dag_run.run_type == "scheduled" else params["passes"]
        return choose_passes(open_workspace(), wanted, **_scope(params))

    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(hours=12))
    def append(passes: list[str], params: dict[str, Any]) -> dict[str, Any]:
        """Read new records."""
        from lesion_tasks.ingest.append import append_records

        skip_unless("append" in passes, "the pass append is not wanted in this run")
        return append_records(open_workspace(), **_scope(params))

    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(hours=6), trigger_rule=TriggerRule.NONE_FAILED)
    def reconcile(passes: list[str], params: dict[str, Any]) -> dict[str, Any]:
        """Compare counts, and read again where they differ."""
        from lesion_tasks.ingest.reconcile import reconcile_records

        skip_unless("reconcile" in passes, "the pass reconcile is not wanted in this run")
        return reconcile_records(open_workspace(), **_scope(params))

    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(hours=6), trigger_rule=TriggerRule.NONE_FAILED)
    def sweep(passes: list[str], params: dict[str, Any]) -> dict[str, Any]:
        """Read those records again that have not been read for the longest time."""
        from lesion_tasks.ingest.sweep import sweep_records

        skip_unless("sweep" in passes, "the pass sweep is not wanted in this run")
        return sweep_records(open_workspace(), **_scope(params), sweep_share=params["sweep_share"])

    @task(pool=ARCHIVE_POOL, execution_timeout=timedelta(hours=6), trigger_rule=TriggerRule.NONE_FAILED)
    def check_files(passes: list[str], params: dict[str, Any]) -> dict[str, Any]:
        """Check those files that have not been checked for the longest time."""
        from lesion_tasks.ingest.find_replaced_files import check_files

        skip_unless("check_files" in passes, "the pass check_files is not wanted in this run")
        return check_files(open_workspace(), **_scope(params), check_share=params["check_share"])

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def divide(passes: list[str], params: dict[str, Any]) -> list[str]:
        """Divide the missing files into ranges of id prefixes."""
        from lesion_tasks.ingest.fetch import fetch_ranges

        skip_unless("fetch" in passes, "the pass fetch is not wanted in this run")
        return fetch_ranges(
            open_workspace(), **_scope(params), **retry_refused(), ranges=params["fetch_tasks"]
        )

    @task(
        pool=ARCHIVE_POOL,
        execution_timeout=timedelta(hours=24),
        map_index_template="{{ task.op_kwargs['id_range'] }}{{ done | default('') }}",
    )
    def fetch(id_range: str, params: dict[str, Any]) -> dict[str, Any]:
        """Download one part of the missing files, check each, and store it."""
        from lesion_tasks.ingest.fetch import fetch_files

        counts = fetch_files(
            open_workspace(),
            id_range,
            **_scope(params),
            **retry_refused(),
            n_connections=CONNECTIONS_PER_TASK,
        )
        get_current_context()["done"] = f": {counts['stored']:,} stored, {counts['refused']:,} refused"
        return counts

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def vocabulary(passes: list[str], params: dict[str, Any]) -> dict[str, Any]:
        """Count fields and values that the archive's published rules do not know."""
        from lesion_tasks.ingest.vocabulary_check import check_vocabulary

        skip_unless("vocabulary" in passes, "the pass vocabulary is not wanted in this run")
        return check_vocabulary(open_workspace(), **_scope(params))

    # Once, after all passes: a mapped task with outlets would announce each of its parts.
    @task(outlets=[IMAGES], trigger_rule=TriggerRule.NONE_FAILED)
    def announce(
        done: dict[str, dict[str, Any] | None],
        parts: Any,
        passes: list[str],
        dag_run: Any,
        outlet_events: Any,
    ) -> dict[str, int]:
        """Announce what changed, even if nothing did: a stopped run may have left something unannounced."""
        from lesion_tasks.ingest.runs import end_ingestion

        counts = done | {"fetch": total(results(parts))}
        counts = {name: counts[name] for name in passes}
        end_ingestion(open_workspace(), dag_run.run_id, counts)
        changed = total(found for name, found in counts.items() if name != "vocabulary")
        outlet_events[IMAGES].extra = changed
        count(changed)
        return changed

    passes = poll()
    begun = {
        "append": append(passes),
        "reconcile": reconcile(passes),
        "sweep": sweep(passes),
        "check_files": check_files(passes),
        "fetch": divide(passes),
        "vocabulary": vocabulary(passes),
    }
    _put_in_order(begun)
    parts = fetch.expand(id_range=begun.pop("fetch"))
    announce(begun, parts, passes)


def _put_in_order(begun: dict[str, Any]) -> None:
    for name, one in INGEST_PASSES.items():
        if one.after is not None:
            begun[one.after] >> begun[name]


def _scope(params: dict[str, Any]) -> dict[str, Any]:
    given = {name: params[name] for name in ("source", "query")}
    return given | {"collections": params["collections"] or "", "trust": "form"}


ingest_isic()
