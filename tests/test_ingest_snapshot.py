"""The snapshot is the first load, and the API takes over from where it ends."""

import shutil
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from archives import execute, listed_ids, rows, scalar, serving

from archive_server.holdings import Holdings
from archive_server.published_snapshot import write_snapshot
from archive_server.sources import SyntheticSource
from archive_server.state import load_state
from benchmarks.kill_ingest import environment_for
from lesion_tasks import UnusableInputError
from lesion_tasks.ingest.append import append_records
from lesion_tasks.ingest.changes import list_changes
from lesion_tasks.ingest.fetch import fetch_files
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.ingest.reconcile import reconcile_records
from lesion_tasks.ingest.sweep import sweep_records
from lesion_tasks.workspace import open_workspace

N = 40
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source = SyntheticSource(N, seed=4)
    folder = tmp_path_factory.mktemp("snapshot") / "made"
    write_snapshot(Holdings(source, load_state(None, source.name)), folder)
    return folder


@pytest.fixture
def snapshot(made, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("LESION_QUERY", "")
    return Path(shutil.copytree(made, tmp_path / "snapshot"))


def left_behind():
    """What is known of every image, whatever way it came."""
    return {
        "records": rows(
            "SELECT isic_id, document::text FROM record JOIN record_version USING (isic_id, version) ORDER BY 1"
        ),
        "files": rows(
            "SELECT isic_id, rendition, url, object_key, size_bytes, sha256, perceptual_hash, etag, "
            "record_size_bytes FROM stored_file ORDER BY 1, 2"
        ),
        "listed": rows(
            "SELECT isic_id, record_hash FROM scope_record JOIN scope USING (scope_id) "
            "WHERE source LIKE 'http%' ORDER BY 1"
        ),
        "watermark": rows("SELECT watermark_at, next_cursor FROM scope WHERE source LIKE 'http%'"),
    }


def test_the_snapshot_and_then_the_api_end_where_the_api_alone_does(
    snapshot, monkeypatch, postgres_url, tmp_path
):
    with serving(SyntheticSource(N, seed=4), monkeypatch) as archive:
        first = ingest(open_workspace(), source=str(snapshot), rendition="full")
        assert (first["append"]["new"], first["fetch"]["stored"]) == (N, N)
        moment = datetime.now(UTC)
        added = archive.admin("grow", images=10)["added"]

        # The API is asked for what is new, and the hour before it: one page, ten files, and counts that agree.
        second = append_records(open_workspace())
        assert second["new"] == 10
        assert second["read"] < 20
        assert fetch_files(open_workspace(), rendition="full")["stored"] == 10
        assert reconcile_records(open_workspace())["prefixes_read"] == 0
        assert {change.isic_id for change in list_changes(open_workspace(), moment)} == set(added)

        # A sweep learns the addresses of all: no edit, and no file again.
        assert sweep_records(open_workspace(), sweep_share=1.0)["read"] == N + 10
        assert fetch_files(open_workspace(), rendition="full")["stored"] == 0
        assert {change.isic_id for change in list_changes(open_workspace(), moment)} == set(added)
        by_both = left_behind()

        alone = environment_for(postgres_url, tmp_path, "by_the_api_alone")
        for name in ("LESION_DATABASE_URL", "LESION_BUCKET_URL"):
            monkeypatch.setenv(name, alone[name])
        ingest(open_workspace(), rendition="full")
        assert by_both == left_behind()


def test_an_edit_after_the_snapshot_is_still_seen_as_one(snapshot, monkeypatch):
    with serving(SyntheticSource(N, seed=4), monkeypatch) as archive:
        ingest(open_workspace(), source=str(snapshot), passes=("append",))
        moment = datetime.now(UTC)
        edited = archive.admin("edit", images=3)["edited"]
        sweep_records(open_workspace(), sweep_share=1.0)

        changes = list_changes(open_workspace(), moment)
        assert {(change.kind, change.isic_id) for change in changes} == {("edited", i) for i in edited}
        assert all(field.startswith("metadata.") for change in changes for field in change.fields)


def test_thumbnails_made_from_a_snapshot_are_not_fetched_again(snapshot, monkeypatch):
    with serving(SyntheticSource(N, seed=4), monkeypatch):
        ingest(open_workspace(), source=str(snapshot))
        sweep_records(open_workspace(), sweep_share=1.0)

        assert fetch_files(open_workspace())["stored"] == 0
        assert (
            scalar("SELECT count(*) FROM stored_file WHERE url LIKE 'http%_thumbnail.jpg' AND etag IS NULL")
            == N
        )


def test_what_is_gone_since_the_snapshot_is_found_by_counting(snapshot, monkeypatch):
    with serving(SyntheticSource(N, seed=4), monkeypatch) as archive:
        ingest(open_workspace(), source=str(snapshot), passes=("append",))
        archive.admin("withdraw", images=2)
        append_records(open_workspace())
        for _ in range(2):
            reconcile_records(open_workspace(), confirm_after=timedelta(0))

        assert scalar("SELECT count(*) FROM record WHERE withdrawn_at IS NOT NULL") == 2


def test_a_snapshot_read_again_changes_nothing(snapshot, monkeypatch):
    with serving(SyntheticSource(N, seed=4), monkeypatch) as archive:
        ingest(open_workspace(), source=str(snapshot))
        archive.admin("grow", images=5)
        ingest(open_workspace())
        before = left_behind(), rows("SELECT * FROM record_version ORDER BY 1, 2")

        again = ingest(open_workspace(), source=str(snapshot))

        assert again["append"]["read"] == again["fetch"]["stored"] == 0
        assert (left_behind(), rows("SELECT * FROM record_version ORDER BY 1, 2")) == before


def test_a_query_narrows_a_snapshot_as_it_narrows_the_api(snapshot, monkeypatch):
    with serving(SyntheticSource(N, seed=4), monkeypatch):
        query = "image_type:dermoscopic"
        ingest(open_workspace(), source=str(snapshot), query=query, passes=("append",))
        n_taken = len(listed_ids())

        assert 0 < n_taken < N
        assert append_records(open_workspace(), query=query)["new"] == 0
        assert reconcile_records(open_workspace(), query=query)["prefixes_read"] == 0


def test_a_killed_first_load_goes_on_and_hands_over_only_when_complete(snapshot, monkeypatch):
    monkeypatch.setattr("lesion_tasks.ingest.append.RECORDS_PER_COMMIT", 10)
    monkeypatch.setattr("lesion_tasks.archive.local.PAGE_LENGTH", 10)
    commit = []

    def killed(*arguments):
        commit.append(arguments)
        if len(commit) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    from lesion_tasks.ingest import append

    original = append._commit
    with serving(SyntheticSource(N, seed=4), monkeypatch):
        monkeypatch.setattr(append, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            append_records(open_workspace(), source=str(snapshot))
        assert scalar("SELECT count(*) FROM record") == 20
        assert scalar("SELECT count(*) FROM scope") == 1
        monkeypatch.setattr(append, "_commit", original)

        assert append_records(open_workspace(), source=str(snapshot)) == {
            "read": 20, "new": 20, "changed": 0, "returned": 0, "refused": 0, "is_complete": True
        }  # fmt: skip
        assert scalar("SELECT count(*) FROM scope") == 2


def test_a_newer_snapshot_in_the_place_of_a_half_read_one_is_read_from_its_beginning(
    snapshot, monkeypatch, tmp_path
):
    with serving(SyntheticSource(N, seed=4), monkeypatch) as archive:
        append_records(open_workspace(), source=str(snapshot))
        execute("UPDATE scope SET next_cursor = 'row@20150101000000:35', next_watermark_at = watermark_at")
        archive.admin("grow", images=5)
        write_snapshot(archive.catalogue, snapshot)

        append_records(open_workspace(), source=str(snapshot))

        assert len(listed_ids()) == N + 5


def test_a_snapshot_that_is_older_than_what_the_api_was_read_to_moves_nothing_back(snapshot, monkeypatch):
    with serving(SyntheticSource(N, seed=4), monkeypatch) as archive:
        archive.admin("grow", images=5)
        append_records(open_workspace())
        before = rows("SELECT watermark_at FROM scope")

        append_records(open_workspace(), source=str(snapshot))

        assert rows("SELECT watermark_at FROM scope WHERE source LIKE 'http%'") == before


def test_a_snapshot_that_does_not_say_when_it_was_made_leaves_the_api_its_beginning(snapshot, monkeypatch):
    import pyarrow.parquet as parquet

    path = snapshot / "ISIC_metadata.parquet"
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(None), path)
    with serving(SyntheticSource(N, seed=4), monkeypatch):
        ingest(open_workspace(), source=str(snapshot))

        counts = ingest(open_workspace())

        assert (counts["append"]["read"], counts["append"]["new"], counts["fetch"]["stored"]) == (N, 0, 0)


def test_damaged_and_absent_members_are_rows_with_reasons_and_come_from_the_api_later(snapshot, monkeypatch):
    path = snapshot / "ISIC_images.zip"
    with zipfile.ZipFile(path) as whole:
        members = [info for info in whole.infolist() if info.filename.startswith("images/")]
        damaged, absent = members[0], members[1].filename
        kept = {info.filename: whole.read(info) for info in whole.infolist() if info.filename != absent}
    with zipfile.ZipFile(path, "w") as rewritten:
        for name, data in kept.items():
            rewritten.writestr(name, data)
        offset = rewritten.getinfo(damaged.filename).header_offset + 200
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x00\x01\x02\x03")
    with serving(SyntheticSource(N, seed=4), monkeypatch):
        counts = ingest(open_workspace(), source=str(snapshot))

        assert counts["fetch"]["reasons"] == {"damaged": 1, "no_file": 1}
        sweep_records(open_workspace(), sweep_share=1.0)
        assert fetch_files(open_workspace())["stored"] == 2
        assert scalar("SELECT count(*) FROM stored_file WHERE reason IS NOT NULL") == 0


def test_a_mended_snapshot_is_read_again_though_it_was_made_at_the_same_time(snapshot, monkeypatch):
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    path = snapshot / "ISIC_metadata.parquet"
    whole = parquet.read_table(path)
    at = whole.schema.get_field_index("attribution")
    wrong = compute.replace_substring_regex(whole["attribution"], "^.*$", "a word too many")
    parquet.write_table(whole.set_column(at, "attribution", wrong), path)
    with serving(SyntheticSource(N, seed=4), monkeypatch):
        ingest(open_workspace(), source=str(snapshot))
        assert scalar("SELECT count(DISTINCT document ->> 'attribution') FROM record_version") == 1
        parquet.write_table(whole, path)

        assert ingest(open_workspace(), source=str(snapshot))["reconcile"]["changed"] == N


def test_a_damaged_member_that_is_mended_is_read_at_once_by_hand(snapshot, monkeypatch):
    path = snapshot / "ISIC_images.zip"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as members:
        offset = members.infolist()[0].header_offset + 200
    path.write_bytes(whole[:offset] + bytes(8) + whole[offset + 8 :])
    with serving(SyntheticSource(N, seed=4), monkeypatch):
        assert ingest(open_workspace(), source=str(snapshot))["fetch"]["reasons"] == {"damaged": 1}
        path.write_bytes(whole)

        assert ingest(open_workspace(), source=str(snapshot))["fetch"]["stored"] == 1


def test_half_a_snapshot_is_named(snapshot):
    (snapshot / "ISIC_metadata.parquet").unlink()
    with pytest.raises(UnusableInputError, match=r"found a zip file, expected ISIC_metadata\.parquet beside"):
        ingest(open_workspace(), source=str(snapshot))
    with pytest.raises(UnusableInputError, match="collections '1' found, expected none"):
        ingest(open_workspace(), source=str(snapshot), collections="1")
