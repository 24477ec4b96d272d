"""Are conformal sets right as often as they say, where many pictures show one lesion?

    .venv/bin/python -m benchmarks.conformal                 # in simulation
    .venv/bin/python -m benchmarks.conformal TRAINING        # val and test of a training, divided anew by group

Simulated: a class decides the mean of a lesion's logit, a lesion that of its pictures; lesions have 1 to 40 pictures,
and those with many are harder. Sets are fitted on 400 lesions, with the weights of groups and, to compare, with every
picture alike. Of a training, the lesions of val and test together are divided at random, half to fit and half to judge,
so that both are exchangeable whatever the model learned from val.
"""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd

from lesion_tasks.metrics.conformal import fit_sets, share_of_groups
from lesion_tasks.metrics.scored import Scored, join

N_DRAWS = 400
CLASSES = ("benign", "malignant")
RATES = (0.05, 0.1, 0.2)


def simulated(n_lesions: int, rng: np.random.Generator) -> Scored:
    """Pictures of lesions; one in five is malignant."""
    n_pictures = np.minimum(rng.geometric(0.5, n_lesions) ** rng.choice([1, 1, 2], n_lesions), 40)
    is_malignant = rng.random(n_lesions) < 0.2
    lesion = np.repeat(np.arange(n_lesions), n_pictures)
    logit = np.where(is_malignant, 1.2, -1.2) * (1 - 0.02 * n_pictures) + rng.normal(0, 1.2, n_lesions)
    p = 1 / (1 + np.exp(-(logit[lesion] + rng.normal(0, 0.5, len(lesion)))))
    rows = pd.DataFrame(
        {
            "isic_id": [f"I{i}" for i in range(len(lesion))],
            "label": np.array(CLASSES)[is_malignant[lesion].astype(int)],
            "group_id": lesion.astype(str),
        }
    )
    return join(
        dict(zip(rows["isic_id"], p.tolist(), strict=True)),
        rows,
        class_names=CLASSES,
        positive_class="malignant",
    )


def alone(scored: Scored) -> Scored:
    """The same with every picture as a group of its own."""
    return replace(scored, group_ids=scored.isic_ids)


def covered(fitted_on: Scored, judged: Scored, rate: float) -> dict[str, float]:
    """The share of groups of each class whose pictures' sets hold the class."""
    found = fit_sets(fitted_on, rate).sets(judged.probabilities)[np.arange(judged.n_images), judged.labels]
    return {
        name: share_of_groups(found[here], judged.groups[here]).value or 0.0
        for index, name in enumerate(judged.class_names)
        if (here := judged.labels == index).any()
    }


def simulate() -> None:
    """Coverage on new lesions, mean over draws, with and without the weights of groups."""
    rng = np.random.default_rng(0)
    found: dict[tuple[float, str], list[dict[str, float]]] = {}
    for _ in range(N_DRAWS):
        val, new = simulated(400, rng), simulated(1_000, rng)
        for rate in RATES:
            found.setdefault((rate, "by group"), []).append(covered(val, new, rate))
            found.setdefault((rate, "by picture"), []).append(covered(alone(val), new, rate))
    _show(found)


def divide(training_id: str) -> None:
    """The same on what a training has stored of val and test."""
    from lesion_tasks.evaluation.subject import find_subject
    from lesion_tasks.training.predictions import join_to_manifest, read_sealed_predictions
    from lesion_tasks.workspace import open_workspace

    workspace = open_workspace()
    subject = find_subject(workspace.engine, workspace.bucket, training_id)
    with workspace.engine.connect() as connection:
        frames = [
            read_sealed_predictions(
                connection, training_id, subject.manifest.digest, subset, subject.task.classes
            )
            for subset in ("val", "test")
        ]
    rows = subject.rows[subject.rows["subset"].isin(["val", "test"])]
    scored = join_to_manifest(pd.concat(frames), rows, subject.task)
    rng = np.random.default_rng(0)
    found: dict[tuple[float, str], list[dict[str, float]]] = {}
    for _ in range(N_DRAWS):
        is_first = rng.permutation(scored.n_groups) < scored.n_groups // 2
        one, other = scored.where(is_first[scored.groups]), scored.where(~is_first[scored.groups])
        for rate in RATES:
            found.setdefault((rate, "by group"), []).append(covered(one, other, rate))
            found.setdefault((rate, "by picture"), []).append(covered(alone(one), other, rate))
    print(f"{training_id}: {scored.n_images:,} images, {scored.n_groups:,} groups")
    _show(found)


def _show(found: dict[tuple[float, str], list[dict[str, float]]]) -> None:
    for (rate, how), draws in found.items():
        means = pd.DataFrame(draws).mean()
        print(
            f"stated {1 - rate:.2f}, {how}: "
            + ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        )


if __name__ == "__main__":
    divide(sys.argv[1]) if len(sys.argv) > 1 else simulate()
