"""Prediction rows in Postgres <-> frames and `Scored` values. Rows are keyed; nothing here knows a position."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from lesion_tasks.catalog import Task
from lesion_tasks.database.bulk import copy_rows

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.scored import Scored


def store_predictions(
    connection: Connection, training_id: str, digest: str, subset: str, predictions: "pd.DataFrame"
) -> int:
    """Replace what a training says of one subset of a manifest; `predictions` is indexed by image id."""
    connection.execute(
        text(
            "DELETE FROM prediction WHERE training_id = :id AND manifest_digest = :digest AND subset = :subset"
        ),
        {"id": training_id, "digest": digest, "subset": subset},
    )
    return copy_rows(
        connection,
        "prediction",
        ("training_id", "manifest_digest", "subset", "isic_id", "probabilities"),
        (
            (training_id, digest, subset, isic_id, [float(p) for p in row])
            for isic_id, row in zip(predictions.index, predictions.to_numpy(), strict=True)
        ),
    )


def read_predictions(
    connection: Connection, training_id: str, digest: str, subset: str, classes: Sequence[str]
) -> "pd.DataFrame":
    """What a training says of one subset: a frame indexed by `isic_id`, one column for each class; perhaps empty."""
    import numpy as np
    import pandas as pd

    rows = connection.execute(
        text("""
            SELECT isic_id, probabilities FROM prediction
            WHERE training_id = :id AND manifest_digest = :digest AND subset = :subset ORDER BY isic_id
        """),
        {"id": training_id, "digest": digest, "subset": subset},
    ).all()
    values = np.array([row.probabilities for row in rows], dtype=np.float64).reshape(len(rows), len(classes))
    index = pd.Index([row.isic_id for row in rows], name="isic_id", dtype=object)
    return pd.DataFrame(values, index=index, columns=list(classes))


def join_to_manifest(predictions: "pd.DataFrame", rows: "pd.DataFrame", task: Task) -> "Scored":
    """Join predictions to manifest rows by image id; predictions of other rows of the manifest are left aside."""
    from lesion_tasks.metrics.scored import join

    wanted = predictions[predictions.index.isin(rows["isic_id"])]
    return join(wanted, rows, class_names=task.classes, positive_class=task.positive)
