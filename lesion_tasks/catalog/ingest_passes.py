"""The passes of ingestion, in their order: what each does, when it is due, and how much of the archive it asks for.

Airflow's form and schedule, the command line and the steps all read them here. Data only.
"""

from dataclasses import dataclass

# Of the records that one sweep reads again: with 0.15 each night, all of them within a week.
SWEEP_SHARE = 0.15
# Of the files that one weekly run asks for: all of them within half a year.
CHECK_SHARE = 0.04
# Requests at once: as many as the archive's own client makes. Where tasks of a pool share them, each gets its part.
N_CONNECTIONS = 10
# Pools of Airflow: name -> (slots, what for).
ARCHIVE_POOL, GPU_POOL = "archive", "gpu"
POOLS = {
    GPU_POOL: (1, "One training at a time"),
    ARCHIVE_POOL: (2, "Tasks that talk to the archive, which asks for politeness"),
}
CONNECTIONS_PER_TASK = N_CONNECTIONS // POOLS[ARCHIVE_POOL][0]


@dataclass(frozen=True, kw_only=True)
class IngestPass:
    """One pass over a part of the archive."""

    name: str
    cron: str  # when it is due by itself, in UTC
    is_default: bool  # done where nobody chooses
    what: str


_PASSES = (
    IngestPass(name="append", cron="30 1 * * *", is_default=True, what="what is newer than last time"),
    IngestPass(
        name="reconcile",
        cron="30 1 * * *",
        is_default=True,
        what="counts by id prefix, read where they differ",
    ),
    IngestPass(name="sweep", cron="30 1 * * *", is_default=True, what="a share of all records, read again"),
    # Asking for files that are there pays only when it is spread over months.
    IngestPass(
        name="check_files", cron="30 1 * * 0", is_default=False, what="a share of all files, asked for"
    ),
    IngestPass(name="fetch", cron="30 1 * * *", is_default=True, what="files that are missing or replaced"),
    IngestPass(
        name="vocabulary",
        cron="30 1 * * 0",
        is_default=False,
        what="values that the archive's published rules do not know, counted",
    ),
)
INGEST_PASSES = {one.name: one for one in _PASSES}
DEFAULT_PASSES = tuple(one.name for one in _PASSES if one.is_default)
