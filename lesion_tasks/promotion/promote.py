"""Evaluations -> a decision, and perhaps a new champion. Every decision is a row with its reason and its numbers.

The candidate is chosen on val. Candidate and champion are then compared on the candidate's own test set, image
by image; the champion must have scored it (`plan_promotion` says when it still has to). Two decisions at once
cannot both win: they take turns on a lock, and the decision's sequence number is a key.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import SPLITS, TASKS, Task
from lesion_tasks.catalog.gates import GATES, cautions, interval_words, objections
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.evaluation.comparison import compare_contenders, find_contender, missing_scores
from lesion_tasks.evaluation.leaderboard import champion_of, leading_measure, publish, read_leaderboard
from lesion_tasks.workspace import Workspace

RULE = "rule"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An evaluated training that no decision has been made about yet."""

    training_id: str
    variant: str
    manifest_digest: str
    is_promotable: bool  # False: a variant that repeats a published mistake on purpose
    is_sound: bool
    failed_checks: tuple[str, ...]
    verdict: str
    val: float | None  # the leading measure on val
    test: Mapping[str, Any]  # figures on the natural test set


def plan_promotion(workspace: Workspace, *, task: str) -> dict[str, Any]:
    """Say what a decision would be about, and which trainings must first be scored on which manifest.

    Returns candidate and champion (None where there is none) and `rescore`, a list of entries with training_id and
    manifest_digest.
    """
    _known_task(task)
    with workspace.engine.connect() as connection:
        best = _best(_candidates(connection, task))
        champion = champion_of(connection, task)
        rescore = []
        if best and champion:
            rescore = missing_scores(
                connection,
                find_contender(connection, best.training_id),
                find_contender(connection, champion.training_id),
            )
    return {
        "task": task,
        "candidate": best.training_id if best else None,
        "champion": champion.training_id if champion else None,
        "rescore": rescore,
    }


def promote_model(
    workspace: Workspace, *, task: str, is_forced: bool = False, decided_by: str = RULE
) -> dict[str, Any]:
    """Decide about every candidate of a task: at most one is promoted, the others are refused with a reason.

    `is_forced` promotes the best candidate although it misses a gate, never one that failed an integrity check.
    Returns action (promoted, refused or none), is_promoted, training_id, reason.
    """
    _known_task(task)
    bucket = workspace.bucket
    engine = workspace.engine
    with engine.begin() as connection:
        lock_until_commit(connection, Lock.PROMOTION, task)
        decision = _decide(connection, bucket, TASKS[task], is_forced, decided_by)
    # After the commit: a kill in between leaves copies that the next run, or `lesion publish`, writes anew.
    with engine.connect() as connection:
        publish(bucket, connection)
    return decision


def rollback_champion(
    workspace: Workspace,
    *,
    training_id: str | None = None,
    reason: str,
    task: str = "malignancy",
    decided_by: str = "person",
) -> dict[str, Any]:
    """Put an earlier champion back: the given training, or the champion before the present one."""
    _known_task(task)
    if not reason.strip():
        raise UnusableInputError("rollback: the reason is empty, expected one in words")
    bucket = workspace.bucket
    engine = workspace.engine
    with engine.begin() as connection:
        lock_until_commit(connection, Lock.PROMOTION, task)
        champion = champion_of(connection, task)
        if champion is None:
            raise UnusableInputError(f"task {task!r} has no champion, so there is none to roll back")
        earlier = _earlier_champions(connection, task, champion.training_id)
        target = training_id or (earlier[0] if earlier else None)
        if target not in earlier:
            raise UnusableInputError(
                f"rollback to {target!r}: it was never champion of {task!r} before the present one, "
                f"expected one of {', '.join(earlier) or '(none)'}"
            )
        _write(
            connection,
            task,
            "rolled_back",
            training_id=target,
            previous=champion.training_id,
            manifest_digest=None,
            reason=reason.strip(),
            figures={},
            decided_by=decided_by,
        )
    with engine.connect() as connection:
        publish(bucket, connection)
    return {"action": "rolled_back", "is_promoted": True, "training_id": target, "reason": reason.strip()}


