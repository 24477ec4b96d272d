"""Trainings of the variants that reproduce published systems -> the paper's tables, from the evaluations as they stand.

Reads rows and documents, and writes nothing: what was not trained, or cannot be read, is missing, with its
reason where one is known.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import VARIANTS, Variant
from lesion_tasks.catalog.backbones import RANDOM_START
from lesion_tasks.catalog.lookup import question_of
from lesion_tasks.catalog.recipe import epochs_of_stages, flat_recipe
from lesion_tasks.catalog.systems import SYSTEMS, System
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.evaluation.evaluation_record import find_sealed, list_evaluated_ids
from lesion_tasks.reports.bundle import Bundle, read_bundle
from lesion_tasks.reports.paper_page import (
    READ_ON,
    Change,
    Changes,
    PaperRow,
    PaperTraining,
    PaperVariant,
    paper_page,
)
from lesion_tasks.splits.manifest import find_manifest, manifests_in_force, read_manifest
from lesion_tasks.training.predictions import join_to_manifest, read_sealed_predictions
from lesion_tasks.training.prepare import prepare_training
from lesion_tasks.training.run_record import (
    began_at_random,
    code_of,
    find_finished,
    list_finished,
    list_trainings,
)
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# What a training of a variant may differ in and still be the variant's own: its seed, where its weights began, and how
# long it learned.
_OF_ONE_TRAINING = ("title", "adjusted", "is_promotable", "seed", "is_pretrained", "max_epochs")
# What no change of a recipe is about.
_NO_CHANGE = frozenset({"name", "title", "adjusted", "is_promotable", "reproduces", "search", "search_id"})
# Fields whose change brings other weights with it.
_OF_WEIGHTS = ("backbone", "is_pretrained")
# Of a stand-in: its backbone is said first, and a seed is not a difference.
_NO_DIFFERENCE = _NO_CHANGE | {"backbone", "seed"}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a variant: its training, or why there is none."""

    variant: str
    training_id: str | None = None
    refusal: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """A variant's own training with its evaluation, and how it relates to the variant as it is now."""

    training: Training
    bundle: Bundle
    code: str  # digest of the code that it ran
    epochs: str  # how long it learned, in words, where that is not as long as the variant says
    is_in_force: bool  # whether its manifest is the one in force of its split
    is_own_seed: bool

    @property
    def is_random(self) -> bool:
        return began_at_random(self.training)


def variants_of(system: System) -> list[Variant]:
    """The variants that stand for a system: those that reproduce it, then its stand-ins."""
    own = [variant for variant in VARIANTS.values() if variant.reproduces == system.name]
    return [*own, *(VARIANTS[name] for name in system.stand_ins)]


def _all_variants() -> list[Variant]:
    return list({one.name: one for system in SYSTEMS.values() for one in variants_of(system)}.values())


def train_paper(workspace: Workspace, *, max_epochs: int | None = None) -> Iterator[Tried]:
    """Train and evaluate every variant of every system that the page lacks on the manifest in force.

    A training that is as long as the variant says is enough, whatever code it ran. With LESION_WEIGHTS "none" it is the
    baselines from random weights that are looked for.
    """
    for variant in _all_variants():
        try:
            prepare_training(workspace, variant.name)
            training_id = _standing(workspace, variant)
            if training_id is None:
                training_id = train_variant(workspace, variant.name, max_epochs=max_epochs)
                with workspace.engine.connect() as connection:
                    training = find_finished(connection, training_id)
                    is_evaluated = find_sealed(connection, training_id, training.manifest_digest) is not None
                if not is_evaluated:
                    evaluate_training(workspace, training_id)
        except UnusableInputError as error:
            log.warning("%s: %s", variant.name, error)
            yield Tried(variant=variant.name, refusal=str(error))
        else:
            yield Tried(variant=variant.name, training_id=training_id)


