"""What the archive's paging, records and files do to a naive reader, one test for each."""

import base64
import json
import math
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

import pytest
from aiohttp import web
from archives import FAST, execute, listed_ids, rows, scalar, serving, write_folder, write_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_server.hosting import running
from archive_server.sources import FolderSource, SyntheticSource
from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import ArchiveUnavailableError, Retry
from lesion_tasks.archive.page_cursor import Position, cursor_of, decode_cursor, encode_cursor
from lesion_tasks.archive.record import CheckedRecord, Refusal, check_record
from lesion_tasks.ingest.append import SPARE_PAGES, append_records, poll_archive
from lesion_tasks.ingest.download import MAX_BYTES
from lesion_tasks.ingest.fetch import fetch_files, fetch_ranges
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.ingest.reconcile import reconcile_records
from lesion_tasks.ingest.sweep import sweep_records
from lesion_tasks.workspace import open_workspace

AT_ONCE = timedelta(0)


def everything_listed(archive):
    return listed_ids() == archive.ids()


# --- Paging -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_length", [2, 7, 60])
def test_records_lost_in_ties_are_found_by_counting(settings, monkeypatch, tie_length):
    source = SyntheticSource(450, seed=2, tie_length=tie_length)
    with serving(source, monkeypatch, has_unstable_ties=True) as archive:
        append_records(open_workspace())
        reconcile_records(open_workspace())

        assert everything_listed(archive)


@pytest.mark.parametrize("tie_length", [100, 101, 130, 250, 450, 1000])
def test_pages_that_repeat_for_ever_end_and_lose_nothing(settings, monkeypatch, tie_length):
    with serving(SyntheticSource(1000, seed=2, tie_length=tie_length), monkeypatch) as archive:
        append_records(open_workspace())
        reconcile_records(open_workspace())
        reconcile_records(open_workspace())

        assert everything_listed(archive)


def test_a_next_link_that_never_changes_ends(settings, monkeypatch):
    def repeat(request, body):
        if body.get("next"):
            body["next"] = body["next"].split("cursor=")[0] + "cursor=b3BhcXVl"
        return body

    with serving(SyntheticSource(250, seed=2), monkeypatch, tamper=repeat):
        assert append_records(open_workspace())["is_complete"] is False


def refusing_every_cursor(request, body):
    return (
        web.json_response({"detail": [{"loc": ["query", "cursor"]}]}, status=422)
        if request.query.get("cursor")
        else body
    )


def test_an_archive_that_takes_none_of_its_own_cursors_is_unavailable(settings, monkeypatch):
    with (
        serving(SyntheticSource(250, seed=2), monkeypatch, tamper=refusing_every_cursor),
        pytest.raises(ArchiveUnavailableError, match="status 422 for cursor"),
    ):
        append_records(open_workspace())


def never_ending(request, body):
    """Each page names a next one, a second later, as if there were always more."""
    if "cursor" in request.query and request.query.get("limit") == "100":
        position = decode_cursor(request.query["cursor"]) or Position(datetime(2015, 1, 1, tzinfo=UTC))
        later = encode_cursor(Position(position.created_at + timedelta(seconds=1)))
        body["next"] = f"http://127.0.0.1/?cursor={later}"
    return body


def opaque_never_ending(request, body):
    """The same with cursors that no one can read, and nothing on the pages."""
    if request.query.get("limit") != "100":
        return body
    link = f"http://127.0.0.1/?cursor={uuid.uuid4().hex}"
    if "cursor" not in request.query:
        return body | {"next": link}
    return web.json_response({"results": [], "count": None, "next": link, "previous": None})


@pytest.mark.parametrize("tamper", [never_ending, opaque_never_ending])
def test_next_links_without_end_are_followed_as_far_as_the_announced_records_reach(
    settings, monkeypatch, tamper
):
    asked = Counter()

    def count(request, body):
        asked[request.query.get("limit")] += 1
        return tamper(request, body)

    with serving(SyntheticSource(150, seed=2), monkeypatch, tamper=count):
        assert append_records(open_workspace())["is_complete"] is False
        assert asked["100"] <= 2 * 2 + SPARE_PAGES + 1


