"""DAG files: read without errors, light, documented, and with the structure that the path needs."""

import ast
import asyncio
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.recipe import MAX_TRIALS
from lesion_tasks.pages.run_results import DAGS
from lesion_tasks.settings import Settings

ROOT = Path(__file__).parents[1]
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
HEAVY = ("tensorflow", "keras", "sklearn", "matplotlib", "pyarrow", "aiohttp.web")
# What runs after what, by task id; groups are expanded.
ORDER = {
    "ingest_isic": {
        "poll": {"append", "reconcile", "sweep", "check_files", "divide", "vocabulary", "announce"},
        "append": {"reconcile", "announce"},
        "reconcile": {"sweep", "announce"},
        "sweep": {"check_files", "vocabulary", "announce"},
        "check_files": {"divide", "announce"},
        "divide": {"fetch"},
        "fetch": {"announce"},
        "vocabulary": {"announce"},
        "announce": set(),
    },
    "build_splits": {
        "curate": {"choose"},
        "choose": {"each.split", "each.materialize"},
        "each.split": {"each.materialize"},
        "each.materialize": {"announce", "stay_red"},
        "announce": set(),
        "stay_red": set(),
    },
    "train_variants": {
        "choose": {"each.train"},
        "each.train": {"each.evaluate"},
        "each.evaluate": {"announce", "note_lost", "stay_red"},
        "announce": set(),
        "note_lost": set(),
        "stay_red": set(),
    },
    "promote_model": {
        "plan": {"score_again"},
        "score_again": {"compare"},
        "compare": {"ask"},
        "ask": {"gather"},
        "gather": {"decide"},
        "decide": {"announce"},
        "announce": {"close"},
        "close": set(),
    },
    "rollback_champion": {"roll_back": set()},
    "verify_bucket": {"verify": set()},
    "report_overdue": {"report": set()},
    "prune": {"remove": set()},
    "watch_champion": {
        "choose": {"watch"},
        "watch": {"announce", "choose_retraining", "stay_red"},
        "announce": set(),
        "choose_retraining": {"retrain"},
        "retrain": set(),
        "stay_red": set(),
    },
    "correct_data": {"propose": {"ask"}, "ask": {"correct"}, "correct": set()},
    "leave_out": {"choose": {"train", "report"}, "train": {"report"}, "report": set()},
    "predict_images": {"plan": {"predict", "finish"}, "predict": {"finish"}, "finish": set()},
}
EMITS = {
    "ingest_isic": "images",
    "build_splits": "splits",
    "train_variants": "evaluations",
    "leave_out": None,  # none of its models is for use
    "promote_model": "champion",
    "rollback_champion": "champion",
    "correct_data": "images",
    "verify_bucket": None,  # it makes nothing new
    "report_overdue": None,
    "prune": None,
    "watch_champion": "watches",
    "predict_images": None,
}


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Every DAG, as Airflow reads it, by id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.setenv("AIRFLOW__CORE__UNIT_TEST_MODE", "False")
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(ROOT / "dags")
        assert bag.import_errors == {}
        yield dict(bag.dags)


