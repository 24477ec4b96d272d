"""The champion of a task, or any training -> its model, ready to predict. What is cheap to look at comes first.

Champions are found in `champion.json`, without a database; other trainings in Postgres. The model file is held against
its digest and loaded in Keras's safe mode, so that no code it may carry is run.
"""

import contextlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, MissingObjectError, get_verified, reading_object
from lesion_tasks.catalog import InputSize
from lesion_tasks.catalog.lookup import did_you_mean
from lesion_tasks.catalog.titles import label_inside
from lesion_tasks.evaluation.champion_document import CHAMPION_KEY
from lesion_tasks.evaluation.doubt import DoubtOf, StoredDoubt, doubts_of, entry_of, read_doubt
from lesion_tasks.metrics.counted import plural
from lesion_tasks.training.quiet_start import import_tensorflow
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import keras
    import numpy as np

    from lesion_tasks.evaluation.inference_graph import InferenceGraph


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """Where a training's model lies, and the digest of its bytes."""

    training_id: str
    model_key: str
    model_sha256: str
    doubt_key: str | None = None  # what tells where it does not know; None before that was measured
    doubt_sha256: str | None = None
    unsound: str | None = None  # why its evaluation is not to be trusted


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a model says of n pictures."""

    p: "np.ndarray"  # probabilities, float64 (n, classes)
    doubts: Sequence[DoubtOf | None]  # None where the model tells no doubt
    features: "Sequence[np.ndarray]"  # float32 (n, C) at each depth; none where nobody needs them


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A loaded model and what its own file says about it."""

    file: ModelFile
    model: "keras.Model"
    manifest: Mapping[str, Any]  # `lesion.json`, as the training wrote it
    doubt: StoredDoubt | None = None
    tells_features: bool = False  # also where doubt does not need them

    @property
    def training_id(self) -> str:
        return self.file.training_id

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities; of two, the second is the positive one."""
        return tuple(self.manifest["classes"])

    @property
    def threshold(self) -> float | None:
        """The least probability of the positive class that counts as positive; None for more than two classes."""
        value = self.manifest["threshold"]
        return None if value is None else float(value)

    @property
    def input_size(self) -> InputSize | None:
        """The size and shape in which it sees pictures; None if it sees none."""
        return InputSize.of_recipe(self.manifest["variant"])

    @property
    def metadata_fields(self) -> tuple[str, ...]:
        """The metadata that it asks for, in its order."""
        return tuple(self.manifest["variant"]["metadata"])

    @cached_property
    def _graph(self) -> "InferenceGraph":
        """The model, and what tells its features where somebody needs them."""
        from lesion_tasks.evaluation.inference_graph import inference_graph
        from lesion_tasks.evaluation.model_features import with_features

        needs_features = self.tells_features or (self.doubt is not None and self.doubt.novelty is not None)
        return inference_graph((with_features(self.model) if needs_features else None) or self.model)

    def predict(self, pixels: "np.ndarray", metadata: "np.ndarray") -> "Answers":
        """Score one batch: pixels uint8 (n, side, side, 3), metadata float32 (n, fields)."""
        import numpy as np

        from lesion_tasks.metrics.one_thread import one_thread_each

        raw, *features = self._graph({"pixels": pixels, "metadata": metadata})
        p = np.asarray(raw, dtype=np.float64)
        p = np.column_stack([1.0 - p[:, 0], p[:, 0]]) if len(self.classes) == 2 else p
        doubts: list[DoubtOf | None] = [None] * len(p)
        if self.doubt is not None:
            # A batch is too small to share: threads that wait for each other cost five times the work itself.
            with one_thread_each():
                doubts = [*doubts_of(self.doubt, p, features or None, self.threshold)]
        return Answers(p=p, doubts=doubts, features=features)

    def decide(self, probabilities: Mapping[str, float]) -> str:
        """The positive class at or above the threshold; without a threshold, the most likely class."""
        if self.threshold is not None:
            return self.classes[int(probabilities[self.classes[1]] >= self.threshold)]
        return max(self.classes, key=lambda name: probabilities[name])


def find_champion(bucket: Bucket, task: str) -> ModelFile:
    """What `champion.json` says about a task. Raises `UnusableInputError` if it says nothing or is damaged."""
    entry, known = None, []
    with contextlib.suppress(MissingObjectError), reading_object(bucket, CHAMPION_KEY):
        champions = json.loads(bucket.get(CHAMPION_KEY))
        known, said = list(champions), champions.get(task)
        if said is not None:
            entry = {name: str(said[name]) for name in ("training_id", "model_key", "model_sha256")}
            # A champion of before there was doubt has none.
            entry |= {
                name: str(said[name]) for name in ("doubt_key", "doubt_sha256", "unsound") if said.get(name)
            }
    if entry is None:
        raise UnusableInputError(
            f"bucket {bucket.url} (LESION_BUCKET_URL): no champion of task {task!r}{did_you_mean(task, known)}, "
            f"expected one in {CHAMPION_KEY}: it has {', '.join(known) or 'none'}"
            f"{'; --task, or `task` in a form and in code, names another task' if known else ''}"
        )
    return ModelFile(**entry)


def find_model(workspace: Workspace, task: str, training_id: str | None = None) -> ModelFile:
    """The model of a training, as Postgres has it; without one, of the champion of a task, without Postgres.

    Raises `UnusableInputError` for a training that is not finished or was pruned, and as `find_champion` does.
    """
    if training_id is None:
        return find_champion(workspace.bucket, task)
    from lesion_tasks.evaluation.evaluation_record import find_sealed, why_unsound
    from lesion_tasks.training.run_record import find_finished

    with workspace.engine.connect() as connection:
        found = find_finished(connection, training_id)
        evaluation = find_sealed(connection, training_id, found.manifest_digest)
        unsound = why_unsound(connection, training_id, found.manifest_digest)
    return ModelFile(
        training_id=found.training_id,
        model_key=str(found.model_key),
        model_sha256=str(found.model_sha256),
        **entry_of(evaluation.document if evaluation else {}),
        unsound=unsound,
    )


def read_model_file(bucket: Bucket, file: ModelFile) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a model, held against their digest, and the manifest that they carry."""
    with reading_object(bucket, CHAMPION_KEY):  # which may hold something that is not a key
        data = get_verified(bucket, file.model_key, file.model_sha256, kind="model")
    with reading_object(bucket, file.model_key), zipfile.ZipFile(io.BytesIO(data)) as archive:
        manifest: dict[str, Any] = json.loads(archive.read("lesion.json"))
    return data, manifest


