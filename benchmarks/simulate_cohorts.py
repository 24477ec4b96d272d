"""Simulated test sets and cohorts -> coverage of the intervals of a fall and of what the case mix explains of it.

Every model is honest and its true figures are known. Images come in groups of one to four that resemble each other;
the cohort has another mix of ages, and in half of the worlds the model is truly worse there. Run it with
`.venv/bin/python benchmarks/simulate_cohorts.py [n_repeats]`; with 150, some minutes on one core. The last line is
JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd

from lesion_tasks.metrics.auc import measure_auc
from lesion_tasks.metrics.case_mix import reweight
from lesion_tasks.metrics.fall import measure_fall
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored, join

SEED = 7
PREVALENCE = 0.25
LIKENESS = 0.7  # of the images of a group: the share of a score's noise that they have in common
OLD_SHARE = {"test": 0.7, "cohort": 0.4}
DISTANCE = {True: 2.2, False: 1.0}  # between the classes, in the old and in the young


def draw(
    rng: np.random.Generator, n_groups: int, old_share: float, skill: float, prefix: str
) -> tuple[Scored, pd.DataFrame]:
    """Scored images and their rows, in one order."""
    group = np.repeat(np.arange(n_groups), rng.integers(1, 5, n_groups))
    positive = (rng.random(n_groups) < PREVALENCE)[group]
    is_old = (rng.random(n_groups) < old_share)[group]
    noise = np.sqrt(LIKENESS) * rng.normal(size=n_groups)[group]
    noise += np.sqrt(1 - LIKENESS) * rng.normal(size=len(group))
    distance = np.where(is_old, DISTANCE[True], DISTANCE[False]) * skill
    scores = 1 / (1 + np.exp(-(distance * positive + noise)))
    ids = [f"{prefix}{i:07d}" for i in range(len(group))]
    rows = pd.DataFrame(
        {
            "isic_id": ids,
            "label": np.where(positive, "malignant", "benign"),
            "group_id": [f"{prefix}{g}" for g in group],
            "age_years": np.where(is_old, 70.0, 40.0) + rng.normal(size=n_groups)[group],
            "sex": np.where((rng.random(n_groups) < 0.5)[group], "male", "female"),
            "anatom_site": None,
            "diagnosis_kind": np.where(positive, "one", "other"),
        }
    )
    predictions = dict(zip(ids, scores.tolist(), strict=True))
    scored = join(predictions, rows, class_names=("benign", "malignant"), positive_class="malignant")
    return scored, rows.set_index("isic_id").loc[scored.isic_ids].reset_index()


def true_auc(old_share: float, skill: float) -> float:
    """Of a population, by a sample of a million groups."""
    rng = np.random.default_rng(SEED)
    positive, is_old = rng.random(1_000_000) < PREVALENCE, rng.random(1_000_000) < old_share
    distance = np.where(is_old, DISTANCE[True], DISTANCE[False]) * skill
    scores = distance * positive + rng.normal(size=len(positive))
    auc = measure_auc(positive, scores, np.arange(len(positive)))
    assert auc is not None
    return auc.value


def without_groups(scored: Scored, prefix: str) -> Scored:
    """The same images, each a group of its own."""
    ids = np.array([f"{prefix}{i}" for i in range(scored.n_images)], dtype=object)
    return replace(scored, group_ids=ids)


def simulate(n_test: int, n_cohort: int, skill: float, n_repeats: int) -> dict[str, Any]:
    """How often each interval holds the truth, with these numbers of groups and this skill in the cohort."""
    rng = np.random.default_rng(SEED)
    resampling = Resampling(n_resamples=300)
    at_home, elsewhere = true_auc(OLD_SHARE["test"], 1.0), true_auc(OLD_SHARE["cohort"], skill)
    weighted = true_auc(OLD_SHARE["test"], skill)
    hits: dict[str, list[bool]] = {}

    def note(name: str, low: float | None, high: float | None, truth: float) -> None:
        if low is not None and high is not None:
            hits.setdefault(name, []).append(low <= truth <= high)

    for _ in range(n_repeats):
        test, test_rows = draw(rng, n_test, OLD_SHARE["test"], 1.0, "T")
        cohort, rows = draw(rng, n_cohort, OLD_SHARE["cohort"], skill, "C")
        fall = measure_fall(test, cohort, resampling)
        alone = measure_fall(without_groups(test, "T"), without_groups(cohort, "C"), resampling)
        assert fall is not None
        assert alone is not None
        note("fall", fall.low, fall.high, elsewhere - at_home)
        note("fall, groups ignored", alone.low, alone.high, elsewhere - at_home)
        found = reweight(test, cohort, test_rows, rows, fall, resampling)
        note("reweighted AUC", found.low, found.high, weighted)
        note("explained by case mix", found.value_low, found.value_high, weighted - elsewhere)
    return {name: {"coverage": float(np.mean(some)), "n": len(some)} for name, some in hits.items()}


def main() -> None:
    """See the module."""
    n_repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    found = {}
    for n_test, n_cohort in ((300, 300), (400, 120)):
        for skill in (1.0, 0.6):
            name = f"{n_test} and {n_cohort} groups, skill {skill:g}"
            found[name] = simulate(n_test, n_cohort, skill, n_repeats)
            print(name, {key: round(one["coverage"], 3) for key, one in found[name].items()}, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
