"""One training on one manifest, as the database knows it: the subject of an evaluation, and its facts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import Task
from lesion_tasks.catalog.image_columns import MAY_BE_MISSING
from lesion_tasks.catalog.lookup import question_of
from lesion_tasks.database.schema import Manifest, Training
from lesion_tasks.metrics.known_identities import Identities, count_known
from lesion_tasks.reports.bundle import DataChanges, DataFacts, Epoch, ManifestFacts, TrainingFacts
from lesion_tasks.splits.manifest import find_manifest, read_manifest
from lesion_tasks.training.predictions import trainings_with_predictions
from lesion_tasks.training.run_record import find_finished, list_epochs, list_finished

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.threshold import Threshold

# The fields in which recipes may differ and still be the same recipe with other weights.
_NAMING = ("name", "title", "reproduces", "is_pretrained")


@dataclass(frozen=True, kw_only=True)
class EvaluationSubject:
    """One training on one manifest: their rows in the database, and the manifest's rows."""

    training: Training
    manifest: Manifest
    task: Task
    rows: "pd.DataFrame"
    read_own_rows: "Callable[[], pd.DataFrame]"  # once

    @property
    def is_own_manifest(self) -> bool:
        return bool(self.training.manifest_digest == self.manifest.digest)

    @property
    def own_rows(self) -> "pd.DataFrame":
        """The rows of the manifest that the training learned from, whichever it is evaluated on."""
        return self.read_own_rows()

    @property
    def evaluation_id(self) -> str:
        return f"{self.training.training_id}-on-{self.manifest.digest[:10]}"

    @property
    def folder(self) -> str:
        """The folder of the report in the bucket."""
        base = f"reports/{self.training.training_id}"
        return base if self.is_own_manifest else f"{base}/on-{self.manifest.digest[:10]}"

    @property
    def threshold(self) -> "Threshold | None":
        """The operating point that was stored with the model."""
        from lesion_tasks.metrics.threshold import CHOSEN_ON, Threshold

        if self.training.threshold is None:
            return None
        return Threshold(
            value=self.training.threshold,
            rule=self.training.threshold_rule or "a rule that was not recorded",
            chosen_on=CHOSEN_ON,
        )

    @property
    def cut(self) -> float | None:
        """The score from which on an image is called positive; None with more than two classes."""
        return self.training.threshold

    def subset(self, name: str) -> "pd.DataFrame":
        """Rows of train, val or test, or of a balanced draw: `val_balanced`, `test_balanced`."""
        base, _, drawn = name.partition("_")
        inside = self.rows[self.rows["subset"] == base]
        return inside[inside["is_balanced"]] if drawn == "balanced" else inside


def find_subject(
    engine: Engine, bucket: Bucket, training_id: str, manifest_digest: str | None = None
) -> EvaluationSubject:
    """Look up a finished training and a manifest of its task (default: its own)."""
    with engine.connect() as connection:
        training = find_finished(connection, training_id)
        task = question_of(training_id, training.task, training.classes)
        manifest = find_manifest(connection, manifest_digest or training.manifest_digest, task=training.task)
    rows = read_manifest(bucket, manifest.object_key)

    @cache
    def read_own_rows() -> "pd.DataFrame":
        if manifest.digest == training.manifest_digest:
            return rows
        with engine.connect() as connection:
            own = find_manifest(connection, training.manifest_digest)
        return read_manifest(bucket, own.object_key)

    return EvaluationSubject(
        training=training, manifest=manifest, task=task, rows=rows, read_own_rows=read_own_rows
    )


def training_facts(subject: EvaluationSubject) -> TrainingFacts:
    """The lineage of a training."""
    training = subject.training
    return TrainingFacts.model_validate(
        {
            **{
                name: getattr(training, name)
                for name in (
                    "training_id", "variant", "task", "recipe", "seed", "weights", "weights_sha256", "code_version",
                    "versions", "threshold", "manifest_digest", "model_sha256",
                )
            },
            "title": training.recipe["title"],
            "reproduces": training.recipe["reproduces"],
            "task_title": subject.task.title,
            "classes": list(training.classes),
            "positive_class": subject.task.positive,
            "started_at": training.started_at.isoformat(timespec="seconds"),
            "finished_at": training.finished_at and training.finished_at.isoformat(timespec="seconds"),
        }
    )  # fmt: skip


