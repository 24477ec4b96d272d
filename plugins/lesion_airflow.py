"""What the DAG files share: assets, default arguments, the retry policy, queue and pools.

Airflow loads this once per process, so it holds nothing that changes often and nothing heavy.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import (
    Asset,
    AsyncCallback,
    DeadlineAlert,
    DeadlineReference,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    TriggerRule,
    get_current_context,
    task,
)
from airflow.sdk.definitions.asset import Model
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.observability.stats import Stats

from lesion_notices import LesionNotifier, tell
from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.approvals import LOOK_MINUTES
from lesion_tasks.catalog.pools import GPU_POOL

if TYPE_CHECKING:
    from lesion_tasks.catalog.approvals import Answer
    from lesion_tasks.database.schema import CorrectionRequest
    from lesion_tasks.evaluation.open_questions import Asked
    from lesion_tasks.upkeep.lineage import Lineage
    from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# Declared once: a DAG scheduled on a mistyped asset silently never runs.
IMAGES = Asset("images", uri="lesion://images", group="lesion")
SPLITS = Asset("splits", uri="lesion://splits", group="lesion")
EVALUATIONS = Asset("evaluations", uri="lesion://evaluations", group="lesion")
WATCHES = Asset("watches", uri="lesion://watches", group="lesion")
CHAMPION = Model("champion", uri="lesion://champion")

METRICS_TIMEOUT_MS = 5_000
WAIT_HOURS = 7 * 24  # for an answer, if a form does not say
GPU_QUEUE = "gpu"  # the workers that train; one task at a time
# What a task asks for that holds a model. Whoever waits for the one slot gets it in this order: what takes minutes and
# ends a path goes before trainings, which take hours. A task that has begun keeps the slot.
EVALUATES, COMPARES, TRAINS = (
    {"queue": GPU_QUEUE, "pool": GPU_POOL, "priority_weight": weight, "weight_rule": "absolute"}
    for weight in (3, 2, 1)
)

# Wrong input stays wrong. Nearly everything else may be the network or a machine, and is tried again, after a longer
# pause each time.
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
            reason="The database rejects a statement: trying again cannot help.",
        ),
    ]
)

# Under which name a task leaves why it failed or was skipped, as XCom: Airflow keeps it until the task runs again.
# Not "reason": where a task returns a dictionary, Airflow also keeps each of its entries by its key.
REASON = "ended_because"
MAX_REASON_CHARACTERS = 2_000
REFUSED = "refused_arguments"  # as XCom: the task failed for what its run was started with


def keep_reason(context: Mapping[str, Any]) -> None:
    """Leave why the task failed where the pages find it: our own message, or the kind of the error and what it says."""
    from lesion_tasks.addresses import masked

    error = context.get("exception")
    if error is None:  # a killed task: the DAG processor calls this, and knows no more than the state
        return
    is_ours = isinstance(error, UnusableInputError | AirflowFailException)
    # A database's error repeats the statement with its values: what the driver said is enough.
    said = str(getattr(error, "orig", None) or error)
    words = said if is_ours and said else f"{type(error).__name__}: {said}"
    # Airflow masks its logs, and no XCom.
    context["ti"].xcom_push(REASON, masked(words)[:MAX_REASON_CHARACTERS])


DEFAULT_ARGS: dict[str, Any] = {
    "owner": "lesion",
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(hours=1),
    "on_failure_callback": keep_reason,
    "on_retry_callback": keep_reason,
}

TAGS = ["lesion"]

# One notice for each run that ends red, whatever failed in it. The DAG processor delivers it.
TELL_WHEN_RED = LesionNotifier(
    event="failed",
    subject="{{ dag.dag_display_name }}: a run failed",
    text="{{ run_id }}: {{ reason | default('at least one task failed') }}",
    page="/dags/{{ dag.dag_id }}/runs/{{ run_id | urlencode }}",
)


def tell_when_late(title: str, dag_id: str, limit: timedelta) -> DeadlineAlert:
    """Tell people when a run has not ended in time after it was queued. The triggerer delivers it."""
    hours = limit / timedelta(hours=1)
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=limit,
        callback=AsyncCallback(
            LesionNotifier,
            kwargs={
                "event": "late",
                "subject": f"{title}: a run has not ended",
                "text": f"It was queued {hours:g} hours ago.",
                "page": f"/dags/{dag_id}",
            },
        ),
    )


def open_workspace() -> "Workspace":
    """The database and the bucket of the settings: opened by a running task, not when a DAG file is parsed."""
    from lesion_tasks import workspace

    return workspace.open_workspace()


def skip_unless(is_wanted: bool, reason: str) -> None:
    """End the running task as skipped, with a reason in its log and on its page."""
    if not is_wanted:
        get_current_context()["ti"].xcom_push(REASON, reason)
        raise AirflowSkipException(reason)


def note_unmade(reason: str) -> None:
    """Leave on the page of the running task, and of its run, why it makes less than was asked for; it goes on."""
    log.info("%s", reason)
    get_current_context()["ti"].xcom_push(REASON, reason)


@contextmanager
def refusing_arguments(*, are_meant: bool = True) -> Iterator[None]:
    """End the running task for what its run was started with: it says what to do, and is not shown for long.

    `are_meant`: whether what fails in between is about that.
    """
    from lesion_requests import AGAIN

    try:
        yield
    except UnusableInputError as error:
        context = get_current_context()
        if not are_meant or not context["dag_run"].conf:
            raise  # nobody filled in a form: the settings or the data say this
        context["ti"].xcom_push(REFUSED, True)
        raise AirflowFailException(f"{str(error).rstrip('.')}. {AGAIN}") from error


def refuse_unusable() -> None:
    """End the running task if its run was given fields that its form does not have, or that do not go together.

    The API refuses that before there is a run; this is for what comes by another way.
    """
    from lesion_requests import OF_FIELDS_ALONE, refusal_of_names

    context = get_current_context()
    dag = context["dag"]
    with refusing_arguments():
        if (words := refusal_of_names(context["dag_run"].conf or {}, dag.params)) is not None:
            raise UnusableInputError(words)
        if (check := OF_FIELDS_ALONE.get(dag.dag_id)) is not None:
            check(context["params"])


def due(schedules: Mapping[str, str], last_done: Mapping[str, datetime], moment: datetime) -> list[str]:
    """Return the names that are due at `moment`: never done, or their cron time passed since they were last done."""
    from croniter import croniter

    # `get_prev` looks strictly before its start, but a run is due exactly at its time.
    start = moment.astimezone(UTC) + timedelta(seconds=1)
    return [
        name
        for name, cron in schedules.items()
        if name not in last_done or last_done[name] < croniter(cron, start).get_prev(datetime)
    ]


def retry_refused() -> dict[str, None]:
    """The argument by which a run by hand, or a task's retry, tries every refused file again.

    The source may have been repaired; and a task that failed must not turn green because nothing is due yet.
    """
    context = get_current_context()
    is_again = context["dag_run"].run_type == "manual" or context["ti"].try_number > 1
    return {"retry_refused_after": None} if is_again else {}


def total(counts: Iterable[dict[str, Any] | None]) -> dict[str, int]:
    """Add up the whole numbers of several results; skipped tasks have none."""
    summed: dict[str, int] = {}
    for result in counts:
        for name, value in (result or {}).items():
            if isinstance(value, int) and not isinstance(value, bool):
                summed[name] = summed.get(name, 0) + value
    return summed


def count(numbers: Mapping[str, int]) -> None:
    """Add to the product's counters in Airflow's metrics (StatsD or OpenTelemetry): `lesion.<name>`."""
    from opentelemetry.metrics import get_meter_provider

    for name, number in numbers.items():
        if number:
            Stats.incr(f"lesion.{name}", number)
    # The process of a task ends without handing on what OpenTelemetry has gathered.
    hand_on = getattr(get_meter_provider(), "force_flush", None)
    if hand_on is not None:
        try:
            hand_on(timeout_millis=METRICS_TIMEOUT_MS)
        except Exception as error:  # the work itself is done
            log.warning("counters were not handed on to OpenTelemetry: %s", error)


def announce_decision(decision: Mapping[str, Any]) -> None:
    """Count a decision about a champion, and tell people."""
    from lesion_tasks.upkeep.notices import of_decision

    count({f"decisions.{decision['action'].replace(' ', '_')}": 1})
    tell(of_decision(decision, get_current_context()["run_id"]))


def announce_correction(ended: "CorrectionRequest") -> None:
    """Tell people how a request to correct the data ended, if they were asked about it."""
    from lesion_tasks.upkeep.notices import of_correction

    tell(of_correction(ended))


def note_lineage(lineage: "Lineage") -> None:
    """Hand a task's inputs and outputs to whatever collects lineage, such as the OpenLineage provider."""
    from airflow.sdk.lineage import get_hook_lineage_collector

    collector, context = get_hook_lineage_collector(), get_current_context()
    for uri in lineage.inputs:
        collector.add_input_asset(context["ti"], uri=uri)
    for uri in lineage.outputs:
        collector.add_output_asset(context["ti"], uri=uri)


