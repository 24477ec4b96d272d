"""The pages about data: lists with their pages, suspects, reports, and what they say where there is nothing."""

import json
import re
from dataclasses import asdict, replace
from html import unescape

import pytest
from catalogue import add_records, archive_record, filled_once, labelled_records, rows_of
from test_pages import Client, client
from test_promotion import candidate, execute, first_candidate, promote

from lesion_tasks.bucket import open_bucket
from lesion_tasks.curation.apply_correction import correct
from lesion_tasks.curation.correction_requests import read_request, settle, write_questions
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.locks import Lock, is_held, lock_until_commit
from lesion_tasks.evaluation import leaderboard as leaderboard_module
from lesion_tasks.evaluation import looks_at_test
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.ingest.runs import begin_ingestion, end_ingestion
from lesion_tasks.metrics.document_schema import PublishedFigure
from lesion_tasks.metrics.winners_curse import correct_for_looks
from lesion_tasks.pages.activity import N_AT_WORK, Run, TaskOfRun
from lesion_tasks.pages.page_of_list import Shown, address_but, show
from lesion_tasks.pages.suspects_page import SIZES
from lesion_tasks.pages.what_next import next_step
from lesion_tasks.reports.index import HeldOutLine
from lesion_tasks.serving.predict_job import PredictionJob
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace

TASK = "malignancy"
OF = re.compile(r"[\d,]+ to [\d,]+ of ([\d,]+)")


@pytest.fixture
def pages() -> Client:
    return client()


@pytest.fixture
def champion(settings: Settings) -> str:
    """The first training of a catalogue, promoted."""

    def fill() -> str:
        first = first_candidate(settings)
        promote(is_forced=True, decided_by="Ada")
        return first

    training_id: str = filled_once(settings, "a champion alone", fill)
    return training_id


def plan_job(settings: Settings, job: str, asked_at: str) -> None:
    """A finished prediction job, as far as a list of reports reads it."""
    plan = PredictionJob(
        job_id=job, asked_at=asked_at, source="s", task=TASK, training_id="t", model_key="k", model_sha256="0",
        n_images=1, pictures_sha256="0", notes=(),
    )  # fmt: skip
    bucket = open_bucket(settings)
    bucket.put(f"predictions/{job}/job.json", plan.model_dump_json().encode())
    bucket.put(f"reports/predictions/{job}.html", b"<p>x", content_type="text/html")


def test_a_list_is_shown_a_page_at_a_time_and_beyond_its_end_stands_its_last_page() -> None:
    rows = list(range(23))

    def asked(number: int, n_found: int = 23) -> Shown[int]:
        return show(number, n_found, lambda n, first: rows[:n_found][first : first + n], size=10)

    assert [asked(number).rows for number in (1, 3)] == [rows[:10], rows[20:]]
    assert (asked(9).number, asked(9).first, asked(9).n_pages) == (3, 20, 3)
    assert (asked(1, 0).number, asked(1, 0).rows, asked(1, 0).n_pages) == (1, [], 1)
    told = [("image", "a b"), ("image", "c&d"), ("words", ""), ("pairs", 2), ("labels", 4)]
    assert address_but(told, "labels") == "?image=a+b&image=c%26d&pairs=2&labels="


