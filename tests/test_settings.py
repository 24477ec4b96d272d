"""Settings fail at once, and name the variable that is wrong."""

from pathlib import Path

import pytest

from lesion_tasks import UnusableInputError
from lesion_tasks.settings import PUBLIC_ARCHIVE_URL, read_settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LESION_ARCHIVE_URL", "ftp://archive", "expected an http or https address"),
        ("LESION_ARCHIVE_URL", "https://", "expected an http or https address"),
        ("LESION_MAX_RECORDS", "many", "expected a whole number of at least 1"),
        ("LESION_MAX_RECORDS", "0", "expected a whole number of at least 1"),
        ("LESION_DATABASE_URL", "mysql://host/lesions", "scheme 'mysql' found, expected postgresql"),
        ("LESION_BUCKET_URL", "s3://", "no bucket name"),
        ("LESION_BUCKET_URL", "gs://bucket", "expected a directory or s3://"),
        ("LESION_VARIANTS", "smoke,resnet", "unknown variant 'resnet', expected some of .*smoke"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(UnusableInputError, match=f"^{name}.*{message}"):
        read_settings({name: value})


def test_without_any_variable_everything_lies_under_one_folder_and_the_archive_is_the_public_one() -> None:
    found = read_settings({})
    assert found.home == Path("var").absolute()
    assert found.bucket_url == str(found.home / "bucket")
    assert found.database_url is None
    assert found.archive_url == PUBLIC_ARCHIVE_URL
    assert (found.variants, found.max_records, found.weights) == ((), None, "imagenet")


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