@pytest.mark.parametrize(
    "moment", ["99999-01-01", "-0001-01-01", "9999-12-31T23:59:59-23:59", "0001-01-01", "2999-01-01"]
)
def test_an_impossible_time_in_a_cursor_is_no_watermark(settings, monkeypatch, moment):
    cursor = base64.b64encode(urlencode({"p": moment}).encode()).decode()

    def lie(request, body):
        if body.get("previous"):
            body["previous"] = f"http://127.0.0.1/?cursor={quote(cursor)}"
        return body

    assert decode_cursor(cursor) is None
    with serving(SyntheticSource(50, seed=2), monkeypatch, tamper=lie) as archive:
        assert append_records(open_workspace())["new"] == 50
        assert scalar("SELECT watermark_at FROM scope") is None
        archive.admin("grow", images=3)
        assert append_records(open_workspace())["new"] == 3


@pytest.mark.parametrize("link", ["http://[::1?cursor=cD0x", "http://x:99999/?cursor=cD0x", "nonsense"])
def test_a_malformed_link_is_told_in_one_line_or_does_no_harm(settings, monkeypatch, link):
    def lie(request, body):
        if body.get("next"):
            body["next"] = link
        return body

    with serving(SyntheticSource(250, seed=2), monkeypatch, tamper=lie):
        try:
            append_records(open_workspace())
        except ArchiveUnavailableError as error:
            assert "cursor" in str(error)
            assert "\n" not in str(error)


def test_a_next_link_to_another_host_is_not_followed_there(settings, monkeypatch):
    def lead_away(request, body):
        if body.get("next"):
            body["next"] = body["next"].replace("127.0.0.1", "elsewhere.example")
        return body

    with serving(SyntheticSource(250, seed=2), monkeypatch, tamper=lead_away) as archive:
        assert append_records(open_workspace())["is_complete"] is True
        assert everything_listed(archive)


@pytest.mark.parametrize("cursor", ["AAAA", "not base64", "cD1ub3doZXJl", "cD0yMDE1LTAxLTAx"])
def test_a_damaged_resume_point_loses_nothing(settings, monkeypatch, cursor):
    with serving(SyntheticSource(450, seed=2), monkeypatch) as archive:
        poll_archive(open_workspace())
        newest_at = scalar("SELECT (poll ->> 'newest_created_at')::timestamptz FROM scope")
        execute("UPDATE scope SET next_cursor = :c, next_watermark_at = :at", c=cursor, at=newest_at)

        append_records(open_workspace())
        reconcile_records(open_workspace())

        assert everything_listed(archive)
        assert scalar("SELECT next_cursor FROM scope") is None


def only_the_first_page_for_hand_made_cursors(request, body):
    position = decode_cursor(request.query.get("cursor"))
    if position and position.created_at.microsecond == 0 and request.query.get("limit") == "100":
        return web.json_response({"detail": [{"loc": ["query", "cursor"]}]}, status=422)
    return body


def test_a_refused_hand_made_cursor_falls_back_to_reading_everything(settings, monkeypatch):
    tamper = only_the_first_page_for_hand_made_cursors
    with serving(SyntheticSource(250, seed=2), monkeypatch, tamper=tamper) as archive:
        append_records(open_workspace())
        execute("UPDATE scope SET watermark_at = '2015-06-01'")
        execute("DELETE FROM scope_record")

        counts = append_records(open_workspace())

        assert counts["read"] == 250
        assert everything_listed(archive)


