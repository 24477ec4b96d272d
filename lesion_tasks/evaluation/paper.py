"""Trainings of the variants that reproduce published systems -> the paper's tables, from the evaluations as they stand.

Reads rows and documents, and writes nothing: what was not trained is missing, with its reason where one is known.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS, Variant
from lesion_tasks.catalog.lookup import question_of
from lesion_tasks.catalog.recipe import flat_recipe
from lesion_tasks.catalog.systems import SYSTEMS, System
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.evaluation.evaluation_record import find_sealed
from lesion_tasks.reports.bundle import Bundle, PublishedDifference, read_bundle
from lesion_tasks.reports.paper_page import (
    READ_ON,
    Change,
    Changes,
    PaperRow,
    PaperTraining,
    PaperVariant,
    paper_page,
)
from lesion_tasks.splits.manifest import find_manifest, read_manifest
from lesion_tasks.training.predictions import join_to_manifest, read_sealed_predictions
from lesion_tasks.training.prepare import prepare_training
from lesion_tasks.training.run_record import find_finished, list_finished, list_trainings
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# What a training of a variant may differ in and still be the variant's own: its seed, and how long it learned.
_OF_ONE_TRAINING = ("title", "adjusted", "is_promotable", "seed", "max_epochs")
# What no change of a recipe is about.
_NO_CHANGE = frozenset({"name", "title", "adjusted", "is_promotable", "reproduces", "search", "search_id"})
# Fields whose change brings other weights with it.
_OF_WEIGHTS = ("backbone", "is_pretrained")


def variants_of(system: System) -> list[Variant]:
    """The variants that stand for a system: those that reproduce it, then its stand-ins."""
    own = [variant for variant in VARIANTS.values() if variant.reproduces == system.name]
    return [*own, *(VARIANTS[name] for name in system.stand_ins)]


def train_paper(workspace: Workspace, *, max_epochs: int | None = None) -> Iterator[tuple[str, str]]:
    """Train and evaluate every variant of every system unless that is done; yields variant and training, or why not."""
    for name in dict.fromkeys(variant.name for system in SYSTEMS.values() for variant in variants_of(system)):
        try:
            prepare_training(workspace, name)
            training_id = train_variant(workspace, name, max_epochs=max_epochs)
            with workspace.engine.connect() as connection:
                training = find_finished(connection, training_id)
                is_evaluated = find_sealed(connection, training_id, training.manifest_digest) is not None
            if not is_evaluated:
                evaluate_training(workspace, training_id)
        except UnusableInputError as error:
            log.warning("%s: %s", name, error)
            yield name, f"not trained: {error}"
        else:
            yield name, training_id


def write_paper(workspace: Workspace, bases: Sequence[str] = (), note: str = "") -> str:
    """The page of the paper's tables, in Markdown; of each base training, what one change at a time brought it.

    `note` is what the database does not know: how the trainings were run, or which weights are approximations.
    """
    with workspace.engine.connect() as connection:
        documents = _documents(connection)
        failures = {
            one.variant: one.reason for one in reversed(list_trainings(connection)) if one.status == "failed"
        }
    rows = [_row(system, documents, failures) for system in SYSTEMS.values()]
    changes = [read_changes(workspace, base) for base in bases]
    return paper_page(list(SYSTEMS.values()), rows, changes, f"{_data_in_words(documents)} {note}".strip())


def _documents(connection: Connection) -> dict[str, list[tuple[Training, Bundle]]]:
    """Of each variant of a system its own evaluated trainings, unshortened first, then those that began last."""
    found = {}
    for variant in {one.name: one for system in SYSTEMS.values() for one in variants_of(system)}.values():
        pairs = []
        for training in reversed(list_finished(connection, variant=variant.name)):
            sealed = find_sealed(connection, training.training_id, training.manifest_digest)
            if sealed is not None and is_of_variant(training.recipe, variant):
                pairs.append((training, read_bundle(sealed.document)))
        found[variant.name] = sorted(pairs, key=lambda pair: _is_shortened(pair[0].recipe))
    return found


def is_of_variant(recipe: Mapping[str, Any], variant: Variant) -> bool:
    """Whether a stored recipe is the variant as it is now, but for its seed and how long it learned."""
    return _kept(recipe) == _kept(json.loads(json.dumps(variant.as_recipe)))


def _kept(recipe: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in recipe.items() if name not in _OF_ONE_TRAINING}
    if tuning := kept.get("fine_tuning"):
        kept["fine_tuning"] = {name: value for name, value in tuning.items() if name != "max_epochs"}
    return kept


def _is_shortened(recipe: Mapping[str, Any]) -> bool:
    return bool(set(recipe["adjusted"]) - {"seed"})


def _row(
    system: System,
    documents: Mapping[str, Sequence[tuple[Training, Bundle]]],
    failures: Mapping[str, str | None],
) -> PaperRow:
    variants, missing = [], {}
    for variant in variants_of(system):
        pairs = documents[variant.name]
        if not pairs:
            missing[variant.name] = failures.get(variant.name) or "not trained and evaluated yet"
            continue
        trainings, random = (
            _alike([p for p in pairs if _is_random(p[0]) == is_random]) for is_random in (False, True)
        )
        variants.append(
            PaperVariant(
                variant=variant.name,
                note=_note(system, variant),
                trainings=[_training(*pair) for pair in trainings],
                random=[_training(*pair) for pair in random],
            )
        )
    return PaperRow(system=system.name, variants=variants, missing=missing)


def _alike(pairs: Sequence[tuple[Training, Bundle]]) -> list[tuple[Training, Bundle]]:
    """The first of some trainings, and the others of its recipe, data and weights, each with another seed."""
    found: dict[int, tuple[Training, Bundle]] = {}
    for training, bundle in pairs:
        if not found or _apart_from_seed(training) == _apart_from_seed(pairs[0][0]):
            found.setdefault(training.seed, (training, bundle))
    return list(found.values())


def _apart_from_seed(training: Training) -> tuple[Any, ...]:
    recipe = {
        name: value for name, value in training.recipe.items() if name not in ("seed", "title", "adjusted")
    }
    return json.dumps(recipe, sort_keys=True), training.manifest_digest, training.weights_sha256


def _is_random(training: Training) -> bool:
    """Whether a backbone began with random weights; without a backbone there is nothing that could be pretrained."""
    has_backbone = training.recipe["backbone"] is not None
    return has_backbone and (training.weights_sha256 is None or not training.recipe["is_pretrained"])


def _note(system: System, variant: Variant) -> str:
    notes = []
    if system.backbones and variant.backbone not in system.backbones:
        notes.append(f"stand-in with {variant.backbone}")
    if variant.task.name != system.task:
        notes.append(f"on the classes {', '.join(variant.task.classes)}")
    return "; ".join(notes)


def _training(training: Training, bundle: Bundle) -> PaperTraining:
    return PaperTraining(
        training_id=training.training_id,
        title=str(training.recipe["title"]),
        weights=training.weights,
        is_random=_is_random(training),
        seed=training.seed,
        is_sound=bundle.is_sound,
        failed_checks=bundle.failed_checks,
        minutes=minutes_of(training),
        subsets={name: bundle.subsets[name].figures for name in READ_ON if name in bundle.subsets},
        val=bundle.subsets["val"].figures if "val" in bundle.subsets else {},
    )


def minutes_of(training: Training) -> float | None:
    """How long a training took by the clock; one that was killed and run again took longer."""
    if training.finished_at is None:
        return None
    return (training.finished_at - training.started_at).total_seconds() / 60


def _data_in_words(documents: Mapping[str, Sequence[tuple[Training, Bundle]]]) -> str:
    """How many images the tests have, by task and manifest: rows on the same images can be compared."""
    sizes: dict[tuple[str, int, int], set[str]] = {}
    for pairs in documents.values():
        for _, bundle in pairs:
            n_natural, n_balanced = (
                bundle.subsets[name].subset.n_images if name in bundle.subsets else 0 for name in READ_ON
            )
            key = bundle.training.task, n_natural, n_balanced
            sizes.setdefault(key, set()).add(bundle.manifest.digest[:12])
    said = [
        f"{task}: {n_natural:,} images, of them {n_balanced:,} balanced (manifests {', '.join(sorted(digests))})"
        for (task, n_natural, n_balanced), digests in sorted(sizes.items())
    ]
    return f"Test images by task. {'; '.join(said)}." if said else "Nothing is evaluated yet."


def read_changes(workspace: Workspace, base: str) -> Changes:
    """Every finished training that differs from a base in one field, and the paired difference of its AUC on val.

    All of them on the base's manifest and without folds; another variant counts where one field is all that differs.
    Raises `UnusableInputError` if the base is no finished training or its task is gone.
    """
    with workspace.engine.connect() as connection:
        training = find_finished(connection, base)
        rows = read_manifest(workspace.bucket, find_manifest(connection, training.manifest_digest).object_key)
        val = rows[rows["subset"] == "val"]
        own = _scored(connection, training, val)
        found = []
        for other in list_finished(connection, task=training.task):
            # Of folds, val was scored by members that learned from the rest of it.
            if other.manifest_digest != training.manifest_digest or other.recipe.get("n_folds"):
                continue
            fields = differing(training.recipe, other.recipe)
            has_same_weights = other.weights_sha256 == training.weights_sha256
            if (
                other.training_id != base
                and len(fields) == 1
                and (has_same_weights or fields[0] in _OF_WEIGHTS)
            ):
                found.append(_change(connection, training, other, fields[0], own, val))
    found.sort(key=lambda one: (one.difference is None, -(one.difference.value if one.difference else 0.0)))
    return Changes(
        training_id=base,
        title=str(training.recipe["title"]),
        val_auc=_auc_of(own),
        minutes=minutes_of(training),
        changes=found,
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


def _auc_of(scored: Any) -> float:
    from lesion_tasks.metrics.headline import headline_auc

    found = headline_auc(scored)
    if found is None:
        raise UnusableInputError("the base has no AUC on val: a class has no image there")
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
        val_auc=_auc_of(theirs),
        minutes=minutes_of(other),
        difference=None if difference is None else PublishedDifference.model_validate(difference.as_dict()),
    )


def _in_short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(one) for one in value) or "none"
    return "none" if value is None else str(value) or "the first"
