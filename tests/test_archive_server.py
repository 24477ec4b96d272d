import gzip
import hashlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from contextlib import closing, contextmanager
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from archive_server.faults import FaultPlan, parse_faults, scripted
from archive_server.holdings import Holdings
from archive_server.hosting import running
from archive_server.paging import Cursor, InvalidCursorError, InvalidPositionError, decode_cursor, paginate
from archive_server.server import build_app
from archive_server.sources import FolderSource, SyntheticSource, source_from_text
from archive_server.state import State, load_state
from lesion_tasks import UnusableInputError

SECOND_US = 1_000_000


def catalogue_of(source, state_path=None):
    return Holdings(source, load_state(state_path, source.name))


@contextmanager
def serving(source, *, state_path=None, **options):
    with running(build_app(catalogue_of(source, state_path), **options)) as origin:
        yield Client(origin)


class Client:
    """Requests as they are sent, answers as they come: nothing followed, nothing decoded."""

    def __init__(self, origin):
        self.origin = origin

    def ask(self, path, method="GET", headers=None, body=None):
        parts = urlsplit(path if path.startswith("http") else self.origin + path)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        with closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)) as connection:
            connection.request(method, target, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def json(self, path, method="GET", body=None):
        status, _, content = self.ask(path, method, body=body)
        assert status == 200, content
        return json.loads(content)

    def api(self, path):
        return self.json("/api/v2/" + path)

    def crawl(self, path="images/"):
        """Follow `next` to the end -> ids in the order they came."""
        url, isic_ids = "/api/v2/" + path, []
        while url:
            page = self.json(url)
            isic_ids += [record["isic_id"] for record in page["results"]]
            url = page["next"]
        return isic_ids

    def count(self, query=""):
        return self.api(f"images/search/?query={quote(query)}&limit=1")["count"]


@pytest.fixture(scope="module")
def archive():
    with serving(SyntheticSource(250, seed=1)) as client:
        yield client


def crawl_keys(keys, limit, n_pages_at_most=10_000):
    """Follow next cursors over bare keys -> the indices seen."""
    seen, cursor = [], Cursor()
    for _ in range(n_pages_at_most):
        page = paginate(keys, cursor, limit)
        seen += page.indices
        if page.next is None:
            return seen
        cursor = decode_cursor(page.next.encode())
    return seen


# Cursors.


@pytest.mark.parametrize("limit", [1, 3, 7, 99, 100])
def test_without_ties_a_crawl_sees_every_record_once(limit):
    assert crawl_keys([step * SECOND_US for step in range(330)], limit) == list(range(330))


@pytest.mark.parametrize(("limit", "n_lost"), [(1, 164), (3, 82), (99, 3), (100, 0)])
def test_ties_lose_records_when_the_limit_is_small(limit, n_lost):
    keys = [step // 2 * SECOND_US for step in range(330)]
    assert 330 - len(set(crawl_keys(keys, limit))) == n_lost


def test_a_hundred_records_at_one_instant_repeat_forever():
    page = paginate([0] * 250, Cursor(), 100)
    assert page.next == Cursor(100, reverse=False, position=None)
    again = paginate([0] * 250, decode_cursor(paginate([0] * 250, page.next, 100).next.encode()), 100)
    assert again.indices == range(100, 200)
    assert again.next is not None


def test_walking_back_from_the_end_sees_every_record_once():
    keys = [step * SECOND_US for step in range(250)]
    page = paginate(keys, Cursor(reverse=True), 40)
    assert (page.count, page.next) == (250, None)
    seen = list(page.indices)
    while page.previous:
        page = paginate(keys, page.previous, 40)
        seen = [*page.indices, *seen]
    assert seen == list(range(250))


def test_a_negative_limit_gives_an_empty_page_that_skips_records():
    keys = [step * SECOND_US for step in range(250)]
    page = paginate(keys, Cursor(), -5)
    assert list(page.indices) == []
    assert paginate(keys, page.next, 1).indices[0] == 101


def test_a_cursor_is_spelled_as_the_archive_spells_it():
    text = "cD0yMDIwLTAxLTAxKzEyJTNBMDAlM0EwMS4xMjM0NTYlMkIwMCUzQTAw"
    cursor = decode_cursor(text)
    assert cursor == Cursor(position="2020-01-01 12:00:01.123456+00:00")
    assert cursor.encode() == text
    assert Cursor(reverse=True).encode() == "cj0x"


def test_an_offset_is_clamped_to_a_hundred():
    assert decode_cursor(Cursor(offset=5000).encode()).offset == 100


@pytest.mark.parametrize(
    "position",
    ["2020-06-01", "2020-06-01 00:00:00", "2020-06-01T00:00:00Z", "2020-6-1", "2020-06-01T02:00:00+02:00"],
)
def test_a_cursor_made_by_hand_starts_after_any_date(position):
    keys = [1_590_969_600 * SECOND_US + step * SECOND_US for step in range(-5, 5)]  # around 2020-06-01
    assert paginate(keys, Cursor(position=position), 100).indices == range(6, 10)


@given(st.one_of(st.text(max_size=40), st.binary(max_size=40).map(lambda data: b64encode(data).decode())))
def test_any_text_is_a_cursor_or_refused(text):
    try:
        page = paginate([0, SECOND_US], decode_cursor(text), 100)
    except (InvalidCursorError, InvalidPositionError):
        return
    assert len(page.indices) <= 2


# Listing.


def test_a_crawl_lists_every_image_once_in_order_of_creation(archive):
    isic_ids = archive.crawl()
    assert len(isic_ids) == len(set(isic_ids)) == 250
    assert isic_ids == archive.crawl("images/?limit=7")


def test_the_first_page_alone_has_a_count(archive):
    page = archive.api("images/?limit=100")
    assert (page["count"], page["previous"]) == (250, None)
    following = archive.json(page["next"])
    assert following["count"] is None
    assert following["previous"] is not None


def test_one_request_finds_the_newest_image_and_its_instant(archive):
    page = archive.api("images/?limit=1&cursor=cj0x")
    assert [record["isic_id"] for record in page["results"]] == archive.crawl()[-1:]
    assert (page["count"], page["next"]) == (250, None)
    position = decode_cursor(parse_qs(urlsplit(page["previous"]).query)["cursor"][0]).position
    beyond = archive.api("images/?cursor=" + quote(Cursor(position=position).encode()))
    assert (beyond["results"], beyond["next"]) == ([], None)
    assert beyond["previous"] is not None


def test_links_keep_unknown_parameters_and_sort_them(archive):
    link = archive.api("images/?zebra=1&limit=2&apple=x")["next"]
    assert link.startswith(archive.origin + "/api/v2/images/?apple=x&cursor=")
    assert link.endswith("&limit=2&zebra=1")


@pytest.mark.parametrize(
    ("limit", "length"), [("0", 100), ("", 422), ("101", 100), ("100000", 100), ("-1", 0), ("3", 3)]
)
def test_limits_are_clamped_and_never_refused_for_their_size(archive, limit, length):
    status, _, content = archive.ask(f"/api/v2/images/?limit={limit}")
    assert (status if status == 422 else len(json.loads(content)["results"])) == length


def test_the_last_of_two_limits_wins(archive):
    assert len(archive.api("images/?limit=1&limit=2")["results"]) == 2


@pytest.mark.parametrize("cursor", ["AAAA", ""])
def test_a_corrupt_cursor_that_decodes_silently_starts_over(archive, cursor):
    assert archive.api(f"images/?cursor={cursor}")["count"] == 250


def test_a_record_has_the_keys_of_the_api_in_its_order(archive):
    record = archive.api("images/?limit=1")["results"][0]
    assert list(record) == ["isic_id", "copyright_license", "attribution", "files", "metadata", "public"]
    assert list(record["files"]) == ["full", "thumbnail_256"]
    assert list(record["metadata"]) == ["acquisition", "clinical"]
    assert archive.api(f"images/{record['isic_id']}/") == record


def test_unstable_ties_move_records_between_pages():
    with serving(SyntheticSource(330, tie_length=7), has_unstable_ties=True) as client:
        isic_ids = client.crawl()
        assert len(isic_ids) == 330
        assert len(set(isic_ids)) < 330


# Errors.


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("images/search/?query=created:2020", 400, {"message": "Could not parse search query."}),
        ("images/facets/?query=nonsense", 400, {"message": "Could not parse search query."}),
        (
            "images/?limit=ten",
            422,
            {
                "detail": [
                    {
                        "type": "int_parsing",
                        "loc": ["query", "limit"],
                        "msg": "Input should be a valid integer, unable to parse string as an integer",
                    }
                ]
            },
        ),
        (
            "images/?cursor=x",
            422,
            {
                "detail": [
                    {
                        "type": "value_error",
                        "loc": ["query", "cursor"],
                        "msg": "Value error, Invalid cursor.",
                        "ctx": {"error": "Invalid cursor."},
                    }
                ]
            },
        ),
        (
            "images/?cursor=cD1zb29u",  # p=soon
            422,
            {"detail": [{"loc": ["query", "cursor"], "msg": "Value error, Invalid cursor."}]},
        ),
        (
            "images/search/?collections=abc",
            422,
            {
                "detail": [
                    {
                        "type": "value_error",
                        "loc": ["query", "collections"],
                        "msg": "Value error, invalid literal for int() with base 10: 'abc'",
                        "ctx": {"error": "invalid literal for int() with base 10: 'abc'"},
                    }
                ]
            },
        ),
        ("images/ISIC_0000000/", 404, {"detail": "Not Found"}),
        ("images/..%2F..%2Fetc/", 404, {"detail": "Not Found"}),
        ("collections/999/", 404, {"detail": "Not Found"}),
        ("users/me/", 401, {"detail": "Unauthorized"}),
    ],
)
def test_errors_have_the_archives_bodies(archive, path, status, body):
    found, headers, content = archive.ask("/api/v2/" + path)
    assert (found, json.loads(content)) == (status, body)
    assert headers["Content-Type"] == "application/json; charset=utf-8"


