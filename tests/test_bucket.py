"""One contract for both back ends: what a directory promises, S3 promises too."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.bucket import (
    ABANDONED_AFTER_S,
    PARTS,
    AlteredObjectError,
    Bucket,
    DirectoryBucket,
    MissingObjectError,
    S3Bucket,
    reading_object,
    verified_path,
)


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[None]:
    """The S3 server that AWS_ENDPOINT_URL names, or an emulation of one on a free port."""
    if os.environ.get("AWS_ENDPOINT_URL"):
        yield
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    server.stop()


@pytest.fixture(params=["directory", "s3", "s3-with-prefix"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "directory":
        return DirectoryBucket(tmp_path / "bucket")
    request.getfixturevalue("s3_endpoint")
    bucket = f"lesion-test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    prefix = "/some/prefix" if request.param == "s3-with-prefix" else ""
    return S3Bucket(f"s3://{bucket}{prefix}", cache=tmp_path / "cache")


def test_what_was_put_is_read_back(bucket: Bucket) -> None:
    bucket.put("images/ISIC_0000001.jpg", b"first")
    bucket.put("images/ISIC_0000001.jpg", b"second")
    assert bucket.get("images/ISIC_0000001.jpg") == b"second"
    assert bucket.get("images/ISIC_0000001.jpg", at_most=3) == b"sec"
    assert bucket.exists("images/ISIC_0000001.jpg")


def test_a_missing_object_is_named(bucket: Bucket) -> None:
    assert not bucket.exists("images/none.jpg")
    for read in (bucket.get, bucket.local_path, bucket.digest):
        with pytest.raises(MissingObjectError, match=r"images/none\.jpg"):
            read("images/none.jpg")


def test_keys_are_listed_sorted_and_by_prefix(bucket: Bucket) -> None:
    for key in ("b/2", "a/10", "a/1", "ab/1", "a/sub/3"):
        bucket.put(key, b"")
    assert list(bucket.list_keys("a/")) == ["a/1", "a/10", "a/sub/3"]
    assert list(bucket.list_keys("a")) == ["a/1", "a/10", "a/sub/3", "ab/1"]
    assert len(list(bucket.list_keys())) == 5
    assert list(bucket.list_keys("nothing/")) == []


def test_deleting_twice_is_no_error(bucket: Bucket) -> None:
    bucket.put("a", b"1")
    bucket.delete("a")
    bucket.delete("a")
    assert not bucket.exists("a")


def test_a_file_is_stored_and_comes_back_as_a_file(bucket: Bucket, tmp_path: Path) -> None:
    source = tmp_path / "source.npy"
    source.write_bytes(b"0123456789" * 1000)
    bucket.put_file("pixels/a.npy", source)
    assert bucket.local_path("pixels/a.npy").read_bytes() == source.read_bytes()
    assert bucket.get("pixels/a.npy") == source.read_bytes()


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../a", "a/../b", "a//b", ".hidden", "a/.part", "a\x00b", "a b"]
)
def test_a_key_that_could_leave_the_bucket_is_refused(bucket: Bucket, key: str) -> None:
    with pytest.raises(ValueError, match="not an object key"):
        bucket.put(key, b"")


def test_concurrent_writers_leave_one_whole_object(bucket: Bucket) -> None:
    contents = [bytes([i]) * 200_000 for i in range(8)]
    writers = [threading.Thread(target=bucket.put, args=("contested", data)) for data in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert bucket.get("contested") in contents
    assert list(bucket.list_keys()) == ["contested"]


def test_a_write_that_fails_leaves_the_old_object(tmp_path: Path) -> None:
    bucket = DirectoryBucket(tmp_path)
    bucket.put("key", b"old")
    with pytest.raises(FileNotFoundError):
        bucket.put_file("key", tmp_path / "nowhere")
    assert bucket.get("key") == b"old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["key"]


def test_what_a_killed_writer_left_is_no_object_and_is_removed_after_a_day(tmp_path: Path) -> None:
    writer = (
        "import os, sys; from pathlib import Path; from lesion_tasks.bucket import DirectoryBucket\n"
        "with DirectoryBucket(Path(sys.argv[1]))._replacing('a/b') as part:\n"
        "    part.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", writer, tmp_path], check=False)
    assert list(DirectoryBucket(tmp_path).list_keys()) == []
    old, young = (path for path in tmp_path.rglob("*") if path.is_file())
    os.utime(old, (0, 0))

    bucket = DirectoryBucket(tmp_path)

    assert not old.exists()
    assert young.exists()
    assert not bucket.exists("a/b")


def test_what_a_killed_download_left_in_the_cache_is_removed_after_a_day(
    s3_endpoint: None, tmp_path: Path
) -> None:
    bucket = f"lesion-test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    parts = tmp_path / "s3" / bucket / PARTS
    parts.mkdir(parents=True)
    for name, age_s in (("old", ABANDONED_AFTER_S + 60), ("young", 60)):
        (parts / name).write_bytes(b"half")
        os.utime(parts / name, (time.time() - age_s,) * 2)
    bucket = S3Bucket(f"s3://{bucket}", cache=tmp_path)
    assert [path.name for path in parts.iterdir()] == ["young"]
    bucket.put("a/b", b"whole")
    assert bucket.local_path("a/b").read_bytes() == b"whole"
    assert [path.name for path in parts.iterdir()] == ["young"]


def test_a_bucket_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bucket").write_text("")
    with pytest.raises(UnusableInputError, match=r"bucket .*bucket"):
        DirectoryBucket(tmp_path / "bucket")


def test_a_bucket_that_does_not_exist_is_refused_by_name(s3_endpoint: None, tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match=r"s3://lesion-no-such-bucket .*: no such bucket"):
        S3Bucket("s3://lesion-no-such-bucket", cache=tmp_path)


def test_an_unreachable_server_is_named_and_may_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(
        UnavailableError, match=r"s3://anything \(LESION_BUCKET_URL\): .*127\.0\.0\.1:9.*AWS_ENDP"
    ):
        S3Bucket("s3://anything", cache=tmp_path)


class OldServer(BaseHTTPRequestHandler):
    """An S3 server as they were before 2025: what carries a checksum of the new kinds is refused.

    `answers` says otherwise for some objects: a status, or how many bytes short of its length a body ends.
    """

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}
    answers: ClassVar[dict[str, int]] = {}

    def log_message(self, *arguments: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", short_by: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if short_by or status >= 400:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) - short_by])
        self.close_connection = short_by > 0 or status >= 400

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())

    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        told = self.answers.get(name, 0)
        if told >= 400:
            self.refuse(told, "Told")
        elif name.count("/") == 1:
            self.reply(200)
        elif name not in self.objects:
            self.refuse(404, "NoSuchKey")
        else:
            self.reply(200, self.objects[name], short_by=told)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        named = " ".join(f"{name}={value}" for name, value in self.headers.items()).lower()
        if "x-amz-checksum" in named or "aws-chunked" in named or "x-amz-trailer" in named:
            self.refuse(501, "NotImplemented")
        elif (told := self.answers.get(self.path, 0)) >= 400:
            self.refuse(told, "Told")
        else:
            self.objects[self.path] = data
            self.reply(200)


@pytest.fixture
def old_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[OldServer]]:
    """It and its endpoint in the environment."""
    OldServer.objects, OldServer.answers = {}, {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), OldServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://somebody:secret@127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield OldServer
    server.shutdown()
    server.server_close()


def test_a_server_that_knows_no_new_checksums_stores_and_gives_back(old_server: Any, tmp_path: Path) -> None:
    bucket = S3Bucket("s3://old-bucket/p", cache=tmp_path / "cache")
    bucket.put("a/b", b"first")
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    bucket.put_file("a/c", tmp_path / "file")
    assert bucket.get("a/b") == b"first"
    assert bucket.local_path("a/c").read_bytes() == b"x" * 100_000
    assert not bucket.exists("a/d")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, UnusableInputError, "status 403 Told: access denied, see AWS_ACCESS_KEY_ID"),
        (400, UnusableInputError, "status 400 Told: the server rejects the request"),
        (501, UnusableInputError, "status 501 Told: see AWS_ENDPOINT_URL"),
        (503, UnavailableError, "status 503 Told: see AWS_ENDPOINT_URL"),
    ],
)
def test_what_a_server_refuses_is_one_line_with_bucket_key_and_setting(
    old_server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[Exception],
    words: str,
) -> None:
    bucket = S3Bucket("s3://old-bucket", cache=tmp_path / "cache")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's own retries
    old_server.answers["/old-bucket/a"] = status
    (tmp_path / "file").write_bytes(b"x")
    for call in (
        lambda: bucket.put("a", b"1"),
        lambda: bucket.put_file("a", tmp_path / "file"),
        lambda: bucket.get("a"),
        lambda: bucket.local_path("a"),
    ):
        with pytest.raises(kind) as refused:
            call()
        told = str(refused.value)
        assert told.startswith("bucket s3://old-bucket (LESION_BUCKET_URL): cannot ")
        assert " 'a': status " in told
        assert "\n" not in told
        assert "secret" not in told
        if call.__code__.co_names[-1] == "get":
            assert words in told


def test_an_object_that_ends_too_early_is_unavailable_in_one_line(old_server: Any, tmp_path: Path) -> None:
    bucket = S3Bucket("s3://old-bucket", cache=tmp_path / "cache")
    bucket.put("a", b"0123456789")
    old_server.answers["/old-bucket/a"] = 4
    with pytest.raises(
        UnavailableError, match=r"^bucket s3://old-bucket .*cannot get 'a': .*AWS_ENDPOINT_URL.*$"
    ):
        bucket.get("a")


def test_an_object_that_is_damaged_is_named_in_one_line(tmp_path: Path) -> None:
    bucket = DirectoryBucket(tmp_path)
    bucket.put("a.json", b"[1, 2")
    words = rf"^bucket {tmp_path} \(LESION_BUCKET_URL\): object 'a.json' is damaged: .+; expected it whole.*$"
    with pytest.raises(UnusableInputError, match=words), reading_object(bucket, "a.json"):
        json.loads(bucket.get("a.json"))
    with pytest.raises(MissingObjectError, match=r"no object 'b\.json'"), reading_object(bucket, "b.json"):
        bucket.get("b.json")


WHOLE = {"malignancy": {"training_id": "t", "model_key": "models/t.keras", "model_sha256": "0"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "champion.json' is damaged"),
        (b'{"malignancy": {', "champion.json' is damaged"),
        (b"[]", "champion.json' is damaged"),
        (b"\xff\xfe", "champion.json' is damaged"),
        (b'{"malignancy": "x"}', "champion.json' is damaged"),
        (b'{"malignancy": {}}', "champion.json' is damaged"),
        (
            json.dumps({"malignancy": WHOLE["malignancy"] | {"model_key": "../x"}}).encode(),
            "is not an object key",
        ),
        (json.dumps(WHOLE).encode(), "no object 'models/t.keras'"),
        (b"{}", "no champion of task 'malignancy'"),
        (None, "no champion of task 'malignancy'"),
    ],
)
def test_a_champion_that_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    from lesion_tasks.serving.serve import open_champion

    bucket = DirectoryBucket(tmp_path)
    if content is not None:
        bucket.put("champion.json", content)
    with pytest.raises(UnusableInputError, match=words) as refused:
        open_champion(bucket, "malignancy")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK"])
def test_a_damaged_shard_or_manifest_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    from lesion_tasks.pixels.shards import open_shard
    from lesion_tasks.splits.manifest import read_table

    bucket = DirectoryBucket(tmp_path)
    bucket.put("damaged", content)
    digest = hashlib.sha256(content).hexdigest()  # it was stored like this
    for read in (lambda: open_shard(bucket, "damaged", digest), lambda: read_table(bucket, "damaged")):
        with pytest.raises(UnusableInputError, match="object 'damaged' is damaged"):
            read()
    with pytest.raises(AlteredObjectError, match="shard damaged: SHA-256 is"):
        open_shard(bucket, "damaged", "0" * 64)


def test_an_altered_object_is_refused_and_a_damaged_copy_of_a_sound_one_is_fetched_again(
    bucket: Bucket,
) -> None:
    bucket.put("array", b"whole")
    digest = hashlib.sha256(b"whole").hexdigest()
    assert bucket.digest("array") == digest
    if not bucket.is_local:
        bucket.local_path("array").write_bytes(b"holed")
    assert verified_path(bucket, "array", digest, kind="shard").read_bytes() == b"whole"
    bucket.put("array", b"holed")
    if not bucket.is_local:
        bucket.local_path("array").unlink()
    with pytest.raises(AlteredObjectError, match="shard array: SHA-256 is"):
        verified_path(bucket, "array", digest, kind="shard")
    assert bucket.digest("array") != digest


FILL = """
import sys
from pathlib import Path
from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.bucket import DirectoryBucket

