"""The stored model and the pictures of val and test -> its scores once more, and what it sees, in one look at each.

What a training stored must come out again, by the graph that serves, with the rows in another order and some of them
alone. The same look tells how strange each picture is, for which val is asked first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from lesion_tasks.bucket import Bucket
from lesion_tasks.evaluation.doubt import MAX_FITTED, FittedDoubt, fit_doubt
from lesion_tasks.evaluation.loaded_model import LoadedModel
from lesion_tasks.evaluation.subject import EvaluationSubject
from lesion_tasks.splits.manifest import find_manifest, read_manifest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lesion_tasks.metrics.scored import Scored
    from lesion_tasks.training.examples import Examples

N_ALONE = 16  # images that are scored again one by one
# Of a cohort; of val, most sets are scored again whole, of larger ones as many as doubt is fitted on, or this many.
N_SOME = 2_048
_SEED = 7

# A way of scoring again, such as `permuted` -> image id -> probabilities (K,).
Again = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """The scores of val and test as they come out now, and where the model does not know; None where not asked."""

    val: Again
    test: Again
    doubt: FittedDoubt | None = None
    strangeness: Mapping[str, float] | None = field(default=None, repr=False)  # of the test images


def rescore(
    engine: Engine,
    bucket: Bucket,
    subject: EvaluationSubject,
    model: LoadedModel,
    val: "Scored",
    examples: "Mapping[str, Examples]",
) -> Rescored:
    """Score val and test again. Doubt is fitted on the manifest that the training learned from, and on no other."""
    doubt, strangeness = None, None
    order = another_order(len(examples["test"]), None)
    if subject.is_own_manifest:
        doubt, of_val = _ask_val(engine, bucket, subject, model, val, examples["val"])
        of_test, strangeness = doubt.predict(examples["test"], order=order)
    else:
        some = another_order(len(examples["val"]))
        of_val = predict_val(engine, bucket, subject, model, examples["val"], order=some)
        of_test = model.predict(examples["test"], order=order)
    alone = model.predict(
        examples["test"], order=another_order(len(examples["test"]), N_ALONE), batch_images=1
    )
    return Rescored(
        val={"permuted": by_id(of_val)},
        test={"permuted": by_id(of_test), "alone": by_id(alone)},
        doubt=doubt,
        strangeness=strangeness,
    )


def _ask_val(
    engine: Engine,
    bucket: Bucket,
    subject: EvaluationSubject,
    model: LoadedModel,
    val: "Scored",
    examples: "Examples",
) -> "tuple[FittedDoubt, pd.DataFrame]":
    """What is fitted on val, and the scores of val that the training is judged by."""
    import numpy as np

    rows = another_order(len(examples), MAX_FITTED if model.tells_features else N_SOME)
    seen: list[list[np.ndarray]] = []
    if not subject.training.recipe.get("n_folds"):
        said = model.predict(examples, order=rows, see=seen.append)
    else:
        # What the whole model sees of val is one thing, what its members say out of fold another.
        said = predict_val(engine, bucket, subject, model, examples, order=rows)
        if model.tells_features:
            model.predict(examples, order=rows, see=seen.append)
    in_order = np.argsort(rows)
    features = [np.concatenate(some)[in_order] for some in zip(*seen, strict=True)]
    seen.clear()  # or they are held twice while doubt is fitted
    doubt = fit_doubt(subject, model, val, features, examples.isic_ids[np.sort(rows)])
    return doubt, said


def predict_val(
    engine: Engine,
    bucket: Bucket,
    subject: EvaluationSubject,
    model: LoadedModel,
    val: "Examples",
    *,
    order: "np.ndarray | None" = None,
) -> "pd.DataFrame":
    """Score val as a training is judged on it: with folds, each image by the model that did not see it."""
    from lesion_tasks.training.folds import folds_of_val, predict_out_of_fold

    n_folds = subject.training.recipe.get("n_folds")
    if not n_folds:
        return model.predict(val, order=order)
    own = subject.rows
    if not subject.is_own_manifest:
        with engine.connect() as connection:
            manifest = find_manifest(connection, subject.training.manifest_digest)
        own = read_manifest(bucket, manifest.object_key)
    folds = folds_of_val(own, subject.subset("val"), n_folds)
    found = predict_out_of_fold(model.keras_model, val, folds, classes=subject.task.classes, order=order)
    if val.pixels is not None:
        val.pixels.release()
    return found


def another_order(n_images: int, most: int | None = N_SOME) -> "np.ndarray":
    """The rows that are scored again, at most so many, in another order."""
    import numpy as np

    order: np.ndarray = np.random.default_rng(_SEED).permutation(n_images)[:most]
    return order


def by_id(frame: "pd.DataFrame") -> dict[str, Any]:
    """Scores as the checks take them: image id -> probabilities (K,)."""
    return dict(zip(frame.index, frame.to_numpy(), strict=True))
