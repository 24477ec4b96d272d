"""A variant's search space and a manifest -> the parameters that do best on val, by Bayesian search.

Trials are proposed by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), judged by AUC on the natural
val, and kept in Postgres, each as soon as it ends. A trial is determined by the seed, its number and the trials before
it, so a killed search continues with the trial and the epoch that it was in, and ends as if it had not been killed.
Test is never opened.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import VARIANTS, SearchRange, SearchSpace, Variant
from lesion_tasks.catalog.lookup import find_variant
from lesion_tasks.catalog.shortened import adjust, with_parameters
from lesion_tasks.database.locks import Lock, hold_lock
from lesion_tasks.progress import progress
from lesion_tasks.splits.manifest import read_manifest
from lesion_tasks.training.quiet_start import import_tensorflow
from lesion_tasks.training.run_spec import RunSpec, code_digest, find_run_spec, load_data, trainer_figures
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# Trials drawn at random before the estimator has anything to learn from; Optuna's default.
N_RANDOM_TRIALS = 10


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search: the variant with the best parameters, and where they come from."""

    variant: Variant
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of parameters and how it did."""

    number: int
    parameters: Mapping[str, float]
    val_auc: float | None  # None: it ended with a reason
    reason: str | None = None


def tune_variant(
    workspace: Workspace,
    variant: str,
    *,
    n_trials: int,
    is_smoke_run: bool = False,
    max_epochs: int | None = None,
) -> dict[str, Any]:
    """Search until a variant has `n_trials` trials on the manifest in force; returns the best one and their ids.

    Earlier trials count. Raises UnusableInputError for a variant without a search space.
    """
    import_tensorflow()
    from lesion_tasks.training.model import find_weights

    engine = workspace.engine
    bucket = workspace.bucket
    spec = find_run_spec(
        workspace, adjust(find_variant(variant), is_smoke_run=is_smoke_run, max_epochs=max_epochs)
    )
    spec = replace(spec, weights=find_weights(spec.variant, spec.weights_location, bucket))
    return search_parameters(engine, bucket, spec, n_trials).facts


def space_of(variant: Variant) -> SearchSpace:
    """The search space of a variant; if it has none, raises UnusableInputError that names variants with one."""
    if variant.search is None:
        searchable = ", ".join(name for name, some in VARIANTS.items() if some.search is not None)
        raise UnusableInputError(
            f"variant {variant.name!r} has no search space, expected one of {searchable}"
        )
    return variant.search


def search_parameters(engine: Engine, bucket: Bucket, spec: RunSpec, n_trials: int) -> Found:
    """Run the missing trials of a spec's variant, and return it with the best parameters of the first n."""
    space = space_of(spec.variant)
    if n_trials < 1:
        raise UnusableInputError(f"{n_trials} trials requested, expected at least 1")
    search_id = _search_id(spec)
    # A second worker with the same search waits, and then finds its trials.
    with hold_lock(engine, Lock.SEARCH, search_id):
        _record_search(engine, spec, search_id)
        trials = _read_trials(engine, search_id)
        with progress(f"search {spec.variant.name}", n_trials) as advance:
            advance(min(len(trials), n_trials))
            while len(trials) < n_trials:
                parameters = propose(space.ranges, trials, spec.variant.seed)
                trials.append(_try(engine, bucket, spec, search_id, len(trials), parameters))
                advance(1, _shown(trials[-1]))
    made = trials[:n_trials]
    best = max((t for t in made if t.val_auc is not None), key=lambda t: t.val_auc or 0.0, default=None)
    if best is None:
        raise UnusableInputError(
            f"search {search_id}: none of {n_trials} trials gave an AUC; reason of the last: {made[-1].reason}"
        )
    facts = {
        "search_id": search_id,
        "n_trials": n_trials,
        "best_trial": best.number,
        "parameters": dict(best.parameters),
        "val_auc": best.val_auc,
    }
    return Found(variant=with_parameters(spec.variant, best.parameters, search_id), facts=facts)


