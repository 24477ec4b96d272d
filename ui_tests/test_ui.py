"""The product inside Airflow's UI, in a real browser on a real scheduler: read, decide, and be refused.

`make test-ui` runs it: a demo of its own, Chromium without a window. CHROMIUM names the browser if it is not on the
PATH, SHOTS a folder for pictures.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, FrameLocator, Locator, Page, ViewportSize, sync_playwright

from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import TASKS
from lesion_tasks.laptop import airflow
from lesion_tasks.laptop.airflow_api import AirflowApi
from lesion_tasks.settings import read_settings

ROOT = Path(__file__).parents[1]
SHOTS = Path(os.environ["SHOTS"]) if "SHOTS" in os.environ else None
N_IMAGES = 1_500  # with fewer, the test set cannot tell whether a model knows anything
SCREEN: ViewportSize = {"width": 1360, "height": 1000}
PHONE: ViewportSize = {"width": 390, "height": 844}
PAPER: ViewportSize = {"width": 688, "height": 1000}  # A4 within its margins
SMALL_PHONE: ViewportSize = {"width": 320, "height": 640}
TABLET: ViewportSize = {"width": 768, "height": 1024}
# How far a page reaches beyond its width, and what of its text is smaller than 14 px.
MEASURE = """(html) => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const small = [];
    while (walker.nextNode()) {
        const holder = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || holder.closest("svg, script, style")) continue;
        if (holder.getClientRects().length && parseFloat(getComputedStyle(holder).fontSize) < 14)
            small.push(walker.currentNode.textContent.trim().slice(0, 40));
    }
    return [html.scrollWidth - html.clientWidth, small];
}"""
REASON = "too few images to tell"
OVERRIDE = "the clinic cannot wait for more data"
CHAMPION_PAGE = "/lesions/champion/malignancy"
SUSPECTS_PAGE = "/lesions/suspects/malignancy"
# A second task that has candidates without downloaded weights.
OWN_TITLE = "Nevus or any other benign lesion"
OWN_ENTRIES = f"""
[task.nevus_or_other]
title = "{OWN_TITLE}"
classes = ["other", "nevus"]
positive = "nevus"
rules = [
  {{label = "nevus", path = ["Benign", "Benign melanocytic proliferations", "Nevus"]}},
  {{label = "other", path = ["Benign"]}},
]

[split.nevus_or_other_all]
task = "nevus_or_other"

# Small, and trained long enough to be followed.
[variant.nevus_or_other_cnn]
title = "Small network for nevus or other"
split = "nevus_or_other_all"
architecture = "cnn"
side_px = 64
conv_filters = [8, 16]
dense_units = [16]
learning_rate = 1e-3
max_epochs = 30
patience = 30
"""


def demo(home: Path, *arguments: str, **settings: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AIRFLOW"))}
    done = subprocess.run(
        [sys.executable, "-m", "lesion_tasks.laptop.demo", *arguments],
        cwd=ROOT,
        env={**inherited, **settings, "LESION_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A demo that has run to its end, then started anew so that a person is asked before each promotion."""
    if "UI_HOME" in os.environ:  # a demo that runs already
        yield Path(os.environ["UI_HOME"])
        return
    folder = tmp_path_factory.mktemp("ui") / "home"
    catalog = folder.parent / "catalog"
    catalog.mkdir()
    (catalog / "nevus.toml").write_text(OWN_ENTRIES)
    try:
        demo(folder, "--images", str(N_IMAGES), "--variants", "smoke", "--weights", "none")
        demo(folder, LESION_APPROVAL="always", LESION_CATALOG=str(catalog))
        yield folder
    finally:
        demo(folder, "--stop")


@pytest.fixture(scope="module")
def api(home: Path) -> AirflowApi:
    return airflow.connect(home)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=found, args=["--no-sandbox"])


def log_in(browser: Browser, api: AirflowApi, name: str, password: str) -> Page:
    """The UI, logged in."""
    shown = browser.new_context(viewport=SCREEN).new_page()
    shown.goto(f"{api.url}/")
    shown.fill("input[name=username]", name)
    shown.fill("input[name=password]", password)
    shown.click("button[type=submit]")
    shown.wait_for_url(lambda url: "login" not in url)
    shown.get_by_role("link", name="Lesions").wait_for()
    return shown


@pytest.fixture
def page(browser: Browser, api: AirflowApi) -> Iterator[Page]:
    """The UI, logged in as the demo's administrator."""
    shown = log_in(browser, api, airflow.USERNAME, api.password)
    yield shown
    shown.context.close()


