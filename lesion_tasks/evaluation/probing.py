"""A training's manifest and pictures -> probes of everything but the lesion that its model could use."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import InputSize
from lesion_tasks.evaluation.subject import EvaluationSubject
from lesion_tasks.metrics.cohort_document import MetadataBaseline
from lesion_tasks.pixels.picture_facts import FACTS, picture_facts
from lesion_tasks.pixels.shards import PixelSource, open_pixels

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lesion_tasks.metrics.probes import Probe
    from lesion_tasks.metrics.scored import Scored
    from lesion_tasks.training.examples import Examples

# Probes are small: more rows than this teach them nothing, and each row's picture has to be read.
MAX_TRAIN_ROWS = 8_000
_BATCH_ROWS = 256
_SEED = 7
# The columns that identify a row and its label, whatever the model sees.
_KEYS = ["isic_id", "label", "group_id"]


def probe_predictions(
    engine: Engine, bucket: Bucket, subject: EvaluationSubject, test: "Examples"
) -> "tuple[dict[str, Probe], dict[str, str]]":
    """Probes by name, and why some of them are shown but not judged.

    A model with pixel input could use whatever a picture reveals: the camera, the file, the frame, the institution's
    style, the site; and, through these, the metadata and which of them are missing. A model with metadata only sees its
    own fields, and which of them are missing.
    """
    from lesion_tasks.metrics.probes import fit_probes

    recipe = subject.training.recipe
    train = _some_rows(subject.subset("train"))
    evaluated = subject.subset("test")
    size = InputSize.of_recipe(recipe)
    if size is None:
        seen = _KEYS + _own_fields(recipe)
        train, evaluated = train[seen], evaluated[seen]
    else:
        with engine.connect() as connection:
            pixels = open_pixels(connection, bucket, size, train["sha256"].tolist())
        train = _with_picture_facts(train, pixels)
        if test.pixels is not None:
            # The rows of the examples are those of the subset, in its order.
            evaluated = _with_picture_facts(evaluated, test.pixels)
    unjudged = {"metadata": "the model is meant to use them"} if recipe["metadata"] else {}
    probes = fit_probes(
        train,
        evaluated,
        class_names=subject.task.classes,
        positive_class=subject.task.positive,
        unjudged=unjudged,
    )
    return probes, unjudged


def _own_fields(recipe: Mapping[str, Any]) -> list[str]:
    """The columns of a manifest that a model of metadata sees."""
    return ["sex" if field == "is_male" else field for field in recipe["metadata"]]


def metadata_on_cohort(
    subject: EvaluationSubject, cohort: "Scored", rows: "pd.DataFrame"
) -> MetadataBaseline:
    """What metadata alone reach on the images of a cohort that a training is judged on, `rows` of its manifest.

    They are what train and cohort have, whatever the model sees of them: the bar is the same for every model.
    """
    from lesion_tasks.metrics.metadata_baseline import metadata_baseline
    from lesion_tasks.metrics.probes import METADATA

    seen = [*_KEYS, *METADATA]
    return metadata_baseline(
        cohort,
        train=subject.subset("train")[seen],
        test_rows=subject.subset("test")[seen],
        rows=rows[seen],
        is_of_metadata=InputSize.of_recipe(subject.training.recipe) is None,
    )


def _some_rows(train: "pd.DataFrame") -> "pd.DataFrame":
    """At most `MAX_TRAIN_ROWS` train rows; a rare class keeps all of its rows as long as they fit."""
    if len(train) <= MAX_TRAIN_ROWS:
        return train
    share = MAX_TRAIN_ROWS // train["label"].nunique()
    drawn = train.sample(frac=1, random_state=_SEED)
    return drawn[drawn.groupby("label").cumcount() < share].sort_index()


def _with_picture_facts(rows: "pd.DataFrame", pixels: PixelSource) -> "pd.DataFrame":
    """The rows with a column for each fact of their pictures; `pixels` holds the pictures in the same order."""
    import numpy as np
    import pandas as pd

    from lesion_tasks.metrics.probes import PICTURE_PREFIX

    facts = pd.DataFrame(
        facts_of(pixels, np.arange(len(rows))),
        index=rows.index,
        columns=[f"{PICTURE_PREFIX}{name}" for name in FACTS],
    )
    return pd.concat([rows, facts], axis=1)


def facts_of(pixels: PixelSource, rows: "np.ndarray") -> "np.ndarray":
    """The facts of some pictures, float32 (len(rows), len(FACTS)), in memory that does not grow with their number."""
    import numpy as np

    parts = []
    for start in range(0, len(rows), _BATCH_ROWS):
        parts.append(picture_facts(pixels.take(rows[start : start + _BATCH_ROWS])))
        pixels.release()  # each picture is looked at once, and none need stay
    return np.concatenate(parts) if parts else np.empty((0, len(FACTS)), dtype=np.float32)
