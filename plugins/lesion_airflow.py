"""What the DAG files share: assets, default arguments, the retry policy, queue and pools.

Airflow loads this once per process, so nothing that changes often goes here, and nothing heavy.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Asset, ExceptionRetryPolicy, Param, RetryAction, RetryRule, TriggerRule, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

if TYPE_CHECKING:
    from lesion_tasks.workspace import Workspace

# Declared once: a DAG scheduled on a mistyped asset never runs, and nothing says so.
IMAGES = Asset("images", uri="lesion://images", group="lesion")
SPLITS = Asset("splits", uri="lesion://splits", group="lesion")
EVALUATIONS = Asset("evaluations", uri="lesion://evaluations", group="lesion")
CHAMPION = Asset("champion", uri="lesion://champion", group="lesion")

GPU_QUEUE = "gpu"  # the workers that train; one task at a time

# Input that is wrong stays wrong. Nearly everything else may be the network or a machine, and is tried again,
# later each time.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception="lesion_tasks.UnusableInputError",
            action=RetryAction.FAIL,
            reason="The input or a setting is wrong: trying again cannot help.",
        ),
        RetryRule(
            exception=["sqlalchemy.exc.ProgrammingError", "sqlalchemy.exc.DataError"],
            action=RetryAction.FAIL,
            reason="A statement that the database does not take: trying again cannot help.",
        ),
    ]
)

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "lesion",
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(hours=1),
}

TAGS = ["lesion"]


def open_workspace() -> "Workspace":
    """The database and the bucket of the settings: opened by a running task, and not when a DAG file is parsed."""
    from lesion_tasks import workspace

    return workspace.open_workspace()


def skip_unless(is_wanted: bool, reason: str) -> None:
    """End the running task as skipped, with a reason in its log."""
    if not is_wanted:
        raise AirflowSkipException(reason)


def due(schedules: Mapping[str, str], last_done: Mapping[str, datetime], moment: datetime) -> list[str]:
    """Return the names whose cron time came, up to `moment`, after they were last done; those never done too."""
    from croniter import croniter

    # `get_prev` looks strictly before its start, and a run is due at its very moment.
    start = moment.astimezone(UTC) + timedelta(seconds=1)
    return [
        name
        for name, cron in schedules.items()
        if name not in last_done or last_done[name] < croniter(cron, start).get_prev(datetime)
    ]


def total(counts: Iterable[dict[str, Any] | None]) -> dict[str, int]:
    """Add up the whole numbers of several results; tasks that were skipped have none."""
    summed: dict[str, int] = {}
    for result in counts:
        for name, value in (result or {}).items():
            if isinstance(value, int) and not isinstance(value, bool):
                summed[name] = summed.get(name, 0) + value
    return summed


def results(value: Any) -> list[Any]:
    """Return what the tasks of a mapped group returned, as a list: Airflow hands over a lone result bare."""
    found = [value] if value is None or isinstance(value, str | dict) else list(value)
    return [result for result in found if result is not None]


class AskPerson(HITLOperator):
    """Ask whether a candidate may become champion; gives who answered what, also when nobody did or it lost its point.

    The wait is cut into slices: after each one the task looks whether its candidate is still the one to ask about,
    and goes on waiting if it is. A question that a newer candidate has replaced ends by itself.
    """

    APPROVE, REJECT = "Approve", "Reject"
    SLICE = timedelta(minutes=10)

    def __init__(
        self, *, task_name: str, asked_about: str, response_timeout: timedelta, **kwargs: Any
    ) -> None:
        super().__init__(
            options=[self.APPROVE, self.REJECT],
            params={
                "reason": Param(
                    "",
                    type="string",
                    title="Reason",
                    description="Why; kept with the decision. Needed to reject.",
                )
            },
            response_timeout=min(response_timeout, self.SLICE),
            **kwargs,
        )
        self.task_name = task_name
        self.asked_about = asked_about
        self.whole_timeout = response_timeout

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        if event.get("error_type") == "timeout":
            return self._look_again(context)
        answer = super().execute_complete(context, event)
        person = answer["responded_by_user"] or {"name": "unnamed person"}
        is_approved = self.APPROVE in answer["chosen_options"]
        return self._answer(
            "approved" if is_approved else "rejected",
            person=person["name"],
            reason=str((answer["params_input"] or {}).get("reason") or ""),
        )

    def _look_again(self, context: Any) -> dict[str, Any]:
        from airflow.sdk.exceptions import TaskAwaitingInput

        from lesion_tasks.promotion.questions import is_superseded

        if is_superseded(open_workspace(), task=self.task_name, asked_about=self.asked_about):
            return self._answer("expired", person="rule", reason="a newer candidate has taken its place")
        asked_at = context["dag_run"].start_date or datetime.now(UTC)
        left = asked_at + self.whole_timeout - datetime.now(UTC)
        if left <= timedelta(0):
            return self._answer("expired", person="nobody", reason="")
        raise TaskAwaitingInput(method_name="execute_complete", timeout=min(left, self.SLICE))

    def _answer(self, answer: str, *, person: str, reason: str) -> dict[str, Any]:
        return {
            "task_name": self.task_name,
            "asked_about": self.asked_about,
            "answer": answer,
            "person": person,
            "reason": reason,
        }


@task(trigger_rule=TriggerRule.ONE_FAILED, retries=0, doc_md="Red when anything before it is red.")
def stay_red() -> None:
    """Keep the run red when one of several failed: a run's colour is that of its last tasks alone."""
    raise AirflowFailException("at least one task before this one failed; the others were announced")
