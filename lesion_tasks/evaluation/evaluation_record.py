"""Evaluations and looks at test sets as rows in Postgres: the only module that writes these two tables.

The result of an evaluation is its document, sealed by a digest. The columns beside it repeat parts of it for display;
decisions use the document itself: `find_sealed`, then `failed_checks` and `undecided_checks`.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, literal_column, select, text
from sqlalchemy.orm import Session

from lesion_tasks import UnusableInputError
from lesion_tasks.database.pruned import HOLDS_OUT, TRAINING_IS_ARCHIVED, TRAINING_IS_PRUNED
from lesion_tasks.database.schema import Evaluation, Training
from lesion_tasks.metrics.verdict import ON_VAL
from lesion_tasks.reports.bundle import BestOfLooks
from lesion_tasks.reports.words import sentences

# What every evaluation asks of test and val: without one of these nothing is known of its soundness.
REQUIRED_CHECKS = {
    *(
        f"{name}{side}"
        for name in (
            "ids_differ",
            "independent_of_labels",
            "inverted",
            "marginals_differ",
            "serving_differs",
            "pixels_differ",
        )
        for side in ("", ON_VAL)
    ),
    "predictions_altered",
    "degenerate",
    "few_groups",
    "leaks",
    "shortcut",
    "gap",
}
UNJOINED = {"ids_differ", f"ids_differ{ON_VAL}"}  # if one of them failed, nothing else was asked
DOCUMENT_DIGEST = "encode(sha256(convert_to(CAST({} AS jsonb)::text, 'UTF8')), 'hex')"
# Of what it found about its training, whatever became of others: the same if it is made again and finds the same. The
# outcome of each check, and all codes and numbers of these parts, in whatever order: a release that words a check anew,
# or names a figure anew, finds nothing else. Words are what has a space in it.
_FINDINGS = ("integrity", "subsets", "other_data", "predictions")
_CODES = """'strict $.** ? (@.type() != "object" && @.type() != "array"
    && !(@.type() == "string" && @ like_regex " "))'"""
FINDINGS_DIGEST = DOCUMENT_DIGEST.format(
    f"""jsonb_build_array(
        jsonb_path_query_array({{0}}, '$.integrity[*].name'), jsonb_path_query_array({{0}}, '$.integrity[*].status'),
        (SELECT jsonb_agg(found ORDER BY found) FROM jsonb_path_query(
            jsonb_build_array({", ".join(f"{{0}} -> {name!r}" for name in _FINDINGS)}), {_CODES}) AS found))"""  # noqa: S608 - our own words
)


class AlteredEvaluationError(UnusableInputError):
    """The document of an evaluation was changed after it was written."""


def record_evaluation(
    connection: Connection, evaluation_id: str, document: Mapping[str, Any], *, report_key: str
) -> None:
    """Write or rewrite an evaluation's row. `document` is the bundle without its pictures."""
    connection.execute(
        text(f"""
            INSERT INTO evaluation (evaluation_id, training_id, manifest_digest, is_sound, failed_checks, verdict,
                                    document, document_sha256, report_key, evaluated_at)
            VALUES (:evaluation_id, :training_id, :digest, :is_sound, :failed, :verdict, :document,
                    {DOCUMENT_DIGEST.format(":document")}, :key, now())
            ON CONFLICT (evaluation_id) DO UPDATE SET
                is_sound = excluded.is_sound, failed_checks = excluded.failed_checks, verdict = excluded.verdict,
                document = excluded.document, document_sha256 = excluded.document_sha256,
                evaluated_at = excluded.evaluated_at
        """),  # noqa: S608 - our own words
        {
            "evaluation_id": evaluation_id,
            "training_id": document["training"]["training_id"],
            "digest": document["manifest"]["digest"],
            "is_sound": document["is_sound"],
            "failed": document["failed_checks"],
            "verdict": document["verdict"],
            "document": json.dumps(document),
            "key": report_key,
        },
    )


