"""Files that are replaced without a word in their record are found in turn, by what the server calls their state."""

from datetime import timedelta

import numpy as np
import pytest
from archives import execute, rows, scalar, serving, write_folder, write_picture

from archive_server.sources import FolderSource
from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import ArchiveUnavailableError, Retry
from lesion_tasks.ingest.fetch import fetch_files
from lesion_tasks.ingest.find_replaced_files import check_files
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.workspace import open_workspace

AT_ONCE = timedelta(0)
QUICK = Retry(n_attempts=2, first_delay_s=0.01)


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "folder", 40)
    return tmp_path / "folder"


@pytest.fixture
def archive(settings, monkeypatch, folder):
    with serving(FolderSource(folder), monkeypatch) as archive:
        ingest(open_workspace(), passes=("append", "fetch"))
        yield archive


def test_a_replaced_file_is_found_and_fetched_again(archive, folder):
    isic_id = min(archive.ids())
    before = scalar("SELECT sha256 FROM stored_file WHERE isic_id = :id", id=isic_id)
    write_picture(folder / "images" / f"{isic_id}.jpg", np.random.default_rng(7))
    assert fetch_files(open_workspace())["stored"] == 0

    counts = check_files(open_workspace(), check_share=1.0, older_than=AT_ONCE)

    assert counts == {"checked": 40, "replaced": 1, "noted": 0, "unknown": 0}
    assert fetch_files(open_workspace())["stored"] == 1
    assert scalar("SELECT sha256 FROM stored_file WHERE isic_id = :id", id=isic_id) != before
    assert check_files(open_workspace(), check_share=1.0, older_than=AT_ONCE)["replaced"] == 0


def test_checks_go_round_all_files(archive):
    for _ in range(4):
        assert (
            check_files(open_workspace(), check_share=0.25, older_than=timedelta(seconds=-1))["checked"] == 10
        )

    assert scalar("SELECT count(*) FROM stored_file WHERE checked_at IS NULL") == 0


def test_a_file_that_was_just_fetched_or_checked_is_not_asked_for(archive):
    assert check_files(open_workspace(), check_share=1.0)["checked"] == 0


def test_a_file_that_is_not_there_now_is_no_sign_and_asked_for_again(archive, folder):
    gone = sorted((folder / "images").iterdir())[:3]
    for path in gone:
        path.unlink()

    counts = check_files(open_workspace(), check_share=1.0, older_than=AT_ONCE)

    assert counts == {"checked": 37, "replaced": 0, "noted": 0, "unknown": 3}
    left = {row.isic_id for row in rows("SELECT isic_id FROM stored_file WHERE checked_at IS NULL")}
    assert left == {path.stem for path in gone}


def test_a_state_that_was_not_known_is_noted(archive):
    execute("UPDATE stored_file SET etag = NULL")

    assert check_files(open_workspace(), check_share=1.0, older_than=AT_ONCE)["noted"] == 40
    assert scalar("SELECT count(*) FROM stored_file WHERE etag IS NULL OR is_replaced") == 0


def test_an_archive_that_is_gone_is_unavailable_and_marks_nothing(settings, monkeypatch, folder):
    with serving(FolderSource(folder), monkeypatch):
        ingest(open_workspace(), passes=("append", "fetch"))
    with pytest.raises(ArchiveUnavailableError):
        check_files(open_workspace(), check_share=1.0, older_than=AT_ONCE, retry=QUICK)
    assert scalar("SELECT count(*) FROM stored_file WHERE is_replaced OR checked_at IS NOT NULL") == 0


def test_a_share_that_is_none_is_refused(archive):
    with pytest.raises(UnusableInputError, match="check_share 0"):
        check_files(open_workspace(), check_share=0)
