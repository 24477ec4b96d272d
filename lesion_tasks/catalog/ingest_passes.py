"""The passes of ingestion, in order: what each does, and how much of the archive it requests. `schedules`: when.

Airflow's form and schedule, the command line and the steps all read them here. Data only.
"""

from dataclasses import dataclass

# Share of the records that one sweep reads again: with 0.15 each night, all of them within a week.
SWEEP_SHARE = 0.15
# Share of the files that one weekly run checks: all of them within half a year.
CHECK_SHARE = 0.04


@dataclass(frozen=True, kw_only=True)
class IngestPass:
    """One pass over a part of the archive."""

    name: str
    title: str  # what it does, as people read it
    is_default: bool  # run unless passes are chosen
    what: str
    after: str | None  # the pass on whose result it works


_PASSES = (
    IngestPass(
        name="append",
        title="read new records",
        is_default=True,
        what="records newer than last time",
        after=None,
    ),
    IngestPass(
        name="reconcile",
        title="compare counts",
        is_default=True,
        what="counts by id prefix, read where they differ",
        after="append",
    ),
    IngestPass(
        name="sweep",
        title="read records again",
        is_default=True,
        what="a share of all records, read again",
        after="reconcile",
    ),
    # Checking files that we already have is worthwhile only if it is spread over months.
    IngestPass(
        name="check_files",
        title="check files",
        is_default=False,
        what="a share of all files, checked for changes",
        after="sweep",
    ),
    IngestPass(
        name="fetch",
        title="fetch files",
        is_default=True,
        what="files that are missing or replaced",
        after="check_files",
    ),
    IngestPass(
        name="vocabulary",
        title="look for unknown values",
        is_default=False,
        what="counts of values that the archive's published rules do not know",
        after="sweep",  # it needs no files
    ),
)
INGEST_PASSES = {one.name: one for one in _PASSES}
DEFAULT_PASSES = tuple(one.name for one in _PASSES if one.is_default)


def pass_title(name: str) -> str:
    """What a pass, or another step of that name, does in words."""
    return INGEST_PASSES[name].title if name in INGEST_PASSES else name.replace("_", " ")
