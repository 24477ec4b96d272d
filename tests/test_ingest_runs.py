"""Runs of ingestion are rows: what changed since one, and when a pass was last done."""

import json
from datetime import UTC, datetime

import pytest
from archives import rows, serving
from click.testing import CliRunner

from archive_server.sources import SyntheticSource
from lesion_tasks import UnusableInputError
from lesion_tasks.__main__ import lesion
from lesion_tasks.ingest.append import append_records
from lesion_tasks.ingest.changes import list_changes
from lesion_tasks.ingest.passes import choose_passes
from lesion_tasks.ingest.runs import begin_ingestion, end_ingestion, last_done, moment_of
from lesion_tasks.ingest.sweep import sweep_records
from lesion_tasks.workspace import open_workspace


@pytest.fixture
def archive(settings, monkeypatch):
    with serving(SyntheticSource(60, seed=1), monkeypatch) as archive:
        yield archive


def test_changes_since_a_run_are_those_it_saw_and_later_ones(archive):
    begin_ingestion(open_workspace(), "manual__first")
    append_records(open_workspace())
    begin_ingestion(open_workspace(), "manual__second")
    edited = archive.admin("edit", images=3)["edited"]
    sweep_records(open_workspace(), sweep_share=1.0)

    assert len(list_changes(open_workspace(), moment_of(open_workspace(), "manual__first"))) == 63
    assert {
        change.isic_id
        for change in list_changes(open_workspace(), moment_of(open_workspace(), "manual__second"))
    } == set(edited)


def test_a_run_that_is_tried_again_keeps_its_beginning(archive):
    begin_ingestion(open_workspace(), "manual__1")
    began_at = moment_of(open_workspace(), "manual__1")
    begin_ingestion(open_workspace(), "manual__1")

    assert moment_of(open_workspace(), "manual__1") == began_at


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T06:00:00", datetime(2026, 1, 31, 6, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T06:00:00+02:00", datetime(2026, 1, 31, 4, tzinfo=UTC)),
    ],
)
def test_a_time_without_a_zone_is_in_utc(text, moment):
    assert moment_of(open_workspace(), text) == moment


def test_what_is_neither_a_time_nor_a_run_is_refused_with_the_runs_there_are(archive):
    begin_ingestion(open_workspace(), "manual__known")

    with pytest.raises(
        UnusableInputError, match=r"'yesterday': neither .* the newest runs are manual__known"
    ):
        moment_of(open_workspace(), "yesterday")


def test_a_pass_is_done_when_the_whole_run_is_and_in_its_own_scope(archive):
    begin_ingestion(open_workspace(), "one")
    begin_ingestion(open_workspace(), "two")
    end_ingestion(open_workspace(), "one", {"append": {"new": 1}, "sweep": {"read": 2}})

    assert last_done(open_workspace()) == {
        "append": moment_of(open_workspace(), "one"),
        "sweep": moment_of(open_workspace(), "one"),
    }
    assert last_done(open_workspace(), query="image_type:dermoscopic") == {}


def test_the_first_read_of_a_scope_is_its_first_sweep(archive):
    """Airflow and the command line ask the same: what was just read completely is not read again, nor soon after."""
    workspace = open_workspace()
    begin_ingestion(workspace, "first")
    assert choose_passes(workspace, ["sweep", "fetch", "append"]) == ["append", "fetch"]
    assert choose_passes(workspace, ["sweep"]) == [
        "sweep"
    ]  # nothing has been read, and nothing is about to be

    append_records(workspace)
    end_ingestion(workspace, "first", {"append": {"new": 60}})
    begin_ingestion(workspace, "second")
    end_ingestion(workspace, "second", {"append": {"new": 0}})

    assert choose_passes(workspace, ["sweep", "append"]) == ["append", "sweep"]
    began = {name: moment_of(workspace, name) for name in ("first", "second")}
    assert last_done(workspace) == {"append": began["second"], "sweep": began["first"]}


def test_the_command_line_names_its_run_and_takes_the_name_back(archive):
    ran = CliRunner().invoke(lesion, ["ingest", "--pass", "append"])
    assert ran.exit_code == 0, ran.output
    ingestion_id = json.loads(ran.stdout)["ingestion"]
    changed = CliRunner().invoke(lesion, ["changes", "--since", ingestion_id])

    assert changed.exit_code == 0, changed.output
    assert changed.stdout.count(" new ") == 60
    assert [row.counts["append"]["new"] for row in rows("SELECT counts FROM ingestion")] == [60]
