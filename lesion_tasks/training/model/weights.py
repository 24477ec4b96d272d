"""Where a backbone's pretrained weights are -> the file or the name, with a digest of the content."""

import hashlib
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import keras
import numpy as np

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, MissingObjectError
from lesion_tasks.catalog import Variant
from lesion_tasks.catalog.backbones import (
    RANDOM_START,
    WITHOUT_FILES,
    AnyBackbone,
    Backbone,
    PresetBackbone,
    StoredBackbone,
    find_backbone,
)
from lesion_tasks.training.accelerator import find_accelerator
from lesion_tasks.training.model.kerashub import import_kerashub, open_model
from lesion_tasks.training.model.presets import (
    CONFIG,
    address_of,
    digest_of_folder,
    fetch,
    is_hidden,
    is_preset,
    load_preset,
)

BUCKET_PREFIX = "bucket:"
LICENCE_SUFFIX = ".licence.txt"  # added to the name of a weights file


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Pretrained weights of a backbone: where they are, and which ones they are."""

    origin: str  # "imagenet", "none", or the name of the file, the folder or the preset
    path: Path | None  # None: Keras's own, or none
    sha256: str  # of the file, of a folder's files and names, or of the arrays Keras fetched
    licence: str | None = None  # under which they may be used; None if nothing states it

    @property
    def described(self) -> str:
        """Their origin, with the licence where it is known."""
        return f"{self.origin} ({self.licence})" if self.licence else self.origin


def find_weights(variant: Variant, location: str, bucket: Bucket | None = None) -> Weights | None:
    """Find the pretrained weights of a variant; None if it deliberately starts from random weights.

    `location` is "imagenet" (Keras fetches its own file), a weights file, a folder in which one file has a name of the
    backbone's, "bucket:" and the key of such a file or folder, or "none" for an explicit random start.
    Missing weights are an error, never a silent random start. A stored backbone needs its file in any case: it is the
    network. A text file beside the weights whose name adds `.licence.txt` to theirs states their licence in its first
    line, and is believed before the catalogue. A preset is a folder in the place of a file; where there is none, it is
    fetched by its name or address. It needs a licence.
    """
    backbone = find_backbone(variant.backbone or "")
    if backbone is None or (isinstance(backbone, Backbone) and not variant.is_pretrained):
        return None
    if isinstance(backbone, PresetBackbone):
        return _preset_weights(variant, backbone, location, bucket)
    if isinstance(backbone, StoredBackbone) and location in WITHOUT_FILES:
        raise _missing(variant, backbone, location, "no file of it")
    if location == RANDOM_START:
        return Weights(origin=RANDOM_START, path=None, sha256=hashlib.sha256(b"none").hexdigest())
    if isinstance(backbone, Backbone) and location == "imagenet":
        return Weights(origin="imagenet", path=None, sha256=_imagenet_digest(variant, backbone))
    if location.startswith(BUCKET_PREFIX):
        path, said = _bucket_weights(variant, backbone, location.removeprefix(BUCKET_PREFIX), bucket)
    else:
        path = _local_weights(variant, backbone, Path(location))
        beside = path.with_name(path.name + LICENCE_SUFFIX)
        said = beside.read_bytes() if beside.is_file() else None
    known = None
    if isinstance(backbone, StoredBackbone) and fnmatchcase(path.name, backbone.files):
        known = backbone.licence
    with path.open("rb") as file:
        return Weights(
            origin=path.name,
            path=path,
            sha256=hashlib.file_digest(file, "sha256").hexdigest(),
            licence=_first_line(said) or known or None,
        )


def title_of(backbone: AnyBackbone) -> str:
    """What messages call a backbone: its class in Keras Applications, or its own name."""
    return backbone.keras_class if isinstance(backbone, Backbone) else backbone.name


def _first_line(said: bytes | None) -> str:
    """The first line of a licence file as printable text, at most 200 characters."""
    line = (said or b"").decode(errors="replace").strip().partition("\n")[0]
    return "".join(c for c in line if c.isprintable())[:200].strip()


def _preset_weights(
    variant: Variant, backbone: PresetBackbone, location: str, bucket: Bucket | None
) -> Weights:
    told = told_of(variant, backbone)
    import_kerashub(told)
    found, said = _preset_folder(variant, backbone, location, bucket)
    address = None if found else address_of(backbone, told)
    if not found and not address:
        raise _missing(variant, backbone, location, "neither such a folder nor a preset of KerasHub")
    licence = _first_line(said) or _first_line(backbone.licence.encode())
    if not licence:
        raise UnusableInputError(
            f"{told}: under which licence may its weights be used? Nothing states it; expected `licence` in "
            f"[backbone.{backbone.name}]"
            + (f" or a file {backbone.files}{LICENCE_SUFFIX} beside its folder" if found else "")
        )
    folder = found or fetch(str(address), told)
    return Weights(origin=backbone.files, path=folder, sha256=digest_of_folder(folder, told), licence=licence)


def told_of(variant: Variant, backbone: PresetBackbone) -> str:
    """What messages call a preset."""
    return f"variant {variant.name!r}: preset {backbone.preset}"


def _preset_folder(
    variant: Variant, backbone: PresetBackbone, location: str, bucket: Bucket | None
) -> tuple[Path | None, bytes | None]:
    """The folder of a preset among the weights, or none, and what states its licence if anything does."""
    if backbone.is_address:
        return None, None
    place = Path(location)
    if Path(backbone.preset).is_absolute():
        own = [Path(backbone.preset)]
    elif location.startswith(BUCKET_PREFIX):
        return _preset_in_bucket(variant, backbone, location, bucket)
    elif location in WITHOUT_FILES:
        own = []
    else:
        own = [place / backbone.preset, *([place] if place.name == backbone.preset else [])]
    folder = next((path for path in own if is_preset(path)), None)
    if folder is None:
        if location == RANDOM_START:
            raise _missing(variant, backbone, location, "no folder of it")
        return None, None
    beside = folder.with_name(folder.name + LICENCE_SUFFIX)
    return folder, beside.read_bytes() if beside.is_file() else None


def _preset_in_bucket(
    variant: Variant, backbone: PresetBackbone, location: str, bucket: Bucket | None
) -> tuple[Path | None, bytes | None]:
    """A local folder with the objects of a preset, and what states its licence if anything does."""
    if bucket is None:
        raise ValueError("weights in the bucket were requested without a bucket")
    key = location.removeprefix(BUCKET_PREFIX).strip("/")
    own = [
        f"{key}/{backbone.preset}".lstrip("/"),
        *([key] if key.rpartition("/")[2] == backbone.preset else []),
    ]
    for folder in own:
        names = [inside.removeprefix(f"{folder}/") for inside in bucket.list_keys(f"{folder}/")]
        # A folder that somebody made in the console of S3 is an object too, whose key ends like one.
        names = [name for name in names if name.rpartition("/")[2] and not is_hidden(name.split("/"))]
        if CONFIG not in names:
            continue
        try:
            copies = {name: bucket.local_path(f"{folder}/{name}") for name in names}
        except ValueError as error:
            raise UnusableInputError(
                f"variant {variant.name!r}: LESION_WEIGHTS {location}: {error}"
            ) from error
        try:
            said = bucket.get(f"{folder}{LICENCE_SUFFIX}")
        except MissingObjectError:
            said = None
        return copies[CONFIG].parent if bucket.is_local else _folder_of(copies), said
    return None, None


def _folder_of(copies: dict[str, Path]) -> Path:
    """A folder with the copies of objects and nothing else: beside them lies what the bucket had at another time."""
    cached = copies[CONFIG].parent
    listing = hashlib.sha256("\n".join(sorted(copies)).encode()).hexdigest()
    folder = cached.with_name(f".{cached.name}-{listing[:16]}")  # no part of a key starts with a dot
    for name, copy in copies.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(os.path.relpath(copy, link.parent))
    return folder


def _missing(variant: Variant, backbone: AnyBackbone, location: str, found: str) -> UnusableInputError:
    random_start = "; none starts from random weights" if isinstance(backbone, Backbone) else ""
    if isinstance(backbone, PresetBackbone):
        return UnusableInputError(
            f"variant {variant.name!r}: LESION_WEIGHTS {location}: found {found}, expected a folder {backbone.preset}"
            f"{'' if Path(backbone.preset).is_absolute() else ' in it'}, as `save_to_preset` writes it"
        )
    return UnusableInputError(
        f"variant {variant.name!r}: LESION_WEIGHTS {location}: found {found}, expected a weights file for "
        f"{title_of(backbone)} or a folder with one {backbone.files}{random_start}"
    )


def _local_weights(variant: Variant, backbone: Backbone | StoredBackbone, path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob(backbone.files)) if path.is_dir() else []
    if len(found) != 1:
        there = f"{len(found)} files" if path.is_dir() else "no such file or folder"
        raise _missing(variant, backbone, str(path), there)
    return found[0]


def _bucket_weights(
    variant: Variant, backbone: Backbone | StoredBackbone, key: str, bucket: Bucket | None
) -> tuple[Path, bytes | None]:
    """A local copy of the weights, and of what states their licence if anything does."""
    if bucket is None:
        raise ValueError("weights in the bucket were requested without a bucket")
    found = [key.rstrip("/")]
    try:
        path = bucket.local_path(found[0])
    except MissingObjectError:
        folder = f"{key.rstrip('/')}/"
        stem = backbone.files.partition("*")[0]
        found = [
            k
            for k in bucket.list_keys(f"{folder}{stem}")
            if fnmatchcase(k.removeprefix(folder), backbone.files)
        ]
        if len(found) != 1:
            raise _missing(variant, backbone, f"{BUCKET_PREFIX}{key}", f"{len(found)} objects") from None
        path = bucket.local_path(found[0])
    try:
        return path, bucket.get(f"{found[0]}{LICENCE_SUFFIX}")
    except MissingObjectError:
        return path, None


def _imagenet_digest(variant: Variant, backbone: Backbone) -> str:
    find_accelerator()  # before the model: its weights are the first operation
    base = keras_base(variant, backbone, "imagenet")
    digest = hashlib.sha256()
    for array in base.get_weights():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def keras_base(variant: Variant, backbone: Backbone, weights: str | None) -> keras.Model:
    """The Keras Applications model without its top, at the variant's size; `weights` is "imagenet" or None."""
    options = {} if backbone.alpha is None else {"alpha": backbone.alpha}
    make = getattr(keras.applications, backbone.keras_class)
    shape = (variant.side_px, variant.side_px, 3)
    # Without our own name: some of these builders look up their tables and files by it.
    if weights is None:
        return make(include_top=False, weights=None, input_shape=shape, **options)
    try:
        return make(include_top=False, weights=weights, input_shape=shape, **options)
    except Exception as error:  # Keras wraps every network error in a bare Exception
        raise UnusableInputError(
            f"variant {variant.name!r}: weights 'imagenet' of {backbone.keras_class} cannot be fetched ({error}); "
            "set LESION_WEIGHTS to a file or folder that holds them"
        ) from error