def test_a_wrong_sort_of_collections_is_refused(archive):
    status, _, content = archive.ask("/api/v2/collections/?sort=size")
    assert status == 422
    assert json.loads(content)["detail"][0]["msg"] == "Input should be 'name' or 'created'"


@pytest.mark.parametrize(
    ("path", "status"), [("nothing/", 404), ("images/search/?query=age_approx:1e400", 500)]
)
def test_some_errors_are_html(archive, path, status):
    found, headers, content = archive.ask("/api/v2/" + path)
    assert found == status
    assert headers["Content-Type"].startswith("text/html")
    assert b"<html" in content


@pytest.mark.parametrize("method", ["POST", "HEAD", "DELETE"])
def test_other_methods_are_not_allowed(archive, method):
    status, headers, content = archive.ask("/api/v2/images/", method)
    assert (status, headers["Allow"]) == (405, "GET")
    assert content in (b"Method not allowed", b"")


def test_a_missing_slash_is_redirected(archive):
    status, headers, content = archive.ask("/api/v2/images?limit=1")
    assert (status, headers["Location"], content) == (301, "/api/v2/images/?limit=1", b"")


# Search, collections, totals.


def test_shards_by_id_prefix_count_every_image_once(archive):
    counts = [archive.count(f"isic_id:ISIC_{shard}*") for shard in range(10)]
    assert sum(counts) == 250


