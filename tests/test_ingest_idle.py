"""A note that nothing is left to do spares the next look, and never outlives what it says."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from archives import execute, listed_ids, scalar, serving, write_folder
from sqlalchemy import text

from archive_server.sources import FolderSource, SyntheticSource
from lesion_tasks.database.connection import engine_for
from lesion_tasks.ingest.append import append_records
from lesion_tasks.ingest.fetch import fetch_files, fetch_ranges
from lesion_tasks.ingest.idle import Look, note_idle
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.ingest.reconcile import reconcile_records
from lesion_tasks.ingest.scope import scope_key
from lesion_tasks.workspace import open_workspace

PASSES = ("append", "fetch")
NOTED = "SELECT idle ->> 'n_listed' FROM scope"


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("download") / "folder"
    write_folder(folder, 40)
    return folder


@pytest.fixture
def asked():
    return []


@pytest.fixture
def pictures(settings, monkeypatch, picture_folder, asked):
    """An archive that notes each question; all of it is ingested."""

    def note(request, body):
        asked.append(request.path_qs)
        return body

    with serving(FolderSource(picture_folder), monkeypatch, tamper=note) as archive:
        ingest(open_workspace(), passes=PASSES)
        asked.clear()
        yield archive


def test_a_run_with_nothing_new_asks_one_question(pictures, asked):
    assert scalar(NOTED) == "40"

    counts = ingest(open_workspace(), passes=PASSES)

    assert len(asked) == 1
    assert (counts["append"]["read"], counts["append"]["is_complete"]) == (0, True)
    assert counts["fetch"] == {"stored": 0, "refused": 0, "size_bytes": 0, "reasons": {}}


@pytest.mark.parametrize(
    ("change", "n_fetched"),
    [
        ("DELETE FROM stored_file WHERE isic_id = (SELECT min(isic_id) FROM stored_file)", 1),
        ("UPDATE stored_file SET is_replaced = true", 40),
        ("TRUNCATE stored_file CASCADE", 40),
        ("UPDATE record SET last_seen_at = now()", 0),
    ],
)
def test_any_change_takes_the_note_away(pictures, change, n_fetched):
    execute(change)

    assert scalar(NOTED) is None
    assert fetch_files(open_workspace())["stored"] == n_fetched
    assert scalar(NOTED) == "40"


def test_a_change_during_the_look_leaves_no_note(pictures):
    execute("UPDATE record SET last_seen_at = now()")

    def look():
        execute("DELETE FROM stored_file WHERE isic_id = (SELECT min(isic_id) FROM stored_file)")
        return Look(n_wanted=0, due_at=None, n_refused=0)

    note_idle(scope_key(open_workspace(), None, None, ""), "thumbnail_256", look)

    assert scalar(NOTED) is None
    assert fetch_files(open_workspace())["stored"] == 1


def test_a_look_waits_for_a_change_that_began_before_it(pictures, database_url):
    execute("UPDATE record SET last_seen_at = now()")
    with engine_for(database_url).begin() as connection:
        connection.execute(text("DELETE FROM stored_file"))
        looking = threading.Thread(target=fetch_ranges, args=(open_workspace(),))
        looking.start()
        # It waits behind this transaction, or has found nothing wanted in what is committed and waits to note it.
        looking.join(0.5)
    looking.join()

    assert scalar(NOTED) is None
    assert fetch_files(open_workspace())["stored"] == 40


def folder_with_a_broken_file(tmp_path: Path) -> tuple[Path, Path, bytes]:
    """A download of ten images, the file of it that is cut short, and what that file should hold."""
    folder = tmp_path / "folder"
    write_folder(folder, 10)
    broken = min(folder.glob("**/*.jpg"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    return folder, broken, whole


def test_a_refused_file_is_looked_for_again_when_it_is_due(settings, monkeypatch, tmp_path):
    folder, broken, whole = folder_with_a_broken_file(tmp_path)
    with serving(FolderSource(folder), monkeypatch):
        assert ingest(open_workspace(), passes=PASSES)["fetch"]["refused"] == 1
        broken.write_bytes(whole)
        assert fetch_files(open_workspace()) == {"stored": 0, "refused": 0, "size_bytes": 0, "reasons": {}}
        execute(
            "UPDATE stored_file SET fetched_at = fetched_at - interval '2 hours' WHERE reason IS NOT NULL"
        )
        fetch_files(open_workspace(), retry_refused_after=timedelta(days=1))  # notes nothing of its own
        assert fetch_files(open_workspace())["stored"] == 1


def test_a_note_whose_time_has_come_is_not_believed(settings, monkeypatch, tmp_path):
    folder, broken, whole = folder_with_a_broken_file(tmp_path)
    with serving(FolderSource(folder), monkeypatch):
        ingest(open_workspace(), passes=PASSES)
        assert scalar("SELECT idle ->> 'due_at' FROM scope") is not None
        broken.write_bytes(whole)
        # Only the note is made older, so that the row alone decides.
        execute("""UPDATE scope SET idle = jsonb_set(idle, '{due_at}', '"2020-01-01T00:00:00+00:00"')""")
        assert fetch_files(open_workspace())["stored"] == 0
        assert scalar("SELECT (idle ->> 'due_at')::timestamptz > now() FROM scope")


def test_growth_and_withdrawal_are_noticed_behind_a_note(settings, monkeypatch):
    with serving(SyntheticSource(30, seed=1), monkeypatch) as archive:
        ingest(open_workspace(), passes=PASSES)
        archive.admin("grow", images=5)
        assert ingest(open_workspace(), passes=PASSES)["append"]["new"] == 5
        archive.admin("withdraw", images=2)
        assert append_records(open_workspace())["is_complete"]
        assert reconcile_records(open_workspace())["missing"] == 2
        assert len(listed_ids()) == 33
