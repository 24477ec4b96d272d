"""A training -> a table of its stored predictions with the images' labels, to be read by other programs."""

from typing import TYPE_CHECKING

from lesion_tasks import UnusableInputError
from lesion_tasks.evaluation.subject import find_subject
from lesion_tasks.training.predictions import read_sealed_predictions
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def labelled_predictions(
    workspace: Workspace, training_id: str, subset: str, *, manifest_digest: str | None = None
) -> "pd.DataFrame":
    """A row for each image of a subset, sorted by id: isic_id, label, p_<class> for each class.

    On the training's own manifest, or another one that it was evaluated on. With folds, train and val are scored by
    models that did not see the image; without, train has no scores, which `UnusableInputError` says. The
    predictions are checked against their digest: `AlteredPredictionsError` if they differ.
    """
    subject = find_subject(workspace.engine, workspace.bucket, training_id, manifest_digest)
    with workspace.engine.connect() as connection:
        found = read_sealed_predictions(
            connection, training_id, subject.manifest.digest, subset, subject.training.classes
        )
    if subset == "train" and found.empty:
        raise UnusableInputError(
            f"training {training_id!r} has no predictions of train: it learned from all of it; expected a training "
            "of a variant with folds"
        )
    labels = subject.subset(subset).set_index("isic_id")["label"]
    table = found.add_prefix("p_")
    table.insert(0, "label", labels.reindex(table.index))
    return table.reset_index()
