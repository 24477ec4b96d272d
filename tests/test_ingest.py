"""Every pass of ingestion against a local archive that grows, changes and loses images."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from urllib.request import urlopen

import numpy as np
import pytest
from archives import FAST, execute, listed_ids, rows, scalar, serving, write_folder, write_picture

from archive_server.sources import FolderSource, SyntheticSource
from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.ingest.append import append_records, poll_archive
from lesion_tasks.ingest.changes import list_changes
from lesion_tasks.ingest.fetch import _cut, fetch_files, fetch_ranges
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.ingest.reconcile import reconcile_records
from lesion_tasks.ingest.sweep import sweep_records
from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import open_workspace

AT_ONCE = timedelta(0)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
NOTHING = {"new": 0, "changed": 0, "returned": 0, "refused": 0}


@pytest.fixture
def archive(settings, monkeypatch):
    with serving(SyntheticSource(300, seed=1), monkeypatch) as archive:
        yield archive


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("download") / "folder"
    write_folder(folder, 120)
    return folder


@pytest.fixture
def pictures(settings, monkeypatch, picture_folder):
    """An archive whose files cost nothing to make."""
    with serving(FolderSource(picture_folder), monkeypatch) as archive:
        yield archive


def changes_since(moment):
    return [(change.kind, change.isic_id) for change in list_changes(open_workspace(), moment)]


def test_polling_tells_size_and_newest_image(archive):
    answer = poll_archive(open_workspace())

    assert answer["n_records"] == 300
    assert answer["newest_isic_id"] in archive.ids()
    assert scalar("SELECT poll ->> 'n_records' FROM scope") == "300"


def test_the_append_pass_stores_every_record_as_it_was_sent(archive):
    counts = append_records(open_workspace())

    assert counts == NOTHING | {"read": 300, "new": 300, "is_complete": True}
    assert listed_ids() == archive.ids()
    isic_id = min(archive.ids())
    with urlopen(f"{archive.url}images/{isic_id}/") as answer:  # noqa: S310 - our own server
        sent = json.load(answer)
    assert scalar("SELECT document FROM record_version WHERE isic_id = :id", id=isic_id) == sent


def test_a_second_append_pass_reads_nothing_and_changes_nothing(archive):
    append_records(open_workspace())
    before = rows("SELECT * FROM record ORDER BY 1"), rows("SELECT * FROM record_version ORDER BY 1")

    assert append_records(open_workspace())["read"] == 0
    assert (
        rows("SELECT * FROM record ORDER BY 1"),
        rows("SELECT * FROM record_version ORDER BY 1"),
    ) == before


def test_a_limit_reads_so_many_records_and_goes_on_without_it(archive, monkeypatch):
    monkeypatch.setenv("LESION_MAX_RECORDS", "200")
    counts = append_records(open_workspace())
    assert (counts["read"], counts["is_complete"]) == (200, False)
    assert append_records(open_workspace())["read"] == 0
    assert reconcile_records(open_workspace())["prefixes_read"] == 0
    assert sweep_records(open_workspace(), sweep_share=1.0)["read"] == 0

    monkeypatch.delenv("LESION_MAX_RECORDS")
    assert append_records(open_workspace())["new"] == 100
    assert listed_ids() == archive.ids()


def test_growth_costs_only_what_is_new(archive):
    append_records(open_workspace())
    added = archive.admin("grow", images=150)["added"]

    counts = append_records(open_workspace())

    assert counts["new"] == 150
    assert counts["read"] < 300
    assert listed_ids() == archive.ids() >= set(added)


def test_a_record_read_again_unchanged_gets_no_new_version(archive):
    append_records(open_workspace())

    counts = sweep_records(open_workspace(), sweep_share=1.0)

    assert counts["read"] == 300
    assert counts["changed"] == 0
    assert scalar("SELECT max(version) FROM record_version") == 1


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("metadata", "edited"),
        ("relabel", "relabelled"),
        ("relicense", "relicensed"),
        ("attribution", "relicensed"),
    ],
)
def test_a_sweep_finds_edits_and_says_what_kind(archive, kind, word):
    append_records(open_workspace())
    moment = datetime.now(UTC)
    edited = archive.admin("edit", images=5, kind=kind)["edited"]

    assert append_records(open_workspace())["changed"] == 0
    assert reconcile_records(open_workspace())["changed"] == 0
    counts = sweep_records(open_workspace(), sweep_share=1.0)

    assert counts["changed"] == 5
    assert sorted(changes_since(moment)) == sorted((word, isic_id) for isic_id in edited)
    assert all(change.fields for change in list_changes(open_workspace(), moment))
    assert scalar("SELECT count(*) FROM record_version WHERE version = 1") == 300
    assert sweep_records(open_workspace(), sweep_share=1.0)["changed"] == 0


def test_sweeps_go_round_all_prefixes(archive):
    append_records(open_workspace())
    n_read = sum(sweep_records(open_workspace(), sweep_share=0.3)["read"] for _ in range(4))

    assert n_read >= 300
    assert scalar("SELECT count(*) FROM record WHERE last_seen_at = first_seen_at") == 0


def test_an_embargoed_image_published_behind_the_watermark_is_found_by_counting(archive):
    archive.admin("grow", images=20, embargoed=5)
    append_records(open_workspace())
    archive.admin("grow", images=10)
    append_records(open_workspace())
    released = archive.admin("release", images=5)["released"]

    assert len(released) == 5
    assert append_records(open_workspace())["new"] == 0
    counts = reconcile_records(open_workspace())

    assert counts["new"] == 5
    assert counts["prefixes_incomplete"] == 0
    assert listed_ids() == archive.ids()
    assert reconcile_records(open_workspace())["prefixes_read"] == 0


def test_withdrawal_needs_two_observations_in_two_runs(archive):
    append_records(open_workspace())
    gone = archive.admin("withdraw", images=3)["withdrawn"]

    first = reconcile_records(open_workspace(), confirm_after=AT_ONCE)
    assert (first["missing"], first["withdrawn"]) == (3, 0)
    assert scalar("SELECT count(*) FROM record WHERE withdrawn_at IS NOT NULL") == 0

    second = reconcile_records(open_workspace(), confirm_after=AT_ONCE)
    assert (second["missing"], second["withdrawn"]) == (0, 3)
    withdrawn = {row.isic_id for row in rows("SELECT isic_id FROM record WHERE withdrawn_at IS NOT NULL")}
    assert withdrawn == set(gone)
    assert scalar("SELECT count(*) FROM record_version") == 300


def test_a_retry_of_the_same_run_confirms_nothing(archive):
    append_records(open_workspace())
    archive.admin("withdraw", images=3)
    reconcile_records(open_workspace())

    assert reconcile_records(open_workspace())["withdrawn"] == 0


def test_a_withdrawn_image_can_come_back(archive):
    append_records(open_workspace())
    gone = archive.admin("withdraw", images=3)["withdrawn"]
    reconcile_records(open_workspace(), confirm_after=AT_ONCE)
    reconcile_records(open_workspace(), confirm_after=AT_ONCE)
    moment = datetime.now(UTC)
    archive.admin("return", ids=gone[0])

    counts = reconcile_records(open_workspace(), confirm_after=AT_ONCE)

    assert counts["returned"] == 1
    assert changes_since(moment) == [("returned", gone[0])]
    assert scalar("SELECT count(*) FROM record WHERE withdrawn_at IS NOT NULL") == 2
    assert scalar("SELECT count(*) FROM withdrawal WHERE returned_at IS NOT NULL") == 1


def test_an_image_that_returns_before_it_is_confirmed_was_never_withdrawn(archive):
    append_records(open_workspace())
    gone = archive.admin("withdraw", images=2)["withdrawn"]
    reconcile_records(open_workspace(), confirm_after=AT_ONCE)
    archive.admin("return", ids=",".join(gone))

    assert reconcile_records(open_workspace(), confirm_after=AT_ONCE)["withdrawn"] == 0
    assert scalar("SELECT count(*) FROM record WHERE missing_since IS NOT NULL") == 0
    assert listed_ids() == archive.ids()


def test_mass_disappearance_marks_nothing_and_is_red(archive):
    append_records(open_workspace())
    archive.admin("withdraw", images=60)

    for run_again in (
        lambda: reconcile_records(open_workspace()),
        lambda: sweep_records(open_workspace(), sweep_share=1.0),
    ):
        with pytest.raises(UnusableInputError, match=r"60 of 300 records have gone"):
            run_again()
    assert scalar("SELECT count(*) FROM record WHERE missing_since IS NOT NULL") == 0
    assert len(listed_ids()) == 300

    assert reconcile_records(open_workspace(), max_vanished_share=1.0)["missing"] == 60


def test_an_image_that_leaves_the_query_is_kept_with_its_new_version(archive, monkeypatch):
    monkeypatch.setenv("LESION_QUERY", "image_type:dermoscopic")
    append_records(open_workspace())
    n_before = len(listed_ids())
    isic_id = min(listed_ids())
    archive.admin("edit", body={"isic_id": isic_id, "changes": {"image_type": "clinical: close-up"}})

    counts = reconcile_records(open_workspace(), confirm_after=AT_ONCE)

    assert (counts["left_scope"], counts["missing"], counts["changed"]) == (1, 0, 1)
    assert len(listed_ids()) == n_before - 1
    newest = scalar(
        "SELECT document -> 'metadata' -> 'acquisition' ->> 'image_type' FROM record_version "
        "JOIN record USING (isic_id, version) WHERE isic_id = :id",
        id=isic_id,
    )
    assert newest == "clinical: close-up"
    assert reconcile_records(open_workspace(), confirm_after=AT_ONCE)["withdrawn"] == 0


def test_files_are_verified_and_stored_under_id_and_digest(pictures):
    append_records(open_workspace())

    counts = fetch_files(open_workspace())

    assert (counts["stored"], counts["refused"]) == (120, 0)
    bucket = open_bucket(read_settings())
    stored = rows("SELECT * FROM stored_file")
    assert {row.isic_id for row in stored} == pictures.ids()
    assert {row.object_key for row in stored} == set(bucket.list_keys("images/"))
    row = stored[0]
    assert row.object_key.startswith(f"images/thumbnail_256/{row.isic_id[5:7]}/{row.isic_id}-")
    assert len(bucket.get(row.object_key)) == row.size_bytes
    assert max(row.width_px, row.height_px) <= 256


def test_files_that_are_there_are_not_asked_for_again(pictures):
    ingest(open_workspace())

    assert fetch_ranges(open_workspace(), ranges=4) == []
    assert fetch_files(open_workspace())["stored"] == 0


def test_ranges_of_files_cover_all_and_overlap_nowhere(pictures):
    append_records(open_workspace())

    ranges = fetch_ranges(open_workspace(), ranges=4)

    bounds = [id_range.split(":") for id_range in ranges]
    assert len(ranges) == 4
    assert sorted(bounds) == bounds
    assert all(end < start for (_, end), (start, _) in pairwise(bounds))
    assert [fetch_files(open_workspace(), id_range)["stored"] for id_range in ranges] == [30, 30, 30, 30]


@pytest.mark.parametrize(("per_range", "n_ranges"), [(5_000, 1), (50, 3), (1, 16)])
def test_ranges_are_sized_by_what_is_missing(pictures, monkeypatch, per_range, n_ranges):
    monkeypatch.setattr("lesion_tasks.ingest.fetch.FILES_PER_RANGE", per_range)
    append_records(open_workspace())

    assert len(fetch_ranges(open_workspace())) == n_ranges


def test_crowded_prefixes_are_divided_too():
    counts = [(f"ISIC_{number:04d}", 1_000) for number in range(24, 34)] + [("ISIC_9000", 5)]

    ranges = _cut(counts, 5)

    assert len(ranges) == 5
    assert ranges[0] == "ISIC_0024:ISIC_0025"
    assert ranges[-1] == "ISIC_0032:ISIC_9000"


def test_a_file_whose_record_says_another_size_is_fetched_again(pictures, picture_folder):
    ingest(open_workspace())
    isic_id = min(pictures.ids())
    before = scalar("SELECT sha256 FROM stored_file WHERE isic_id = :id", id=isic_id)
    write_picture(picture_folder / "images" / f"{isic_id}.jpg", np.random.default_rng(99))
    execute("UPDATE stored_file SET record_size_bytes = 1 WHERE isic_id = :id", id=isic_id)

    assert fetch_files(open_workspace())["stored"] == 1
    assert scalar("SELECT sha256 FROM stored_file WHERE isic_id = :id", id=isic_id) != before
    assert len(list(open_bucket(read_settings()).list_keys("images/"))) == 121


def test_everything_at_once_and_again(pictures):
    first = ingest(open_workspace())
    second = ingest(open_workspace())

    assert first["append"]["new"] == first["fetch"]["stored"] == 120
    assert second["append"]["new"] == second["fetch"]["stored"] == second["sweep"]["changed"] == 0
    assert {kind for kind, _ in changes_since(LONG_AGO)} == {"new"}


def test_two_scopes_share_one_catalogue(archive):
    ingest(open_workspace(), query="image_type:dermoscopic", passes=("append",))
    n_dermoscopic = scalar("SELECT count(*) FROM record")

    counts = ingest(open_workspace(), query="", passes=("append",))

    assert 0 < n_dermoscopic < 300
    assert counts["append"]["new"] == 300 - n_dermoscopic
    assert scalar("SELECT count(*) FROM scope") == 2
    assert scalar("SELECT max(version) FROM record_version") == 1


def test_collections_limit_a_scope_and_share_the_catalogue_with_another(archive):
    counts = ingest(open_workspace(), collections="2", passes=("append",))
    n_in_two = counts["append"]["new"]
    again = ingest(open_workspace(), collections="3, 2,2", passes=("append",))

    assert 0 < n_in_two < 300
    assert (
        again["append"]["read"] > again["append"]["new"] == scalar("SELECT count(*) FROM record") - n_in_two
    )
    assert [row.collections for row in rows("SELECT collections FROM scope ORDER BY 1")] == ["2", "2,3"]
    assert reconcile_records(open_workspace(), collections="2,3")["prefixes_read"] == 0


def test_a_withdrawal_that_one_scope_sees_counts_in_both_and_a_return_too(archive):
    for query in ("", "image_type:dermoscopic"):
        ingest(open_workspace(), query=query, passes=("append",))
    in_both = rows("SELECT isic_id FROM scope_record GROUP BY 1 HAVING count(*) = 2 LIMIT 1")[0].isic_id
    archive.admin("withdraw", ids=in_both)
    for _ in range(2):
        reconcile_records(open_workspace(), query="image_type:dermoscopic", confirm_after=AT_ONCE)
    assert scalar("SELECT isic_id FROM record WHERE withdrawn_at IS NOT NULL") == in_both

    archive.admin("return", ids=in_both)
    reconcile_records(open_workspace(), query="image_type:dermoscopic", confirm_after=AT_ONCE)

    assert scalar("SELECT count(*) FROM record WHERE withdrawn_at IS NOT NULL") == 0
    assert scalar("SELECT count(*) FROM scope_record WHERE missing_since IS NOT NULL") == 0


def test_credentials_of_an_address_are_neither_stored_nor_logged(archive, caplog, monkeypatch):
    caplog.set_level("DEBUG")
    address = archive.url.replace("http://", "http://user:hidden@")

    counts = ingest(open_workspace(), source=address, passes=("append", "reconcile"))

    assert counts["append"]["new"] == 300
    stored = rows(
        "SELECT scope::text AS text FROM scope UNION ALL SELECT record_version::text FROM record_version"
    )
    assert not any("hidden" in row.text for row in stored)
    assert "hidden" not in caplog.text + str(counts)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"query": "created:[2020 TO *]"}, "query 'created:"),
        ({"query": "diagnosis:melanoma"}, "Could not parse search query"),
        ({"collections": "1,two"}, "'two' found, expected numbers"),
        ({"passes": ("append", "everything")}, "everything"),
    ],
)
def test_wrong_input_is_named_at_once(archive, wrong, words):
    with pytest.raises(UnusableInputError, match=r".*") as refused:
        ingest(open_workspace(), **wrong)
    assert words in str(refused.value)
    assert scalar("SELECT count(*) FROM record") == 0


def test_a_wrong_address_is_named_at_once(settings):
    with pytest.raises(
        UnusableInputError, match=r"http://127\.0\.0\.1:9/api/v2/images/search/ cannot be reached"
    ):
        ingest(open_workspace())


def test_a_pass_before_any_poll_says_so(archive):
    with pytest.raises(UnusableInputError, match="never polled"):
        fetch_files(open_workspace())


def test_faults_lose_nothing(pictures):
    spec = "429=0.01,500=0.01,reset=0.01,truncate=0.02,wrong=0.02,html200=0.01,html502=0.01,retry_after=0"
    pictures.admin("faults", spec=spec + ",seed=5")

    counts = ingest(open_workspace(), retry=FAST)

    assert counts["append"]["new"] == counts["fetch"]["stored"] + counts["fetch"]["refused"] == 120
    assert listed_ids() == pictures.ids()
    pictures.admin("faults")
    # Whose downloads all met with a fault, which depends on their order: refused with a reason, and tried again.
    again = fetch_files(open_workspace(), retry_refused_after=None)
    assert again["stored"] == counts["fetch"]["refused"] <= 2
    disturbed = rows("SELECT isic_id, sha256, object_key FROM stored_file ORDER BY 1")
    execute("DELETE FROM stored_file")
    fetch_files(open_workspace())
    assert rows("SELECT isic_id, sha256, object_key FROM stored_file ORDER BY 1") == disturbed
