"""Database and bucket -> the reports that there are, by kind, the newest first: what each is about, and where it is."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.titles import split_title
from lesion_tasks.database.pruned import MANIFEST_IS_PRUNED, TRAINING_IS_PRUNED
from lesion_tasks.evaluation.publish import held_out_lines
from lesion_tasks.pages.page_of_list import Shown, show
from lesion_tasks.reports.words import moment
from lesion_tasks.serving.predict_job import PAGES_OF_JOBS
from lesion_tasks.workspace import Workspace

# What the reports are about: the word in an address, and the title.
KINDS = {
    "evaluations": "Evaluations",
    "data": "Data",
    "watches": "Watches",
    "held-out": "Tested where it never learned",
    "predictions": "Predictions",
}
# Each with path (below the bucket's root), title, name, task, at, and whether something is wrong with it.
_IN_DATABASE = {
    "evaluations": f"""
        SELECT e.report_key AS path, t.recipe ->> 'title' AS title, t.training_id AS name, t.task,
               e.evaluated_at AS at, CASE WHEN e.is_sound THEN NULL ELSE 'not sound' END AS state
        FROM evaluation e JOIN training t USING (training_id) WHERE NOT {TRAINING_IS_PRUNED}
    """,  # noqa: S608 - our own text
    "data": f"""
        SELECT 'reports/data/' || digest || '.html' AS path, split AS title, digest AS name, task, built_at AS at,
               NULL AS state
        FROM manifest m WHERE NOT {MANIFEST_IS_PRUNED}
    """,  # noqa: S608 - our own text
    "watches": """
        SELECT report_key AS path, training_id AS title, watch_id AS name, task, watched_at AS at,
               CASE WHEN is_alarming THEN 'beyond a bound' END AS state FROM watch
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
    state: str | None  # what is wrong with what it is about


def read_reports(workspace: Workspace, kind: str, words: str, number: int) -> Shown[ReportLine]:
    """A page of the reports of a kind whose title or name has some words."""
    if kind in _IN_DATABASE:
        with workspace.engine.connect() as connection:
            return _in_database(connection, kind, words.lower(), number)
    lines = _held_out(workspace) if kind == "held-out" else _predictions(workspace)
    found = [line for line in lines if words.lower() in f"{line.title} {line.name}".lower()]
    return show(number, len(found), lambda n, first: found[first : first + n])


def _in_database(connection: Connection, kind: str, words: str, number: int) -> Shown[ReportLine]:
    wanted = f"FROM ({_IN_DATABASE[kind]}) one WHERE strpos(lower(title || ' ' || name), :words) > 0"
    n_found = connection.execute(text(f"SELECT count(*) {wanted}"), {"words": words}).scalar_one()

    listed = text(f"SELECT one.* {wanted} ORDER BY at DESC, path LIMIT :n OFFSET :first")

    def read(n: int, first: int) -> list[ReportLine]:
        rows = connection.execute(listed, {"words": words, "n": n, "first": first})
        return [
            ReportLine(
                path=row.path.removeprefix("reports/"),
                title=split_title(row.title) if kind == "data" else row.title,
                name=row.name,
                task=TASKS[row.task].title if row.task in TASKS else row.task,
                at=moment(row.at.isoformat(timespec="seconds")),
                state=row.state,
            )
            for row in rows
        ]

    return show(number, n_found, read)


def _held_out(workspace: Workspace) -> list[ReportLine]:
    return [
        ReportLine(
            path=line.report_path,
            title=f"{line.title}, by {line.one}",
            name=line.held_out_id,
            task=line.task_title,
            at=moment(line.evaluated_at),
            state=None,
        )
        for line in held_out_lines(workspace.bucket)
    ]


def _predictions(workspace: Workspace) -> list[ReportLine]:
    keys = workspace.bucket.list_keys(PAGES_OF_JOBS)
    paths = sorted((key.removeprefix("reports/") for key in keys if key.endswith(".html")), reverse=True)
    return [
        ReportLine(
            path=path,
            title=path.rpartition("/")[2].removesuffix(".html"),
            name="",
            task="",
            at="",
            state=None,
        )
        for path in paths
    ]
