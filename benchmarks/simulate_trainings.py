"""Drawn features and small networks that are really trained -> how often luck of training is taken for an institution.

Each repeat draws institutions, trains a network without each of them as often as said, tests it on all of it, and
combines the figures as `lesion leave-out` does. Images come in groups of one to four that resemble each other. The
network is small and its training short, so that another seed gives another model, now and then a bad one. Three worlds:
institutions alike; one of them in which the features say nothing; and all of them different, so that there is something
to predict of a new one. Its truth is the AUC there of one more training, on many images: one on as many institutions as
the folds learned from, and one on all of them. Run it with `.venv/bin/python benchmarks/simulate_trainings.py
[n_repeats]`; with 200, minutes on one core. Options choose one world, number of institutions and of trainings, and
which repeats: each has a seed of its own. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from lesion_tasks.catalog.split_recipes import N_TRAININGS
from lesion_tasks.metrics.auc import Auc, measure_auc
from lesion_tasks.metrics.between_sites import BetweenSites, combine_sites, site_figure

SEED = 11
WORLDS = ("alike", "planted", "different")
N_FEATURES = 12
PREVALENCE = 0.35
LIKENESS = 0.5
SMALLEST, LARGEST = 80, 240  # groups of an institution
N_OF_A_NEW_ONE = 4_000  # groups, so that its AUC is known
SIGNAL, TOGETHER = 0.7, 1.4
N_HIDDEN, N_STEPS, BATCH, RATE = 3, 150, 64, 0.05
IGNORED = f"{N_TRAININGS} trainings, groups ignored"
APART = 0.45  # in the third world: standard deviation of what each feature says at an institution


@dataclass(frozen=True, kw_only=True)
class Site:
    """Features (n, N_FEATURES), labels (n,) bool and groups (n,) of one institution."""

    features: np.ndarray
    positive: np.ndarray
    groups: np.ndarray


def draw_site(rng: np.random.Generator, world: str, n_groups: int, *, is_planted: bool = False) -> Site:
    """An institution: four features are shifted by the class, two more tell it only together."""
    groups = np.repeat(np.arange(n_groups), rng.integers(1, 5, n_groups))
    positive = (rng.random(n_groups) < PREVALENCE)[groups]
    noise = np.sqrt(LIKENESS) * rng.normal(size=(n_groups, N_FEATURES))[groups]
    features = noise + np.sqrt(1 - LIKENESS) * rng.normal(size=(len(groups), N_FEATURES))
    says = np.zeros(N_FEATURES)
    says[:4] = 0.0 if is_planted else SIGNAL / 2
    if world == "different":
        says[:4] += APART * rng.normal(size=4)
    features += np.outer(positive, says)
    if not is_planted:
        side = np.where(rng.random(n_groups) < 0.5, 1, -1)[groups]
        features[:, 4] += TOGETHER * side
        features[:, 5] += TOGETHER * np.where(positive, side, -side)
    return Site(features=features, positive=positive, groups=groups)


@dataclass(frozen=True, kw_only=True)
class Network:
    """One hidden layer of rectified units."""

    hidden: np.ndarray  # (N_FEATURES + 1, N_HIDDEN)
    last: np.ndarray  # (N_HIDDEN + 1,)

    def scores(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(_with_one(np.maximum(_with_one(features) @ self.hidden, 0)) @ self.last)


def _with_one(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.ones((*values.shape[:-1], 1))], axis=-1)


def train(rng: np.random.Generator, learned: Sequence[Sequence[Site]]) -> list[Network]:
    """A network on each of these collections of institutions, side by side: Adam on the cross-entropy of small batches.

    Each has weights and batches of its own.
    """
    n = len(learned)
    features = [_with_one(np.concatenate([one.features for one in some])) for some in learned]
    positive = [np.concatenate([one.positive for one in some]) for some in learned]
    weights = [
        rng.normal(size=(n, N_FEATURES + 1, N_HIDDEN)) / np.sqrt(N_FEATURES),
        rng.normal(size=(n, N_HIDDEN + 1)) / np.sqrt(N_HIDDEN),
    ]
    means, squares = ([np.zeros_like(one) for one in weights] for _ in range(2))
    for step in range(1, N_STEPS + 1):
        batches = [rng.integers(len(one), size=BATCH) for one in positive]
        x = np.stack([one[rows] for one, rows in zip(features, batches, strict=True)])
        y = np.stack([one[rows] for one, rows in zip(positive, batches, strict=True)])
        inner = x @ weights[0]
        out = _with_one(np.maximum(inner, 0))
        error = (expit(np.einsum("nbh,nh->nb", out, weights[1])) - y) / BATCH
        back = error[:, :, None] * weights[1][:, None, :-1] * (inner > 0)
        gradients = [x.transpose(0, 2, 1) @ back, np.einsum("nb,nbh->nh", error, out)]
        for weight, gradient, mean, square in zip(weights, gradients, means, squares, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            corrected = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
            weight -= RATE * corrected
    return [Network(hidden=hidden, last=last) for hidden, last in zip(*weights, strict=True)]


def test(model: Network, site: Site, *, ungrouped: bool = False) -> Auc | None:
    """Its AUC on all of an institution, by group or as if every image were a group of its own."""
    groups = np.arange(len(site.groups)) if ungrouped else site.groups
    return measure_auc(site.positive, model.scores(site.features), groups)


def simulate(
    world: str, n_sites: int, repeats: Iterable[int], n_seeds: tuple[int, ...]
) -> dict[str, list[float]]:
    """What each repeat found, by number of trainings of each institution, and how much trainings differ."""
    hits: dict[str, list[float]] = {}
    for repeat in repeats:
        rng = np.random.default_rng((SEED, repeat))
        sizes = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), n_sites)).astype(int)
        sites = [
            draw_site(rng, world, int(n), is_planted=world == "planted" and i == 0)
            for i, n in enumerate(sizes)
        ]
        new = draw_site(rng, world, N_OF_A_NEW_ONE)
        without = [[one for one in sites if one is not site] for site in sites]
        learned = [some for some in without for _ in range(max(n_seeds))]
        *models, as_folds, of_all = train(rng, [*learned, without[int(rng.integers(n_sites))], sites])
        each = [models[i : i + max(n_seeds)] for i in range(0, len(models), max(n_seeds))]
        aucs, ungrouped = (
            [
                [one for model in some if (one := test(model, site, ungrouped=alone)) is not None]
                for some, site in zip(each, sites, strict=True)
            ]
            for alone in (False, True)
        )
        figures = [site_figure(some) for some in aucs]
        hits.setdefault("AUC", []).append(float(np.mean([one.value for some in aucs for one in some])))
        squares = [max(0.0, one.squares - one.expected) for one in figures if one is not None]
        hits.setdefault("variance of training", []).append(float(np.mean(squares)) / (max(n_seeds) - 1))
        together = {f"{n} trainings": combine_sites([some[:n] for some in aucs]) for n in n_seeds}
        if max(n_seeds) >= N_TRAININGS:
            together[IGNORED] = combine_sites([some[:N_TRAININGS] for some in ungrouped])
        for how, one in together.items():
            if isinstance(one, BetweenSites):
                hits.setdefault(f"said to differ, {how}", []).append(one.differ)
                width = logit(one.new_site_high) - logit(one.new_site_low)
                hits.setdefault(f"width, {how}", []).append(float(width))
        for words, model in (("as the folds", as_folds), ("of all", of_all)):
            truth = roc_auc_score(new.positive, model.scores(new.features))
            hits.setdefault(f"true AUC of a new one, {words}", []).append(truth)
            for how, one in together.items():
                if isinstance(one, BetweenSites):
                    is_held = one.new_site_low <= truth <= one.new_site_high
                    hits.setdefault(f"a new one, {words}, {how}", []).append(is_held)
    return hits


def summed_up(hits: dict[str, list[float]]) -> dict[str, float]:
    """The share or mean of each, over all repeats."""
    found = {name: float(np.mean(some)) for name, some in hits.items()}
    found["sd of training"] = found.pop("variance of training") ** 0.5
    return found


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser()
    options.add_argument("n_repeats", nargs="?", type=int, default=200)
    options.add_argument(
        "--first", type=int, default=0, help="The first repeat, by which its seed is chosen."
    )
    options.add_argument("--institutions", nargs="+", type=int, default=[4, 8])
    options.add_argument("--worlds", nargs="+", choices=WORLDS, default=WORLDS)
    options.add_argument(
        "--trainings", nargs="+", type=int, help="Of each institution; 2 or more among them."
    )
    given = options.parse_args()
    found = {}
    for n_sites in given.institutions:
        for world in given.worlds:
            began = time.monotonic()
            name = f"{n_sites} institutions, {world}"
            n_seeds = tuple(given.trainings or ((1, 2, 3, 5) if n_sites == 4 else (1, 3)))
            repeats = range(given.first, given.first + given.n_repeats)
            found[name] = summed_up(simulate(world, n_sites, repeats, n_seeds))
            print(name, {key: round(share, 3) for key, share in found[name].items()}, flush=True)
            print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