def _standing(workspace: Workspace, variant: Variant) -> str | None:
    """The training of a variant that stands on the page and need not be run; None if there is none."""
    is_random = variant.backbone is not None and (
        not variant.is_pretrained or workspace.settings.weights == RANDOM_START
    )
    with workspace.engine.connect() as connection:
        found, _ = _read_evaluated(connection, workspace.bucket, variant)
    return next(
        (
            one.training.training_id
            for one in found
            if one.is_in_force and one.is_own_seed and not one.epochs and one.is_random == is_random
        ),
        None,
    )


def write_paper(
    workspace: Workspace,
    bases: Sequence[str] = (),
    note: str = "",
    refusals: Mapping[str, str] | None = None,
) -> str:
    """The page of the paper's tables, in Markdown; of each base training, what one change at a time brought it.

    `note` is what the database does not know: how the trainings were run, or which weights are approximations.
    `refusals` says of variants why they could not be trained.
    """
    reasons = dict(refusals or {})
    found = {}
    with workspace.engine.connect() as connection:
        failed = [one for one in list_trainings(connection) if one.status == "failed"]
        for variant in _all_variants():
            found[variant.name], left_out = _read_evaluated(connection, workspace.bucket, variant)
            last = next((one.reason for one in failed if _is_its_own(one, variant)), None)
            reasons.setdefault(variant.name, left_out or last or _NOT_YET)
            if left_out and found[variant.name]:
                log.warning("%s: %s", variant.name, left_out)
    reasons = {name: _without_place(reason) for name, reason in reasons.items()}
    rows = [_row(system, found, reasons) for system in SYSTEMS.values()]
    changes = [read_changes(workspace, base) for base in bases]
    return paper_page(list(SYSTEMS.values()), rows, changes, f"{_data_in_words(rows)} {note}".strip())


_NOT_YET = "not trained and evaluated yet"


def _is_its_own(training: Training, variant: Variant) -> bool:
    """Whether it is a training of the variant itself: no rehearsal, no fold and no experiment."""
    is_whole = set(training.recipe.get("adjusted", ())) <= {"max_epochs", "fine_tuning"}
    return training.variant == variant.name and is_whole and is_of_variant(training.recipe, variant)


def _read_evaluated(
    connection: Connection, bucket: Bucket, variant: Variant
) -> tuple[list[_Evaluated], str | None]:
    """A variant's own evaluated trainings, and which of them cannot be read, if any, with the reasons.

    The first is the one that stands for it: as long as the variant says, on the manifest in force and of the variant's
    own seed, as far as there is one; then the one that began last. Archived ones are left out.
    """
    evaluated = list_evaluated_ids(connection, variant.task.name)
    in_force = {one.digest for one in manifests_in_force(connection)}
    found, left_out = [], []
    for training in reversed(list_finished(connection, variant=variant.name)):
        if training.training_id not in evaluated or not is_of_variant(training.recipe, variant):
            continue
        try:
            sealed = find_sealed(connection, training.training_id, training.manifest_digest)
            if sealed is None:
                continue
            found.append(
                _Evaluated(
                    training=training,
                    bundle=read_bundle(sealed.document),
                    code=code_of(bucket, training),
                    epochs=_epochs_in_words(training.recipe, variant),
                    is_in_force=training.manifest_digest in in_force,
                    is_own_seed=training.seed == variant.seed,
                )
            )
        except (UnusableInputError, ValueError) as error:
            left_out.append(f"{training.training_id} cannot be read: {str(error).partition(chr(10))[0]}")
    found.sort(key=lambda one: (bool(one.epochs), not one.is_in_force, not one.is_own_seed))
    return found, "; ".join(left_out) or None


def is_of_variant(recipe: Mapping[str, Any], variant: Variant) -> bool:
    """Whether a stored recipe is the variant as it is now, but for what may differ between its own trainings."""
    return _kept(recipe) == _kept(json.loads(json.dumps(variant.as_recipe)))


def _kept(recipe: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in recipe.items() if name not in _OF_ONE_TRAINING}
    if tuning := kept.get("fine_tuning"):
        kept["fine_tuning"] = {name: value for name, value in tuning.items() if name != "max_epochs"}
    return kept


def _epochs_in_words(recipe: Mapping[str, Any], variant: Variant) -> str:
    theirs, own = (" and ".join(map(str, epochs_of_stages(one))) for one in (recipe, variant.as_recipe))
    return "" if theirs == own else f"max_epochs {theirs} in place of {own}"


