"""A `Scored` -> the same few figures on every slice of it; a slice that is too small is listed, not scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from lesion_tasks.metrics.binary import (
    RANKING_NAMES,
    Samples,
    ranking_figures,
    resample_together,
    threshold_figures,
)
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import PublishedSlice
from lesion_tasks.metrics.figure import Figure
from lesion_tasks.metrics.multiclass import hit_figures, macro_figures
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored

MISSING = "missing"
AGE_BANDS_YEARS = (0, 30, 45, 60, 75, np.inf)
SIZE_BANDS_MM = (0, 3, 6, 10, np.inf)
# Below these, an interval spans most of the scale and a slice would only invite overinterpreting noise.
MIN_IMAGES = 50
MIN_OF_EACH_CLASS = 10


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Figures on the images with one value of one attribute; `reason` says why there are none."""

    attribute: str
    value: str
    n_images: int
    n_groups: int
    n_positives: int | None
    reason: str | None
    figures: Mapping[str, Figure]

    def published(self) -> PublishedSlice:
        return PublishedSlice(
            attribute=self.attribute,
            value=self.value,
            n_images=self.n_images,
            n_groups=self.n_groups,
            n_positives=self.n_positives,
            is_scored=self.reason is None,
            reason=self.reason,
            figures={name: figure.published() for name, figure in self.figures.items()},
        )


def slice_figures(
    scored: Scored, *, threshold: float | None, resampling: Resampling, sampled: Samples | None = None
) -> list[Slice]:
    """Every slice of every attribute that has a known value anywhere, largest attribute values first.

    `sampled`: what `scored` itself has been resampled to, for slices that all of its images are in.
    """
    return [
        _measure(scored, attribute, value, threshold, resampling, sampled)
        if mask.all()
        else _measure(scored.where(mask), attribute, value, threshold, resampling)
        for attribute, value, mask in slice_masks(scored.attributes)
    ]


def slice_masks(attributes: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield attribute, value and (n,) mask. Histopathology is the only confirmation type with a slice."""
    for attribute in attributes.columns:
        column = attributes[attribute]
        if column.isna().all():
            continue
        if attribute == "diagnosis_confirm_type":
            yield attribute, "histopathology", (column == "histopathology").to_numpy()
            continue
        values, order = _banded(attribute, column)
        for value in order:
            yield attribute, value, values == value


def _banded(attribute: str, column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """(n,) slice value of every image, and the order to show them in; `missing` last."""
    bands = {"age_years": AGE_BANDS_YEARS, "size_mm": SIZE_BANDS_MM}.get(attribute)
    if bands is None:
        values = column.astype(object).where(column.notna(), MISSING).astype(str)
        order = [str(value) for value in values.value_counts().index if value != MISSING]
    else:
        names = [_band_name(low, high) for low, high in pairwise(bands)]
        cut = pd.cut(column.astype(float), list(bands), right=False, labels=names)
        values = cut.astype(object).where(cut.notna(), MISSING).astype(str)
        order = [name for name in names if (values == name).any()]
    if (values == MISSING).any():
        order.append(MISSING)
    return values.to_numpy(dtype=object), order


def _band_name(low: float, high: float) -> str:
    return f"{low:g} or more" if np.isinf(high) else f"{low:g} to under {high:g}"


def _measure(
    part: Scored,
    attribute: str,
    value: str,
    threshold: float | None,
    resampling: Resampling,
    sampled: Samples | None = None,
) -> Slice:
    reason = too_small(part)
    figures: dict[str, Figure] = {}
    if reason is None and part.is_binary:
        sampled = sampled or resample_together(part, threshold, resampling, RANKING_NAMES[:2])
        figures = ranking_figures(part, RANKING_NAMES[:2], resampling, sampled)
        figures |= threshold_figures(part, threshold, resampling, sampled)
    elif reason is None:
        figures = macro_figures(part, resampling) | hit_figures(part, resampling)
    return Slice(
        attribute=attribute,
        value=value,
        n_images=part.n_images,
        n_groups=part.n_groups,
        n_positives=part.n_positives,
        reason=reason,
        figures=figures,
    )


def too_small(part: Scored) -> str | None:
    """Why a slice is not scored, or None."""
    if part.n_images < MIN_IMAGES:
        return f"{plural(part.n_images, 'image')}, floor {MIN_IMAGES}"
    if not part.is_binary:
        return None
    for name, count in part.class_counts.items():
        if count < MIN_OF_EACH_CLASS:
            return f"{plural(count, 'image')} of class {name}, floor {MIN_OF_EACH_CLASS}"
    return None
