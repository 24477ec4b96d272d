"""A variant and what to hold out -> trainings without each value, their evaluations, and one report about all of them.

Known as internal-external cross-validation (Steyerberg & Harrell 2016, doi:10.1016/j.jclinepi.2015.04.005). Trainings
and evaluations that exist are found again: killed at any moment, it goes on where it stopped.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import Variant
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.catalog.lookup import find_split, find_variant
from lesion_tasks.catalog.recipe import depends_on_seed
from lesion_tasks.catalog.shortened import title_of_all
from lesion_tasks.catalog.split_recipes import HELD_OUT_BY, N_TRAININGS
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
from lesion_tasks.metrics.held_out_document import (
    HeldOutDocument,
    HeldOutSite,
    HeldOutTraining,
    UntestedSite,
    put_together,
)
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


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One training without a value, and the seed that it begins with."""

    held_out: HeldOut
    seed: int

    @property
    def words(self) -> str:
        """What a task that trains it is called."""
        return f"{self.held_out.value}, seed {self.seed}"

    @property
    def as_json(self) -> dict[str, Any]:
        """For a scheduler: `from_json` gives the fold again."""
        return {**asdict(self.held_out), "seed": self.seed, "words": self.words}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Fold":
        names = [one.name for one in fields(HeldOut)]
        return cls(held_out=HeldOut(**{name: stored[name] for name in names}), seed=stored["seed"])


def choose_folds(
    workspace: Workspace,
    variant: str,
    by: str,
    *,
    n_seeds: int | None = None,
    is_smoke_run: bool = False,
) -> list[Fold]:
    """What to hold out, one after the other, after building what the variant needs; logs what is not held out.

    All are of the manifest in force now: a split that is built while folds are trained is of no concern to them.
    `n_seeds`: trainings of each; None: `n_seeds_of` the variant.
    """
    recipe = find_variant(variant)
    n_seeds = check_folds(variant, n_seeds)
    digest = prepare_training(workspace, variant, is_smoke_run=is_smoke_run)
    origins = find_origins(workspace, digest, by)
    for one in origins.found:
        if one.reason is not None:
            log.warning("%s is not held out by itself: %s", one.value, one.reason)
    for first, second in find_alike([one.value for one in origins.found]):
        log.warning("%s and %s may be one %s in two spellings", first, second, HELD_OUT_BY[by])
    if origins.n_unknown:
        log.warning("the %s of %d images is unknown: they teach nothing", HELD_OUT_BY[by], origins.n_unknown)
    return [
        Fold(held_out=HeldOut(by=by, value=one.value, manifest_digest=digest), seed=seed)
        for one in origins.held_out
        for seed in _seeds(recipe, by, one.value, n_seeds)
    ]


def check_folds(variant: str, n_seeds: int | None) -> int:
    """How many trainings of each value; raises `UnusableInputError` for a variant or a number that makes no sense."""
    recipe = find_variant(variant)
    refuse_to_hold_out(find_split(recipe.split))
    n_seeds = n_seeds_of(recipe) if n_seeds is None else n_seeds
    _refuse_seeds(recipe, n_seeds)
    return n_seeds


def n_seeds_of(variant: Variant) -> int:
    """How many trainings of each value a variant needs: one where another seed gives the same model."""
    return N_TRAININGS if depends_on_seed(variant.as_recipe) and not variant.members else 1


def _refuse_seeds(variant: Variant, n_seeds: int) -> None:
    if n_seeds < 1 or (n_seeds > 1 and n_seeds_of(variant) == 1):
        why = (
            "another seed gives the same model"
            if not variant.members
            else "an ensemble has no seed of its own; hold out with its members"
        )
        raise UnusableInputError(
            f"variant {variant.name!r}: {n_seeds} trainings of each, expected 1"
            + (f": {why}" if n_seeds > 1 else " or more")
        )


