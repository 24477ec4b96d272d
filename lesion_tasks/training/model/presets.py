"""A preset of KerasHub -> its network for pictures, at a variant's size, and one vector of what it says.

A preset is a folder as KerasHub's `save_to_preset` writes it: `config.json`, weights, and `image_converter.json` with
the scaling of pixels. By name it is fetched whole, and is a folder like any other.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import digest_of_file
from lesion_tasks.catalog.backbones import PRESET_ADDRESS, PRESET_ADDRESS_RULE, PresetBackbone
from lesion_tasks.training.model.kerashub import import_kerashub

CONFIG = "config.json"
CONVERTER = "image_converter.json"
SHARDS = "model.weights.json"  # names the files of weights that are in several


def is_preset(folder: Path) -> bool:
    """Whether a folder may be a preset."""
    return (folder / CONFIG).is_file()


def digest_of_folder(folder: Path, told: str) -> str:
    """SHA-256 over the names and bytes of a preset's files, at any depth, hidden ones left out.

    Raises UnusableInputError if its weights are in other files than these.
    """
    digest = hashlib.sha256()
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    files = {relative: path for relative, path in files.items() if not is_hidden(relative.parts)}
    if shards := files.get(Path(SHARDS)):
        _check_shards(shards, {relative.as_posix() for relative in files}, told)
    for relative in sorted(files):
        digest.update(f"{relative.as_posix()} {digest_of_file(files[relative])}\n".encode())
    return digest.hexdigest()


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether a file is none of a preset's, by the parts of its name: what file browsers and download tools leave."""
    return any(part.startswith(".") for part in parts)


def _check_shards(path: Path, there: set[str], told: str) -> None:
    """Raise UnusableInputError unless the weights are in files that are there."""
    with _refusing(told):
        named = json.loads(path.read_text())["weight_map"].values()
        files = {name for one in named for name in (one if isinstance(one, list) else [one])}
        if strange := sorted(files - there):
            raise UnusableInputError(
                f"{told}: its {SHARDS} names {strange[0]!r}, which is none of its files, expected one of them"
            )


def address_of(backbone: PresetBackbone, told: str) -> str | None:
    """Where on the network a preset lies; None if its name is none of KerasHub's."""
    if backbone.is_address:
        return backbone.preset
    known = import_kerashub(told).models.Backbone.presets.get(backbone.preset)
    if known is None:
        return None
    address = str(known["kaggle_handle"])
    if not PRESET_ADDRESS.fullmatch(address):
        raise UnusableInputError(
            f"{told}: KerasHub has it at {address}, which names no version; expected {PRESET_ADDRESS_RULE}"
        )
    return address


def fetch(address: str, told: str) -> Path:
    """The folder with the files of a preset, fetched unless it was before. UnusableInputError says why it cannot be."""
    scheme, _, handle = address.partition("://")
    import_kerashub(told)  # which brings both clients
    try:
        return _from_hugging_face(handle, told) if scheme == "hf" else _from_kaggle(handle)
    except UnusableInputError:
        raise
    except Exception as error:  # whatever two clients and what is below them raise
        raise UnusableInputError(
            f"{told}: cannot be fetched from {address}: {_in_words(error)}; or name its folder among the weights "
            "(LESION_WEIGHTS) as `preset`"
        ) from error


def _from_hugging_face(handle: str, told: str) -> Path:
    """The files of a commit, of which the configuration is looked at before gigabytes are fetched."""
    import huggingface_hub

    name, _, commit = handle.partition("@")
    # The same function for one file: it stores the list of all, without which a part would pass for the whole later.
    configuration = huggingface_hub.snapshot_download(name, revision=commit, allow_patterns=CONFIG)
    _read_config(Path(configuration), told)
    return Path(huggingface_hub.snapshot_download(name, revision=commit))


def _from_kaggle(handle: str) -> Path:
    """The files of a version. Its client has no lock, and two of them would write into one file."""
    import kagglehub
    from filelock import FileLock
    from kagglehub.config import get_cache_folder

    cache = Path(get_cache_folder())
    cache.mkdir(parents=True, exist_ok=True)
    is_writable = os.access(cache, os.W_OK)  # else only what is there can be had
    with FileLock(cache / f".{handle.replace('/', '-')}.lock") if is_writable else nullcontext():
        return Path(kagglehub.model_download(handle))


