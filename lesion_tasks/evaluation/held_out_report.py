"""A variant and what to hold out -> a training without each value, its evaluation, and one report about all of them.

Known as internal-external cross-validation (Steyerberg & Harrell 2016, doi:10.1016/j.jclinepi.2015.04.005). Trainings
and evaluations that exist are found again: killed at any moment, it goes on where it stopped.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.catalog.lookup import find_split, find_variant
from lesion_tasks.catalog.recipe import depends_on_seed
from lesion_tasks.catalog.shortened import without_held_out
from lesion_tasks.catalog.splits import HELD_OUT_BY
from lesion_tasks.database.schema import Evaluation
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.evaluation.evaluation_record import (
    AlteredEvaluationError,
    failed_checks,
    find_difference,
    find_sealed,
    unmade_checks,
)
from lesion_tasks.evaluation.publish import HELD_OUT_FOLDER, held_out_documents, publish
from lesion_tasks.evaluation.subject import EvaluationSubject, find_subject
from lesion_tasks.metrics.held_out_document import HeldOutDocument, HeldOutSite, UntestedSite, put_together
from lesion_tasks.splits.held_out import (
    HeldOut,
    Origins,
    build_held_out,
    find_origins,
    refuse_to_hold_out,
)
from lesion_tasks.splits.institution_names import find_alike
from lesion_tasks.training.predictions import join_to_manifest, read_sealed_predictions
from lesion_tasks.training.prepare import prepare_training
from lesion_tasks.training.run_record import code_of
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    from lesion_tasks.metrics.auc import Auc

log = logging.getLogger(__name__)

# Beside the leading measure: how a model calls and how its probabilities hold where it never learned.
SHOWN = (
    "auc", "macro_auc", "sensitivity", "specificity", "balanced_accuracy", "calibration_intercept",
    "calibration_slope", "brier_skill",
)  # fmt: skip


def choose_held_out(
    workspace: Workspace, variant: str, by: str, *, is_smoke_run: bool = False
) -> list[HeldOut]:
    """What to hold out, one after the other, after building what the variant needs; logs what is not held out.

    All are of the manifest in force now: a split that is built while folds are trained is of no concern to them.
    """
    refuse_to_hold_out(find_split(find_variant(variant).split))
    digest = prepare_training(workspace, variant, is_smoke_run=is_smoke_run)
    origins = find_origins(workspace, digest, by)
    for one in origins.found:
        if one.reason is not None:
            log.warning("%s is not held out by itself: %s", one.value, one.reason)
    for first, second in find_alike([one.value for one in origins.found]):
        log.warning("%s and %s may be one %s in two spellings", first, second, HELD_OUT_BY[by])
    if origins.n_unknown:
        log.warning("%d images tell no %s: they teach nothing", origins.n_unknown, HELD_OUT_BY[by])
    return [HeldOut(by=by, value=one.value, manifest_digest=digest) for one in origins.held_out]


def train_without(
    workspace: Workspace,
    variant: str,
    held_out: HeldOut,
    *,
    is_smoke_run: bool = False,
    max_epochs: int | None = None,
) -> str:
    """Train a variant without one value and evaluate it on that, unless both were done; returns the training id."""
    training_id = train_variant(
        workspace, variant, is_smoke_run=is_smoke_run, max_epochs=max_epochs, held_out=held_out
    )
    if find_valid(workspace, training_id) is None:
        evaluate_training(workspace, training_id)
    return training_id


def find_valid(workspace: Workspace, training_id: str) -> Evaluation | None:
    """The evaluation of a training on its own manifest if it is whole, unchanged and of today's checks."""
    subject = find_subject(workspace.engine, workspace.bucket, training_id)
    with workspace.engine.connect() as connection:
        try:
            found = find_sealed(connection, training_id, subject.manifest.digest)
        except AlteredEvaluationError as error:
            log.warning("%s", error)
            return None
        if found is None or unmade_checks(found.document):
            return None
        if (difference := find_difference(connection, subject.training, found.document)) is not None:
            log.warning("%s", difference)
            return None
    return found


