"""Postgres -> `reports/index.html`, and then `champion.json`. Both can be rebuilt at any time."""

import json
import logging
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, text

from lesion_tasks.bucket import Bucket, MissingObjectError
from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.curation.synthetic_images import are_all_synthetic
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.evaluation.candidacy import champion_state
from lesion_tasks.evaluation.decisions import champion_of, decisions_of
from lesion_tasks.evaluation.evaluation_record import why_unsound
from lesion_tasks.evaluation.leaderboard import LeaderboardFilter, gone_tasks, read_leaderboard_rows
from lesion_tasks.evaluation.write_champion_json import (
    champion_entries,
    since_promotion_of,
    write_champion_json,
)
from lesion_tasks.reports.index import (
    ChampionLine,
    HeldOutLine,
    Leaderboard,
    LeaderboardRow,
    TaskLeaderboard,
)
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)
_HELD_OUT_LINES = TypeAdapter(list[HeldOutLine])

HELD_OUT_FOLDER = "reports/held-out"
HELD_OUT_INDEX = f"{HELD_OUT_FOLDER}/index.json"  # a line for each report, so that a list of them is one read


def read_leaderboard(connection: Connection, *, has_archived: bool = False) -> Leaderboard:
    """Everything the index page shows, by task: champion, every evaluated training, every decision.

    Archived trainings are left out unless `has_archived`.
    """
    tasks = [_task_leaderboard(connection, name, has_archived=has_archived) for name in TASKS]
    newest = connection.execute(
        text(
            "SELECT greatest((SELECT max(evaluated_at) FROM evaluation), (SELECT max(decided_at) FROM promotion))"
        )
    ).scalar()
    return Leaderboard(
        generated_at=newest.isoformat(timespec="seconds") if newest else None,
        tasks=[task for task in tasks if task.rows],
        gone=gone_tasks(connection),
        has_synthetic=are_all_synthetic(connection),
    )


def _task_leaderboard(connection: Connection, name: str, *, has_archived: bool) -> TaskLeaderboard:
    champion = champion_of(connection, name)
    leaderboard, _ = read_leaderboard_rows(
        connection, name, wanted=LeaderboardFilter(has_archived=has_archived), has_best=True
    )
    report_by_training = {row.training_id: row.report_path for row in leaderboard}
    return TaskLeaderboard(
        name=name,
        title=TASKS[name].title,
        classes=list(TASKS[name].classes),
        leading_measure=leading_measure(name),
        champion=None
        if champion is None
        else ChampionLine(
            training_id=champion.training.training_id,
            variant=champion.training.variant,
            state=champion_state(connection, name, champion.training.training_id),
            report_path=report_by_training.get(champion.training.training_id),
            since_promotion=since_promotion_of(connection, champion),
            unsound=why_unsound(connection, champion.training.training_id, champion.training.manifest_digest),
        ),
        rows=leaderboard,
        decisions=decisions_of(connection, name),
    )


@dataclass(frozen=True, kw_only=True)
class LeaderboardLine:
    """What a person needs to see of an evaluated training before deciding, in words."""

    task: str
    variant: str
    measure: str
    value: str
    interval: str
    worst_cohort: str
    checks: str
    state: str
    kept: str
    training_id: str

    @property
    def cells(self) -> dict[str, str]:
        """Heading -> words, for a table."""
        return {_HEADINGS.get(name, name): words for name, words in vars(self).items()}


_HEADINGS = {"interval": "95 % interval", "worst_cohort": "worst cohort"}


def leaderboard_lines(workspace: Workspace, *, has_archived: bool = False) -> list[LeaderboardLine]:
    """One line for each evaluated training, best first."""
    with workspace.engine.connect() as connection:
        leaderboard = read_leaderboard(connection, has_archived=has_archived)
    return [_line(task, row) for task in leaderboard.tasks for row in task.rows]


def _line(task: TaskLeaderboard, row: LeaderboardRow) -> LeaderboardLine:
    figure = row.figures.get(task.leading_measure)
    value, low, high = (figure.value, figure.low, figure.high) if figure else (None, None, None)
    return LeaderboardLine(
        task=task.name,
        variant=row.variant,
        measure=task.leading_measure,
        value="undefined" if value is None else f"{value:.3f}",
        interval="" if low is None or high is None else f"{low:.3f} to {high:.3f}",
        worst_cohort=_worst_cohort(row),
        checks="sound" if row.is_sound else ", ".join(row.failed_checks),
        state=row.state.title.lstrip("★✗ "),
        kept="pruned" if row.pruned else "archived" if row.archived else "",
        training_id=row.training_id,
    )


def _worst_cohort(row: LeaderboardRow) -> str:
    name = row.worst_cohort
    if name is None:
        return ""
    return f"{row.on_cohorts[name].value:.3f} {name}" + (f", {row.of_cohorts}" if row.of_cohorts else "")


def publish(workspace: Workspace) -> None:
    """Write `reports/index.html` and then `champion.json` from Postgres; reports on what was held out are the bucket's.

    One publisher at a time, and each reads after it holds the lock, so the newest decision is written last. A copy
    under the number of its decision, `champions/<task>/<sequence>.json`, is written before `champion.json`: if
    `champion.json` has a lower number than the highest there, it is stale.
    """
    from lesion_tasks.reports.index import render_index

    bucket = workspace.bucket
    with hold_lock(workspace.engine, Lock.PUBLICATION), workspace.engine.connect() as connection:
        lines = held_out_lines(bucket)
        page = render_index(read_leaderboard(connection), lines)
        champions = champion_entries(connection)
        bucket.put("reports/index.html", page, content_type="text/html; charset=utf-8")
        bucket.put(HELD_OUT_INDEX, _HELD_OUT_LINES.dump_json(lines), content_type="application/json")
        write_champion_json(bucket, champions)


def held_out_documents(bucket: Bucket) -> list[dict[str, Any]]:
    """What each stored report on what was held out says, as JSON."""
    found = []
    for key in _held_out_keys(bucket):
        try:
            found.append(json.loads(bucket.get(key)))
        except ValueError:
            log.warning("%s is damaged: no JSON", key)
    return found


def _held_out_keys(bucket: Bucket) -> list[str]:
    return [key for key in bucket.list_keys(f"{HELD_OUT_FOLDER}/") if key.endswith("/metrics.json")]


def indexed_held_out_lines(bucket: Bucket) -> list[HeldOutLine]:
    """The same as `held_out_lines`, by the index: the documents are read only if it does not name exactly them."""
    try:
        lines = _HELD_OUT_LINES.validate_json(bucket.get(HELD_OUT_INDEX))
    except (MissingObjectError, ValueError):  # never published since there is an index, or damaged
        return held_out_lines(bucket)
    is_current = {f"{HELD_OUT_FOLDER}/{line.held_out_id}/metrics.json" for line in lines} == set(
        _held_out_keys(bucket)
    )
    return lines if is_current else held_out_lines(bucket)


def held_out_lines(bucket: Bucket) -> list[HeldOutLine]:
    """The reports on what was held out, the newest first, by their documents."""
    known = []
    for one in held_out_documents(bucket):
        try:
            known.append(HeldOutLine.model_validate({name: one[name] for name in HeldOutLine.model_fields}))
        except (KeyError, ValueError) as error:
            log.warning(
                "the index leaves out a report on what was held out: it is of another release: %s", error
            )
    return sorted(known, key=lambda line: (line.evaluated_at, line.held_out_id), reverse=True)
