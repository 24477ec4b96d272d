"""The plugin that puts the product's pages into Airflow: "Lesions" in the navigation, and tabs on runs and tasks.

Every component loads plugins; only the API server builds the application. Whoever may see the runs of the product's
DAGs may read its pages; what the pages start goes through Airflow's own API, which asks for the rights that it needs.
"""

import sys
from datetime import datetime, timedelta
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin
from lesion_answers import Answers

from lesion_requests import Door

PREFIX = "/lesions"
CLOCKS_APART = timedelta(minutes=1)


def _application() -> Any:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskinstancehistory import TaskInstanceHistory
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import or_, select, tuple_

    from lesion_airflow import open_workspace
    from lesion_runs import AirflowRuns
    from lesion_tasks.pages.application import build_application
    from lesion_tasks.pages.run_results import DAGS
    from lesion_tasks.pages.training_page import TRAINING, RanTry, TaskTry, nearest_try

    def may_start(user: GetUserDep) -> frozenset[str]:
        manager = get_auth_manager()
        return frozenset(
            dag_id
            for dag_id in DAGS
            if manager.is_authorized_dag(
                method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=dag_id), user=user
            )
        )

    def returned_by(dag_id: str, run_id: str, task_id: str, map_index: int | None) -> Any:
        if dag_id not in DAGS:
            return [] if map_index is None else None
        with create_session() as session:
            rows = session.scalars(
                XComModel.get_many(
                    dag_ids=dag_id,
                    run_id=run_id,
                    task_ids=task_id,
                    map_indexes=map_index,
                    key="return_value",
                )
            )
            found = sorted(rows, key=lambda row: row.map_index)
            returned = [XComModel.deserialize_value(row) for row in found]
        if map_index is None:
            return returned
        return returned[0] if returned else None

    def try_of(labels: frozenset[str], moment: datetime) -> TaskTry | None:
        """The try of a training task under one of some labels of the UI that ran nearest to a moment.

        Clocks may be a minute apart. A try that failed is kept as history once the task is tried again.
        """
        tries = []
        with create_session() as session:
            for kept in (TaskInstanceHistory, TaskInstance):
                for found in session.execute(
                    select(
                        kept.dag_id,
                        kept.run_id,
                        kept.task_id,
                        kept.map_index,
                        kept.try_number,
                        kept.start_date,
                        kept.end_date,
                    ).where(
                        tuple_(kept.dag_id, kept.task_id).in_(TRAINING),
                        kept.rendered_map_index.in_(labels),
                        kept.start_date <= moment + CLOCKS_APART,
                        or_(kept.end_date.is_(None), kept.end_date >= moment - CLOCKS_APART),
                    )
                ):
                    task_try = TaskTry(
                        dag_id=found.dag_id,
                        run_id=found.run_id,
                        task_id=found.task_id,
                        map_index=found.map_index,
                        number=found.try_number,
                    )
                    tries.append(RanTry(task_try=task_try, began=found.start_date, ended=found.end_date))
        return nearest_try(tries, moment)

    return build_application(
        open_workspace=open_workspace,
        may_read=requires_access_dag("GET", DagAccessEntity.RUN, "promote_model"),
        may_start=may_start,
        returned_by=returned_by,
        try_of=try_of,
        runs=AirflowRuns(DAGS),
    )


class LesionPages(AirflowPlugin):
    """The pages and where the UI links them."""

    name = "lesion_pages"
    fastapi_apps: ClassVar[list[dict[str, Any]]] = (
        [{"app": _application(), "url_prefix": PREFIX, "name": "Lesions"}] if "api-server" in sys.argv else []
    )
    fastapi_root_middlewares: ClassVar[list[dict[str, Any]]] = [
        {"middleware": Door, "name": "Lesions: the door"},
        {"middleware": Answers, "name": "Lesions: answers"},
    ]
    external_views: ClassVar[list[dict[str, Any]]] = [
        {
            "name": "Lesions",
            "href": "lesions/",
            "destination": "nav",
            "url_route": "lesions",
            "nav_top_level": True,
            "icon": "lesions/static/icon.svg",
            "icon_dark_mode": "lesions/static/icon-dark.svg",
        },
        {
            "name": "Lesions",
            "href": "lesions/result?dag={DAG_ID}&run={RUN_ID}",
            "destination": "dag_run",
            "url_route": "lesions-run",
        },
        {
            "name": "Lesions",
            "href": "lesions/result?dag={DAG_ID}&run={RUN_ID}&task={TASK_ID}&map_index={MAP_INDEX}",
            "destination": "task_instance",
            "url_route": "lesions-task",
        },
    ]
