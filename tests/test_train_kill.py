"""`lesion train` killed in real processes, each time gone on with by another worker."""

from pathlib import Path

import pytest

from benchmarks.kill_train import run

pytestmark = pytest.mark.minutes


def test_a_killed_training_goes_on_at_another_worker_and_ends_the_same(
    postgres_url: str, tmp_path: Path
) -> None:
    found = run(
        postgres_url,
        tmp_path,
        ("cnn_scratch", "--max-epochs", "5"),
        n_images=240,
        n_kills=2,
        longest_s=1.0,
        seed=1,
    )
    assert found["n_kills"] == found["said_lost"] == 2
    assert found["epochs_done_at_kills"][1] > 0
    assert found["n_epochs"] == 5
    assert found["row_in_the_end"] == ("finished", None)
    assert found["same"] == {"weights": True, "history": True, "predictions": True}