def find_evaluation(connection: Connection, training_id: str, manifest_digest: str) -> Evaluation | None:
    """The evaluation of a training on a manifest, detached; None if it was not evaluated there."""
    statement = select(Evaluation).where(
        Evaluation.training_id == training_id, Evaluation.manifest_digest == manifest_digest
    )
    with Session(connection, expire_on_commit=False) as session:
        found = session.scalar(statement)
        session.expunge_all()
    return found


def find_by_id(connection: Connection, evaluation_id: str) -> Evaluation:
    """An evaluation, detached; raises `UnusableInputError` if there is none of this id."""
    with Session(connection, expire_on_commit=False) as session:
        found = session.get(Evaluation, evaluation_id)
        session.expunge_all()
    if found is None:
        raise UnusableInputError(f"evaluation {evaluation_id[:200]!r}: there is none of this id")
    return found


def trainings_of(connection: Connection, evaluation_ids: Collection[str]) -> list[str]:
    """The trainings that some evaluations are about."""
    asked = select(Evaluation.training_id).where(Evaluation.evaluation_id.in_(evaluation_ids)).distinct()
    return list(connection.execute(asked.order_by(Evaluation.training_id)).scalars())


def findings_digest(connection: Connection, evaluation_id: str) -> str:
    """A digest of what an evaluation found about its training: the same if it is made again and finds the same."""
    digest: ColumnElement[str] = literal_column(FINDINGS_DIGEST.format("evaluation.document"))
    return connection.execute(select(digest).where(Evaluation.evaluation_id == evaluation_id)).scalar_one()


def find_sealed(connection: Connection, training_id: str, manifest_digest: str) -> Evaluation | None:
    """The same, its document checked against its digest; raises `AlteredEvaluationError` if they differ."""
    # In one statement: an evaluation that is written in between would look altered.
    digest: ColumnElement[str] = literal_column(DOCUMENT_DIGEST.format("evaluation.document"))
    statement = select(Evaluation, digest).where(
        Evaluation.training_id == training_id, Evaluation.manifest_digest == manifest_digest
    )
    with Session(connection, expire_on_commit=False) as session:
        row = session.execute(statement).one_or_none()
        session.expunge_all()
    if row is None:
        return None
    found: Evaluation = row[0]
    now: str = row[1]
    if now != found.document_sha256:
        raise AlteredEvaluationError(
            f"evaluation {found.evaluation_id!r}: its document has SHA-256 {now[:12]}, expected "
            f"{found.document_sha256[:12]}: it was changed after it was written; evaluate the training again"
        )
    return found


def failed_checks(document: Mapping[str, Any]) -> list[str]:
    """Names of the integrity checks that make an evaluation unsound, taken from the document itself."""
    return _blocking(document, "failed")


def undecided_checks(document: Mapping[str, Any]) -> list[str]:
    """Names of the checks that had too few images to tell: nothing is wrong, but nothing is promoted."""
    return _blocking(document, "too_few")


def why_unsound(connection: Connection, training_id: str, manifest_digest: str) -> str | None:
    """What makes a training's evaluation on a manifest one that nobody can trust, as it is by now; None if nothing."""
    try:
        found = find_sealed(connection, training_id, manifest_digest)
    except AlteredEvaluationError as error:
        return str(error)
    return None if found is None else sentences_of(found.document, failed_checks(found.document)) or None


def sentences_of(document: Mapping[str, Any], names: Collection[str]) -> str:
    """What some checks found, in words."""
    return sentences(*(one["sentence"] for one in document["integrity"] if one["name"] in names))


# Checks that passed with a caution that a decision words itself, from what is known by then.
_WORDED_ANEW = frozenset({"leaks", "few_groups", "labels_changed"})


def cautions_of_checks(integrity: Iterable[Mapping[str, Any]]) -> list[str]:
    """What other checks found that passed with a caution, as cautions of a decision."""
    return [
        one["sentence"].rstrip(".")
        for one in integrity
        if one["status"] == "caution" and one["name"] not in _WORDED_ANEW
    ]


