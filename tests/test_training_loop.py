"""Training goes on where it was killed and ends as if it had not been; damage and nonsense are told apart."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import DirectoryBucket
from lesion_tasks.catalog import Variant
from lesion_tasks.pixels.shards import PixelSource
from lesion_tasks.training.accelerator import find_accelerator
from lesion_tasks.training.batch_norm import BatchStatistics
from lesion_tasks.training.examples import Batches, Examples
from lesion_tasks.training.loop import Stage, train_stage
from lesion_tasks.training.model import build_model

pytestmark = pytest.mark.minutes

EPOCHS = 14
KILLS = 10


def variant(*, is_random: bool = False) -> Variant:
    """Random: augmentation and dropout, which a resumed training could forget beside its optimizer's memory."""
    return Variant(
        name="tried",
        title="tried",
        split="malignancy_natural",
        architecture="cnn",
        side_px=16,
        conv_filters=(4, 8),
        dense_units=(8,),
        dropout_rate=0.3 if is_random else 0.0,
        is_augmented=is_random,
    )


def examples(n: int = 256, seed: int = 0, *, side: int = 16, signal: float = 40.0) -> Examples:
    """Noise whose brightness tells the label."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    pixels = generator.normal(120, 40, (n, side, side, 3)) + signal * labels[:, None, None, None]
    return Examples(
        isic_ids=np.array([f"ISIC_{i:07d}" for i in range(n)], dtype=object),
        labels=labels,
        pixels=PixelSource(
            shards=(np.clip(pixels, 0, 255).astype(np.uint8),),
            shard_of_row=np.zeros(n, dtype=np.int64),
            row_in_shard=np.arange(n),
        ),
        metadata=None,
    )


def stage(**changed: object) -> Stage:
    recipe: dict = {
        "name": "variant 'tried'",
        "learning_rate": 1e-3,
        "max_epochs": EPOCHS,
        "patience": EPOCHS,
        "loss": "binary_crossentropy",
        "metrics": ("auc",),
    }
    return Stage(**(recipe | changed))


def train(folder: Path, *, is_random: bool = False, **changed: object) -> tuple[str, list[dict[str, float]]]:
    """Train under a folder as a bucket; returns a digest of the weights, and the figures of each epoch."""
    find_accelerator()
    some = variant(is_random=is_random)
    model = build_model(some)
    history: dict[int, dict[str, float]] = {}
    train_stage(
        model,
        stage(**changed),
        lambda epoch: Batches(examples(), 32, n_classes=2, seed=some.seed, epoch=epoch),
        Batches(examples(64, 1), 64, n_classes=2),
        bucket=DirectoryBucket(folder),
        folder="trainings/tried",
        on_epoch=lambda epoch, figures, seconds: history.__setitem__(epoch, dict(sorted(figures.items()))),
    )
    digest = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()
    return digest, [history[epoch] for epoch in sorted(history)]


def kill_and_resume(folder: Path, seed: int) -> dict[str, object]:
    """Train in children that are killed at random moments until one ends by itself.

    Children are forked from here, where everything is imported and nothing has run yet: a fresh process for each
    would spend its time on imports.
    """
    import os
    import signal
    import time

    generator = random.Random(seed)
    n_kills, n_attempts = 0, 0
    report = folder / "report.json"
    while not report.exists():
        n_attempts += 1
        child = os.fork()
        if child == 0:
            report.with_suffix(".part").write_text(json.dumps(train(folder / "bucket", is_random=True)))
            report.with_suffix(".part").rename(report)
            os._exit(0)
        if n_kills < KILLS:
            # From before the first step to some epochs further: a moment inside an epoch as well as between two.
            deadline = time.monotonic() + 10
            state = folder / "bucket" / "trainings/tried/state.json"
            before = state.read_bytes() if state.exists() else b""
            while time.monotonic() < deadline and not report.exists():
                if n_attempts % 3 == 0 or (state.exists() and state.read_bytes() != before):
                    break
                time.sleep(0.005)
            time.sleep(generator.uniform(0, 0.15))
            if not report.exists():
                os.kill(child, signal.SIGKILL)
                n_kills += 1
        os.waitpid(child, 0)
    return {"n_kills": n_kills, "n_attempts": n_attempts}


def test_a_training_killed_ten_times_ends_like_one_that_was_not(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    code = f"""
import json, sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}
from pathlib import Path
import test_training_loop
print(json.dumps(test_training_loop.kill_and_resume(Path({str(tmp_path)!r}), {seed})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    counts = json.loads(done.stdout.splitlines()[-1])
    weights, history = json.loads((tmp_path / "report.json").read_text())
    undisturbed = train(tmp_path / "undisturbed", is_random=True)
    assert counts["n_kills"] == KILLS, counts
    assert len(history) == EPOCHS
    assert history == undisturbed[1], f"seed {seed}"
    assert weights == undisturbed[0], f"seed {seed}"


def test_the_same_seed_gives_the_same_weights_and_history(tmp_path: Path) -> None:
    one, two = (train(tmp_path / name, is_random=True, max_epochs=3) for name in ("one", "two"))
    assert one == two


def test_training_stops_when_val_loss_has_not_improved_and_keeps_the_best_weights(tmp_path: Path) -> None:
    # A rate of 0 learns nothing: the first epoch is the best.
    _, history = train(tmp_path, learning_rate=0.0, patience=3)
    assert len(history) == 4
    assert len({epoch["val_loss"] for epoch in history}) == 1


@pytest.mark.parametrize("damage", ["cut", "other", "missing"])
def test_a_damaged_checkpoint_costs_time_and_changes_nothing(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, max_epochs=2)
    checkpoint = tmp_path / "trainings/tried/epoch-0002.npz"
    if damage == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    elif damage == "other":
        checkpoint.write_bytes(b"\0" * 1000)
    else:
        checkpoint.unlink()
    assert train(tmp_path, max_epochs=4) == train(tmp_path / "clean", max_epochs=4)
    assert "starts over" in caplog.text


def test_a_damaged_pointer_costs_time_and_changes_nothing(tmp_path: Path) -> None:
    train(tmp_path, max_epochs=2)
    (tmp_path / "trainings/tried/state.json").write_text('{"epoch": 2, "bes')
    assert train(tmp_path, max_epochs=3) == train(tmp_path / "clean", max_epochs=3)


def test_a_loss_that_is_no_number_ends_the_training_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match=r"variant 'tried': (val_)?loss of epoch \d+ is (nan|inf)"):
        train(tmp_path, learning_rate=1e38)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(self: Path, *arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UnusableInputError, match="disk full while writing"):
        train(tmp_path, max_epochs=1)


def test_thirty_two_images_can_be_overfitted(tmp_path: Path) -> None:
    find_accelerator()
    noise = examples(32, 3, signal=0.0)
    model = build_model(
        Variant(
            name="tried",
            title="",
            split="malignancy_natural",
            architecture="cnn",
            side_px=16,
            conv_filters=(8,),
            dense_units=(64,),
        )
    )
    train_stage(
        model,
        stage(max_epochs=40, patience=40),
        lambda epoch: Batches(noise, 8, n_classes=2, seed=1, epoch=epoch),
        Batches(noise, 32, n_classes=2),
        bucket=DirectoryBucket(tmp_path),
        folder="t",
        on_epoch=lambda epoch, figures, seconds: None,
    )
    p = np.asarray(model.predict_on_batch(noise.inputs(np.arange(32))))[:, 0]
    assert ((p > 0.5) == noise.labels).all()


def with_batch_norm() -> keras.Model:
    """Two convolutions whose batch norm hardly moves its averages, as those of pretrained networks do, and dropout."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 32, name="scale")(pixels)
    for i in (1, 2):
        x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", use_bias=False, name=f"conv_{i}")(x)
        x = keras.layers.BatchNormalization(momentum=0.999, name=f"norm_{i}")(x)
    x = keras.layers.Dropout(0.2, seed=1)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(
        {"pixels": pixels}, keras.layers.Dense(1, activation="sigmoid", name="probabilities")(x)
    )


def fit_with_batch_norm(folder: Path, **changed: object) -> tuple[keras.Model, list[dict[str, float]]]:
    """Train it under a folder as a bucket; returns it, and the figures of each epoch."""
    find_accelerator()
    model, history = with_batch_norm(), {}
    train_stage(
        model,
        stage(**({"max_epochs": 3} | changed)),
        lambda epoch: Batches(examples(), 32, n_classes=2, seed=1, epoch=epoch),
        Batches(examples(64, 1), 64, n_classes=2),
        bucket=DirectoryBucket(folder),
        folder="t",
        on_epoch=lambda epoch, figures, seconds: history.__setitem__(epoch, figures),
    )
    return model, [history[epoch] for epoch in sorted(history)]


def test_batch_norm_that_learns_is_judged_by_the_pictures_and_not_by_what_it_began_with(
    tmp_path: Path,
) -> None:
    model, history = fit_with_batch_norm(tmp_path)
    assert history[-1]["val_auc"] > 0.9, history
    # Of the first layer the statistics over all pictures can be determined without the engine.
    pixels = examples().inputs(np.arange(256))
    seen = np.asarray(keras.Model(model.inputs, model.get_layer("conv_1").output).predict_on_batch(pixels))
    norm = model.get_layer("norm_1")
    assert np.asarray(norm.moving_mean) == pytest.approx(seen.mean((0, 1, 2)), rel=1e-3)
    assert np.asarray(norm.moving_variance) == pytest.approx(seen.var((0, 1, 2)), rel=1e-3)
    assert norm.momentum == 0.999  # as it is stored


def test_batch_norm_that_learns_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path) -> None:
    fit_with_batch_norm(tmp_path / "one", max_epochs=1)
    (resumed, history), (undisturbed, expected) = (
        fit_with_batch_norm(tmp_path / name, max_epochs=3) for name in ("one", "two")
    )
    assert history == expected
    for one, other in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_batch_norm_that_is_kept_still_is_not_measured(tmp_path: Path) -> None:
    find_accelerator()
    model = with_batch_norm()
    model.get_layer("norm_1").trainable = False
    BatchStatistics(model).measure(Batches(examples(), 32, n_classes=2))
    assert not np.asarray(model.get_layer("norm_1").moving_mean).any()
    assert np.asarray(model.get_layer("norm_2").moving_mean).any()
