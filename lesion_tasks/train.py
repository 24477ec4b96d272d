"""A variant and the manifest in force -> a stored model and keyed predictions.

Reads one manifest by digest, never the live tables. Writes the model, then its manifest, then one transaction
with the predictions and the finished row: a training that has no finished row can simply be run again and goes
on after its last complete epoch. A training whose fingerprint is finished already is found, not run.
"""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import DEFAULT_VARIANTS, RETRAIN_SHARE, SPLITS, TASKS, VARIANTS, Variant
from lesion_tasks.database import advisory_lock, copy_rows, database_url, engine_for
from lesion_tasks.manifest import read_manifest
from lesion_tasks.predictions import join_to_manifest, store_predictions
from lesion_tasks.progress import progress
from lesion_tasks.settings import read_settings
from lesion_tasks.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.dataset import Examples
    from lesion_tasks.engine import Data, Trained
    from lesion_tasks.model import Weights

log = logging.getLogger(__name__)

# What decides the numbers of a training beside variant, data and weights: these sources, by content.
CODE_FILES = (
    "square.py", "dataset.py", "model/*.py", "accelerator.py", "sampling.py", "segmentation.py", "features.py",
    "in_memory.py", "training_loop.py", "engine.py", "prediction.py",
)  # fmt: skip


def choose_variants(*, variants: Sequence[str] | None = None, policy: str = "changed") -> list[str]:
    """Return which variants to train: the named ones, or those of the settings.

    `policy` "always" keeps all of them; "changed" keeps those never trained, and those whose manifest has new,
    changed or lost rows amounting to `RETRAIN_SHARE` since their last training.
    """
    names = list(variants or read_settings().variants or DEFAULT_VARIANTS)
    for name in names:
        find_variant(name)
    if policy == "always":
        return names
    if policy != "changed":
        raise UnusableInputError(f"retrain policy {policy!r}: expected always or changed")
    store = open_store()
    engine = engine_for(database_url())
    return [name for name in names if _has_grown(engine, store, VARIANTS[name])]


def _has_grown(engine: Engine, store: Store, variant: Variant) -> bool:
    digest, key = manifest_in_force(engine, variant.split)
    with engine.connect() as connection:
        last = connection.execute(
            text("""
                SELECT m.digest, m.object_key FROM training t JOIN manifest m ON m.digest = t.manifest_digest
                WHERE t.variant = :variant AND t.status = 'finished' ORDER BY t.started_at DESC LIMIT 1
            """),
            {"variant": variant.name},
        ).one_or_none()
    if last is None:
        return True
    if last.digest == digest:
        log.info("%s: its manifest has not changed since the last training", variant.name)
        return False
    columns = ["isic_id", "subset", "label", "sha256"]
    before, now = (
        set(read_manifest(store, k)[columns].itertuples(index=False, name=None))
        for k in (last.object_key, key)
    )
    share = len(before ^ now) / len(now)
    log.info("%s: %.1f %% of its manifest changed since the last training", variant.name, 100 * share)
    return share >= RETRAIN_SHARE


def find_variant(name: str) -> Variant:
    """Return a catalogue entry, or raise `UnusableInputError` listing what there is."""
    if name not in VARIANTS:
        raise UnusableInputError(f"unknown variant {name!r}, expected one of {', '.join(sorted(VARIANTS))}")
    return VARIANTS[name]


def pixels_wanted(variant: str) -> dict[str, Any] | None:
    """What must be materialized before a variant can be trained: digest, side_px and aspect; None without pixels."""
    recipe = find_variant(variant)
    if recipe.side_px is None:
        return None
    digest, _ = manifest_in_force(engine_for(database_url()), recipe.split)
    return {"digest": digest, "side_px": recipe.side_px, "aspect": recipe.aspect}