def until(page: Page, what: Callable[[], Any], timeout_s: float = 120) -> Any:
    """Wait for something true, while the browser goes on."""
    for _ in range(round(timeout_s)):
        if found := what():
            return found
        page.wait_for_timeout(1_000)
    raise AssertionError(f"not true within {timeout_s} s: {page.url}")


def inside(page: Page, path: str = "") -> FrameLocator:
    """The product's page in the frame of the UI."""
    base = "/".join(page.url.split("/")[:3])
    page.goto(f"{base}/plugin/lesions{path}")
    frame = page.frame_locator("iframe")
    frame.locator("main").wait_for()
    return frame


def shoot(page: Page, name: str) -> None:
    """Pictures of what is shown: light, dark, and as wide as a phone."""
    if SHOTS is None:
        return
    theme = "document.documentElement.classList.replace({})"
    page.screenshot(path=SHOTS / f"{name}-light.png")
    page.evaluate(theme.format("'light', 'dark'"))
    page.wait_for_timeout(500)
    page.screenshot(path=SHOTS / f"{name}-dark.png")
    page.evaluate(theme.format("'dark', 'light'"))
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(500)
    page.screenshot(path=SHOTS / f"{name}-phone.png")
    page.set_viewport_size(SCREEN)
    page.wait_for_timeout(500)


def assert_fits(frame: FrameLocator, where: str) -> None:
    """A page scrolls down only, and nobody needs a glass to read it."""
    beyond, small = frame.locator("html").evaluate(MEASURE)
    assert beyond <= 0, f"{where}: {beyond} px wider than the window"
    assert not small, (where, small)


def decisions(page: Page) -> str:
    return inside(page, CHAMPION_PAGE).locator("section[aria-labelledby=history]").inner_text()


def champion(page: Page) -> str:
    """The training that the page names as champion."""
    return inside(page, CHAMPION_PAGE).locator("section[aria-labelledby=now] code").first.inner_text()


def tasks_of(api: AirflowApi, run_id: str) -> list[dict[str, Any]]:
    return api.task_instances("promote_model", run_id)


def train(page: Page, api: AirflowApi, *variants: str, **more: Any) -> None:
    """Train variants again and evaluate them, to the end of the run."""
    run_id = api.trigger("train_variants", {"variants": list(variants), "again": True, **more})
    await_run(page, api, "train_variants", run_id)


@contextmanager
def form_of(page: Page, api: AirflowApi, dag_id: str) -> Iterator[tuple[Locator, list[str]]]:
    """Airflow's form of a DAG, to be filled in; at the end it is sent, and the list has the id of the run."""

    def by_hand() -> set[str]:
        return {run["dag_run_id"] for run in api.runs(dag_id) if run["run_type"] == "manual"}

    before = by_hand()
    base = "/".join(page.url.split("/")[:3])
    page.goto(f"{base}/dags/{dag_id}")
    page.get_by_test_id("trigger-dag-button").click()
    form = page.get_by_role("dialog")
    form.get_by_test_id("config-form").wait_for()
    started: list[str] = []
    yield form, started
    shoot(page, f"form-{dag_id}")
    form.get_by_role("button", name="Trigger", exact=True).click()
    started += until(page, lambda: by_hand() - before)


def choose(form: Locator, field: str, *options: str) -> None:
    """Choose from a list of a form, by how the options begin."""
    for option in options:
        form.locator(f"#element_{field}").get_by_role("combobox").fill(option)
        form.page.get_by_role("option", name=re.compile(f"^{re.escape(option)}")).first.click()


def unfold(form: Locator, section: str) -> None:
    form.get_by_role("button", name=section, exact=True).click()


def switch_on(form: Locator, field: str) -> None:
    form.locator(f"[id='switch:element_{field}']").click()


def promote_by_form(
    page: Page, api: AirflowApi, approval: str, *, is_forced: bool = False, **more: str
) -> str:
    """Start a promotion of the first task from Airflow's form; returns the run."""
    with form_of(page, api, "promote_model") as (form, started):
        for title in {OWN_TITLE, *(entry.title for name, entry in TASKS.items() if name != "malignancy")}:
            form.get_by_label(f"Remove {title}").click()
        unfold(form, "Approval")
        choose(form, "approval", approval)
        unfold(form, "Despite the gates")
        if is_forced:
            switch_on(form, "is_forced")
        for field, words in more.items():
            form.locator(f"[name=element_{field}]").fill(words)
    return started[0]