store = DirectoryBucket(Path(sys.argv[1]))
store.put("small", b"kept")
try:
    store.put("large", bytes(1_000_000))
except UnusableInputError as error:
    print(error)
assert list(store.list_keys()) == ["small"], list(store.list_keys())
assert store.get("small") == b"kept"
assert [path.name for path in store.root.rglob("*") if path.is_file()] == ["small"]
"""


SCRATCH = """
import os, sys
import numpy as np
from lesion_tasks import UnusableInputError
from lesion_tasks.scratch import scratch_file

def fill_by_write(path): path.write_bytes(bytes(1_000_000))
def fill_by_numpy(path): np.save(path, np.zeros(1_000_000, np.uint8))

for fill in (fill_by_write, fill_by_numpy):
    try:
        with scratch_file("large.npy") as path:
            fill(path)
    except UnusableInputError as error:
        print(error)
    assert os.listdir(sys.argv[1]) == []
"""


def run_on_a_small_disk(folder: Path, code: str) -> str:
    """Run code, with `folder` as its argument and TMPDIR, on a real file system of 200 kB; returns what it printed."""
    run = 'mount -t tmpfs -o size=200k none "$1" && TMPDIR="$1" exec "$2" -c "$3" "$1"'
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", run, "-"]
    result = subprocess.run(
        [*words, folder, sys.executable, code], capture_output=True, text=True, check=False
    )
    if "unshare failed" in result.stderr or "permission denied" in result.stderr.lower():
        pytest.skip("this machine lets nobody mount a file system of their own")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    said = run_on_a_small_disk(tmp_path, FILL)
    assert f"bucket {tmp_path}: disk full while writing 'large'" in said


def test_a_full_scratch_disk_is_named_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    said = run_on_a_small_disk(tmp_path, SCRATCH)
    assert said.splitlines() == [f"scratch folder {tmp_path}: disk full while writing 'large.npy'"] * 2