def tasks_param(description: str) -> Param:
    """The choice of some of the tasks in a form; all of them if nobody chooses."""
    from lesion_tasks.catalog import TASKS

    names = sorted(TASKS)
    return Param(
        names,
        type="array",
        minItems=1,
        items={"enum": names},
        examples=names,
        values_display={name: entry.title for name, entry in TASKS.items()},
        title="Tasks",
        description=description,
    )


def task_param(description: str) -> Param:
    """The choice of one task in a form."""
    from lesion_tasks.catalog import TASKS

    return Param(
        "malignancy",
        type="string",
        enum=sorted(TASKS),
        values_display={name: entry.title for name, entry in TASKS.items()},
        title="Task",
        description=description,
    )


def approval_param(*, unasked: str, description: str, section: str = "Approval") -> Param:
    """The field of a form that chooses whether a person is asked; `unasked` says what follows without."""
    from lesion_tasks.catalog.approvals import APPROVALS, AS_SET

    shown = ("As the setting LESION_APPROVAL says", "Always, before anything is decided", f"Never: {unasked}")
    return Param(
        AS_SET,
        type="string",
        enum=list(APPROVALS),
        values_display=dict(zip(APPROVALS, shown, strict=True)),
        title="Ask a person",
        section=section,
        description=description,
    )