def test_a_silently_ignored_cursor_falls_back_to_reading_everything(settings, monkeypatch):
    ignored = []
    catalogue_pages = {}

    def ignore_once(request, body):
        if "cursor" not in request.query and request.query.get("limit") == "100":
            catalogue_pages["first"] = json.loads(json.dumps(body))
        position = decode_cursor(request.query.get("cursor"))
        if position and position.created_at.year == 2015 and position.created_at.month == 6 and not ignored:
            ignored.append(position)
            return catalogue_pages["first"]
        return body

    with serving(SyntheticSource(250, seed=2), monkeypatch, tamper=ignore_once) as archive:
        append_records(open_workspace())
        execute("UPDATE scope SET watermark_at = '2015-06-01 12:00+00'")
        execute("DELETE FROM scope_record")

        assert append_records(open_workspace())["read"] == 250
        assert ignored
        assert everything_listed(archive)


def test_without_counts_everything_is_read_and_nothing_is_declared_missing(settings, monkeypatch):
    def forget_count(request, body):
        if "count" in body:
            body["count"] = None
        return body

    with serving(SyntheticSource(150, seed=2), monkeypatch, tamper=forget_count) as archive:
        assert append_records(open_workspace())["new"] == 150
        archive.admin("withdraw", images=3)

        counts = reconcile_records(open_workspace(), confirm_after=AT_ONCE)

        assert counts["missing"] == 0
        assert counts["prefixes_incomplete"] == 10


def test_a_count_that_lies_marks_nothing_missing(settings, monkeypatch):
    def lie(request, body):
        if body.get("count"):
            body["count"] += 1
        return body

    with serving(SyntheticSource(150, seed=2), monkeypatch, tamper=lie) as archive:
        append_records(open_workspace())
        archive.admin("withdraw", images=3)

        assert reconcile_records(open_workspace(), confirm_after=AT_ONCE)["missing"] == 0


def detail_answers(response):
    def tamper(request, body):
        is_detail = "/search/" not in request.path
        return response() if is_detail else body

    return tamper


@pytest.mark.parametrize(
    "response",
    [
        lambda: web.Response(status=404, text="<html>", content_type="text/html"),
        lambda: web.Response(status=503),
        lambda: web.json_response({"detail": "Unauthorized"}, status=401),
    ],
    ids=["html", "busy", "login"],
)
def test_only_a_404_of_the_api_means_absence(settings, monkeypatch, response):
    retry = Retry(n_attempts=2, first_delay_s=0.01)
    with serving(SyntheticSource(150, seed=2), monkeypatch, tamper=detail_answers(response)) as archive:
        append_records(open_workspace())
        archive.admin("withdraw", images=1)

        with pytest.raises(ArchiveUnavailableError):
            reconcile_records(open_workspace(), confirm_after=AT_ONCE, retry=retry)
        assert scalar("SELECT count(*) FROM record WHERE missing_since IS NOT NULL") == 0


def test_an_answer_that_is_no_archives_is_named(settings, monkeypatch):
    def other_api(request, body):
        return {"items": [], "total": 0}

    with (
        serving(SyntheticSource(10, seed=2), monkeypatch, tamper=other_api),
        pytest.raises(UnusableInputError, match="answered with items, total, expected the results"),
    ):
        ingest(open_workspace())


# --- Cursors ----------------------------------------------------------------------------------------------------


def test_a_cursor_is_the_one_the_archive_writes():
    position = Position(datetime(2020, 1, 1, 12, 0, 1, 123456, UTC))

    assert encode_cursor(position) == "cD0yMDIwLTAxLTAxKzEyJTNBMDAlM0EwMS4xMjM0NTYlMkIwMCUzQTAw"
    assert decode_cursor(encode_cursor(position)) == position
    assert cursor_of("https://a/images/?cursor=cj0x&limit=1") == "cj0x"


@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_none(text):
    assert decode_cursor(text) is None or isinstance(decode_cursor(text), Position)


# --- Records ----------------------------------------------------------------------------------------------------


def record(isic_id="ISIC_0000001", **clinical):
    return {
        "isic_id": isic_id,
        "files": {"full": {"url": f"https://host/images/{isic_id}.jpg", "size": 10}},
        "metadata": {"acquisition": {"pixels_x": 8}, "clinical": clinical},
    }