def test_every_number_of_a_funnel_leads_to_a_list_of_as_many(settings: Settings, pages: Client) -> None:
    some = labelled_records(240)
    for record in some[:7]:
        del record["metadata"]["clinical"]["sex"]
    some += [archive_record(f"ISIC_09000{n:02d}", diagnosis_1="Benign", sex="male") for n in range(3)]
    add_records(settings, some, picture_by_id={some[20]["isic_id"]: b""})
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    page = pages.get("/data").text
    table = page[page.index("From records to members") : page.index('id="gone"')]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td class="num">(.*?)</td></tr>', table, re.S)
    assert len(rows) >= 7
    for step, number in rows:
        ((address, n),) = re.findall(r'<a href="/([^"]+)">([^<]+)</a>', number)
        answer = pages.get("/" + unescape(address))
        assert answer.status_code == 200, step
        assert OF.findall(answer.text) == [n.lstrip("\N{MINUS SIGN}-")], (step, address)
    changed = pages.get("/data?since=2020-01-01").text
    numbers = re.findall(r'<dd class="value"><a href="/(changes[^"]+)">([^<]+)</a>', changed)
    line = changed[changed.index('id="splits"') : changed.index("From records to members")]
    numbers += re.findall(r'<a href="/(members/[^"]+)">([^<]+)</a>', line)
    assert len(numbers) == 1 + 6, "what is new; three subsets, two balanced draws and the quarantine"
    for address, n in numbers:
        listed = pages.get("/" + unescape(address)).text
        assert OF.findall(listed) == ([n] if n != "0" else []), address
    assert 'href="/image/' not in pages.get("/changes?since=2100-01-01").text
    assert pages.get("/changes?kind=nonsense").status_code == 404
    (no_sex,) = (number for step, number in rows if "no sex" in step)
    listed = pages.get("/" + unescape(re.findall(r'href="/([^"]+)"', no_sex)[0])).text
    assert {record["isic_id"] for record in some[:7]} <= set(re.findall(r"ISIC_\d{7}", listed))
    assert "requires a known sex" in listed
    add_records(
        settings, [archive_record("ISIC_0999999", diagnosis_1="Benign")]
    )  # not curated yet: no picture
    records = "".join(pages.get(f"/records?number={number}").text for number in range(1, 7))
    assert "ISIC_0999999" in records and 'href="/image/ISIC_0999999"' not in records
    assert f'href="/image/{some[0]["isic_id"]}"' in records
    assert "There are none" in pages.get("/members/malignancy_natural?reason=nonsense").text


def reports_on_what_was_held_out_are_one_read(settings: Settings, pages: Client) -> None:
    bucket = open_bucket(settings)

    def store(name: str) -> None:
        line = HeldOutLine(
            held_out_id=name,
            evaluated_at=f"2026-03-0{len(name)}",
            title=name,
            task_title="t",
            one="o",
            words="w",
        )
        bucket.put(f"reports/held-out/{name}/metrics.json", line.model_dump_json().encode())

    def read() -> tuple[list[str], int]:
        with pytest.MonkeyPatch.context() as patch:
            asked, real = [], type(bucket).get
            patch.setattr(type(bucket), "get", lambda self, key: (asked.append(key), real(self, key))[1])
            page = pages.get("/reports?kind=held-out").text
        return re.findall(r'href="/read/held-out/(\w+)/', page), len(asked)

    for name in ("a", "bb", "ccc"):
        store(name)
    assert read()[0] == ["ccc", "bb", "a"], "without an index too, as of an earlier release"
    publish(open_workspace())
    assert read() == (["ccc", "bb", "a"], 1)
    store("dddd")  # killed before it published
    assert read()[0] == ["dddd", "ccc", "bb", "a"]