def report_held_out(workspace: Workspace, manifest_digest: str, by: str, training_ids: Sequence[str]) -> str:
    """Put the folds of one variant together; returns the key of the report's page in the bucket.

    The same folds give the same files under the same key. Raises `UnusableInputError` for trainings that are not folds
    of one variant and of this manifest of its split, or were not evaluated.
    """
    from lesion_tasks.reports.held_out_page import render_held_out

    document = _document(workspace, manifest_digest, by, sorted(set(training_ids)))
    folder = f"{HELD_OUT_FOLDER}/{document.held_out_id}"
    for name, (data, content_type) in render_held_out(document).items():
        workspace.bucket.put(f"{folder}/{name}", data, content_type=content_type)
    key = f"{folder}/report.html"
    publish(workspace)
    log.info("%s", document.words)
    log.info("report: %s/%s", workspace.bucket.url, key)
    return key


def list_reported(bucket: Bucket) -> set[str]:
    """The trainings that any stored report on what was held out names."""
    return {site["training_id"] for one in held_out_documents(bucket) for site in one["sites"]}


def _document(
    workspace: Workspace, manifest_digest: str, by: str, training_ids: Sequence[str]
) -> HeldOutDocument:
    subjects = [find_subject(workspace.engine, workspace.bucket, name) for name in training_ids]
    if not subjects or any(one.manifest.recipe.get("held_out", {}).get("by") != by for one in subjects):
        raise UnusableInputError(
            f"trainings {', '.join(training_ids) or 'none'}: expected those from which something was held out by {by}"
        )
    if len(variants := {one.training.variant for one in subjects}) > 1:
        raise UnusableInputError(f"trainings of {', '.join(sorted(variants))}: expected folds of one variant")
    _refuse_unlike(workspace, subjects)
    for one in subjects:
        _refuse_other_split(workspace, one, manifest_digest)
    first = subjects[0]
    origins = find_origins(workspace, manifest_digest, by)
    measured = [(*_site(workspace, one), one) for one in subjects]
    measured.sort(key=lambda one: (-one[0].n_images, one[0].value))
    aucs = [auc for _, auc, _ in measured if auc is not None]
    n_tests = Counter(
        group for _, auc, one in measured if auc is not None for group in set(one.subset("test")["group_id"])
    )
    n_shared = sum(n > 1 for n in n_tests.values())
    together, reason, words = put_together(
        aucs,
        HELD_OUT_BY[by],
        n_groups=len(n_tests),
        n_shared=n_shared,
        has_luck=depends_on_seed(first.training.recipe),
    )
    tested = {site.value for site, *_ in measured}
    if missing := [one.value for one in origins.held_out if one.value not in tested]:
        words += f" Not among these, though each could be held out: {', '.join(missing)}."
    digest = hashlib.sha256("\n".join(training_ids).encode()).hexdigest()[:10]
    return HeldOutDocument(
        held_out_id=f"{first.training.variant}-by-{by}-{digest}",
        evaluated_at=max(evaluation_of(workspace, one).document["evaluated_at"] for one in subjects),
        variant=first.training.variant,
        title=without_held_out(first.training.recipe["title"]),
        task=first.task.name,
        task_title=first.task.title,
        split=first.training.recipe["split"],
        by=by,
        one=HELD_OUT_BY[by],
        manifest_digest=manifest_digest,
        measure=leading_measure(first.task.name),
        sites=[site for site, *_ in measured],
        untested=_untested(origins, tested),
        n_unknown=origins.n_unknown,
        n_of_several=origins.n_of_several,
        n_groups=len(n_tests),
        n_shared_groups=n_shared,
        together=together,
        reason=reason,
        words=words,
    )


