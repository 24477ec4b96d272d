"""Settings fail at once, and name the variable that is wrong."""

from pathlib import Path

import pytest

from lesion_tasks import UnusableInputError
from lesion_tasks.settings import PUBLIC_ARCHIVE_URL, Settings, read_settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LESION_ARCHIVE_URL", "ftp://archive", "expected an http or https address"),
        ("LESION_ARCHIVE_URL", "https://", "expected an http or https address"),
        ("LESION_ARCHIVE_URL", "http://h:99999/", "port is not a number from 1 to 65535; expected an http"),
        ("LESION_ARCHIVE_URL", "http://[::1/api", "host is malformed; expected an http"),
        ("LESION_ARCHIVE_URL", "http://h/?a=b", "expected an http or https address"),
        ("LESION_ARCHIVE_URL", "not an address", "expected visible ASCII characters"),
        ("LESION_ARCHIVE_HOSTS", "a, http://b/", "'http://b/' found, expected names of hosts"),
        ("LESION_ARCHIVE_HOSTS", "a:80", "'a:80' found, expected names of hosts"),
        ("LESION_SOURCE_FOLDERS", "/data,relative", "'relative' found, expected absolute paths"),
        ("LESION_QUERY", "sex:\udcff", "expected printable characters in UTF-8"),
        ("LESION_HOME", "/a\x00b", "expected printable characters in UTF-8"),
        ("LESION_MAX_RECORDS", "9" * 5_000, "expected a whole number of at least 1"),
        ("LESION_MAX_RECORDS", "\u00b2", "expected a whole number of at least 1"),
        ("LESION_MAX_RECORDS", "many", "expected a whole number of at least 1"),
        ("LESION_MAX_RECORDS", "0", "expected a whole number of at least 1"),
        ("LESION_DATABASE_URL", "mysql://host/lesions", "scheme 'mysql' found, expected postgresql"),
        ("LESION_DATABASE_URL", "postgresql://h:99999/lesions", "port is not a number"),
        ("LESION_DATABASE_URL", "postgresql://[::1/lesions", "host is malformed"),
        ("LESION_DATABASE_URL", "nonsense", "no scheme found"),
        ("LESION_BUCKET_URL", "s3://", "no bucket name"),
        ("LESION_BUCKET_URL", "s3://bucket:80/a", "no name of a bucket"),
        ("LESION_BUCKET_URL", "s3://bucket/../a", "words between slashes"),
        ("LESION_BUCKET_URL", "s3://[::1", "no name of a bucket"),
        ("LESION_BUCKET_URL", "file://relative", "absolute path"),
        ("LESION_BUCKET_URL", "gs://bucket", "expected a directory or s3://"),
        ("LESION_VARIANTS", "smoke,resnet", "unknown variant 'resnet', expected one of .*smoke"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(UnusableInputError, match=f"^{name}.*{message}"):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LESION_ARCHIVE_URL", "ftp://somebody:secret@host/"),
        ("LESION_ARCHIVE_URL", "http://somebody:secret@host:99999/"),
        ("LESION_ARCHIVE_URL", "http://somebody:sec/ret@[::1/"),
        ("LESION_ARCHIVE_HOSTS", "http://somebody:secret@host/"),
        ("LESION_DATABASE_URL", "mysql://somebody:secret@host/lesions"),
        ("LESION_DATABASE_URL", "somebody:secret@host/lesions"),
        ("LESION_DATABASE_URL", "postgresql://somebody:secret@host:port/lesions"),
        ("LESION_BUCKET_URL", "gs://somebody:secret@bucket"),
        ("LESION_BUCKET_URL", "s3://somebody:secret@bucket/a b"),
        ("LESION_QUERY", "http://somebody:secret@host/\x07"),
    ],
)
def test_a_message_about_a_setting_holds_neither_user_nor_password(name: str, value: str) -> None:
    with pytest.raises(UnusableInputError, match=name) as refused:
        read_settings({name: value})
    assert not any(word in str(refused.value) for word in ("somebody", "sec", "ret"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("password", ["p[w", "p/w", "p?w", "p#w"])
def test_a_password_of_a_database_may_hold_what_a_host_may_not(password: str) -> None:
    url = f"postgresql+psycopg2://lesions:{password}@host:5432/lesions"
    assert read_settings({"LESION_DATABASE_URL": url}).database_url == url


def test_without_any_variable_everything_lies_under_one_folder_and_the_archive_is_the_public_one() -> None:
    found = read_settings({})
    assert found.home == Path("var").absolute()
    assert found.bucket_url == str(found.home / "bucket")
    assert found.database_url is None
    assert found.archive_url == PUBLIC_ARCHIVE_URL
    assert (found.variants, found.max_records, found.weights) == ((), None, "imagenet")
    assert found.source_folders == ()


def test_an_empty_variable_is_no_setting() -> None:
    names = ("LESION_HOME", "LESION_BUCKET_URL", "LESION_VARIANTS", "LESION_MAX_RECORDS", "LESION_WEIGHTS")
    assert read_settings(dict.fromkeys(names, "")) == read_settings({})


def test_an_empty_query_asks_for_everything_and_an_unset_one_for_dermoscopic_images() -> None:
    assert read_settings({"LESION_QUERY": ""}).query == ""
    assert read_settings({}).query == "image_type:dermoscopic"


def test_the_host_of_the_archive_may_be_named_in_records() -> None:
    found = read_settings(
        {"LESION_ARCHIVE_URL": "http://archive.example/api", "LESION_ARCHIVE_HOSTS": "a, b"}
    )
    assert found.archive_url == "http://archive.example/api/"
    assert {"archive.example", "a", "b"} <= found.archive_hosts


def test_settings_written_to_an_environment_are_read_back_the_same() -> None:
    found = read_settings(
        {
            "LESION_HOME": "/somewhere",
            "LESION_DATABASE_URL": "postgresql://lesions@host/lesions",
            "LESION_BUCKET_URL": "relative",
            "LESION_ARCHIVE_HOSTS": "a, b",
            "LESION_SOURCE_FOLDERS": "/data,/more",
            "LESION_QUERY": "",
            "LESION_MAX_RECORDS": "7",
            "LESION_VARIANTS": "smoke",
            "LESION_APPROVAL": "always",
            "LESION_APPROVERS": "ann, bob",
        }
    )
    assert found.bucket_url == str(Path("relative").absolute())
    assert read_settings(found.as_environment()) == found
    assert set(found.as_environment()) == {f"LESION_{name.upper()}" for name in Settings.model_fields} - {
        "LESION_CODE_VERSION"
    }
