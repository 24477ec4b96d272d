"""A training and the cohorts of its task -> how it does on other people's data, beside its own test set.

Each cohort is built and materialized where it has to be, and scored once. Images that the training's own data already
have, and those without metadata that the model cannot do without, are counted and left out; the others are measured.
"""

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from lesion_tasks.catalog import Cohort, InputSize, cohorts_of
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.catalog.lookup import find_cohort
from lesion_tasks.catalog.titles import label_inside
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.cohort_overlap import Shared, counted, find_overlaps
from lesion_tasks.evaluation.doubt import FittedDoubt
from lesion_tasks.evaluation.evaluation_record import AlteredEvaluationError, find_sealed, open_test
from lesion_tasks.evaluation.probing import facts_of, metadata_on_cohort
from lesion_tasks.evaluation.rescore import Again, another_order, by_id
from lesion_tasks.evaluation.run_checks import decode_again, judge_seals
from lesion_tasks.evaluation.subject import EvaluationSubject, find_subject
from lesion_tasks.evaluation.unjudged import unjudged_cohorts
from lesion_tasks.metrics.cohort_document import CohortDocument, OtherData, left_out_in_words
from lesion_tasks.metrics.counted import plural
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.pixels.picture_facts import FACTS
from lesion_tasks.reports.bundle import read_bundle
from lesion_tasks.splits.cohort_manifest import NoImageToJudgeError, build_cohort
from lesion_tasks.splits.manifest import find_manifest, read_manifest
from lesion_tasks.training.predictions import (
    AlteredPredictionsError,
    find_alteration,
    join_to_manifest,
    read_predictions,
    read_sealed_predictions,
    store_predictions,
)
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.scored import Scored
    from lesion_tasks.metrics.verdict import Verdict
    from lesion_tasks.training.examples import Examples

log = logging.getLogger(__name__)

N_IDS_NAMED = 20
# Pictures of each side whose facts are compared.
N_PICTURES = 2_000
_SEED = 7


def judge_on_cohorts(
    workspace: Workspace,
    doubt: FittedDoubt,
    test: "Scored",
    test_examples: "Examples",
    names: Sequence[str] | None = None,
) -> OtherData | None:
    """Evaluate a training, on its own manifest, on the named cohorts (None: all of its task).

    `doubt` has its model, and what tells where that does not know. Cohorts that are not named keep what an earlier
    evaluation found, unless they have changed since. None if no cohort judges the task.
    """
    from lesion_tasks.metrics.fairness import measure_fairness, pool

    subject = doubt.subject
    cohorts = cohorts_of(subject.task.name)
    for name in names or ():
        if subject.task.name not in find_cohort(name).tasks:
            log.warning("cohort %s does not judge %s: skipped", name, subject.task.name)
    if not cohorts:
        return None
    earlier = {} if names is None else _earlier(workspace, subject)
    documents = []
    samples = {"test": test}
    for cohort in cohorts:
        scored: Scored | None = None
        if names is None or cohort.name in names:
            document, scored = _judge_on(workspace, doubt, test, test_examples, cohort)
            documents.append(document)
        elif (known := earlier.get(cohort.name)) is not None:
            documents.append(known)
            if known.subset is not None and known.manifest_digest is not None:
                scored = _scored_before(workspace, subject, known.manifest_digest)
        if scored is not None:
            samples[cohort.name] = scored
    measure = leading_measure(subject.task.name)
    figures = {
        one.name: one.subset.figures[measure]
        for one in documents
        if one.subset is not None and measure in one.subset.figures
    }
    pooled = None
    if len(samples) > 1:
        with workspace.engine.connect() as connection:
            contents = _contents(connection, samples.values())
        together = pool(samples, contents)
        pooled = measure_fairness(
            together,
            subject.cut,
            sample="pooled",
            n_shared=sum(one.n_images for one in samples.values()) - together.n_images,
        )
    return OtherData(figures=figures, cohorts=documents, pooled=pooled)


def _contents(connection: Connection, samples: "Iterable[Scored]") -> dict[str, str]:
    """Image id -> the SHA-256 of its bytes, by which two data sets may have one picture under two names."""
    ids = [isic_id for one in samples for isic_id in one.isic_ids.tolist()]
    found = connection.execute(
        text("SELECT isic_id, sha256 FROM image WHERE isic_id = ANY(:ids)"), {"ids": ids}
    )
    return {row.isic_id: row.sha256 for row in found}


