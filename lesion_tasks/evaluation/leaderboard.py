"""Postgres -> the published copies: `champion.json` and `reports/index.html`. Both can be rebuilt at any time."""

import json
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.gates import GATES


def champion_of(connection: Connection, task: str) -> Any | None:
    """The promotion row that put the present champion in place, with its training; None before the first."""
    return connection.execute(
        text("""
            SELECT p.sequence, p.action, p.reason, p.decided_at, p.manifest_digest, t.training_id, t.variant,
                   t.threshold, t.classes, t.model_key, t.model_sha256
            FROM promotion p JOIN training t USING (training_id)
            WHERE p.task = :task AND p.action IN ('promoted', 'rolled_back')
            ORDER BY p.sequence DESC LIMIT 1
        """),
        {"task": task},
    ).one_or_none()


def leading_measure(task: str) -> str:
    """The measure that a champion has to lead on."""
    return next(gate.measure for gate in GATES[task] if gate.is_leading)


def read_leaderboard(connection: Connection) -> dict[str, Any]:
    """Everything the index page shows, by task: champion, every evaluated training, every decision."""
    tasks = [_task_board(connection, name) for name in TASKS]
    newest = connection.execute(
        text(
            "SELECT greatest((SELECT max(evaluated_at) FROM evaluation), (SELECT max(decided_at) FROM promotion))"
        )
    ).scalar()
    return {
        "generated_at": newest.isoformat(timespec="seconds") if newest else None,
        "tasks": [task for task in tasks if task["rows"]],
    }


def _task_board(connection: Connection, name: str) -> dict[str, Any]:
    champion = champion_of(connection, name)
    rows = connection.execute(
        text("""
            SELECT t.training_id, t.variant, t.recipe, e.evaluated_at, e.is_sound, e.failed_checks, e.verdict,
                   e.document, e.report_key, e.manifest_digest,
                   (SELECT count(*) FROM test_opening o WHERE o.training_id = t.training_id) AS n_openings
            FROM evaluation e JOIN training t USING (training_id, manifest_digest) WHERE t.task = :task
        """),
        {"task": name},
    ).all()
    measure = leading_measure(name)
    board = [_board_row(row, champion) for row in rows]
    # Sound rows first; within them by the leading measure, undefined ones last.
    board.sort(
        key=lambda row: (not row["is_sound"], -(_value(row["figures"], measure) or -1.0), row["training_id"])
    )
    report_by_training = {row["training_id"]: row["report_path"] for row in board}
    return {
        "name": name,
        "title": TASKS[name].title,
        "classes": list(TASKS[name].classes),
        "leading_measure": measure,
        "champion": champion
        and {
            "training_id": champion.training_id,
            "variant": champion.variant,
            "since": champion.decided_at.isoformat(timespec="seconds"),
            "reason": champion.reason,
            "report_path": report_by_training.get(champion.training_id),
        },
        "rows": board,
        "decisions": decisions_of(connection, name),
    }


def decisions_of(connection: Connection, task: str) -> list[dict[str, Any]]:
    """Every decision about a task's champion, the newest first."""
    rows = connection.execute(
        text("""
            SELECT decided_at, action, training_id, previous_training_id, reason, decided_by FROM promotion
            WHERE task = :task ORDER BY sequence DESC
        """),
        {"task": task},
    )
    return [{**row._mapping, "decided_at": row.decided_at.isoformat(timespec="seconds")} for row in rows]


def _board_row(row: Any, champion: Any | None) -> dict[str, Any]:
    subsets = row.document.get("subsets", {})

    def figures(subset: str) -> dict[str, Any]:
        found: dict[str, Any] = subsets.get(subset, {}).get("figures", {})
        return found

    return {
        "training_id": row.training_id,
        "variant": row.variant,
        "title": row.recipe["title"],
        "reproduces": row.recipe["reproduces"],
        "evaluated_at": row.evaluated_at.isoformat(timespec="seconds"),
        "is_sound": row.is_sound,
        "failed_checks": list(row.failed_checks),
        "verdict": row.verdict,
        "figures": figures("test_natural"),
        "balanced": figures("test_balanced"),
        "val": figures("val"),
        "report_path": row.report_key.removeprefix("reports/"),
        "is_champion": champion is not None and champion.training_id == row.training_id,
        "manifest_digest": row.manifest_digest,
        "n_test_openings": row.n_openings,
    }


def _value(figures: dict[str, Any], measure: str) -> float | None:
    value: float | None = figures.get(measure, {}).get("value")
    return value


def publish(bucket: Bucket, connection: Connection) -> None:
    """Write `reports/index.html` and then `champion.json` from what Postgres says."""
    from lesion_tasks.reports import render_index

    bucket.put(
        "reports/index.html",
        render_index(read_leaderboard(connection)),
        content_type="text/html; charset=utf-8",
    )
    champions = {}
    for name in TASKS:
        champion = champion_of(connection, name)
        if champion is not None:
            champions[name] = {
                "training_id": champion.training_id,
                "variant": champion.variant,
                "model_key": champion.model_key,
                "model_sha256": champion.model_sha256,
                "classes": list(champion.classes),
                "threshold": champion.threshold,
                "since": champion.decided_at.isoformat(timespec="seconds"),
                "reason": champion.reason,
            }
    bucket.put("champion.json", json.dumps(champions, indent=2).encode(), content_type="application/json")
