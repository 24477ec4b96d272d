"""Notices: what people are told, and that mail, chat and webhook really receive it."""

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email import message_from_string
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from test_promotion import execute, first_candidate, promote

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.retention import RETENTION
from lesion_tasks.database.schema import Promotion
from lesion_tasks.ingest.runs import begin_ingestion, end_ingestion
from lesion_tasks.promotion.promote import Decision
from lesion_tasks.settings import Settings
from lesion_tasks.upkeep.notices import EVENTS, Notice, of_decision, of_evaluation, overdue
from lesion_tasks.upkeep.prune import prune
from lesion_tasks.workspace import open_workspace

NOTICE = Notice(
    event="waiting",
    about=None,
    subject="A <candidate>",
    text="Waiting & waiting.",
    page="champion/malignancy",
)
RUN = "manual__2026-11-29"
LINK = "/plugin/lesions/lesions/champion/malignancy"


@dataclass
class Received:
    """What a server was sent."""

    address: str = ""
    bodies: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def webhook() -> Iterator[Received]:
    """A web server that takes what is posted; refuses what is posted to /refused."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            received.headers.append(dict(self.headers))
            received.paths.append(self.path)
            self.send_response(403 if self.path.startswith("/refused") else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server, served(server):
        received.address = f"127.0.0.1:{server.server_port}"
        yield received


@pytest.fixture
def mailbox() -> Iterator[Received]:
    """A mail server that speaks as much SMTP as is needed to take a message."""
    received = Received()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 ready")
            while line := self.rfile.readline().decode().rstrip():
                if line.upper().startswith("DATA"):
                    self.say("354 go on")
                    lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                    received.bodies.append("\n".join(lines))
                    self.say("250 taken")
                elif line.upper().startswith("QUIT"):
                    self.say("221 bye")
                    return
                else:
                    received.paths.append(line)
                    self.say("250 ok")

        def say(self, words: str) -> None:
            self.wfile.write(f"{words}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server, served(server):
        received.address = f"127.0.0.1:{server.server_address[1]}"
        yield received


def connect(monkeypatch: pytest.MonkeyPatch, **connection: object) -> None:
    """Declare the connection "people", and that notices go there."""
    monkeypatch.setenv("AIRFLOW_CONN_PEOPLE", json.dumps(connection))
    monkeypatch.setenv("LESION_NOTIFY", "people")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example")


def warnings_of_notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is warned of from now on; Airflow sets up logging by itself, at a moment of its own."""
    import lesion_notices

    warned: list[str] = []
    monkeypatch.setattr(lesion_notices.log, "warning", lambda words, *values: warned.append(words % values))
    return warned


def tell(notice: Notice | None) -> None:
    from lesion_notices import tell

    tell(notice)


def test_a_webhook_receives_a_notice_as_json(webhook: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"endpoint": "/hooks/lesion"}
    connect(monkeypatch, conn_type="http", host=f"http://{webhook.address}", password="token", extra=extra)
    tell(NOTICE)
    assert webhook.paths == ["/hooks/lesion"]
    assert webhook.headers[0]["Authorization"] == "Bearer token"
    assert json.loads(webhook.bodies[0]) == {
        "event": "waiting",
        "subject": "A <candidate>",
        "text": "Waiting & waiting.",
        "page": "champion/malignancy",
        "is_alarming": True,
        "link": f"https://airflow.example{LINK}",
    }


