"""Finished trainings of an ensemble's members -> their average, calibrated on val. No pixel is read."""

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import pandas as pd
from sqlalchemy import Engine

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import Variant
from lesion_tasks.database.schema import Training
from lesion_tasks.training.examples import Data
from lesion_tasks.training.loop import load_model
from lesion_tasks.training.model.averaging import average_members, mean_of_probabilities
from lesion_tasks.training.model.stored_model import calibrated, fit_calibration, with_calibration
from lesion_tasks.training.predictions import read_sealed_predictions
from lesion_tasks.training.run_record import read_model
from lesion_tasks.training.stages import Trained


def average_trainings(
    variant: Variant, members: Sequence[Training], digest: str, data: Data, *, engine: Engine, bucket: Bucket
) -> Trained:
    """The mean of the members' logits as one model that contains them, and its predictions of val and test.

    The members' own predictions, checked against their digests, are averaged like their models.
    """
    classes = variant.task.classes
    predictions = {}
    with engine.connect() as connection:
        for subset, examples in data.to_predict.items():
            frames = [
                read_sealed_predictions(connection, member.training_id, digest, subset, classes).loc[
                    examples.isic_ids
                ]
                for member in members
            ]
            mean = mean_of_probabilities([frame.to_numpy() for frame in frames])
            predictions[subset] = pd.DataFrame(mean, index=frames[0].index, columns=list(classes))
    files = [read_model(bucket, member) for member in members]
    served = average_members([load_model(file) for file in files], variant.name)
    said = [_said_of(member, file) for member, file in zip(members, files, strict=True)]
    licences = sorted({one["weights_licence"] for one in said if one["weights_licence"]})
    facts: dict[str, Any] = {"members": said, "weights_licence": "; ".join(licences) or None}
    if variant.is_calibrated:
        scale, shift = fit_calibration(predictions["val"].to_numpy(), data.val.labels)
        served = with_calibration(served, scale, shift)
        for frame in predictions.values():
            frame[:] = calibrated(frame.to_numpy(), scale, shift)
        facts["calibration"] = {"scale": scale, "shift": shift, "fitted_on": "val"}
    return Trained(model=served, predictions=predictions, facts=facts)


def _said_of(member: Training, file: bytes) -> dict[str, Any]:
    """What an ensemble's file says of a member, which the weights that it began with are a part of."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        own = json.loads(archive.read("lesion.json"))
    return {
        "training_id": member.training_id,
        "variant": member.recipe,
        "weights": member.weights,
        "weights_sha256": member.weights_sha256,
        "model_key": member.model_key,
        "weights_licence": own.get("weights_licence"),
        "model_sha256": member.model_sha256,
    }
