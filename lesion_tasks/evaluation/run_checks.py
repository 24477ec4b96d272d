"""Stored predictions, the stored model and the manifest -> every integrity verdict of one evaluation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from lesion_tasks.curation.copies import picture_numbers
from lesion_tasks.evaluation.subject import EvaluationSubject, random_weight_baseline
from lesion_tasks.training.predictions import join_to_manifest, read_predictions

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from lesion_tasks.metrics.scored import Scored
    from lesion_tasks.metrics.verdict import Verdict
    from lesion_tasks.training.examples import Examples

# How much is scored again to see that the stored model serves what was measured.
N_ALONE = 16
N_PERMUTED = 512
_SEED = 7


def judge(
    engine: Engine,
    subject: EvaluationSubject,
    scored: "Mapping[str, Scored]",
    stored: "Mapping[str, pd.DataFrame]",
    model: "keras.Model",
    examples: "Mapping[str, Examples]",
) -> "list[Verdict]":
    """Run every check on a joined evaluation. `scored` has `test_natural` and `val`; `stored` has `test`."""
    from lesion_tasks.metrics import integrity
    from lesion_tasks.metrics.document import confusion_counts
    from lesion_tasks.metrics.leaks import leaks
    from lesion_tasks.metrics.probes import fit_probes
    from lesion_tasks.metrics.shortcut import shortcut

    test = scored["test_natural"]
    threshold = subject.training.threshold
    # Of another manifest's rows the trainer has measured nothing.
    trainer = (subject.training.trainer_figures or {}) if subject.is_own_manifest else {}
    recipe = subject.training.recipe
    probes = fit_probes(
        subject.subset("train"),
        subject.subset("test"),
        class_names=subject.task.classes,
        positive_class=subject.task.positive,
    )
    # A model of metadata is meant to know them, and which of them are missing.
    own_inputs = ("metadata", "missing_values") if recipe["metadata"] else ()
    return [
        integrity.independent_of_labels(
            test, threshold=threshold, trainer_auc=trainer.get("test", {}).get("auc")
        ),
        integrity.inverted(test),
        integrity.marginals_differ(
            confusion_counts(test, threshold), subject.task.classes, subject.manifest.class_counts["test"]
        ),
        integrity.degenerate(test, threshold=threshold),
        integrity.serving_differs(_by_id(stored["test"]), rescore(subject, model, examples["test"])),
        leaks(_identities(engine, subject)),
        shortcut(test, probes, own_inputs=own_inputs),
        integrity.no_better_than_random_weights(test, _baseline(engine, subject)),
        integrity.gap(scored["val"], test),
    ]


def rescore(subject: EvaluationSubject, model: "keras.Model", test: "Examples") -> dict[str, dict[str, Any]]:
    """Score again with the model loaded afresh: every test image in batches, some permuted, some alone."""
    import numpy as np

    from lesion_tasks.training.predict_examples import predict_examples

    classes = subject.task.classes
    shuffled = np.random.default_rng(_SEED).permutation(len(test))
    ways = {
        "in batches": predict_examples(model, test, classes=classes),
        "permuted": predict_examples(model, test, classes=classes, order=shuffled[:N_PERMUTED]),
        "alone": predict_examples(model, test, classes=classes, order=shuffled[:N_ALONE], batch_images=1),
    }
    return {way: _by_id(frame) for way, frame in ways.items()}


def _by_id(frame: "pd.DataFrame") -> dict[str, Any]:
    return dict(zip(frame.index, frame.to_numpy(), strict=True))


def _identities(engine: Engine, subject: EvaluationSubject) -> "dict[str, pd.DataFrame]":
    """Patient, lesion, bytes and picture of every row, by subset.

    In the place of the bare perceptual hash stands the number of the picture: copies share one, and look-alikes
    with the same hash do not.
    """
    rows = subject.rows
    with engine.connect() as connection:
        pictures = picture_numbers(connection, rows["sha256"].tolist())
    identified = rows[["subset", "patient_id", "lesion_id", "sha256"]].assign(perceptual_hash=pictures)
    return {str(subset): part for subset, part in identified.groupby("subset")}


def _baseline(engine: Engine, subject: EvaluationSubject) -> "Scored | None":
    with engine.connect() as connection:
        training_id = random_weight_baseline(connection, subject)
        if training_id is None:
            return None
        predictions = read_predictions(
            connection, training_id, subject.manifest.digest, "test", subject.task.classes
        )
    return join_to_manifest(predictions, subject.subset("test"), subject.task)