def approval_params(*, page: str, unasked: str, more: str = "") -> dict[str, Param]:
    """The fields of a form whose run asks by itself, on that page; `more`: whom else the choice binds."""
    return {
        "approval": approval_param(
            unasked=unasked,
            description=f"Whether to wait for an answer, on the page {page} or under Required Actions, before "
            f"anything is decided. {more}".rstrip(),
        ),
        "wait_hours": Param(
            WAIT_HOURS,
            type="number",
            exclusiveMinimum=0,
            maximum=24 * 365,
            title="Hours to wait for the answer",
            section="Approval",
            description="A question that nobody answers in this time expires.",
        ),
    }


def results(value: Any) -> list[Any]:
    """Return what the tasks of a mapped group returned, as a list: Airflow passes a single result without one."""
    found = [value] if value is None or isinstance(value, str | dict) else list(value)
    return [result for result in found if result is not None]


def chosen_answer(chosen_options: Collection[str]) -> "Answer":
    """What somebody answered, by the buttons that were pressed."""
    from lesion_tasks.catalog.approvals import APPROVE

    return "approved" if APPROVE in chosen_options else "rejected"


def asked_in(question: Mapping[str, Any]) -> "Asked":
    """What a question is about, as a task returned it."""
    from lesion_tasks.evaluation.open_questions import Asked

    return Asked(**{one.name: question[one.name] for one in fields(Asked) if one.name in question})


