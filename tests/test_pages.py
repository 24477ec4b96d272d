"""The pages of the plugin: what each shows of a real catalogue, and that nothing is served unguarded or unsafe."""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from catalogue import add_records, filled_once, labelled_records, rows_of
from fastapi import HTTPException
from markupsafe import escape
from sqlalchemy import Engine, event
from test_promotion import candidate, execute, first_candidate, promote

import lesion_tasks
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import SPLITS, TASKS
from lesion_tasks.catalog.approvals import ASKS_NOBODY, NEVER_OVERRIDABLE, OVERRIDABLE
from lesion_tasks.catalog.gates import SLICE_GUARD
from lesion_tasks.catalog.printed_numbers import NO_VALUE
from lesion_tasks.catalog.synthetic_pictures import MARK, WARNING
from lesion_tasks.curation import correction_requests
from lesion_tasks.curation.apply_correction import correct
from lesion_tasks.curation.correction_requests import read_request, settle
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.evaluation import candidacy
from lesion_tasks.evaluation.candidacy import never_promotable
from lesion_tasks.evaluation.publish import leaderboard_lines
from lesion_tasks.ingest.runs import begin_ingestion
from lesion_tasks.metrics.names import BINARY_FIGURES
from lesion_tasks.pages.activity import Run, TaskOfRun
from lesion_tasks.pages.application import build_application
from lesion_tasks.pages.run_results import DAGS, find_result
from lesion_tasks.pages.training_page import TaskTry, advice_on
from lesion_tasks.promotion.promote import rollback_champion
from lesion_tasks.promotion.questions import Asker, Question, write_questions
from lesion_tasks.reports.words import OUTCOMES
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace

TASK = "malignancy"
PACKAGE = Path(lesion_tasks.__file__).parent
PAGES = (
    "/",
    "/leaderboard/malignancy",
    "/champion/malignancy",
    "/data",
    "/pruned",
    "/result?dag=other&run=x",
)
NOW = datetime(2026, 3, 1, 14, 5, tzinfo=UTC)
SCRIPT = "<script>alert(1)</script>"


class KnownRuns:
    """The runs that Airflow knows, in a test."""

    def __init__(self, *runs: Run) -> None:
        self.runs = runs

    def at_work(self, n: int, dag_id: str | None = None) -> list[Run]:
        return [run for run in self.runs if run.is_at_work and dag_id in (None, run.dag_id)][:n]

    def failed(self, n: int) -> tuple[list[Run], int]:
        found = [run for run in self.runs if run.state == "failed"]
        return found[:n], len(found)

    def find(self, dag_id: str, run_id: str) -> Run | None:
        return next((run for run in self.runs if (run.dag_id, run.run_id) == (dag_id, run_id)), None)

    def followed_by(self, dag_id: str, run_id: str) -> list[Run]:
        return [run for run in self.runs if run.run_id == f"because of {dag_id} {run_id}"]


