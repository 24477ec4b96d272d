"""Evaluated trainings -> those that wait for a decision, and the one with the best val figure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import AlteredObjectError, Bucket, MissingObjectError
from lesion_tasks.catalog import TASKS, cohorts_of
from lesion_tasks.catalog.gates import figures_to_judge, leading_measure
from lesion_tasks.catalog.titles import label_inside
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.candidacy import never_promotable, waiting_ids
from lesion_tasks.evaluation.evaluation_record import (
    AlteredEvaluationError,
    failed_checks,
    find_difference,
    find_sealed,
    findings_digest,
    sentences_of,
    undecided_checks,
    unmade_checks,
)
from lesion_tasks.metrics.counted import plural
from lesion_tasks.splits.manifest import find_manifest
from lesion_tasks.training.predictions import AlteredPredictionsError, read_sealed_predictions
from lesion_tasks.training.run_record import find_finished, read_model


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A training that has not been decided on yet, and what its evaluation's document says about it."""

    training: Training
    document: Mapping[str, Any]
    altered: str | None  # which stored part was changed since; None if all of it is intact
    findings_sha256: str | None = None  # of its evaluation, if that is intact
    imputation: str | None = None  # how its split fills in missing values
    meaning: str | None = None  # what its task means by now, if that is not what it learned
    leak: str | None = None  # what has become known since its evaluation of images on two sides

    @property
    def training_id(self) -> str:
        return self.training.training_id

    @property
    def obstacle(self) -> str | None:
        """Why it cannot become champion whatever its figures are; None if they decide."""
        if self.altered is not None:
            return f"It was changed after it was stored: {self.altered}"
        if unmade := unmade_checks(self.document):
            return f"It was evaluated by an older version without {', '.join(unmade)}: evaluate it again."
        if self.meaning is not None:
            return self.meaning
        if self.leak is not None:
            return f"Since its evaluation a leak became known. {self.leak}"
        if failed := failed_checks(self.document):
            n_failed = plural(len(failed), "check")
            return f"Its evaluation failed {n_failed}. {sentences_of(self.document, failed)}"
        if undecided := undecided_checks(self.document):
            return (
                f"{sentences_of(self.document, undecided)} More images may tell: of more patients, or with a larger "
                "test_share of a task of your own."
            )
        if (never := never_promotable(self.training.recipe, self.imputation)) is not None:
            return never
        if self.val is None:
            return f"Its {label_inside(leading_measure(self.training.task))} is undefined on val."
        return None

    @property
    def val(self) -> float | None:
        """The leading measure on val, by which one candidate of a round is chosen."""
        figures = self._subset("val").get("figures", {})
        value: float | None = figures.get(leading_measure(self.training.task), {}).get("value")
        return value

    @property
    def test(self) -> Mapping[str, Any]:
        """Figures on the natural test set that gates may be about."""
        return figures_to_judge(self._subset("test_natural"))

    @property
    def on_cohorts(self) -> Mapping[str, Any]:
        """What is known of each cohort that judges the task by now, as `gates.objections` takes it."""
        other = self.document.get("other_data") or {"figures": {}, "cohorts": []}
        names = {cohort.name for cohort in cohorts_of(self.training.task)}
        return {
            "figures": {name: figure for name, figure in other["figures"].items() if name in names},
            "cohorts": [one for one in other["cohorts"] if one["name"] in names],
        }

    @property
    def judged_by(self) -> list[dict[str, Any]]:
        """The cohorts that have a say: name, digest of the manifest, and on how many images it was judged.

        The catalogue and the table of cohorts know only those of today.
        """
        return [
            {
                "name": one["name"],
                "manifest_digest": one["manifest_digest"],
                "n_images": one["subset"]["subset"]["n_images"],
            }
            for one in self.on_cohorts["cohorts"]
            if one["manifest_digest"] is not None and one["subset"]
        ]

    def _subset(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document["subsets"].get(name, {})
        return found


def find_candidates(
    connection: Connection, bucket: Bucket, task: str, only: Collection[str] | None = None
) -> list[Candidate]:
    """The latest evaluated training of each variant, unless it was already decided on.

    A shortened training or a rehearsal does not take the place of the variant's own: of each kind the latest counts.
    `only`: of these trainings alone.
    """
    waiting = [
        find_finished(connection, training_id)
        for training_id in waiting_ids(connection, task)
        if only is None or training_id in only
    ]
    return [find_candidate(connection, bucket, training) for training in waiting]


def find_candidate(connection: Connection, bucket: Bucket, training: Training) -> Candidate:
    """Read what is stored about a training, and check each part against its digest."""
    try:
        evaluation = find_sealed(connection, training.training_id, training.manifest_digest)
        if evaluation is None:
            raise UnusableInputError(
                f"{training.training_id} was not evaluated on its own manifest: evaluate it first"
            )
    except AlteredEvaluationError as error:
        empty = {"integrity": [], "subsets": {}, "verdict": ""}
        return Candidate(training=training, document=empty, altered=str(error))
    altered = altered_model(bucket, training) or _altered_predictions(connection, training)
    if altered is None and not unmade_checks(evaluation.document):
        altered = find_difference(connection, training, evaluation.document)
    # By what the manifest was built from: the split itself may be gone from the catalogue.
    split = find_manifest(connection, training.manifest_digest).recipe.get("split", {})
    return Candidate(
        training=training,
        document=evaluation.document,
        imputation=split.get("imputation"),
        altered=altered,
        findings_sha256=findings_digest(connection, evaluation.evaluation_id),
        meaning=_changed_meaning(connection, training),
    )


def _changed_meaning(connection: Connection, training: Training) -> str | None:
    """What the task asks by now, if the labels that a training learned from answered another question."""
    task = TASKS[training.task]
    if tuple(training.classes) != task.classes:
        return f"It tells {', '.join(training.classes)} apart; the task is about {', '.join(task.classes)} by now."
    learned = find_manifest(connection, training.manifest_digest).recipe.get("task", {})
    if learned.get("mapping_version", task.mapping_version) != task.mapping_version:
        return (
            f"Its labels follow version {learned['mapping_version']} of the task's rules, which are at version "
            f"{task.mapping_version} by now: build the split and train again."
        )
    rules = [{"label": rule.label, "path": list(rule.path)} for rule in task.rules]
    if learned.get("rules", rules) != rules:
        return "Its labels follow other rules than the task's of today: build the split and train again."
    return None


def altered_model(bucket: Bucket, training: Training) -> str | None:
    """What is wrong with the stored model of a training, in words; None if it is intact."""
    try:
        read_model(bucket, training)
    except (MissingObjectError, AlteredObjectError) as error:
        return str(error)
    return None


def _altered_predictions(connection: Connection, training: Training) -> str | None:
    classes = tuple(training.classes)
    try:
        for subset in ("val", "test"):
            read_sealed_predictions(
                connection, training.training_id, training.manifest_digest, subset, classes
            )
    except AlteredPredictionsError as error:
        return str(error)
    return None


def best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate with the highest leading measure on val, among those without an obstacle."""
    able = [candidate for candidate in candidates if candidate.obstacle is None]
    return max(able, key=lambda candidate: (candidate.val or 0.0, candidate.training_id), default=None)
