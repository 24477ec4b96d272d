"""The bucket, the database and a policy -> what could be pruned, and why. Changes nothing.

Whatever the policy says, it is never one of these: a training that was ever champion, or that any decision names (its
report, if the policy lets refused models go), or that a report on what was held out names; the newest of a variant and
of each of its folds, which is also the one that a decision or an open question may be about; what runs; and whatever a
kept thing needs: the manifest of a kept training, the pixels of its pictures in its size, the pixels and features that
the next training asks for. That may be of a variant of the catalogue or of one that a kept training was of: not every
process sees the folder with own variants.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, MissingObjectError
from lesion_tasks.catalog import VARIANTS, InputSize, Variant
from lesion_tasks.catalog.retention import Retention
from lesion_tasks.catalog.shortened import adjust
from lesion_tasks.database.bulk import copy_rows
from lesion_tasks.database.pruned import MANIFEST_IS_PRUNED, TRAINING_IS_ARCHIVED, TRAINING_IS_PRUNED
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.decisions import champions_ever, named_in_decisions
from lesion_tasks.metrics.counted import plural
from lesion_tasks.serving.predict_job import PAGE, folder_of, key_of, list_jobs, when_asked
from lesion_tasks.splits.data_report import page_key
from lesion_tasks.splits.manifest import manifests_in_force, read_table
from lesion_tasks.training.run_record import kind_of, list_trainings
from lesion_tasks.watching import looks

log = logging.getLogger(__name__)

# Folders of the bucket that hold checkpoints, each with a folder for every training or search.
CHECKPOINTS = ("trainings", "searches")


@dataclass(frozen=True, kw_only=True)
class Prunable:
    """One thing that could be pruned: a kind and a name as in the table `pruning`, and its objects."""

    kind: str
    name: str
    reason: str
    size_by_key: Mapping[str, int]  # bytes

    @property
    def size_bytes(self) -> int:
        return sum(self.size_by_key.values())


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the decisions about trainings and manifests rest on, read once."""

    trainings: list[Training]  # the newest first
    pruned: set[str]  # of those, their ids
    archived: set[str]  # likewise: put aside, so that they are no candidates
    champions: set[str]
    named: set[str]  # trainings that any decision names
    named_manifests: set[str]
    reported: set[str]  # trainings that a report on what was held out names
    held_out: dict[str, str]  # digest of a manifest -> what is held out of it, if anything is
    evaluated: dict[str, set[str]]  # training -> digests of the manifests it predicted or was evaluated on
    in_force: dict[str, str]  # split -> digest

    def kind_of(self, training: Training) -> tuple[Any, ...]:
        """As candidates are told apart, and as the last training of a variant or of one of its folds is looked for.

        What is held out is held out with several seeds: none of these takes the place of another.
        """
        held_out = self.held_out.get(training.manifest_digest)
        return (
            kind_of(training.variant, training.recipe),
            held_out,
            None if held_out is None else training.seed,
        )


def find_prunable(
    connection: Connection, bucket: Bucket, policy: Retention, *, now: datetime
) -> Iterator[Prunable]:
    """Everything that the policy lets go: trainings, then what nothing needs without them."""
    known = _read_known(connection, bucket)
    going = dict(_trainings(known, policy, now))
    for training_id, (kind, reason) in going.items():
        yield Prunable(
            kind=kind,
            name=training_id,
            reason=reason,
            size_by_key=_sizes(bucket, *prefixes_of(kind, training_id)),
        )
    kept = [
        training
        for training in known.trainings
        if training.status != "failed" and training.training_id not in {*known.pruned, *going}
    ]
    yield from _checkpoints(connection, bucket, policy, now, {*going})
    digests = {
        digest
        for training in kept
        for digest in (training.manifest_digest, *known.evaluated.get(training.training_id, ()))
    }
    yield from _manifests(connection, bucket, known, policy, now, digests)
    yield from _pixels(connection, bucket, _pixels_needed(known, kept), policy, now)
    yield from _features(connection, bucket, _features_needed(known, kept), policy, now)
    yield from _predictions(bucket, policy, now)
    yield from _looks(bucket, policy, now, {*going})


def prefixes_of(kind: str, name: str) -> tuple[str, ...]:
    """Where the objects of a pruned training, of checkpoints or of a prediction job lie."""
    if kind == "predictions":
        return f"{folder_of(name)}/", key_of(name, PAGE)
    return {
        "training": (
            f"models/{name}/",
            f"trainings/{name}/",
            f"reports/{name}/",
            f"{looks.folder_of(name)}/",
        ),
        "model": (f"models/{name}/", f"trainings/{name}/", f"{looks.folder_of(name)}/"),
        "checkpoints": (name,),
    }[kind]