def notes_about_model(
    bucket: Bucket, file: ModelFile, manifest: Mapping[str, Any], n_images: int, n_with: Mapping[str, int]
) -> list[str]:
    """What a reader of a model's answers should know of it, and of what it was told of n pictures.

    `manifest`: what its file carries. `n_with`: of how many of the pictures it is told each metadata that it asks for.
    """
    notes = []
    if file.unsound is not None:
        notes.append(f"The evaluation of {file.training_id} is not sound: {file.unsound}")
    if not n_with:
        return notes
    told = ", ".join(f"{name} of {n:,}" for name, n in n_with.items())
    notes.append(f"Of {plural(n_images, 'picture')}, the model is told {told}; the rest is missing to it.")
    lacking = [name for name, n in n_with.items() if n < n_images]
    if never_missed := _never_missing(bucket, manifest, lacking):
        notes.append(
            f"All pictures that it learned from tell {' and '.join(map(label_inside, never_missed))}: what it says of "
            "one without is a guess, and an evaluation leaves such pictures out."
        )
    return notes


def _never_missing(bucket: Bucket, manifest: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    """Of some metadata those that no image lacks of those that a model learned from; none if its manifest is gone."""
    from lesion_tasks.evaluation.other_data import required_metadata
    from lesion_tasks.splits.manifest import object_key, read_manifest

    key = object_key(manifest["variant"]["split"], manifest["manifest_digest"])
    if not fields or not bucket.exists(key):
        return []
    return required_metadata(fields, read_manifest(bucket, key))


def load_served(bucket: Bucket, file: ModelFile, *, tells_features: bool = False) -> ServedModel:
    """Load a model. Raises `UnusableInputError` if its file is missing, altered or damaged."""
    data, manifest = read_model_file(bucket, file)  # before TensorFlow, which takes seconds
    import_tensorflow()
    from lesion_tasks.training.loop import load_model

    with reading_object(bucket, file.model_key):
        model = load_model(data)
    doubt = None
    if file.doubt_key is not None and file.doubt_sha256 is not None:
        with reading_object(bucket, file.doubt_key):
            doubt = read_doubt(bucket, file.doubt_key, file.doubt_sha256, manifest["classes"])
    return ServedModel(file=file, model=model, manifest=manifest, doubt=doubt, tells_features=tells_features)
