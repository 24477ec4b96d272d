"""Simulated people of four skin types -> how often a gap is called more than chance, and how often its interval holds.

Images come in groups of one to four that resemble each other. A group has one skin type or, as with ages, each image
its own. In some worlds the model is worse on one of the types. Beside each figure stands what it would be if every
image were a group of its own. Run it with `.venv/bin/python benchmarks/simulate_fairness.py [n_repeats]`; with 400,
some minutes on one core. The last line is JSON.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from scipy.stats import norm

from lesion_tasks.metrics.fairness import measure_fairness
from lesion_tasks.metrics.scored import Scored, join

SEED = 7
PREVALENCE = 0.3
LIKENESS = 0.7  # of the images of a group: the share of a score's noise that they have in common
SHARES = {"I": 0.4, "II": 0.3, "III": 0.2, "IV": 0.1}
DISTANCE = 2.0  # between the classes
CUT = 1.0  # on the scale of the scores' logits


def draw(rng: np.random.Generator, n_groups: int, worse: float, *, mixed: bool) -> Scored:
    """Images on which the classes of type IV are `worse` times as far apart; `mixed`: a type for each image."""
    group = np.repeat(np.arange(n_groups), rng.integers(1, 5, n_groups))
    positive = (rng.random(n_groups) < PREVALENCE)[group]
    names, shares = list(SHARES), list(SHARES.values())
    skin = rng.choice(names, len(group), p=shares) if mixed else rng.choice(names, n_groups, p=shares)[group]
    noise = np.sqrt(LIKENESS) * rng.normal(size=n_groups)[group]
    noise += np.sqrt(1 - LIKENESS) * rng.normal(size=len(group))
    scores = 1 / (1 + np.exp(-(DISTANCE * np.where(skin == "IV", worse, 1.0) * positive + noise)))
    ids = [f"ISIC_{i:07d}" for i in range(len(group))]
    rows = pd.DataFrame(
        {
            "isic_id": ids,
            "label": np.where(positive, "malignant", "benign"),
            "group_id": [f"G{one}" for one in group],
            "fitzpatrick_skin_type": skin,
        }
    )
    predictions = dict(zip(ids, scores.tolist(), strict=True))
    return join(predictions, rows, class_names=("benign", "malignant"), positive_class="malignant")


def true_values(worse: float) -> dict[str, float]:
    """Of a measure on type IV in the population; of the others with `worse` 1."""
    distance = DISTANCE * worse
    return {
        "auc": float(norm.cdf(distance / math.sqrt(2))),
        "sensitivity": float(norm.cdf(distance - CUT)),
        "specificity": float(norm.cdf(CUT)),
    }


def simulate(n_groups: int, worse: float, n_repeats: int, *, mixed: bool) -> dict[str, float]:
    """Shares of repeats: gaps called more than chance, and the true gap of the two parts within the interval."""
    rng = np.random.default_rng(SEED)
    threshold = float(1 / (1 + np.exp(-CUT)))
    hits: dict[str, list[bool]] = {}
    truth = {name: true_values(worse if name == "IV" else 1.0) for name in SHARES}
    for _ in range(n_repeats):
        scored = draw(rng, n_groups, worse, mixed=mixed)
        alone = replace(scored, group_ids=scored.isic_ids)
        for words, some in (("", scored), (", groups ignored", alone)):
            skin = measure_fairness(some, threshold, sample="test").attributes[0]
            for gap in skin.gaps:
                if gap.measure not in truth["I"] or gap.largest.low is None or gap.largest.high is None:
                    continue
                pair = gap.largest
                true = truth[pair.higher][gap.measure] - truth[pair.lower][gap.measure]
                hits.setdefault(f"{gap.measure}: called{words}", []).append(gap.certain is not None)
                hits.setdefault(f"{gap.measure}: held{words}", []).append(pair.low <= true <= pair.high)
    return {name: float(np.mean(some)) for name, some in hits.items()}


def main() -> None:
    """See the module."""
    n_repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    found = {}
    for n_groups in (600, 2_000):
        for worse in (1.0, 0.5):
            for mixed in (False, True):
                name = f"{n_groups} groups, {'mixed' if mixed else 'whole'}, type IV {worse:g}"
                found[name] = simulate(n_groups, worse, n_repeats, mixed=mixed)
                print(name, {key: round(share, 3) for key, share in found[name].items()}, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