def hash_with(part):
    """Of a record that holds `part` somewhere."""
    outcome = check_record({**record(), "held": part})
    assert isinstance(outcome, CheckedRecord)
    return outcome.record_hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (record(mel_thick_mm="0.50"), record(mel_thick_mm=0.5)),
        (record(mel_thick_mm="3.50"), record(mel_thick_mm="3.5")),
        (record(mel_thick_mm="3.00"), record(mel_thick_mm=3)),
        (record(age_approx=55), record(age_approx=55.0)),
        (record(sex=None), record()),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"url": "https://h/a.jpg?Expires=1&Signature=x"}, {"url": "https://h/a.jpg?Expires=2"}),
    ],
)
def test_spellings_of_one_record_have_one_hash(one, other):
    assert hash_with(one) == hash_with(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (record(mel_thick_mm="0.50"), record(mel_thick_mm="0.51")),
        (record(melanocytic=True), record(melanocytic=1)),
        (record(age_approx="55"), record(age_approx=55)),
        (record(sex="male"), record()),
        (record(anatom_site_general="torso"), record()),
        ({"url": "https://h/a.jpg"}, {"url": "https://h/b.jpg"}),
    ],
)
def test_different_records_have_different_hashes(one, other):
    assert hash_with(one) != hash_with(other)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (None, "not_an_object"),
        ([], "not_an_object"),
        ({}, "bad_id"),
        (record("ISIC_../../etc"), "bad_id"),
        (record("ISIC_00000012"), "bad_id"),
        (record("ISIC_000000\u0661"), "bad_id"),
        (record("isic_0000001"), "bad_id"),
        ({"isic_id": 1}, "bad_id"),
        ({"isic_id": "ISIC_0000001"}, "wrong_shape"),
        (record() | {"metadata": {"clinical": []}}, "wrong_shape"),
        (record() | {"files": {"full": {"size": 1}}}, "wrong_shape"),
        (record() | {"files": {"full": {"url": None}}}, "wrong_shape"),
        (record(note="a\x00b"), "not_storable"),
        (record(note="\ud800"), "not_storable"),
        (record(number=math.nan), "not_storable"),
        (record(number=math.inf), "not_storable"),
        (record(note="x" * 70_000), "too_large"),
    ],
)
def test_what_cannot_be_a_record_is_refused_with_a_reason(item, reason):
    refused = check_record(item)

    assert isinstance(refused, Refusal)
    assert refused.reason == reason
    assert refused.detail


def test_an_escaped_backslash_is_no_nul():
    assert isinstance(check_record(record(note="\\u0000")), CheckedRecord)


def test_refused_records_are_rows_and_the_others_are_kept(settings, monkeypatch):
    def damage(request, body):
        for index, item in enumerate(body.get("results", [])):
            if index % 50 == 0:
                body["results"][index] = item | {"isic_id": "ISIC_1"}
            elif index % 50 == 1:
                item["metadata"]["clinical"]["note"] = "\x00"
            elif index % 50 == 2:
                item["metadata"]["clinical"]["unheard_of"] = {"a": [1, None, "\u2603"]}
        return body

    with serving(SyntheticSource(150, seed=2), monkeypatch, tamper=damage):
        counts = append_records(open_workspace())

        assert (counts["new"], counts["refused"]) == (144, 6)
        reasons = rows("SELECT reason, count(*) FROM refused_record GROUP BY 1 ORDER BY 1")
        assert [tuple(row) for row in reasons] == [("bad_id", 3), ("not_storable", 3)]
        kept = "SELECT count(*) FROM record_version WHERE document -> 'metadata' -> 'clinical' ? 'unheard_of'"
        assert scalar(kept) == 3


def test_a_refused_record_that_is_mended_is_a_record(settings, monkeypatch):
    is_damaged = [True]

    def damage(request, body):
        for item in body.get("results", [])[:1]:
            if is_damaged[0]:
                item["metadata"] = None
        return body

    with serving(SyntheticSource(50, seed=2), monkeypatch, tamper=damage) as archive:
        append_records(open_workspace())
        assert scalar("SELECT count(*) FROM refused_record") == 1
        is_damaged[0] = False
        sweep_records(open_workspace(), sweep_share=1.0)

        assert scalar("SELECT count(*) FROM refused_record") == 0
        assert everything_listed(archive)