def _scored_before(workspace: Workspace, subject: EvaluationSubject, digest: str) -> "Scored | None":
    """What an earlier evaluation measured on a cohort's manifest; None if it was changed since."""
    on_cohort = find_subject(workspace.engine, workspace.bucket, subject.training.training_id, digest)
    with workspace.engine.connect() as connection:
        kept, _, _ = usable_rows(connection, subject.training, subject.rows, on_cohort.subset("test"))
        try:
            predictions = read_sealed_predictions(
                connection, subject.training.training_id, digest, "test", subject.task.classes
            )
        except AlteredPredictionsError as error:
            log.warning("not pooled: %s", error)
            return None
    return join_to_manifest(predictions, kept, subject.task)


def _earlier(workspace: Workspace, subject: EvaluationSubject) -> dict[str, CohortDocument]:
    with workspace.engine.connect() as connection:
        try:
            found = find_sealed(connection, subject.training.training_id, subject.manifest.digest)
        except AlteredEvaluationError as error:
            log.warning("%s", error)
            found = None
        if found is None:
            return {}
        unjudged = unjudged_cohorts(connection, subject.task.name, found.document)
    other = read_bundle(found.document).other_data
    return {one.name: one for one in other.cohorts if one.name not in unjudged} if other else {}


@dataclass(frozen=True, kw_only=True)
class ScoredCohort:
    """All images of a cohort, its scores once more, and how strange each picture is; None where not measured."""

    subject: EvaluationSubject
    examples: "Examples"
    again: Again
    strangeness: dict[str, float] | None


def score_cohort(workspace: Workspace, digest: str, doubt: FittedDoubt) -> ScoredCohort:
    """Materialize a cohort's manifest and score all of it, unless its scores are there as they were sealed.

    Those that are there are held against what comes out now.
    """
    from lesion_tasks.training.examples import load_examples

    training_id = doubt.subject.training.training_id
    subject = find_subject(workspace.engine, workspace.bucket, training_id, digest)
    recipe = subject.training.recipe
    size = InputSize.of_recipe(recipe)
    if size is not None:
        materialize_manifest(workspace, digest, size)
    classes = subject.task.classes
    rows = subject.subset("test")
    with workspace.engine.connect() as connection:
        examples = load_examples(
            connection,
            workspace.bucket,
            rows,
            classes=classes,
            input_size=size,
            metadata_fields=recipe["metadata"],
        )
        stored = read_predictions(connection, training_id, digest, "test", classes)
        is_altered = find_alteration(connection, training_id, digest, "test", stored) is not None
    some = another_order(len(examples))
    if is_altered or len(stored) != len(rows):
        predictions, strangeness = doubt.predict(examples)
        with workspace.engine.begin() as connection:
            store_predictions(connection, training_id, digest, "test", predictions)
        again = {
            "permuted": by_id(doubt.model.predict(examples, order=some)),
        }
    else:
        # All are looked at only to tell how strange they are.
        order = some if doubt.stored.novelty is None else another_order(len(examples), None)
        predictions, strangeness = doubt.predict(examples, order=order)
        again = {"permuted": by_id(predictions)}
    return ScoredCohort(subject=subject, examples=examples, again=again, strangeness=strangeness)


def usable_rows(
    connection: Connection, training: Training, own: "pd.DataFrame", rows: "pd.DataFrame"
) -> "tuple[pd.DataFrame, list[Shared], dict[str, int]]":
    """The rows of a cohort on which a training can be judged; what its own data have of the others; and what they lack.

    `own`: the rows of its own manifest. What they lack: the metadata that the model cannot do without -> images.
    """
    found = find_overlaps(connection, rows, own)
    kept = rows[~rows["isic_id"].isin([one.isic_id for one in found])]
    lacking = {}
    is_complete = kept["isic_id"].notna()
    for field in required_metadata(training.recipe["metadata"], own):
        is_missing = kept[_column(field)].isna()
        if is_missing.any():
            lacking[field] = int(is_missing.sum())
            is_complete &= ~is_missing
    return kept[is_complete], found, lacking


