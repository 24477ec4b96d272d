"""Airflow's own tables -> the runs of the product's DAGs, as the pages show them. Only the API server may read them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from lesion_tasks.pages.activity import Run, TaskOfRun


class AirflowRuns:
    """The runs of some DAGs."""

    def __init__(self, dag_ids: Sequence[str]) -> None:
        self.dag_ids = dag_ids

    def at_work(self, n: int, dag_id: str | None = None) -> "list[Run]":
        """Runs of a DAG, or of all, that have not ended, at most n, the oldest first.

        They have their questions, and their tasks that are at work or failed.
        """
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import select

        from lesion_tasks.pages.activity import AT_WORK

        with create_session() as session:
            asked = select(DagRun).where(
                DagRun.dag_id.in_([one for one in self.dag_ids if dag_id in (None, one)]),
                DagRun.state.in_(("running", "queued")),
            )
            found = session.scalars(asked.order_by(DagRun.run_after).limit(n)).all()
            return _runs(session, found, [*AT_WORK, "failed"], has_questions=True)

    def failed(self, n: int) -> "tuple[list[Run], int]":
        """The last runs that failed, at most n, the newest first, with the tasks that did; and how many there are.

        Without those that were refused for what they were started with, once a later run of their DAG has begun, and
        after a day: there is nothing to mend.
        """
        from airflow.models.dagrun import DagRun
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import and_, exists, func, or_, select
        from sqlalchemy.orm import aliased

        from lesion_airflow import REFUSED
        from lesion_tasks.pages.activity import KEPT_DAYS, KEPT_DAYS_OF_REFUSED

        now, later = datetime.now(UTC), aliased(DagRun)
        is_refused = exists().where(
            XComModel.dag_id == DagRun.dag_id, XComModel.run_id == DagRun.run_id, XComModel.key == REFUSED
        )
        is_over = or_(
            DagRun.end_date < now - timedelta(days=KEPT_DAYS_OF_REFUSED),
            exists().where(later.dag_id == DagRun.dag_id, later.start_date > DagRun.end_date),
        )
        is_failed = (
            DagRun.dag_id.in_(self.dag_ids),
            DagRun.state == "failed",
            DagRun.end_date >= now - timedelta(days=KEPT_DAYS),
            ~and_(is_refused, is_over),
        )
        with create_session() as session:
            asked = select(DagRun).where(*is_failed).order_by(DagRun.end_date.desc()).limit(n)
            found = session.scalars(asked).all()
            n_failed = session.scalar(select(func.count()).select_from(DagRun).where(*is_failed)) or 0
            return _runs(session, found, ["failed"]), n_failed

    def find(self, dag_id: str, run_id: str) -> "Run | None":
        """A run with all of its tasks; None if there is none."""
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import select

        if dag_id not in self.dag_ids:
            return None
        with create_session() as session:
            one = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
            return None if one is None else _runs(session, [one])[0]

    def followed_by(self, dag_id: str, run_id: str) -> "list[Run]":
        """The runs that began because of what a run announced, the oldest first, without their tasks."""
        from airflow.models.asset import AssetEvent
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            asked = select(DagRun).where(
                DagRun.dag_id.in_(self.dag_ids),
                DagRun.consumed_asset_events.any(
                    (AssetEvent.source_dag_id == dag_id) & (AssetEvent.source_run_id == run_id)
                ),
            )
            return [_run(one) for one in session.scalars(asked.order_by(DagRun.run_after, DagRun.id))]


def _runs(
    session: "Session", found: Sequence[Any], states: Sequence[str] = (), *, has_questions: bool = False
) -> "list[Run]":
    """Runs with their tasks in some states, in all if none is named: two queries, however many."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import and_, or_, select, tuple_

    from lesion_airflow import REASON
    from lesion_tasks.catalog.approvals import ASKING
    from lesion_tasks.pages.activity import TaskOfRun

    keys = [(one.dag_id, one.run_id) for one in found]
    asked = select(
        TaskInstance.dag_id,
        TaskInstance.run_id,
        TaskInstance.task_id,
        TaskInstance.map_index,
        TaskInstance.rendered_map_index,
        TaskInstance.state,
        TaskInstance.pool,
        TaskInstance.start_date,
        TaskInstance.end_date,
        HITLDetail.responded_by,
    ).outerjoin(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
    asked = asked.where(tuple_(TaskInstance.dag_id, TaskInstance.run_id).in_(keys))
    if states:
        asked = asked.where(TaskInstance.state.in_(states))
    is_kept = XComModel.key == REASON
    if has_questions:
        asks = tuple_(XComModel.dag_id, XComModel.task_id).in_(list(ASKING.items()))
        is_kept = or_(is_kept, and_(XComModel.key == "return_value", XComModel.map_index == -1, asks))
    reasons: dict[tuple[str, str, str, int], str] = {}
    questions: dict[tuple[str, str], Sequence[Any]] = {}
    of_runs = tuple_(XComModel.dag_id, XComModel.run_id).in_(keys)
    for one in session.scalars(select(XComModel).where(of_runs, is_kept)):
        value = XComModel.deserialize_value(one)
        if one.key == REASON:
            reasons[one.dag_id, one.run_id, one.task_id, one.map_index] = str(value)
        elif isinstance(value, list):
            questions[one.dag_id, one.run_id] = value
    tasks: dict[tuple[str, str], list[TaskOfRun]] = {key: [] for key in keys}
    for one in session.execute(asked):
        tasks[one.dag_id, one.run_id].append(
            TaskOfRun(
                task_id=one.task_id,
                map_index=one.map_index,
                label=one.rendered_map_index or "",
                state=None if one.state is None else str(one.state),
                pool=one.pool or "",
                began_at=one.start_date,
                ended_at=one.end_date,
                reason=reasons.get((one.dag_id, one.run_id, one.task_id, one.map_index)),
                answered_by=(one.responded_by or {}).get("name"),
            )
        )
    return [
        _run(
            one,
            tasks=sorted(tasks[one.dag_id, one.run_id], key=_in_order),
            questions=questions.get((one.dag_id, one.run_id), ()),
        )
        for one in found
    ]


def _run(row: Any, **seen: Any) -> "Run":
    """A row of Airflow's table of runs, with what of its tasks was looked at."""
    from lesion_tasks.pages.activity import Run

    return Run(
        dag_id=row.dag_id,
        run_id=row.run_id,
        state=str(row.state),
        began_at=row.start_date,
        ended_at=row.end_date,
        **seen,
    )


def _in_order(task: "TaskOfRun") -> tuple[bool, float, int]:
    """Tasks in the order in which they began, those that have not last."""
    began = task.began_at.timestamp() if task.began_at else 0.0
    return task.began_at is None, began, task.map_index
