"""Every object and prediction that has a digest -> those changed since they were stored, repaired where possible.

What can be made again is removed, so that the step that made it makes it again: a picture is fetched, pixels and
features are computed, a segmenter is trained. A manifest, a model, a mask and predictions cannot: reading them raises
an error, and nothing that rests on them is promoted.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, MissingObjectError
from lesion_tasks.catalog.verification_plan import N_VERIFICATION_PARTS
from lesion_tasks.database.pruned import MANIFEST_IS_PRUNED, TRAINING_IS_PRUNED
from lesion_tasks.metrics.counted import plural
from lesion_tasks.progress import progress
from lesion_tasks.splits.manifest import check_stored
from lesion_tasks.training.masks import read_index
from lesion_tasks.training.predictions import find_alteration, read_predictions
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

MAX_EXAMPLES = 20
N_THREADS = 8
# More than this many, and more than this share of a kind, is a wrong bucket rather than a damaged one.
MAX_FEW, MAX_SHARE = 20, 0.05
_BATCH_OBJECTS = 256


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An object, or a set of predictions, that was changed or lost since it was stored."""

    kind: str
    name: str
    problem: str  # "missing" or "altered"
    remedy: str


@dataclass(kw_only=True)
class Verification:
    """The result of a verification. `findings` are examples, those that cannot be repaired first."""

    n_checked: dict[str, int] = field(default_factory=dict)
    n_repairable: int = 0  # and repaired, unless repair is off
    n_lost: int = 0  # nothing here can make it again
    findings: list[Finding] = field(default_factory=list)

    def count(self, kind: str, n: int) -> None:
        self.n_checked[kind] = self.n_checked.get(kind, 0) + n

    @property
    def sentence(self) -> str:
        """The result in one line, for a log."""
        first = "".join(
            f"; {one.kind} {one.name} is {one.problem}: {one.remedy}" for one in self.findings[:1]
        )
        return (
            f"looked at {plural(sum(self.n_checked.values()), 'thing')}, objects and sets of predictions: "
            f"{self.n_lost:,} lost, {self.n_repairable:,} to be made again{first}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Objects of one kind: how the database lists them, and how to have them made again."""

    name: str
    listing: str  # selects object_key, sha256
    remedy: str
    forget: str | None = None  # takes :keys


KINDS = (
    _Kind(
        name="picture",
        listing="SELECT object_key, sha256 FROM stored_file WHERE reason IS NULL AND NOT is_replaced",
        forget="UPDATE stored_file SET is_replaced = true WHERE object_key = ANY(:keys)",
        remedy="the next ingestion fetches it again",
    ),
    _Kind(
        name="pixels",
        listing="SELECT object_key, sha256 FROM pixel_shard",
        forget="""
            WITH rows AS (DELETE FROM pixel_row WHERE object_key = ANY(:keys))
            DELETE FROM pixel_shard WHERE object_key = ANY(:keys)
        """,
        remedy="its pictures are decoded again when a split is materialized",
    ),
    _Kind(
        name="features",
        listing="SELECT object_key, sha256 FROM feature_shard",
        forget="""
            WITH rows AS (DELETE FROM feature_row WHERE object_key = ANY(:keys))
            DELETE FROM feature_shard WHERE object_key = ANY(:keys)
        """,
        remedy="they are computed again by the next training that needs them",
    ),
    _Kind(
        name="segmenter",
        listing="SELECT object_key, sha256 FROM segmenter",
        forget="DELETE FROM segmenter WHERE object_key = ANY(:keys)",
        remedy="it is trained again by the next training that needs it",
    ),
    _Kind(
        name="model",
        listing=f"""
            SELECT model_key AS object_key, model_sha256 AS sha256 FROM training t
            WHERE status = 'finished' AND NOT {TRAINING_IS_PRUNED}
        """,  # noqa: S608 - our own words
        remedy="it is not served, evaluated or promoted: restore the object from a backup, or train again",
    ),
)


# A fixed share of the objects, by a hash of their keys.
PART = """
    FROM ({listing}) AS kept
    WHERE CAST(CAST('x' || left(md5(object_key), 7) AS bit(28)) AS integer) % :n_parts = :part - 1
"""


def part_due(moment: datetime) -> int:
    """The part, from 1, that a weekly verification checks: all of them in turn, even if a week is missed."""
    weeks = (moment.astimezone(UTC) - datetime(1970, 1, 5, tzinfo=UTC)).days // 7
    return weeks % N_VERIFICATION_PARTS + 1


def verify_bucket(
    workspace: Workspace,
    *,
    part: int = 1,
    n_parts: int = 1,
    is_repairing: bool = True,
    is_repairing_many: bool = False,
) -> Verification:
    """Check a part of the bucket against the database: `part` (from 1) of `n_parts`, each a fixed share of the objects.

    Reads every object of the part once, in constant memory; manifests, masks, reports and what is in the database are
    few or quick to read, and belong to every part. Without `is_repairing` nothing is written. Where more than
    `MAX_SHARE` of a kind is missing or altered, as in another bucket, it raises `UnusableInputError` before it repairs
    any of it, unless `is_repairing_many`. A killed run has repaired whole kinds; two simultaneous runs find the same.
    An object that is replaced while it is read may be mistaken for altered, which only means that it is made again.
    """
    if not 1 <= part <= n_parts:
        raise UnusableInputError(f"part {part} of {n_parts}: expected a part from 1 to {n_parts}")
    verification = Verification()
    repairable: list[Finding] = []
    lost: list[Finding] = []
    share = {"part": part, "n_parts": n_parts}
    for kind in KINDS:
        found: list[Finding] = []
        for n_checked, n_objects, wrong in _verify_objects(workspace, kind, share):
            verification.count(kind.name, n_checked)
            found += wrong
            # Before anything is repaired: a mistyped address makes every object look lost.
            if is_repairing and not is_repairing_many and len(found) > max(MAX_FEW, MAX_SHARE * n_objects):
                raise UnusableInputError(
                    f"bucket {workspace.bucket.url} (LESION_BUCKET_URL): {len(found):,} of "
                    f"{plural(n_objects, 'object')} of kind {kind.name} are missing or altered, such as "
                    f"{found[0].name}: none was repaired. If this is "
                    "the right bucket, repair with --many"
                )
        if kind.forget is None:
            lost += found
            continue
        repairable = (repairable + found)[:MAX_EXAMPLES]
        verification.n_repairable += len(found)
        if is_repairing and found:
            with workspace.engine.begin() as connection:
                forget(connection, kind.name, [one.name for one in found])
    for name, look in _LOOKS.items():
        verification.count(name, 0)
        for finding in look(workspace):
            verification.count(name, 1)
            lost += [] if finding is None else [finding]
    verification.n_lost = len(lost)
    verification.findings = (lost + repairable)[:MAX_EXAMPLES]
    return verification


def forget(connection: Connection, kind: str, keys: list[str]) -> None:
    """Remove the rows by which objects of a kind are found, so that whoever needs them makes them again."""
    (statement,) = (one.forget for one in KINDS if one.name == kind and one.forget is not None)
    connection.execute(text(statement), {"keys": keys})


def verify_part_due(
    workspace: Workspace, *, part: int | None, is_repairing: bool, moment: datetime
) -> dict[str, int]:
    """Verify one part, by default that of the week; returns counts.

    Raises `UnusableInputError` that names what is lost if nothing here can make it again.
    """
    found = verify_bucket(
        workspace,
        part=part or part_due(moment),
        n_parts=N_VERIFICATION_PARTS,
        is_repairing=is_repairing,
    )
    for one in found.findings:
        log.warning("%s %s is %s: %s", one.kind, one.name, one.problem, one.remedy)
    if found.n_lost:
        raise UnusableInputError(found.sentence)
    return {"checked": sum(found.n_checked.values()), "repairable": found.n_repairable}


def _verify_objects(
    workspace: Workspace, kind: _Kind, share: dict[str, int]
) -> Iterator[tuple[int, int, list[Finding]]]:
    """Yield, batch by batch, the numbers of objects checked and of all, and what is wrong with some of them."""
    inside = PART.format(listing=kind.listing)
    with workspace.engine.connect() as connection:
        n_objects = connection.execute(text(f"SELECT count(*) {inside}"), share).scalar_one()
    listing = text(f"SELECT object_key, sha256 {inside} AND object_key > :after ORDER BY object_key LIMIT :n")
    after = ""
    with progress(f"verify {kind.name}", n_objects) as advance, ThreadPoolExecutor(N_THREADS) as pool:
        while True:
            with workspace.engine.connect() as connection:
                rows = connection.execute(listing, {**share, "after": after, "n": _BATCH_OBJECTS}).all()
            if not rows:
                return
            problems = pool.map(lambda row: _problem(workspace.bucket, row.object_key, row.sha256), rows)
            yield (
                len(rows),
                n_objects,
                [
                    Finding(kind=kind.name, name=row.object_key, problem=problem, remedy=kind.remedy)
                    for row, problem in zip(rows, problems, strict=True)
                    if problem is not None
                ],
            )
            after = rows[-1].object_key
            advance(len(rows))


def _problem(bucket: Bucket, key: str, sha256: str) -> str | None:
    try:
        return None if bucket.digest(key) == sha256 else "altered"
    except MissingObjectError:
        return "missing"


def _verify_manifests(workspace: Workspace) -> Iterator[Finding | None]:
    with workspace.engine.connect() as connection:
        keys = (
            connection.execute(
                text(f"SELECT object_key FROM manifest m WHERE NOT {MANIFEST_IS_PRUNED} ORDER BY object_key")  # noqa: S608
            )
            .scalars()
            .all()
        )
    for key in keys:
        problem = None
        try:
            check_stored(workspace.bucket, key)
        except MissingObjectError:
            problem = "missing"
        except UnusableInputError:
            problem = "altered"
        yield (
            None
            if problem is None
            else Finding(
                kind="manifest",
                name=key,
                problem=problem,
                remedy="delete the object and build its split: it comes back if the images have not changed; "
                "otherwise restore it from a backup",
            )
        )


def _verify_masks(workspace: Workspace) -> Iterator[Finding | None]:
    for isic_id, sha256 in sorted(read_index(workspace.bucket).items()):
        problem = _problem(workspace.bucket, f"masks/{isic_id}", sha256)
        yield (
            None
            if problem is None
            else Finding(
                kind="mask",
                name=f"masks/{isic_id}",
                problem=problem,
                remedy="import the masks again: lesion masks FOLDER",
            )
        )


def _verify_predictions(workspace: Workspace) -> Iterator[Finding | None]:
    with workspace.engine.connect() as connection:
        sealed = connection.execute(
            text("""
                SELECT training_id, prediction_set.manifest_digest, subset, training.classes
                FROM prediction_set JOIN training USING (training_id) ORDER BY training_id, 2, subset
            """)
        ).all()
        for row in sealed:
            named = (row.training_id, row.manifest_digest, row.subset)
            found = read_predictions(connection, *named, row.classes)
            is_altered = find_alteration(connection, *named, found) is not None
            yield (
                Finding(
                    kind="predictions",
                    name=f"{row.training_id} on {row.subset} of manifest {row.manifest_digest[:12]}",
                    problem="altered",
                    remedy="its evaluations fail, it is not promoted: restore the rows from a backup, or train again",
                )
                if is_altered
                else None
            )


def _verify_evaluations(workspace: Workspace) -> Iterator[Finding | None]:
    with workspace.engine.connect() as connection:
        rows = connection.execute(
            text(f"""
                SELECT evaluation_id, training_id, report_key, {TRAINING_IS_PRUNED} AS is_pruned,
                       document #>> '{{doubt,object_key}}' AS doubt_key,
                       document #>> '{{doubt,sha256}}' AS doubt_sha256,
                       document_sha256 = encode(sha256(convert_to(document::text, 'UTF8')), 'hex') AS is_as_stored
                FROM evaluation t ORDER BY evaluation_id
            """)  # noqa: S608 - our own words
        ).all()
    for row in rows:
        problem = None if row.is_as_stored else "altered"
        if problem is None and not row.is_pruned:
            if not workspace.bucket.exists(row.report_key):
                problem = "missing"
            elif row.doubt_key is not None:
                problem = _problem(workspace.bucket, row.doubt_key, row.doubt_sha256)
        yield (
            None
            if problem is None
            else Finding(
                kind="evaluation",
                name=row.evaluation_id,
                problem=problem,
                remedy=f"evaluate it again: lesion evaluate {row.training_id}",
            )
        )


_LOOKS: dict[str, Callable[[Workspace], Iterator[Finding | None]]] = {
    "manifest": _verify_manifests,
    "mask": _verify_masks,
    "predictions": _verify_predictions,
    "evaluation": _verify_evaluations,
}