def manifest_facts(subject: EvaluationSubject) -> ManifestFacts:
    """The manifest's recipe, counts and funnel."""
    manifest = subject.manifest
    known = {
        name: getattr(manifest, name)
        for name in ("digest", "split", "task", "n_images", "class_counts", "funnel", "recipe")
    }
    created_at = manifest.created_at.isoformat(timespec="seconds")
    return ManifestFacts.model_validate({**known, "created_at": created_at})


def data_facts(subject: EvaluationSubject) -> DataFacts:
    """Licences, attributions, image types and sexes by count; the share of missing values by field and subset."""
    rows = subject.rows

    def counts(column: str) -> dict[str, int]:
        return {str(name): int(n) for name, n in rows[column].fillna("unknown").value_counts().items()}

    return DataFacts(
        licences=counts("copyright_license"),
        attributions=counts("attribution"),
        image_types=counts("image_type"),
        sexes=counts("sex"),
        missing={
            field: {str(subset): float(part[field].isna().mean()) for subset, part in rows.groupby("subset")}
            for field in MAY_BE_MISSING
        },
    )


def identities_of(subject: EvaluationSubject) -> Identities:
    """For how many images patient and lesion are known: of those it learned from, and of its test set."""
    own = subject.own_rows
    return Identities(
        train=count_known(own[own["subset"] == "train"]),
        val=count_known(own[own["subset"] == "val"]),
        test=count_known(subject.subset("test")),
    )


def data_changes(engine: Engine, bucket: Bucket, subject: EvaluationSubject) -> DataChanges | None:
    """What the manifest gained and lost since the one of this variant's previous training.

    None for the first, and where something was held out, which is not a change of the data.
    """
    if subject.manifest.held_out is not None:
        return None
    with engine.connect() as connection:
        earlier = [
            training.manifest_digest
            for training in list_finished(connection, variant=subject.training.variant)
            if training.started_at < subject.training.started_at
            and training.manifest_digest != subject.manifest.digest
        ]
        if not earlier:
            return None
        before = find_manifest(connection, earlier[-1])
    old, new = (
        rows.set_index("isic_id") for rows in (read_manifest(bucket, before.object_key), subject.rows)
    )
    both = old.index.intersection(new.index)
    fresh = new[~new.index.isin(both)]
    return DataChanges(
        since_manifest=before.digest,
        n_new=len(fresh),
        n_lost=len(old) - len(both),
        n_relabelled=int((old.loc[both, "label"] != new.loc[both, "label"]).sum()),
        n_moved=int((old.loc[both, "subset"] != new.loc[both, "subset"]).sum()),
        new_by_class={str(k): int(n) for k, n in fresh["label"].value_counts().items()},
    )


def epochs(engine: Engine, subject: EvaluationSubject) -> list[Epoch]:
    """The figures of every epoch, in order."""
    with engine.connect() as connection:
        return [Epoch.model_validate(one) for one in list_epochs(connection, subject.training.training_id)]


def is_pretrained(recipe: dict[str, Any]) -> bool:
    """Whether a training of this recipe starts from weights that were learned elsewhere."""
    return bool(recipe.get("backbone") and recipe["is_pretrained"])


def random_weight_baseline(connection: Connection, subject: EvaluationSubject) -> str | None:
    """The latest training of the same recipe from random weights that has scored this manifest."""
    if not is_pretrained(subject.training.recipe):
        return None
    wanted = _without_naming(subject.training.recipe)
    fitting = [
        training.training_id
        for training in list_finished(connection, task=subject.training.task)
        if not training.recipe["is_pretrained"] and _without_naming(training.recipe) == wanted
    ]
    scored = trainings_with_predictions(connection, subject.manifest.digest)
    return next((name for name in reversed(fitting) if name in scored), None)


def _without_naming(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in _NAMING}