def note_kept_answers(workspace: "Workspace", run_id: str) -> None:
    """Note what was answered to the questions of a run about candidates, and did not reach the tasks that asked."""
    from lesion_tasks.catalog.approvals import ASKING, kept_answer
    from lesion_tasks.promotion.questions import note_answer

    def pulled(task_id: str, place: int = -1, key: str = "return_value") -> Any:
        ti = get_current_context()["ti"]
        return ti.xcom_pull(task_ids=task_id, key=key, map_indexes=place, run_id=run_id)

    comparing = ASKING["promote_model"]
    for place, question in enumerate(pulled(comparing) or ()):
        kept = pulled(comparing, key=kept_answer(place))
        returned = pulled("ask", place)
        if kept is None or (returned is not None and returned["answer"] != "expired"):
            continue
        answer = chosen_answer(kept["chosen_options"])
        note_answer(
            workspace, asked_in(question), answer=answer, person=kept["person"], reason=kept["reason"]
        )


class AskPerson(HITLOperator):
    """Ask whether something may be decided; returns who answered what, also if nobody did or it became obsolete.

    The wait, as long as the run's parameter `wait_hours` says, is divided into slices: after each one the task checks
    whether there is still something to ask about, and continues waiting if so. A question that something else has
    replaced ends by itself.
    """

    # Subject and body hold what people typed, and Airflow has filled them in: nothing of them is a template.
    template_fields: Collection[str] = ()
    SLICE = timedelta(minutes=LOOK_MINUTES)
    # How often the look is one at everything stored, and not at the database alone.
    THOROUGH = timedelta(hours=1)
    OBSOLETE = "something else was decided since"

    def __init__(self, *, is_effective: bool = True, **kwargs: Any) -> None:
        from lesion_tasks.catalog.approvals import WHY, answers_in_order

        # A mapped task is handed the form of its DAG, which is no part of the question.
        kwargs.pop("params", None)
        super().__init__(
            options=answers_in_order(is_effective=is_effective),
            params={
                "reason": Param(
                    "",
                    type="string",
                    title="Reason",
                    description=f"{WHY}, for a rejection; kept with the decision and shown in the history.",
                )
            },
            notifiers=[
                LesionNotifier(
                    event="waiting",
                    about="{{ task.told_as }} {{ run_id }}",
                    subject="{{ task.subject }}",
                    text="Waiting for an answer.",
                    page="{{ task.page }}",
                )
            ],
            **kwargs,
        )

    @property
    def told_as(self) -> str:
        """What the question is about, in ids, with which people are told of it once."""
        raise NotImplementedError

    @property
    def page(self) -> str:
        """The address of the page with more, from the root of the pages."""
        raise NotImplementedError

    def is_superseded(self) -> bool:
        """Whether there is nothing to ask about any more."""
        raise NotImplementedError

    def looks_superseded(self) -> bool:
        """The same at the price of a look every few minutes."""
        return self.is_superseded()

    def note(self, answer: "Answer", *, person: str, reason: str) -> None:
        """Keep an answer before its run decides, if something else could come between."""

    def asked(self) -> dict[str, Any]:
        """What goes with the answer to whoever decides."""
        raise NotImplementedError

    def execute(self, context: Any) -> Any:
        if (kept := self._kept_answer(context)) is not None:
            return kept
        if self.is_superseded():  # such as that of a run which ended before it was cleared
            return self._obsolete()
        self.response_timeout = self._time_left(context)
        return super().execute(context)

    def _time_left(self, context: Any) -> timedelta:
        """Until the next look, or until the wait is over: not more than 0 then."""
        whole = timedelta(hours=context["params"]["wait_hours"])
        return min(whole - self._waited(context), self.SLICE)

    @staticmethod
    def _waited(context: Any) -> timedelta:
        now = datetime.now(UTC)
        return now - (context["dag_run"].start_date or now)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        from lesion_tasks.catalog.approvals import UNNAMED

        if event.get("error_type") == "timeout":
            return self._look_again(context)
        answer = super().execute_complete(context, event)
        person = answer["responded_by_user"] or {"name": UNNAMED}
        reason = str((answer["params_input"] or {}).get("reason") or "")
        return self._take(answer["chosen_options"], person=person["name"], reason=reason)

    def _kept_answer(self, context: Any) -> dict[str, Any] | None:
        """What somebody answered while the task was awake, or before it was killed: Airflow tells it of that no more.

        After the task was cleared the question is asked anew.
        """
        from lesion_tasks.catalog.approvals import ASKING, kept_answer

        ti = context["ti"]
        kept = ti.xcom_pull(task_ids=ASKING[ti.dag_id], key=kept_answer(ti.map_index), map_indexes=-1)
        if kept is None or kept["max_tries"] != ti.max_tries:
            return None
        return self._take(kept["chosen_options"], person=kept["person"], reason=kept["reason"])

    def _take(self, chosen_options: Collection[str], *, person: str, reason: str) -> dict[str, Any]:
        chosen = chosen_answer(chosen_options)
        try:
            self.note(chosen, person=person, reason=reason)
        except Exception:  # tried again, the task would ask anew; the answer goes to its run all the same
            log.exception("the answer was not kept before its run decides")
        return self._answer(chosen, person=person, reason=reason)

    def _look_again(self, context: Any) -> dict[str, Any]:
        from airflow.sdk.exceptions import TaskAwaitingInput

        if (kept := self._kept_answer(context)) is not None:
            return kept
        waited = self._waited(context)
        is_due = waited // self.THOROUGH != (waited - self.SLICE) // self.THOROUGH
        if self.is_superseded() if is_due else self.looks_superseded():
            return self._obsolete()
        left = self._time_left(context)
        if left <= timedelta(0):
            return self._answer("expired", person="nobody", reason="")
        raise TaskAwaitingInput(method_name="execute_complete", timeout=left)

    def _obsolete(self) -> dict[str, Any]:
        from lesion_tasks.catalog.approvals import RULE

        return self._answer("expired", person=RULE, reason=self.OBSOLETE)

    def _answer(self, answer: str, *, person: str, reason: str) -> dict[str, Any]:
        return {**self.asked(), "answer": answer, "person": person, "reason": reason}