def _sizes(bucket: Bucket, *prefixes: str) -> dict[str, int]:
    return dict(pair for prefix in prefixes for pair in bucket.list_sizes(prefix))


def _read_known(connection: Connection, bucket: Bucket) -> _Known:
    from lesion_tasks.evaluation.held_out_report import list_reported

    evaluated: dict[str, set[str]] = defaultdict(set)
    for row in connection.execute(
        text("""
            SELECT training_id, manifest_digest FROM evaluation
            UNION SELECT training_id, manifest_digest FROM prediction_set
        """)
    ):
        evaluated[row.training_id].add(row.manifest_digest)
    pruned = connection.execute(text(f"SELECT training_id FROM training t WHERE {TRAINING_IS_PRUNED}"))  # noqa: S608
    archived = connection.execute(
        text(f"SELECT training_id FROM training t WHERE {TRAINING_IS_ARCHIVED}")  # noqa: S608
    )
    named, named_manifests = named_in_decisions(connection)
    held_out = connection.execute(text("SELECT digest, held_out FROM manifest WHERE held_out IS NOT NULL"))
    return _Known(
        trainings=list_trainings(connection),
        pruned=set(pruned.scalars()),
        archived=set(archived.scalars()),
        champions=champions_ever(connection),
        named=named,
        named_manifests=named_manifests,
        reported=list_reported(bucket),
        held_out={row.digest: row.held_out for row in held_out},
        evaluated=evaluated,
        in_force={manifest.split: manifest.digest for manifest in manifests_in_force(connection)},
    )


def _trainings(known: _Known, policy: Retention, now: datetime) -> Iterator[tuple[str, tuple[str, str]]]:
    """Trainings that may go, each with the kind of pruning and the reason."""
    there = [
        training
        for training in known.trainings
        if training.status == "finished" and training.training_id not in known.pruned
    ]
    newest = _newest(known, there)
    n_newer: dict[Any, int] = defaultdict(int)
    for training in sorted(there, key=_ended_at, reverse=True):
        name, ended = training.training_id, _ended_at(training)
        kind = known.kind_of(training)
        place = n_newer[kind]
        n_newer[kind] += name not in known.archived
        if (
            name in known.champions | known.reported | newest
            or (name in known.named and policy.is_refused_kept)
            or place < policy.n_trainings
            or now - ended < timedelta(days=policy.training_days)
        ):
            continue
        newer = "1 newer training of {} is" if place == 1 else f"{place} newer trainings of {{}} are"
        reason = f"ended {ended.date()}, {newer.format(training.variant)} there"
        if name in known.named:
            yield name, ("model", f"{reason}, refused")
        else:
            yield name, ("training", f"{reason}, no decision names it")


def _newest(known: _Known, there: list[Training]) -> set[str]:
    """Of each kind the training that began last, the one that ended last, and the evaluated one that ended last.

    Archived ones are left out: none of them is a candidate.
    """
    there = [one for one in there if one.training_id not in known.archived]
    evaluated = [one for one in there if one.manifest_digest in known.evaluated.get(one.training_id, ())]
    orders = (
        sorted(there, key=lambda one: one.started_at),
        sorted(there, key=_ended_at),
        sorted(evaluated, key=_ended_at),
    )
    return {
        name for order in orders for name in {known.kind_of(one): one.training_id for one in order}.values()
    }


def _ended_at(training: Training) -> datetime:
    return training.finished_at or training.started_at


def _checkpoints(
    connection: Connection,
    bucket: Bucket,
    policy: Retention,
    now: datetime,
    going: set[str],
) -> Iterator[Prunable]:
    """Checkpoints of what has not got on for long, and what a killed process left of what is finished."""
    at_rest = checkpoints_at_rest(connection, policy, now)
    for folder in CHECKPOINTS:
        found: dict[str, dict[str, int]] = defaultdict(dict)
        for key, size_bytes in bucket.list_sizes(f"{folder}/"):
            found[key.split("/")[1]][key] = size_bytes
        for name, sizes in found.items():
            if name in at_rest and name not in going:
                yield Prunable(
                    kind="checkpoints", name=f"{folder}/{name}/", reason=at_rest[name], size_by_key=sizes
                )