def _without_place(reason: str) -> str:
    """A reason without the name of its error and the folder of weights of whoever trained: the page is for others."""
    return re.sub(r"(LESION_WEIGHTS) \S+:", r"\1:", reason.removeprefix("UnusableInputError: "))


def _row(system: System, found: Mapping[str, Sequence[_Evaluated]], reasons: Mapping[str, str]) -> PaperRow:
    variants, missing = [], {}
    for variant in variants_of(system):
        own = found[variant.name]
        if not own:
            missing[variant.name] = reasons[variant.name]
            continue
        trainings = _alike([one for one in own if not one.is_random])
        random = [one for one in own if one.is_random]
        if trainings:
            # What pretraining has to beat learned as long and from the same images.
            first = trainings[0]
            random = [
                one
                for one in random
                if (one.epochs, one.bundle.manifest.digest) == (first.epochs, first.bundle.manifest.digest)
            ]
        variants.append(
            PaperVariant(
                variant=variant.name,
                note=note_on(system, variant),
                trainings=[_training(one) for one in trainings],
                random=[_training(one) for one in _alike(random)],
            )
        )
    return PaperRow(system=system.name, variants=variants, missing=missing)


def _alike(some: Sequence[_Evaluated]) -> list[_Evaluated]:
    """The first of some trainings, and the others of its recipe, data, weights and code, each with another seed."""
    found: dict[int, _Evaluated] = {}
    for one in some:
        if _apart_from_seed(one) == _apart_from_seed(some[0]):
            found.setdefault(one.training.seed, one)
    return list(found.values())


def _apart_from_seed(one: _Evaluated) -> tuple[Any, ...]:
    training = one.training
    return (
        one.epochs, training.manifest_digest, training.weights_sha256, training.recipe["is_pretrained"], one.code,
        training.versions,
    )  # fmt: skip


def note_on(system: System, variant: Variant) -> str:
    """In what a variant that stands in for a system differs from the system's own; empty where in nothing."""
    own = [one for one in variants_of(system) if not _is_stand_in(system, one)]
    notes = []
    if _is_stand_in(system, variant):
        of = f" with {variant.backbone}" if variant.backbone not in system.backbones else ""
        fields = min((_parts_apart(one, variant) for one in own), key=len, default=[])
        if of or fields:
            notes.append(f"stand-in{of}{', other ' if fields else ''}{', '.join(fields)}")
    if variant.task.name != system.task:
        notes.append(f"on the classes {', '.join(variant.task.classes)}")
    return "; ".join(notes)


def _is_stand_in(system: System, variant: Variant) -> bool:
    has_other = bool(system.backbones) and variant.backbone not in system.backbones
    return has_other or variant.name in system.stand_ins


def _parts_apart(own: Variant, stand_in: Variant) -> list[str]:
    """The fields beside the backbone in which a stand-in differs from a system's own variant; parts as a whole."""
    fields = {name.partition(".")[0] for name in differing(own.as_recipe, stand_in.as_recipe)}
    return sorted(fields - _NO_DIFFERENCE)


def _training(one: _Evaluated) -> PaperTraining:
    training, bundle = one.training, one.bundle
    return PaperTraining(
        training_id=training.training_id,
        title=str(training.recipe["title"]),
        epochs=one.epochs,
        manifest=bundle.manifest.digest[:12],
        split=bundle.manifest.split,
        is_in_force=one.is_in_force,
        weights=training.weights,
        is_random=one.is_random,
        seed=training.seed,
        is_sound=bundle.is_sound,
        failed_checks=bundle.failed_checks,
        minutes=minutes_of(training),
        n_images={name: bundle.subsets[name].subset.n_images for name in READ_ON if name in bundle.subsets},
        subsets={name: bundle.subsets[name].figures for name in READ_ON if name in bundle.subsets},
        val=bundle.subsets["val"].figures if "val" in bundle.subsets else {},
    )


