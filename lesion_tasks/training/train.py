"""A variant and the manifest in force -> a stored model and keyed predictions.

Reads one manifest by digest, never the live tables. Writes the model, then its manifest, then one transaction with the
predictions and the finished row: a training without a finished row can simply be run again and continues after its last
complete epoch. If a training with the same fingerprint is already finished, it is reused, not run.
"""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import (
    DEFAULT_VARIANTS,
    DEFAULT_WITH_WEIGHTS,
    DEFAULT_WITHOUT_WEIGHTS,
    RETRAIN_SHARE,
    TASKS,
    VARIANTS,
    Variant,
)
from lesion_tasks.catalog.backbones import WITHOUT_FILES, find_backbone
from lesion_tasks.catalog.lookup import find_variant
from lesion_tasks.catalog.recipe import n_epochs_at_most
from lesion_tasks.catalog.shortened import adjust, members_of
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.database.schema import Training
from lesion_tasks.progress import progress
from lesion_tasks.splits.held_out import HeldOut
from lesion_tasks.splits.manifest import NoManifestError, find_manifest, manifest_in_force, read_manifest
from lesion_tasks.training.predictions import join_to_manifest, store_predictions
from lesion_tasks.training.quiet_start import import_tensorflow
from lesion_tasks.training.run_record import (
    Outcome,
    begin,
    find_finished,
    finish,
    is_adjusted,
    list_finished,
    mark_lost,
    record_epoch,
)
from lesion_tasks.training.run_spec import (
    RunSpec,
    as_trained,
    code_digest,
    find_run_spec,
    licences_of,
    load_data,
    trainer_figures,
    versions,
)
from lesion_tasks.training.search import search_parameters
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    from lesion_tasks.training.model_manifest import ModelManifest
    from lesion_tasks.training.stages import Trained

log = logging.getLogger(__name__)