def propose(ranges: Sequence[SearchRange], trials: Sequence[Trial], seed: int) -> dict[str, float]:
    """The parameters of the next trial: the same for the same ranges, trials and seed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {r.field: _distribution(r) for r in ranges}
    sampler = optuna.samplers.TPESampler(seed=seed + len(trials), n_startup_trials=N_RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        is_complete = trial.val_auc is not None
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if is_complete else optuna.trial.TrialState.FAIL,
                value=trial.val_auc,
                params=dict(trial.parameters),
                distributions=distributions,
            )
        )
    return dict(study.ask(distributions).params)


def _distribution(some: SearchRange) -> Any:
    import optuna

    if some.is_whole:
        return optuna.distributions.IntDistribution(int(some.low), int(some.high), log=some.is_log)
    return optuna.distributions.FloatDistribution(some.low, some.high, log=some.is_log)


def _search_id(spec: RunSpec) -> str:
    """32 hexadecimal digits that change with anything that decides a trial's figures."""
    parts = {
        "variant": spec.variant.as_recipe,
        "manifest": spec.digest,
        "weights": spec.weights.sha256 if spec.weights else None,
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _try(
    engine: Engine,
    bucket: Bucket,
    spec: RunSpec,
    search_id: str,
    number: int,
    parameters: Mapping[str, float],
) -> Trial:
    """Train with some parameters for the epochs of a trial, and store the result."""
    from lesion_tasks.training.stages import train_model

    some = adjust(
        with_parameters(spec.variant, parameters, search_id), max_epochs=space_of(spec.variant).max_epochs
    )
    data = load_data(engine, bucket, some, read_manifest(bucket, spec.manifest_key), has_test=False)
    folder = f"searches/{search_id}/trial-{number:04d}"
    try:
        trained = train_model(
            some,
            spec.weights,
            data,
            engine=engine,
            bucket=bucket,
            folder=folder,
            on_epoch=lambda epoch, figures, duration_s: None,
        )
        auc = trainer_figures(data.val.labels, trained.predictions["val"])["auc"]
        reason = None if auc is not None else "val lacks a class"
    except (
        UnusableInputError
    ) as error:  # such as a loss that is not a number: bad parameters, not a bad search
        auc, reason = None, str(error)[:2_000]
    trial = Trial(number=number, parameters=parameters, val_auc=auc, reason=reason)
    _record_trial(engine, search_id, trial)
    for key in list(bucket.list_keys(f"{folder}/")):
        bucket.delete(key)
    log.info("trial %d of search %s: %s", number, search_id[:8], _shown(trial))
    return trial


def _shown(trial: Trial) -> str:
    parameters = ", ".join(f"{name} {value:.4g}" for name, value in trial.parameters.items())
    figure = f"val AUC {trial.val_auc:.4f}" if trial.val_auc is not None else str(trial.reason)
    return f"{figure} with {parameters}"


def _record_search(engine: Engine, spec: RunSpec, search_id: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO search (search_id, variant, recipe, manifest_digest, weights_sha256, started_at)
                VALUES (:id, :variant, :recipe, :digest, :weights, :now) ON CONFLICT (search_id) DO NOTHING
            """),
            {
                "id": search_id,
                "variant": spec.variant.name,
                "recipe": json.dumps(spec.variant.as_recipe),
                "digest": spec.digest,
                "weights": spec.weights.sha256 if spec.weights else None,
                "now": datetime.now(UTC),
            },
        )


def _record_trial(engine: Engine, search_id: str, trial: Trial) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO search_trial (search_id, number, parameters, val_auc, reason, ended_at)
                VALUES (:id, :number, :parameters, :val_auc, :reason, :now)
            """),
            {
                "id": search_id,
                "number": trial.number,
                "parameters": json.dumps(dict(trial.parameters)),
                "val_auc": trial.val_auc,
                "reason": trial.reason,
                "now": datetime.now(UTC),
            },
        )


def _read_trials(engine: Engine, search_id: str) -> list[Trial]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT number, parameters, val_auc, reason FROM search_trial
                WHERE search_id = :id ORDER BY number
            """),
            {"id": search_id},
        ).all()
    return [
        Trial(number=row.number, parameters=row.parameters, val_auc=row.val_auc, reason=row.reason)
        for row in rows
    ]
