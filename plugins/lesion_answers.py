"""What somebody answers under Required Actions or on a page -> kept at once, whatever becomes of the task that asks.

Airflow hands an answer to the task while it waits. One that is awake just then, or is killed and tried again, would
ask anew, and asking anew clears the answer. A task can't read it either: it is kept here where the task looks first.
"""

import logging
import re
from collections.abc import MutableMapping
from typing import Any

log = logging.getLogger(__name__)

_ANSWERS = re.compile(
    r"/api/v2/dags/(?P<dag_id>[^/]+)/dagRuns/(?P<run_id>.+)/taskInstances/ask/(?P<map_index>\d+)/hitlDetails/?"
)


class Answers:
    """Keeps each answer that Airflow has taken. A middleware of the API server; it changes nothing of what is said."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        place = _answered(scope)
        if place is None:
            await self.app(scope, receive, send)
            return
        is_taken = False

        async def heard(message: MutableMapping[str, Any]) -> None:
            nonlocal is_taken
            is_taken = is_taken or message.get("status") == 200
            await send(message)

        await self.app(scope, receive, heard)
        if is_taken:
            from anyio import to_thread

            try:
                await to_thread.run_sync(lambda: keep_answer(**place))
            except Exception:  # the task that asks is told as well
                log.exception("the answer to a question of run %s was not kept at once", place["run_id"])


def _answered(scope: Any) -> dict[str, Any] | None:
    from lesion_requests import matched
    from lesion_tasks.catalog.approvals import ASKING

    found = matched(scope, "PATCH", _ANSWERS)
    if found is None or found["dag_id"] not in ASKING:
        return None
    return {"dag_id": found["dag_id"], "run_id": found["run_id"], "map_index": int(found["map_index"])}


def keep_answer(*, dag_id: str, run_id: str, map_index: int) -> None:
    """Keep what was answered to a question, for the task that asks; about a candidate, it holds from now on."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from lesion_airflow import asked_in, chosen_answer, open_workspace
    from lesion_tasks.catalog.approvals import ASKING, UNNAMED, kept_answer
    from lesion_tasks.promotion.questions import note_answer

    with create_session() as session:
        found = session.execute(
            select(
                HITLDetail.chosen_options,
                HITLDetail.responded_by,
                HITLDetail.params_input,
                TaskInstance.max_tries,
            )
            .join(TaskInstance, HITLDetail.ti_id == TaskInstance.id)
            .where(
                TaskInstance.dag_id == dag_id,
                TaskInstance.run_id == run_id,
                TaskInstance.task_id == "ask",
                TaskInstance.map_index == map_index,
                HITLDetail.responded_at.is_not(None),
            )
        ).one_or_none()
        if found is None:
            return
        kept = {
            "chosen_options": list(found.chosen_options or ()),
            "person": (found.responded_by or {}).get("name") or UNNAMED,
            "reason": str((found.params_input or {}).get("reason") or ""),
            "max_tries": found.max_tries,
        }
        XComModel.set(
            key=kept_answer(map_index),
            value=kept,
            dag_id=dag_id,
            run_id=run_id,
            task_id=ASKING[dag_id],
            session=session,
        )
        returned = session.scalar(
            select(XComModel).where(
                XComModel.dag_id == dag_id,
                XComModel.run_id == run_id,
                XComModel.task_id == ASKING[dag_id],
                XComModel.key == "return_value",
                XComModel.map_index == -1,
            )
        )
        questions = None if returned is None else XComModel.deserialize_value(returned)
    if dag_id != "promote_model" or not isinstance(questions, list) or map_index >= len(questions):
        return
    note_answer(
        open_workspace(),
        asked_in(questions[map_index]),
        answer=chosen_answer(kept["chosen_options"]),
        person=kept["person"],
        reason=kept["reason"],
    )