def test_a_search_pages_like_the_listing(archive):
    wanted = archive.crawl("images/search/?query=image_type:dermoscopic&limit=30")
    assert len(wanted) == len(set(wanted)) == archive.count("image_type:dermoscopic")
    assert archive.count("-image_type:dermoscopic") == 250 - len(wanted)


def test_many_ids_can_be_asked_for_at_once(archive):
    isic_ids = archive.crawl()[::3][:80]
    query = " OR ".join(f"isic_id:{isic_id}" for isic_id in isic_ids)
    assert archive.crawl(f"images/search/?query={quote(query)}") == isic_ids


def test_collections_are_unions_and_unknown_ones_are_empty(archive):
    entries = archive.api("collections/")["results"]
    assert [entry["id"] for entry in entries] == [3, 2, 1]  # newest first
    names = [entry["name"] for entry in archive.api("collections/?sort=name")["results"]]
    assert names == sorted(names)
    one, two = (set(archive.crawl(f"images/search/?collections={entry_id}")) for entry_id in (1, 2))
    assert set(archive.crawl("images/search/?collections=1,2")) == one | two
    assert archive.api("images/search/?collections=77")["count"] == 0
    assert archive.api("collections/1/")["pinned"] is True


def test_collections_page_by_the_same_scheme(archive):
    page = archive.api("collections/?limit=2")
    following = archive.json(page["next"])
    assert [entry["id"] for entry in page["results"] + following["results"]] == [3, 2, 1]


