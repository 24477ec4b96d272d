"""The machine's CPU or GPUs -> precision, XLA, memory and devices, decided in this one place.

Variants never specify any of this. On a CPU: float32. On a GPU: mixed precision, memory as needed, all devices of the
machine. Every operation is deterministic on both, which is why XLA stays off (docs/decisions/0007).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import keras

log = logging.getLogger(__name__)

# From compute capability 8.0 on, bfloat16 is as fast as float16 and needs no loss scaling.
BFLOAT16_CAPABILITY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """The machine's devices and the settings chosen for them."""

    n_gpus: int
    training_policy: str  # dtype policy of layers while they learn; stored models are float32
    strategy: Any  # a tf.distribute strategy; None if one device does the work

    @property
    def is_plain(self) -> bool:
        """Whether a model learns in the precision and on the device with which it is served."""
        return self.training_policy == "float32" and self.strategy is None

    @property
    def n_devices(self) -> int:
        """The number of devices that share a batch."""
        return 1 if self.strategy is None else int(self.strategy.num_replicas_in_sync)

    @contextmanager
    def training(self) -> Iterator[None]:
        """A context in which to build a model for training, with the precision and devices of this machine."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.training_policy)
        try:
            if self.strategy is None:
                yield
            else:
                with self.strategy.scope():
                    yield
        finally:
            keras.config.set_dtype_policy(before)


@lru_cache(maxsize=1)
def find_accelerator() -> Accelerator:
    """Detect devices once, before the first operation: memory growth and determinism cannot be changed later."""
    if keras.backend.backend() != "tensorflow":
        return Accelerator(n_gpus=0, training_policy="float32", strategy=None)
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Accelerator(n_gpus=0, training_policy="float32", strategy=None)
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    # TensorFloat-32 would make a GPU's predictions differ from a CPU's in the third digit.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    capability = min(tf.config.experimental.get_device_details(gpu)["compute_capability"] for gpu in gpus)
    found = Accelerator(
        n_gpus=len(gpus),
        training_policy="mixed_bfloat16" if capability >= BFLOAT16_CAPABILITY else "mixed_float16",
        strategy=tf.distribute.MirroredStrategy() if len(gpus) > 1 else None,
    )
    log.info("%d GPUs: %s", found.n_gpus, found.training_policy)
    return found
