"""Pretrained weights: from the bucket, from a folder, and as Keras fetches them; what is not there is an error."""

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import mobilenet_v2
from keras.src.backend import config
from keras.src.legacy.saving import legacy_h5_format

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import DirectoryBucket
from lesion_tasks.catalog import Variant
from lesion_tasks.training.accelerator import find_accelerator
from lesion_tasks.training.loop import load_model
from lesion_tasks.training.model.weights import find_weights, load_base

# The name under which Keras publishes this backbone at 96 px.
FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"
VARIANT = Variant(
    name="tried",
    title="",
    split="malignancy_natural",
    architecture="transfer",
    backbone="mobilenet_v2_035",
    side_px=96,
)


@pytest.fixture(scope="module")
def arrays() -> list[np.ndarray]:
    """What the weights files hold: random numbers."""
    keras.utils.set_random_seed(7)
    return list(untrained().get_weights())


@pytest.fixture(scope="module")
def file(arrays: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file as Keras 3 writes them."""
    path = tmp_path_factory.mktemp("mine") / "mine.weights.h5"
    holding(arrays).save_weights(path)
    return path


@pytest.fixture(scope="module")
def published(arrays: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a weights file as Keras publishes them, which is in its older format."""
    path = tmp_path_factory.mktemp("published")
    with h5py.File(path / FILE, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, holding(arrays))
    return path


def untrained() -> keras.Model:
    return keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(96, 96, 3), alpha=0.35
    )


def holding(arrays: list[np.ndarray]) -> keras.Model:
    base = untrained()
    base.set_weights(arrays)
    return base


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the one in which Keras keeps what it fetched."""
    folder = tmp_path / "keras"
    folder.mkdir()  # one that is not there is passed over for a folder that all share
    monkeypatch.setattr(config, "_KERAS_DIR", str(folder))
    return folder


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; gives its address and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def assert_same(base: keras.Model, expected: list[np.ndarray]) -> None:
    for found, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("location", ["bucket:weights/mine.weights.h5", "bucket:weights", "bucket:weights/"])
def test_weights_in_the_bucket_are_found_by_key_and_by_folder(
    arrays: list[np.ndarray], file: Path, tmp_path: Path, location: str
) -> None:
    bucket = DirectoryBucket(tmp_path)
    name = "mine.weights.h5" if location.endswith("h5") else "mobilenet_v2_0.35_mine.weights.h5"
    bucket.put(f"weights/{name}", file.read_bytes())
    weights = find_weights(VARIANT, location, bucket)
    assert weights is not None
    assert weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert_same(load_base(VARIANT, weights), arrays)


def test_weights_that_are_not_in_the_bucket_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UnusableInputError, match=r"LESION_WEIGHTS bucket:weights: found 0 objects, expected a weights file"
    ):
        find_weights(VARIANT, "bucket:weights", DirectoryBucket(tmp_path))


def test_imagenet_weights_are_fetched_once_and_known_by_what_is_in_them(
    arrays: list[np.ndarray], published: Path, keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(published) as (address, asked):
        monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", address)
        weights = find_weights(VARIANT, "imagenet")
        assert weights is not None
        assert_same(load_base(VARIANT, weights), arrays)
        assert asked == [f"/{FILE}"]
    assert weights.origin == "imagenet"
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays))
    assert weights.sha256 == digest.hexdigest()
    assert find_weights(VARIANT, "imagenet") == weights  # the server is gone: from Keras's own folder
    assert (keras_home / "models" / FILE).exists()


def test_imagenet_weights_without_a_network_end_with_what_to_set(
    keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", "http://127.0.0.1:9/")
    with pytest.raises(
        UnusableInputError, match=r"'imagenet' of MobileNetV2 cannot be fetched .* set LESION_WEIGHTS"
    ):
        find_weights(VARIANT, "imagenet")


def test_devices_are_looked_for_before_the_first_model_is_built(
    keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Afterwards TensorFlow refuses to let a GPU's memory grow as needed.
    monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", "http://127.0.0.1:9/")
    find_accelerator.cache_clear()
    with pytest.raises(UnusableInputError, match="cannot be fetched"):
        find_weights(VARIANT, "imagenet")
    assert find_accelerator.cache_info().currsize == 1


def test_devices_are_looked_for_before_a_stored_model_is_loaded() -> None:
    find_accelerator.cache_clear()
    with pytest.raises(ValueError, match=r"accessible `\.keras` zip file"):
        load_model(b"no model")
    assert find_accelerator.cache_info().currsize == 1