def test_facets_agree_with_counts(archive):
    facets = archive.api("images/facets/?query=" + quote("image_type:dermoscopic"))
    for bucket in facets["diagnosis_1"]["buckets"]:
        query = f"image_type:dermoscopic AND diagnosis_1:{bucket['key']}"
        assert archive.count(query) == bucket["doc_count"]
    assert facets["sex"]["meta"]["missing_count"] == archive.count("image_type:dermoscopic -sex:*")


def test_totals_and_licences_are_served(archive):
    assert archive.api("stats/")["image"]["public_images_count"] == 250
    assert archive.api("images/search/size/")["size"] > 250 * 1000
    assert archive.ask("/api/v2/zip-download/license-file/CC-0/")[0] == 200
    assert archive.ask("/api/v2/zip-download/license-file/MIT/")[0] == 404


def test_answers_are_compressed_when_the_client_accepts_it(archive):
    _, headers, content = archive.ask("/api/v2/images/", headers={"Accept-Encoding": "deflate, gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(content))["results"]) == 100


# Files.


def test_files_come_with_length_digest_and_disposition(archive):
    record = archive.api("images/?limit=1")["results"][0]
    status, headers, content = archive.ask(record["files"]["full"]["url"])
    assert status == 200
    assert int(headers["Content-Length"]) == len(content)
    assert headers["ETag"] == f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
    assert headers["Content-Disposition"] == "attachment"
    assert headers["Last-Modified"].endswith("GMT")
    acquisition = record["metadata"]["acquisition"]
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (acquisition["pixels_x"], acquisition["pixels_y"])


def test_a_file_is_not_sent_again_to_who_has_it(archive):
    url = archive.api("images/?limit=1")["results"][0]["files"]["full"]["url"]
    _, headers, content = archive.ask(url)
    assert archive.ask(url, headers={"If-None-Match": headers["ETag"]})[::2] == (304, b"")
    status, part_headers, part = archive.ask(url, headers={"Range": "bytes=100-199"})
    assert (status, part) == (206, content[100:200])
    assert part_headers["Content-Range"] == f"bytes 100-199/{len(content)}"
    assert archive.ask(url, "HEAD")[1]["Content-Length"] == str(len(content))


def test_the_recorded_size_may_be_off(archive):
    records = archive.api("images/?limit=20")["results"]
    sizes = [(record["files"]["full"]["size"], record["files"]["full"]["url"]) for record in records]
    assert any(size != len(archive.ask(url)[2]) for size, url in sizes)


def test_a_thumbnail_fits_inside_256_and_keeps_its_aspect(archive):
    for record in archive.api("images/?limit=8")["results"]:
        acquisition = record["metadata"]["acquisition"]
        with Image.open(io.BytesIO(archive.ask(record["files"]["thumbnail_256"]["url"])[2])) as image:
            assert max(image.size) == 256
            assert image.width / image.height == pytest.approx(
                acquisition["pixels_x"] / acquisition["pixels_y"], rel=0.01
            )


@pytest.mark.parametrize(
    "path", ["/images/ISIC_0000000.jpg", "/images/secret", "/thumbnails/ISIC_0000000_thumbnail.jpg"]
)
def test_a_file_that_is_not_there_is_a_404_in_xml(archive, path):
    status, headers, content = archive.ask(path)
    assert (status, headers["Content-Type"].partition(";")[0]) == (404, "application/xml")
    assert b"NoSuchKey" in content


# Folders.


def write_folder(root):
    root.mkdir()
    rows = ["isic_id,copyright_license,attribution,sex,image_type,pixels_x,pixels_y"]
    rows += ["ISIC_0000003,CC-0,A,male,dermoscopic,,", "ISIC_0000001,CC-BY,B,,dermoscopic,200,150"]
    rows += ["ISIC_0000002,CC-BY,B,,dermoscopic,,", "nonsense,CC-0,A,,,,", "ISIC_0000001,CC-0,A,,,,"]
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    Image.new("RGB", (600, 450), "brown").save(root / "ISIC_0000003.jpg")
    (root / "ISIC_0000002.jpg").write_text("this is no picture")
    return root


def test_a_folder_is_listed_in_row_order_with_or_without_its_files(tmp_path):
    source = FolderSource(write_folder(tmp_path / "download"))
    assert source.skipped == [
        "row 5: isic_id 'nonsense' is not ISIC_ and seven digits",
        "row 6: isic_id 'ISIC_0000001' is repeated",
    ]
    with serving(source) as client:
        records = client.api("images/")["results"]
        assert [record["isic_id"] for record in records] == ["ISIC_0000003", "ISIC_0000001", "ISIC_0000002"]
        whole, absent, damaged = records
        assert whole["metadata"]["acquisition"] == {
            "image_type": "dermoscopic",
            "pixels_x": 600,
            "pixels_y": 450,
        }
        assert whole["metadata"]["clinical"] == {"sex": "male"}
        assert len(client.ask(whole["files"]["full"]["url"])[2]) == whole["files"]["full"]["size"]
        with Image.open(io.BytesIO(client.ask(whole["files"]["thumbnail_256"]["url"])[2])) as thumbnail:
            assert thumbnail.size == (256, 192)
        assert client.ask(absent["files"]["full"]["url"])[0] == 404
        assert client.ask(damaged["files"]["full"]["url"])[2] == b"this is no picture"
        assert client.ask(damaged["files"]["thumbnail_256"]["url"])[2] == b"this is no picture"
        assert client.ask("/admin/grow?images=1", "POST")[0] == 400


def test_small_pictures_are_never_enlarged(tmp_path):
    root = tmp_path / "small"
    (root / "images").mkdir(parents=True)
    (root / "metadata.csv").write_text("isic_id\nISIC_0000001\n")
    Image.new("RGB", (200, 150)).save(root / "images" / "ISIC_0000001.jpg")
    with serving(FolderSource(root)) as client:
        content = client.ask("/thumbnails/ISIC_0000001_thumbnail.jpg")[2]
        with Image.open(io.BytesIO(content)) as thumbnail:
            assert thumbnail.size == (200, 150)


# Change.


def test_growth_appends_and_changes_nothing_before(tmp_path):
    state_path = tmp_path / "state.json"
    with serving(SyntheticSource(120, seed=2), state_path=state_path) as client:
        before = client.api("images/?limit=100")["results"]
        watermark = decode_cursor(
            parse_qs(urlsplit(client.api("images/?limit=1&cursor=cj0x")["previous"]).query)["cursor"][0]
        )
        added = client.json("/admin/grow?images=30", "POST")["added"]
        assert client.crawl("images/?cursor=" + quote(Cursor(position=watermark.position).encode())) == added
        assert client.api("images/?limit=100")["results"] == before
    with serving(SyntheticSource(120, seed=2), state_path=state_path) as client:
        assert client.count() == 150
        assert client.crawl()[-30:] == added


def test_an_embargo_is_released_behind_the_watermark():
    with serving(SyntheticSource(40)) as client:
        added = client.json("/admin/grow?images=20&embargoed=5", "POST")["added"]
        assert len(added) == 15
        newest = client.crawl()[-1]
        released = client.json("/admin/release?images=5", "POST")["released"]
        isic_ids = client.crawl()
        assert len(isic_ids) == 60
        assert any(isic_ids.index(isic_id) < isic_ids.index(newest) for isic_id in released)


def test_a_withdrawn_image_is_gone_everywhere_until_it_returns(tmp_path):
    state_path = tmp_path / "state.json"
    with serving(SyntheticSource(60), state_path=state_path) as client:
        first = client.crawl()[0]
        url = client.api(f"images/{first}/")["files"]["full"]["url"]
        assert client.json(f"/admin/withdraw?ids={first}", "POST") == {"withdrawn": [first]}
        assert first not in client.crawl()
        assert client.count(f"isic_id:{first}") == 0
        assert client.ask(f"/api/v2/images/{first}/")[0] == client.ask(url)[0] == 404
    with serving(SyntheticSource(60), state_path=state_path) as client:
        assert client.count() == 59
        client.json(f"/admin/return?ids={first}", "POST")
        assert client.crawl()[0] == first


@pytest.mark.parametrize("kind", ["metadata", "relabel", "relicense", "attribution"])
def test_an_edit_changes_the_chosen_records_and_their_search_only(tmp_path, kind):
    state_path = tmp_path / "state.json"
    with serving(SyntheticSource(80), state_path=state_path) as client:
        before = {record["isic_id"]: record for record in client.api("images/")["results"]}
        edited = client.json(f"/admin/edit?images=5&kind={kind}", "POST")["edited"]
        after = {record["isic_id"]: record for record in client.api("images/")["results"]}
        crawled = client.crawl()
        assert len(edited) == 5
        assert {isic_id for isic_id in after if after[isic_id] != before[isic_id]} == set(edited)
    with serving(SyntheticSource(80), state_path=state_path) as client:
        assert client.crawl() == crawled
        for record in client.api("images/")["results"]:
            known = after[record["isic_id"]]
            # The URLs name the port, which is another one now.
            assert {**record, "files": None} == {**known, "files": None}
        if kind == "relabel":
            found = set(client.crawl("images/search/?query=diagnosis_1:Malignant"))
            for isic_id, changes in edited.items():
                assert (isic_id in found) == (changes["diagnosis_1"] == "Malignant")


def test_a_record_can_be_edited_exactly():
    with serving(SyntheticSource(20)) as client:
        isic_id = client.crawl()[3]
        body = json.dumps({"isic_id": isic_id, "changes": {"new_field": "x", "sex": None, "age_approx": 85}})
        client.json("/admin/edit", "POST", body=body)
        clinical = client.api(f"images/{isic_id}/")["metadata"]["clinical"]
        assert clinical["new_field"] == "x"
        assert clinical["age_approx"] == 85
        assert "sex" not in clinical


def test_replacing_a_file_changes_its_bytes_and_not_its_record():
    with serving(SyntheticSource(20)) as client:
        isic_id = client.crawl()[0]
        record = client.api(f"images/{isic_id}/")
        before = client.ask(record["files"]["full"]["url"])
        edited = client.json("/admin/edit?images=20&kind=file", "POST")["edited"]
        assert isic_id in edited
        after = client.ask(record["files"]["full"]["url"])
        assert before[2] != after[2]
        assert before[1]["ETag"] != after[1]["ETag"]
        assert client.api(f"images/{isic_id}/") == record


FOREIGN = [
    {"Host": "elsewhere.example"},
    {"Host": "127.0.0.1.elsewhere.example:80"},
    {"Host": "[::1"},
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_of_another_site_changes_nothing(headers):
    with serving(SyntheticSource(30, seed=1)) as client:
        status, _, content = client.ask("/admin/grow?images=3", "POST", headers=headers)
        assert status in (403, 421)
        assert b"elsewhere" not in content
        assert client.count() == 30


def test_a_foreign_name_is_answered_by_no_link_to_it(archive):
    status, _, content = archive.ask("/api/v2/images/", headers={"Host": "elsewhere.example"})
    assert (status, b"elsewhere" in content) == (421, False)


def test_it_is_asked_by_loopback_names_and_those_it_was_started_with():
    with serving(SyntheticSource(30, seed=1), names=frozenset({"archive"})) as client:
        for host in ("localhost:80", "127.0.0.9", "[::1]:8000", "archive:8000"):
            status, _, content = client.ask("/api/v2/images/?limit=1", headers={"Host": host})
            assert status == 200
            assert json.loads(content)["next"].startswith(f"http://{host}/")
        own = {"Origin": client.origin, "Sec-Fetch-Site": "same-origin"}
        assert client.ask("/admin/grow?images=3", "POST", headers=own)[0] == 200


@pytest.mark.parametrize(
    "path", ["grow", "grow?images=x", "edit?images=1&kind=no", "withdraw?ids=ISIC_0000000", "faults?spec=x=1"]
)
def test_wrong_admin_requests_say_what_is_wrong(path):
    with serving(SyntheticSource(5)) as client:
        status, _, content = client.ask(f"/admin/{path}", "POST")
        assert status == 400
        assert "expected" in json.loads(content)["error"]


def test_a_state_of_another_source_is_refused(tmp_path):
    State(source="synthetic:5:0", path=tmp_path / "state.json").save()
    with pytest.raises(UnusableInputError, match="synthetic:5:0"):
        load_state(tmp_path / "state.json", "synthetic:6:0")
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UnusableInputError, match="one that this server wrote"):
        load_state(tmp_path / "state.json", "synthetic:5:0")


# Faults.


def test_scripted_faults_happen_in_order_and_then_end():
    plan = FaultPlan(script=scripted(["429", "503", "502", "html200", "wrong", "ok"]), retry_after_s=3)
    with serving(SyntheticSource(5), fault_plan=plan) as client:
        url = "/api/v2/images/"
        status, headers, _ = client.ask(url)
        assert (status, headers["Retry-After"]) == (429, "3")
        assert [client.ask(url)[0] for _ in range(2)] == [503, 502]
        status, headers, _ = client.ask(url)
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/html")
        damaged, whole = client.ask(url), client.ask(url)
        assert damaged[0] == 200
        assert len(damaged[2]) == len(whole[2])
        assert damaged[2] != whole[2]


def test_a_truncated_body_ends_before_its_announced_length():
    with serving(SyntheticSource(5), fault_plan=FaultPlan(script=scripted(["truncate"]))) as client:
        with pytest.raises(http.client.IncompleteRead):
            client.ask("/api/v2/images/")
        assert client.ask("/api/v2/images/")[0] == 200


def test_latency_is_a_round_trip_and_a_new_connection_costs_another(monkeypatch):
    delays = []

    async def note(delay_s):
        delays.append(delay_s)

    with running(build_app(catalogue_of(SyntheticSource(5)), latency_ms=10)) as origin:
        monkeypatch.setattr("archive_server.server.asyncio.sleep", note)
        for n_requests in (2, 1):
            with closing(http.client.HTTPConnection(urlsplit(origin).netloc)) as connection:
                for _ in range(n_requests):
                    connection.request("GET", "/api/v2/images/?limit=1")
                    answer = connection.getresponse()
                    assert (answer.status, bool(answer.read())) == (200, True)
        monkeypatch.undo()

    assert delays == [0.02, 0.01, 0.02]


def test_a_reset_connection_is_reset():
    with serving(SyntheticSource(5), fault_plan=FaultPlan(script=scripted(["reset"]))) as client:
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            client.ask("/api/v2/images/")
        assert client.ask("/api/v2/images/")[0] == 200


def test_faults_by_chance_are_the_same_for_a_seed_and_as_frequent_as_asked():
    one, other = (parse_faults("503=0.03,reset=0.02,seed=9") for _ in range(2))
    drawn = [one.next_fault() for _ in range(5000)]
    assert drawn == [other.next_fault() for _ in range(5000)]
    assert sum(kind is not None for kind in drawn) / 5000 == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("text", ["503", "503=2", "fire=0.1", "503=0.6,reset=0.6", "seed=x"])
def test_a_wrong_fault_plan_is_refused(text):
    with pytest.raises(UnusableInputError, match="expected"):
        parse_faults(text)


# The program.


@contextmanager
def program(*arguments):
    command = [sys.executable, "-m", "archive_server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_program_prints_its_address_and_ends_cleanly_when_told(tmp_path):
    with program("--source", "synthetic:12:3", "--state", str(tmp_path / "state.json")) as process:
        line = process.stdout.readline()
        assert line.startswith("serving 12 images at http://127.0.0.1:")
        client = Client(line.split()[-1].removesuffix("/api/v2/"))
        client.json("/admin/grow?images=3", "POST")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""
    assert json.loads((tmp_path / "state.json").read_text())["n_images"] == 15


def test_the_program_refuses_a_port_in_use_at_once_and_names_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with program("--source", "synthetic:2", "--port", str(port)) as process:
            assert process.wait(timeout=20) == 1
            assert f"port {port} of 127.0.0.1: in use" in process.stderr.read()


def test_the_program_refuses_a_wrong_folder_at_once_and_names_it(tmp_path):
    with program("--source", str(tmp_path)) as process:
        assert process.wait(timeout=20) == 1
        assert (
            f"download folder {tmp_path}: found nothing in it, expected metadata.csv" in process.stderr.read()
        )
    with pytest.raises(UnusableInputError, match="found nothing, expected a folder"):
        source_from_text(os.fspath(tmp_path / "absent"))
