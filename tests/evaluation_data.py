"""Small evaluations for tests: rows in, a `Scored` out; and one that was really run, with every file it left."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from catalogue import add_records, labelled_records, rows_of

from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import VARIANTS, InputSize
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.metrics.scored import Scored, join
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace

CLASSES = ("benign", "malignant")


def binary(
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    groups: Sequence[int] | np.ndarray | None = None,
    **attributes: Sequence[object],
) -> Scored:
    """A binary task with `malignant` as 1; each image its own group unless said otherwise."""
    ids = [f"ISIC_{index:07d}" for index in range(len(labels))]
    groups = range(len(labels)) if groups is None else groups
    rows = [
        {"isic_id": isic_id, "label": CLASSES[int(label)], "group_id": f"G{group}"}
        | {name: values[index] for name, values in attributes.items()}
        for index, (isic_id, label, group) in enumerate(zip(ids, labels, groups, strict=True))
    ]
    scored = {isic_id: float(score) for isic_id, score in zip(ids, scores, strict=True)}
    return join(scored, rows, class_names=CLASSES, positive_class="malignant")


def multiclass(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray | None = None) -> Scored:
    """Classes a, b, c, ... by index."""
    names = tuple("abcdefgh"[: probabilities.shape[1]])
    ids = [f"ISIC_{index:07d}" for index in range(len(labels))]
    groups = np.arange(len(labels)) if groups is None else groups
    rows = [
        {"isic_id": isic_id, "label": names[label], "group_id": str(group)}
        for isic_id, label, group in zip(ids, labels, groups, strict=True)
    ]
    return join(dict(zip(ids, probabilities.tolist(), strict=True)), rows, class_names=names)


def drawn(
    n_images: int,
    *,
    distance: float = 1.5,
    prevalence: float = 0.3,
    seed: int = 0,
    n_groups: int | None = None,
) -> Scored:
    """Normal scores, `distance` apart; `n_groups` makes groups of several images."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n_images) < prevalence
    scores = 1 / (1 + np.exp(-(distance * labels - distance / 2 + rng.normal(size=n_images))))
    groups = None if n_groups is None else rng.integers(0, n_groups, n_images)
    return binary(labels, scores, groups)


def drawn_multiclass(n_images: int, n_classes: int = 4, *, signal: float = 1.5, seed: int = 0) -> Scored:
    """Softmax of normal noise with `signal` on the true class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n_images)
    logits = rng.normal(size=(n_images, n_classes))
    logits[np.arange(n_images), labels] += signal
    odds = np.exp(logits)
    return multiclass(
        labels, odds / odds.sum(axis=1, keepdims=True), rng.integers(0, n_images // 2, n_images)
    )


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a real evaluation left: its row's document, and the files of its folder and the index by name."""

    training_id: str
    document: dict[str, Any]
    files: dict[str, bytes]
    index: bytes


SITES = ("lower extremity", "anterior torso", "head/neck")


def described_records(n: int, *, first: int = 1) -> list[dict[str, Any]]:
    """Labelled records that also tell site, skin type and how the diagnosis was confirmed."""
    records = labelled_records(n, first=first)
    for i, record in enumerate(records):
        clinical = record["metadata"]["clinical"]
        # One site is too rare to be measured.
        clinical["anatom_site_general"] = "palms/soles" if i % 40 == 0 else SITES[i % 3]
        clinical["fitzpatrick_skin_type"] = ("I", "II", "III")[i % 3]
        clinical["diagnosis_confirm_type"] = "histopathology" if i % 4 else "serial imaging showing no change"
        record["copyright_license"] = ("CC-0", "CC-BY-NC")[i % 2]
    return records


def run_evaluation(settings: Settings) -> Evaluated:
    """Train a small network, train it again on a catalogue that grew, and evaluate the second training."""
    VARIANTS["report_smoke"] = replace(
        VARIANTS["smoke"], name="report_smoke", split="malignancy_natural", max_epochs=2
    )
    _train_on(settings, described_records(240))
    training_id = _train_on(settings, described_records(20, first=1_001))
    evaluate_training(open_workspace(), training_id)
    ((document,),) = rows_of(settings, "SELECT document FROM evaluation")
    folder, bucket = f"reports/{training_id}/", open_bucket(settings)
    return Evaluated(
        training_id=training_id,
        document=document,
        files={key.removeprefix(folder): bucket.get(key) for key in bucket.list_keys(folder)},
        index=bucket.get("reports/index.html"),
    )


def _train_on(settings: Settings, records: list[dict[str, Any]]) -> str:
    add_records(settings, records)
    curate_images(open_workspace())
    digest = build_split(open_workspace(), "malignancy_natural")
    materialize_manifest(open_workspace(), digest, InputSize(32))
    return train_variant(open_workspace(), "report_smoke")
