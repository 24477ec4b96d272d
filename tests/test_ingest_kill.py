"""Killed, disturbed and doubled runs end in what one undisturbed run leaves."""

import shutil
import threading

import pytest
from archives import FAST, execute, listed_ids, rows, scalar, serving, write_folder
from sqlalchemy import text

from archive_server.sources import FolderSource, SyntheticSource
from benchmarks.kill_ingest import (
    FAULTS,
    Killing,
    archive_server,
    differences,
    environment_for,
    left_behind,
    live_through,
)
from lesion_tasks.database.connection import database_url, engine_for
from lesion_tasks.ingest.append import append_records
from lesion_tasks.ingest.fetch import fetch_files
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.ingest.reconcile import reconcile_records
from lesion_tasks.ingest.scope import scope_key, scope_lock
from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import open_workspace

STORY = ((), ("grow?images=10", "edit?images=5&kind=metadata", "withdraw?images=2"))


def test_killed_runs_against_a_faulty_archive_lose_nothing(postgres_url, tmp_path):
    undisturbed = environment_for(postgres_url, tmp_path, "undisturbed")
    disturbed = environment_for(postgres_url, tmp_path, "disturbed")
    with archive_server("synthetic:30:1", 0) as origin:
        port = int(origin.rpartition(":")[2])
        live_through(origin, undisturbed, None, STORY)
    with archive_server("synthetic:30:1", port, FAULTS + ",seed=1") as origin:
        killing = Killing(n_kills=4, longest_s=2.0, seed=1)
        live_through(origin, disturbed, killing, STORY)

    expected = left_behind(undisturbed)
    assert killing.done == 4
    assert len(expected["record"]) == len(expected["objects"]) == 40
    assert differences(expected, left_behind(disturbed)) == []


class StoppedError(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("n_batches", [0, 1, 2])
def test_an_append_pass_goes_on_behind_its_last_commit(settings, monkeypatch, n_batches):
    monkeypatch.setattr("lesion_tasks.ingest.append.RECORDS_PER_COMMIT", 100)
    n_requests = []

    def count(request, body):
        if request.query.get("limit") == "100":
            n_requests.append(request.query.get("cursor"))
            if len(n_requests) == 2 * n_batches + 1:
                raise StoppedError
        return body

    with serving(SyntheticSource(600, seed=3), monkeypatch, tamper=count) as archive:
        with pytest.raises(Exception, match="status 500"):
            append_records(open_workspace(), retry=FAST.__class__(n_attempts=1))
        n_stored = scalar("SELECT count(*) FROM record")
        asked = len(n_requests)

        append_records(open_workspace())

        assert listed_ids() == archive.ids()
        assert n_stored == 100 * 2 * n_batches
        assert len(n_requests) - asked == 6 - 2 * n_batches


def test_objects_without_rows_are_named_by_the_next_run(settings, monkeypatch, tmp_path):
    write_folder(tmp_path / "folder", 40)
    with serving(FolderSource(tmp_path / "folder"), monkeypatch):
        ingest(open_workspace())
        before = rows("SELECT isic_id, object_key, sha256 FROM stored_file ORDER BY 1")
        execute("DELETE FROM stored_file")

        fetch_files(open_workspace())

        assert rows("SELECT isic_id, object_key, sha256 FROM stored_file ORDER BY 1") == before


def test_two_runs_at_once_do_the_work_once(settings, monkeypatch, caplog):
    with serving(SyntheticSource(500, seed=3), monkeypatch) as archive:
        results, errors = [], []

        def run():
            try:
                results.append(append_records(open_workspace()))
                reconcile_records(open_workspace())
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert not errors
        assert sum(result["new"] for result in results) == 500
        assert listed_ids() == archive.ids()
        assert scalar("SELECT max(version) FROM record_version") == 1


def test_two_scopes_at_once_give_an_edited_record_one_new_version(settings, monkeypatch):
    with serving(SyntheticSource(400, seed=3), monkeypatch) as archive:
        scopes = ["", "image_type:dermoscopic", "diagnosis_1:*"]
        for query in scopes:
            ingest(open_workspace(), query=query, passes=("append",))
        n_edited = len(archive.admin("edit", images=60)["edited"])
        errors = []

        def run(query):
            try:
                ingest(open_workspace(), query=query, passes=("sweep",), sweep_share=1.0)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(query,)) for query in scopes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert not errors
        assert scalar("SELECT count(*) FROM record_version WHERE version = 2") == n_edited
        assert scalar("SELECT max(version) FROM record_version") == 2


def test_a_second_run_waits_for_the_lock_and_says_so(settings, caplog):
    key = scope_key(open_workspace(), "http://127.0.0.1:9/", "", "")
    entered = threading.Event()

    def second():
        with scope_lock(key, "append"):
            entered.set()

    with scope_lock(key, "append"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    thread.join()

    assert entered.is_set()
    assert "another run is working on append" in caplog.text


def test_a_lock_dies_with_its_connection(settings):
    key = scope_key(open_workspace(), "http://127.0.0.1:9/", "", "")
    with scope_lock(key, "append"):
        with (
            engine_for(database_url(read_settings()))
            .connect()
            .execution_options(isolation_level="AUTOCOMMIT") as other
        ):
            other.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
            )
        with scope_lock(key, "append"):
            pass


def test_a_bucket_that_fails_in_the_middle_leaves_no_row_without_an_object(settings, monkeypatch, tmp_path):
    write_folder(tmp_path / "folder", 40)
    with serving(FolderSource(tmp_path / "folder"), monkeypatch):
        append_records(open_workspace())
        blocked = tmp_path / "bucket" / "images"
        blocked.parent.mkdir(exist_ok=True)
        blocked.write_text("a file where a folder is needed")
        with pytest.raises(OSError, match="images"):
            fetch_files(open_workspace())
        assert scalar("SELECT count(*) FROM stored_file WHERE reason IS NULL") == 0
        blocked.unlink()

        assert fetch_files(open_workspace())["stored"] == 40
        shutil.rmtree(tmp_path / "bucket")
