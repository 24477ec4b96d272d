"""Which sources a form may name, and which only somebody at a terminal."""

import pytest
from archives import write_folder

from lesion_tasks import UnusableInputError
from lesion_tasks.ingest.scope import scope_key
from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "allowed" / "inside").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
    environment = {
        "LESION_ARCHIVE_URL": "http://archive.example:8000/api/v2/",
        "LESION_ARCHIVE_HOSTS": "mirror.example",
        "LESION_SOURCE_FOLDERS": str(tmp_path / "allowed"),
    }
    return Workspace(read_settings(environment))


@pytest.mark.parametrize(
    "source",
    [
        "http://169.254.169.254/latest/",
        "http://elsewhere.example/",
        "http://archive.example.elsewhere.example/",
        "http://localhost/",
        "{folder}/secret",
        "{folder}/allowed/../secret",
        "{folder}/allowed/link",
        "{folder}/allowedly",
        "{folder}/nowhere",
        "/etc",
        ".",
        "/" + "a" * 5_000,
    ],
)
def test_a_form_reaches_no_source_that_the_settings_do_not_allow(workspace, tmp_path, source):
    source = source.format(folder=tmp_path)
    (tmp_path / "secret" / "payroll.csv").write_text("")
    with pytest.raises(UnusableInputError, match="from a form, expected") as refused:
        scope_key(workspace, source, None, "", "form")
    told = str(refused.value)
    assert "payroll" not in told
    assert str(tmp_path / "allowed") not in told.replace(source[:200], "")
    # Whether it is there makes no difference to the words.
    assert "no such" not in told.lower()
    if len(source) < 4_000:
        assert scope_key(workspace, source, None, "", "operator").source


@pytest.mark.parametrize(
    "source",
    [
        None,
        "",
        "http://archive.example:8000/api/v2",
        "https://mirror.example/api/v2/",
        "https://api.isic-archive.com/api/v2/",
        "{folder}/allowed/inside",
        "{folder}/allowed",
    ],
)
def test_a_form_reaches_what_the_settings_allow(workspace, tmp_path, source):
    named = source and source.format(folder=tmp_path)
    assert scope_key(workspace, named, None, "", "form") == scope_key(workspace, named, None, "", "operator")


def test_a_folder_is_one_source_however_its_path_is_written(workspace, tmp_path, monkeypatch):
    (tmp_path / "there/deep").mkdir(parents=True)
    (tmp_path / "clinic").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there/deep")
    monkeypatch.chdir(tmp_path / "there")
    wanted = str(tmp_path / "clinic")
    for written in ("../clinic", "deep/../../clinic", f"{wanted}/", f"{tmp_path}/link/../../clinic"):
        assert scope_key(workspace, written, None, "").source == wanted
    assert scope_key(workspace, "../link", None, "").source == f"{tmp_path}/link"


def test_without_folders_in_the_settings_a_form_reaches_none(workspace, tmp_path):
    without = Workspace(workspace.settings.model_copy(update={"source_folders": ()}))
    with pytest.raises(UnusableInputError, match="LESION_SOURCE_FOLDERS"):
        scope_key(without, str(tmp_path / "allowed"), None, "", "form")


def test_a_password_in_a_form_is_refused_and_not_repeated(workspace):
    with pytest.raises(UnusableInputError, match="a user or password found") as refused:
        scope_key(workspace, "http://somebody:secret@archive.example/", None, "", "form")
    assert "secret" not in str(refused.value)
    key = scope_key(workspace, "http://somebody:secret@archive.example/", None, "", "operator")
    assert key.stored_source == "http://archive.example/"


@pytest.mark.parametrize("trust", ["operator", "form"])
@pytest.mark.parametrize(
    "source", ["file:///etc", "file:/etc", "FILE:///etc", "ftp://a/", "s3://bucket", "gopher://a"]
)
def test_what_is_neither_an_archives_address_nor_a_path_is_refused(workspace, source, trust):
    with pytest.raises(
        UnusableInputError, match="expected an http or https address, or the path of a folder"
    ):
        scope_key(workspace, source, None, "", trust)


def test_every_task_of_the_dag_says_that_its_source_is_from_a_form():
    pytest.importorskip("airflow")
    import ast
    from pathlib import Path

    source = (Path(__file__).parent.parent / "dags" / "ingest_isic.py").read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    passed = [ast.unparse(call) for call in calls if "open_workspace()" in map(ast.unparse, call.args)]
    assert len(passed) >= 10
    assert [call for call in passed if "**_scope(params)" not in call and "end_ingestion" not in call] == []
    assert '"trust": "form"}' in source


def test_a_folder_that_the_operator_names_is_read(tmp_path, workspace):
    write_folder(tmp_path / "anywhere", 3)
    assert scope_key(workspace, str(tmp_path / "anywhere"), None, "").source == str(tmp_path / "anywhere")
