"""Precision and several devices, as they are chosen where there are GPUs, tried on this machine's processor.

No GPU is needed: two logical CPUs stand for two of them. What they gain is not shown by this.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesion_tasks.catalog import FineTuning, Variant
from lesion_tasks.training.examples import filled_up

pytestmark = pytest.mark.minutes

# A machine's devices are counted before TensorFlow's first operation: in a process of its own.
CODE = """
import json, sys, warnings
sys.path[:0] = {paths!r}
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.experimental.enable_op_determinism()
import test_accelerator
print(json.dumps(test_accelerator.train_in_every_way({database_url!r})))
"""
TRIED: dict[str, Any] = {"name": "tried", "title": "", "split": "malignancy_natural", "max_epochs": 3}
CNN: dict[str, Any] = {"architecture": "cnn", "side_px": 16, "conv_filters": (4, 8), "dense_units": (8,)}
METADATA: dict[str, Any] = {"architecture": "metadata_mlp", "side_px": None, "metadata": ("age_years",)}
TRANSFER: dict[str, Any] = {
    "architecture": "transfer", "backbone": "tiny.keras", "is_pretrained": True, "side_px": 32,
    "metadata": ("age_years",), "fusion": "film", "is_augmented": True, "is_augmented_strongly": True,
    "is_flip_averaged": True, "is_calibrated": True, "max_epochs": 1,
}  # fmt: skip
# Everything that builds or learns in its own way: a U-Net before it and bias loss; two stages.
SEGMENTED: dict[str, Any] = TRANSFER | {
    "is_backbone_frozen": False, "is_segmented": True, "is_hair_removed": True, "loss": "bias",
}  # fmt: skip
TWO_STAGES: dict[str, Any] = TRANSFER | {
    "is_class_weighted": True, "loss": "focal", "fine_tuning": FineTuning(max_epochs=1),
}  # fmt: skip


def train_in_every_way(database_url: str) -> dict[str, Any]:
    """Losses by epoch, test probabilities and dtypes of the stored model, for each choice of an accelerator."""
    import tensorflow as tf

    # One for the process, as on a machine with GPUs.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return {
        "plain": _train(CNN, "float32"),
        "mirrored": _train(CNN, "float32", strategy),
        "bfloat16": _train(CNN, "mixed_bfloat16"),
        "float16": _train(CNN, "mixed_float16"),
        "all": _train(CNN, "mixed_bfloat16", strategy),
        "metadata": _train(METADATA, "mixed_bfloat16", strategy),
        "segmented": _train(SEGMENTED, "mixed_bfloat16", strategy, database_url),
        "two stages": _train(TWO_STAGES, "mixed_bfloat16", strategy, database_url),
    }


def _train(
    recipe: dict[str, Any], policy: str, strategy: Any = None, database_url: str | None = None
) -> dict[str, Any]:
    from dataclasses import replace

    from test_stored_backbone import network
    from test_training_loop import examples

    from lesion_tasks.bucket import DirectoryBucket
    from lesion_tasks.database.connection import engine_for
    from lesion_tasks.training.accelerator import Accelerator
    from lesion_tasks.training.examples import Data
    from lesion_tasks.training.loop import load_model, model_bytes
    from lesion_tasks.training.model import find_weights
    from lesion_tasks.training.stages import train_model

    variant = Variant(**TRIED | recipe)
    # Where several devices share a batch, its rows need not be shared out evenly.
    sizes = ((128, 1), (64, 2), (40, 3)) if recipe is CNN else ((129, 1), (63, 2), (41, 3))
    parts = [examples(n, seed, side=variant.side_px or 16) for n, seed in sizes]
    for i, some in enumerate(parts):
        parts[i] = replace(
            some,
            isic_ids=np.array([f"{i}-{name}" for name in some.isic_ids], dtype=object),
            pixels=some.pixels if variant.side_px else None,
            metadata=some.labels[:, None].astype(np.float32) if variant.metadata else None,
        )
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        network().save(Path(folder) / "tiny.keras")
        trained = train_model(
            variant,
            find_weights(variant, folder),
            Data(
                train=parts[0],
                val_drawn=parts[1],
                val=parts[1],
                test=parts[2],
                sha256_by_id={name: name for some in parts for name in some.isic_ids},
            ),
            engine=engine_for(database_url) if database_url else None,  # type: ignore[arg-type] - features and segmenters ask
            bucket=DirectoryBucket(Path(folder)),
            folder="t",
            on_epoch=lambda epoch, figures, seconds: losses.__setitem__(epoch, figures["loss"]),
            accelerator=Accelerator(n_gpus=0, training_policy=policy, strategy=strategy),
        )
    stored = load_model(model_bytes(trained.model))
    served = np.asarray(stored.predict_on_batch(parts[2].inputs(np.arange(len(parts[2])))))[:, 0]
    return {
        "losses": [losses[epoch] for epoch in sorted(losses)],
        "test": trained.predictions["test"].iloc[:, 1].tolist(),
        "served": served.tolist(),
        "dtypes": sorted({layer.dtype_policy.name for layer in stored._flatten_layers()}),
    }


@pytest.fixture(scope="module")
def found(module_database_url: str) -> dict[str, Any]:
    here = Path(__file__).parent
    code = CODE.format(paths=[str(here), str(here.parent)], database_url=module_database_url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6_000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [("mirrored", 1e-4), ("bfloat16", 0.05), ("float16", 0.05), ("all", 0.05)],
)
def test_a_training_learns_the_same_in_other_precision_and_on_more_devices(
    found: dict[str, Any], how: str, tolerance: float
) -> None:
    assert found[how]["losses"] == pytest.approx(found["plain"]["losses"], abs=tolerance)
    assert found[how]["test"] == pytest.approx(found["plain"]["test"], abs=tolerance)


def test_half_precision_was_really_used(found: dict[str, Any]) -> None:
    for how in ("bfloat16", "float16"):
        assert found[how]["losses"] != pytest.approx(found["plain"]["losses"], abs=1e-7)


def test_what_is_stored_is_float32_however_it_was_learned(found: dict[str, Any]) -> None:
    assert {how: one["dtypes"] for how, one in found.items() if one["dtypes"] != ["float32"]} == {}


def test_a_variant_without_pixels_learns_beside_several_devices(found: dict[str, Any]) -> None:
    losses = found["metadata"]["losses"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("how", ["segmented", "two stages"])
def test_every_way_of_learning_goes_with_half_precision_on_several_devices(
    found: dict[str, Any], how: str
) -> None:
    assert len(found[how]["losses"]) == {"segmented": 1, "two stages": 2}[how]
    assert found[how]["served"] == pytest.approx(found[how]["test"], abs=1e-5)


@pytest.mark.parametrize(
    ("n_rows", "n_devices", "filled"),
    [(4, 1, [0, 1, 2, 3]), (4, 2, [0, 1, 2, 3]), (3, 2, [0, 1, 2, 0]), (1, 3, [0, 0, 0])],
)
def test_devices_that_share_a_batch_get_equally_many_rows(
    n_rows: int, n_devices: int, filled: list[int]
) -> None:
    assert filled_up(np.arange(n_rows), n_devices).tolist() == filled
