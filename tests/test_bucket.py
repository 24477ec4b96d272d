"""One contract for both back ends: what a directory promises, S3 promises too."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.bucket import (
    ABANDONED_AFTER_S,
    PARTS,
    Bucket,
    DirectoryBucket,
    MissingObjectError,
    S3Bucket,
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
    assert bucket.exists("images/ISIC_0000001.jpg")


def test_a_missing_object_is_named(bucket: Bucket) -> None:
    assert not bucket.exists("images/none.jpg")
    for read in (bucket.get, bucket.local_path):
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
    with pytest.raises(ValueError, match="no object key"):
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
    with pytest.raises(UnusableInputError, match=r"s3://lesion-no-such-bucket: no such bucket"):
        S3Bucket("s3://lesion-no-such-bucket", cache=tmp_path)


def test_an_unreachable_server_is_named_and_may_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(UnavailableError, match=r"s3://anything cannot be reached.*127\.0\.0\.1:9"):
        S3Bucket("s3://anything", cache=tmp_path)


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
