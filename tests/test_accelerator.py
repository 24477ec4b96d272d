"""Precision, XLA and several devices, as they are chosen where there are GPUs, tried on this machine's processor.

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

# A machine's devices are counted before TensorFlow's first operation: in a process of its own.
CODE = """
import json, sys, warnings
sys.path[:0] = {paths!r}
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.experimental.enable_op_determinism()
import test_accelerator
print(json.dumps(test_accelerator.train_in_every_way()))
"""


def train_in_every_way() -> dict[str, Any]:
    """Losses by epoch, test probabilities and dtypes of the stored model, for each choice of an accelerator."""
    import tensorflow as tf

    def mirrored() -> Any:
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    return {
        "plain": _train("float32"),
        "xla": _train("float32", jit_compile=True),
        "mirrored": _train("float32", strategy=mirrored()),
        "bfloat16": _train("mixed_bfloat16"),
        "float16": _train("mixed_float16"),
        "all": _train("mixed_bfloat16", jit_compile=True, strategy=mirrored()),
        "metadata": _train("mixed_bfloat16", jit_compile=True, strategy=mirrored(), has_pixels=False),
    }


def _train(
    policy: str, *, jit_compile: bool = False, strategy: Any = None, has_pixels: bool = True
) -> dict[str, Any]:
    from dataclasses import replace

    from test_training_loop import examples

    from lesion_tasks.accelerator import Accelerator
    from lesion_tasks.catalog import Variant
    from lesion_tasks.engine import Data, train_model
    from lesion_tasks.store import DirectoryStore
    from lesion_tasks.training_loop import load_model, model_bytes

    recipe: dict[str, Any] = {"name": "tried", "title": "", "split": "malignancy_natural", "max_epochs": 3}
    recipe |= (
        {"architecture": "cnn", "side_px": 16, "conv_filters": (4, 8), "dense_units": (8,)}
        if has_pixels
        else {"architecture": "metadata_mlp", "side_px": None, "metadata": ("age_years",)}
    )
    parts = [examples(n, seed) for n, seed in ((128, 1), (64, 2), (40, 3))]
    if not has_pixels:
        parts = [
            replace(some, pixels=None, metadata=some.labels[:, None].astype(np.float32)) for some in parts
        ]
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        trained = train_model(
            Variant(**recipe),
            None,
            Data(train=parts[0], val_drawn=parts[1], val=parts[1], test=parts[2], sha256_by_id={}),
            engine=None,  # type: ignore[arg-type] - no features, no database
            store=DirectoryStore(Path(folder)),
            folder="t",
            on_epoch=lambda epoch, figures, seconds: losses.__setitem__(epoch, figures["loss"]),
            accelerator=Accelerator(
                n_gpus=0, training_policy=policy, jit_compile=jit_compile, strategy=strategy
            ),
        )
    stored = load_model(model_bytes(trained.model))
    return {
        "losses": [losses[epoch] for epoch in sorted(losses)],
        "test": trained.predictions["test"].iloc[:, 1].tolist(),
        "dtypes": sorted({layer.dtype_policy.name for layer in stored.layers}),
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    here = Path(__file__).parent
    code = CODE.format(paths=[str(here), str(here.parent)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [("xla", 1e-4), ("mirrored", 1e-4), ("bfloat16", 0.05), ("float16", 0.05), ("all", 0.05)],
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
