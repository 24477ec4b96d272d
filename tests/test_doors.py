"""Nonsense at every door, setting, option or form, ends with one line and never with a traceback."""

import pytest
from click.testing import CliRunner

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.__main__ import lesion
from lesion_tasks.archive.client import Retry
from lesion_tasks.bucket import open_bucket
from lesion_tasks.ingest.append import poll_archive
from lesion_tasks.settings import PREFIX, Settings, read_settings
from lesion_tasks.workspace import Workspace, open_workspace

NONSENSE = (
    "http://h:99999",
    "http://[::1",
    "http://somebody:secret@[::1/",
    "http://somebody:secret@h:port/",
    "http://127.0.0.1:9/",
    "http://169.254.169.254/",
    "http://" + "a" * 300 + "/",
    "s3://",
    "s3://UPPER CASE",
    "s3://somebody:secret@bucket/p",
    "postgresql://somebody:secret@h:99999/lesions",
    "postgresql://somebody:secret@127.0.0.1:9/lesions?port=nine",
    "postgresql+psycopg2://[::1/lesions",
    "file:///etc/passwd",
    "file:etc",
    "/etc/passwd",
    "/" + "a" * 5_000,
    "~",
    "-1",
    "\u00b2",
    "9" * 5_000,
    "(" * 3_000,
    "99999-01-01T00:00:00",
    "\x07",
    "\udcff",
    "a\nb",
    "{",
    "\U0001f600",
)
SETTINGS = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
ONCE = Retry(n_attempts=1, connect_timeout_s=1)


def assert_one_line(error):
    told = str(error)
    assert told
    assert "\n" not in told, told
    assert "secret" not in told, told
    assert len(told) < 1_500, told


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An environment in which nothing is started, and every address leads nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lesion_tasks.database.connection.WAITS_S", ())
    monkeypatch.setenv("LESION_HOME", str(tmp_path))
    monkeypatch.setenv("LESION_DATABASE_URL", "postgresql://127.0.0.1:9/lesions")
    monkeypatch.setenv("LESION_ARCHIVE_URL", "http://127.0.0.1:9/api/v2/")
    return tmp_path


def use_every_door(environ):
    workspace = Workspace(read_settings(environ))
    for step in (
        lambda: open_bucket(workspace.settings),
        lambda: workspace.engine if environ.get("LESION_DATABASE_URL") else None,
    ):
        try:
            step()
        except (UnusableInputError, UnavailableError) as error:
            assert_one_line(error)


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: ascii(value)[:40])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_taken_or_refused_in_one_line(home, name, value):
    try:
        use_every_door({"LESION_HOME": str(home), name: value})
    except (UnusableInputError, UnavailableError) as error:
        assert_one_line(error)
        assert name in str(error)


@pytest.mark.parametrize(
    "value", [v for v in NONSENSE if "\udcff" not in v], ids=lambda value: ascii(value)[:40]
)
@pytest.mark.parametrize(
    "name",
    ["AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS",
     "AWS_CONFIG_FILE", "HTTP_PROXY", "HTTPS_PROXY"],
)  # fmt: skip
def test_a_setting_of_the_bucket_is_taken_or_refused_in_one_line(home, monkeypatch, name, value):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's own retries
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises((UnusableInputError, UnavailableError)) as refused:
        open_bucket(read_settings({"LESION_HOME": str(home), "LESION_BUCKET_URL": "s3://bucket"}))
    assert_one_line(refused.value)
    assert "s3://bucket (LESION_BUCKET_URL)" in str(refused.value)


@pytest.mark.parametrize("trust", ["operator", "form"])
@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: ascii(value)[:40])
@pytest.mark.parametrize("name", ["source", "query", "collections"])
def test_what_an_ingestion_is_asked_for_is_refused_in_one_line(settings, name, value, trust):
    with pytest.raises((UnusableInputError, UnavailableError)) as refused:
        poll_archive(open_workspace(), **{name: value}, trust=trust, retry=ONCE)
    assert_one_line(refused.value)


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: ascii(value)[:40])
@pytest.mark.parametrize(
    "words",
    [
        ["vocabulary", "--source"],
        ["vocabulary", "--query"],
        ["vocabulary", "--collections"],
        ["changes", "--since"],
    ],
    ids=" ".join,
)
def test_an_option_of_the_command_line_is_refused_in_one_line(settings, words, value):
    result = CliRunner().invoke(lesion, [*words, value])
    if result.exit_code == 2:
        return  # click's own refusal, in its own words
    assert isinstance(result.exception, UnusableInputError | UnavailableError), result.output
    assert_one_line(result.exception)