def each_task(dags: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for dag in dags.values():
        for task in dag.tasks:
            yield f"{dag.dag_id}.{task.task_id}", task


def test_a_dag_is_named_after_its_file(dags: dict[str, Any]) -> None:
    assert sorted(dags) == [path.stem for path in DAG_FILES] == sorted(ORDER) == sorted(DAGS)


def test_tasks_run_in_the_order_of_the_path(dags: dict[str, Any]) -> None:
    found = {name: {t.task_id: t.downstream_task_ids for t in dag.tasks} for name, dag in dags.items()}
    assert found == ORDER


def test_each_dag_announces_one_asset_from_one_task(dags: dict[str, Any]) -> None:
    found = {name: [asset.name for task in dag.tasks for asset in task.outlets] for name, dag in dags.items()}
    assert found == {name: [asset] if asset else [] for name, asset in EMITS.items()}


def test_no_mapped_task_announces(dags: dict[str, Any]) -> None:
    assert [
        name for name, task in each_task(dags) if task.outlets and task.get_closest_mapped_task_group()
    ] == []


def test_every_asset_that_starts_a_dag_is_announced_by_another(dags: dict[str, Any]) -> None:
    awaited = {
        name: {asset.name for asset in dag.timetable.asset_condition.objects}
        for name, dag in dags.items()
        if hasattr(dag.timetable, "asset_condition") and dag.timetable.asset_condition
    }
    assert awaited == {
        "build_splits": {"images"},
        "train_variants": {"splits"},
        "promote_model": {"evaluations"},
    }


def test_every_dag_has_help_a_description_tags_and_one_run_at_a_time(dags: dict[str, Any]) -> None:
    for name, dag in dags.items():
        assert "safe to clear" in dag.doc_md.replace("\n", " ").lower(), name
        assert dag.description, name
        assert "lesion" in dag.tags, name
        # A question to a person may stay open for days and must not hold up the next decision.
        assert dag.max_active_runs == {"promote_model": 16, "correct_data": 64}.get(name, 1), name
        assert not dag.catchup, name


def test_every_parameter_has_a_title_a_description_and_a_type(dags: dict[str, Any]) -> None:
    for name, dag in dags.items():
        for key, param in dag.params.items():
            schema = dag.params.get_param(key).schema
            told = dag.params.get_param(key).description or schema.get("description_md")
            assert told, f"{name}.{key}"
            assert schema.get("title"), f"{name}.{key}"
            assert schema.get("type"), f"{name}.{key}"
            assert param is None or name


def test_a_form_and_the_commands_refuse_more_search_trials_than_one_search_may_have(
    dags: dict[str, Any],
) -> None:
    from lesion_tasks.__main__ import lesion

    allowed = [dags["train_variants"].params.get_param("trials").schema["maximum"]]
    for name in ("train", "tune"):
        (option,) = [one for one in lesion.commands[name].params if one.name == "n_trials"]
        allowed.append(option.type.max)  # type: ignore[attr-defined]
    assert allowed == 3 * [MAX_TRIALS]


# What Airflow shows as it is written; `description_md` and `doc_md` it renders.
MARKDOWN = re.compile(r"`|\*\*|\]\(|^#+ |^- ", re.MULTILINE)


def test_no_text_that_is_shown_as_it_is_written_has_markdown_in_it(dags: dict[str, Any]) -> None:
    for name, dag in dags.items():
        texts = {"description": dag.description, "display name": dag.dag_display_name}
        for key in dag.params:
            param = dag.params.get_param(key)
            shown = param.schema.get("values_display", {}).values()
            texts[key] = "\n".join([param.description or "", param.schema["title"], *map(str, shown)])
            # Airflow shows the one only where there is not the other.
            assert not (param.description and param.schema.get("description_md")), (name, key)
        assert not {key: text for key, text in texts.items() if MARKDOWN.search(text)}, name


def test_an_empty_choice_is_refused_by_the_form(dags: dict[str, Any]) -> None:
    lists = [
        dag.params.get_param(key)
        for dag in dags.values()
        for key in dag.params
        if "array" in dag.params.get_param(key).schema["type"]
    ]
    assert len(lists) == 6
    for param in lists:
        with pytest.raises(ValueError, match="should be non-empty"):
            param.resolve([])


def test_every_task_has_a_limit_a_retry_policy_and_help(dags: dict[str, Any]) -> None:
    for name, task in each_task(dags):
        assert task.retry_policy is not None, name
        if name in ASKING:  # a person may take days
            assert dags[name.split(".")[0]].params["wait_hours"] == 7 * 24
            continue
        assert task.execution_timeout is not None, name
        assert task.doc_md or task.python_callable.__doc__, name


def test_every_mapped_task_shows_a_name_instead_of_a_number(dags: dict[str, Any]) -> None:
    for name, task in each_task(dags):
        if task.is_mapped or task.get_closest_mapped_task_group():
            assert task.map_index_template, name


def test_models_are_used_on_the_gpu_queue_and_nowhere_else(dags: dict[str, Any]) -> None:
    on_gpu = {name for name, task in each_task(dags) if task.queue == "gpu"}
    assert on_gpu == {
        "train_variants.each.train",
        "train_variants.each.evaluate",
        "leave_out.train",
        "promote_model.score_again",
        "predict_images.predict",
        "watch_champion.watch",
    }
    assert on_gpu == {name for name, task in each_task(dags) if task.pool == "gpu"}


def test_what_ends_a_path_in_minutes_gets_the_slot_before_a_training(dags: dict[str, Any]) -> None:
    waiting = [(name, task) for name, task in each_task(dags) if task.pool == "gpu"]
    assert {task.weight_rule for _, task in waiting} == {"absolute"}
    weight = {name: task.priority_weight for name, task in waiting}
    assert weight["train_variants.each.evaluate"] > weight["promote_model.score_again"]
    trains = {name: weight.pop(name) for name in ("train_variants.each.train", "leave_out.train")}
    assert max(trains.values()) < min(weight.values())


def test_every_task_leaves_why_it_failed(dags: dict[str, Any]) -> None:
    from lesion_airflow import keep_reason

    for name, task in each_task(dags):
        for callback in (task.on_failure_callback, task.on_retry_callback):
            assert keep_reason in (callback if isinstance(callback, list) else [callback]), name


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (UnusableInputError("seed 'x': expected a number"), {"ended_because": "seed 'x': expected a number"}),
        (ValueError("x"), {"ended_because": "ValueError: x"}),
        (KeyError(), {"ended_because": "KeyError: "}),
        (RuntimeError("x" * 9_000), {"ended_because": f"RuntimeError: {'x' * 1_986}"}),
        (None, {}),  # killed: whoever calls it then knows no reason, and may not write one
    ],
)
def test_the_reason_of_a_failure_is_our_message_or_the_kind_of_the_error(
    error: Exception | None, kept: dict[str, str]
) -> None:
    from lesion_airflow import keep_reason

    pushed: dict[str, str] = {}
    keep_reason({"ti": SimpleNamespace(xcom_push=pushed.__setitem__), "exception": error})
    assert pushed == kept


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        ([], "never"),  # by hand: as its own form says
        (["always"], "always"),
        (["never", "always", "as_set"], "always"),
        (["never", "as_set"], "as_set"),
        (["never", "never"], "never"),
        (["never", None], "as_set"),  # evaluations of somebody who said nothing
        (["no such"], "as_set"),
    ],
)
def test_whether_a_person_is_asked_is_handed_from_the_training_to_the_promotion(
    chosen: list[str | None], asked: str, dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.api.datamodels._generated import AssetReferenceAssetEventDagRun
    from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
    from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

    from lesion_airflow import EVALUATIONS

    sent = []
    announce = dags["train_variants"].get_task("announce").python_callable
    for one in chosen:
        handed = SimpleNamespace(extra={})
        if one is not None:
            announce(["smoke-1-own"], {"approval": one}, {EVALUATIONS: handed})
        asset = AssetReferenceAssetEventDagRun(name=EVALUATIONS.name, uri=EVALUATIONS.uri, extra={})
        origin = dict.fromkeys(("source_task_id", "source_dag_id", "source_run_id", "source_map_index"))
        event = {"asset": asset, "extra": handed.extra, "source_aliases": [], "timestamp": MONDAY}
        sent.append(AssetEventDagRunReferenceResult(**event, **origin))
    scope = runpy.run_path(str(ROOT / "dags" / "promote_model.py"))
    monkeypatch.setitem(
        scope["approval_of"].__globals__,
        "get_current_context",
        lambda: {"triggering_asset_events": TriggeringAssetEventsAccessor.build(sent)},
    )
    assert scope["approval_of"]({"approval": "never"}) == asked
    forms = [dags[name].params.get_param("approval").schema for name in ("train_variants", "promote_model")]
    assert forms[0]["enum"] == forms[1]["enum"]


def test_a_choice_whether_to_ask_is_about_the_trainings_of_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = runpy.run_path(str(ROOT / "dags" / "promote_model.py"))
    events: list[Any] = []
    found = scope["only_of"].__globals__
    monkeypatch.setitem(
        found, "get_current_context", lambda: {"triggering_asset_events": {scope["EVALUATIONS"]: events}}
    )
    monkeypatch.setitem(
        found, "open_workspace", lambda: SimpleNamespace(engine=SimpleNamespace(connect=nullcontext))
    )
    monkeypatch.setattr(
        "lesion_tasks.evaluation.evaluation_record.trainings_of",
        lambda _, ids: [f"training of {one}" for one in ids],
    )
    assert scope["only_of"]() is None, "by hand it is about all that wait"
    events += [SimpleNamespace(extra={"approval": "never", "evaluations": ["a"]})]
    assert scope["only_of"]() == ["training of a"]
    events += [SimpleNamespace(extra={"approval": "always", "evaluations": ["b", "c"]})]
    assert scope["only_of"]() == ["training of a", "training of b", "training of c"]
    events += [SimpleNamespace(extra={"approval": "as_set", "evaluations": ["d"]})]
    assert scope["only_of"]() is None


@pytest.mark.parametrize(
    ("n_runs", "states", "is_asking"),
    [
        (1, {"compare": "success", "ask_0": "awaiting_input", "gather": None}, True),
        (1, {"compare": "running"}, True),
        (1, {"compare": "success", "ask_0": "failed", "ask_1": "awaiting_input"}, False),
        (0, {"compare": "success", "ask_0": "awaiting_input"}, False),
    ],
)
def test_a_run_asks_as_long_as_its_questions_can_be_answered(
    n_runs: int, states: dict[str, str | None], is_asking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unittest.mock import create_autospec

    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    ti = SimpleNamespace(  # which refuse other arguments than Airflow takes
        get_dr_count=create_autospec(RuntimeTaskInstance.get_dr_count, return_value=n_runs),
        get_task_states=create_autospec(RuntimeTaskInstance.get_task_states, return_value={"r": states}),
    )
    asked = runpy.run_path(str(ROOT / "dags" / "promote_model.py"))["is_asking"]
    monkeypatch.setitem(asked.__globals__, "get_current_context", lambda: {"ti": ti})
    assert asked("r") == is_asking


def test_what_a_run_asks_ends_with_it_and_keeps_no_run_green(dags: dict[str, Any]) -> None:
    # Of a teardown Airflow asks nothing when it says how a run ended, and it runs too if a run is marked as failed.
    assert dags["promote_model"].get_task("close").is_teardown


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [({"seed": 2, "learning.ema_momentum": 0}, None), ({"sed": 2}, "sed"), ({"title": "x"}, "title")],
)
def test_a_misspelt_field_of_a_variant_is_refused_by_the_form(
    changes: dict[str, Any], wrong: str | None, dags: dict[str, Any]
) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = dags["train_variants"].params.get_param("changes")
    if wrong is None:
        assert param.resolve(changes) == changes
        return
    with pytest.raises(ParamValidationError) as told:
        param.resolve(changes)
    said = str(told.value).splitlines()[0]
    assert repr(wrong) in said
    assert "dense_units" not in said, "it does not list every field"


def test_forms_say_when_nobody_is_asked(dags: dict[str, Any]) -> None:
    from lesion_tasks.catalog.approvals import ASKS_NOBODY

    for name in ("train_variants", "promote_model"):
        assert ASKS_NOBODY in dags[name].params.get_param("approval").description


def test_the_form_of_a_promotion_says_which_refusals_can_be_overridden(dags: dict[str, Any]) -> None:
    from lesion_tasks.catalog.approvals import NEVER_OVERRIDABLE, OVERRIDABLE

    told = dags["promote_model"].params.get_param("is_forced").schema["description_md"]
    assert all(f"- {words}\n" in told for words in (*OVERRIDABLE, *NEVER_OVERRIDABLE))


def test_pools_are_those_that_are_created(dags: dict[str, Any]) -> None:
    from lesion_tasks.laptop.airflow import POOLS

    assert {task.pool for _, task in each_task(dags)} - {"default_pool"} == set(POOLS)


def test_unusable_input_is_not_retried_and_a_lost_connection_is(dags: dict[str, Any]) -> None:
    policy = dags["train_variants"].get_task("choose").retry_policy
    decisions = {
        type(error).__name__: policy.evaluate(error, 1, 2).action.value
        for error in (UnusableInputError("x"), ConnectionError("x"), OSError("x"))
    }
    assert decisions == {
        "UnusableInputError": "fail",
        "ConnectionError": "default",
        "OSError": "default",
    }


def test_each_pass_of_ingestion_has_a_schedule_and_is_a_choice_of_the_form(dags: dict[str, Any]) -> None:
    from lesion_tasks.catalog.ingest_passes import INGEST_PASSES

    schedules = runpy.run_path(str(ROOT / "dags" / "ingest_isic.py"))["CRONS"]
    dag = dags["ingest_isic"]
    assert dag.params.get_param("passes").schema["items"]["enum"] == list(schedules)
    assert set(schedules) == set(INGEST_PASSES) <= {task.task_id for task in dag.tasks} | {"fetch"}
    assert {timetable.expression for timetable in dag.timetable.timetables} == set(schedules.values())
    assert re.findall(r"^- \*\*(\w+)\*\*", dag.doc_md, re.MULTILINE) == list(INGEST_PASSES)


SUNDAY = datetime(2026, 11, 22, 1, 30, tzinfo=UTC)
MONDAY = SUNDAY + timedelta(days=1)


@pytest.mark.parametrize(
    ("done", "moment", "names"),
    [
        ({}, MONDAY, ["daily", "weekly"]),
        ({"daily": SUNDAY + timedelta(seconds=3), "weekly": SUNDAY}, MONDAY, ["daily"]),
        ({"daily": SUNDAY, "weekly": SUNDAY}, SUNDAY + timedelta(hours=9), []),
        ({"daily": MONDAY, "weekly": SUNDAY - timedelta(days=7)}, MONDAY, ["weekly"]),  # missed on Sunday
        (
            {"daily": SUNDAY - timedelta(hours=1), "weekly": SUNDAY - timedelta(hours=1)},
            SUNDAY,
            ["daily", "weekly"],
        ),
    ],
)
def test_a_pass_is_due_when_its_time_came_after_it_was_last_done(
    done: dict[str, datetime], moment: datetime, names: list[str]
) -> None:
    from lesion_airflow import due

    assert due({"daily": "30 1 * * *", "weekly": "30 1 * * 0"}, done, moment) == names


def test_the_pool_keeps_downloads_at_what_the_archives_own_client_opens() -> None:
    from lesion_tasks.archive.client import N_CONNECTIONS
    from lesion_tasks.catalog.pools import ARCHIVE_POOL, CONNECTIONS_PER_TASK, POOLS

    assert POOLS[ARCHIVE_POOL][0] * CONNECTIONS_PER_TASK == N_CONNECTIONS


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_parsing_a_dag_loads_nothing_heavy(path: Path, tmp_path: Path) -> None:
    # Airflow itself loads pandas and numpy where they are installed, so what it loads is not counted.
    code = (
        "import sys, airflow.sdk, airflow.providers.standard.operators.hitl; before = set(sys.modules); "
        f"import runpy; runpy.run_path({str(path)!r}); new = set(sys.modules) - before; "
        f"print(sorted(new & {{*{HEAVY!r}, 'pandas', 'numpy', 'PIL', 'boto3'}}), "
        "sorted({name.split('.')[1] for name in new if name.startswith('lesion_tasks.')}))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    loaded = result.stdout.splitlines()[-1]
    # Of our own, only words: the catalogue and the names of backbones it is made of.
    assert loaded in ("[] []", "[] ['catalog']")


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_dag_file_imports_only_airflow_and_words_at_its_top(path: Path) -> None:
    allowed = (
        "airflow.sdk",
        "airflow.providers.standard",
        "lesion_airflow",
        "lesion_notices",
        "lesion_tasks.catalog",
        "dataclasses",
        "datetime",
        "typing",
    )
    tops = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    modules = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in tops]
    assert [name for name in modules if name and not name.startswith(allowed)] == []


TYPED = "{{ 1 + 1 }}"
ASKING = ("promote_model.ask", "correct_data.ask")


def test_what_a_task_is_handed_is_never_rendered_as_a_template(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reason or a name that a person typed could read connections and variables in it."""
    from airflow.sdk.definitions.xcom_arg import XComArg

    given = {"fold": {"words": TYPED}, "name": TYPED, "sizes": [TYPED], "params": TYPED}
    asked = {"subject": TYPED, "body": TYPED, "assigned_users": []}
    request = (
        "request_id",
        "decision",
        "isic_id",
        "other_isic_id",
        "task",
        "correction_id",
        "reason",
        "asked_by",
    )
    questions = {
        "promote_model.ask": asked
        | {
            "task_name": TYPED,
            "asked_about": TYPED,
            "asked_against": TYPED,
        },
        "correct_data.ask": asked | {"request": dict.fromkeys(request, TYPED)},
    }
    n_rendered = 0
    for name, task in each_task(dags):
        returned = [questions.get(name, given)]
        for kind in (XComArg, *XComArg.__subclasses__()):
            if "resolve" in vars(kind):
                monkeypatch.setattr(kind, "resolve", lambda *_, returned=returned: returned)
        context = {
            "ti": SimpleNamespace(map_index=0),
            "dag": dags[name.split(".")[0]],
            "dag_run": SimpleNamespace(
                conf={"variant": "metadata_logistic"} if name.startswith("leave_out.") else {}
            ),
            "run_id": "r",
        }
        monkeypatch.setattr(
            "airflow.sdk.definitions._internal.expandinput.DictOfListsExpandInput._get_map_lengths",
            lambda self, *_: dict.fromkeys(self.value, 1),
        )
        ready = task.prepare_for_execution()
        ready.render_template_fields(context)
        handed = context.get("task", ready)
        shown = repr([getattr(handed, field) for field in handed.template_fields])
        assert "'2'" not in shown, f"{name}: {shown}"
        n_rendered += TYPED in shown
    assert n_rendered >= 8


def test_a_question_shows_its_own_form_and_not_that_of_its_dag(dags: dict[str, Any]) -> None:
    """A mapped task is handed its DAG's form when it is made; the question failed on it before anybody saw it."""
    from lesion_airflow import AskAboutCandidate

    asked = AskAboutCandidate(
        task_id="ask",
        task_name="malignancy",
        asked_about="smoke-1",
        asked_against=None,
        subject="May it?",
        params=dags["promote_model"].params,
    )
    assert list(asked.params) == ["reason"]
    # Airflow puts what a run was given in the place of what a task declares under the same name.
    assert not {*asked.params} & {*dags["promote_model"].params}
    assert asked.options == ["Approve", "Reject"]
    useless = AskAboutCandidate(
        task_id="useless", task_name="malignancy", asked_about="x", can_promote=False, subject="May it?"
    )
    assert useless.options == ["Reject", "Approve"], "an approval would promote nothing"


@pytest.mark.parametrize("is_retried", [True, False])
def test_an_answer_that_came_while_the_task_was_awake_is_not_asked_for_again(
    is_retried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lesion_airflow

    noted: list[dict[str, Any]] = []
    kept = {"chosen_options": ["Reject"], "person": "Ada", "reason": "too few", "max_tries": 2}
    pulled: list[Any] = []

    def pull(**asked: Any) -> Any:
        pulled.append(asked)
        return kept

    asking = lesion_airflow.AskAboutCandidate(
        task_id="ask", task_name="malignancy", asked_about="smoke-1", asked_against=None, subject="May it?"
    )
    monkeypatch.setattr(asking, "note", lambda answer, **more: noted.append({"answer": answer, **more}))
    monkeypatch.setattr(asking, "is_superseded", lambda: True)
    monkeypatch.setattr(asking, "looks_superseded", lambda: True)
    ti = SimpleNamespace(dag_id="promote_model", map_index=1, max_tries=2, xcom_pull=pull)
    context = {"ti": ti, "dag_run": SimpleNamespace(start_date=None), "params": {"wait_hours": 1}}

    def end() -> dict[str, Any]:
        if is_retried:
            return asking.execute(context)
        return asking.execute_complete(context, {"error": "x", "error_type": "timeout"})

    said = end()
    assert (said["answer"], said["person"], said["reason"]) == ("rejected", "Ada", "too few")
    assert noted == [{"answer": "rejected", "person": "Ada", "reason": "too few"}]
    assert pulled == [{"task_ids": "compare", "key": "answer 1", "map_indexes": -1}]
    ti.max_tries = 5  # cleared: it asks anew
    assert end()["answer"] == "expired"


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"variant": ["smoke"]}, "did you mean variants?"),
        ({"xyz": 1}, "expected some of variants, again"),
        ({}, None),
    ],
)
def test_an_argument_that_a_form_does_not_have_is_refused(
    conf: dict[str, Any], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    import lesion_airflow

    pushed: dict[str, Any] = {}
    context = {
        "dag": SimpleNamespace(dag_id="train_variants", params={"variants": None, "again": False}),
        "dag_run": SimpleNamespace(conf=conf),
        "ti": SimpleNamespace(xcom_push=pushed.__setitem__),
    }
    monkeypatch.setattr(lesion_airflow, "get_current_context", lambda: context)
    if words is None:
        lesion_airflow.refuse_unusable()
        return
    with pytest.raises(AirflowFailException, match=re.escape(words)) as refused:
        lesion_airflow.refuse_unusable()
    assert "Trigger it again" in str(refused.value)
    assert "clearing this run does not help" in str(refused.value)
    assert pushed == {lesion_airflow.REFUSED: True}


@pytest.mark.parametrize(
    ("dag_id", "conf", "words"),
    [
        ("promote_model", {"is_forced": True}, "a promotion despite the gates: the reason is empty"),
        ("promote_model", {"override_reason": "needed"}, "only with"),
        (
            "promote_model",
            {"is_force": True},
            "'is_force': there is none of this name; did you mean is_forced?",
        ),
        ("train_variants", {"smoke_run": True}, "it is called 'rehearsal' by now"),
        ("promote_model", {"tasks": ["malignancies"]}, "'malignancies'; did you mean malignancy?"),
        ("promote_model", {"tasks": []}, "tasks: is empty, expected at least 1"),
        ("promote_model", {"is_forced": True, "override_reason": "needed", "training": "x"}, "'x'"),
        ("train_variants", {"changes": {"sede": 2}}, "changes: there is no field 'sede'; did you mean seed?"),
        ("train_variants", {"variants": ["smoke"], "trials": 2}, "without a search space"),
        ("train_variants", {"variants": ["metadata_logistic"], "max_epochs": 3}, "is solved in one step"),
        ("train_variants", {"variants": "smoke"}, 'variants: is "smoke", expected a list or nothing'),
        ("train_variants", {"cohorts": ["x"]}, "unknown cohort 'x'"),
        ("promote_model", {"is_forced": True, "override_reason": "needed"}, "no candidate of"),
        ("train_variants", {"variants": ["metadata_mlpp"]}, "did you mean metadata_mlp?"),
        ("leave_out", {"variant": "metadata_logistic", "n_seeds": 3}, "another seed gives the same model"),
        ("rollback_champion", {"reason": "no"}, "expected at least 3 characters"),
        ("rollback_champion", {}, "reason: is missing"),
        ("rollback_champion", {"reason": "a good long reason"}, "has no champion to roll back"),
        ("correct_data", {"reason": "wrong"}, "expected the id of an image"),
    ],
)
def test_what_a_run_would_refuse_is_refused_at_the_door_in_one_line(
    dag_id: str, conf: dict[str, Any], words: str, settings: Settings
) -> None:
    from airflow.sdk.definitions._internal.types import is_arg_set

    from lesion_requests import MISSING, refusal_of

    params = runpy.run_path(str(ROOT / "dags" / f"{dag_id}.py"))[dag_id]().params
    fields = {name: params.get_param(name) for name in params}
    form = {
        name: (one.value if is_arg_set(one.value) else MISSING, one.schema) for name, one in fields.items()
    }
    said = refusal_of(dag_id, conf, form)
    assert said is not None
    assert words in said
    assert "\n" not in said
    assert len(said) < 400


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(None, None), ([], None), (["none"], []), (["here"], ["here"])],
)
def test_an_evaluation_can_leave_every_cohort_out(names: list[str] | None, chosen: list[str] | None) -> None:
    from lesion_tasks.catalog.lookup import cohorts_chosen

    assert cohorts_chosen(names) == chosen


