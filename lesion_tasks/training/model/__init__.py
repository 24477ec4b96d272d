"""A catalogue variant -> a Keras model, preprocessing included: pixels and raw metadata in, probabilities out."""

from lesion_tasks.training.model.build import (
    backbone_of,
    build_extractor,
    build_head,
    build_model,
    copy_head,
    head_of,
    set_trainable,
)
from lesion_tasks.training.model.metadata import adapt_metadata
from lesion_tasks.training.model.preprocessing import preprocess
from lesion_tasks.training.model.weights import Weights, find_weights

__all__ = [
    "Weights",
    "adapt_metadata",
    "backbone_of",
    "build_extractor",
    "build_head",
    "build_model",
    "copy_head",
    "find_weights",
    "head_of",
    "preprocess",
    "set_trainable",
]