def _seeds(variant: Variant, by: str, value: str, n_seeds: int) -> list[int]:
    """Seeds that hardly ever another value has, since trainings that begin alike are lucky alike.

    With ten values and three seeds of each, two values share one with a chance of about 1 in 9,000. More seeds begin
    with those of fewer. Where there is no luck, the variant's own. An ensemble's too, which no member takes: its
    members keep their own seeds and begin alike without every value.
    """
    if n_seeds_of(variant) == 1:
        return [variant.seed]
    digest = hashlib.sha256(f"{by}: {value}".encode()).digest()
    # Far apart, since a network's layers take the seeds that follow.
    start = int.from_bytes(digest[:4], "big") % 2_000_000 * 1_000
    return [start + 1_000 * i for i in range(1, n_seeds + 1)]


def train_fold(
    workspace: Workspace,
    variant: str,
    fold: Fold,
    *,
    is_smoke_run: bool = False,
    max_epochs: int | None = None,
) -> str:
    """Train a variant without one value and evaluate it on that, unless both were done; returns the training id."""
    is_own_seed = fold.seed == find_variant(variant).seed
    training_id = train_variant(
        workspace,
        variant,
        is_smoke_run=is_smoke_run,
        max_epochs=max_epochs,
        changes=None if is_own_seed else {"seed": fold.seed},
        held_out=fold.held_out,
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

    The same folds give the same files under the same key, until a release computes them otherwise. Raises
    `UnusableInputError` for trainings that are not folds of one variant and of this manifest of its split, or were not
    evaluated.
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
    sites = [site for one in held_out_documents(bucket) for site in one["sites"]]
    # Reports of earlier releases have one training of each, and no list of them.
    return {training["training_id"] for site in sites for training in site.get("trainings", [site])}


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
    measure = leading_measure(first.task.name)
    by_value: dict[str, list[EvaluationSubject]] = defaultdict(list)
    for one in subjects:
        by_value[one.manifest.recipe["held_out"]["value"]].append(one)
    measured = _with_figures([_site(workspace, some, measure) for some in by_value.values()], measure)
    measured.sort(key=lambda one: (-one.site.n_images, one.site.value))
    combined = [one for one in measured if one.aucs]
    n_tests = Counter(group for one in combined for group in one.groups)
    n_shared = sum(n > 1 for n in n_tests.values())
    has_luck = depends_on_seed(first.training.recipe)
    together, reason, words = put_together(
        [one.aucs for one in combined],
        HELD_OUT_BY[by],
        n_groups=len(n_tests),
        n_shared=n_shared,
        has_luck=has_luck,
        has_seed=not first.training.recipe.get("members"),
    )
    tested = set(by_value)
    if missing := [one.value for one in origins.held_out if one.value not in tested]:
        words += f" Not among these, though each could be held out: {', '.join(missing)}."
    digest = hashlib.sha256("\n".join(training_ids).encode()).hexdigest()[:10]
    return HeldOutDocument(
        held_out_id=f"{first.training.variant}-by-{by}-{digest}",
        evaluated_at=max(evaluation_of(workspace, one).document["evaluated_at"] for one in subjects),
        variant=first.training.variant,
        title=title_of_all(first.training.recipe),
        task=first.task.name,
        task_title=first.task.title,
        split=first.training.recipe["split"],
        by=by,
        one=HELD_OUT_BY[by],
        manifest_digest=manifest_digest,
        measure=measure,
        sites=[one.site for one in measured],
        untested=_untested(origins, tested),
        n_unknown=origins.n_unknown,
        n_of_several=origins.n_of_several,
        n_groups=len(n_tests),
        n_shared_groups=n_shared,
        has_luck=has_luck,
        together=together,
        reason=reason,
        words=words,
    )


# What the folds of one report may differ in: their seeds, and what follows from them.
_OF_ONE_FOLD = {"title", "seed", "adjusted"}


def _refuse_unlike(workspace: Workspace, subjects: Sequence[EvaluationSubject]) -> None:
    """Raise `UnusableInputError` unless the folds are of one recipe and code, each of another value or seed."""
    values = Counter(
        (one.manifest.recipe["held_out"]["value"], one.training.recipe["seed"]) for one in subjects
    )
    if twice := sorted(f"{value} with seed {seed}" for (value, seed), n in values.items() if n > 1):
        raise UnusableInputError(f"several trainings without {', '.join(twice)}: expected one of each")
    first = subjects[0]
    for one in subjects[1:]:
        recipes = first.training.recipe, one.training.recipe
        names = {name for recipe in recipes for name in recipe} - _OF_ONE_FOLD
        differ = sorted(name for name in names if recipes[0].get(name) != recipes[1].get(name))
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


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One value: its part of the document, and the leading figures of its sound trainings, by group."""

    site: HeldOutSite
    aucs: "list[Auc]"
    groups: set[str]


def _site(workspace: Workspace, subjects: Sequence[EvaluationSubject], measure: str) -> _Measured:
    """The trainings without one value; its figure is the first's until `_with_figures` has seen all values."""
    by_seed = sorted(subjects, key=lambda one: one.training.seed)
    first = by_seed[0]
    counts, test = first.manifest.class_counts, first.subset("test")
    found = [_training(workspace, one) for one in by_seed]
    site = HeldOutSite(
        value=first.manifest.recipe["held_out"]["value"],
        manifest_digest=first.manifest.digest,
        n_images=sum(counts["test"].values()),
        n_groups=int(test["group_id"].nunique()),
        class_counts=counts["test"],
        n_trained_on=sum(counts["train"].values()) + sum(counts["val"].values()),
        trainings=[training for training, _ in found],
        figure=found[0][0].figures.get(measure),
    )
    aucs = [auc for _, auc in found if auc is not None]
    return _Measured(site=site, aucs=aucs, groups=set(test["group_id"]))


def _with_figures(measured: Sequence[_Measured], measure: str) -> list[_Measured]:
    """The same with the leading figure of each value: of several sound trainings the mean, with their luck."""
    from lesion_tasks.metrics.between_sites import site_figure, site_interval, training_variance

    figures = [site_figure(one.aucs) for one in measured]
    training = training_variance([one for one in figures if one is not None])
    done = []
    for one, found in zip(measured, figures, strict=True):
        told = [t.figures[measure] for t in one.site.trainings if t.is_sound and measure in t.figures]
        told = [figure for figure in told if figure.value is not None]
        figure = told[0] if told else one.site.figure
        if found is not None and training is not None:
            mean = {"value": found.mean, **vars(site_interval(found, training)), "other_intervals": []}
            figure = told[0].model_copy(update=mean)
        elif len(told) > 1:
            mean = {"value": sum(t.value or 0.0 for t in told) / len(told), "low": None, "high": None}
            why = "one of its trainings has no interval, as with an AUC of 0 or 1"
            figure = told[0].model_copy(update={**mean, "interval_reason": why, "other_intervals": []})
        done.append(replace(one, site=one.site.model_copy(update={"figure": figure})))
    return done


def _training(workspace: Workspace, subject: EvaluationSubject) -> "tuple[HeldOutTraining, Auc | None]":
    """One training, and its leading figure with the influence of each group; None if it is not sound."""
    from lesion_tasks.metrics.headline import headline_auc

    evaluation = evaluation_of(workspace, subject)
    training = subject.training
    is_sound = not failed_checks(evaluation.document)
    subset = evaluation.document["subsets"].get("test_natural", {})
    found = HeldOutTraining(
        training_id=training.training_id,
        seed=training.seed,
        evaluation_id=evaluation.evaluation_id,
        report_key=evaluation.report_key,
        is_sound=is_sound,
        verdict=evaluation.document["verdict"],
        figures={name: subset["figures"][name] for name in SHOWN if name in subset.get("figures", {})},
    )
    if not is_sound:
        return found, None
    with workspace.engine.connect() as connection:
        predictions = read_sealed_predictions(
            connection, training.training_id, subject.manifest.digest, "test", subject.task.classes
        )
    return found, headline_auc(join_to_manifest(predictions, subject.subset("test"), subject.task))


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