def _refuse_unlike(workspace: Workspace, subjects: Sequence[EvaluationSubject]) -> None:
    """Raise `UnusableInputError` unless the folds are of one recipe and one code, each without another value."""
    values = Counter(one.manifest.recipe["held_out"]["value"] for one in subjects)
    if twice := sorted(value for value, n in values.items() if n > 1):
        raise UnusableInputError(f"several trainings without {', '.join(twice)}: expected one of each")
    first = subjects[0]
    for one in subjects[1:]:
        recipes = first.training.recipe, one.training.recipe
        fields = {name for recipe in recipes for name in recipe} - {"title"}
        differ = sorted(name for name in fields if recipes[0].get(name) != recipes[1].get(name))
        if not differ and code_of(workspace.bucket, one.training) != code_of(
            workspace.bucket, first.training
        ):
            differ = ["code"]
        if differ:
            raise UnusableInputError(
                f"{one.training.training_id} and {first.training.training_id} differ in {', '.join(differ)}: expected "
                "folds of one recipe"
            )


def _refuse_other_split(workspace: Workspace, subject: EvaluationSubject, manifest_digest: str) -> None:
    """Raise `UnusableInputError` if a fold is not of this manifest: those of one report share it."""
    held_out = HeldOut(**subject.manifest.recipe["held_out"], manifest_digest=manifest_digest)
    if build_held_out(workspace, held_out) != subject.manifest.digest:
        moved = " or its collections list other images by now" if held_out.by == "collections" else ""
        raise UnusableInputError(
            f"{subject.training.training_id} learned from another manifest of split "
            f"{subject.training.recipe['split']!r} than {manifest_digest[:12]}{moved}: train all folds again, those "
            "that have not changed are found"
        )


def evaluation_of(workspace: Workspace, subject: EvaluationSubject) -> Evaluation:
    """The sealed evaluation of a fold; raises `UnusableInputError` if there is none."""
    found = find_valid(workspace, subject.training.training_id)
    if found is None:
        raise UnusableInputError(
            f"{subject.training.training_id} has no valid evaluation on its own manifest: evaluate it first"
        )
    return found


def _site(workspace: Workspace, subject: EvaluationSubject) -> "tuple[HeldOutSite, Auc | None]":
    """One fold, and its leading figure with the influence of each group."""
    from lesion_tasks.metrics.headline import headline_auc

    evaluation = evaluation_of(workspace, subject)
    training = subject.training
    is_sound = not failed_checks(evaluation.document)
    subset = evaluation.document["subsets"].get("test_natural", {})
    counts = subject.manifest.class_counts
    site = HeldOutSite(
        value=subject.manifest.recipe["held_out"]["value"],
        training_id=training.training_id,
        evaluation_id=evaluation.evaluation_id,
        report_key=evaluation.report_key,
        manifest_digest=subject.manifest.digest,
        n_images=sum(counts["test"].values()),
        n_groups=int(subject.subset("test")["group_id"].nunique()),
        class_counts=counts["test"],
        n_trained_on=sum(counts["train"].values()) + sum(counts["val"].values()),
        is_sound=is_sound,
        verdict=evaluation.document["verdict"],
        figures={name: subset["figures"][name] for name in SHOWN if name in subset.get("figures", {})},
    )
    if not is_sound:
        return site, None
    with workspace.engine.connect() as connection:
        predictions = read_sealed_predictions(
            connection, training.training_id, subject.manifest.digest, "test", subject.task.classes
        )
    return site, headline_auc(join_to_manifest(predictions, subject.subset("test"), subject.task))


def _untested(origins: Origins, tested: set[str]) -> list[UntestedSite]:
    return [
        UntestedSite(
            value=one.value,
            n_images=one.n_images,
            n_groups_by_class=dict(one.n_groups_by_class),
            reason=one.reason or "no training without it is among these",
        )
        for one in origins.found
        if one.value not in tested
    ]
