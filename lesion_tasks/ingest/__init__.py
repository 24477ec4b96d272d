"""The archive -> versioned records and verified files.

    probe      one question: how large, how new
    append     what is newer than last time
    reconcile  counts by id prefix: what became public late, what is gone
    sweep      a part of everything, read again: what was edited
    check      a part of all files, asked for: what was replaced
    fetch      the files of all of them

Each layer is a function that can be killed at any moment and repeated: it goes on from what it committed.
"""

from lesion_tasks.ingest.append import append_records, probe_archive
from lesion_tasks.ingest.changes import Change, changed_fields, list_changes
from lesion_tasks.ingest.check_files import check_files
from lesion_tasks.ingest.fetch import fetch_files, fetch_shards
from lesion_tasks.ingest.passes import LAYERS, ingest
from lesion_tasks.ingest.reconcile import reconcile_records
from lesion_tasks.ingest.runs import begin_ingestion, end_ingestion, last_done, moment_of
from lesion_tasks.ingest.sweep import sweep_records
from lesion_tasks.ingest.vocabulary_check import check_vocabulary
from lesion_tasks.ingest.wanted import wanted_rendition

__all__ = [
    "LAYERS",
    "Change",
    "append_records",
    "begin_ingestion",
    "changed_fields",
    "check_files",
    "check_vocabulary",
    "end_ingestion",
    "fetch_files",
    "fetch_shards",
    "ingest",
    "last_done",
    "list_changes",
    "moment_of",
    "probe_archive",
    "reconcile_records",
    "sweep_records",
    "wanted_rendition",
]