def choose_variants(
    workspace: Workspace,
    *,
    variants: Sequence[str] | None = None,
    policy: str = "changed",
    again: bool = False,
    n_trials: int = 0,
    is_smoke_run: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the variants to train: the named ones, or those of the settings, or the catalogue's choice.

    `policy` "always" keeps all of them, and so do `again` and `changes`, which ask for other trainings than those that
    exist; "changed" keeps those never trained, and those of whose manifest at least `RETRAIN_SHARE` is new, changed or
    lost since their last training. Raises `UnusableInputError` where `n_trials`, `is_smoke_run` or `changes` mean
    nothing for what is named.
    """
    names = list(variants or workspace.settings.variants or _by_default(workspace))
    for name in names:
        adjust(find_variant(name), changes=changes)
    if n_trials and is_smoke_run:
        raise UnusableInputError(
            "a rehearsal with search trials: it only shows that everything runs; expected one of them"
        )
    if n_trials and (lacking := [name for name in names if VARIANTS[name].search is None]):
        searched = ", ".join(name for name, variant in VARIANTS.items() if variant.search is not None)
        raise UnusableInputError(
            f"{n_trials} search trials for {', '.join(lacking)}, without a search space; expected some of {searched}"
        )
    if n_trials:
        for name in names:
            _refuse_searched(VARIANTS[name], changes or {})
    if policy not in ("always", "changed"):
        raise UnusableInputError(f"retrain policy {policy!r}: expected always or changed")
    if again or changes or policy == "always":
        return names
    bucket = workspace.bucket
    engine = workspace.engine
    return [name for name in names if _has_grown(engine, bucket, VARIANTS[name])]


def _refuse_searched(variant: Variant, changes: Mapping[str, Any]) -> None:
    searched = sorted(one.field for one in (variant.search.ranges if variant.search else ()))
    both = [name for name in searched if {name, name.partition(".")[0]} & changes.keys()]
    if both:
        raise UnusableInputError(
            f"{', '.join(both)}: search trials choose that themselves; expected either a value or trials"
        )


def _by_default(workspace: Workspace) -> list[str]:
    """The catalogue's choice: with those variants whose weights are at hand, or with what needs none."""
    location = workspace.settings.weights
    if location in WITHOUT_FILES:
        return [*DEFAULT_WITHOUT_WEIGHTS, *DEFAULT_VARIANTS]
    from lesion_tasks.training.model import find_weights

    found = []
    for name in DEFAULT_WITH_WEIGHTS:
        backbone = find_backbone(VARIANTS[name].backbone or "")
        try:
            weights = find_weights(VARIANTS[name], location, workspace.bucket)
        except UnusableInputError as error:
            log.info("%s is left out of the default variants: %s", name, error)
            continue
        # Where LESION_WEIGHTS is a file, it may be that of another network.
        if backbone and weights and fnmatchcase(weights.origin, backbone.files):
            found.append(name)
        else:
            log.info("%s is left out of the default variants: %s is not its file", name, location)
    return [*DEFAULT_VARIANTS, *found] if found else [*DEFAULT_WITHOUT_WEIGHTS, *DEFAULT_VARIANTS]


def _has_grown(engine: Engine, bucket: Bucket, variant: Variant) -> bool:
    with engine.connect() as connection:
        own = [t for t in list_finished(connection, variant=variant.name) if not is_adjusted(t.recipe)]
        if not own:
            return True
        last = find_manifest(connection, own[-1].manifest_digest)
    try:
        # What people decided counts once the split is built again, as any change of its images does.
        digest, key = manifest_in_force(engine, variant.split, is_corrected=False)
    except NoManifestError as error:
        log.info("%s: %s", variant.name, error)
        return True
    if last.digest == digest:
        log.info("%s: its manifest has not changed since the last training", variant.name)
        return False
    columns = ["isic_id", "subset", "label", "sha256"]
    before, now = (
        set(read_manifest(bucket, k)[columns].itertuples(index=False, name=None))
        for k in (last.object_key, key)
    )
    share = len(before ^ now) / len(now)
    log.info("%s: %.1f %% of its manifest changed since the last training", variant.name, 100 * share)
    return share >= RETRAIN_SHARE


def note_lost_trainings(workspace: Workspace) -> list[str]:
    """Write the reason to the rows of trainings whose process ended without notice; returns their ids."""
    return mark_lost(workspace.engine)


def train_variant(
    workspace: Workspace,
    variant: str,
    *,
    again: bool = False,
    is_smoke_run: bool = False,
    max_epochs: int | None = None,
    n_trials: int = 0,
    changes: Mapping[str, Any] | None = None,
    held_out: HeldOut | None = None,
) -> str:
    """Train a variant on the manifest in force of its split; returns the training id.

    `again` runs a training even if one with its fingerprint is finished. `is_smoke_run` and `max_epochs` shorten it
    and `changes` give some fields other values, see `adjust`. For a variant with a search space, `n_trials` of a
    Bayesian search come first; the training then uses the best parameters. `held_out` is left out of train and val, and
    is the test set.

    An ensemble's members are trained first, each as by itself, unless they are; `again` repeats its average alone. All
    learn from the manifest that was in force when the first began.
    """
    import_tensorflow()
    mark_lost(workspace.engine)
    recipe = find_variant(variant)
    chosen = adjust(recipe, is_smoke_run=is_smoke_run, max_epochs=max_epochs, changes=changes)
    if n_trials:
        _refuse_searched(recipe, changes or {})
    spec = find_run_spec(workspace, chosen, held_out)
    members = [
        _train(workspace, replace(spec, variant=as_trained(member, held_out)))
        for member in members_of(recipe, is_smoke_run=is_smoke_run, max_epochs=max_epochs)
    ]
    if members:
        return _average(workspace, spec, members, again=again)
    return _train(workspace, spec, again=again, n_trials=n_trials)


def _average(workspace: Workspace, spec: RunSpec, member_ids: Sequence[str], *, again: bool) -> str:
    """Average finished trainings as the training of an ensemble; returns its id."""
    with workspace.engine.connect() as connection:
        members = [find_finished(connection, training_id) for training_id in member_ids]
    spec = replace(spec, members=tuple(member.fingerprint for member in members))
    return _run_once(workspace, spec, {}, again=again, members=members)


def _train(workspace: Workspace, spec: RunSpec, *, again: bool = False, n_trials: int = 0) -> str:
    """Train a variant that is no ensemble, after its search if there are trials to make; returns the training's id."""
    from lesion_tasks.training.model import find_weights

    engine, bucket = workspace.engine, workspace.bucket
    try:
        spec = replace(spec, weights=find_weights(spec.variant, spec.weights_location, bucket))
    except UnusableInputError:
        # A separate row, since without weights the intended training has no fingerprint.
        with hold_lock(engine, Lock.TRAINING, spec.fingerprint):
            training_id, _ = begin(engine, spec.row)
            with Outcome(engine, training_id):
                raise
    found = None
    if n_trials and spec.variant.search is None:
        log.info("%s has no search space: training it unchanged", spec.variant.name)
    elif n_trials:
        found = search_parameters(engine, bucket, spec, n_trials)
        spec = replace(spec, variant=found.variant)
    return _run_once(workspace, spec, {} if found is None else {"search": found.facts}, again=again)


def _run_once(
    workspace: Workspace,
    spec: RunSpec,
    facts: dict[str, Any],
    *,
    again: bool,
    members: Sequence[Training] = (),
) -> str:
    """Run a training unless it is finished; returns its id. `members` are those that an ensemble averages."""
    engine, bucket = workspace.engine, workspace.bucket
    # Held until the end: a second worker with the same training waits and then finds it finished.
    with hold_lock(engine, Lock.TRAINING, spec.fingerprint):
        training_id, is_finished = begin(engine, spec.row, again=again)
        if is_finished:
            log.info("training %s is already finished, nothing to run (--again repeats it)", training_id)
            return training_id
        with Outcome(engine, training_id):
            _run(engine, bucket, spec, training_id, facts, members)
    return training_id


def _run(
    engine: Engine,
    bucket: Bucket,
    spec: RunSpec,
    training_id: str,
    facts: dict[str, Any],
    members: Sequence[Training],
) -> None:
    from lesion_tasks.metrics.threshold import choose_threshold
    from lesion_tasks.training.average_trainings import average_trainings
    from lesion_tasks.training.folds import train_folds
    from lesion_tasks.training.model_manifest import ModelManifest
    from lesion_tasks.training.stages import train_model

    variant = spec.variant
    rows = read_manifest(bucket, spec.manifest_key)
    data = load_data(engine, bucket, variant, rows)
    n_epochs = n_epochs_at_most(variant.as_recipe)
    with progress(f"train {variant.name}", n_epochs) as advance:

        def on_epoch(epoch: int, figures: dict[str, float], duration_s: float) -> None:
            record_epoch(engine, training_id, epoch, figures, duration_s)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            minutes_left = duration_s * (n_epochs - epoch) / 60  # if no stage stops early
            log.info(
                "epoch %d of at most %d: %s (%.1f s, at most %.0f min left)",
                epoch,
                n_epochs,
                shown,
                duration_s,
                minutes_left,
            )
            advance(1, shown)

        where: dict[str, Any] = {"engine": engine, "bucket": bucket}
        kept: dict[str, Any] = {**where, "folder": f"trainings/{training_id}", "on_epoch": on_epoch}
        if members:
            trained = average_trainings(variant, members, spec.digest, data, **where)
        elif variant.n_folds:
            trained = train_folds(variant, spec.weights, rows, data, **kept)
        else:
            trained = train_model(variant, spec.weights, data, **kept)
    figures = {
        subset: trainer_figures(data.subset(subset).labels, predictions)
        for subset, predictions in trained.predictions.items()
    }
    threshold = None
    if variant.task.positive is not None:
        val_rows = rows[rows["subset"] == "val"]
        threshold = choose_threshold(join_to_manifest(trained.predictions["val"], val_rows, variant.task))
    said = ModelManifest(
        training_id=training_id,
        variant=variant.as_recipe,
        task=asdict(TASKS[variant.task.name]),
        classes=list(variant.task.classes),
        threshold=None if threshold is None else threshold.value,
        threshold_rule=None if threshold is None else threshold.rule,
        manifest_digest=spec.digest,
        weights=spec.weights.described if spec.weights else None,
        weights_sha256=spec.weights.sha256 if spec.weights else None,
        licences=licences_of(rows),
        code_digest=code_digest(),
        trainer_figures=figures,
        versions=versions(variant),
        code_version=spec.code_version,
        # The way in which it was trained has the last word: an average has the licences of its members' weights.
        **{
            "weights_licence": spec.weights.licence if spec.weights else None,
            **facts,
            **trained.facts,
        },
    )
    _finish(engine, bucket, trained, said)


def _finish(engine: Engine, bucket: Bucket, trained: "Trained", said: "ModelManifest") -> None:
    """Store the model, then its manifest, then the predictions with the finished row; then delete the checkpoints."""
    from lesion_tasks.training.loop import model_bytes

    training_id = said.training_id
    data = _with_manifest(model_bytes(trained.model), said)
    model_key = f"models/{training_id}/model.keras"
    sha256 = hashlib.sha256(data).hexdigest()
    bucket.put(model_key, data)
    # Last: no manifest means the training did not finish.
    bucket.put(
        f"models/{training_id}/manifest.json",
        json.dumps({**said.model_dump(), "model_sha256": sha256}, indent=2).encode(),
        content_type="application/json",
    )
    with engine.begin() as connection:
        for subset, frame in trained.predictions.items():
            store_predictions(connection, training_id, said.manifest_digest, subset, frame)
        finish(
            connection,
            training_id,
            model_key=model_key,
            model_sha256=sha256,
            threshold=said.threshold,
            threshold_rule=said.threshold_rule,
            trainer_figures=said.trainer_figures,
        )
    for key in list(bucket.list_keys(f"trainings/{training_id}/")):
        bucket.delete(key)


def _with_manifest(model_file: bytes, said: "ModelManifest") -> bytes:
    """Add `lesion.json` to a `.keras` archive: classes, threshold and lineage travel with the weights."""
    buffer = io.BytesIO(model_file)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("lesion.json", json.dumps(said.model_dump(), indent=2))
    return buffer.getvalue()