def test_slack_receives_text(webhook: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(
        monkeypatch, conn_type="slackwebhook", host=f"http://{webhook.address}/services", password="T0/B0/x"
    )
    tell(NOTICE)
    assert webhook.paths == ["/services/T0/B0/x"]
    assert json.loads(webhook.bodies[0])["text"].splitlines()[0] == "*A &lt;candidate&gt;*"


def test_mail_is_escaped_and_has_a_link(mailbox: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = mailbox.address.split(":")
    extra = {"to": "team@example.org", "from_email": "lesions@example.org", "disable_ssl": True}
    extra |= {"disable_tls": True}
    connect(monkeypatch, conn_type="smtp", host=host, port=int(port), extra=extra)
    tell(NOTICE)
    message = message_from_string(mailbox.bodies[0])
    assert str(make_header(decode_header(message["Subject"]))) == "A <candidate>"
    (part,) = [one for one in message.walk() if one.get_content_type() == "text/html"]
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert "Waiting &amp; waiting." in payload.decode() and LINK in payload.decode()
    assert any("team@example.org" in line for line in mailbox.paths)


@pytest.mark.parametrize(
    ("connection", "said"),
    [
        ({"conn_type": "http", "host": "http://127.0.0.1:9"}, "refused"),
        ({"conn_type": "ftp", "host": "files.example"}, "its type is 'ftp', expected one of smtp"),
        ({"conn_type": "smtp", "host": "127.0.0.1"}, "names no recipients"),
        (None, "people"),
    ],
)
def test_a_notice_that_cannot_be_delivered_is_a_warning(
    connection: dict[str, object] | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect(monkeypatch, **(connection or {}))
    if connection is None:
        monkeypatch.delenv("AIRFLOW_CONN_PEOPLE")
    warned = warnings_of_notices(monkeypatch)
    tell(NOTICE)
    (warning,) = warned
    assert "was not sent" in warning and said in warning.lower()


def test_a_refusal_does_not_show_the_address_of_a_webhook(
    webhook: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned = warnings_of_notices(monkeypatch)
    connect(
        monkeypatch, conn_type="slackwebhook", password=f"http://{webhook.address}/refused/secret-of-the-hook"
    )
    tell(NOTICE)
    (warning,) = warned
    assert "answered 403" in warning
    assert "secret-of-the-hook" not in warning


def test_nothing_to_tell_is_not_told(webhook: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, conn_type="http", host=f"http://{webhook.address}")
    tell(None)
    assert webhook.bodies == []


def told(settings: Settings) -> list[tuple[str, str]]:
    from lesion_tasks.database.connection import engine_for

    with engine_for(settings.database_url or "").connect() as connection:
        rows = connection.execute(text("SELECT about, connection FROM delivery ORDER BY 1, 2"))
        return [(row.about, row.connection) for row in rows]


def test_what_a_connection_was_told_it_is_not_told_again(
    webhook: Received, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, conn_type="http", host=f"http://{webhook.address}")
    monkeypatch.setenv("LESION_NOTIFY", "people,away")
    notice = replace(NOTICE, about="malignancy x run")
    tell(notice)
    tell(notice)
    assert len(webhook.bodies) == 1
    assert told(settings) == [("malignancy x run", "people")]
    # What did not reach a connection reaches it the next time, and no other one again.
    monkeypatch.setenv(
        "AIRFLOW_CONN_AWAY", json.dumps({"conn_type": "http", "host": f"http://{webhook.address}"})
    )
    tell(notice)
    assert len(webhook.bodies) == 2
    for other in (replace(notice, about="malignancy x another"), replace(notice, event="expired")):
        tell(other)
    assert len(webhook.bodies) == 6
    tell(NOTICE)
    tell(NOTICE)
    assert len(webhook.bodies) == 10  # Airflow hands these over once


def test_of_two_that_tell_the_same_at_once_one_does(
    webhook: Received, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, conn_type="http", host=f"http://{webhook.address}")
    notice = replace(NOTICE, about="once")
    threads = [threading.Thread(target=tell, args=(notice,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(webhook.bodies) == 1


def test_a_notice_is_sent_although_nobody_can_note_that(
    webhook: Received, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, conn_type="http", host=f"http://{webhook.address}")
    warned = warnings_of_notices(monkeypatch)
    notice = replace(NOTICE, about="malignancy x run")
    with monkeypatch.context() as away:
        away.setenv("LESION_DATABASE_URL", "postgresql://lesion:secret@127.0.0.1:9/lesions")
        away.setattr("lesion_tasks.database.connection.WAITS_S", ())
        tell(notice)
    assert len(webhook.bodies) == 1
    (warning,) = warned
    assert "may be told twice" in warning and "cannot be reached" in warning
    # The database goes away between the telling and the noting.
    execute(
        settings,
        """CREATE FUNCTION go_away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'gone'; END $$;
           CREATE CONSTRAINT TRIGGER go_away AFTER INSERT ON delivery DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION go_away()""",
    )
    tell(notice)
    assert len(webhook.bodies) == 2
    assert "may be told twice" in warned[1]
    assert told(settings) == []
    # What did not reach anybody is not taken for told.
    monkeypatch.delenv("AIRFLOW_CONN_PEOPLE")
    execute(settings, "DROP TRIGGER go_away ON delivery")
    tell(notice)
    assert "was not sent" in warned[2]
    assert told(settings) == []


def test_notes_of_what_was_told_go_by_policy(settings: Settings) -> None:
    workspace = open_workspace()
    execute(
        settings,
        """INSERT INTO delivery (event, about, connection, subject, told_at)
           SELECT 'waiting', days::text, 'people', 'x', now() - make_interval(days => days)
           FROM unnest(ARRAY[1, :days]) AS days""",
        days=RETENTION.delivery_days + 1,
    )
    assert prune(workspace, pruned_by="ada").n_deliveries == 1
    assert len(told(settings)) == 2
    assert prune(workspace, is_deleting=True, pruned_by="ada").counts()["deliveries"] == 1
    assert told(settings) == [("1", "people")]


def test_a_decision_that_is_found_again_is_not_told_again(
    webhook: Received, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lesion_airflow

    first_candidate(settings)
    connect(monkeypatch, conn_type="http", host=f"http://{webhook.address}")
    monkeypatch.setattr(lesion_airflow, "get_current_context", lambda: {"run_id": RUN})
    for _ in range(2):  # as a task that is cleared does
        decision = promote(is_forced=True, request_id=f"{RUN} malignancy").as_dict()
        lesion_airflow.announce_decision(decision)
    assert decision["action"] == "promoted"
    assert [json.loads(body)["event"] for body in webhook.bodies] == ["promoted"]


def test_every_notice_of_a_task_says_what_it_is_about() -> None:
    """Only what Airflow hands over once may do without: the end of a run, a missed deadline."""
    import lesion_airflow

    late = lesion_airflow.tell_when_late("x", "ingest_isic", timedelta(hours=1)).callback.kwargs
    without = {lesion_airflow.TELL_WHEN_RED.event, late["event"]}
    assert without == {"failed", "late"}
    question = lesion_airflow.AskAboutCandidate(
        task_id="ask", task_name="malignancy", asked_about="new", asked_against="old", subject="x", body="y"
    )
    (notifier,) = question.notifiers
    notifier.render_template_fields({"task": question, "run_id": RUN})
    assert notifier.about == f"malignancy new old {RUN}"


def test_a_notifier_that_is_called_again_tells_of_the_second_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The DAG processor calls that of a DAG for each run that failed; what it rendered is no template any more."""
    import lesion_airflow
    import lesion_notices

    told: list[Any] = []
    monkeypatch.setattr(lesion_notices, "tell", told.append)
    for run_id in ("run 1", "run 2"):
        dag = SimpleNamespace(dag_id="x", dag_display_name="X", get_template_env=lambda **_: None)
        dag.render_template_as_native_obj = False
        lesion_airflow.TELL_WHEN_RED({"dag": dag, "run_id": run_id})
    assert [one.text for one in told] == [f"run {n}: at least one task failed" for n in (1, 2)]


def test_decisions_unsound_evaluations_and_what_is_overdue_are_told(settings: Settings) -> None:
    assert "none yet" in overdue(open_workspace(), RUN)[0].text
    training_id = first_candidate(settings)
    promoted = of_decision(promote(is_forced=True).as_dict(), RUN)
    assert promoted is not None
    assert (promoted.event, promoted.page, promoted.is_alarming) == ("promoted", "champion/malignancy", False)
    assert training_id in promoted.subject
    assert of_decision(promote().as_dict(), RUN) is None  # nothing was left to decide
    decision = Decision(task="gone", action="promoted", training_id="x", reason="It gains.")
    gone = of_decision(asdict(decision), RUN)
    assert gone is not None
    assert gone.subject == "gone: x promoted"  # of a task that left the catalogue while its last run decided

    end_ingestion(open_workspace(), begin_ingestion(open_workspace()), {})
    assert overdue(open_workspace(), RUN) == []
    now = datetime.now(UTC)
    assert [one.event for one in overdue(open_workspace(), RUN, now=now + timedelta(days=4))] == ["overdue"]
    late = overdue(open_workspace(), RUN, now=now + timedelta(days=200))
    assert [one.page for one in late] == ["", "champion/malignancy"]
    assert "200 days" in late[1].subject + late[0].text

    (evaluation_id,) = _one(settings, "SELECT evaluation_id FROM evaluation")
    assert of_evaluation(open_workspace(), evaluation_id) is None
    execute(
        settings, "UPDATE evaluation SET is_sound = false, failed_checks = '{leaks}', verdict = 'It leaks.'"
    )
    unsound = of_evaluation(open_workspace(), evaluation_id)
    assert unsound is not None
    assert "leaks" in unsound.subject
    assert (unsound.text, unsound.page) == ("It leaks.", f"reports/{training_id}/report.html")
    # Told once, however often it is made again; told anew if it finds something else.
    execute(settings, """UPDATE evaluation SET document = jsonb_set(document, '{evaluated_at}', '"later"')""")
    assert of_evaluation(open_workspace(), evaluation_id) == unsound
    execute(
        settings, """UPDATE evaluation SET document = jsonb_set(document, '{verdict}', '"In other words."')"""
    )
    assert of_evaluation(open_workspace(), evaluation_id) == unsound
    execute(
        settings,
        """UPDATE evaluation SET document = jsonb_set(document, '{integrity,0,status}', '"of another kind"')""",
    )
    anew = of_evaluation(open_workspace(), evaluation_id)
    assert anew is not None
    assert anew.about != unsound.about
    with pytest.raises(UnusableInputError, match="there is none of this id"):
        of_evaluation(open_workspace(), "none")


def test_every_action_of_a_decision_is_an_event() -> None:
    conditions = [str(one.sqltext) for one in Promotion.__table__.constraints if hasattr(one, "sqltext")]  # type: ignore[attr-defined]
    (actions,) = [re.findall(r"'(\w+)'", said) for said in conditions if said.startswith("action in")]
    assert set(actions) <= set(EVENTS)


def _one(settings: Settings, query: str) -> tuple[str, ...]:
    from lesion_tasks.database.connection import engine_for

    with engine_for(settings.database_url or "").connect() as connection:
        return tuple(connection.execute(text(query)).one())