def unmade_checks(document: Mapping[str, Any]) -> list[str]:
    """Names of checks that every evaluation makes by now and this one, by an older version, did not."""
    if UNJOINED & set(failed_checks(document)):
        return []
    return sorted(REQUIRED_CHECKS - {one["name"] for one in document["integrity"]})


def _blocking(document: Mapping[str, Any], status: str) -> list[str]:
    return [one["name"] for one in document["integrity"] if one["is_blocking"] and one["status"] == status]


def find_difference(connection: Connection, training: Training, document: Mapping[str, Any]) -> str | None:
    """Why a document no longer matches its stored training; None if it does.

    The training's row, and the digests of the predictions that were evaluated: not of train, which folds score too.
    """
    said = document["training"]
    row = json.loads(json.dumps({name: getattr(training, name) for name in _OF_TRAINING}, default=list))
    if changed := [name for name in _OF_TRAINING if said.get(name) != row[name]]:
        return f"{', '.join(changed)} of training {training.training_id!r} changed after its evaluation"
    digest = document["manifest"]["digest"]
    sealed = {
        row.subset: row.sha256
        for row in connection.execute(
            text("""
                SELECT subset, sha256 FROM prediction_set
                WHERE training_id = :training_id AND manifest_digest = :digest AND subset <> 'train'
            """),
            {"training_id": training.training_id, "digest": digest},
        )
    }
    if sealed != document.get("predictions", {}):
        return f"the predictions of {training.training_id!r} on manifest {digest[:12]} are not those it evaluated"
    return None


_OF_TRAINING = ("recipe", "classes", "threshold", "model_sha256", "manifest_digest", "task", "variant")


def find_report(connection: Connection, name: str) -> str | None:
    """The key of the report of an evaluation, or of a training's on its own manifest; None if there is none."""
    found: str | None = connection.execute(
        text("""
            SELECT e.report_key FROM evaluation e JOIN training t USING (training_id)
            WHERE e.evaluation_id = :name OR (e.training_id = :name AND e.manifest_digest = t.manifest_digest) LIMIT 1
        """),
        {"name": name},
    ).scalar_one_or_none()
    return found


# What a fold of `held_out` learned is evaluated with the whole of it.
_IS_THERE = (
    f"status = 'finished' AND NOT {TRAINING_IS_PRUNED} AND NOT {TRAINING_IS_ARCHIVED} AND NOT {HOLDS_OUT}"
)

Waiting = tuple[str, str, list[str]]  # id of a training, its task, its classes


def list_unevaluated(connection: Connection) -> list[Waiting]:
    """Finished trainings, neither pruned nor archived, without an evaluation on their own manifest, oldest first."""
    return _waiting(
        connection,
        f"""
        SELECT training_id, task, classes FROM training t WHERE {_IS_THERE} AND NOT EXISTS (
            SELECT FROM evaluation e
            WHERE e.training_id = t.training_id AND e.manifest_digest = t.manifest_digest)
        ORDER BY finished_at
        """,  # noqa: S608 - our own words
    )


def list_not_judged(connection: Connection, cohort: str) -> list[tuple[str, str, str]]:
    """Trainings of whose own evaluations a cohort is part, but without a figure: id, why, and the key of the report."""
    rows = connection.execute(
        text(f"""
            SELECT training_id, c ->> 'reason', e.report_key
            FROM training t JOIN evaluation e USING (training_id, manifest_digest)
                CROSS JOIN jsonb_array_elements(e.document #> '{{other_data,cohorts}}') c
            WHERE {_IS_THERE} AND jsonb_typeof(e.document #> '{{other_data,cohorts}}') = 'array'
                AND c ->> 'name' = :cohort AND c ->> 'reason' IS NOT NULL
            ORDER BY finished_at
        """),  # noqa: S608 - our own words
        {"cohort": cohort},
    )
    return [(row[0], row[1], row[2]) for row in rows]