def _read_config(folder: Path, told: str) -> dict[str, Any]:
    """The configuration of a preset's network; UnusableInputError if it is another library's or none."""
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (FileNotFoundError, ValueError):
        config = None
    if (
        not isinstance(config, dict)
        or not config.get("registered_name")
        or not isinstance(config.get("config"), dict)
    ):
        raise UnusableInputError(f"{told}: its {CONFIG} is not one that `save_to_preset` writes")
    return config


def _in_words(error: Exception) -> str:
    """Why a preset cannot be fetched, in one line."""
    from huggingface_hub.errors import LocalEntryNotFoundError
    from requests import ConnectionError as NoConnectionError
    from requests import Timeout

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, NoConnectionError | Timeout | LocalEntryNotFoundError):
        return "no network from here; where it has terms, they also have to be accepted there first"
    if status in (401, 403):
        return f"access is refused ({status}): there is none, or its terms have to be accepted there first"
    return " ".join(str(error).split())[:300] or type(error).__name__


def load_preset(folder: Path, side_px: int, told: str, *, is_pretrained: bool) -> keras.Model:
    """The network of a preset for pictures of a side, with its weights or new random ones, all of it trainable.

    It takes scaled pixels and gives a feature map (b, h, w, C), tokens (b, n, C) or a vector (b, C). Of a model with a
    tower for pictures and one for text it is the former. Position embeddings are interpolated where the network does so
    itself (DINOv2); else a side that it was not made for is refused.
    """
    hub = import_kerashub(told)
    config = _read_config(folder, told)["config"]
    shape = config.get("image_shape")
    options = {} if shape is None else {"image_shape": (side_px, side_px, 3)}
    has_tower = isinstance(config.get("vision_encoder"), dict)
    is_as_made = not isinstance(shape, list) or None in shape or side_px in shape
    with _refusing(
        told if is_as_made else f"{told}: made for {' x '.join(map(str, shape[:2]))} px, at {side_px} px it"
    ):
        base = hub.models.Backbone.from_preset(
            str(folder), load_weights=is_pretrained, dtype=keras.config.dtype_policy(), **options
        )
        if has_tower:
            base = _again(base.vision_encoder, dtype=keras.config.dtype_policy())
        if getattr(base, "position_embedding_shape", None) is not None:
            base = _again(base, position_embedding_shape=base.image_shape)
    _check(base, side_px, told)
    base.trainable = True  # what a variant freezes it says itself
    return base


@contextmanager
def _refusing(told: str) -> Iterator[None]:
    """Turn whatever a foreign preset makes libraries raise into one line."""
    try:
        with warnings.catch_warnings():
            # Keras only warns about layers that it leaves random: here that counts as a failure.
            warnings.simplefilter("error", UserWarning)
            yield
    except UnusableInputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:250] or type(error).__name__
        raise UnusableInputError(f"{told} cannot be opened as KerasHub's: {said}") from error


def _again(base: Any, **changed: Any) -> Any:
    """The same network with the same weights and another configuration, outside of any model that it is a part of."""
    again = type(base).from_config({**base.get_config(), **changed})
    for ours, theirs in zip(again.weights, base.weights, strict=True):
        if tuple(ours.shape) != tuple(
            theirs.shape
        ):  # positions as published, of which these were interpolated
            theirs = base.embeddings.interpolated_position_embeddings
        ours.assign(theirs)
    return again