def test_reports_are_a_list_and_not_a_page_within_the_page(
    champion: str, settings: Settings, pages: Client
) -> None:
    page = pages.get("/reports").text
    assert "<iframe" not in page and page.count("<h1") == 1
    assert f'href="/read/{champion}/report.html"' in page
    assert pages.get("/read/index.html").headers["location"] == "/reports"
    ((digest,),) = rows_of(settings, "SELECT digest FROM manifest WHERE split = 'malignancy_natural'")
    assert f'href="/read/data/{digest}.html"' in pages.get("/reports?kind=data").text
    assert "No report matches" in pages.get("/reports?words=nonsense").text
    assert champion in pages.get(f"/reports?words={champion.upper()}").text
    assert digest[:10] in pages.get("/reports?kind=data&words=classes+as+they").text, (
        "by the title that is shown"
    )
    for job, when in (("a-0123456789ab", 3), ("b-0123456789ab", 1), ("c-0123456789ab", 2)):
        plan_job(settings, job, f"2026-03-0{when}T10:00:00Z")
    page = pages.get("/reports?kind=predictions").text
    assert re.findall(r'href="/read/predictions/(\w)-', page) == ["a", "c", "b"], "the last asked for first"
    assert "2026-03-03 10:00" in page
    assert pages.get("/reports?kind=nonsense").status_code == 404
    reports_on_what_was_held_out_are_one_read(settings, pages)
    execute(settings, "UPDATE evaluation SET is_sound = false")
    assert "not sound</span>" in pages.get("/reports").text
    other = f"{int(digest[:8], 16) ^ 1:08x}{digest[8:]}"  # as of a cohort, and as data of a later split
    columns = ", ".join(
        row[0]
        for row in rows_of(
            settings,
            """SELECT column_name FROM information_schema.columns WHERE table_name = 'manifest'
               AND column_name NOT IN ('digest', 'cohort') AND is_generated = 'NEVER' ORDER BY 1""",
        )
    )
    execute(
        settings,
        f"""INSERT INTO manifest (digest, cohort, {columns})
            SELECT '{other}', 'x', {columns} FROM manifest WHERE digest = '{digest}'""",
    )
    assert other not in pages.get("/reports?kind=data").text, "no page is written about the data of a cohort"
    execute(settings, f"UPDATE training SET manifest_digest = '{other}' WHERE training_id = '{champion}'")
    assert f"on newer data <code>{digest[:10]}" in pages.get("/reports").text
    prune = """INSERT INTO pruning (kind, name, reason, pruned_by, n_objects, size_bytes, began_at, ended_at)
        VALUES (:kind, :name, 'old', 'Ada', 1, 1, now(), now())"""
    execute(settings, prune, kind="model", name=champion)
    assert f"{champion}/report.html" in pages.get("/reports").text, "of a pruned model the report stays"
    execute(settings, prune, kind="training", name=champion)
    assert f"{champion}/report.html" not in pages.get("/reports").text


def test_identical_trainings_are_the_best_of_as_many_by_one_rule(
    champion: str, settings: Settings, pages: Client
) -> None:
    """What is trained twice is one try; what only has the same figure is another, and the same is said of both."""
    second = candidate()
    assert "best of 2" not in pages.get(f"/leaderboard/{TASK}").text
    stored = json.loads(open_bucket(settings).get(f"reports/{second}/metrics.json"))["best_of_looks"]
    assert stored["n_looks"] == 1
    execute(settings, f"UPDATE training SET fingerprint = 'other' WHERE training_id = '{second}'")
    assert "best of 2" not in pages.get(f"/leaderboard/{TASK}").text, "it predicts the same"
    execute(settings, f"UPDATE prediction_set SET sha256 = repeat('0', 64) WHERE training_id = '{second}'")
    board = pages.get(f"/leaderboard/{TASK}").text
    said = [
        re.findall(
            r"best of \d[^<]*", re.findall(rf'value="{name}".*?<td class="leading".*?</td>', board, re.S)[0]
        )
        for name in (champion, second)
    ]
    assert said[0] == said[1] and said[0][0].startswith("best of 2 different trainings: ")
    # One that is not the highest owes nothing to luck, and lends nothing to the others' number.
    lower = "jsonb_set(document, '{subsets,test_natural,figures,auc,value}', '0.5')"
    execute(settings, f"UPDATE evaluation SET document = {lower} WHERE training_id = '{champion}'")
    board = pages.get(f"/leaderboard/{TASK}").text
    assert board.count("best of 2 different trainings") == 1


