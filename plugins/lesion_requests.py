"""What a run is asked for -> what is wrong with it, in one line; at the door of Airflow's API, and as a run starts.

Airflow checks each field of a form by itself, and answers with the whole schema. What fields say together, and names
that the catalogue or the database must know, it leaves to the run: too late for whoever filled the form in.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lesion_tasks.promotion.overrides import Force
    from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 200_000  # a form has far less
_STARTS = re.compile(r"/api/v2/dags/([^/]+)/dagRuns/?")

Params = Mapping[str, Any]
MISSING = object()  # the default of a field without one
RENAMED = {"smoke_run": "rehearsal"}  # fields of an earlier release


def refusal_of_names(conf: Params, known: Params) -> str | None:
    """What is wrong with the names of the fields that a run was given; `known`: those of the form."""
    from lesion_tasks.catalog.lookup import did_you_mean

    for name in conf:
        if name in RENAMED and name not in known:
            return f"argument {name!r}: it is called {RENAMED[name]!r} by now"
        if name not in known:
            meant = did_you_mean(name, known) or f"; expected some of {', '.join(known) or 'none'}"
            return f"argument {name!r}: there is none of this name{meant}"
    return None


def refusal_of_value(name: str, value: Any, schema: Params) -> str | None:
    """What a field's own schema says against its value: where it is, what it is, and the nearest right one."""
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import best_match

    from lesion_tasks.catalog.entries import did_you_mean

    error = best_match(Draft202012Validator(schema, format_checker=FormatChecker()).iter_errors(value))
    if error is None:
        return None
    where = ".".join([name, *(str(part) for part in error.absolute_path if isinstance(part, str))])
    given = error.instance
    if error.validator == "additionalProperties":
        wrong = next(one for one in given if one not in error.schema["properties"])
        return f"{where}: there is no field {wrong[:200]!r}{did_you_mean(wrong, error.schema['properties'])}"
    if error.validator == "enum":
        known = [str(one) for one in error.validator_value]
        meant = did_you_mean(str(given), known) or f", expected one of {', '.join(known)}"
        return f"{where}: unknown value {str(given)[:200]!r}{meant}"
    if error.validator in ("minLength", "pattern") and isinstance(given, str):
        least = error.schema.get("minLength", 1)
        return f"{where}: is {given[:200]!r}, expected at least {least} character{'s' * (least > 1)} in words"
    if error.validator == "minItems":
        return f"{where}: is empty, expected at least {error.validator_value}"
    if error.validator == "type":
        kinds = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        wanted = " or ".join(_KINDS.get(one, one) for one in kinds if one != "null")
        return f"{where}: is {json.dumps(given)[:200]}, expected {wanted}{' or nothing' * ('null' in kinds)}"
    return f"{where}: {error.message[:400]}"


_KINDS = {
    "array": "a list", "boolean": "true or false", "integer": "a whole number", "number": "a number",
    "object": "names with values", "string": "text",
}  # fmt: skip


def _force(params: Params) -> "Force | None":
    from lesion_tasks.promotion.overrides import read_force

    return read_force(
        params["training"], params["override_reason"], is_forced=params["is_forced"], asked_by="somebody"
    )


def _promotion(workspace: "Workspace", params: Params) -> None:
    from lesion_tasks import UnusableInputError
    from lesion_tasks.evaluation.candidacy import waiting_ids
    from lesion_tasks.promotion.overrides import find_overridable, override_in, tasks_to_decide

    force = _force(params)
    tasks = tasks_to_decide(workspace, params["tasks"], force)
    if (override := override_in(force)) is not None:
        with workspace.engine.connect() as connection:
            for task in tasks:
                find_overridable(connection, task, override.training_id)
    elif force is not None:
        with workspace.engine.connect() as connection:
            if not any(waiting_ids(connection, task) for task in tasks):
                raise UnusableInputError(
                    f"a promotion despite the gates: no candidate of {', '.join(tasks)} waits for a decision; "
                    "expected the name of a training that the gates refused"
                )


def _folds(params: Params) -> None:
    from lesion_tasks.evaluation.held_out_report import check_folds

    check_folds(params["variant"], params["n_seeds"])


def _rollback(workspace: "Workspace", params: Params) -> None:
    from lesion_tasks import UnusableInputError
    from lesion_tasks.evaluation.decisions import champion_of
    from lesion_tasks.promotion.promote import rollback_target

    target = rollback_target(workspace, task=params["task"], training_id=params["training_id"])
    with workspace.engine.connect() as connection:
        champion = champion_of(connection, params["task"])
    if champion is not None and champion.training.training_id == target:
        raise UnusableInputError(
            f"rollback to {target!r}: it is champion of {params['task']!r} now, expected an earlier one"
        )


def _trainings(workspace: "Workspace", params: Params) -> None:
    from lesion_tasks import UnusableInputError
    from lesion_tasks.catalog.lookup import cohorts_chosen, find_cohort, find_variant
    from lesion_tasks.catalog.recipe import epochs_of_stages
    from lesion_tasks.training.train import choose_variants

    for name in cohorts_chosen(params["cohorts"]) or ():
        find_cohort(name)
    if params["variants"]:
        chosen = [find_variant(name) for name in params["variants"]]
        if params["max_epochs"] is not None and not any(epochs_of_stages(one.as_recipe) for one in chosen):
            raise UnusableInputError(
                f"max_epochs is {params['max_epochs']}: {', '.join(one.name for one in chosen)} "
                f"{'is' if len(chosen) == 1 else 'are'} solved in one step, expected none"
            )
        choose_variants(
            workspace,
            variants=params["variants"],
            policy="always",  # whether one has grown is for the run to find out
            n_trials=params["trials"],
            is_smoke_run=params["rehearsal"],
            changes=params["changes"],
        )