class Client:
    """Asks an application without a network, as the API server hands requests on to it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._get(path))

    async def _get(self, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow.example") as sender:
            return await sender.get(path)


def client(
    *,
    may_read: bool = True,
    startable: tuple[str, ...] = (),
    returned: object = None,
    task_try: TaskTry | None = None,
    runs: Sequence[Run] = (),
) -> Client:
    def read() -> None:
        if not may_read:
            raise HTTPException(401)

    app = build_application(
        open_workspace=open_workspace,
        may_read=read,
        may_start=lambda: startable,
        returned_by=lambda dag, run, task, place: [returned] if place is None else returned,
        try_of=lambda *_: task_try,
        runs=KnownRuns(*runs),
    )
    return Client(app)


@pytest.fixture
def pages() -> Client:
    return client()


@pytest.fixture
def trained(settings: Settings) -> tuple[str, str]:
    """Two trainings of one variant; the first is champion."""

    def fill() -> tuple[str, str]:
        first = first_candidate(settings)
        promote(is_forced=True, decided_by=SCRIPT)
        return first, candidate()

    trainings: tuple[str, str] = filled_once(settings, "two trainings", fill)
    return trainings


def test_every_page_says_kindly_that_there_is_nothing_yet(settings: Settings, pages: Client) -> None:
    for path in PAGES:
        answer = pages.get(path)
        assert answer.status_code == 200, path
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert re.search(
            r'<p class="only-paper" data-made>As of \d{4}-\d\d-\d\d \d\d:\d\d UTC</p>', answer.text
        )
    assert "Nothing has been evaluated yet" in pages.get("/leaderboard/malignancy").text
    assert "Nothing has been ingested yet" in pages.get("/").text
    assert "does not belong to the skin-lesion pipeline" in pages.get("/result?dag=other&run=x").text


MESSAGE = "task malignancy: needs 5 patients on each side, found 2"
FAILED = Run(
    dag_id="build_splits",
    run_id="manual+1",
    state="failed",
    ended_at=NOW,
    tasks=[
        TaskOfRun(task_id="choose", state="success", reason=None),
        TaskOfRun(task_id="each.split", map_index=0, label="mine", state="failed", reason=MESSAGE),
        TaskOfRun(task_id="each.materialize", map_index=0, state="upstream_failed"),
        TaskOfRun(task_id="each.split", map_index=1, label="other", state="failed"),
        TaskOfRun(
            task_id="each.split", map_index=2, label="third", state="skipped", reason="no image is new"
        ),
        TaskOfRun(task_id="stay_red", state="failed", reason="at least one task before this one failed"),
    ],
)


def test_a_failed_run_is_told_on_the_first_page_with_what_failed_when_and_why(settings: Settings) -> None:
    going_on = replace(FAILED, run_id="x", state="running")
    page = client(runs=[going_on, *[FAILED] * 9]).get("/").text
    told = page[page.index("Runs that failed") : page.index("At work, stage by stage")]
    assert f"<strong>split mine</strong>: {MESSAGE}" in told
    assert "<strong>split other</strong>: It left no reason here" in told
    assert "2026-03-01 14:05 UTC, run" in told
    assert 'data-airflow="dags/build_splits/runs/manual%2B1"' in told
    assert 'data-airflow="dags/build_splits/runs/manual%2B1/tasks/each.split/mapped/0"' in told
    assert "at least one task" not in told
    assert told.count("goes on, with a task that failed") == 1 and "And 1 older ones" in told
    assert "Runs that failed" not in client().get("/").text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("", ["This run failed.", MESSAGE, "split other"]),
        ("&task=each.split&map_index=0", ["This task failed.", MESSAGE]),
        ("&task=each.split&map_index=1", ["This task failed.", "left no reason here"]),
        ("&task=each.split&map_index=2", ["This task had nothing to do: no image is new"]),
        ("&task=each.materialize&map_index=0", ["another failed before it", MESSAGE]),
        ("&task=stay_red&map_index={MAP_INDEX}", ["This task failed.", "at least one task before"]),
    ],
)
def test_the_tab_of_what_failed_says_that_it_did_and_why(
    settings: Settings, asked: str, words: list[str]
) -> None:
    page = client(runs=[FAILED]).get(f"/result?dag=build_splits&run=manual%2B1{asked}").text
    for said in words:
        assert said in page
    assert "nothing new" not in page
    assert "has not" not in page


@pytest.mark.parametrize("dag_id", [name for name in DAGS if name != "build_splits"])
def test_the_tab_of_a_failed_run_of_any_dag_says_why(settings: Settings, dag_id: str) -> None:
    run = replace(FAILED, dag_id=dag_id, tasks=[TaskOfRun(task_id="any", state="failed", reason=MESSAGE)])
    for task in ("", "&task=any"):
        page = client(runs=[run]).get(f"/result?dag={dag_id}&run=manual%2B1{task}").text
        assert MESSAGE in page
        assert " failed." in page


def test_a_tab_says_how_far_a_run_is_and_why_it_made_nothing(settings: Settings) -> None:
    at_work = [TaskOfRun(task_id="score_again", label="smoke-1", state="running")]
    skipped = [TaskOfRun(task_id="announce", state="skipped", reason="every champion stays")]
    for state, tasks, words in (
        ("running", at_work, "has not ended. At work: score again smoke-1."),
        ("queued", [], "waits to begin"),
        ("success", skipped, "made nothing new: every champion stays."),
    ):
        run = Run(dag_id="promote_model", run_id="r", state=state, tasks=tasks)
        assert words in client(runs=[run]).get("/result?dag=promote_model&run=r").text


def test_a_tab_says_what_a_run_left_undone_though_it_succeeded(settings: Settings) -> None:
    noted = [
        TaskOfRun(task_id="choose", state="success", reason="Not trained: smoke"),
        TaskOfRun(task_id="announce", state="skipped", reason="nothing was evaluated"),
    ]
    run = Run(dag_id="train_variants", run_id="r", state="success", tasks=noted)
    for task in ("", "&task=choose"):
        assert "Not trained: smoke." in client(runs=[run]).get(f"/result?dag=train_variants&run=r{task}").text


@pytest.mark.parametrize("address", ["left-out/nosuch", "left-out/9", "members/nosuch"])
def test_a_list_that_there_is_not_is_a_page_that_says_so(settings: Settings, address: str) -> None:
    answer = client().get(f"/{address}")
    assert answer.status_code == 404
    assert address.partition("/")[2] in answer.text and "<main" in answer.text


def test_a_task_that_a_run_does_not_have_and_pictures_that_there_are_not_are_not_shown(
    settings: Settings,
) -> None:
    run = Run(dag_id="promote_model", run_id="r", state="success", tasks=[TaskOfRun(task_id="plan")])
    answer = client(runs=[run]).get("/result?dag=promote_model&run=r&task=nosuch")
    assert answer.status_code == 404 and "no task nosuch in this run" in answer.text
    assert "Side by side" not in client().get("/suspects/malignancy?image=ISIC_1&image=ISIC_2").text


def test_what_bars_a_training_for_good_is_named() -> None:
    changed = {"is_promotable": False, "adjusted": ["is_promotable", "seed"], "seed": 2}
    assert "Changed for this training alone: seed = 2." in (never_promotable(changed, None) or "")


def test_the_first_page_says_what_is_at_work_stage_by_stage(settings: Settings) -> None:
    scoring = TaskOfRun(task_id="score_again", label="smoke-1", state="running", pool="gpu", began_at=NOW)
    waiting = TaskOfRun(task_id="each.evaluate", map_index=0, label="smoke-2", state="scheduled", pool="gpu")
    trains = [
        TaskOfRun(task_id="each.train", map_index=place, label=f"v{place}", state="scheduled", pool="gpu")
        for place in range(5)
    ]
    page = client(
        runs=[
            Run(dag_id="promote_model", run_id="p", state="running", tasks=[scoring]),
            Run(dag_id="train_variants", run_id="t", state="running", tasks=[waiting, *trains]),
            Run(dag_id="build_splits", run_id="s", state="queued"),
            Run(dag_id="watch_champion", run_id="w", state="running"),
        ]
    ).get("/").text  # fmt: skip
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th><td class="words whole">(.*?)</td></tr>', page, re.S)
    told = {stage: re.sub(r"<[^>]+>", "", words) for stage, words in rows}
    assert list(told) == ["Ingest", "Splits", "Train and evaluate", "Promote", "Watch champion"]
    assert told["Ingest"] == "nothing"
    assert told["Splits"] == "waits a run that waits for the one before it"
    assert "waits evaluate smoke-2, for the slot that score again smoke-1 holds" in told["Train and evaluate"]
    assert "waits train v0, v1, v2 and 2 more" in told["Train and evaluate"]
    assert told["Promote"] == "runs score again smoke-1 since 2026-03-01 14:05 UTC"
    assert told["Watch champion"] == "runs between two tasks"
    assert re.search(r'<dt>At work</dt><dd class="value">2</dd><dd class="range"><a href="#stages">', page)
    assert page.count(scoring.words) == 3, (
        "once with the link to it, and as what holds the slot of two others"
    )
    assert "nothing runs" in client().get("/").text


def asking(question: dict[str, Any], *, run_id: str = "manual__2026-03-01", **more: Any) -> Run:
    """A run whose first question is open, as Airflow has it."""
    task = TaskOfRun(task_id="ask", map_index=0, label=TASK, state="awaiting_input", **more)
    return Run(dag_id="promote_model", run_id=run_id, state="running", tasks=[task], questions=[question])


def test_the_first_page_says_of_a_question_who_answered_it_or_what_overtook_it(
    trained: tuple[str, str],
    settings: Settings,
) -> None:
    first, second = trained

    def told(against: str | None, **more: Any) -> str:
        run = asking(asked(second) | {"asked_against": against}, **more)
        page = client(runs=[run]).get("/").text
        row = page[page.index('<th scope="row">Promote') :]
        return re.sub(r"<[^>]+>", "", row[: row.index("</tr>")])

    assert "waits for a person ask malignancy" in told(first)
    page = client(runs=[asking(asked(second) | {"asked_against": first})]).get("/").text
    assert '<dt>Waits for a person</dt><dd class="value"><a href="#waiting">1</a>' in page
    # The question itself stands in the page as it comes, with what its training is called.
    (card,) = re.findall(r'<form class="question".*?</form>', page, re.S)
    ((title,),) = rows_of(settings, f"SELECT recipe ->> 'title' FROM training WHERE training_id = '{second}'")
    assert title in unescape(card) and 'data-place="0"' in card
    overtaken = f"ends shortly ask malignancy: overtaken: the champion is {first} by now"
    assert overtaken in told(second)
    assert f"{first} by now; it ends by itself within 2 minutes" in told(None)
    assert "ends shortly ask malignancy: answered by Ada" in told(first, answered_by="Ada")


def test_a_training_is_shown_from_the_moment_that_its_task_runs(
    trained: tuple[str, str], settings: Settings
) -> None:
    task = TaskOfRun(task_id="each.train", map_index=0, label="smoke", state="running", began_at=NOW)
    runs = [Run(dag_id="train_variants", run_id="t", state="running", tasks=[task])]
    page = client(runs=runs).get("/").text
    shown = page[page.index('id="training"') :]
    assert "<h3>smoke</h3>" in shown and "no training of it is under way" in shown
    assert "Nothing is being trained" not in page
    execute(
        settings,
        "UPDATE training SET status = 'running', variant = 'smoke' WHERE training_id = :id",
        id=trained[1],
    )
    assert "<h3>smoke</h3>" not in client(runs=runs).get("/").text


def test_the_first_page_reads_the_candidates_of_a_task_once(
    trained: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    for name in ("waiting_ids", "champion_of"):
        real = getattr(candidacy, name)
        monkeypatch.setattr(
            candidacy,
            name,
            lambda connection, task, real=real, name=name: (read.append(name), real(connection, task))[1],
        )
    assert client(runs=[asking(asked(trained[1]))]).get("/").status_code == 200
    assert {name: read.count(name) for name in read} == {"waiting_ids": len(TASKS), "champion_of": len(TASKS)}


def test_open_questions_cost_the_first_page_no_queries_each(trained: tuple[str, str]) -> None:
    _, second = trained
    workspace = open_workspace()
    noted = Asker(run_id="one", wait=timedelta(hours=1), is_asking=lambda _: True)
    (question,) = write_questions(workspace, tasks=[TASK], approval="always", asker=noted)
    assert question.asked_about == second

    def count(n: int) -> int:
        corrected = [
            Run(
                dag_id="correct_data",
                run_id=f"c{number}",
                state="running",
                tasks=[TaskOfRun(task_id="ask", map_index=0, state="awaiting_input")],
                questions=[{}],
            )
            for number in range(n)
        ]
        said: list[str] = []
        listen = lambda *given: said.append(given[2])  # noqa: E731 - removed by its name
        event.listen(Engine, "before_cursor_execute", listen)
        try:
            runs = [asking(asdict(question), run_id=f"r{number}") for number in range(n)]
            assert "waits for a person" in client(runs=[*runs, *corrected]).get("/").text
        finally:
            event.remove(Engine, "before_cursor_execute", listen)
        return len(said)

    count(1)  # what is read once and kept
    assert count(9) == count(1)


def test_the_tab_of_a_run_that_decided_nothing_says_why_and_leads_to_the_run_that_asks(
    trained: tuple[str, str],
) -> None:
    run_id = "manual__2026-03-01T10:00:00+00:00"
    said = f"run {run_id} asks about x already"
    nothing = {"task": TASK, "action": "none", "reason": said, "runs": [run_id]}
    app = client().app
    app.state.returned_by = lambda dag, run, task, place: (
        [nothing] if (task, place) == ("decide", None) else []
    )
    page = Client(app).get("/result?dag=promote_model&run=r&task={TASK_ID}").text
    assert "This run decided nothing, and says why." in page
    address = "dags/promote_model/runs/manual__2026-03-01T10%3A00%3A00%2B00%3A00"
    assert (
        f'run <a href="{address}" data-airflow="{address}">{escape(run_id)}</a> asks about x already.' in page
    )
    execute_page = client(startable=("promote_model",)).get(f"/champion/{TASK}").text
    assert str(escape(ASKS_NOBODY)) in execute_page


def test_what_a_refusal_was_for_is_told_apart_in_one_word(
    trained: tuple[str, str], settings: Settings
) -> None:
    _, second = trained
    for figures, outcome in (
        ({"objections": ["x"]}, "missed_gates"),
        ({"objections": ["x"], "refused_for": "no_better"}, "no_better"),
        ({"val": 0.5, "is_obstacle": True}, "barred"),
        ({"objections": ["x"], "is_obstacle": True}, "not_compared"),
        ({"val": 0.5, "is_obstacle": False}, "passed_over"),
    ):
        execute(settings, "DELETE FROM promotion WHERE training_id = :id", id=second)
        execute(
            settings,
            """INSERT INTO promotion (task, sequence, action, training_id, reason, figures, decided_by)
               VALUES (:task, 100, 'refused', :id, 'It did not.', CAST(:figures AS jsonb), 'rule')""",
            task=TASK, id=second, figures=json.dumps(figures),
        )  # fmt: skip
        title, css, meaning = OUTCOMES[outcome]
        chip = f'<span class="state {css}" title="{escape(meaning)}">{title}</span>'
        for path in (f"/leaderboard/{TASK}", f"/champion/{TASK}", "/"):
            assert chip in client().get(path).text, (path, outcome)
        decided = client().get("/").text
        assert "It did not." in decided[decided.index('id="decided"') : decided.index('id="training"')]


def test_a_candidate_leads_to_where_one_decides_and_which_refusals_can_be_overridden(
    trained: tuple[str, str], settings: Settings
) -> None:
    _, second = trained
    assert f'<a href="/champion/{TASK}#candidates">1 candidate</a>' in client().get("/").text
    page = client(startable=("promote_model",)).get(f"/champion/{TASK}").text
    assert 'id="candidates"' in page
    assert f"training={second}" in page[page.index('id="candidates"') : page.index('id="overrides"')]
    assert 'data-start="promote_model"' in page
    assert 'data-start="promote_model"' not in client().get(f"/champion/{TASK}").text
    for words in (*OVERRIDABLE, *NEVER_OVERRIDABLE):
        assert str(escape(words)) in page
    assert "No refusal by the gates is in force" in page
    # While a run decides, another one is not offered: the page leads to the one that does.
    for label, state, is_offered in (
        (TASK, "running", False), ("", "queued", False), ("five_classes", "running", True),
        ("five_classes", "awaiting_input", True),
    ):  # fmt: skip
        task = TaskOfRun(task_id="decide" if label else "plan", label=label, state=state)
        run = Run(dag_id="promote_model", run_id="manual__7", state="running", tasks=[task])
        page = client(startable=("promote_model",), runs=[run]).get(f"/champion/{TASK}").text
        assert ("Ask a person now" in page) == is_offered, (label, state)
        assert (f'data-airflow="{run.page}"' in page) == (not is_offered)
    promote()
    page = client().get(f"/champion/{TASK}").text
    assert "No candidate waits for a decision." in page
    empty = client().get("/champion/five_classes").text
    assert 'id="candidates"' not in empty and 'id="overrides"' not in empty, "nothing could be decided"
    assert "open to that today" in page
    assert second in page[page.index("open to that today") : page.index("Which refusals")]


def test_a_correction_is_marked_wherever_figures_rest_on_the_data_of_before(
    trained: tuple[str, str], settings: Settings
) -> None:
    first, _ = trained
    workspace = open_workspace()
    ((isic_id,),) = rows_of(settings, "SELECT min(isic_id) FROM split_member WHERE subset = 'val'")
    about = {"other_isic_id": None, "task": TASK, "reason": "a scar", "asked_by": "Grace"}
    request = read_request(
        workspace, decision="label_set_aside", isic_id=isic_id, correction=None, request_id="run 1", **about
    )
    made = Run(dag_id="correct_data", run_id="run 1", state="running")
    places = [
        f"/leaderboard/{TASK}", f"/champion/{TASK}", f"/compare?training={first}", "/data", f"/suspects/{TASK}",
        f"/read/{first}/report.html",
    ]  # fmt: skip

    def told(path: str, *runs: Run) -> str:
        return client(runs=runs).get(path).text

    mark = "data are changing"
    for path in places:
        assert mark not in told(path), path
        page = told(path, made)
        assert mark in page and f'data-airflow="{made.page}"' in page, path
        assert mark in told(path, Run(dag_id="build_splits", run_id="b", state="queued")), path
        # The mark renews itself: alone it says the same, and nothing once the run has ended.
        (alone,) = re.findall(r'data-mark="([^"]+)"', page)
        assert mark in told(unescape(alone), made) and mark not in told(unescape(alone)), path
    ended = settle(workspace, request, None)
    # Until a split is built with it, the figures say that they are older.
    for path in (*places[:2], "/", "/data", places[-1]):
        page = told(path)
        assert "The data have changed since" in page and mark not in page, path
        assert "were built, people made 1 correction." in page and "build_splits</a> builds them." in page, (
            path
        )
    back = read_request(
        workspace,
        decision="withdrawn",
        isic_id=None,
        correction=ended.correction_id,
        request_id="run 2",
        **about,
    )
    asked = [asdict(one) for one in correction_requests.write_questions(workspace, back, approval="always")]
    waits = TaskOfRun(task_id="ask", map_index=0, state="awaiting_input")
    asks = Run(dag_id="correct_data", run_id="run 2", state="running", tasks=[waits], questions=asked)
    for path in places:
        page = told(path, asks)
        assert f"A person is asked: May correction {ended.correction_id} (label set aside)" in page
        assert mark not in page and "Nothing changes until somebody answers." in page, path
    assert "A change of the data is proposed" in told("/reports", asks)
    build_split(workspace, "malignancy_natural")
    page = told(places[1])
    assert (
        "Splits with that were built" in page and "trigger" in page and "until splits are built" not in page
    )
    # Its tab says which run follows: the DAG until there is one.
    done = replace(made, state="success")
    tab = "/result?dag=correct_data&run=run%201"
    assert 'data-airflow="dags/build_splits"' in told(tab, done)
    # A task of it says the same as the run does, at every moment.
    propose = TaskOfRun(task_id="propose", state="success")
    of_task = "/result?dag=correct_data&run=run%202&task=propose"
    assert "It waits for a person" in told(of_task, replace(asks, tasks=[propose, waits]))
    follows = Run(dag_id="build_splits", run_id="because of correct_data run 1", state="running")
    done_task = replace(done, tasks=[propose])
    assert follows.page in told(f"{tab}&task=propose", done_task, follows)
    assert f'Splits: run <a href="{follows.page}"' in told(tab, done, follows)


def test_whoever_may_not_read_gets_nothing_at_all(settings: Settings) -> None:
    shut = client(may_read=False)
    paths = {route.path.replace(":path", "") for route in shut.app.routes}
    values = {
        "task": TASK,
        "training_id": "x",
        "name": "pages.js",
        "isic_id": "ISIC_0000001",
        "path": "index.html",
        "theme": "dark",
        "place": "0",
        "split": "malignancy_natural",
    }
    asked = [path.format(**values) for path in paths]
    for path in asked:
        assert shut.get(path).status_code == 401, path
    assert len(paths) >= 12
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert shut.get(path).status_code == 404


def test_pages_change_nothing_but_by_airflow(pages: Client) -> None:
    methods = {method for route in pages.app.routes for method in route.methods or ()}
    assert methods == {"GET"}


def test_the_leaderboard_is_filtered_and_says_of_how_many(trained: tuple[str, str], pages: Client) -> None:
    first, second = trained
    whole = pages.get(f"/leaderboard/{TASK}").text
    assert pages.get(f"/reports/{first}/report.html").status_code == 200
    assert whole.index(first) > 0
    assert second in whole
    assert "★ champion" in whole
    assert "1 to 2 of 2" in whole
    # Every column of figures says what they were measured on, on a phone as well.
    heads = re.findall(r'<th scope="col">([^<]+)(?:<span class="size">([^<]+)</span>)?</th>', whole)
    said = [(name, on) for name, on in heads if name not in ("Rank", "Training", "Evaluated")]
    assert [on for _, on in said] == ["natural test", "natural test", "balanced test", "val"]
    labels = re.findall(r'<td[^>]* data-label="([^"]+)"', whole)
    assert {f"{name}, {on}" for name, on in said} == {*labels} - {"Evaluated"}
    some = pages.get(f"/leaderboard/{TASK}?words={second.upper()}").text
    assert second in some
    assert "1 to 1 of 1" in some
    assert "No training matches" in pages.get(f"/leaderboard/{TASK}?words=no such").text
    missing = pages.get("/leaderboard/no_such")
    assert missing.status_code == 404 and "entries of your own" not in missing.text
    assert "was evaluated on data <code>zzz</code>" in pages.get(f"/leaderboard/{TASK}?manifest=zzz").text


def test_trainings_stand_side_by_side_with_the_images_that_one_alone_calls_right(
    trained: tuple[str, str], settings: Settings, pages: Client
) -> None:
    first, second = trained
    same = pages.get(f"/compare?training={first}&training={second}").text
    assert "The recipes are the same" in same
    assert "Both are right and wrong on the same images" in same
    assert re.search(
        r"The first two share [1-9]\d* test images: all splits of a task share its test set", same
    )
    # Another threshold: the second calls everybody malignant.
    execute(settings, "UPDATE training SET threshold = 0 WHERE training_id = :id", id=second)
    (n_benign,) = rows_of(
        settings, "SELECT count(*) FROM split_member WHERE subset = 'test' AND label = 'benign' "
        "AND split = 'malignancy_natural'",
    )[0]  # fmt: skip
    apart = pages.get(f"/compare?training={first}&training={second}").text
    assert n_benign > 0
    assert "metadata_logistic: called benign" in apart
    assert "metadata_logistic: called malignant" in apart
    assert 'src="/image/ISIC_' in apart
    alone = pages.get(f"/compare?training={first}").text
    assert "Every field" in alone
    assert "Epochs, at most" in alone and "max epochs" not in alone
    for moot in ("is pretrained", "bias alpha", "is augmented"):  # of a model without backbone or pictures
        assert moot not in alone, moot
    assert pages.get("/compare?training=no_such").status_code == 404
    assert pages.get("/compare").status_code == 404


def test_the_champion_page_tells_its_history_and_offers_only_what_a_person_may_start(
    trained: tuple[str, str], settings: Settings
) -> None:
    first, second = trained
    promote(is_forced=True)
    rollback_champion(open_workspace(), reason="worse in clinic")
    page = client(startable=("rollback_champion",)).get(f"/champion/{TASK}").text
    assert "worse in clinic" in page
    assert f"<option>{second}</option>" in page
    assert f"<option>{first}</option>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert SCRIPT not in page
    assert "Your role may not start" in client().get(f"/champion/{TASK}").text


def test_a_reason_is_asked_for_in_our_words_and_is_as_long_as_the_form_wants(
    trained: tuple[str, str], settings: Settings
) -> None:
    promote(is_forced=True)
    isic_id = rows_of(settings, "SELECT min(isic_id) FROM image")[0][0]
    number = correct(
        open_workspace(), "label_kept", isic_id, task=TASK, reason="it is right", decided_by="Ada"
    )
    some = client(startable=("rollback_champion", "correct_data"))
    champion, suspects = (
        some.get(f"/{name}").text for name in (f"champion/{TASK}", f"suspects/{TASK}?kind=decided")
    )
    for page, dag_id, least in ((champion, "rollback_champion", 3), (suspects, "correct_data", 3)):
        (form, *_) = re.findall(f'<form data-start="{dag_id}".*?</form>', page, re.S)
        assert f'data-least="{least}"' in form
        assert "required" not in form and "minlength" not in form, "the browser says it in its own words"
    assert f'value="withdrawn">Withdraw number {number}</button>' in suspects
    handed = re.findall('data-conf="([^"]+)"', suspects)[-1]
    given = {"correction": number, "isic_id": isic_id, "other_isic_id": None}
    assert json.loads(unescape(handed)) == given
    assert "Withdraw" not in client().get(f"/suspects/{TASK}?kind=decided").text


def test_everywhere_a_training_is_shown_stands_what_was_decided_about_it(
    trained: tuple[str, str], settings: Settings, pages: Client
) -> None:
    """One catalogue, which takes ten seconds to make: as its decisions fall, every page tells them."""
    first, second = trained
    report = f"/read/{second}/report.html"
    assert '<span class="state quiet">candidate</span>' in pages.get(report).text
    stored = pages.get(f"/reports/{second}/report.html").text
    assert "What the gates said when it was evaluated" in stored

    promote(
        answer="rejected",
        answer_reason="too few of children",
        decided_by="Ada",
        asked_about=second,
        asked_against=first,
    )
    for path in (report, f"{report}?is_bare=true", f"/leaderboard/{TASK}", f"/compare?training={second}"):
        page = pages.get(path).text
        assert ">rejected</span>" in page, path
        # Once in a word; who said so, when and why follow without it.
        assert re.search(r"\d{4}-\d\d-\d\d [\d:]+ UTC by Ada", page), path
        assert "too few of children" in page, path
        assert not re.search(r"[Rr]ejected (by|\d)", page), path
    # So does the tab of the run that trained it: whoever asked to be asked looks there.
    made = [
        row[0]
        for row in rows_of(settings, f"SELECT evaluation_id FROM evaluation WHERE training_id = '{second}'")
    ]
    app = client().app
    app.state.returned_by = lambda dag, run, task, place: made if place is None else None
    tab = Client(app).get("/result?dag=train_variants&run=r&task={TASK_ID}").text
    assert ">rejected</span>" in tab and "too few of children" in tab
    assert "candidate</span>" not in pages.get(f"/leaderboard/{TASK}").text
    assert {row.training_id: row.state for row in leaderboard_lines(open_workspace())} == {
        first: "champion",
        second: "rejected",
    }
    index = pages.get("/reports/index.html").text
    assert ">rejected</span>" in index

    # What is champion again was restored, and what it was promoted for stands beside it.
    execute(settings, "DELETE FROM promotion WHERE training_id = :id", id=second)
    promote(is_forced=True)
    rollback_champion(open_workspace(), reason="worse in clinic", decided_by="Grace")
    page = pages.get(f"/champion/{TASK}").text
    head = page[page.index("★ Champion") : page.index('id="watched"')]
    assert re.search(
        rf"Restored instead of {second} [\d-]+ [\d:]+ UTC by Grace: \u201cworse in clinic\u201d", head
    )
    assert head.index("First champion of the task") < head.index("worse in clinic")
    assert "rolled back" not in page
    tab = Client(app).get("/result?dag=train_variants&run=r&task={TASK_ID}").text
    assert re.search(
        r">promoted</span>.* by the rule, [\d-]+ [\d:]+ UTC.* Now: <span[^>]*>earlier champion<", tab
    ), tab
    board = pages.get(f"/leaderboard/{TASK}").text
    assert ">earlier champion</span>" in board
    assert f"until {first} was restored" in board

    # What can never be promoted comes last and has no rank, however good its figure is.
    execute(
        settings,
        "UPDATE training SET recipe = recipe || '{\"is_promotable\": false}' WHERE training_id = :id",
        id=second,
    )
    better = "jsonb_set(document, '{subsets,test_natural,figures,auc,value}', '0.999')"
    execute(settings, f"UPDATE evaluation SET document = {better} WHERE training_id = '{second}'")
    board = pages.get(f"/leaderboard/{TASK}").text
    assert "barred for good</span>" in board and "barred for good" in board
    ranks = re.findall(r'<td class="rank">(.*?)</td>', board)
    assert ranks == ["1", NO_VALUE]
    assert board.index(f'value="{first}"') < board.index(f'value="{second}"')


def test_no_page_shows_a_name_that_only_code_uses(
    trained: tuple[str, str], settings: Settings, pages: Client
) -> None:
    """Names stand where a person has to type them, as code, and in addresses; people read titles."""
    question = write_questions(open_workspace(), tasks=[TASK], approval="always")
    assert question
    promote()  # the second is refused by the gates
    shown = [
        pages.get(path).text
        for path in (
            "/",
            f"/leaderboard/{TASK}",
            f"/champion/{TASK}",
            "/data",
            "/reports/index.html",
            f"/reports/{trained[1]}/report.html",
            *(f"/reports/data/{row[0]}.html" for row in rows_of(settings, "SELECT digest FROM manifest")),
        )
    ]
    shown += [one.body for one in question]
    names = {*BINARY_FIGURES, *SPLITS, *SLICE_GUARD.attributes}
    for page in shown:
        said = re.sub(r"(?s)<(style|code)\b.*?</\1>|<dl class=.numbers.*?</dl>|<[^>]*>|`[^`]*`", " ", page)
        found = {name for name in names if "_" in name and re.search(rf"\b{name}\b", said)}
        near = [said[max(0, said.find(name) - 150) : said.find(name) + 100] for name in found]
        assert not found, (found, near)


def test_what_was_left_out_is_listed_one_by_one(settings: Settings, pages: Client) -> None:
    some = labelled_records(60)
    add_records(settings, some, picture_by_id={one["isic_id"]: b"" for one in some[:55]})
    curate_images(open_workspace())
    first_page = pages.get("/").text
    assert 'href="/data#left">55 records: why not</a>' in first_page
    (link,) = re.findall(r'href="(/left-out/2\?reason=[^"]+)"', pages.get("/data").text)[:1]
    page = pages.get(link).text
    assert page.count("<code>ISIC_") == 50
    assert "1 to 50 of 55" in page
    assert pages.get(f"{link}&number=2").text.count("<code>ISIC_") == 5
    assert "Nothing was left out" in pages.get("/left-out/0?reason=none").text
    assert pages.get("/left-out/9?reason=x").status_code == 404
    assert "51 to 55 of 55" in pages.get(f"{link}&number=9").text, "beyond the last page is the last one"


def test_a_report_with_a_script_is_served_so_that_none_runs(settings: Settings, pages: Client) -> None:
    open_bucket(settings).put("reports/planted/report.html", SCRIPT.encode(), content_type="text/html")
    answer = pages.get("/reports/planted/report.html")
    policy = answer.headers["content-security-policy"]
    assert SCRIPT in answer.text
    open_bucket(settings).put("reports/planted/other.html", b"<head></head>", content_type="text/html")
    dated = pages.get("/reports/planted/other.html").text
    assert re.search(r'@media print \{ body::after \{ content: "Opened \d{4}-.* UTC"; \} \}', dated)
    assert policy.startswith("sandbox")
    assert "default-src 'none'" in policy
    assert "allow-scripts" not in policy
    assert "allow-downloads" in policy  # the links of a report to its files
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "../champion.json",
        "%2e%2e/champion.json",
        "x/../../champion.json",
        "a.keras",
        "no/such.html",
        "a b.html",
    ],
)
def test_only_files_of_reports_are_served(settings: Settings, pages: Client, path: str) -> None:
    open_bucket(settings).put("champion.json", b"{}", content_type="application/json")
    assert pages.get(f"/reports/{path}").status_code == 404


def test_an_image_is_shown_only_as_it_was_stored(
    trained: tuple[str, str], settings: Settings, pages: Client
) -> None:
    isic_id, key = rows_of(
        settings, "SELECT isic_id, object_key FROM image JOIN stored_file USING (isic_id, rendition) LIMIT 1"
    )[0]
    answer = pages.get(f"/image/{isic_id}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    open_bucket(settings).put(key, b"something else", content_type="image/jpeg")
    assert pages.get(f"/image/{isic_id}").status_code != 200
    assert pages.get("/image/ISIC_9999999").status_code == 404


def test_the_data_page_counts_what_was_left_out_and_what_changed(
    trained: tuple[str, str], pages: Client
) -> None:
    page = pages.get("/data?since=2020-01-01").text
    assert "Benign or malignant, classes as they occur" in page
    assert "From records to members" in page
    assert ">new<" in page
    assert 'type="date" name="since" value="2020-01-01"' in page
    began = "2026-03-01T10:00:00+00:00"
    ingestion = begin_ingestion(open_workspace(), "scheduled__" + began)
    chosen = pages.get(f"/data?since={quote(ingestion)}").text
    assert f'<option value="{escape(ingestion)}" selected>' in chosen, (
        "one is chosen from a list, and not typed"
    )
    wrong = pages.get("/data?since=nonsense")
    assert "neither a time such as" in wrong.text
    assert "This is the last week." in wrong.text


def test_a_task_leads_to_the_report_of_what_it_made(trained: tuple[str, str], settings: Settings) -> None:
    _, second = trained
    evaluation, digest = rows_of(
        settings, f"SELECT evaluation_id, manifest_digest FROM evaluation WHERE training_id = '{second}'"
    )[0]
    address = "/result?dag=train_variants&run=r&task=each.evaluate&map_index=0"
    answer = client(returned=evaluation).get(address)
    assert answer.headers["location"] == f"/read/{second}/report.html?is_bare=true"
    going_on = [Run(dag_id=name, run_id="r", state="running") for name in DAGS]
    assert "has not finished yet" in client(runs=going_on).get(address).text
    split = "/result?dag=build_splits&run=r&task=each.materialize&map_index={MAP_INDEX}"
    assert (
        client(returned={"digest": digest}).get(split).headers["location"]
        == f"/read/data/{digest}.html?is_bare=true"
    )
    train = "/result?dag=train_variants&run=r&task=each.train&map_index=0"
    assert f'href="/training/{second}"' in client(returned=second).get(train).text
    assert 'href="/">Open the page' in client(runs=going_on).get(train).text
    promote(is_forced=True, request_id=f"run+1 {TASK}")
    decided = client().get("/result?dag=promote_model&run=run%2B1&task={TASK_ID}").text
    assert second in decided
    assert "promoted" in decided
    begin_ingestion(open_workspace(), "a+b")
    changes = find_result(open_workspace(), dag_id="ingest_isic", run_id="a+b", task_id=None, returned=None)
    assert changes.address == "data?since=a%2Bb"


def test_runs_reports_and_questions_lead_on(
    trained: tuple[str, str], settings: Settings, pages: Client
) -> None:
    """Three promises about one catalogue, which takes ten seconds to make."""
    a_run_leads_to_everything_that_it_made(settings)
    a_report_is_read_below_the_navigation_and_in_the_theme_of_the_ui(trained[0], pages)
    a_question_tells_its_candidate_and_whether_anything_is_left_to_decide(*trained)
    a_question_leads_to_the_reports_on_the_pages()


def a_run_leads_to_everything_that_it_made(settings: Settings) -> None:
    made = rows_of(settings, "SELECT evaluation_id, training_id, manifest_digest FROM evaluation ORDER BY 1")
    by_place = {(("each.evaluate"), place): row[0] for place, row in enumerate(made)}
    by_place["each.split", 0] = made[0][2]
    app = build_application(
        open_workspace=open_workspace,
        may_read=lambda: None,
        may_start=lambda: (),
        returned_by=lambda dag, run, task, place: [by_place.get((task, one)) for one in range(3)],
        try_of=lambda *_: None,
        runs=KnownRuns(),
    )
    evaluated = Client(app).get("/result?dag=train_variants&run=r&task={TASK_ID}").text
    for row in made:
        assert f'href="/read/{row[1]}/report.html">Evaluation of {row[1]}' in evaluated
    split = Client(app).get("/result?dag=build_splits&run=r&task={TASK_ID}").text
    assert f'href="/read/data/{made[0][2]}.html">Data: Benign or malignant, classes as they occur' in split


def test_cards_have_no_shadow_of_something_to_scroll_to() -> None:
    narrow = (PACKAGE / "reports/templates/style.css").read_text().partition("@media (max-width: 40rem) {")[2]
    assert re.search(r"^  \.scroll:has\(> \.stack\) \{ background: none; \}", narrow, re.MULTILINE)


def test_whatever_is_wide_scrolls_inside_its_own_box() -> None:
    """A track of a grid is as wide as its widest word unless it may be narrower, and a table is always."""
    open_tag, inside = re.compile(r"<(/?)(div|table)([^>]*)>"), "scroll"
    for path in [*PACKAGE.glob("*/templates/*.css"), *PACKAGE.glob("*/templates/*.j2")]:
        words = path.read_text()
        if path.suffix == ".css":
            bare = re.sub(r"minmax\((?:[^()]|\([^()]*\))*\)", "", words)
            assert not re.search(r"\dfr\b", bare), (
                f"{path.name}: a track that cannot be narrower than its content"
            )
        boxes: list[str] = []
        for closes, tag, rest in open_tag.findall(words):
            if tag == "table" and not closes:
                assert any(inside in box for box in boxes), f"{path.name}: a table without a box that scrolls"
            elif tag == "div" and closes:
                boxes.pop()
            elif tag == "div":
                boxes.append(rest)


def test_the_tab_of_a_run_that_does_not_exist_says_so(settings: Settings) -> None:
    app = client().app
    app.state.returned_by = lambda dag, run, task, place: [] if place is None else None
    for dag_id in DAGS:
        for task in ("{TASK_ID}", "each.train", "each.split", "decide"):
            answer = Client(app).get(f"/result?dag={dag_id}&run=manual__x&task={task}")
            assert answer.status_code == 404, (dag_id, task)
            assert f"There is no run manual__x of {dag_id}" in answer.text
            assert "has not" not in answer.text


def a_report_is_read_below_the_navigation_and_in_the_theme_of_the_ui(training_id: str, pages: Client) -> None:
    path = f"{training_id}/report.html"
    page = pages.get(f"/read/{path}")
    # In a frame, paper would have what fits into it.
    assert f'href="/reports/{path}" target="_blank"' in page.text
    assert pages.get(f"/reports/{path}").status_code == 200
    assert f'data-report="{path}"' in page.text
    assert "frame-src 'self'" in page.headers["content-security-policy"]
    assert 'class="reading bare says-synthetic"' in pages.get(f"/read/{path}?is_bare=true").text
    stored = pages.get(f"/reports/{path}").text
    for theme in ("dark", "light"):
        themed = pages.get(f"/themed/{theme}/reports/{path}")
        assert f'<html lang="en" class="{theme}">' in themed.text
        assert f":root.{theme} {{ color-scheme: {theme};" in themed.text
        assert themed.headers["content-security-policy"].startswith("sandbox")
        assert len(themed.text) > len(stored)
    assert pages.get(f"/themed/blue/reports/{path}").status_code == 422
    assert pages.get("/read/no_such.html").status_code == 404


def asked(training_id: str, body: str = "") -> dict[str, Any]:
    """A question as the task `compare` returns it."""
    question = Question(
        task_name=TASK, asked_about=training_id, asked_against=None, subject="x", body=body, assigned_users=[]
    )
    return asdict(question)


def a_question_tells_its_candidate_and_whether_anything_is_left_to_decide(first: str, second: str) -> None:
    some = client(returned=[asked(first), asked(second)])
    found = [some.get(f"/question?dag=promote_model&run=a%2Bb&map_index={place}").json() for place in (0, 1)]
    # The first is champion by now: the question that named none as its opponent is none any more, nor is one about it.
    assert [(one["asked_about"], one["is_open"]) for one in found] == [(first, False), (second, False)]
    against = {"asked_against": first}
    some = client(returned=[asked(first) | against, asked(second) | against])
    found = [some.get(f"/question?dag=promote_model&run=a%2Bb&map_index={place}").json() for place in (0, 1)]
    assert [one["is_open"] for one in found] == [False, True]
    for place in (-1, 2):
        assert some.get(f"/question?dag=promote_model&run=r&map_index={place}").status_code == 404
    assert client(returned=None).get("/question?dag=promote_model&run=r&map_index=0").status_code == 404
    for path in ("/", f"/champion/{TASK}"):
        assert 'data-may=""' in client().get(path).text
        assert 'data-may="promote_model"' in client(startable=("promote_model",)).get(path).text


def a_question_leads_to_the_reports_on_the_pages() -> None:
    questions = write_questions(open_workspace(), tasks=[TASK], approval="always")
    body = (
        client(returned=[asdict(one) for one in questions])
        .get("/question?dag=promote_model&run=r&map_index=0")
        .json()["body"]
    )
    (key,) = re.findall(r"lesions/reports/(\S+?)\)", questions[0].body)[:1]
    assert f'href="/read/{key}"' in body
    assert "lesions/reports" not in body


def test_the_body_of_a_question_never_becomes_markup_of_its_own(settings: Settings) -> None:
    source = f"**bold** {SCRIPT} [x](javascript:alert(1)) ![i](http://elsewhere/x.png)\n\n| a |\n| - |\n| 1 |"
    body = (
        client(returned=[asked("x", source)])
        .get("/question?dag=promote_model&run=r&map_index=0")
        .json()["body"]
    )
    assert "<strong>bold</strong>" in body
    assert "<td>1</td>" in body
    assert "<script" not in body
    assert 'href="javascript' not in body


def test_pages_of_drawn_pictures_say_so(settings: Settings, pages: Client) -> None:
    add_records(settings, [{**record, "attribution": f"Anonymous {MARK}"} for record in labelled_records(60)])
    assert WARNING not in pages.get("/").text
    curate_images(open_workspace())
    for page in ("/", "/data", "/leaderboard/malignancy", "/champion/malignancy"):
        assert WARNING in pages.get(page).text, page
    add_records(settings, labelled_records(1, first=61))
    curate_images(open_workspace())
    assert WARNING not in pages.get("/data").text, "not every one is drawn"


def test_a_running_training_says_how_far_it_is_and_an_average_that_it_has_no_epochs(
    settings: Settings, trained: tuple[str, str], pages: Client
) -> None:
    execute(settings, "UPDATE training SET status = 'running' WHERE training_id = :id", id=trained[1])
    assert re.search(r"Epoch \d+ of at most \d+", pages.get("/").text)
    execute(
        settings,
        'UPDATE training SET recipe = recipe::jsonb || \'{"members": ["smoke"]}\' WHERE training_id = :id',
        id=trained[1],
    )
    answer = pages.get("/")
    assert answer.status_code == 200
    assert "which has no epochs" in answer.text


def test_a_training_that_failed_has_a_page_of_its_own(
    settings: Settings, trained: tuple[str, str], pages: Client
) -> None:
    _, second = trained
    reasons = ("UnavailableError: the bucket did not answer", "UnusableInputError: seed 'x'", "lost: killed")
    for reason in reasons:
        execute(
            settings,
            "UPDATE training SET status = 'running', reason = NULL WHERE training_id = :id",
            id=second,
        )
        execute(
            settings,
            "UPDATE training SET status = 'failed', reason = :reason WHERE training_id = :id",
            id=second,
            reason=reason,
        )
    found = TaskTry(dag_id="train_variants", run_id="a+b", task_id="each.train", map_index=3, number=2)
    page = client(task_try=found).get(f"/training/{second}").text
    assert "It failed" in page
    assert all(reason.replace("'", "&#39;") in page for reason in reasons), "what came before is kept"
    assert page.index("lost: killed") < page.index("UnusableInputError")
    assert "for lack of memory" in page
    assert 'data-log="dags/train_variants/dagRuns/a%2Bb/taskInstances/each.train/logs/2?map_index=3"' in page
    assert "dags/train_variants/runs/a%2Bb/tasks/each.train/mapped/3?try_number=2" in page
    assert "Epochs, at most" in page
    assert "lesion train metadata_logistic" in page
    by_hand = pages.get(f"/training/{second}").text
    assert "data-log=" not in by_hand
    assert "none of Airflow that it still keeps" in by_hand
    assert f'href="/training/{second}"' in pages.get("/").text
    execute(
        settings, "UPDATE training SET status = 'running', reason = NULL WHERE training_id = :id", id=second
    )
    assert "Being trained again" in pages.get(f"/training/{second}").text
    assert "It failed 3 times before" in pages.get("/").text
    assert pages.get("/training/no_such").status_code == 404


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("lost: its process ended without notice", "more of it"),
        ("UnusableInputError: /tmp: disk full while writing 'x'", "Make room"),
        ("UnusableInputError: seed 'x'", "trying again cannot help"),
        ("UnavailableError: no answer", "by itself, twice"),
        ("ValueError: x", "the end of the log"),
    ],
)
def test_what_to_do_follows_from_the_reason(reason: str, said: str) -> None:
    assert said in advice_on(reason)