def manifest_in_force(engine: Engine, split: str) -> tuple[str, str]:
    """Return digest and object key of the manifest that a split gave last."""
    with engine.connect() as connection:
        row = connection.execute(
            text(
                "SELECT digest, object_key FROM manifest WHERE split = :split ORDER BY built_at DESC LIMIT 1"
            ),
            {"split": split},
        ).one_or_none()
    if row is None:
        raise UnusableInputError(f"split {split!r} has no manifest yet, expected one: build the split first")
    return row.digest, row.object_key


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything that identifies a training."""

    variant: Variant
    digest: str
    manifest_key: str
    weights: "Weights | None"
    weights_location: str  # where the settings say that pretrained weights are

    @property
    def is_missing_weights(self) -> bool:
        return self.variant.backbone is not None and self.variant.is_pretrained and self.weights is None

    @property
    def fingerprint(self) -> str:
        parts = {
            "variant": asdict(self.variant),
            "manifest": self.digest,
            "weights": self.weights.sha256 if self.weights else None,
            "code": code_digest(),
        }
        if self.is_missing_weights:
            parts["missing_weights"] = self.weights_location
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """SHA-256 over the sources that decide a training's numbers."""
    folder = Path(__file__).parent
    files = [file for pattern in CODE_FILES for file in sorted(folder.glob(pattern))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def train_variant(variant: str, *, again: bool = False) -> str:
    """Train a variant on the manifest in force of its split; returns the training id.

    `again` runs a training anew whose fingerprint is finished already.
    """
    from lesion_tasks.model import find_weights

    recipe = find_variant(variant)
    engine = engine_for(database_url())
    store = open_store()
    location = read_settings().weights
    digest, manifest_key = manifest_in_force(engine, recipe.split)
    job = _Job(
        variant=recipe, digest=digest, manifest_key=manifest_key, weights=None, weights_location=location
    )
    try:
        job = replace(job, weights=find_weights(recipe, location, store))
    except UnusableInputError:
        # A row of its own, since without weights there is no fingerprint of the training that was meant.
        training_id, _ = _begin(engine, job, again=False)
        with _Outcome(engine, training_id):
            raise
    # Held until the end: a second worker with the same training waits, and then finds it finished.
    with advisory_lock(engine, job.fingerprint):
        training_id, is_finished = _begin(engine, job, again)
        if is_finished:
            log.info("training %s is finished already, nothing to run (use `again` to force)", training_id)
            return training_id
        with _Outcome(engine, training_id):
            _run(engine, store, job, training_id)
    return training_id


def _begin(engine: Engine, job: _Job, again: bool) -> tuple[str, bool]:
    """Find or insert the row of a training; returns its id and whether it is finished."""
    with engine.begin() as connection:
        past = connection.execute(
            text("SELECT training_id, status FROM training WHERE fingerprint = :f ORDER BY started_at DESC"),
            {"f": job.fingerprint},
        ).all()
        if past and past[0].status == "finished" and not again:
            return past[0].training_id, True
        if past and past[0].status != "finished":
            connection.execute(
                text("UPDATE training SET status = 'running', reason = NULL WHERE training_id = :id"),
                {"id": past[0].training_id},
            )
            return past[0].training_id, False
        number = f"-{len(past) + 1}" if past else ""
        training_id = f"{job.variant.name}-{job.fingerprint[:10]}{number}"
        task = job.variant.task
        copy_rows(
            connection,
            "training",
            (
                "training_id", "variant", "task", "fingerprint", "recipe", "manifest_digest", "weights",
                "weights_sha256", "seed", "code_version", "versions", "status", "classes", "started_at",
            ),
            [(
                training_id, job.variant.name, task.name, job.fingerprint, asdict(job.variant), job.digest,
                job.weights.origin if job.weights else None, job.weights.sha256 if job.weights else None,
                job.variant.seed, read_settings().code_version,
                _versions(), "running",
                list(task.classes), datetime.now(UTC).isoformat(),
            )],
        )  # fmt: skip
        return training_id, False


def _versions() -> dict[str, str]:
    """Versions of what computes: Keras, its back end, NumPy, scikit-learn and Python."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import keras

    found = {"python": platform.python_version(), "keras": keras.__version__}
    for name, packages in {
        keras.backend.backend(): ("tensorflow-cpu", "tensorflow", keras.backend.backend()),
        "numpy": ("numpy",),
        "scikit-learn": ("scikit-learn",),
    }.items():
        for package in packages:
            try:
                found[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    return found


class _Outcome(AbstractContextManager[None]):
    """Writes the reason on a training's row when it ends in any error, and lets the error rise."""

    def __init__(self, engine: Engine, training_id: str) -> None:
        self.engine = engine
        self.training_id = training_id

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with self.engine.begin() as connection:
                connection.execute(
                    text("UPDATE training SET status = 'failed', reason = :reason WHERE training_id = :id"),
                    {"id": self.training_id, "reason": f"{type(error).__name__}: {error}"[:2_000]},
                )


def _run(engine: Engine, store: Store, job: _Job, training_id: str) -> None:
    from lesion_tasks.engine import n_epochs_at_most, train_model
    from lesion_tasks.evaluation.threshold import choose_threshold

    variant = job.variant
    rows = read_manifest(store, job.manifest_key)
    data = _load_data(engine, store, variant, rows)
    n_epochs = n_epochs_at_most(variant)
    with progress(f"train {variant.name}", n_epochs) as advance:

        def on_epoch(epoch: int, figures: dict[str, float], duration_s: float) -> None:
            _record_epoch(engine, training_id, epoch, figures, duration_s)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            minutes_left = duration_s * (n_epochs - epoch) / 60  # when no stage stops early
            log.info("epoch %d: %s (%.1f s, at most %.0f min left)", epoch, shown, duration_s, minutes_left)
            advance(1, shown)

        trained = train_model(
            variant,
            job.weights,
            data,
            engine=engine,
            store=store,
            folder=f"trainings/{training_id}",
            on_epoch=on_epoch,
        )
    figures = {
        "val": _trainer_figures(data.val, trained.predictions["val"]),
        "test": _trainer_figures(data.test, trained.predictions["test"]),
    }
    threshold = None
    if variant.task.positive is not None:
        val_rows = rows[rows["subset"] == "val"]
        threshold = choose_threshold(
            join_to_manifest(trained.predictions["val"], val_rows, variant.task)
        ).value
    _finish(engine, store, job, training_id, trained, figures, threshold)


def _load_data(engine: Engine, store: Store, variant: Variant, rows: "pd.DataFrame") -> "Data":
    """Examples by subset; `val_drawn` is val as the split draws it."""
    from lesion_tasks.dataset import load_examples
    from lesion_tasks.engine import Data

    wanted = {subset: rows[rows["subset"] == subset] for subset in ("train", "val", "test")}
    is_drawn = SPLITS[variant.split].max_per_class is not None
    wanted["val_drawn"] = wanted["val"][wanted["val"]["is_balanced"]] if is_drawn else wanted["val"]
    with engine.connect() as connection:
        subsets = {
            subset: load_examples(
                connection,
                store,
                part,
                classes=variant.task.classes,
                fit=variant.fit,
                metadata_fields=variant.metadata,
            )
            for subset, part in wanted.items()
        }
    return Data(**subsets, sha256_by_id=dict(zip(rows["isic_id"], rows["sha256"], strict=True)))


def _record_epoch(
    engine: Engine, training_id: str, epoch: int, figures: dict[str, float], duration_s: float
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO training_epoch (training_id, epoch, figures, duration_s, ended_at)
                VALUES (:id, :epoch, :figures, :duration_s, :now)
                ON CONFLICT (training_id, epoch) DO UPDATE SET figures = excluded.figures
            """),
            {
                "id": training_id,
                "epoch": epoch,
                "figures": json.dumps(figures),
                "duration_s": duration_s,
                "now": datetime.now(UTC),
            },
        )


def _trainer_figures(examples: "Examples", predictions: "pd.DataFrame") -> dict[str, float | None]:
    """AUC as the trainer sees it: labels and scores by position, straight from the arrays it trained with.

    The evaluator computes the same from keyed rows; where the two differ, rows were mixed up.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    if len(np.unique(examples.labels)) < predictions.shape[1]:
        return {"auc": None}
    scores = predictions.to_numpy()
    if scores.shape[1] == 2:
        return {"auc": float(roc_auc_score(examples.labels, scores[:, 1]))}
    return {"auc": float(roc_auc_score(examples.labels, scores, multi_class="ovr", average="macro"))}


def _finish(
    engine: Engine,
    store: Store,
    job: _Job,
    training_id: str,
    trained: "Trained",
    figures: dict[str, Any],
    threshold: float | None,
) -> None:
    from lesion_tasks.training_loop import model_bytes

    said = {
        "training_id": training_id,
        "variant": asdict(job.variant),
        "task": asdict(TASKS[job.variant.task.name]),
        "classes": list(job.variant.task.classes),
        "threshold": threshold,
        "manifest_digest": job.digest,
        "weights_sha256": job.weights.sha256 if job.weights else None,
        "code_digest": code_digest(),
        "trainer_figures": figures,
        "versions": _versions(),
        "code_version": read_settings().code_version,
        **trained.facts,
    }
    data = _with_manifest(model_bytes(trained.model), said)
    model_key = f"models/{training_id}/model.keras"
    sha256 = hashlib.sha256(data).hexdigest()
    store.put(model_key, data)
    # Last: no manifest means the training did not finish.
    store.put(
        f"models/{training_id}/manifest.json",
        json.dumps({**said, "model_sha256": sha256}, indent=2).encode(),
        content_type="application/json",
    )
    with engine.begin() as connection:
        for subset, frame in trained.predictions.items():
            store_predictions(connection, training_id, job.digest, subset, frame)
        connection.execute(
            text("""
                UPDATE training SET status = 'finished', reason = NULL, model_key = :key, model_sha256 = :sha256,
                    threshold = :threshold, trainer_figures = :figures, finished_at = :now
                WHERE training_id = :id
            """),
            {
                "id": training_id,
                "key": model_key,
                "sha256": sha256,
                "threshold": threshold,
                "figures": json.dumps(figures),
                "now": datetime.now(UTC),
            },
        )
    for key in list(store.list_keys(f"trainings/{training_id}/")):
        store.delete(key)


def _with_manifest(model_file: bytes, said: dict[str, Any]) -> bytes:
    """Add `lesion.json` to a `.keras` archive: classes, threshold and lineage travel with the weights."""
    buffer = io.BytesIO(model_file)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("lesion.json", json.dumps(said, indent=2))
    return buffer.getvalue()