def not_judged_on(workspace: Workspace, training_id: str, digest: str) -> tuple[dict[str, str], str]:
    """The images of a cohort's manifest that an evaluation of a training would leave out, each with why; and in words.

    Raises `UnusableInputError` for a training that is not in the database or whose task has other classes by now.
    """
    subject = find_subject(workspace.engine, workspace.bucket, training_id)
    with workspace.engine.connect() as connection:
        rows = read_manifest(workspace.bucket, find_manifest(connection, digest).object_key)
        kept, shared, lacking = usable_rows(connection, subject.training, subject.rows, rows)
    unknown = _lacking_rows(rows, kept, shared, lacking)
    found = {one.isic_id: f"shares {one.kind} with {one.other_id} ({one.subset})" for one in shared}
    found |= {isic_id: f"{fields} unknown" for isic_id, fields in unknown}
    return found, left_out_in_words(counted(shared), len(unknown), list(lacking))


def required_metadata(fields: Sequence[str], own: "pd.DataFrame") -> list[str]:
    """The metadata that a model cannot do without: no train row lacked them, so it never learned what that means.

    `fields`: what it asks for. `own`: the rows of its own manifest.
    """
    train = own[own["subset"] == "train"]
    return [field for field in fields if train[_column(field)].notna().all()]


def _column(field: str) -> str:
    return "sex" if field == "is_male" else field


def _judge_on(
    workspace: Workspace,
    doubt: FittedDoubt,
    test: "Scored",
    test_examples: "Examples",
    cohort: Cohort,
) -> "tuple[CohortDocument, Scored | None]":
    """What there is to say of one cohort, and the images that were measured; None if none was."""
    subject = doubt.subject
    engine, training = workspace.engine, subject.training
    try:
        digest = build_cohort(workspace, cohort.name, subject.task.name)
    except NoImageToJudgeError as error:
        log.warning("%s", error)
        unknown = CohortDocument(
            name=cohort.name, title=cohort.title, manifest_digest=None, n_openings=0, reason=str(error)
        )
        return unknown, None
    judged = score_cohort(workspace, digest, doubt)
    on_cohort, examples = judged.subject, judged.examples
    rows = on_cohort.subset("test")
    with engine.connect() as connection:
        kept, shared, lacking = usable_rows(connection, training, subject.rows, rows)
        predictions = read_predictions(connection, training.training_id, digest, "test", subject.task.classes)
        other_scales = _other_scales(connection, kept)
    # Beside the report, whose page names it where it has a row.
    workspace.bucket.put(
        f"{subject.folder}/overlap-{cohort.name}.csv",
        taken_out_table(shared, _lacking_rows(rows, kept, shared, lacking)),
        content_type="text/csv; charset=utf-8",
    )
    with engine.begin() as connection:
        n_openings = open_test(connection, training.training_id, digest, "cohort")
    known = CohortDocument(
        name=cohort.name,
        title=cohort.title,
        manifest_digest=digest,
        n_images=len(rows),
        overlaps=counted(shared),
        overlapping_ids=[one.isic_id for one in shared[:N_IDS_NAMED]],
        n_lacking=len(rows) - len(shared) - len(kept),
        lacking=list(lacking),
        remarks=[*_remarks(subject, cohort, kept), *other_scales],
        n_openings=n_openings,
    )
    if shared:
        log.warning(
            "cohort %s: %d of %d images taken out, which %s already has", cohort.name, len(shared), len(rows),
            training.training_id,
        )  # fmt: skip
    if known.n_lacking:
        fields = " or ".join(map(label_inside, lacking))
        log.warning(
            "cohort %s: %d of %d images left out, %s unknown, which all images have from which %s learned",
            cohort.name, known.n_lacking, len(rows), fields, training.training_id,
        )  # fmt: skip
    if not len(kept):
        return known.model_copy(update={"reason": _why_nothing(subject, rows, shared, lacking)}), None
    verdicts = _checks(workspace, judged, predictions)
    if any(verdict.is_failure for verdict in verdicts):
        reason = next(verdict.sentence for verdict in verdicts if verdict.is_failure)
        published = [verdict.as_dict() for verdict in verdicts]
        untrusted = CohortDocument.model_validate(
            {**known.model_dump(), "integrity": published, "reason": f"not to be trusted: {reason}"}
        )
        return untrusted, None
    scored = join_to_manifest(predictions, kept, subject.task)
    found = _measured(
        workspace,
        subject=subject,
        known=known,
        verdicts=verdicts,
        test=test,
        scored=scored,
        kept=kept,
        test_examples=test_examples,
        examples=examples,
    )
    return found.model_copy(update={"doubt": doubt.figures(scored, judged.strangeness)}), scored