def leaderboard(workspace: Workspace) -> list[dict[str, Any]]:
    """One row for each evaluated training, best first: what a person wants to see before deciding."""
    with workspace.engine.connect() as connection:
        board = read_leaderboard(connection)
    return [_flat(task, row) for task in board["tasks"] for row in task["rows"]]


def _flat(task: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    figure = row["figures"].get(task["leading_measure"], {})
    value = figure.get("value")
    return {
        "task": task["name"],
        "variant": row["variant"],
        task["leading_measure"]: "undefined" if value is None else f"{value:.3f}",
        "95 % interval": ""
        if value is None or figure["low"] is None
        else f"{figure['low']:.3f} to {figure['high']:.3f}",
        "checks": "sound" if row["is_sound"] else ", ".join(row["failed_checks"]),
        "champion": "champion" if row["is_champion"] else "",
        "training_id": row["training_id"],
    }


def _known_task(task: str) -> None:
    if task not in TASKS:
        raise UnusableInputError(f"unknown task {task!r}, expected one of {', '.join(TASKS)}")


def _candidates(connection: Connection, task: str) -> list[Candidate]:
    """The latest evaluated training of each variant that is newer than any decision about it."""
    measure = leading_measure(task)
    rows = connection.execute(
        text("""
            SELECT DISTINCT ON (t.variant) t.training_id, t.variant, e.manifest_digest, e.is_sound, e.failed_checks,
                   coalesce((t.recipe ->> 'is_promotable')::boolean, true) AS is_promotable,
                   t.recipe ->> 'split' AS split,
                   e.verdict, e.document -> 'subsets' -> 'test_natural' -> 'figures' AS test,
                   e.document -> 'subsets' -> 'val' -> 'figures' -> CAST(:measure AS text) ->> 'value' AS val,
                   EXISTS (SELECT FROM promotion p WHERE p.training_id = t.training_id) AS is_decided
            FROM training t
            JOIN evaluation e ON e.training_id = t.training_id AND e.manifest_digest = t.manifest_digest
            WHERE t.task = :task AND t.status = 'finished'
            ORDER BY t.variant, t.finished_at DESC
        """),
        {"task": task, "measure": measure},
    ).all()
    return [
        Candidate(
            training_id=row.training_id,
            variant=row.variant,
            manifest_digest=row.manifest_digest,
            is_promotable=row.is_promotable and not _is_leaking(row.split),
            is_sound=row.is_sound,
            failed_checks=tuple(row.failed_checks),
            verdict=row.verdict,
            val=None if row.val is None else float(row.val),
            test=row.test or {},
        )
        for row in rows
        if not row.is_decided
    ]


def _is_leaking(split: str) -> bool:
    """Whether a split mixes the subsets on purpose; one that the catalogue has dropped is judged by its evaluation."""
    return split in SPLITS and SPLITS[split].is_leaking


def _best(candidates: Sequence[Candidate]) -> Candidate | None:
    """The sound candidate with the highest leading measure on val, among those that may be promoted at all."""
    sound = [c for c in candidates if c.is_sound and c.is_promotable and c.val is not None]
    return max(sound, key=lambda candidate: (candidate.val or 0.0, candidate.training_id), default=None)


def _decide(
    connection: Connection, bucket: Bucket, task: Task, is_forced: bool, decided_by: str
) -> dict[str, Any]:
    candidates = _candidates(connection, task.name)
    champion = champion_of(connection, task.name)
    best = _best(candidates)
    previous = champion.training_id if champion else None
    for candidate in candidates:
        if candidate is not best:
            _write(
                connection,
                task.name,
                "refused",
                training_id=candidate.training_id,
                previous=previous,
                manifest_digest=candidate.manifest_digest,
                reason=_why_not_best(candidate, best, task),
                figures={"val": candidate.val, "failed_checks": list(candidate.failed_checks)},
                decided_by=decided_by,
            )
    if best is None:
        unsound = ", ".join(f"{c.training_id} ({', '.join(c.failed_checks)})" for c in candidates)
        reason = (
            f"no candidate is sound: {unsound}" if candidates else "no training is waiting for a decision"
        )
        return {
            "action": "refused" if candidates else "none",
            "is_promoted": False,
            "training_id": None,
            "reason": reason,
        }
    comparison = _compare(connection, bucket, best, champion)
    missed = objections(best.test, comparison, GATES[task.name])
    is_promoted = not missed or is_forced
    action = "promoted" if is_promoted else "refused"
    reason = _reason(best, previous, missed, is_forced, comparison, task)
    _write(
        connection,
        task.name,
        action,
        training_id=best.training_id,
        previous=previous,
        manifest_digest=best.manifest_digest,
        reason=reason,
        figures={
            "val": best.val,
            "comparison": comparison,
            "objections": missed,
            "is_forced": is_forced,
        },
        decided_by=decided_by,
    )
    return {"action": action, "is_promoted": is_promoted, "training_id": best.training_id, "reason": reason}


def _why_not_best(candidate: Candidate, best: Candidate | None, task: Task) -> str:
    if not candidate.is_sound:
        return f"Its evaluation failed {', '.join(candidate.failed_checks)}. {candidate.verdict}"
    if not candidate.is_promotable:
        return "Its recipe or split repeats a published mistake on purpose and is declared never promotable."
    measure = leading_measure(task.name)
    if candidate.val is None or best is None:
        return f"{measure} is undefined on val."
    return (
        f"{best.training_id} of the same round is better on val: {measure} {best.val:.4f} against "
        f"{candidate.val:.4f}. The test set decides only about the one chosen on val."
    )


def _compare(
    connection: Connection, bucket: Bucket, best: Candidate, champion: Any | None
) -> dict[str, Any] | None:
    """Candidate against champion on the candidate's test set; None without a champion."""
    if champion is None:
        return None
    found = compare_contenders(
        connection,
        bucket,
        find_contender(connection, best.training_id),
        find_contender(connection, champion.training_id),
    )
    if found is None:
        raise UnusableInputError(
            f"champion {champion.training_id} has not scored manifest {best.manifest_digest[:12]}, which the candidate "
            f"{best.training_id} was evaluated on: evaluate it there first"
        )
    return found


def _reason(
    best: Candidate,
    previous: str | None,
    missed: Sequence[str],
    is_forced: bool,
    comparison: Mapping[str, Any] | None,
    task: Task,
) -> str:
    if missed:
        # With objections a promotion can only have been forced, and says so.
        return ("Promoted by force despite: " if is_forced else "") + "; ".join(missed) + "."
    measure = leading_measure(task.name)
    doubts = cautions(comparison, GATES[task.name], best.test)
    caution = f" To be read with it: {'; '.join(doubts)}." if doubts else ""
    clears = "clears every gate that could be judged" if doubts else "clears every gate"
    if comparison is None:
        return (
            f"First champion of the task: best of its round on val, {clears}; {measure} "
            f"{best.test[measure]['value']:.4f} on test.{caution}"
        )
    gained = interval_words(comparison["differences"][measure])
    return f"Better than {previous} on the same test images: {measure}, {gained}; {clears}.{caution}"


def _earlier_champions(connection: Connection, task: str, present: str) -> list[str]:
    """Trainings that were champion before, the latest first, without the present one."""
    rows = connection.execute(
        text("""
            SELECT training_id FROM promotion WHERE task = :task AND action IN ('promoted', 'rolled_back')
            ORDER BY sequence DESC
        """),
        {"task": task},
    ).scalars()
    return [training_id for training_id in dict.fromkeys(rows) if training_id != present]


def _write(
    connection: Connection,
    task: str,
    action: str,
    *,
    training_id: str,
    previous: str | None,
    manifest_digest: str | None,
    reason: str,
    figures: dict[str, Any],
    decided_by: str,
) -> None:
    connection.execute(
        text("""
            INSERT INTO promotion (task, sequence, action, training_id, previous_training_id, manifest_digest, reason,
                                   figures, decided_by)
            SELECT :task, coalesce(max(sequence), 0) + 1, :action, :training_id, :previous, :digest, :reason,
                   CAST(:figures AS jsonb), :decided_by
            FROM promotion WHERE task = :task
        """),
        {
            "task": task,
            "action": action,
            "training_id": training_id,
            "previous": previous,
            "digest": manifest_digest,
            "reason": reason,
            "figures": json.dumps(figures),
            "decided_by": decided_by,
        },
    )
