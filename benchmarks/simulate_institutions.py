"""Simulated institutions -> how often they are said to differ, and coverage of every interval of the combined table.

Every model is honest and its true AUC at each institution is known. Images come in groups of one to four that resemble
each other; institutions differ in size and, where they differ at all, in how far apart their classes are. Beside each
figure stands what it would be if every image were a group of its own, the usual prediction interval of Higgins,
Thompson & Spiegelhalter 2009, and the coverage in the repeats whose institutions differ by less than half of what
chance alone would do. Run it with `.venv/bin/python benchmarks/simulate_institutions.py [n_repeats [n_sites ...]]`;
with 200, some minutes on one core. The last line is JSON.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

from lesion_tasks.metrics.auc import Auc, measure_auc
from lesion_tasks.metrics.between_sites import BetweenSites, combine_sites

SEED = 7
MEAN = 0.85
PREVALENCE = 0.25
LIKENESS = 0.7  # of the images of a group: the share of a score's noise that they have in common
SMALLEST, LARGEST = 60, 400  # groups of an institution, evenly on the scale of logarithms


def draw(rng: np.random.Generator, n_groups: int, auc: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and groups of one institution whose true AUC is `auc`."""
    group = np.repeat(np.arange(n_groups), rng.integers(1, 5, n_groups))
    positive = (rng.random(n_groups) < PREVALENCE)[group]
    noise = np.sqrt(LIKENESS) * rng.normal(size=n_groups)[group]
    noise += np.sqrt(1 - LIKENESS) * rng.normal(size=len(group))
    return positive, math.sqrt(2) * norm.ppf(auc) * positive + noise, group


def usual_interval(found: BetweenSites) -> tuple[float, float]:
    """Higgins, Thompson & Spiegelhalter's prediction interval, from the same variance and mean."""
    degrees = found.n_sites - 1
    error = (logit(found.mean_high) - logit(found.mean_low)) / 2 / student.isf(0.025, degrees)
    half = student.isf(0.025, degrees - 1) * math.sqrt(found.tau**2 + error**2)
    centre = logit(found.mean)
    return float(expit(centre - half)), float(expit(centre + half))


def simulate(n_sites: int, tau: float, repeats: Iterable[int]) -> dict[str, list[bool]]:
    """What each repeat found, with this number of institutions and this standard deviation of their logits."""
    hits: dict[str, list[bool]] = {}

    def note(name: str, low: float, high: float, truth: float) -> None:
        hits.setdefault(name, []).append(low <= truth <= high)

    centre = logit(MEAN)
    for repeat in repeats:
        rng = np.random.default_rng((SEED, repeat))
        truths = expit(centre + tau * rng.normal(size=n_sites))
        new = float(expit(centre + tau * rng.normal()))
        sizes = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), n_sites)).astype(int)
        sites = [draw(rng, int(n), float(truth)) for n, truth in zip(sizes, truths, strict=True)]
        for words, ungrouped in (("", False), (", groups ignored", True)):
            aucs = [_auc(*site, ungrouped=ungrouped) for site in sites]
            told = [auc for auc in aucs if auc is not None]
            for auc, truth in zip(aucs, truths, strict=True):
                if auc is not None:
                    interval = auc.interval()
                    note(f"one institution{words}", interval.low, interval.high, float(truth))
            found = combine_sites([[auc] for auc in told])
            if isinstance(found, str):
                continue
            hits.setdefault(f"said to differ{words}", []).append(found.differ)
            note(f"mean{words}", found.mean_low, found.mean_high, MEAN)
            note(f"new institution{words}", found.new_site_low, found.new_site_high, new)
            if not ungrouped:
                if found.q < (found.n_sites - 1) / 2:
                    note("mean where they agree by luck", found.mean_low, found.mean_high, MEAN)
                    note(
                        "new institution where they agree by luck",
                        found.new_site_low,
                        found.new_site_high,
                        new,
                    )
                note("new institution, usual interval", *usual_interval(found), new)
    return hits


def _auc(positive: np.ndarray, scores: np.ndarray, groups: np.ndarray, *, ungrouped: bool) -> Auc | None:
    """The AUC of an institution with enough groups of each class, as the table asks; None otherwise."""
    if min(len(np.unique(groups[positive])), len(np.unique(groups[~positive]))) < 10:
        return None
    return measure_auc(positive, scores, np.arange(len(groups)) if ungrouped else groups)


def main() -> None:
    """See the module."""
    n_repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    numbers = [int(word) for word in sys.argv[2:]] or [3, 4, 8, 15]
    found = {}
    for n_sites in numbers:
        for tau in (0.0, 0.25, 0.5):
            name = f"{n_sites} institutions, tau {tau:g}"
            hits = simulate(n_sites, tau, range(n_repeats))
            found[name] = {what: float(np.mean(some)) for what, some in hits.items()}
            print(name, {key: round(share, 3) for key, share in found[name].items()}, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