def test_the_best_is_corrected_by_the_figures_in_the_order_in_which_they_came(settings: Settings) -> None:
    """A straight line through five figures or more takes slow decay out; in another order it could not."""
    falling = [0.90, 0.89, 0.88, 0.87, 0.86, 0.85]
    best = correct_for_looks(falling[0], 0.02, 6, (), later=falling[1:])
    assert best.luck < 0.002 < correct_for_looks(falling[0], 0.02, 6, falling[1:]).luck
    figure = PublishedFigure(
        value=0.9, low=0.86, high=0.94, method="m", n_images=200, n_groups=200, n_positives=50
    )
    figures = {f"t{place}": value for place, value in enumerate(falling)}
    with open_workspace().engine.connect() as connection:
        of_all = looks_at_test.best_of_all(connection, TASK, {"t0": figure})
        assert of_all == {}, "it was never tested"
        found = looks_at_test._best_of_assignment(connection, "auc", figures, figure)
    assert found is not None and found.luck < 0.002 and found.n_looks == 6


def test_only_what_shows_the_luck_of_a_figure_reads_the_figures_of_all(
    champion: str, pages: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(leaderboard_module, "best_of_all", lambda *_: asked.append(1) or {})
    for page in ("/", f"/champion/{TASK}", f"/compare?training={champion}", f"/read/{champion}/report.html"):
        assert pages.get(page).status_code == 200 and not asked, page
    pages.get(f"/leaderboard/{TASK}")
    assert asked


# What only a programmer would write, wherever a page is empty.
JARGON = re.compile(
    r"no object|object [a-z]+/|expected|'[a-z_]+'|\bNone\b(?! of| waits)|null|not ended|\bred\b|Error|:param"
)
EMPTY_PAGES = (
    "/", "/leaderboard/malignancy", "/champion/malignancy", "/data", "/suspects/malignancy", "/reports",
    *(f"/reports?kind={kind}" for kind in ("data", "watches", "held-out", "predictions")), "/pruned",
    "/records", "/members/malignancy_natural", "/left-out/0?reason=x",
)  # fmt: skip


def test_an_empty_page_says_in_words_of_people_what_to_do_next(settings: Settings, pages: Client) -> None:
    """An installation as it fills: each page says which step is missing, and which DAG does it."""

    def told(page: str) -> set[str]:
        answer = pages.get(page)
        assert answer.status_code == 200, page
        main = answer.text[answer.text.index("<main") :]
        said = re.sub(r"<code>.*?</code>|<[^>]+>", " ", main)
        assert not JARGON.search(said), (page, JARGON.findall(said))
        return set(re.findall(r"<strong>What to do next:</strong>[^<]*<a href=\"dags/([a-z_]+)\"", main))

    def next_everywhere(*pages_told: str) -> set[str]:
        found = [told(page) for page in EMPTY_PAGES]
        asked = [one for page, one in zip(EMPTY_PAGES, found, strict=True) if page in pages_told]
        assert all(asked), dict(zip(EMPTY_PAGES, found, strict=True))
        return set.union(*asked)

    first = (
        "/",
        "/leaderboard/malignancy",
        "/champion/malignancy",
        "/data",
        "/suspects/malignancy",
        "/reports",
    )
    assert next_everywhere(*first) == {"ingest_isic"}
    add_records(settings, labelled_records(240))
    assert next_everywhere(*first[1:]) == {"build_splits"}
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    without_data = tuple(page for page in first[1:] if page != "/data")
    assert next_everywhere(*without_data) == {"train_variants"}


def test_without_a_champion_the_pages_say_who_decides(settings: Settings, pages: Client) -> None:
    first_candidate(settings)
    for page in (f"/champion/{TASK}", f"/suspects/{TASK}"):
        assert 'href="dags/promote_model"' in pages.get(page).text, page
    assert "no champion, expected" not in pages.get(f"/suspects/{TASK}").text
    with open_workspace().engine.connect() as connection:
        assert [next_step(connection, task).dag_id for task in (None, TASK)] == ["promote_model"] * 2
    execute(settings, "UPDATE evaluation SET is_sound = false")
    assert "why none of the evaluated trainings became champion" in pages.get(f"/champion/{TASK}").text
    with open_workspace().engine.connect() as connection:
        assert next_step(connection).dag_id == "train_variants", "nothing waits for a decision"
    # All that there is was trained without something, for a question, or has the data of a cohort.
    execute(settings, "UPDATE manifest SET held_out = 'institution'")
    with open_workspace().engine.connect() as connection:
        assert next_step(connection, TASK).dag_id == "build_splits"


def test_an_ingestion_that_did_not_end_says_whether_it_goes_on(settings: Settings) -> None:
    workspace = open_workspace()
    for run in ("scheduled__1", "scheduled__2", "scheduled__3", None):
        begin_ingestion(
            workspace, run, source="https://api.isic-archive.com/api/v2/", query="", collections=""
        )
    end_ingestion(workspace, "scheduled__1", {"append": {"new": 3}})
    # More runs that have not ended than are shown, all older.
    many = [Run(dag_id="correct_data", run_id=f"m{n}", state="queued") for n in range(N_AT_WORK)]
    runs = [
        Run(dag_id="ingest_isic", run_id=f"scheduled__{n}", state=state)
        for n, state in ((2, "running"), (3, "failed"))
    ]
    page = client(runs=[*many, *runs]).get("/").text
    table = page[page.index("From the archive") :]
    states = [
        re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r'<span class="state[^>]*>.*?</span>', table)
    ]
    assert states == ["not done", "stopped", "running", "done"]
    assert "This Airflow has no run of this name" in client().get("/").text
    assert 'data-airflow="dags/ingest_isic/runs/scheduled__3"' in table
    assert "red" not in re.findall(r"\w+", re.sub(r"<[^>]+>", " ", table))


