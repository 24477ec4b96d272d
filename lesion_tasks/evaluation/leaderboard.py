"""Evaluated trainings of a task -> rows of the leaderboard: all of them, or a page of those that a filter leaves."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, text

from lesion_tasks.catalog import TASKS, cohorts_of
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.database.pruned import HOLDS_OUT, PRUNED_TRAINING, TRAINING_IS_ARCHIVED, in_words
from lesion_tasks.database.schema import Evaluation
from lesion_tasks.evaluation.candidacy import (
    LEAKING,
    MAY_BE_PROMOTED,
    Judged,
    TaskNow,
    never_promotable,
    states_of,
)
from lesion_tasks.evaluation.evaluation_record import count_openings
from lesion_tasks.evaluation.looks_at_test import best_of_all
from lesion_tasks.metrics.document_schema import Figures
from lesion_tasks.reports.bundle import BestOfLooks
from lesion_tasks.reports.index import LeaderboardRow, PromotionState, figures_of


@dataclass(frozen=True, kw_only=True)
class LeaderboardFilter:
    """Which rows are wanted; empty: all."""

    words: str = ""  # in the training's id or the variant's title
    manifest: str = ""  # the beginning of its digest
    is_sound: bool = False  # only those
    training_ids: Sequence[str] = ()  # only these
    has_archived: bool = False  # also those that were archived

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of the statements."""
        return {
            "words": self.words.lower(),
            "manifest": self.manifest.lower(),
            "is_sound": self.is_sound,
            "ids": list(self.training_ids),
            "has_archived": self.has_archived,
        }


# Sorted without reading a document; sound ones first, then what can be promoted, undefined figures last.
_PAGE = f"""
    SELECT e.evaluation_id, count(*) OVER () AS n_found,
           row_number() OVER (ORDER BY e.is_sound DESC, {MAY_BE_PROMOTED} DESC,
                              (e.test_figures -> :measure ->> 'value')::float8 DESC NULLS LAST, t.training_id) AS place
    FROM evaluation e JOIN training t USING (training_id, manifest_digest)
        JOIN manifest m ON m.digest = e.manifest_digest
    WHERE t.task = :task AND (e.is_sound OR NOT :is_sound) AND starts_with(e.manifest_digest, :manifest)
        AND strpos(lower(t.training_id || ' ' || (t.recipe ->> 'title')), :words) > 0
        AND (t.training_id = ANY(:ids) OR cardinality(CAST(:ids AS text[])) = 0)
        AND (:has_archived OR NOT {TRAINING_IS_ARCHIVED}) AND NOT {HOLDS_OUT}
    ORDER BY place LIMIT :n OFFSET :first
"""  # noqa: S608 - our own text
_ROWS = text(f"""
    WITH page AS MATERIALIZED ({_PAGE})
    SELECT page.n_found, t.training_id, t.variant, t.recipe ->> 'title' AS title,
           t.recipe ->> 'reproduces' AS reproduces, e.evaluated_at, e.is_sound, e.failed_checks, e.verdict,
           e.test_figures, e.balanced_figures, e.val_figures, e.cohort_figures,
           e.report_key, e.manifest_digest,
           t.recipe, m.recipe #>> '{{split,imputation}}' AS imputation,
           a.archived_at, a.archived_by, a.reason AS archive_reason,
           p.kind AS pruned_kind, p.began_at AS pruned_at, p.pruned_by, p.reason AS prune_reason
    FROM page JOIN evaluation e USING (evaluation_id) JOIN training t USING (training_id)
        JOIN manifest m ON m.digest = e.manifest_digest
        LEFT JOIN archival a ON a.training_id = t.training_id AND a.returned_at IS NULL
        LEFT JOIN pruning p ON {PRUNED_TRAINING}
    ORDER BY page.place
""")  # noqa: S608 - our own text