def test_no_cohort_and_a_cohort_are_refused_together() -> None:
    from lesion_tasks.catalog.lookup import cohorts_chosen

    with pytest.raises(UnusableInputError, match="expected it alone"):
        cohorts_chosen(["none", "here"])


@pytest.mark.parametrize(
    ("path", "may_start", "n_spaces", "refused"),
    [
        ("/api/v2/dags/promote_model/dagRuns", True, 0, True),
        ("/api/v2/dags/promote_model/dagRuns", False, 0, False),
        ("/api/v2/dags/promote_model/dagRuns", True, 200_000, False),  # more than a form has is not kept here
        ("/api/v2/dags/another/dagRuns", True, 0, False),
        ("/api/v2/dags/promote_model/dagRuns/list", True, 0, False),
    ],
)
def test_the_door_answers_whoever_may_start_a_run_and_hands_everything_else_on_as_it_came(
    path: str, may_start: bool, n_spaces: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lesion_requests

    async def allow(*_: Any) -> bool:
        return may_start

    monkeypatch.setattr(lesion_requests, "_may_start", allow)
    monkeypatch.setattr(lesion_requests, "_refusal_at_the_door", lambda dag_id, conf: f"{dag_id}: {conf}")
    parts = [b'{"logical_date": null, ' + b" " * n_spaces, b'"conf": {"is_forced": true}}']
    coming = [{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts]
    sent: list[dict[str, Any]] = []
    read: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def airflow(scope: Any, receive: Any, send: Any) -> None:
        is_more = True
        while is_more:
            message = await receive()
            read.append(message["body"])
            is_more = message["more_body"]

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    asyncio.run(lesion_requests.Door(airflow)(scope, receive, send))
    if refused:
        assert not read
        assert sent[0]["status"] == 400
        assert json.loads(sent[1]["body"]) == {"detail": "promote_model: {'is_forced': True}"}
    else:
        assert read == parts
        assert not sent


OWN = """
[variant.mine]
title = "Mine"
split = "mine"
architecture = "cnn"
[split.mine]
task = "mine"
[task.mine]
title = "My question"
classes = ["benign", "melanoma"]
positive = "melanoma"
rules = [{label = "benign", path = ["Benign"]}, {label = "melanoma", path = ["Malignant"]}]
[schedule.train_variants]
cron = "0 5 * * 3"
[cohort.clinic]
title = "A clinic"
tasks = ["malignancy"]
attribution = ["A clinic"]
"""


def test_forms_list_entries_of_ones_own_and_a_broken_folder_is_told_by_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lesion_airflow import RETRY_POLICY, open_workspace, task_param, tasks_param
    from lesion_tasks.catalog import own_entries

    def offered() -> list[bool]:
        own_entries.refresh()
        names = ("train_variants", "build_splits")
        read = {name: runpy.run_path(str(ROOT / "dags" / f"{name}.py")) for name in names}
        assert read["train_variants"]["BY_TIME"].expression == (
            "0 5 * * 3" if "mine" in read["train_variants"]["NAMES"] else "0 3 * * 0"
        )
        tasks = task_param("").schema["enum"], tasks_param("").schema["items"]["enum"]
        return [*("mine" in read[name]["NAMES"] for name in names), *("mine" in some for some in tasks)]

    (tmp_path / "own.toml").write_text(OWN)
    monkeypatch.setenv("LESION_CATALOG", str(tmp_path))
    assert offered() == [True] * 4
    form = runpy.run_path(str(ROOT / "dags" / "train_variants.py"))["train_variants"]().params
    assert form.get_param("cohorts").schema["items"]["enum"] == ["clinic", "none"]
    (tmp_path / "own.toml").write_text(OWN.replace("title", "titel", 1))
    assert offered() == [False] * 4
    with pytest.raises(UnusableInputError, match="unknown field 'titel'; did you mean title") as told:
        open_workspace()
    assert RETRY_POLICY.evaluate(told.value, 1, 2).action.value == "fail"
    monkeypatch.undo()
    own_entries.refresh()


def test_dags_show_in_the_order_of_the_path(dags: dict[str, Any]) -> None:
    shown = sorted(dags.values(), key=lambda dag: dag.dag_display_name)
    assert [dag.dag_id for dag in shown] == list(ORDER)
    assert all(len(dag.tags) == 2 and dag.description for dag in shown)