def load_base(variant: Variant, weights: Weights | None) -> keras.Model:
    """The backbone of a variant with its weights in place."""
    backbone = find_backbone(str(variant.backbone))
    if backbone is None:
        raise ValueError(f"variant {variant.name!r} has no backbone")
    if isinstance(backbone, PresetBackbone):
        return _preset_base(variant, backbone, weights)
    if isinstance(backbone, StoredBackbone):
        return _stored_base(variant, backbone, weights)
    if weights is not None and weights.origin == "imagenet":
        return keras_base(variant, backbone, "imagenet")
    base = keras_base(variant, backbone, None)
    if weights is None or weights.path is None:
        return base
    try:
        with warnings.catch_warnings():
            # Keras only warns about layers that it leaves random: here that counts as a failure.
            warnings.simplefilter("error", UserWarning)
            base.load_weights(weights.path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise UnusableInputError(
            f"variant {variant.name!r}: LESION_WEIGHTS {weights.path}: do not fit {backbone.keras_class} "
            f"(alpha {backbone.alpha}): {str(error).splitlines()[0]}"
        ) from error
    if backbone.keras_class.startswith("EfficientNetB"):
        _repair_efficientnet(base)
    return base


def _repair_efficientnet(base: keras.Model) -> None:
    """Finish the scaling that EfficientNet's ImageNet weights were trained with.

    Its files hold the ImageNet deviation where the layer expects the variance. Keras divides by its root and, only
    for weights="imagenet", once more by the root in an extra layer. Loading the same file by path lacks the extra
    layer, so the stored variance is squared here: the root of the square is the same scaling.
    """
    layer = next(layer for layer in base.layers if isinstance(layer, keras.layers.Normalization))
    layer.adapt_variance.assign(layer.adapt_variance**2)
    layer.finalize_state()


def _preset_base(variant: Variant, backbone: PresetBackbone, weights: Weights | None) -> keras.Model:
    """The network of a preset at the variant's size; with new random weights unless the variant is pretrained."""
    if weights is None or weights.path is None or variant.side_px is None:
        raise _missing(variant, backbone, "none", "no folder of it")
    told = told_of(variant, backbone)
    return load_preset(weights.path, variant.side_px, told, is_pretrained=variant.is_pretrained)


def _stored_base(variant: Variant, backbone: StoredBackbone, weights: Weights | None) -> keras.Model:
    """The network of a `.keras` file, opened in safe mode; with new random weights unless the variant is pretrained.

    Raises UnusableInputError if it is none, carries code, or does not take pixels or give features.
    """
    if weights is None or weights.path is None:
        raise _missing(variant, backbone, "none", "no file of it")
    told = f"variant {variant.name!r}: LESION_WEIGHTS {weights.path}"
    try:
        base = open_model(weights.path, told)
    except UnusableInputError:
        raise
    except Exception as error:  # a foreign file: whatever its layers raise
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UnusableInputError(
            f"{told}: cannot be opened in safe mode as a `.keras` file: {said}"
        ) from error
    side = variant.side_px
    shapes = [tuple(tensor.shape) for tensor in (*base.inputs, *base.outputs)]
    if (
        len(shapes) != 2
        or len(shapes[0]) != 4
        or shapes[0][3] != 3
        or {*shapes[0][1:3]} - {None, side}
        or len(shapes[1]) not in (2, 4)
        or shapes[1][-1] is None
    ):
        raise UnusableInputError(
            f"{told}: its inputs and outputs are {', '.join(map(str, shapes))}, expected pixels (None, {side}, "
            f"{side}, 3) in, and a feature map (None, h, w, C) or a vector (None, C) out"
        )
    base.trainable = True  # what a variant freezes it says itself
    return base if variant.is_pretrained else _with_new_weights(base)


def _with_new_weights(base: keras.Model) -> keras.Model:
    """The same network with new random weights; the scaling that its input was adapted to stays."""
    clone = keras.models.clone_model(base)
    for theirs, ours in zip(all_layers(base), all_layers(clone), strict=True):
        if isinstance(theirs, keras.layers.Normalization) and theirs.weights:
            ours.set_weights(theirs.get_weights())
            ours.finalize_state()
    return clone


def all_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model, and those of models and layers inside of it."""
    return list(model._flatten_layers(include_self=False))