def read_leaderboard_rows(
    connection: Connection,
    task: str,
    *,
    wanted: LeaderboardFilter | None = None,
    n: int | None = None,
    first: int = 0,
    now: TaskNow | None = None,
    has_best: bool = False,
) -> tuple[list[LeaderboardRow], int]:
    """Rows of a task, best first, and how many the filter leaves in all.

    What can never be promoted comes after all that can, and what is not sound last. `now`: as for `states_of`.
    `has_best`: whether `best_of_looks` is wanted, for which the figures of all trainings of the task are read.
    """
    values = (wanted or LeaderboardFilter()).values
    found = connection.execute(
        _ROWS, values | LEAKING | {"task": task, "measure": leading_measure(task), "n": n, "first": first}
    ).all()
    judging = {cohort.name for cohort in cohorts_of(task)}
    states = states_of(connection, task, [_judged(row) for row in found], now)
    best = _best_of(connection, task, found) if has_best else {}
    n_openings = count_openings(connection, {row.manifest_digest for row in found})
    rows = [
        _leaderboard_row(
            row,
            judging,
            states[row.training_id],
            best=best.get(row.training_id),
            n_openings=n_openings[row.manifest_digest],
        )
        for row in found
    ]
    return rows, found[0].n_found if found else 0


def _best_of(connection: Connection, task: str, found: Sequence[Any]) -> dict[str, BestOfLooks]:
    measure = leading_measure(task)
    leading = {row.training_id: figures_of(row.test_figures).get(measure) for row in found if row.is_sound}
    return best_of_all(connection, task, {name: one for name, one in leading.items() if one is not None})


def find_test_figures(connection: Connection, training_id: str, manifest_digest: str) -> Figures:
    """What an evaluation measured on the natural test set, without reading its document; empty if there is none."""
    asked = select(Evaluation.test_figures).where(
        Evaluation.training_id == training_id, Evaluation.manifest_digest == manifest_digest
    )
    return figures_of(connection.execute(asked).scalar())


def _judged(row: Any) -> Judged:
    return Judged(
        training_id=row.training_id,
        is_sound=row.is_sound,
        verdict=row.verdict,
        never=never_promotable(row.recipe, row.imputation),
    )


def _leaderboard_row(
    row: Any, judging: Collection[str], state: PromotionState, *, best: BestOfLooks | None, n_openings: int
) -> LeaderboardRow:
    on_cohorts = row.cohort_figures or {}
    return LeaderboardRow(
        training_id=row.training_id,
        variant=row.variant,
        title=row.title,
        reproduces=row.reproduces,
        evaluated_at=row.evaluated_at.isoformat(timespec="seconds"),
        is_sound=row.is_sound,
        failed_checks=list(row.failed_checks),
        verdict=row.verdict,
        figures=figures_of(row.test_figures),
        balanced=figures_of(row.balanced_figures),
        val=figures_of(row.val_figures),
        on_cohorts=figures_of({name: one for name, one in on_cohorts.items() if name in judging}),
        n_cohorts=len(judging),
        report_path=None if row.pruned_kind == "training" else row.report_key.removeprefix("reports/"),
        state=state,
        manifest_digest=row.manifest_digest,
        n_test_openings=n_openings,
        best_of_looks=best,
        archived=row.archived_at
        and in_words("archived", row.archived_at, row.archived_by, row.archive_reason),
        pruned=row.pruned_at and in_words("pruned", row.pruned_at, row.pruned_by, row.prune_reason),
    )


def gone_tasks(connection: Connection) -> dict[str, int]:
    """Tasks of finished trainings that the catalogue does not have: name -> how many trainings."""
    rows = connection.execute(
        text("""
            SELECT task, count(*) FROM training WHERE status = 'finished' AND task <> ALL(:known)
            GROUP BY 1 ORDER BY 1
        """),
        {"known": list(TASKS)},
    )
    return {row[0]: row[1] for row in rows}


def list_manifests(connection: Connection, task: str) -> list[tuple[str, int]]:
    """Digests of the manifests on which trainings of a task were evaluated, newest first, and how many were on each."""
    rows = connection.execute(
        text(f"""
            SELECT e.manifest_digest, count(*) FROM evaluation e JOIN training t USING (training_id, manifest_digest)
            WHERE t.task = :task AND NOT {HOLDS_OUT} GROUP BY 1 ORDER BY max(e.evaluated_at) DESC
        """),  # noqa: S608 - our own text
        {"task": task},
    )
    return [(row[0], row[1]) for row in rows]
