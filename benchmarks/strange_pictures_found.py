"""Which pictures of something else does a stored model call out of distribution, and how many honest ones?

    .venv/bin/python -m benchmarks.strange_pictures_found TRAINING

Fits the measure on val as an evaluation does, with all depths of the model's features and with each alone, and asks it
about 32 drawings of each kind and about every test picture.
"""

import io
import sys

import numpy as np

from archive_server.strange_pictures import STRANGE
from lesion_tasks.catalog import InputSize
from lesion_tasks.evaluation.loaded_model import LoadedModel
from lesion_tasks.evaluation.subject import find_subject
from lesion_tasks.metrics.conformal import share_of_groups
from lesion_tasks.metrics.novelty import fit_novelty
from lesion_tasks.pixels.decode import decode_picture
from lesion_tasks.pixels.shards import PixelSource
from lesion_tasks.training.examples import Examples, load_examples
from lesion_tasks.training.loop import load_model
from lesion_tasks.training.run_record import read_model
from lesion_tasks.workspace import open_workspace

N_EACH = 32


def main(training_id: str) -> None:
    """Print the share that is found of each kind, and the share of groups of test."""
    workspace = open_workspace()
    subject = find_subject(workspace.engine, workspace.bucket, training_id)
    recipe = subject.training.recipe
    size = InputSize.of_recipe(recipe)
    model = LoadedModel(
        keras_model=load_model(read_model(workspace.bucket, subject.training)),
        classes=subject.task.classes,
        tells_features=True,
    )
    if size is None:
        sys.exit(f"{training_id} sees no pictures")
    features, groups = {}, {}
    for subset in ("val", "test"):
        rows = subject.subset(subset)
        with workspace.engine.connect() as connection:
            examples = load_examples(
                connection,
                workspace.bucket,
                rows,
                classes=subject.task.classes,
                input_size=size,
                metadata_fields=recipe["metadata"],
            )
        features[subset] = _features(model, examples)
        groups[subset] = rows["group_id"].to_numpy(dtype=str)
    generator = np.random.default_rng(0)
    for name, paint in STRANGE.items():
        pixels = []
        for _ in range(N_EACH):
            buffer = io.BytesIO()
            paint(generator).save(buffer, "PNG")
            pixels.append(decode_picture(buffer.getvalue(), size))
        drawn = Examples(
            isic_ids=np.arange(N_EACH).astype(str).astype(object),
            labels=np.zeros(N_EACH, dtype=np.int64),
            pixels=PixelSource(
                shards=(np.stack(pixels),),
                shard_of_row=np.zeros(N_EACH, dtype=np.int64),
                row_in_shard=np.arange(N_EACH),
            ),
            metadata=np.full((N_EACH, len(recipe["metadata"])), np.nan, dtype=np.float32),
        )
        features[name] = _features(model, drawn)
    n_depths = len(features["val"])
    for title, chosen in (
        ("all depths", range(n_depths)),
        *((f"depth {i + 1}", [i]) for i in range(n_depths)),
    ):
        novelty = fit_novelty([features["val"][i] for i in chosen], groups["val"])
        found = {
            name: novelty.is_strange(novelty.scores([some[i] for i in chosen]))
            for name, some in features.items()
            if name != "val"
        }
        honest = share_of_groups(found.pop("test"), groups["test"])
        said = ", ".join(f"{name} {some.mean():.2f}" for name, some in found.items())
        span = f"{honest.interval.low:.4f} to {honest.interval.high:.4f}" if honest.interval else ""
        print(
            f"{title} ({sum(features['val'][i].shape[1] for i in chosen)}): {said}; test {honest.value:.4f} ({span})"
        )


def _features(model: LoadedModel, examples: Examples) -> list[np.ndarray]:
    """(n, C) at each depth, as an evaluation sees them."""
    seen: list[list[np.ndarray]] = []
    model.predict(examples, see=seen.append)
    return [np.concatenate(some) for some in zip(*seen, strict=True)]


if __name__ == "__main__":
    main(sys.argv[1])