def test_suspects_are_shown_ten_at_a_time_and_every_list_keeps_its_own_page(
    champion: str, settings: Settings
) -> None:
    workspace = open_workspace()
    ids = [row[0] for row in rows_of(settings, "SELECT isic_id FROM image ORDER BY isic_id LIMIT 25")]
    for one in ids[:3]:
        correct(workspace, "label_kept", one, task=TASK, reason="it is right", decided_by="Ada")
    execute(
        settings,
        """
        INSERT INTO picture_pair (sha256, other_sha256, n_bits, print_correlation, detail_correlation, is_copy)
        SELECT least(i.sha256, j.sha256), greatest(i.sha256, j.sha256), 4, 0.97, 0.6, false
        FROM image i JOIN image j ON i.isic_id < j.isic_id AND i.group_id <> j.group_id
        WHERE i.isic_id = :id ORDER BY j.isic_id LIMIT 23 ON CONFLICT DO NOTHING
        """,
        id=ids[-1],
    )
    page = client().get(f"/suspects/{TASK}?image={ids[0]}&kind=pairs&number=2").text
    assert 'data-live="' in page, "it renews itself, as the page of the champion does"
    n = SIZES["pairs"]
    assert page.count("<article") == n and f"{n + 1} to {2 * n} of 23" in page
    assert 'id="labels"' not in page and 'id="decided"' not in page, (
        "one list at a time, however long the others are"
    )
    links = unescape("".join(re.findall(r'<p class="pager">.*?</p>', page, re.S)))
    for number in (1, 3):
        assert f'href="?image={ids[0]}&kind=pairs&number={number}"' in links
    assert f'href="?image={ids[0]}&kind=decided"' in unescape(page)
    decided = client().get(f"/suspects/{TASK}?kind=decided&number=9").text
    assert decided.count("it is right") == 3 and "1 to 3 of 3" in decided
    assert client().get(f"/suspects/{TASK}?kind=others").status_code == 404