def answer(page: Page, run_id: str, *options: str) -> None:
    """Answer the questions of one run on the page of the champion."""
    await_questions(page, run_id, len(options))
    questions = page.frame_locator("iframe").locator(f'form.question[data-run="{run_id}"]')
    for index, option in enumerate(options):
        questions.nth(index).get_by_role("button", name=option).click()
        questions.nth(index).get_by_text(f"{option}: sent").wait_for()


def await_questions(page: Page, run_id: str, n: int, place: str = CHAMPION_PAGE) -> None:
    """Open a page until it shows the questions of one run."""

    def are_shown() -> bool:
        frame = inside(page, place)
        page.wait_for_timeout(2_000)  # the page asks Airflow for its questions
        return frame.locator(f'form.question[data-run="{run_id}"]').count() == n

    until(page, are_shown)


def await_one_question(page: Page, about: str) -> str:
    """Open the page of the champion until it asks one question about trainings of a variant; returns its run."""

    def asking() -> str | None:
        questions = inside(page, CHAMPION_PAGE).locator("form.question").filter(has_text=f"may {about}-")
        page.wait_for_timeout(2_000)  # the page asks Airflow for its questions
        return questions.get_attribute("data-run") if questions.count() == 1 else None

    return str(until(page, asking))


def await_run(page: Page, api: AirflowApi, dag_id: str, run_id: str, state: str = "success") -> None:
    """Wait until a run has ended in a state."""

    def ended() -> str | None:
        states = {run["dag_run_id"]: str(run["state"]) for run in api.runs(dag_id)}
        return states[run_id] if states[run_id] in ("success", "failed") else None

    assert until(page, ended, 300) == state


def test_every_inner_page_opens_from_the_navigation(page: Page) -> None:
    page.get_by_role("link", name="Lesions").click()
    frame = page.frame_locator("iframe")
    for name in ("Leaderboard", "Champion", "Data", "Suspects", "Reports", "Pipeline"):
        frame.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
        frame.locator("h1", has_text=name).wait_for()
        place = "" if name == "Pipeline" else f"{name.lower()}*"
        page.wait_for_url(f"**/plugin/lesions/lesions/{place}*")
        shoot(page, name.lower())
        for size in (SMALL_PHONE, PHONE, TABLET, SCREEN):
            page.set_viewport_size(size)
            assert_fits(frame, f"{name}, {size['width']} px")
    every_page_and_report_fits(page)


def every_page_and_report_fits(page: Page) -> None:
    """Each report of each kind alone, and the pages that the navigation does not name, on a phone and on paper."""
    base = "/".join(page.url.split("/")[:3]) + "/lesions/"
    places = {
        "champion/malignancy",
        "leaderboard/malignancy",
        "reports/index.html",
        "records",
        "changes",
        "pruned",
        "result?dag=prune&run=none",
    }
    for kind in ("evaluations", "data", "watches", "held-out", "predictions"):
        page.goto(f"{base}reports?kind={kind}")
        found = [str(one.get_attribute("href")) for one in page.locator("main tbody a").all()]
        places |= {path[path.index("read/") :].replace("read/", "reports/", 1) for path in found}
    page.goto(f"{base}leaderboard/malignancy")
    ids = [str(one.get_attribute("value")) for one in page.locator("input[name=training]").all()]
    places |= {f"training/{ids[0]}", "compare?" + "&".join(f"training={one}" for one in ids[:3])}
    page.goto(f"{base}data")
    places.add(str(page.locator("#splits ~ p a").first.get_attribute("href")).rpartition("lesions/")[2])
    assert sum(place.endswith("/report.html") for place in places) > 0
    for place in sorted(places):
        page.goto(base + place)
        for size in (SMALL_PHONE, PHONE, TABLET, SCREEN):
            page.set_viewport_size(size)
            beyond, _ = page.locator("html").evaluate(MEASURE)
            assert beyond <= 0, f"{place}, {size['width']} px: {beyond} px wider than the window"
        page.emulate_media(media="print")
        page.set_viewport_size(PAPER)
        beyond, _ = page.locator("html").evaluate(MEASURE)
        page.emulate_media(media="screen")
        assert beyond <= 0, (
            f"{place}: {beyond} px wider than paper, so that all of it would be printed smaller"
        )


