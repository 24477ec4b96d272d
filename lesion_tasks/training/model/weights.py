"""Where a backbone's pretrained weights are -> the file or the name, with a digest of the content."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, MissingObjectError
from lesion_tasks.catalog import Variant
from lesion_tasks.catalog.backbones import BACKBONES, Backbone
from lesion_tasks.training.accelerator import find_accelerator

BUCKET_PREFIX = "bucket:"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Pretrained weights of a backbone: where they are, and which ones they are."""

    origin: str  # "imagenet", "none", or the file's name
    path: Path | None  # None: Keras's own, or none
    sha256: str  # of the file, or of the arrays if Keras fetched them


def find_weights(variant: Variant, location: str, bucket: Bucket | None = None) -> Weights | None:
    """Find the pretrained weights of a variant; None if it deliberately starts from random weights.

    `location` is "imagenet" (Keras fetches its own file), a weights file, a folder in which one file starts with
    the backbone's stem, "bucket:" and the key of such a file or folder, or "none" for an explicit random start.
    Missing weights are an error, never a silent random start.
    """
    if variant.backbone is None or not variant.is_pretrained:
        return None
    backbone = BACKBONES[variant.backbone]
    if location == "none":
        return Weights(origin="none", path=None, sha256=hashlib.sha256(b"none").hexdigest())
    if location == "imagenet":
        return Weights(origin="imagenet", path=None, sha256=_imagenet_digest(variant, backbone))
    if location.startswith(BUCKET_PREFIX):
        path = _bucket_weights(variant, backbone, location.removeprefix(BUCKET_PREFIX), bucket)
    else:
        path = _local_weights(variant, backbone, Path(location))
    with path.open("rb") as file:
        return Weights(origin=path.name, path=path, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _missing(variant: Variant, backbone: Backbone, location: str, found: str) -> UnusableInputError:
    return UnusableInputError(
        f"variant {variant.name!r}: LESION_WEIGHTS {location}: found {found}, expected a weights file for "
        f"{backbone.keras_class} or a folder with one {backbone.weights_stem}*.h5; none starts from random weights"
    )


def _local_weights(variant: Variant, backbone: Backbone, path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob(f"{backbone.weights_stem}*.h5")) if path.is_dir() else []
    if len(found) != 1:
        there = f"{len(found)} files" if path.is_dir() else "no such file or folder"
        raise _missing(variant, backbone, str(path), there)
    return found[0]


def _bucket_weights(variant: Variant, backbone: Backbone, key: str, bucket: Bucket | None) -> Path:
    if bucket is None:
        raise ValueError("weights in the bucket were requested without a bucket")
    try:
        return bucket.local_path(key.rstrip("/"))
    except MissingObjectError:
        found = list(bucket.list_keys(f"{key.rstrip('/')}/{backbone.weights_stem}"))
    if len(found) != 1:
        raise _missing(variant, backbone, f"{BUCKET_PREFIX}{key}", f"{len(found)} objects")
    return bucket.local_path(found[0])


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
    backbone = BACKBONES[str(variant.backbone)]
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