class AskAboutCandidate(AskPerson):
    """Ask whether a candidate may become champion."""

    OBSOLETE = "another candidate, champion, decision or finding has come since"

    def __init__(
        self,
        *,
        task_name: str,
        can_promote: bool = True,  # as a question of before it was noted has it
        **kwargs: Any,
    ) -> None:
        from lesion_tasks.evaluation.open_questions import Asked

        about = {one.name: kwargs.pop(one.name) for one in fields(Asked) if one.name in kwargs}
        super().__init__(is_effective=can_promote, **kwargs)
        self.task_name = task_name
        self.question = Asked(task_name=task_name, **about)

    @property
    def told_as(self) -> str:
        return f"{self.task_name} {self.question.asked_about} {self.question.asked_against}"

    @property
    def page(self) -> str:
        return f"champion/{self.task_name}"

    def is_superseded(self) -> bool:
        from lesion_tasks.promotion.questions import is_superseded

        return is_superseded(open_workspace(), self.question)

    def looks_superseded(self) -> bool:
        from lesion_tasks.promotion.questions import looks_superseded

        return looks_superseded(open_workspace(), self.question)

    def note(self, answer: "Answer", *, person: str, reason: str) -> None:
        from lesion_tasks.promotion.questions import note_answer

        note_answer(open_workspace(), self.question, answer=answer, person=person, reason=reason)

    def asked(self) -> dict[str, Any]:
        names = ("task_name", "asked_about", "asked_against", "findings_sha256")
        return {name: getattr(self.question, name) for name in names}


class AskAboutCorrection(AskPerson):
    """Ask whether the data may be corrected as somebody asked for."""

    def __init__(self, *, request: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.request = request

    @property
    def told_as(self) -> str:
        return f"{self.request['decision']} {self.request['isic_id']}"

    @property
    def page(self) -> str:
        from lesion_tasks.curation.correction_requests import Request, page_of

        return page_of(Request(**self.request))

    def is_superseded(self) -> bool:
        from lesion_tasks.curation.correction_requests import Request, is_open

        with open_workspace().engine.connect() as connection:
            return not is_open(connection, Request(**self.request))

    def asked(self) -> dict[str, Any]:
        return {"request": self.request}


@task(trigger_rule=TriggerRule.ONE_FAILED, retries=0, doc_md="Red when anything before it is red.")
def stay_red() -> None:
    """Keep the run red if one of several failed: only the last tasks decide a run's state."""
    raise AirflowFailException("at least one task before this one failed; the others were announced")