@pytest.mark.long
def test_a_training_that_failed_says_why_and_shows_the_end_of_its_log(page: Page, api: AirflowApi) -> None:
    # Its weights are a file of its own, which is not here.
    run_id = api.trigger("train_variants", {"variants": ["efficientnet_lite0_frozen"], "policy": "always"})
    await_run(page, api, "train_variants", run_id, "failed")
    first_page = inside(page)
    failed = first_page.locator("section[aria-labelledby=failed] article").first
    failed.get_by_text("train efficientnet_lite0_frozen").wait_for()
    failed.get_by_role("link", name=run_id).click()
    # It leads out of the frame, to Airflow's own page of the run, whose tab says the same.
    page.wait_for_url(f"**/dags/train_variants/runs/{quote(run_id)}**")
    page.goto(f"{page.url.split('?')[0].rstrip('/')}/plugin/lesions-run")
    page.frame_locator("iframe").get_by_text("This run failed.").wait_for()
    inside(page).get_by_role("link", name="EfficientNet-Lite0, frozen base").first.click()
    frame = page.frame_locator("iframe")
    frame.get_by_text("trying again cannot help").wait_for()
    frame.locator("pre.log", has_text="UnusableInputError").wait_for()
    shoot(page, "failed")
    # The page stays open while it is tried again: what it shows is the last failure's log.
    again = api.trigger("train_variants", {"variants": ["efficientnet_lite0_frozen"], "policy": "always"})
    await_run(page, api, "train_variants", again, "failed")
    section = frame.locator("section[data-log]")
    until(page, lambda: quote(again, safe="") in str(section.get_attribute("data-log")))
    section.locator("pre.log", has_text="UnusableInputError").wait_for()


@pytest.mark.parametrize("role", ["viewer", "user", "op", "admin"])
def test_a_role_sees_the_pages_and_starts_what_it_may(
    role: str, browser: Browser, home: Path, api: AirflowApi
) -> None:
    may_start = role != "viewer"
    passwords = json.loads(airflow.Paths(home=home).passwords.read_text())
    shown = log_in(browser, api, role, passwords[role])
    frame = inside(shown, CHAMPION_PAGE)
    frame.locator("section[aria-labelledby=now]").wait_for()
    # Airflow looks at the right first, then at the form, in which the reason is missing.
    status = shown.evaluate(
        """() => fetch("/api/v2/dags/rollback_champion/dagRuns", {method: "POST",
            headers: {"Content-Type": "application/json"},
            body: JSON.stringify({logical_date: null, conf: {}})}).then((answer) => answer.status)"""
    )
    assert (status == 403) != may_start
    assert status in (400, 403, 422)
    for name in ("Pipeline", "Leaderboard", "Data", "Suspects", "Reports"):
        frame.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
        frame.locator("h1", has_text=name).wait_for()
    shown.context.close()


@pytest.mark.long
def test_a_training_is_followed_and_its_report_opens_from_its_task(page: Page, api: AirflowApi) -> None:
    with form_of(page, api, "train_variants") as (form, started):
        choose(form, "variants", "nevus_or_other_cnn (", "metadata_logistic (")
        switch_on(form, "again")
    (run_id,) = started
    frame = inside(page)
    # Without a reload: the page renews itself.
    frame.get_by_text(re.compile(r"Epoch [1-9]\d* of at most 30")).first.wait_for(timeout=180_000)
    shoot(page, "training")
    await_run(page, api, "train_variants", run_id)
    frame.get_by_role("link", name="Small network for nevus or other").first.click()
    frame.locator("section[aria-labelledby=curves] svg").first.wait_for()
    shoot(page, "curves")
    tasks = api.task_instances("train_variants", run_id)
    index = next(task["map_index"] for task in tasks if task["task_id"] == "each.evaluate")
    base = "/".join(page.url.split("/")[:3])
    place = f"dags/train_variants/runs/{quote(run_id)}/tasks/each.evaluate/mapped/{index}"
    page.goto(f"{base}/{place}/plugin/lesions-task")
    page.frame_locator("iframe").frame_locator("iframe.report").get_by_text("evaluation report").wait_for()
    shoot(page, "tab")


