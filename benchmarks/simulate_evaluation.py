"""Simulated evaluations -> false alarms of the verdicts, coverage of intervals, level and power of test and gates.

Every evaluation here is honest: a model of known true AUC, images in groups whose members resemble each other,
predictions joined rightly. Run it with `.venv/bin/python benchmarks/simulate_evaluation.py [n_evaluations]
[n_repeats]`; with 1,000 and 300, some minutes on one core. With 0 evaluations only the hard settings are measured: few
or unequal groups, rare positives, nearly perfect models, and the best of a year's looks. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from scipy.stats import norm

from lesion_tasks.catalog.gates import GATES, objections
from lesion_tasks.metrics import integrity
from lesion_tasks.metrics.auc import measure_auc
from lesion_tasks.metrics.binary import binary_figures
from lesion_tasks.metrics.compare import auc_difference, compare, compare_slices
from lesion_tasks.metrics.document import confusion_counts
from lesion_tasks.metrics.leaks import leaks
from lesion_tasks.metrics.probes import fit_probes
from lesion_tasks.metrics.ranking import ranking_values
from lesion_tasks.metrics.resample import Resampling, resampled_auc
from lesion_tasks.metrics.scored import Scored, join
from lesion_tasks.metrics.shortcut import shortcut
from lesion_tasks.metrics.threshold import choose_threshold
from lesion_tasks.metrics.verdict import Verdict
from lesion_tasks.metrics.winners_curse import correct_for_looks

CLASSES = {"class_names": ("benign", "malignant"), "positive_class": "malignant"}
SEED = 7


class World:
    """One simulated task: prevalence, how alike a group's images are, how much the metadata tell."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.prevalence = float(np.exp(rng.uniform(np.log(0.05), np.log(0.5))))
        self.images_per_group = float(rng.uniform(1, 3))
        self.likeness = float(rng.uniform(0, 0.8))
        self.age_effect = float(rng.uniform(0, 0.8))
        self.n_image_types = int(rng.integers(1, 3))

    def images(self, n_images: int, prefix: str) -> pd.DataFrame:
        """Manifest rows; the images of a group share its label, as those of a lesion do."""
        rng = self.rng
        group = np.sort(rng.integers(0, max(int(n_images / self.images_per_group), 20), n_images))
        malignant = (rng.random(group.max() + 1) < self.prevalence)[group]
        age = 50 + 15 * self.age_effect * malignant + 15 * rng.normal(size=n_images)
        return pd.DataFrame(
            {
                "isic_id": [f"{prefix}{index:06d}" for index in range(n_images)],
                "label": np.where(malignant, "malignant", "benign"),
                "group_id": [f"{prefix}{index}" for index in group],
                "lesion_id": [f"{prefix}{index}" for index in group],
                "perceptual_hash": rng.integers(0, 2**63, n_images).astype(np.uint64),
                "age_years": np.where(rng.random(n_images) < 0.1, np.nan, np.clip(age, 0, 85) // 5 * 5),
                "sex": rng.choice(["male", "female"], n_images),
                "size_mm": np.where(
                    rng.random(n_images) < 0.6 - 0.1 * malignant, np.nan, rng.gamma(4, 2, n_images)
                ),
                "image_type": np.array(["dermoscopic", "clinical"])[
                    rng.integers(0, self.n_image_types, n_images)
                ],
                "width_px": rng.choice([600, 1024, 1872], n_images),
                "size_bytes": rng.integers(10_000, 200_000, n_images),
            }
        )

    def latent(self, rows: pd.DataFrame) -> np.ndarray:
        """(n,) standard normal noise, correlated within groups."""
        group = rows["group_id"].factorize()[0]
        shared = self.rng.normal(size=group.max() + 1)[group]
        own = self.rng.normal(size=len(rows))
        return np.sqrt(self.likeness) * shared + np.sqrt(1 - self.likeness) * own

    def predictions(self, rows: pd.DataFrame, auc: float, noise: np.ndarray) -> Scored:
        """Scores whose true AUC is `auc`: two normal distributions sqrt(2) x quantile(AUC) apart."""
        distance = np.sqrt(2) * norm.ppf(auc)
        latent = distance * (rows["label"] == "malignant").to_numpy() + noise
        odds = self.prevalence / (1 - self.prevalence) * np.exp(distance * latent - distance**2 / 2)
        return join(dict(zip(rows["isic_id"], odds / (1 + odds), strict=True)), rows, **CLASSES)


def honest_verdicts(rng: np.random.Generator) -> list[Verdict]:
    """Every verdict on one honest evaluation."""
    n_images = int(np.exp(rng.uniform(np.log(300), np.log(5_000))))
    auc = float(rng.uniform(0.75, 0.95))
    world = World(rng)
    train, val, test = (
        world.images(n, prefix) for n, prefix in ((2_000, "A"), (n_images, "B"), (n_images, "C"))
    )
    if min(rows["label"].nunique() for rows in (train, val, test)) < 2:
        return honest_verdicts(rng)
    # The stored epoch is the luckiest of five on validation.
    base = world.latent(val)
    epochs = [world.predictions(val, auc, 0.9**0.5 * base + 0.1**0.5 * world.latent(val)) for _ in range(5)]
    validation = max(
        epochs, key=lambda scored: measure_auc(scored.is_positive, scored.scores, scored.groups).value
    )
    noise = world.latent(test)
    model = world.predictions(test, auc, noise)
    baseline = None
    if rng.random() < 0.3:  # the random-weight sibling was trained too, and is clearly worse
        sibling = 0.6**0.5 * noise + 0.4**0.5 * world.latent(test)
        baseline = world.predictions(test, auc - rng.uniform(0.05, 0.2), sibling)
    cut = choose_threshold(validation).value
    own = measure_auc(model.is_positive, model.scores, model.groups)
    stored = dict(zip(model.isic_ids, model.scores, strict=True))
    again = {key: value + rng.normal() * 1e-6 for key, value in list(stored.items())[:64]}
    return [
        integrity.ids_differ(stored, test["isic_id"]),
        integrity.independent_of_labels(model, threshold=cut, trainer_auc=own.value + rng.normal() * 0.001),
        integrity.inverted(model),
        integrity.marginals_differ(
            confusion_counts(model, cut), model.class_names, test["label"].value_counts().to_dict()
        ),
        integrity.degenerate(model, threshold=cut),
        integrity.serving_differs(stored, {"batch": again}),
        leaks({"train": train, "val": val, "test": test}),
        shortcut(model, fit_probes(train, test, **CLASSES)),
        integrity.no_better_than_random_weights(model, baseline),
        integrity.gap(validation, model),
    ]


def false_alarms(n_evaluations: int, seed: int = SEED) -> tuple[float, Counter[str]]:
    """Share of honest evaluations with a blocking verdict, and how often each name stood there."""
    names: Counter[str] = Counter()
    n_blocked = 0
    for child in np.random.SeedSequence(seed).spawn(n_evaluations):
        found = [one for one in honest_verdicts(np.random.default_rng(child)) if one.blocks]
        names.update(verdict.name for verdict in found)
        n_blocked += bool(found)
    return n_blocked / n_evaluations, names


def clustered(
    rng: np.random.Generator, *, n_images: int, auc: float, prevalence: float, likeness: float
) -> Iterator[np.ndarray]:
    """Labels, groups and endless scores: groups of about 2.5 images, half of them with images of both classes."""
    groups = np.unique(rng.integers(0, int(n_images / 2.5), n_images), return_inverse=True)[1]
    of_group = (rng.random(groups.max() + 1) < prevalence)[groups]
    is_positive = np.where(
        rng.random(groups.max() + 1)[groups] < 0.5, of_group, rng.random(n_images) < prevalence
    )
    yield is_positive
    yield groups
    while True:
        noise = np.sqrt(likeness) * rng.normal(size=groups.max() + 1)[groups]
        noise += np.sqrt(1 - likeness) * rng.normal(size=n_images)
        yield np.sqrt(2) * norm.ppf(auc) * is_positive + noise


def coverage(
    n_repeats: int,
    *,
    n_images: int,
    auc: float,
    prevalence: float,
    likeness: float,
    n_resamples: int = 500,
    seed: int = SEED,
) -> dict[str, float]:
    """Share of 95 % intervals that contain the true AUC, by method."""
    hits: Counter[str] = Counter()
    resampling = Resampling(n_resamples=n_resamples)
    for child in np.random.SeedSequence(seed).spawn(n_repeats):
        drawn = clustered(
            np.random.default_rng(child), n_images=n_images, auc=auc, prevalence=prevalence, likeness=likeness
        )
        is_positive, groups, scores = next(drawn), next(drawn), next(drawn)
        by_group = measure_auc(is_positive, scores, groups)
        by_image = measure_auc(is_positive, scores, np.arange(n_images))
        hits["delong_by_group"] += by_group.interval().low <= auc <= by_group.interval().high
        hits["delong_ignoring_groups"] += by_image.interval().low <= auc <= by_image.interval().high
        if n_resamples:
            interval = resampling.interval(resampled_auc(is_positive, scores, groups, resampling))
            hits["bootstrap_by_group"] += interval is not None and interval.low <= auc <= interval.high
    return {name: count / n_repeats for name, count in hits.items()}


# Name -> groups, images, AUC, prevalence, likeness: the share of the noise that a group's images have in common.
HARD = {
    "ordinary, 400 images": ("ordinary", 400, 0.85, 0.2, 0.5),
    "ordinary, 1,000 images": ("ordinary", 1_000, 0.90, 0.1, 0.5),
    "every image a group": ("single", 400, 0.85, 0.2, 0.0),
    "15 groups": ("fifteen", 400, 0.85, 0.3, 0.3),
    "group sizes by Pareto": ("pareto", 1_000, 0.85, 0.2, 0.5),
    "one group has 30 %": ("dominant", 600, 0.85, 0.2, 0.5),
    "one group has 30 %, little alike": ("dominant", 600, 0.85, 0.2, 0.1),
    "AUC 0.99": ("ordinary", 600, 0.99, 0.2, 0.5),
    "prevalence 2 %, 400 images": ("single", 400, 0.85, 0.02, 0.0),
    "prevalence 2 %, 3,000 images": ("ordinary", 3_000, 0.85, 0.02, 0.5),
}
HARD_MEASURES = (
    "auc",
    "sensitivity",
    "specificity",
    "balanced_accuracy",
    "sensitivity_at_90_specificity",
    "specificity_at_90_sensitivity",
    "calibration_slope",
    "calibration_intercept",
)


def _hard_groups(rng: np.random.Generator, kind: str, n_images: int) -> np.ndarray:
    if kind == "single":
        return np.arange(n_images)
    if kind == "ordinary":
        groups = rng.integers(0, int(n_images / 2.5), n_images)
    elif kind == "fifteen":
        groups = np.r_[np.arange(15), rng.integers(0, 15, n_images - 15)]
    elif kind == "pareto":
        size = rng.pareto(1.2, n_images // 4) + 1
        groups = rng.choice(len(size), n_images, p=size / size.sum())
    else:
        n_dominant = int(0.3 * n_images)
        n_others = n_images - n_dominant
        groups = np.r_[np.zeros(n_dominant, int), 1 + rng.integers(0, int(n_others / 2.5), n_others)]
    return np.unique(groups, return_inverse=True)[1]


def hard_coverage(
    n_repeats: int, name: str, *, n_resamples: int = 200, seed: int = SEED
) -> dict[str, tuple[float | None, float]]:
    """Measure -> share of the 95 % intervals shown that contain the truth (None: none shown), and share shown.

    The truth is that of the two normal distributions: scores are the posterior probabilities, so slope 1, intercept 0.
    """
    kind, n_images, auc, prevalence, likeness = HARD[name]
    distance, cut = float(np.sqrt(2) * norm.ppf(auc)), 1.0
    at_90 = float(norm.cdf(distance - norm.ppf(0.9)))
    sensitivity, specificity = float(norm.cdf(distance - cut)), float(norm.cdf(cut))
    truth = dict(
        zip(
            HARD_MEASURES,
            (auc, sensitivity, specificity, (sensitivity + specificity) / 2, at_90, at_90, 1.0, 0.0),
            strict=True,
        )
    )
    n_shown: Counter[str] = Counter()
    n_hit: Counter[str] = Counter()
    resampling = Resampling(n_resamples=n_resamples)
    for child in np.random.SeedSequence(seed).spawn(n_repeats):
        rng = np.random.default_rng(child)
        groups = _hard_groups(rng, kind, n_images)
        of_group = (rng.random(groups.max() + 1) < prevalence)[groups]
        is_shared = (rng.random(groups.max() + 1) < 0.5)[groups]
        is_positive = np.where(is_shared, of_group, rng.random(n_images) < prevalence)
        noise = np.sqrt(likeness) * rng.normal(size=groups.max() + 1)[groups]
        latent = distance * is_positive + noise + np.sqrt(1 - likeness) * rng.normal(size=n_images)
        odds = prevalence / (1 - prevalence) * np.exp(distance * latent - distance**2 / 2)
        cut_odds = prevalence / (1 - prevalence) * np.exp(distance * cut - distance**2 / 2)
        scored = _scored(is_positive, groups, norm.ppf(odds / (1 + odds)))
        figures = binary_figures(
            scored, threshold=cut_odds / (1 + cut_odds), resampling=resampling, prevalences=()
        )
        for measure, true in truth.items():
            interval = figures[measure].interval
            n_shown[measure] += interval is not None
            n_hit[measure] += interval is not None and interval.low <= true <= interval.high
    return {
        measure: (
            n_hit[measure] / n_shown[measure] if n_shown[measure] else None,
            n_shown[measure] / n_repeats,
        )
        for measure in truth
    }


def optimism(
    n_repeats: int, *, n_looks: int = 52, n_images: int = 500, shared: float = 0.93, seed: int = SEED
) -> dict[str, float]:
    """Equal models, retrained every week and looked at on one test set: how far the best one's AUC is too high.

    `shared`: share of the noise that the models have in common, as retrained models do.
    """
    auc, distance = 0.85, np.sqrt(2) * norm.ppf(0.85)
    sums: Counter[str] = Counter()
    for child in np.random.SeedSequence(seed).spawn(n_repeats):
        rng = np.random.default_rng(child)
        is_positive = rng.random(n_images) < 0.2
        common = distance * is_positive + np.sqrt(shared) * rng.normal(size=n_images)
        looks = [
            measure_auc(
                is_positive,
                common + np.sqrt(1 - shared) * rng.normal(size=n_images),
                np.arange(n_images),
            )
            for _ in range(n_looks)
        ]
        best = max(looks, key=lambda look: look.value)
        found = correct_for_looks(
            best.value,
            best.standard_error,
            n_looks,
            [look.value for look in looks if look is not best],
            degrees=best.degrees,
        )
        sums["naive"] += best.value - auc
        sums["corrected"] += found.value - auc
        sums["naive_coverage"] += best.interval().low <= auc <= best.interval().high
        sums["corrected_coverage"] += found.interval.low <= auc <= found.interval.high
    return {name: value / n_repeats for name, value in sums.items()}


def first_champions(n_repeats: int, *, n_images: int, auc: float, seed: int = SEED) -> dict[str, float]:
    """Share of first candidates of a true AUC that clear the floors by the point, and by the lower limit."""
    gates = GATES["malignancy"]
    resampling = Resampling(n_resamples=200)
    n_clear: Counter[str] = Counter(point=0, lower_limit=0)
    for candidate, _ in pairs(n_repeats, gain=0.0, n_images=n_images, auc=auc, shared=0.7, seed=seed):
        figures = binary_figures(candidate, threshold=None, resampling=resampling, prevalences=())
        document = {name: figure.published().model_dump() for name, figure in figures.items()}
        n_clear["lower_limit"] += not objections(document, None, gates)
        n_clear["point"] += all(document[gate.measure]["value"] >= gate.floor for gate in gates)
    return {name: count / n_repeats for name, count in n_clear.items()}


def rejections(
    n_repeats: int,
    *,
    gain: float,
    n_images: int = 1_000,
    auc: float = 0.85,
    shared: float = 0.7,
    seed: int = SEED,
) -> float:
    """Share of pairs of models, `gain` apart in true AUC, that the paired test tells apart at 5 %."""
    n_rejected = 0
    for models in pairs(n_repeats, gain=gain, n_images=n_images, auc=auc, shared=shared, seed=seed):
        difference = auc_difference(*models)
        n_rejected += difference is not None and difference.p_value < 0.05
    return n_rejected / n_repeats


def pairs(
    n_repeats: int, *, gain: float, n_images: int, auc: float, shared: float, seed: int
) -> Iterator[tuple[Scored, Scored]]:
    """Candidate and champion on the same grouped images: `gain` apart in true AUC, `shared` of the noise in common."""
    for child in np.random.SeedSequence(seed).spawn(n_repeats):
        rng = np.random.default_rng(child)
        drawn = clustered(rng, n_images=n_images, auc=0.5, prevalence=0.2, likeness=0.5)
        is_positive, groups, common, first, second = (next(drawn) for _ in range(5))
        sites = rng.choice(["torso", "lower extremity", "head/neck", "palms/soles"], n_images)
        sexes = rng.choice(["female", "male"], n_images)
        candidate, champion = (
            _scored(
                is_positive,
                groups,
                np.sqrt(2) * norm.ppf(true) * is_positive
                + np.sqrt(shared) * common
                + np.sqrt(1 - shared) * own,
                sex=sexes,
                anatom_site=sites,
            )
            for true, own in ((auc + gain, first), (auc, second))
        )
        yield candidate, champion


def promoted(
    n_repeats: int, *, gain: float, n_images: int, auc: float = 0.85, seed: int = SEED
) -> dict[str, float]:
    """Share of candidates that clear every gate, and that would if each guarded loss had to be excluded."""
    gates = GATES["malignancy"]
    strict = [replace(gate, is_exclusion_needed=not gate.is_leading) for gate in gates]
    resampling = Resampling(n_resamples=200)
    n_promoted: Counter[str] = Counter(measured=0, excluded=0)
    for candidate, champion in pairs(n_repeats, gain=gain, n_images=n_images, auc=auc, shared=0.7, seed=seed):
        values = ranking_values(candidate.is_positive, candidate.scores)
        differences = compare(candidate, champion, resampling=resampling)
        comparison = {
            "differences": {
                name: difference.published().model_dump() for name, difference in differences.items()
            },
            "slices": [one.published().model_dump() for one in compare_slices(candidate, champion)],
        }
        figures = {name: {"value": value} for name, value in values.items()}
        n_promoted["measured"] += not objections(figures, comparison, gates)
        n_promoted["excluded"] += not objections(figures, comparison, strict)
    return {name: count / n_repeats for name, count in n_promoted.items()}


def _scored(
    is_positive: np.ndarray, groups: np.ndarray, latent: np.ndarray, **attributes: np.ndarray
) -> Scored:
    rows = pd.DataFrame(
        {
            "isic_id": np.arange(len(groups)).astype(str),
            "label": np.where(is_positive, "malignant", "benign"),
            "group_id": groups.astype(str),
            **attributes,
        }
    )
    return join(dict(zip(rows["isic_id"], norm.cdf(latent), strict=True)), rows, **CLASSES)


def main() -> None:
    n_evaluations = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    n_repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    found, passed = hard_settings(n_repeats)
    if n_evaluations:
        more, is_good = ordinary_settings(n_evaluations)
        found, passed = found | more, passed and is_good
    target = "false alarms <= 0.01, coverage 0.93 to 0.97, level 0.05, optimism <= 0.003"
    print(json.dumps({"name": "simulate_evaluation", **found, "target": target, "passed": passed}))
    sys.exit(0 if passed else 1)


def hard_settings(n_repeats: int) -> tuple[dict[str, Any], bool]:
    """Coverage by setting and measure, floors of first champions, the best of 52 looks; whether all is as wanted."""
    hard = {name: hard_coverage(n_repeats, name) for name in HARD}
    for name, by_measure in hard.items():
        print(f"coverage (share shown), {name}: {words_of(by_measure)}")
    looks = optimism(n_repeats)
    print(f"the best of 52 looks at 500 images: {looks}")
    firsts = {
        f"n {n_images}, AUC {auc}": first_champions(n_repeats, n_images=n_images, auc=auc)
        for n_images, auc in ((200, 0.7), (200, 0.85), (1_000, 0.7), (1_000, 0.85))
    }
    for name, shares in firsts.items():
        print(f"first champion, {name}: {shares}")
    # Three standard errors of a simulated share around the range that is wanted.
    slack = 3 * (0.95 * 0.05 / n_repeats) ** 0.5
    shares = [pair for by_measure in hard.values() for pair in by_measure.values()]
    is_covered = all(
        0.93 - slack / shown**0.5 <= covered <= 0.97 + slack / shown**0.5
        for covered, shown in shares
        if covered is not None
    )
    passed = is_covered and abs(looks["corrected"]) <= 0.003
    return {"n_repeats": n_repeats, "hard_coverage": hard, "looks": looks, "first_champions": firsts}, passed


def words_of(by_measure: dict[str, tuple[float | None, float]]) -> str:
    return ", ".join(
        f"{measure} none" if covered is None else f"{measure} {covered:.3f} ({shown:.2f})"
        for measure, (covered, shown) in by_measure.items()
    )


def ordinary_settings(n_evaluations: int) -> tuple[dict[str, Any], bool]:
    """False alarms, coverage of AUC, level and power of the paired test, what the gates let through."""
    rate, names = false_alarms(n_evaluations)
    print(f"{n_evaluations} honest evaluations: {rate:.4f} blocked, {dict(names)}")
    covered = {}
    for n_images, auc, prevalence, likeness in (
        (400, 0.75, 0.2, 0.5),
        (400, 0.90, 0.2, 0.5),
        (400, 0.85, 0.1, 0.8),
        (1_000, 0.85, 0.2, 0.8),
        (1_000, 0.95, 0.1, 0.5),
        (3_000, 0.90, 0.04, 0.5),
    ):
        name = f"n {n_images}, AUC {auc}, prevalence {prevalence}, likeness {likeness}"
        covered[name] = coverage(2_000, n_images=n_images, auc=auc, prevalence=prevalence, likeness=likeness)
        print(f"coverage, {name}: {covered[name]}")
    tested = {f"{gain:g}": rejections(2_000, gain=gain) for gain in (0.0, 0.01, 0.02, 0.03, 0.05)}
    print(f"paired test at 5 %, share told apart by true gain: {tested}")
    decided = {}
    for n_images in (500, 1_500, 5_000):
        for gain in (-0.05, -0.02, 0.0, 0.02, 0.05):
            name = f"n {n_images}, gain {gain:g}"
            decided[name] = promoted(300, gain=gain, n_images=n_images)
            print(f"promoted, {name}: {decided[name]}")
    quoted = [values["delong_by_group"] for values in covered.values()]
    passed = (
        rate <= 0.01 and all(0.93 <= value <= 0.97 for value in quoted) and abs(tested["0"] - 0.05) <= 0.015
    )
    return {
        "n_evaluations": n_evaluations,
        "false_alarm_share": rate,
        "blocked_by": dict(names),
        "coverage": covered,
        "paired_test": tested,
        "promoted": decided,
    }, passed


if __name__ == "__main__":
    main()