def list_unjudged(connection: Connection, cohort: str, tasks: Sequence[str]) -> list[Waiting]:
    """The same of some tasks whose own evaluation says nothing of a cohort, oldest first."""
    return _waiting(
        connection,
        f"""
        SELECT training_id, task, classes FROM training t
        WHERE {_IS_THERE} AND task = ANY(:tasks) AND NOT EXISTS (
            SELECT FROM evaluation e
            WHERE e.training_id = t.training_id AND e.manifest_digest = t.manifest_digest
                AND jsonb_path_exists(document, '$.other_data.cohorts[*] ? (@.name == $cohort)',
                                      jsonb_build_object('cohort', CAST(:cohort AS text))))
        ORDER BY finished_at
        """,  # noqa: S608 - our own words
        cohort=cohort,
        tasks=list(tasks),
    )


def _waiting(connection: Connection, query: str, **values: object) -> list[Waiting]:
    return [(row.training_id, row.task, row.classes) for row in connection.execute(text(query), values)]


def list_evaluated_ids(connection: Connection, task: str) -> set[str]:
    """Trainings of a task, neither pruned nor archived, with an evaluation on their own manifest."""
    return set(
        connection.execute(
            text(f"""
                SELECT training_id FROM training t JOIN evaluation e USING (training_id, manifest_digest)
                WHERE t.task = :task AND NOT {TRAINING_IS_PRUNED} AND NOT {TRAINING_IS_ARCHIVED} AND NOT {HOLDS_OUT}
            """),  # noqa: S608 - our own words
            {"task": task},
        ).scalars()
    )


