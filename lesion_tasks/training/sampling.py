"""Train examples and a sampling rule -> the examples that an epoch sees, possibly including rotated copies."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lesion_tasks.catalog.learning import WEIGHTINGS_OF_LESIONS
from lesion_tasks.training.examples import Examples

# R1 uses Augmentor's rotate(probability=0.7, max_left_rotation=10, max_right_rotation=10).
COPY_ROTATION_DEG = 10.0
COPY_ROTATION_PROBABILITY = 0.7
LEAKY_VAL_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class SampledExamples(Examples):
    """Some rows of other examples, in another order, possibly repeated, possibly each with a rotation."""

    source: Examples
    rows: np.ndarray  # (n,) int, rows of the source
    angles_deg: np.ndarray | None = None  # (n,) float; 0 leaves a picture unchanged

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The model's inputs for some rows, each rotated by its angle."""
        inputs = self.source.inputs(self.rows[rows])
        if self.angles_deg is not None:
            turned = [
                picture if angle == 0 else rotate_picture(picture, angle)
                for picture, angle in zip(inputs["pixels"], self.angles_deg[rows], strict=True)
            ]
            inputs["pixels"] = np.stack(turned)
        return inputs


def sample_rows(source: Examples, rows: np.ndarray, angles_deg: np.ndarray | None = None) -> SampledExamples:
    """Take rows of examples, each under its own image id."""
    return SampledExamples(
        isic_ids=source.isic_ids[rows],
        labels=source.labels[rows],
        pixels=None,
        metadata=None,
        source=source,
        rows=rows,
        angles_deg=angles_deg,
    )


@dataclass(frozen=True, kw_only=True)
class Pooled(Examples):
    """The rows of two sets of examples, one set after the other."""

    parts: tuple[Examples, Examples]

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The model's inputs for some rows, whichever set they come from."""
        first, second = self.parts
        in_first = rows < len(first)
        found = [first.inputs(rows[in_first]), second.inputs(rows[~in_first] - len(first))]
        out = {}
        for name, values in found[0].items():
            out[name] = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype)
            out[name][in_first], out[name][~in_first] = values, found[1][name]
        return out


def pool(first: Examples, second: Examples) -> Examples:
    """Two sets of examples as one."""
    return Pooled(
        isic_ids=np.concatenate([first.isic_ids, second.isic_ids]),
        labels=np.concatenate([first.labels, second.labels]),
        pixels=None,
        metadata=None,
        parts=(first, second),
    )


def resample(train: Examples, sampling: str, seed: int) -> Examples:
    """Draw the examples of an epoch. `sampling` is one of `catalog.SAMPLINGS`; "as_drawn" returns them unchanged."""
    if sampling == "as_drawn":
        return train
    generator = np.random.default_rng((seed, 1))
    if sampling.startswith("rotated_copies"):
        return with_rotated_copies(train, seed)
    by_class = [np.flatnonzero(train.labels == label) for label in np.unique(train.labels)]
    sizes = np.array([len(rows) for rows in by_class])
    target = {"undersampled": sizes.min(), "oversampled": sizes.max(), "resampled": round(sizes.mean())}[
        sampling
    ]
    rows = np.concatenate([_bring_to(rows, int(target), generator) for rows in by_class])
    return sample_rows(train, np.sort(rows))


def _bring_to(rows: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """n of these rows: a draw without repetition if there are more, every row plus repetitions if there are fewer."""
    if n <= len(rows):
        return generator.permutation(rows)[:n]
    whole, rest = divmod(n, len(rows))
    return np.concatenate([*[rows] * whole, generator.permutation(rows)[:rest]])


def with_rotated_copies(examples: Examples, seed: int) -> SampledExamples:
    """Add rotated copies of the smaller classes until every class is as large as the largest."""
    generator = np.random.default_rng((seed, 2))
    n_originals = len(examples)
    counts = {label: int((examples.labels == label).sum()) for label in np.unique(examples.labels)}
    copies = [
        generator.choice(np.flatnonzero(examples.labels == label), max(counts.values()) - n)
        for label, n in counts.items()
    ]
    rows = np.concatenate([np.arange(n_originals), *copies])
    angles = generator.uniform(-COPY_ROTATION_DEG, COPY_ROTATION_DEG, len(rows))
    is_turned = generator.random(len(rows)) < COPY_ROTATION_PROBABILITY
    is_turned[:n_originals] = False
    return sample_rows(examples, rows, np.where(is_turned, angles, 0.0))


def leaky_train_and_val(pooled: Examples, seed: int) -> tuple[SampledExamples, SampledExamples]:
    """Copies first, then a random fifth as val: a picture and its rotated copies are on both sides.

    This is the mistake of the published notebook, kept so that its effect can be measured.
    """
    copied = with_rotated_copies(pooled, seed)
    angles = np.zeros(len(copied)) if copied.angles_deg is None else copied.angles_deg
    order = np.random.default_rng((seed, 3)).permutation(len(copied))
    n_val = round(LEAKY_VAL_SHARE * len(copied))

    train, val = order[n_val:], order[:n_val]
    return sample_rows(pooled, copied.rows[train], angles[train]), sample_rows(
        pooled, copied.rows[val], angles[val]
    )


def rotate_picture(picture: np.ndarray, angle_deg: float) -> np.ndarray:
    """Rotate a square uint8 picture (side, side, 3) and crop the empty corners, at the same size."""
    from PIL import Image

    side = picture.shape[0]
    turned = Image.fromarray(picture).rotate(float(angle_deg), Image.Resampling.BILINEAR)
    # The largest centred square without empty corners: side / (cos + sin).
    radians = np.deg2rad(abs(angle_deg))
    inner = side / (np.cos(radians) + np.sin(radians))
    margin = (side - inner) / 2
    box = (margin, margin, side - margin, side - margin)
    return np.asarray(turned.resize((side, side), Image.Resampling.BILINEAR, box=box), dtype=np.uint8)


def lesion_weights(
    isic_ids: np.ndarray,
    lesion_by_id: Mapping[str, str],
    weighting: str,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """How much each example counts, float32 (n,), by the images of its lesion among these; the mean is 1.

    `weighting` is one of `catalog.learning.WEIGHTINGS_OF_LESIONS`. An image of no known lesion is a lesion of its own.
    With `labels`, int (n,), the mean of each class is 1, for examples that are weighted by class as well.
    """
    n_images = Counter(lesion_by_id[i] for i in np.unique(isic_ids) if i in lesion_by_id)
    n = np.array([n_images[lesion_by_id[i]] if i in lesion_by_id else 1 for i in isic_ids])
    weights = n ** -WEIGHTINGS_OF_LESIONS[weighting]
    for part in [slice(None)] if labels is None else [labels == label for label in np.unique(labels)]:
        weights[part] /= weights[part].mean()
    return weights.astype(np.float32)


def class_weights(labels: np.ndarray, n_classes: int) -> dict[int, float]:
    """Weights by class so that every class present counts the same; their mean over the examples is 1."""
    counts = np.bincount(labels, minlength=n_classes)
    n_present = int((counts > 0).sum())
    return {i: len(labels) / (n_present * int(n)) if n else 0.0 for i, n in enumerate(counts)}