@pytest.mark.long
def test_a_promotion_is_rejected_with_a_reason_and_the_next_is_approved(page: Page, api: AirflowApi) -> None:
    train(page, api, "smoke")
    # The run that an evaluation starts asks too: there is one question about a candidate, by the first of the two.
    started = promote_by_form(page, api, "Always")
    # A look that fails hides nothing of a question that came with the page, nor the buttons that answer it.
    page.route("**/question?*", lambda route: route.abort())
    run_id = await_one_question(page, "smoke")
    frame = page.frame_locator("iframe")
    question = frame.locator(f'form.question[data-run="{run_id}"]')
    question.get_by_role("button", name="Reject").wait_for()
    question.locator("table").first.wait_for()
    page.unroute("**/question?*")
    shoot(page, "question")
    question.get_by_role("button", name="Reject").click()
    frame.get_by_text("Say why, in at least 3 characters").wait_for()
    question.locator("textarea").fill(REASON)
    question.get_by_role("button", name="Reject").click()
    until(page, lambda: re.search(rf"\trejected\t.*\t{REASON}\.?\tadmin", decisions(page)))
    for asked in {run_id, started}:
        await_run(page, api, "promote_model", asked)

    train(page, api, "smoke")
    before = champion(page)
    run_id = promote_by_form(page, api, "Always", is_forced=True, override_reason=OVERRIDE)
    answer(page, run_id, "Approve")
    await_run(page, api, "promote_model", run_id)
    until(page, lambda: champion(page) != before)


@pytest.mark.long
def test_a_champion_is_rolled_back_from_the_page(page: Page) -> None:
    before = champion(page)
    form = inside(page, CHAMPION_PAGE).locator("form[data-start=rollback_champion]")
    form.get_by_role("button", name="Roll back").click()
    form.get_by_text("Say why, in at least 3 characters").wait_for()
    form.locator("textarea").fill("worse than the one before it")
    form.get_by_role("button", name="Roll back").click()
    page.frame_locator("iframe").get_by_text("Started as").wait_for()
    until(page, lambda: champion(page) != before)
    assert "worse than the one before it" in decisions(page)


@pytest.mark.long
def test_a_question_that_nobody_answers_expires_and_one_about_an_older_candidate_is_superseded(
    page: Page, api: AirflowApi
) -> None:
    # Despite the gates: such a question takes the place of the one that the evaluation's own run asks.
    asked = {
        "tasks": ["malignancy"],
        "approval": "always",
        "is_forced": True,
        "override_reason": OVERRIDE,
    }
    train(page, api, "metadata_logistic")
    run_id = api.trigger("promote_model", {**asked, "wait_hours": 0.005})
    await_run(page, api, "promote_model", run_id)
    assert "No valid answer in time" in decisions(page)

    run_id = api.trigger("promote_model", {**asked, "wait_hours": 0.015})
    until(page, lambda: any(task["state"] == "awaiting_input" for task in tasks_of(api, run_id)))
    train(page, api, "smoke")
    await_run(page, api, "promote_model", run_id)
    assert re.search(r"\tsuperseded\tmetadata_logistic.* is the candidate now", decisions(page))


@pytest.mark.long
def test_candidates_of_two_tasks_are_decided_in_one_run_asked_and_not_asked(
    page: Page, api: AirflowApi
) -> None:
    def decided(run_id: str) -> set[str]:
        await_run(page, api, "promote_model", run_id)
        return {task["rendered_map_index"] for task in tasks_of(api, run_id) if task["task_id"] == "decide"}

    train(page, api, "smoke", "nevus_or_other_cnn")
    forced = {"is_forced": True, "override_reason": OVERRIDE}
    run_id = api.trigger("promote_model", {"approval": "always", **forced})
    await_questions(page, run_id, 2)
    tasks = [task for task in tasks_of(api, run_id) if task["task_id"] == "ask"]
    assert {task["rendered_map_index"] for task in tasks} == {"malignancy", "nevus_or_other"}
    answer(page, run_id, "Approve", "Approve")
    assert decided(run_id) == {"malignancy: promoted", "nevus_or_other: promoted", "five_classes: none"}

    train(page, api, "smoke", "nevus_or_other_cnn")
    found = decided(api.trigger("promote_model", {"approval": "never"}))
    assert "five_classes: none" in found
    assert {words.split(": ")[1] for words in found} <= {"none", "promoted", "refused"}
    assert len(found - {"malignancy: none", "nevus_or_other: none"}) == 3, "each of the two had a candidate"

    # The same model again gains nothing. Somebody wants it all the same.
    assert "malignancy: refused" in found
    rows = inside(page, CHAMPION_PAGE).locator(
        "section[aria-labelledby=history] tr", has_text=re.compile("missed a gate|no better")
    )
    refused = rows.first.locator("code").first.inner_text()
    assert champion(page) != refused
    run_id = promote_by_form(page, api, "Never", is_forced=True, training=refused, override_reason=OVERRIDE)
    assert decided(run_id) == {"malignancy: promoted"}
    until(page, lambda: champion(page) == refused)
    assert f"as admin asked: “{OVERRIDE}”" in decisions(page)
    shoot(page, "overridden")


