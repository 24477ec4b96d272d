"""Database and bucket -> the reports that there are, by kind, the newest first: what each is about, and where it is."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from lesion_tasks.bucket import MissingObjectError
from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.titles import split_title
from lesion_tasks.database.pruned import MANIFEST_IS_PRUNED, REPORT_IS_PRUNED
from lesion_tasks.evaluation.publish import indexed_held_out_lines
from lesion_tasks.pages.page_of_list import Shown, show
from lesion_tasks.reports.words import moment
from lesion_tasks.serving.predict_job import PAGES_OF_JOBS, when_asked
from lesion_tasks.splits.data_report import page_key
from lesion_tasks.workspace import Workspace

# What the reports are about: the word in an address, and the title.
KINDS = {
    "evaluations": "Evaluations",
    "data": "Data",
    "watches": "Watches",
    "held-out": "Tested where it never learned",
    "predictions": "Predictions",
}
_N_READ_AT_ONCE = 16  # plans of jobs
# Each with path (below the bucket's root; of data, the page's own rule), title, name, task, at, whether something is
# wrong with it, and the data that it is about where they are not its own.
_IN_DATABASE = {
    "evaluations": f"""
        SELECT e.report_key AS path, t.recipe ->> 'title' AS title, t.training_id AS name, t.task,
               e.evaluated_at AS at, CASE WHEN e.is_sound THEN NULL ELSE 'not sound' END AS state,
               nullif(e.manifest_digest, t.manifest_digest) AS data
        FROM evaluation e JOIN training t USING (training_id) WHERE NOT {REPORT_IS_PRUNED}
    """,  # noqa: S608 - our own text
    "data": f"""
        SELECT NULL AS path, split AS title, digest AS name, task, built_at AS at, NULL AS state, NULL AS data
        FROM manifest m WHERE m.cohort IS NULL AND NOT {MANIFEST_IS_PRUNED}
    """,  # noqa: S608 - our own text
    "watches": """
        SELECT report_key AS path, training_id AS title, watch_id AS name, task, watched_at AS at,
               CASE WHEN is_alarming THEN 'beyond a bound' END AS state, NULL AS data FROM watch
    """,
}


@dataclass(frozen=True, kw_only=True)
class ReportLine:
    """One report."""

    path: str  # below `reports/`
    title: str
    name: str  # of what it is about; empty: the title says it
    task: str  # its title; empty: it is about none
    at: str  # when it was made; empty: nobody noted it
    state: str | None = None  # what is wrong with what it is about
    data: str | None = None  # the digest of the data that it is about, where they are not the training's own


def read_reports(workspace: Workspace, kind: str, words: str, number: int) -> Shown[ReportLine]:
    """A page of the reports of a kind whose title or name has some words."""
    if kind in _IN_DATABASE:
        with workspace.engine.connect() as connection:
            return _in_database(connection, kind, words.lower(), number)
    lines = _held_out(workspace) if kind == "held-out" else _predictions(workspace)
    found = _with_words(lines, words)
    return show(number, len(found), lambda n, first: found[first : first + n])


def _in_database(connection: Connection, kind: str, words: str, number: int) -> Shown[ReportLine]:
    # The title of a split is not in the database, and there are few splits.
    asked = "" if kind == "data" else "WHERE strpos(lower(title || ' ' || name), :words) > 0"
    wanted = f"FROM ({_IN_DATABASE[kind]}) one {asked}"
    n_found = connection.execute(text(f"SELECT count(*) {wanted}"), {"words": words}).scalar_one()
    listed = text(f"SELECT one.* {wanted} ORDER BY at DESC, path, name LIMIT :n OFFSET :first")

    def read(n: int, first: int) -> list[ReportLine]:
        rows = connection.execute(listed, {"words": words, "n": n, "first": first})
        return [
            ReportLine(
                path=(row.path or page_key(row.name)).removeprefix("reports/"),
                title=split_title(row.title) if kind == "data" else row.title,
                name=row.name,
                task=TASKS[row.task].title if row.task in TASKS else row.task,
                at=moment(row.at.isoformat(timespec="seconds")),
                state=row.state,
                data=row.data,
            )
            for row in rows
        ]

    if kind != "data":
        return show(number, n_found, read)
    found = _with_words(read(n_found, 0), words)
    return show(number, len(found), lambda n, first: found[first : first + n])


def _with_words(lines: Sequence[ReportLine], words: str) -> list[ReportLine]:
    return [line for line in lines if words.lower() in f"{line.title} {line.name}".lower()]


def _held_out(workspace: Workspace) -> list[ReportLine]:
    return [
        ReportLine(
            path=line.report_path,
            title=f"{line.title}, by {line.one}",
            name=line.held_out_id,
            task=line.task_title,
            at=moment(line.evaluated_at),
        )
        for line in indexed_held_out_lines(workspace.bucket)
    ]


def _predictions(workspace: Workspace) -> list[ReportLine]:
    keys = [key for key in workspace.bucket.list_keys(PAGES_OF_JOBS) if key.endswith(".html")]
    jobs = [key.removeprefix(PAGES_OF_JOBS).removesuffix(".html") for key in keys]

    def asked_at(job: str) -> datetime | None:
        try:
            return when_asked(workspace.bucket, job)
        except MissingObjectError:
            return None

    with ThreadPoolExecutor(_N_READ_AT_ONCE) as pool:
        found = list(zip(jobs, keys, pool.map(asked_at, jobs), strict=True))
    found.sort(key=lambda one: (one[2].timestamp() if one[2] else 0.0, one[0]), reverse=True)
    return [
        ReportLine(
            path=key.removeprefix("reports/"),
            title=job,
            name="",
            task="",
            at=moment(at.isoformat(timespec="seconds")) if at else "",
        )
        for job, key, at in found
    ]
