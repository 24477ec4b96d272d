"""A training -> a report bundle in the bucket and a verdict in Postgres.

Reads the stored predictions by key, loads the stored model and scores again, runs every integrity check, measures
every figure, and writes `reports/<training_id>/`, then one evaluation row, then the index. Running it again writes the
same files and the same row.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import InputSize
from lesion_tasks.catalog.gates import figures_to_judge, leading_measure, standing
from lesion_tasks.catalog.lookup import ChangedQuestionError, find_cohort, question_of
from lesion_tasks.catalog.titles import label_inside
from lesion_tasks.evaluation import evaluation_record
from lesion_tasks.evaluation.comparison import NoComparisonError, compare_models
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.doubt import store_doubt, why_nothing_is_strange
from lesion_tasks.evaluation.evaluation_record import cautions_of_checks, open_test, record_evaluation
from lesion_tasks.evaluation.find_suspects import cautions_about_test
from lesion_tasks.evaluation.lesions import lesion_figures
from lesion_tasks.evaluation.loaded_model import LoadedModel
from lesion_tasks.evaluation.looks_at_test import best_of_looks, since_promotion
from lesion_tasks.evaluation.other_data import judge_on_cohorts
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.evaluation.rescore import Rescored, predict_val, rescore
from lesion_tasks.evaluation.run_checks import judge, judge_ids, judge_seals
from lesion_tasks.evaluation.subject import (
    EvaluationSubject,
    data_changes,
    data_facts,
    epochs,
    find_subject,
    identities_of,
    manifest_facts,
    training_facts,
)
from lesion_tasks.metrics.cohort_document import OtherData
from lesion_tasks.metrics.comparison_document import Comparison
from lesion_tasks.metrics.document_schema import PublishedVerdict, SubsetDocument
from lesion_tasks.metrics.fairness_document import Fairness
from lesion_tasks.metrics.known_identities import Identities
from lesion_tasks.metrics.one_thread import one_thread_each
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.progress import progress
from lesion_tasks.reports.answers import on_cohorts
from lesion_tasks.reports.bundle import Bundle, Example, Standing
from lesion_tasks.reports.words import untold
from lesion_tasks.scratch import scratch_file
from lesion_tasks.training.predictions import (
    digest_of_predictions,
    join_to_manifest,
    read_predictions,
    store_predictions,
)
from lesion_tasks.training.quiet_start import import_tensorflow
from lesion_tasks.training.run_record import read_model
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.scored import Scored
    from lesion_tasks.metrics.verdict import Verdict
    from lesion_tasks.training.examples import Examples

log = logging.getLogger(__name__)


@one_thread_each()
def evaluate_training(
    workspace: Workspace,
    training_id: str,
    *,
    manifest_digest: str | None = None,
    cohorts: Sequence[str] | None = None,
) -> str:
    """Evaluate a finished training on its own manifest, or on another one of its task; returns the evaluation id.

    On its own, it is judged on every cohort of its task too, or on those named in `cohorts`. A training from which
    something was held out has other data as its test set, and is judged on nothing else.
    """
    engine = workspace.engine
    bucket = workspace.bucket
    subject = find_subject(engine, bucket, training_id, manifest_digest)
    if subject.manifest.cohort is not None:
        # Its figures stand in the training's own evaluation.
        return evaluate_training(workspace, training_id, cohorts=[subject.manifest.cohort])
    size = InputSize.of_recipe(subject.training.recipe)
    if not subject.is_own_manifest and size is not None:
        # The training for which this manifest was made may use another input size, or no pictures.
        materialize_manifest(workspace, subject.manifest.digest, size)
    with progress(f"evaluate {training_id}", total=4) as advance:
        model = _load_model(bucket, subject)
        examples = _load_examples(engine, bucket, subject)
        _ensure_predictions(engine, bucket, subject, model, examples)
        advance(1, "predictions")
        stored = _stored_frames(engine, subject)
        bundle = _measure(workspace, subject, model, examples, stored, cohorts)
        advance(1, "figures")
        _store_bundle(bucket, subject, bundle, stored)
        advance(1, "report")
        _record(engine, subject, bundle)
        publish(workspace)
        advance(1, "index")
    log.info("%s: %s", training_id, bundle.verdict)
    for title, words in on_cohorts(bundle):
        log.info("%s on other data, %s: %s", training_id, title, words)
    log.info("report: %s/%s", workspace.settings.bucket_url.rstrip("/"), report_key(subject))
    return subject.evaluation_id


def report_key(subject: EvaluationSubject) -> str:
    """The object of the report that people read."""
    return f"{subject.folder}/report.html"


def choose_trainings(workspace: Workspace, cohorts: Sequence[str] | None = None) -> list[str]:
    """What to evaluate where nobody names trainings: those without an evaluation, or without one of these cohorts."""
    if not cohorts:
        return list_unevaluated(workspace)
    return list(dict.fromkeys(one for name in cohorts for one in list_unjudged(workspace, name)))


def list_unevaluated(workspace: Workspace) -> list[str]:
    """Finished trainings without an evaluation on their own manifest, oldest first.

    Without those whose task is not in the catalogue, or asks something else by now: a line of the log names each.
    """
    with workspace.engine.connect() as connection:
        return _answerable(evaluation_record.list_unevaluated(connection))


def list_unjudged(workspace: Workspace, cohort: str) -> list[str]:
    """The same for those whose evaluation says nothing of a cohort that judges their task."""
    tasks = find_cohort(cohort).tasks
    with workspace.engine.connect() as connection:
        return _answerable(evaluation_record.list_unjudged(connection, cohort, tasks))


def _answerable(waiting: Sequence[evaluation_record.Waiting]) -> list[str]:
    found = []
    for training_id, task, classes in waiting:
        try:
            question_of(training_id, task, classes)
            found.append(training_id)
        except ChangedQuestionError as error:
            log.warning("not evaluated: %s", error)
    return found


def _load_model(bucket: Bucket, subject: EvaluationSubject) -> LoadedModel:
    import_tensorflow()
    from lesion_tasks.training.loop import load_model

    return LoadedModel(
        keras_model=load_model(read_model(bucket, subject.training)),
        classes=subject.task.classes,
        tells_features=subject.is_own_manifest and why_nothing_is_strange(subject) is None,
    )


def _load_examples(engine: Engine, bucket: Bucket, subject: EvaluationSubject) -> "dict[str, Examples]":
    from lesion_tasks.training.examples import load_examples

    recipe = subject.training.recipe
    with engine.connect() as connection:
        return {
            subset: load_examples(
                connection,
                bucket,
                subject.subset(subset),
                classes=subject.task.classes,
                input_size=InputSize.of_recipe(recipe),
                metadata_fields=recipe["metadata"],
            )
            for subset in ("val", "test")
        }


def _ensure_predictions(
    engine: Engine,
    bucket: Bucket,
    subject: EvaluationSubject,
    model: LoadedModel,
    examples: "dict[str, Examples]",
) -> None:
    """On a manifest other than its own, a training has no predictions yet: score its subsets once."""
    if subject.is_own_manifest:
        return
    scored = {
        "test": model.predict(examples["test"]),
        "val": predict_val(engine, bucket, subject, model, examples["val"]),
    }
    for subset, predictions in scored.items():
        with engine.begin() as connection:
            store_predictions(
                connection, subject.training.training_id, subject.manifest.digest, subset, predictions
            )


def _stored_frames(engine: Engine, subject: EvaluationSubject) -> "dict[str, pd.DataFrame]":
    with engine.connect() as connection:
        return {
            subset: read_predictions(
                connection,
                subject.training.training_id,
                subject.manifest.digest,
                subset,
                subject.task.classes,
            )
            for subset in ("val", "test")
        }


def _measure(
    workspace: Workspace,
    subject: EvaluationSubject,
    model: LoadedModel,
    examples: "dict[str, Examples]",
    stored: "dict[str, pd.DataFrame]",
    cohorts: Sequence[str] | None,
) -> Bundle:
    """Everything that is known about this training on this manifest."""
    from lesion_tasks.metrics.document import evaluation_document

    engine, bucket = workspace.engine, workspace.bucket
    verdicts = judge_ids(subject, stored)
    scored: dict[str, Scored] = {}
    again: Rescored | None = None
    if not any(verdict.blocks for verdict in verdicts):
        scored = {
            "test_natural": join_to_manifest(stored["test"], subject.subset("test"), subject.task),
            "test_balanced": join_to_manifest(stored["test"], subject.subset("test_balanced"), subject.task),
            "val": join_to_manifest(stored["val"], subject.subset("val"), subject.task),
        }
        verdicts.append(judge_seals(engine, subject, stored))
        again = rescore(engine, bucket, subject, model, scored["val"], examples)
        verdicts += judge(
            engine,
            bucket=bucket,
            subject=subject,
            scored=scored,
            stored=stored,
            again=again,
            examples=examples,
        )
    documents = {
        name: evaluation_document(
            some, threshold=subject.threshold, subset=name, training_id=subject.training.training_id
        )
        for name, some in scored.items()
    }
    other_data, doubt = None, None
    test = scored.get("test_natural")
    if test is not None and again is not None and again.doubt is not None:
        doubt = store_doubt(bucket, again.doubt, again.doubt.figures(test, again.strangeness))
        if subject.manifest.held_out is None:
            other_data = judge_on_cohorts(workspace, again.doubt, test, examples["test"], cohorts)
    comparison = _comparison(engine, bucket, subject) if scored else None
    identities = identities_of(subject)
    failed = [verdict.name for verdict in verdicts if verdict.is_failure]
    with engine.connect() as connection:
        best = best_of_looks(connection, subject, test) if test else None
        fresh = since_promotion(connection, bucket, subject, test) if test else None
    return Bundle(
        evaluation_id=subject.evaluation_id,
        evaluated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        is_sound=not failed,
        failed_checks=failed,
        undecided_checks=[verdict.name for verdict in verdicts if verdict.is_undecided],
        verdict=_sentence(subject, documents, verdicts, identities),
        training=training_facts(subject),
        manifest=manifest_facts(subject),
        integrity=[PublishedVerdict.model_validate(verdict.as_dict()) for verdict in verdicts],
        predictions={subset: digest_of_predictions(frame) for subset, frame in stored.items()},
        subsets=documents,
        identities=identities,
        fairness=_fairness(subject, test) if test else None,
        other_data=other_data,
        doubt=doubt,
        best_of_looks=best,
        since_promotion=fresh,
        lesions=lesion_figures(subject, test) if test else None,
        epochs=epochs(engine, subject),
        comparison=comparison,
        promotion=_standing(
            engine,
            subject=subject,
            documents=documents,
            comparison=comparison,
            other_data=other_data,
            identities=identities,
            verdicts=verdicts,
        ),
        data_changes=data_changes(engine, bucket, subject),
        data=data_facts(subject),
        examples=_examples(subject, model, examples, stored) if scored else [],
        n_test_openings=_open_test(engine, subject),
    )


def _fairness(subject: EvaluationSubject, test: "Scored") -> Fairness:
    from lesion_tasks.metrics.fairness import measure_fairness

    return measure_fairness(test, subject.cut, sample="test")


def _standing(
    engine: Engine,
    *,
    subject: EvaluationSubject,
    documents: Mapping[str, SubsetDocument],
    comparison: Comparison | None,
    other_data: OtherData | None,
    identities: Identities,
    verdicts: "list[Verdict]",
) -> Standing | None:
    """What the gates say; None on a manifest other than its own, and for predictions that could not be joined."""
    if not documents or not subject.is_own_manifest:
        return None
    figures = figures_to_judge(documents["test_natural"].model_dump())
    said = standing(
        subject.task.name,
        figures,
        comparison.model_dump() if comparison else None,
        other_data.model_dump() if other_data else None,
    )
    with engine.connect() as connection:
        said["cautions"] += cautions_about_test(connection, subject.manifest)
    said["cautions"] += cautions_of_checks(verdict.as_dict() for verdict in verdicts)
    if (unknown := identities.unknown) is not None:
        said["cautions"].append(unknown.caution)
    return Standing.model_validate(said)


def _examples(
    subject: EvaluationSubject,
    model: LoadedModel,
    examples: "dict[str, Examples]",
    stored: "Mapping[str, pd.DataFrame]",
) -> list[Example]:
    from lesion_tasks.evaluation.heatmaps import confident_examples

    labels = subject.subset("test").set_index("isic_id")["label"]
    return confident_examples(model.keras_model, examples["test"], stored["test"], labels)


def _sentence(
    subject: EvaluationSubject,
    documents: Mapping[str, SubsetDocument],
    verdicts: "list[Verdict]",
    identities: Identities,
) -> str:
    if failed := [verdict for verdict in verdicts if verdict.is_failure]:
        return f"Not to be trusted: {failed[0].sentence}"
    undecided = [untold(verdict.name) for verdict in verdicts if verdict.is_undecided]
    doubts = [f"too few images to tell {', or '.join(undecided)}"] if undecided else []
    if (unknown := identities.unknown) is not None:
        doubts.append(unknown.in_short)
    checked = f"No check failed, but {', and '.join(doubts)}" if doubts else "No check failed"
    measure = leading_measure(subject.task.name)
    figure = documents["test_natural"].figures[measure]
    if figure.value is None:
        return f"{checked}; {label_inside(measure)} is undefined: {figure.reason}"
    interval = (
        f"no interval: {figure.interval_reason}"
        if figure.low is None or figure.high is None
        else f"95 % interval {figure.low:.3f} to {figure.high:.3f}"
    )
    return (
        f"{checked}; {label_inside(measure)} {figure.value:.3f} "
        f"({interval}) on {figure.n_images:,} test images."
    )


def _comparison(engine: Engine, bucket: Bucket, subject: EvaluationSubject) -> Comparison | None:
    """The comparison with the current champion on the same test rows, if the champion has scored them."""
    if not subject.is_own_manifest or subject.manifest.held_out is not None:
        return None
    with engine.connect() as connection:
        champion = champion_of(connection, subject.task.name)
        if champion is None or champion.training.training_id == subject.training.training_id:
            return None
        try:
            return compare_models(connection, bucket, subject.training, champion.training)
        except NoComparisonError as error:
            # What is being evaluated has no evaluation yet: nothing that anybody could do about it.
            if getattr(error, "training_id", None) != subject.training.training_id:
                log.info("no comparison with the champion: %s", error)
            return None


def _open_test(engine: Engine, subject: EvaluationSubject) -> int:
    """Count this look at the test set; returns how many trainings have looked at it in all."""
    why = "evaluation" if subject.is_own_manifest else "comparison with a candidate"
    with engine.begin() as connection:
        return open_test(connection, subject.training.training_id, subject.manifest.digest, why)


def _store_bundle(
    bucket: Bucket, subject: EvaluationSubject, bundle: Bundle, predictions: "dict[str, pd.DataFrame]"
) -> None:
    import pandas as pd

    from lesion_tasks.reports.page import render_bundle

    files = render_bundle(bundle)
    keyed = pd.concat([frame.assign(subset=subset) for subset, frame in predictions.items()])
    with scratch_file("predictions.parquet") as path:
        keyed.to_parquet(path)
        bucket.put_file(f"{subject.folder}/predictions.parquet", path)
    # The page last: once it exists, everything that it points to exists.
    for name in sorted(files, key=lambda name: name == "report.html"):
        data, content_type = files[name]
        bucket.put(f"{subject.folder}/{name}", data, content_type=content_type)


def _record(engine: Engine, subject: EvaluationSubject, bundle: Bundle) -> None:
    with engine.begin() as connection:
        record_evaluation(
            connection,
            subject.evaluation_id,
            bundle.model_dump(),
            report_key=report_key(subject),
        )