@pytest.mark.long
def test_a_correction_is_asked_about_rejected_with_a_reason_and_then_approved(
    page: Page, api: AirflowApi
) -> None:
    asked: list[tuple[str, str]] = []
    frame = inside(page, SUSPECTS_PAGE)
    for n, reason in enumerate(("a scar", "a tattoo")):  # both are open at once: neither holds up the other
        form = frame.locator("section[aria-labelledby=labels] form").nth(n)
        isic_id = str(json.loads(str(form.get_attribute("data-conf")))["isic_id"])
        form.locator("input[name=reason]").fill(reason)
        form.get_by_role("button", name="Set the label aside").click()
        said = form.get_by_text(re.compile("Started as "))
        said.wait_for()
        asked.append((str(said.inner_text()).split("Started as ")[1].split(". ")[0], isic_id))
    (rejected, one), (approved, other) = asked
    for run_id in (rejected, approved):  # without a reload: the page renews itself
        frame.locator(f'form.question[data-run="{run_id}"]').wait_for(timeout=120_000)
    frame.locator("article.suspect", has_text=one).get_by_text("a person is asked").wait_for()
    picture = frame.locator(f'form.question[data-run="{rejected}"] img')
    until(page, lambda: picture.evaluate("(one) => one.naturalWidth") > 0)
    question = page.frame_locator("iframe").locator(f'form.question[data-run="{rejected}"]')
    question.get_by_text(re.compile("1 image, labelled .* leaves (val|test)")).first.wait_for()
    assert question.get_by_role("link", name="look at it").count() == 1
    shoot(page, "question-correction")
    question.locator("textarea").fill(REASON)
    question.get_by_role("button", name="Reject").click()
    question.get_by_text("Reject: sent").wait_for()
    question = page.frame_locator("iframe").locator(f'form.question[data-run="{approved}"]')
    question.get_by_role("button", name="Approve").click()
    question.get_by_text("Approve: sent").wait_for()
    for run_id in (rejected, approved):
        await_run(page, api, "correct_data", run_id)
    frame = inside(page, f"{SUSPECTS_PAGE}?kind=answered")
    answered = frame.locator("section[aria-labelledby=answered] tr")
    assert f"admin: {REASON}" in answered.filter(has_text=one).inner_text()
    assert "applied" in answered.filter(has_text=other).inner_text().lower()
    frame = inside(page, f"{SUSPECTS_PAGE}?kind=decided")
    decided = frame.locator("section[aria-labelledby=decided]").inner_text()
    assert other in decided and one not in decided
    shoot(page, "corrected")
    base = "/".join(page.url.split("/")[:3])

    def is_followed() -> bool:
        page.goto(f"{base}/dags/correct_data/runs/{quote(approved)}/plugin/lesions-run")
        tab = page.frame_locator("iframe")
        tab.get_by_text(re.compile("Label set aside, ")).wait_for()
        return tab.get_by_role("link", name=re.compile("asset_triggered__")).count() > 0

    until(page, is_followed)  # its tab leads to the run that builds splits because of it


def test_a_script_in_a_report_does_not_run(page: Page, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESION_HOME", str(home))
    planted = "<h1>planted</h1><script>document.title='ran'; top.document.title='ran'; fetch('/api/v2/dags')</script>"
    open_bucket(read_settings()).put(
        "reports/planted/report.html", planted.encode(), content_type="text/html"
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    base = "/".join(page.url.split("/")[:3])
    page.goto(f"{base}/plugin/lesions/lesions/reports/planted/report.html")
    page.frame_locator("iframe").locator("h1", has_text="planted").wait_for()
    page.wait_for_timeout(2_000)
    page.goto(f"{base}/plugin/lesions/lesions/read/planted/report.html")
    framed = page.frame_locator("iframe").frame_locator("iframe.report")
    framed.locator("h1", has_text="planted").wait_for()
    page.wait_for_timeout(2_000)
    assert page.title() != "ran"
    assert not any(url.endswith("/api/v2/dags") for url in asked)