def test_a_known_refusal_does_not_make_its_shard_unequal(settings, monkeypatch):
    with serving(SyntheticSource(150, seed=2), monkeypatch) as archive:
        broken = min(archive.ids())

        def damage(request, body):
            for item in body.get("results", []):
                if item["isic_id"] == broken:
                    item["metadata"] = None
            return body

    with serving(SyntheticSource(150, seed=2), monkeypatch, tamper=damage):
        append_records(open_workspace())
        assert reconcile_records(open_workspace())["prefixes_read"] == 0


def test_decimals_as_numbers_make_no_new_version(settings, monkeypatch):
    as_numbers = [False]

    def respell(request, body):
        for item in body.get("results", []):
            clinical = item["metadata"]["clinical"]
            for field in {"clin_size_long_diam_mm", "mel_thick_mm"} & clinical.keys():
                clinical[field] = float(clinical[field]) if as_numbers[0] else clinical[field]
        return body

    with serving(SyntheticSource(300, seed=2), monkeypatch, tamper=respell):
        append_records(open_workspace())
        as_numbers[0] = True

        assert sweep_records(open_workspace(), sweep_share=1.0)["changed"] == 0


def test_a_removed_field_is_an_edit_and_its_old_value_is_kept(settings, monkeypatch):
    is_removed = [False]

    def remove(request, body):
        for item in body.get("results", []):
            if is_removed[0]:
                item["metadata"]["clinical"].pop("sex", None)
        return body

    with serving(SyntheticSource(100, seed=2), monkeypatch, tamper=remove):
        append_records(open_workspace())
        n_with_sex = scalar(
            "SELECT count(*) FROM record_version WHERE document -> 'metadata' -> 'clinical' ? 'sex'"
        )
        is_removed[0] = True

        assert 0 < sweep_records(open_workspace(), sweep_share=1.0)["changed"] == n_with_sex
        kept = "SELECT count(*) FROM record_version WHERE version = 1 AND document #> '{metadata,clinical}' ? 'sex'"
        assert scalar(kept) == n_with_sex


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=800, deadline=None)
@given(
    JSON
    | st.fixed_dictionaries(
        {"isic_id": st.just("ISIC_0000001") | JSON},
        optional={
            "metadata": JSON | st.fixed_dictionaries({"clinical": JSON, "acquisition": JSON}),
            "files": JSON | st.fixed_dictionaries({"full": JSON}),
            "mel_thick_mm": JSON,
        },
    )
)
def test_any_json_is_a_record_or_a_refusal_that_can_be_stored(item):
    outcome = check_record(item)

    if isinstance(outcome, Refusal):
        stored = outcome.detail + outcome.document
        assert outcome.reason
    else:
        stored = outcome.document
        assert check_record(json.loads(stored)).record_hash == outcome.record_hash
    assert "\x00" not in stored
    assert stored.encode()


# --- Files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("download") / "folder"
    write_folder(folder, 60)
    return folder


def pointing_to(url_of, n_records=1):
    """Change the file URL of the first `n_records` records of each page."""

    def tamper(request, body):
        for item in body.get("results", [])[:n_records]:
            for file in item["files"].values():
                file["url"] = url_of(file["url"])
        return body

    return tamper