def _check(base: keras.Model, side_px: int, told: str) -> None:
    """Raise UnusableInputError unless a network takes pictures of a side, all of it, and says one thing of them."""
    shapes = [tuple(tensor.shape) for tensor in (*base.inputs, *base.outputs)]
    if (
        len(shapes) != 2
        or len(shapes[0]) != 4
        or shapes[0][3] != 3
        or len(shapes[1]) not in (2, 3, 4)
        or shapes[1][-1] is None
    ):
        raise UnusableInputError(
            f"{told}: its inputs and outputs are {', '.join(map(str, shapes))}, expected pictures (None, h, w, 3) in, "
            "and a feature map (None, h, w, C), tokens (None, n, C) or a vector (None, C) out"
        )
    made_for = set(shapes[0][1:3]) - {None}
    if made_for - {side_px}:
        raise UnusableInputError(
            f"{told}: takes pictures of {shapes[0][1]} x {shapes[0][2]} px alone, and the variant's have {side_px} px"
        )
    patch = _patch_px(base)
    if patch and side_px % patch:
        raise UnusableInputError(
            f"{told}: cuts pictures into patches of {patch} px, which do not fill {side_px} px; expected a "
            f"multiple, such as {-(-side_px // patch) * patch}"
        )


def _patch_px(base: keras.Model) -> int | None:
    """The side of a square patch; None of a network without."""
    size = getattr(base, "patch_size", None)
    return int(size[0]) if isinstance(size, list | tuple) else size


def vector_of(base: keras.Model, pixels: keras.KerasTensor, folder: Path, told: str) -> keras.KerasTensor:
    """What a preset's network says of pixels 0 to 255 (b, side, side, 3): a map (b, h, w, C) or a vector (b, C).

    Pixels are scaled as the preset's image converter does. Of tokens one vector is made: where there are more of them
    than patches, the first is the class token, which stands for the picture (Dosovitskiy et al. 2021, arXiv:2010.11929,
    section 3.1; DINOv2's registers stand between it and the patches, Darcet et al. 2024, arXiv:2309.16588); else it is
    the mean over the patches (Dosovitskiy et al., appendix D.3).
    """
    scale, offset = _scaling(folder, told)
    x = layers.Rescaling(scale, offset=offset, name="scale_as_preset")(pixels)
    said = base(keras.tree.map_structure(lambda _: x, base.input))
    if len(said.shape) != 3:
        return said
    n_tokens, width, patch = said.shape[1], said.shape[2], _patch_px(base)
    if n_tokens is None or patch is None:
        raise UnusableInputError(
            f"{told}: gives tokens {tuple(said.shape)} without saying of which patches, expected square ones"
        )
    if n_tokens <= (pixels.shape[1] // patch) * (pixels.shape[2] // patch):
        return layers.GlobalAveragePooling1D(name="mean_of_patches")(said)
    # Layers with names: an operation without one is numbered anew in each process.
    return layers.Reshape((width,), name="class_token")(
        layers.Cropping1D((0, n_tokens - 1), name="first_token")(said)
    )


def _scaling(folder: Path, told: str) -> tuple[Any, Any]:
    """By what a preset multiplies pixels 0 to 255, and what it then adds; of each channel or of all."""
    path = folder / CONVERTER
    if not path.is_file():
        raise UnusableInputError(
            f"{told}: its folder has no {CONVERTER}, which says how pixels are scaled; expected one, as the "
            "`save_to_preset` of an image converter writes it"
        )
    hub = import_kerashub(told)
    with _refusing(told):
        config = json.loads(path.read_text())
        known = keras.saving.get_registered_object(config["registered_name"])
        if not (isinstance(known, type) and issubclass(known, hub.layers.ImageConverter)):
            raise UnusableInputError(
                f"{told}: its {CONVERTER} is of a {config['class_name']}, expected an image converter of KerasHub"
            )
        converter = keras.saving.deserialize_keras_object(config, safe_mode=True)
        if type(converter).call is not hub.layers.ImageConverter.call:
            raise UnusableInputError(
                f"{told}: {type(converter).__name__} does more than scale pixels, which cannot be stored with a model"
            )
        scaling = 1.0 if converter.scale is None else converter.scale, converter.offset or 0.0
        for numbers in scaling:
            if np.shape(numbers) not in ((), (1,), (3,)) or not np.isfinite(np.asarray(numbers, float)).all():
                raise UnusableInputError(
                    f"{told}: its {CONVERTER} has {numbers!r}, expected a number or one of each channel"
                )
        return scaling