def newest_since_promotion(connection: Connection, training_id: str) -> dict[str, Any] | None:
    """What the newest evaluation of a champion says of images that joined test after its promotion."""
    found: dict[str, Any] | None = connection.execute(
        text("""
            SELECT document -> 'since_promotion' FROM evaluation
            WHERE training_id = :training_id AND is_sound AND jsonb_typeof(document -> 'since_promotion') = 'object'
            ORDER BY evaluated_at DESC LIMIT 1
        """),
        {"training_id": training_id},
    ).scalar_one_or_none()
    return found


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A training that was tested: what of, by which assignment its test set was drawn, and its figure."""

    training_id: str
    finished_at: datetime
    assignment: str
    value: float
    marks: frozenset[str]  # by which it is the same as another: what it was made of, and its predictions
    same_as: str  # the first training with one of these; often itself


# Of a row of manifest: what decides which images are its task's test set.
_ASSIGNMENT = "concat_ws(' ', {0}.recipe #>> '{{task,salt}}', {0}.recipe #>> '{{task,test_share}}')"
# Of a row `t` of training, as _Look.marks: its predictions count if those of val and of test are there.
_MARKS = """array_remove(ARRAY[t.fingerprint, (
    SELECT string_agg(p.subset || ' ' || p.sha256, ' ' ORDER BY p.subset) FROM prediction_set p
    WHERE p.training_id = t.training_id AND p.manifest_digest = t.manifest_digest AND p.subset IN ('val', 'test')
    HAVING count(*) = 2)], NULL)"""


def earlier_figures(connection: Connection, training_id: str, measure: str) -> list[float]:
    """A measure of every training of the task that was tested on the same assignment before this one, by time."""
    one = connection.execute(
        text(f"""
            SELECT t.task, t.finished_at, {_ASSIGNMENT.format("m")} AS assignment, {_MARKS} AS marks
            FROM training t JOIN manifest m ON m.digest = t.manifest_digest
            WHERE t.training_id = :id AND m.held_out IS NULL
        """),  # noqa: S608 - our own words
        {"id": training_id},
    ).one_or_none()
    if one is None:
        return []
    looks = [look for look in _looks(connection, one.task, measure) if look.assignment == one.assignment]
    own = {look.same_as for look in looks if look.marks & set(one.marks)}
    earlier = [look for look in looks if look.finished_at < one.finished_at and look.same_as not in own]
    return list({look.same_as: look.value for look in earlier}.values())


@dataclass(frozen=True, kw_only=True)
class LooksAtOne:
    """The looks at the test sets of one assignment: what was looked at twice is one look."""

    figures: dict[str, float]  # of every training that differs from those before it, oldest first
    same_as: dict[str, str]  # every training -> the one in `figures` that it is the same as


def looks_by_assignment(connection: Connection, task: str, measure: str) -> list[LooksAtOne]:
    """A measure of every training of a task, for each assignment of images to test."""
    found: dict[str, LooksAtOne] = {}
    for look in _looks(connection, task, measure):
        looks = found.setdefault(look.assignment, LooksAtOne(figures={}, same_as={}))
        looks.same_as[look.training_id] = look.same_as
        looks.figures.setdefault(look.same_as, look.value)
    return list(found.values())


def _looks(connection: Connection, task: str, measure: str) -> list[_Look]:
    """The looks at a task's test sets, oldest first: sound evaluations on trainings' own manifests, with a figure."""
    rows = connection.execute(
        text(f"""
            SELECT t.training_id, t.finished_at, {_ASSIGNMENT.format("m")} AS assignment,
                   (e.test_figures -> :measure ->> 'value')::float8 AS value, {_MARKS} AS marks
            FROM training t JOIN manifest m ON m.digest = t.manifest_digest
            JOIN evaluation e ON (e.training_id, e.manifest_digest) = (t.training_id, t.manifest_digest)
            WHERE t.task = :task AND m.held_out IS NULL AND e.is_sound ORDER BY t.finished_at, t.training_id
        """),  # noqa: S608 - our own words
        {"task": task, "measure": measure},
    )
    found, first = [], dict[str, str]()
    for row in rows:
        if row.value is None:
            continue
        same_as = next((first[mark] for mark in row.marks if mark in first), row.training_id)
        for mark in row.marks:
            first.setdefault(mark, same_as)
        look = _Look(
            training_id=row.training_id,
            finished_at=row.finished_at,
            assignment=row.assignment,
            value=row.value,
            marks=frozenset(row.marks),
            same_as=same_as,
        )
        found.append(look)
    return found


def noted_best(connection: Connection, training_id: str) -> BestOfLooks | None:
    """What the evaluation of a training on its own manifest noted of the looks until then."""
    found = connection.execute(
        text("""
            SELECT e.document -> 'best_of_looks' FROM evaluation e JOIN training t USING (training_id, manifest_digest)
            WHERE t.training_id = :id
        """),
        {"id": training_id},
    ).scalar_one_or_none()
    return None if found is None else BestOfLooks.model_validate(found)


def open_test(connection: Connection, training_id: str, manifest_digest: str, why: str) -> int:
    """Count a look at a test set; returns how many trainings have looked at it in all.

    Evaluating a training again on the same test set reveals nothing new: its second look is not counted.
    """
    values = {"id": training_id, "digest": manifest_digest, "why": why}
    connection.execute(
        text("""
            INSERT INTO test_opening (training_id, manifest_digest, why)
            SELECT :id, :digest, :why WHERE NOT EXISTS (
                SELECT FROM test_opening WHERE training_id = :id AND manifest_digest = :digest AND why = :why)
        """),
        values,
    )
    return count_openings(connection, [manifest_digest])[manifest_digest]


def count_openings(connection: Connection, manifest_digests: Collection[str]) -> dict[str, int]:
    """How many trainings have looked at the test set of each manifest.

    A test set is that of all manifests of its task that draw it by the same assignment, whatever they train on and
    however it has grown since; that of a cohort, and of what is held out, is its own.
    """
    rows = connection.execute(
        text(f"""
            SELECT one.digest, count(DISTINCT o.training_id)
            FROM manifest one
                JOIN manifest m ON m.task = one.task AND m.cohort IS NOT DISTINCT FROM one.cohort
                    AND m.held_out IS NOT DISTINCT FROM one.held_out
                    AND {_ASSIGNMENT.format("m")} = {_ASSIGNMENT.format("one")}
                JOIN test_opening o ON o.manifest_digest = m.digest
            WHERE one.digest = ANY(:digests) GROUP BY 1
        """),  # noqa: S608 - our own words
        {"digests": list(manifest_digests)},
    )
    return dict.fromkeys(manifest_digests, 0) | {row[0]: row[1] for row in rows}