def minutes_of(training: Training) -> float | None:
    """How long a training took by the clock; one that was killed between epochs and run again took longer."""
    if training.finished_at is None:
        return None
    return (training.finished_at - training.started_at).total_seconds() / 60


def _data_in_words(rows: Sequence[PaperRow]) -> str:
    """How many images the tests of the trainings that are shown have, by manifest."""
    shown = {one.manifest: one for row in rows for variant in row.variants for one in variant.shown}
    said = [
        f"{one.manifest} ({one.split}{'' if one.is_in_force else ', an earlier one'}): "
        f"{one.n_images.get('test_natural', 0):,}, of them {one.n_images.get('test_balanced', 0):,} balanced"
        for one in sorted(shown.values(), key=lambda one: (one.split, one.manifest))
    ]
    return f"Test images by manifest. {'; '.join(said)}." if said else "Nothing is evaluated yet."


def read_changes(workspace: Workspace, base: str) -> Changes:
    """Every finished training that differs from a base in one field, and the paired difference of its AUC on val.

    All of them on the base's manifest and without folds; another variant counts where one field is all that differs.
    What ran with other code or software, or cannot be read, is named and left out. Raises `UnusableInputError` if the
    base is not a finished training or its task is gone.
    """
    with workspace.engine.connect() as connection:
        training = find_finished(connection, base)
        rows = read_manifest(workspace.bucket, find_manifest(connection, training.manifest_digest).object_key)
        val = rows[rows["subset"] == "val"]
        own = _scored(connection, training, val)
        code = code_of(workspace.bucket, training)
        found, left_out = [], {}
        for other in list_finished(connection, task=training.task):
            # Of folds, val was scored by members that learned from the rest of it.
            if other.manifest_digest != training.manifest_digest or other.recipe.get("n_folds"):
                continue
            fields = differing(training.recipe, other.recipe)
            has_same_weights = other.weights_sha256 == training.weights_sha256
            if (
                other.training_id == base
                or len(fields) != 1
                or not (has_same_weights or fields[0] in _OF_WEIGHTS)
            ):
                continue
            try:
                if (code_of(workspace.bucket, other), other.versions) != (code, training.versions):
                    raise UnusableInputError("it ran with other code or software")
                found.append(_change(connection, training, other, fields[0], own, val))
            except UnusableInputError as error:
                left_out[other.training_id] = str(error)
    found.sort(key=lambda one: (one.difference is None, -(one.difference.value if one.difference else 0.0)))
    return Changes(
        training_id=base,
        title=str(training.recipe["title"]),
        val_auc=_auc_of(own, base),
        minutes=minutes_of(training),
        changes=found,
        left_out=left_out,
    )


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields in which two stored recipes differ, those of a part as "part.field"."""
    one, other = flat_recipe(first), flat_recipe(second)
    names = (one.keys() | other.keys()) - _NO_CHANGE
    return sorted(name for name in names if one.get(name) != other.get(name))


def _scored(connection: Connection, training: Training, val: Any) -> Any:
    predictions = read_sealed_predictions(
        connection, training.training_id, training.manifest_digest, "val", training.classes
    )
    return join_to_manifest(
        predictions, val, question_of(training.training_id, training.task, training.classes)
    )


def _auc_of(scored: Any, training_id: str) -> float:
    from lesion_tasks.metrics.headline import headline_auc

    found = headline_auc(scored)
    if found is None:
        raise UnusableInputError(f"training {training_id!r} has no AUC on val: a class has no image there")
    return found.value


def _change(
    connection: Connection, base: Training, other: Training, field: str, own: Any, val: Any
) -> Change:
    from lesion_tasks.metrics.compare import auc_difference

    theirs = _scored(connection, other, val)
    difference = auc_difference(theirs, own)
    return Change(
        field=field,
        value=_in_short(flat_recipe(other.recipe).get(field)),
        base_value=_in_short(flat_recipe(base.recipe).get(field)),
        training_id=other.training_id,
        val_auc=_auc_of(theirs, other.training_id),
        minutes=minutes_of(other),
        difference=None if difference is None else difference.published(),
    )


def _in_short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(one) for one in value) or "none"
    return "none" if value is None else str(value) or "the first"