def test_what_a_person_is_asked_about_is_marked_where_it_is_shown(champion: str, settings: Settings) -> None:
    page = client(startable=("correct_data",)).get(f"/suspects/{TASK}").text
    suspect, other = re.findall(r"&#34;isic_id&#34;: &#34;(ISIC_\d+)", page)[:2]
    request = read_request(
        open_workspace(), decision="label_set_aside", isic_id=suspect, other_isic_id=None, task=TASK,
        correction=None, reason="a scar", asked_by="Grace", request_id="manual__1",
    )  # fmt: skip
    asked = [asdict(one) for one in write_questions(open_workspace(), request, approval="always")]
    waits = TaskOfRun(task_id="ask", map_index=0, label="x", state="awaiting_input")
    run = Run(dag_id="correct_data", run_id="manual__1", state="running", tasks=[waits])

    def cards(*runs: Run) -> dict[str, str]:
        found = client(runs=runs, returned=asked).get(f"/suspects/{TASK}").text
        return dict(
            re.findall(
                r'<article class="suspect">\s*<p><a href="/image/(ISIC_\d+)">(.*?)</article>', found, re.S
            )
        )

    marked = cards(run)
    assert (
        "a person is asked" in marked[suspect] and "a scar" in marked[suspect] and "Grace" in marked[suspect]
    )
    assert "a person is asked" not in marked[other]
    ended = replace(run, tasks=[replace(waits, state="success")])
    assert "a person is asked" not in cards(ended)[suspect]
    told = client(returned=asked).get("/question?dag=correct_data&run=manual__1&map_index=0").json()
    assert told["pictures"] == [suspect], "shown beside the question, through the guard of the pages"
    odd = [{**asked[0], "request": {**asked[0]["request"], "unheard_of": 1}}]
    page = client(runs=[run], returned=odd).get(f"/suspects/{TASK}")
    assert page.status_code == 200 and "a person is asked" not in page.text
    made = correct(open_workspace(), "label_kept", other, task=TASK, reason="right", decided_by="Ada")
    withdrawal = read_request(
        open_workspace(), decision="withdrawn", isic_id=None, other_isic_id=None, task=None,
        correction=made, reason="wrong", asked_by="Grace", request_id="manual__2",
    )  # fmt: skip
    back = [asdict(one) for one in write_questions(open_workspace(), withdrawal, approval="always")]
    page = client(startable=("correct_data",), runs=[replace(run, run_id="manual__2")], returned=back).get(
        f"/suspects/{TASK}?kind=decided"
    )
    decided = page.text[page.text.index('id="decided"') :]
    assert "a person is asked" in decided and "as Grace wants: wrong. <a" in decided
    settle(
        open_workspace(), request, {"answer": "rejected", "person": "Ada", "reason": "no"}, approval="always"
    )
    assert "a scar" in client().get(f"/suspects/{TASK}?kind=answered").text
    assert "a person is asked" not in cards(run)[suspect], "decided, though the run has not noticed yet"


def test_curation_says_on_the_first_page_how_far_it_is(settings: Settings, pages: Client) -> None:
    add_records(settings, labelled_records(60))
    assert "60 records to be curated" in pages.get("/").text
    curate_images(open_workspace())
    assert "all curated" in pages.get("/").text
    # New rules for landmarks: no image waits for its group yet, and all wait for the landmarks.
    execute(settings, "UPDATE picture_landmarks SET version = version - 1")
    workspace = open_workspace()
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.CURATION)
        assert "landmarks found in 0 of 60 images" in pages.get("/").text
        with workspace.engine.connect() as other:
            assert not is_held(other, Lock.PRUNING)
    execute(settings, "UPDATE picture_landmarks SET version = version + 1")
    # As a curation that was killed after a third of the pictures leaves it.
    execute(settings, "INSERT INTO ungrouped (isic_id) SELECT isic_id FROM image")
    execute(
        settings,
        "DELETE FROM picture_landmarks WHERE sha256 IN (SELECT sha256 FROM image ORDER BY 1 LIMIT 40)",
    )
    assert "landmarks found in 20 of 60 images" in pages.get("/").text
    execute(settings, "INSERT INTO picture_landmarks (sha256, landmarks, version) "
            "SELECT DISTINCT sha256, ''::bytea, (SELECT max(version) FROM picture_landmarks) FROM image "
            "ON CONFLICT DO NOTHING")  # fmt: skip
    assert "60 images to be compared with the others and grouped" in pages.get("/").text