def _correction(workspace: "Workspace", params: Params) -> None:
    from lesion_tasks.curation.correction_requests import read_request, write_questions

    names = ("decision", "isic_id", "other_isic_id", "task", "correction", "reason")
    request = read_request(
        workspace, **{name: params[name] for name in names}, asked_by="somebody", request_id="none"
    )
    write_questions(workspace, request, approval="never")


# DAG -> what raises `UnusableInputError` for fields that do not go together, or name what there is not: as things are
# now. A run that is cleared has changed them itself: of these only what its fields say together is asked again.
CHECKS: dict[str, Callable[["Workspace", Params], None]] = {
    "promote_model": _promotion,
    "rollback_champion": _rollback,
    "train_variants": _trainings,
    "correct_data": _correction,
}
OF_FIELDS_ALONE: dict[str, Callable[[Params], object]] = {"promote_model": _force, "leave_out": _folds}
AGAIN = "Trigger it again with that put right: clearing this run does not help, it keeps what it was started with."


def refusal_of(dag_id: str, conf: Params, form: Mapping[str, tuple[Any, Params]]) -> str | None:
    """Why a run that is asked for could not begin, in one line; None if it can.

    `form`: the default value and the schema of each field. That the database does not answer is no reason.
    """
    from lesion_airflow import open_workspace
    from lesion_tasks import UnusableInputError

    if (words := refusal_of_names(conf, form)) is not None:
        return words
    params = {name: conf.get(name, default) for name, (default, _) in form.items()}
    for name, (_, schema) in form.items():
        if params[name] is MISSING:
            return f"{name}: is missing, expected a value"
        if (words := refusal_of_value(name, params[name], schema)) is not None:
            return words
    try:
        if (of_fields := OF_FIELDS_ALONE.get(dag_id)) is not None:
            of_fields(params)
        if (check := CHECKS.get(dag_id)) is not None:
            check(open_workspace(), params)
    except UnusableInputError as error:
        return str(error)
    return None


class Door:
    """Answers 400, with one line, whoever may start a run of a DAG of ours and asks for what it could not begin.

    A middleware of the API server. Everything else goes on to Airflow as it came: what nobody may start, what it knows
    nothing of, and what comes by a way that is no HTTP; the run itself refuses that.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        dag_id = _dag_to_start(scope)
        if dag_id is None:
            await self.app(scope, receive, send)
            return
        messages: list[Any] = []
        n_bytes = 0
        while not messages or (messages[-1].get("more_body") and n_bytes <= MAX_BODY_BYTES):
            messages.append(await receive())
            n_bytes += len(messages[-1].get("body", b""))
        body = b"".join(one.get("body", b"") for one in messages)
        words = await _words(scope, dag_id, body) if n_bytes <= MAX_BODY_BYTES else None
        if words is not None:
            from starlette.responses import JSONResponse

            await JSONResponse({"detail": words}, status_code=400)(scope, receive, send)
            return
        left = iter(messages)

        async def again() -> Any:
            return next(left, None) or await receive()

        await self.app(scope, again, send)


def matched(scope: Any, method: str, place: re.Pattern[str]) -> re.Match[str] | None:
    """The place that a request is for, if it is one of HTTP with this method for such a place."""
    if scope["type"] != "http" or scope["method"] != method:
        return None
    return place.fullmatch(scope["path"].removeprefix(scope.get("root_path", "")))


def _dag_to_start(scope: Any) -> str | None:
    from lesion_tasks.pages.run_results import DAGS

    found = matched(scope, "POST", _STARTS)
    return found[1] if found is not None and found[1] in DAGS else None


async def _words(scope: Any, dag_id: str, body: bytes) -> str | None:
    """Why the run cannot begin; None also if it is not for this caller to know, or if nothing can be said now."""
    from anyio import to_thread
    from starlette.requests import Request

    try:
        asked = json.loads(body)
        conf = asked.get("conf") or {}
        if not isinstance(conf, dict) or not await _may_start(Request(scope), dag_id):
            return None
        return await to_thread.run_sync(_refusal_at_the_door, dag_id, conf)
    except (ValueError, AttributeError):
        return None  # no JSON, or no object: Airflow says so
    except Exception:
        log.exception("a request for a run of %s goes on to Airflow unchecked", dag_id)
        return None


async def _may_start(request: Any, dag_id: str) -> bool:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.api_fastapi.core_api.security import resolve_user_from_token
    from fastapi import HTTPException

    kind, _, given = request.headers.get("authorization", "").partition(" ")
    token = given if kind.lower() == "bearer" else request.cookies.get(COOKIE_NAME_JWT_TOKEN)
    try:
        user = await resolve_user_from_token(token)
    except HTTPException:
        return False
    return bool(
        get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=dag_id), user=user
        )
    )


def _refusal_at_the_door(dag_id: str, conf: Params) -> str | None:
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.definitions.notset import is_arg_set
    from airflow.utils.session import create_session

    with create_session() as session:
        stored = SerializedDagModel.get(dag_id, session=session)
        if stored is None:
            return None
        params = stored.dag.params
        form = {
            name: (params[name] if is_arg_set(params[name]) else MISSING, params.get_param(name).schema)
            for name in params
        }
    return refusal_of(dag_id, conf, form)
