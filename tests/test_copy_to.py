"""A copy of an installation, beside a running training, killed and gone on with, and what it refuses to overwrite."""

import json
from pathlib import Path

import pytest
from catalogue import add_records, labelled_records
from sqlalchemy import inspect, text
from test_prune import row_of

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import DirectoryBucket
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.run_record import begin
from lesion_tasks.upkeep.copy_installation import MARKER, copy_installation
from lesion_tasks.upkeep.verify_bucket import verify_bucket
from lesion_tasks.workspace import Workspace, open_workspace


def test_a_killed_copy_beside_a_training_goes_on_and_nothing_else_is_overwritten(
    settings: Settings, module_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_workspace()
    add_records(settings, labelled_records(180))
    curate_images(source)
    digest = build_split(source, "malignancy_natural")
    first, _ = begin(source.engine, row_of("smoke", 1, digest))
    checkpoint, state = f"trainings/{first}/stage-1/epoch-0001.npz", f"models/{first}/state.json"
    source.bucket.put(checkpoint, b"weights")
    source.bucket.put(state, b'{"a": 1}')
    last_key = "trainings/zero/state.json"
    source.bucket.put(last_key, b"{}")
    place = {"database_url": module_database_url, "bucket_url": str(tmp_path / "team")}
    team = Workspace(settings.model_copy(update=place))

    def run(workspace: Workspace, statement: str) -> None:
        with workspace.engine.begin() as connection:
            connection.execute(text(statement))

    def copy() -> dict[str, int]:
        return copy_installation(source, **place)

    # A database or a bucket that is somebody else's is left as it is.
    run(team, "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE theirs AS SELECT 1 AS n")
    with pytest.raises(UnusableInputError, match="it holds rows in theirs; expected an empty database"):
        copy()
    assert inspect(team.engine).get_table_names() == ["theirs"]
    run(team, "DROP TABLE theirs")
    team.bucket.put("champion.json", b"{}")
    with pytest.raises(UnusableInputError, match=r"holds objects, such as 'champion\.json'"):
        copy()
    assert inspect(team.engine).get_table_names() == []
    team.bucket.delete("champion.json")

    # The training removes a checkpoint between listing and reading; then the copy is killed.
    get = DirectoryBucket.get
    is_killed = True

    def get_in_passing(bucket: DirectoryBucket, key: str) -> bytes:
        if key == checkpoint:
            bucket.delete(key)
        if key == last_key and is_killed:
            raise KeyboardInterrupt
        return get(bucket, key)

    monkeypatch.setattr(DirectoryBucket, "get", get_in_passing)
    with pytest.raises(KeyboardInterrupt):
        copy()
    assert not team.bucket.exists(checkpoint)
    is_killed = False

    # Another installation with as many rows is not taken for the copied one, nor is a target that was used.
    run(source, "UPDATE training SET fingerprint = reverse(fingerprint)")
    with pytest.raises(UnusableInputError, match="of another installation: 'training smoke-"):
        copy()
    run(source, "UPDATE training SET fingerprint = reverse(fingerprint)")
    theirs, _ = begin(team.engine, row_of("smoke", 3, digest))
    with pytest.raises(UnusableInputError, match="its database was used since: 'training smoke-"):
        copy()
    run(team, f"DELETE FROM training WHERE training_id = '{theirs}'")

    # Rows have become more, and an object has changed in its length.
    second, _ = begin(source.engine, row_of("smoke", 2, digest))
    source.bucket.put(state, b'{"a": 2}')
    assert copy()["rows"] > 180
    assert team.bucket.get(state) == b'{"a": 2}'
    ids = "SELECT training_id FROM training ORDER BY 1"
    with team.engine.connect() as connection:
        assert connection.execute(text(ids)).scalars().all() == sorted([first, second])
    assert verify_bucket(team, is_repairing=False).findings == []
    assert json.loads(team.bucket.get(MARKER))["ended_at"]

    # It goes on from there: a copy that has ended is not begun again.
    begin(team.engine, row_of("smoke", 3, digest))
    assert copy() == {"rows": 0, "objects": 0}
    with team.engine.connect() as connection:
        assert len(connection.execute(text(ids)).all()) == 3
