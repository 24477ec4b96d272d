"""Airflow's own tables -> the runs of the product's DAGs, as the pages show them. Only the API server may read them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from lesion_tasks.pages.activity import Run, TaskOfRun

KEPT_DAYS = 14  # that a failed run is shown


class AirflowRuns:
    """The runs of some DAGs."""

    def __init__(self, dag_ids: Sequence[str]) -> None:
        self.dag_ids = dag_ids

    def at_work(self) -> "list[Run]":
        """Runs that have not ended, with their tasks that are at work, the oldest first."""
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import select

        from lesion_tasks.pages.activity import AT_WORK

        with create_session() as session:
            asked = select(DagRun).where(
                DagRun.dag_id.in_(self.dag_ids), DagRun.state.in_(("running", "queued"))
            )
            found = session.scalars(asked.order_by(DagRun.run_after)).all()
            return [_run(session, one, _tasks(session, one, list(AT_WORK))) for one in found]

    def failed(self, n: int) -> "list[Run]":
        """The last runs that failed, at most n, the newest first, with the tasks that did."""
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import func, select

        since = datetime.now(UTC) - timedelta(days=KEPT_DAYS)
        with create_session() as session:
            asked = select(DagRun).where(
                DagRun.dag_id.in_(self.dag_ids), DagRun.state == "failed", DagRun.end_date >= since
            )
            succeeded = dict(
                session.execute(
                    select(DagRun.dag_id, func.max(DagRun.end_date))
                    .where(DagRun.dag_id.in_(self.dag_ids), DagRun.state == "success")
                    .group_by(DagRun.dag_id)
                )
                .tuples()
                .all()
            )
            found = session.scalars(asked.order_by(DagRun.end_date.desc()).limit(n)).all()
            return [
                _run(
                    session,
                    one,
                    _tasks(session, one, ["failed"]),
                    is_mended=one.dag_id in succeeded and succeeded[one.dag_id] > one.end_date,
                )
                for one in found
            ]

    def find(self, dag_id: str, run_id: str) -> "Run | None":
        """A run with all of its tasks; None if there is none."""
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import select

        if dag_id not in self.dag_ids:
            return None
        with create_session() as session:
            one = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
            return None if one is None else _run(session, one, _tasks(session, one))


def _run(session: "Session", found: Any, tasks: "list[TaskOfRun]", *, is_mended: bool = False) -> "Run":
    from lesion_tasks.pages.activity import Run

    return Run(
        dag_id=found.dag_id,
        run_id=found.run_id,
        state=str(found.state),
        began_at=found.start_date,
        ended_at=found.end_date,
        tasks=tasks,
        is_mended=is_mended,
    )


def _tasks(session: "Session", run: Any, states: Sequence[str] = ()) -> "list[TaskOfRun]":
    """The tasks of a run in some states, in all if none is named, in the order in which they began."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    from lesion_airflow import REASON
    from lesion_tasks.pages.activity import TaskOfRun

    asked = select(
        TaskInstance.task_id,
        TaskInstance.map_index,
        TaskInstance.rendered_map_index,
        TaskInstance.state,
        TaskInstance.pool,
        TaskInstance.start_date,
        TaskInstance.end_date,
    ).where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
    if states:
        asked = asked.where(TaskInstance.state.in_(states))
    kept = session.scalars(XComModel.get_many(dag_ids=run.dag_id, run_id=run.run_id, key=REASON))
    reasons = {(one.task_id, one.map_index): str(XComModel.deserialize_value(one)) for one in kept}
    found = [
        TaskOfRun(
            task_id=one.task_id,
            map_index=one.map_index,
            label=one.rendered_map_index or "",
            state=None if one.state is None else str(one.state),
            pool=one.pool or "",
            began_at=one.start_date,
            ended_at=one.end_date,
            reason=reasons.get((one.task_id, one.map_index)),
        )
        for one in session.execute(asked)
    ]
    return sorted(
        found,
        key=lambda task: (task.began_at is None, task.began_at and task.began_at.timestamp(), task.map_index),
    )
