"""The bucket held against the database: what was altered or lost is named, and what can be made again is."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from catalogue import declare, materialize_natural, rows_of
from click.testing import CliRunner

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.verification_plan import N_VERIFICATION_PARTS
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.settings import Settings
from lesion_tasks.training.train import train_variant
from lesion_tasks.upkeep.verify_bucket import part_due, verify_bucket, verify_part_due
from lesion_tasks.workspace import Workspace, open_workspace

N = 240


@pytest.fixture
def evaluated(small: Settings) -> Workspace:
    """A catalogue with the pixels of a split and one evaluated training that looks at metadata alone."""
    workspace = open_workspace()
    evaluate_training(workspace, train_variant(workspace, declare("metadata_logistic")))
    return workspace


def spoil(workspace: Workspace, key: str) -> None:
    data = bytearray(workspace.bucket.get(key))
    data[len(data) // 2] ^= 1
    workspace.bucket.put(key, bytes(data))


def test_an_untouched_bucket_is_as_the_database_says(evaluated: Workspace) -> None:
    found = verify_bucket(evaluated)
    assert (found.n_repairable, found.n_lost, found.findings) == (0, 0, [])
    assert found.n_checked["picture"] == N
    assert found.n_checked["model"] == found.n_checked["evaluation"] == 1
    assert found.n_checked["predictions"] == 2
    assert min(found.n_checked[name] for name in ("pixels", "manifest")) >= 1


def test_what_can_be_made_again_is_forgotten_and_made_again(evaluated: Workspace) -> None:
    settings = evaluated.settings
    picture = rows_of(settings, "SELECT object_key FROM stored_file ORDER BY object_key")[3].object_key
    ((shard,),) = rows_of(settings, "SELECT object_key FROM pixel_shard")
    whole, bytes_of_picture = evaluated.bucket.get(shard), evaluated.bucket.get(picture)
    evaluated.bucket.delete(picture)
    spoil(evaluated, shard)

    only_said = verify_bucket(evaluated, is_repairing=False)
    assert {(one.name, one.problem) for one in only_said.findings} == {
        (picture, "missing"),
        (shard, "altered"),
    }
    assert rows_of(settings, "SELECT object_key FROM pixel_shard") == [(shard,)]

    found = verify_bucket(evaluated)
    assert (found.n_repairable, found.n_lost) == (2, 0)
    assert rows_of(settings, "SELECT object_key FROM stored_file WHERE is_replaced") == [(picture,)]
    assert rows_of(settings, "SELECT object_key FROM pixel_row") == []
    assert verify_bucket(evaluated).n_repairable == 0

    evaluated.bucket.put(picture, bytes_of_picture)  # as fetching would
    materialize_natural()
    assert [row.object_key for row in rows_of(settings, "SELECT object_key FROM pixel_shard")] == [shard]
    assert evaluated.bucket.get(shard) == whole


def test_what_nothing_can_make_again_is_lost_and_named(evaluated: Workspace) -> None:
    settings = evaluated.settings
    ((model, manifest),) = rows_of(
        settings, "SELECT model_key, m.object_key FROM training JOIN manifest m ON digest = manifest_digest"
    )
    spoil(evaluated, model)
    spoil(evaluated, manifest)
    with evaluated.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE prediction SET probabilities = '{0.5, 0.5}' WHERE subset = 'val'")
        connection.exec_driver_sql(
            'UPDATE evaluation SET document = document || \'{"is_sound": true, "x": 1}\''
        )
    found = verify_bucket(evaluated)
    assert found.n_lost == 4
    assert {one.kind for one in found.findings} == {"model", "manifest", "predictions", "evaluation"}
    ran = CliRunner().invoke(lesion, ["verify"])
    assert isinstance(ran.exception, UnusableInputError)
    assert ": 4 lost, 0 to be made again" in str(ran.exception)
    with pytest.raises(UnusableInputError, match=r"[34] lost"):
        verify_part_due(evaluated, part=None, is_repairing=True, moment=datetime.now(UTC))


def test_what_a_champion_is_served_with_is_never_overwritten_and_is_verified(
    evaluated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (said,) = rows_of(
        evaluated.settings,
        "SELECT training_id, document #>> '{doubt,object_key}' AS key, document #>> '{doubt,sha256}' AS sha256 "
        "FROM evaluation",
    )
    monkeypatch.setattr("lesion_tasks.metrics.conformal.fit_sets.__defaults__", (0.2,))
    evaluate_training(evaluated, said.training_id)
    ((key,),) = rows_of(evaluated.settings, "SELECT document #>> '{doubt,object_key}' FROM evaluation")
    assert key != said.key and evaluated.bucket.digest(said.key) == said.sha256
    assert verify_bucket(evaluated).n_lost == 0
    spoil(evaluated, key)
    (finding,) = verify_bucket(evaluated).findings
    assert (finding.kind, finding.problem) == ("evaluation", "altered")


def test_the_parts_of_a_quarter_are_the_whole_bucket_and_each_week_has_its_own(evaluated: Workspace) -> None:
    parts = [
        verify_bucket(evaluated, part=part, n_parts=N_VERIFICATION_PARTS).n_checked["picture"]
        for part in range(1, N_VERIFICATION_PARTS + 1)
    ]
    assert sum(parts) == N
    assert max(parts) < N / 4
    start = datetime(2026, 1, 1, tzinfo=UTC)
    due = [part_due(start + timedelta(weeks=week)) for week in range(N_VERIFICATION_PARTS)]
    assert sorted(due) == list(range(1, N_VERIFICATION_PARTS + 1))
    with pytest.raises(UnusableInputError, match="part 14 of 13"):
        verify_bucket(evaluated, part=14, n_parts=13)


def test_another_bucket_is_not_repaired(evaluated: Workspace, tmp_path: Path) -> None:
    elsewhere = Workspace(evaluated.settings.model_copy(update={"bucket_url": str(tmp_path / "mistyped")}))
    with pytest.raises(
        UnusableInputError, match=r"mistyped .*of 240 objects of kind picture are missing or altered"
    ):
        verify_bucket(elsewhere)
    assert rows_of(evaluated.settings, "SELECT count(*) FROM stored_file WHERE is_replaced") == [(0,)]
    assert verify_bucket(elsewhere, is_repairing=False).n_repairable > 240
    assert verify_bucket(elsewhere, is_repairing_many=True).n_lost > 0
    assert rows_of(evaluated.settings, "SELECT count(*) FROM stored_file WHERE is_replaced") == [(240,)]
