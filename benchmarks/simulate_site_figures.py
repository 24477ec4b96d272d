"""Normal figures of sites, drawn without any picture or score -> coverage of the mean and of a new site, by I².

Everything that the intervals take for granted holds here: each site's figure is normal around its own true value, its
variance is known, and true values are normal. What an interval misses here is its own doing, and not that of scores,
groups or trainings. A site's variance is that of an institution of 60 to 400 groups; I² says how much of the variance
of the figures is between sites. With several trainings of each, another training moves a figure as much as who was
tested. "HK alone" is Hartung & Knapp's interval without its floor. Run it with
`.venv/bin/python benchmarks/simulate_site_figures.py [n_repeats]`; with 2,000, minutes on one core. The last
line is JSON.
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
from scipy.stats import t as student

from lesion_tasks.metrics.between_sites import SiteFigure, between_variance, combine_figures

SEED = 13
MEAN = 0.85
VARIANCE = 0.04  # of the figure of a site in the middle
NO_DOUBT = 1e9  # degrees of freedom of a variance that is known
SMALLEST, LARGEST = 60, 400


def figure(
    rng: np.random.Generator, truth: float, variance: float, n_trainings: int, luck: float
) -> SiteFigure:
    """What a site of this true value and variance shows of trainings that differ by `luck`, a standard deviation."""
    trainings = luck * rng.normal(size=n_trainings)
    return SiteFigure(
        y=truth + math.sqrt(variance) * float(rng.normal()) + float(trainings.mean()),
        variance=variance,
        degrees=NO_DOUBT,
        n_trainings=n_trainings,
        squares=float(((trainings - trainings.mean()) ** 2).sum()),
        expected=0.0,
    )


def hartung_knapp_holds(sites: list[SiteFigure], truth: float) -> bool:
    """Whether the interval of the mean holds the truth without the floor; of one training of each."""
    y, variance = np.array([one.y for one in sites]), np.array([one.variance for one in sites])
    weight = 1 / (variance + between_variance(y, variance))
    mean = weight @ y / weight.sum()
    error = math.sqrt(weight @ (y - mean) ** 2 / (len(y) - 1) / weight.sum())
    return bool(abs(mean - truth) <= student.isf(0.025, len(y) - 1) * error)


def simulate(n_sites: int, i2: float, n_trainings: int, repeats: Iterable[int]) -> dict[str, list[bool]]:
    """What each repeat found."""
    centre, tau = float(logit(MEAN)), math.sqrt(VARIANCE * i2 / (1 - i2))
    luck = math.sqrt(VARIANCE) if n_trainings > 1 else 0.0
    middle = math.sqrt(SMALLEST * LARGEST)
    hits: dict[str, list[bool]] = {}
    for repeat in repeats:
        rng = np.random.default_rng((SEED, repeat))
        sizes = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), n_sites))
        truths = centre + tau * rng.normal(size=n_sites)
        sites = [
            figure(rng, truth, VARIANCE * middle / size, n_trainings, luck)
            for truth, size in zip(truths, sizes, strict=True)
        ]
        new = float(expit(centre + tau * rng.normal() + luck * rng.normal()))
        found = combine_figures(sites)
        hits.setdefault("mean", []).append(found.mean_low <= MEAN <= found.mean_high)
        hits.setdefault("new site", []).append(found.new_site_low <= new <= found.new_site_high)
        if n_trainings == 1:
            hits.setdefault("mean, HK alone", []).append(hartung_knapp_holds(sites, centre))
    return hits


def main() -> None:
    """See the module."""
    n_repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    found = {}
    for n_sites in (4, 8, 15):
        for n_trainings in (1, 3):
            for i2 in (0.0, 0.25, 0.5, 0.75, 0.9):
                name = f"{n_sites} sites, {n_trainings} trainings, I2 {i2:g}"
                hits = simulate(n_sites, i2, n_trainings, range(n_repeats))
                found[name] = {what: float(np.mean(some)) for what, some in hits.items()}
                print(name, {what: round(share, 3) for what, share in found[name].items()}, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
