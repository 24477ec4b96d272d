"""Prediction rows in Postgres <-> frames and `Scored` values. Rows are keyed; nothing here depends on position."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import Task
from lesion_tasks.database.bulk import copy_rows

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.scored import Scored


class AlteredPredictionsError(UnusableInputError):
    """Predictions were changed after they were stored."""


def digest_of_predictions(predictions: "pd.DataFrame") -> str:
    """SHA-256 over a frame's rows by id: the id in UTF-8, then each probability as 8 bytes, big-endian."""
    import numpy as np

    ordered = predictions.iloc[np.argsort(np.asarray(predictions.index, dtype=str), kind="stable")]
    values = np.ascontiguousarray(ordered.to_numpy(dtype=np.float64).astype(">f8"))
    digest = hashlib.sha256()
    for isic_id, row in zip(ordered.index, values, strict=True):
        digest.update(str(isic_id).encode() + row.tobytes())
    return digest.hexdigest()


def store_predictions(
    connection: Connection, training_id: str, digest: str, subset: str, predictions: "pd.DataFrame"
) -> int:
    """Replace and seal a training's predictions for one subset of a manifest; `predictions` is indexed by image id."""
    values = {"id": training_id, "digest": digest, "subset": subset}
    connection.execute(
        text("""
            DELETE FROM prediction_set
            WHERE training_id = :id AND manifest_digest = :digest AND subset = :subset
        """),
        values,
    )
    connection.execute(
        text("""
            INSERT INTO prediction_set (training_id, manifest_digest, subset, n_images, sha256)
            VALUES (:id, :digest, :subset, :n, :sha256)
        """),
        {**values, "n": len(predictions), "sha256": digest_of_predictions(predictions)},
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


def delete_predictions(connection: Connection, training_id: str) -> None:
    """Remove all predictions of a training; their digests stay in the documents of its evaluations."""
    connection.execute(text("DELETE FROM prediction_set WHERE training_id = :id"), {"id": training_id})


def read_predictions(
    connection: Connection, training_id: str, digest: str, subset: str, classes: Sequence[str]
) -> "pd.DataFrame":
    """A training's predictions for one subset: a frame indexed by `isic_id`, a column for each class; may be empty."""
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


def read_sealed_predictions(
    connection: Connection, training_id: str, digest: str, subset: str, classes: Sequence[str]
) -> "pd.DataFrame":
    """A training's predictions for one subset, checked against the digest under which they were stored.

    Raises `AlteredPredictionsError` if a row was added, lost or changed since.
    """
    found = read_predictions(connection, training_id, digest, subset, classes)
    if (alteration := find_alteration(connection, training_id, digest, subset, found)) is not None:
        raise AlteredPredictionsError(
            f"predictions of training {training_id!r} on {subset} of manifest {digest[:12]}: {alteration}"
        )
    return found


def find_alteration(
    connection: Connection, training_id: str, digest: str, subset: str, found: "pd.DataFrame"
) -> str | None:
    """Evidence that predictions were changed since they were stored; None if there is none."""
    sealed = connection.execute(
        text("""
            SELECT sha256 FROM prediction_set
            WHERE training_id = :id AND manifest_digest = :digest AND subset = :subset
        """),
        {"id": training_id, "digest": digest, "subset": subset},
    ).scalar_one_or_none()
    if sealed is None and found.empty:
        return None
    if (now := digest_of_predictions(found)) == sealed:
        return None
    return (
        f"SHA-256 is {now[:12]}, expected {(sealed or 'none')[:12]}: rows were changed after they were stored"
    )


def trainings_with_predictions(connection: Connection, digest: str) -> set[str]:
    """Trainings that have scored the test set of a manifest."""
    return set(
        connection.execute(
            text(
                "SELECT training_id FROM prediction_set WHERE manifest_digest = :digest AND subset = 'test'"
            ),
            {"digest": digest},
        ).scalars()
    )


def join_to_manifest(predictions: "pd.DataFrame", rows: "pd.DataFrame", task: Task) -> "Scored":
    """Join predictions to manifest rows by image id; predictions of other rows of the manifest are ignored."""
    from lesion_tasks.metrics.scored import join

    wanted = predictions[predictions.index.isin(rows["isic_id"])]
    return join(wanted, rows, class_names=task.classes, positive_class=task.positive)