def checkpoints_at_rest(connection: Connection, policy: Retention, now: datetime) -> dict[str, str]:
    """Trainings and searches whose checkpoints the policy lets go, by id, each with the reason."""
    rows = connection.execute(
        text("""
            SELECT search_id AS name, false AS is_finished, greatest(started_at, max(ended_at)) AS at
            FROM search LEFT JOIN search_trial USING (search_id) GROUP BY search_id
            UNION ALL SELECT training_id, status = 'finished', greatest(started_at, max(ended_at))
            FROM training LEFT JOIN training_epoch USING (training_id) WHERE status <> 'running' GROUP BY training_id
        """)
    )
    before = now - timedelta(days=policy.checkpoint_days)
    return {
        row.name: "its training is finished"
        if row.is_finished
        else f"it has not got on since {row.at.date()}"
        for row in rows
        if row.is_finished or row.at <= before
    }


def _manifests(
    connection: Connection,
    bucket: Bucket,
    known: _Known,
    policy: Retention,
    now: datetime,
    needed: set[str],
) -> Iterator[Prunable]:
    rows = connection.execute(
        text(f"""
            SELECT digest, split, object_key, built_at, {MANIFEST_IS_PRUNED} AS is_pruned
            FROM manifest m ORDER BY built_at DESC, digest
        """)  # noqa: S608 - our own words
    ).all()
    n_newer: dict[str, int] = defaultdict(int)
    for row in rows:
        place = n_newer[row.split]
        n_newer[row.split] += 1
        if (
            row.is_pruned
            or row.digest in needed | known.named_manifests | set(known.in_force.values())
            or place < policy.n_manifests
            or now - row.built_at < timedelta(days=policy.manifest_days)
        ):
            continue
        yield Prunable(
            kind="manifest",
            name=row.digest,
            reason=f"of {row.split}, built {row.built_at.date()}, no kept training was asked about it",
            size_by_key=_sizes(bucket, row.object_key, page_key(row.digest)),
        )


def _pixels_needed(known: _Known, kept: list[Training]) -> dict[str, set[str]]:
    """Input size -> digests of the manifests whose pictures are asked for in that size."""
    needed: dict[str, set[str]] = defaultdict(set)
    for training in kept:
        size = InputSize.of_recipe(training.recipe)
        digests = {training.manifest_digest, *known.evaluated.get(training.training_id, ())}
        if size is not None:
            needed[str(size)] |= digests | _next_manifest(known, training)
    for variant in _asking(known):
        needed[str(variant.input_size)].add(known.in_force[variant.split])
    return needed


def _next_manifest(known: _Known, training: Training) -> set[str]:
    """The manifest in force, if any, of a training's split: what the next one of its variant would learn from."""
    digest = known.in_force.get(training.recipe["split"])
    return set() if digest is None else {digest}


def _asking(known: _Known) -> Iterator[Variant]:
    """Variants of the catalogue that look at pictures, whole and as rehearsals: what the next training may be of."""
    for variant in VARIANTS.values():
        for one in (variant, adjust(variant, is_smoke_run=True)):
            if one.input_size is not None and one.split in known.in_force:
                yield one


def _pixels(
    connection: Connection,
    bucket: Bucket,
    needed: Mapping[str, set[str]],
    policy: Retention,
    now: datetime,
) -> Iterator[Prunable]:
    sizes = connection.execute(
        text("SELECT DISTINCT split_part(object_key, '/', 2) AS size FROM pixel_shard ORDER BY 1")
    ).scalars()
    before = now - timedelta(days=policy.cache_days)
    for size in sizes.all():
        if not _list_pictures(connection, bucket, needed.get(size, set())):
            continue
        keys = connection.execute(
            text("""
                SELECT object_key FROM pixel_shard s
                WHERE split_part(object_key, '/', 2) = :size AND created_at < :before AND NOT EXISTS (
                    SELECT FROM pixel_row r JOIN asked_picture USING (sha256)
                    WHERE r.input_size = :size AND r.object_key = s.object_key)
                ORDER BY object_key
            """),
            {"size": size, "before": before},
        ).scalars()
        for key in keys.all():
            yield Prunable(
                kind="pixels",
                name=key,
                reason="no kept manifest has any of its pictures in this size",
                size_by_key=_sizes(bucket, key),
            )


