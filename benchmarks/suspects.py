"""How many planted wrong labels are among the suspects, and how many suspects are planted?

    .venv/bin/python -m benchmarks.suspects TRAINING

Of the held-out labels of a training (val, test and, with folds, train), 5 % are replaced, at random by lesion or
patient, and the stored predictions name suspects; the model learned from none of these images. Chance names as many
images at random.
"""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd

from lesion_tasks.evaluation.find_suspects import held_out_predictions
from lesion_tasks.evaluation.subject import find_subject
from lesion_tasks.metrics.scored import Scored
from lesion_tasks.metrics.suspects import suspect_labels
from lesion_tasks.workspace import open_workspace

SHARE = 0.05
N_DRAWS = 200


def planted(scored: Scored, rng: np.random.Generator) -> tuple[Scored, set[str]]:
    """The same with wrong labels, and the images that have them."""
    is_chosen = rng.random(scored.n_groups) < SHARE
    rows = is_chosen[scored.groups]
    n_classes = len(scored.class_names)
    shift = rng.integers(1, n_classes, scored.n_groups)[scored.groups]
    labels = np.where(rows, (scored.labels + shift) % n_classes, scored.labels)
    return replace(scored, labels=labels), set(scored.isic_ids[rows].tolist())


def main(training_id: str) -> None:
    """Print recall and precision, means over draws."""
    workspace = open_workspace()
    subject = find_subject(workspace.engine, workspace.bucket, training_id)
    with workspace.engine.connect() as connection:
        scored = held_out_predictions(connection, subject)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(N_DRAWS):
        wrong, ids = planted(scored, rng)
        hits = np.array([one.isic_id in ids for one in suspect_labels(wrong)])
        first = hits[: len(ids)]
        found.append(
            {
                "suspects": len(hits),
                "planted": len(ids),
                "recall": hits.sum() / len(ids),
                "recall of chance": len(hits) / scored.n_images,
                "precision": hits.mean(),
                "precision of chance": len(ids) / scored.n_images,
                "precision of as many as planted": first.mean(),
                "precision of the first 50": hits[:50].mean(),
            }
        )
    print(f"{training_id}: {scored.n_images:,} images, {len(suspect_labels(scored)):,} suspects as they are")
    for name, value in pd.DataFrame(found).mean().items():
        print(f"  {name}: {value:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