def _why_nothing(
    subject: EvaluationSubject, rows: "pd.DataFrame", shared: Sequence[Shared], lacking: dict[str, int]
) -> str:
    if lacking:
        fields = ", ".join(map(label_inside, lacking))
        return (
            f"{subject.training.training_id} cannot do without {fields}, which all of its train images have and none "
            "of the remaining images of the cohort"
        )
    return (
        f"all {len(rows):,} images are taken out, since {subject.training.training_id} already has {len(shared):,} of "
        "them: build its split and train again"
    )


# Scales of skin tone that no figure uses: they are not converted into Fitzpatrick types.
OTHER_SCALES = {
    "monk_skin_tone": "Monk's skin tone",
    "fitzpatrick_skin_type_group": "a group of two Fitzpatrick skin types",
}


def _other_scales(connection: Connection, rows: "pd.DataFrame") -> list[str]:
    """What records of these images say of skin tone on other scales, which stands in no table."""
    query = text("""
        SELECT field, count(*) AS n
        FROM image i
        JOIN record_version v ON v.isic_id = i.isic_id AND v.version = i.record_version
        CROSS JOIN unnest(cast(:fields AS text[])) AS field
        WHERE i.isic_id = ANY(:ids) AND v.document #>> ARRAY['metadata', 'clinical', field] IS NOT NULL
        GROUP BY field
    """)
    found = connection.execute(query, {"fields": list(OTHER_SCALES), "ids": rows["isic_id"].tolist()})
    counts = {row.field: row.n for row in found}
    return [
        f"Of {plural(counts[field], 'image')} {name} is known: another scale, which is not converted and in no "
        "figure."
        for field, name in OTHER_SCALES.items()
        if field in counts
    ]


def _remarks(subject: EvaluationSubject, cohort: Cohort, kept: "pd.DataFrame") -> list[str]:
    """What a reader should know about metadata that a cohort lacks."""
    recipe = subject.training.recipe
    found = [
        f"The {label_inside(field)} of every image of the cohort is unknown: a missing value to the model, as in some "
        "of its train images."
        for field in recipe["metadata"]
        if len(kept) and kept[_column(field)].isna().all()
    ]
    if recipe["side_px"] is None and len(found) == len(recipe["metadata"]):
        found.append("The model sees nothing else, so it gives every image the same answer.")
    return found


def _lacking_rows(
    rows: "pd.DataFrame", kept: "pd.DataFrame", shared: Sequence[Shared], lacking: dict[str, int]
) -> list[tuple[str, str]]:
    """Each image that is left out for what it lacks, with the names of that."""
    left = rows[~rows["isic_id"].isin([*kept["isic_id"], *(one.isic_id for one in shared)])]
    missing = {field: left[_column(field)].isna().to_numpy() for field in lacking}
    return [
        (isic_id, ", ".join(label_inside(field) for field, is_missing in missing.items() if is_missing[i]))
        for i, isic_id in enumerate(left["isic_id"])
    ]


def taken_out_table(shared: Sequence[Shared], lacking: Sequence[tuple[str, str]]) -> bytes:
    """Every image that is taken out, by name, as CSV: what it shares, or what is unknown of it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["isic_id", "shares", "with", "other_isic_id", "unknown"])
    writer.writerows([one.isic_id, one.kind, one.subset, one.other_id, ""] for one in shared)
    writer.writerows([isic_id, "", "", "", fields] for isic_id, fields in lacking)
    return buffer.getvalue().encode()


def _checks(workspace: Workspace, judged: ScoredCohort, predictions: "pd.DataFrame") -> "list[Verdict]":
    """Whether these are the model's predictions of these images. That it is bad on them is a finding, not a fault."""
    from lesion_tasks.metrics import integrity

    subject = judged.subject
    ids = integrity.ids_differ(predictions.index, subject.subset("test")["isic_id"])
    if ids.is_failure:
        return [ids]
    return [
        ids,
        judge_seals(workspace.engine, subject, {"test": predictions}),
        integrity.serving_differs(by_id(predictions), judged.again),
        integrity.pixels_differ(*decode_again(workspace.bucket, subject, {"test": judged.examples}, "test")),
    ]