def _features_needed(known: _Known, kept: list[Training]) -> dict[tuple[str, str], set[str]]:
    """Backbone and input size -> digests of the manifests whose features are asked for."""
    needed: dict[tuple[str, str], set[str]] = defaultdict(set)
    for variant in _asking(known):
        if variant.has_frozen_features and variant.backbone is not None:
            needed[variant.backbone, str(variant.input_size)].add(known.in_force[variant.split])
    for training in kept:
        size, backbone = InputSize.of_recipe(training.recipe), training.recipe.get("backbone")
        if size is not None and backbone:
            needed[backbone, str(size)] |= _next_manifest(known, training)
            if training.status == "running":
                needed[backbone, str(size)].add(training.manifest_digest)
    return needed


def _features(
    connection: Connection,
    bucket: Bucket,
    needed: Mapping[tuple[str, str], set[str]],
    policy: Retention,
    now: datetime,
) -> Iterator[Prunable]:
    recipes = connection.execute(
        text("SELECT DISTINCT features_id, recipe FROM feature_shard ORDER BY features_id")
    ).all()
    for features in recipes:
        asked = features.recipe["backbone"]["name"], features.recipe["fit"]
        if not _list_pictures(connection, bucket, needed.get(asked, set())):
            continue
        keys = connection.execute(
            text("""
                SELECT object_key FROM feature_shard s
                WHERE features_id = :id AND created_at < :before AND NOT EXISTS (
                    SELECT FROM feature_row r JOIN asked_picture USING (sha256)
                    WHERE r.features_id = :id AND r.object_key = s.object_key)
                ORDER BY object_key
            """),
            {"id": features.features_id, "before": now - timedelta(days=policy.cache_days)},
        ).scalars()
        for key in keys.all():
            yield Prunable(
                kind="features",
                name=key,
                reason=f"no variant asks for {asked[0]} at {asked[1]} of any of its pictures",
                size_by_key=_sizes(bucket, key),
            )


def _predictions(bucket: Bucket, policy: Retention, now: datetime) -> Iterator[Prunable]:
    for job_id in list_jobs(bucket):
        if reason := why_at_rest(bucket, job_id, policy, now):
            sizes = _sizes(bucket, *prefixes_of("predictions", job_id))
            yield Prunable(kind="predictions", name=job_id, reason=reason, size_by_key=sizes)


def _looks(bucket: Bucket, policy: Retention, now: datetime, going: set[str]) -> Iterator[Prunable]:
    """What champions said and saw of images that no watch asks for any more; of kept trainings."""
    gone = {looks.folder_of(training_id) for training_id in going}
    for name, sizes in looks_at_rest(bucket, policy, now).items():
        if name not in gone:
            yield Prunable(
                kind="predictions",
                name=name,
                reason=f"no watch asked for it in {plural(policy.prediction_days, 'day')}",
                size_by_key=sizes,
            )


def looks_at_rest(
    bucket: Bucket, policy: Retention, now: datetime, under: str = looks.FOLDER
) -> dict[str, dict[str, int]]:
    """What the policy lets go of what champions said and saw: bytes by key, by folder of a training."""
    return looks.find_unasked(bucket, now - timedelta(days=policy.prediction_days), under)


def why_at_rest(bucket: Bucket, job_id: str, policy: Retention, now: datetime) -> str | None:
    """Why the policy lets a prediction job go, in words; None: it stays."""
    try:
        asked_at = when_asked(bucket, job_id)
    except MissingObjectError:
        return "its plan was cut short"
    if asked_at is None or now - asked_at < timedelta(days=policy.prediction_days):
        return None
    return f"last asked for on {asked_at.date()}"


def _list_pictures(connection: Connection, bucket: Bucket, digests: set[str]) -> bool:
    """Fill the temporary table `asked_picture` with the pictures of some manifests, one manifest at a time.

    False if a manifest cannot be read: then nobody knows which pictures it asks for.
    """
    connection.execute(text("DROP TABLE IF EXISTS asked_picture"))
    connection.execute(text("CREATE TEMP TABLE asked_picture (sha256 text) ON COMMIT DROP"))
    rows = connection.execute(
        text("SELECT object_key FROM manifest WHERE digest = ANY(:digests) ORDER BY object_key"),
        {"digests": sorted(digests)},
    )
    for key in rows.scalars().all():
        try:
            table = read_table(bucket, key)
        except (MissingObjectError, UnusableInputError) as error:
            log.warning("no pixels or features that its pictures may have are pruned: %s", error)
            return False
        copy_rows(connection, "asked_picture", ("sha256",), ((one,) for one in table["sha256"].to_pylist()))
    return True