@pytest.mark.parametrize(
    ("url_of", "reason"),
    [
        (lambda url: "https://elsewhere.example/a.jpg", "refused_url"),
        (lambda url: "file:///etc/passwd", "refused_url"),
        (lambda url: "", "refused_url"),
        (lambda url: "http://x:99999/", "refused_url"),
        (lambda url: "http://[::1", "refused_url"),
        (lambda url: url.replace("ISIC_", "ISIX_"), "file_missing"),
        (lambda url: url.split("/thumbnails/")[0].split("/images/")[0] + "/api/v2/stats/", "not_an_image"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_row_with_a_reason(settings, monkeypatch, folder, url_of, reason):
    with serving(FolderSource(folder), monkeypatch, tamper=pointing_to(url_of)):
        counts = ingest(open_workspace(), passes=("append", "fetch"), retry=FAST)

        assert (counts["fetch"]["stored"], counts["fetch"]["refused"]) == (59, 1)
        refused = rows("SELECT * FROM stored_file WHERE reason IS NOT NULL")
        assert [(row.reason, row.object_key, row.n_attempts) for row in refused] == [(reason, None, 1)]
        assert refused[0].detail


@pytest.mark.parametrize(
    "target", ["http://[::1", "http://127.0.0.1:99999/", "http://169.254.169.254/latest"]
)
def test_a_file_that_is_redirected_to_no_archive_is_a_row_and_the_others_go_on(
    settings, monkeypatch, folder, target
):
    async def redirect(request):
        return web.Response(status=302, headers={"Location": target})

    elsewhere = web.Application()
    elsewhere.router.add_get("/{path:.*}", redirect)
    with running(elsewhere) as origin:
        tamper = pointing_to(lambda url: f"{origin}/a.jpg")
        with serving(FolderSource(folder), monkeypatch, tamper=tamper):
            counts = ingest(open_workspace(), passes=("append", "fetch"), retry=FAST)
    assert (counts["fetch"]["stored"], counts["fetch"]["reasons"]) == (59, {"refused_url": 1})


def test_a_size_that_lies_is_no_reason_to_refuse_or_fetch_again(settings, monkeypatch, folder):
    def lie(request, body):
        for item in body.get("results", []):
            for file in item["files"].values():
                file["size"] = 1
        return body

    with serving(FolderSource(folder), monkeypatch, tamper=lie):
        counts = ingest(open_workspace())
        assert counts["fetch"]["stored"] == 60
        assert ingest(open_workspace())["fetch"]["stored"] == 0


def test_a_signature_that_changes_daily_is_no_reason_to_fetch_again(settings, monkeypatch, folder):
    day = [0]

    def sign(request, body):
        day[0] += 1
        return pointing_to(lambda url: f"{url}?Expires={day[0]}", 60)(request, body)

    with serving(FolderSource(folder), monkeypatch, tamper=sign):
        assert ingest(open_workspace())["fetch"]["stored"] == 60
        sweep_records(open_workspace(), sweep_share=1.0)
        assert scalar("SELECT max(version) FROM record_version") == 1
        assert fetch_files(open_workspace())["stored"] == 0
        assert scalar("SELECT count(*) FROM stored_file WHERE url LIKE '%?%'") == 0


def test_a_refused_file_is_tried_again_later_and_not_for_ever(settings, monkeypatch, folder):
    is_gone = [True]

    def lose(request, body):
        return pointing_to(lambda url: url.replace("ISIC_", "ISIX_"))(request, body) if is_gone[0] else body

    with serving(FolderSource(folder), monkeypatch, tamper=lose):
        ingest(open_workspace(), passes=("append", "fetch"))
        assert fetch_files(open_workspace())["refused"] == 0
        for n_attempts in range(2, 8):
            fetch_files(open_workspace(), retry_refused_after=AT_ONCE)
            tried = scalar("SELECT n_attempts FROM stored_file WHERE reason IS NOT NULL")
            assert tried == min(n_attempts, 5)

        is_gone[0] = False
        sweep_records(open_workspace(), sweep_share=1.0)
        assert fetch_files(open_workspace())["stored"] == 1
        assert scalar("SELECT count(*) FROM stored_file WHERE reason IS NOT NULL") == 0


def test_too_many_unusable_files_are_red_and_named_and_the_good_ones_stay(settings, monkeypatch, folder):
    tamper = pointing_to(lambda url: url.replace("ISIC_", "ISIX_"), 25)
    with serving(FolderSource(folder), monkeypatch, tamper=tamper):
        with pytest.raises(
            UnusableInputError, match=r"25 of 60 files cannot be used.*25 file_missing \(ISIC_"
        ):
            ingest(open_workspace(), passes=("append", "fetch"))
        assert scalar("SELECT count(*) FROM stored_file WHERE reason IS NULL") == 35


def test_a_fetch_that_failed_fails_again_when_repeated_at_once(settings, monkeypatch, folder):
    tamper = pointing_to(lambda url: url.replace("ISIC_", "ISIX_"), 25)
    with serving(FolderSource(folder), monkeypatch, tamper=tamper):
        with pytest.raises(UnusableInputError, match="25 of 60 files cannot be used"):
            ingest(open_workspace(), passes=("append", "fetch"))
        assert fetch_ranges(open_workspace()) == []
        (whole,) = fetch_ranges(open_workspace(), retry_refused_after=None)
        with pytest.raises(UnusableInputError, match=r"25 of (25|60) files cannot be used"):
            fetch_files(open_workspace(), whole, retry_refused_after=None)


@pytest.mark.parametrize(("reason", "is_tried"), [("unreachable", 1), ("file_missing", 0)])
def test_only_a_file_that_the_network_kept_back_is_tried_for_ever(
    settings, monkeypatch, folder, reason, is_tried
):
    with serving(FolderSource(folder), monkeypatch):
        ingest(open_workspace(), passes=("append", "fetch"))
        execute(f"""
            UPDATE stored_file SET reason = '{reason}', detail = 'gone', n_attempts = 9,
                object_key = NULL, sha256 = NULL, perceptual_hash = NULL, thumbprint = NULL,
                width_px = NULL, height_px = NULL, fetched_at = now() - interval '1 year'
            WHERE isic_id = (SELECT min(isic_id) FROM stored_file)
        """)
        assert fetch_files(open_workspace())["stored"] == is_tried


def test_files_over_the_cap_are_rows_with_a_reason(settings, monkeypatch, folder):
    monkeypatch.setitem(MAX_BYTES, "thumbnail_256", 100)
    with (
        serving(FolderSource(folder), monkeypatch),
        pytest.raises(UnusableInputError, match=r"60 of 60 .*60 too_large \(ISIC_.*expected at most 100"),
    ):
        ingest(open_workspace(), passes=("append", "fetch"))
    assert scalar("SELECT count(*) FROM stored_file WHERE reason = 'too_large'") == 60


def test_an_archive_that_goes_away_is_unavailable_and_its_files_are_not_refused(
    settings, monkeypatch, folder
):
    with serving(FolderSource(folder), monkeypatch):
        append_records(open_workspace())
    with pytest.raises(ArchiveUnavailableError):
        fetch_files(open_workspace(), retry=Retry(n_attempts=2, first_delay_s=0.01))
    assert scalar("SELECT count(*) FROM stored_file") == 0


def test_a_replacement_that_cannot_be_had_leaves_the_earlier_file(settings, monkeypatch, folder):
    is_gone = [False]

    def lose(request, body):
        return pointing_to(lambda url: url.replace("ISIC_", "ISIX_"))(request, body) if is_gone[0] else body

    with serving(FolderSource(folder), monkeypatch, tamper=lose):
        ingest(open_workspace())
        is_gone[0] = True
        sweep_records(open_workspace(), sweep_share=1.0)

        assert fetch_files(open_workspace())["reasons"]["file_missing"] >= 1
        assert scalar("SELECT count(*) FROM stored_file WHERE reason IS NULL") == 60


def test_a_damaged_file_on_the_server_is_refused_and_mended_when_replaced(settings, monkeypatch, tmp_path):
    import numpy as np

    isic_ids = write_folder(tmp_path / "folder", 30)
    bad = tmp_path / "folder" / "images" / f"{isic_ids[3]}.jpg"
    bad.write_bytes(b"no picture at all")
    with serving(FolderSource(tmp_path / "folder"), monkeypatch):
        counts = ingest(open_workspace())
        assert counts["fetch"]["reasons"] == {"not_an_image": 1}
        write_picture(bad, np.random.default_rng(1))

        assert fetch_files(open_workspace(), retry_refused_after=AT_ONCE)["stored"] == 1