def _measured(
    workspace: Workspace,
    *,
    subject: EvaluationSubject,
    known: CohortDocument,
    verdicts: "list[Verdict]",
    test: "Scored",
    scored: "Scored",
    kept: "pd.DataFrame",
    test_examples: "Examples",
    examples: "Examples",
) -> CohortDocument:
    from lesion_tasks.metrics.case_mix import case_mix, reweight
    from lesion_tasks.metrics.diagnoses import by_diagnosis
    from lesion_tasks.metrics.document import evaluation_document
    from lesion_tasks.metrics.fairness import measure_fairness
    from lesion_tasks.metrics.fall import measure_fall, threshold_falls
    from lesion_tasks.metrics.integrity import few_groups
    from lesion_tasks.metrics.known_identities import count_known
    from lesion_tasks.metrics.recalibrate import recalibrate

    with workspace.engine.connect() as connection:
        test_rows = _in_order(connection, subject.subset("test"), test)
        rows = _in_order(connection, kept, scored)
    fall = measure_fall(test, scored)
    facts = [f"picture_{name}" for name in FACTS] if examples.pixels is not None else []
    cut = subject.cut
    published = [verdict.as_dict() for verdict in [*verdicts, few_groups(scored, count_known(kept))]]
    return CohortDocument.model_validate(
        {
            **known.model_dump(),
            "integrity": published,
            "subset": evaluation_document(
                scored,
                threshold=subject.threshold,
                subset=known.name,
                training_id=subject.training.training_id,
            ),
            "fall": fall,
            "at_threshold": threshold_falls(test, scored, cut),
            "metadata_baseline": metadata_on_cohort(subject, scored, kept),
            "case_mix": case_mix(_with_facts(test_rows, test_examples), _with_facts(rows, examples), facts),
            "reweighting": reweight(test, scored, test_rows, rows, fall),
            "recalibration": recalibrate(scored),
            "fairness": measure_fairness(scored, cut, sample=known.name),
            "diagnoses": by_diagnosis(
                test,
                scored,
                test_rows["diagnosis"].to_numpy(dtype=object),
                rows["diagnosis"].to_numpy(dtype=object),
                test_kinds=test_rows["diagnosis_kind"].to_numpy(dtype=object),
                cohort_kinds=rows["diagnosis_kind"].to_numpy(dtype=object),
                threshold=cut,
            ),
        }
    )


def _in_order(connection: Connection, rows: "pd.DataFrame", scored: "Scored") -> "pd.DataFrame":
    """The manifest's rows in the order of the scored images, with the diagnosis of each as the database has it."""
    found = connection.execute(
        text("SELECT isic_id, diagnosis FROM image WHERE isic_id = ANY(:ids)"),
        {"ids": rows["isic_id"].tolist()},
    )
    paths = {row.isic_id: row.diagnosis for row in found if row.diagnosis}
    ordered = rows.set_index("isic_id").loc[scored.isic_ids].reset_index()

    def level(n: int) -> "pd.Series":
        named = {isic_id: path[:n][-1] for isic_id, path in paths.items()}
        return ordered["isic_id"].map(named).fillna(ordered["label"])

    # The third level names the disease, the second its kind, which data sets with finer or coarser names share.
    return ordered.assign(diagnosis=level(3), diagnosis_kind=level(2))


def _with_facts(rows: "pd.DataFrame", examples: "Examples") -> "pd.DataFrame":
    """The rows with facts about their pictures; of many, only of some."""
    import numpy as np
    import pandas as pd

    if examples.pixels is None:
        return rows
    wanted = set(rows["isic_id"])
    here = np.flatnonzero([isic_id in wanted for isic_id in examples.isic_ids])
    here = np.sort(np.random.default_rng(_SEED).permutation(here)[:N_PICTURES])
    facts = pd.DataFrame(
        facts_of(examples.pixels, here),
        index=examples.isic_ids[here],
        columns=[f"picture_{name}" for name in FACTS],
    )
    return rows.join(facts, on="isic_id")
