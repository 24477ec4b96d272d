"""Simulated months without and with a shift -> how often a watch finds one, and how often it tells people.

Images come in groups of one to five that resemble each other, from three institutions with cameras of their own.
Without a shift, new groups come from the same world as the test set. Run it with
`.venv/bin/python benchmarks/simulate_watch.py [n_repeats] [n_repeats_of_each_shift]`; with 1,000 and 20, some ten
minutes on one core. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd

from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.watch_bounds import WATCH_BOUNDS
from lesion_tasks.metrics.newer_figures import measure_newer
from lesion_tasks.metrics.shifts import find_shifts
from lesion_tasks.metrics.watch_document import ShiftTest
from lesion_tasks.pixels.picture_facts import FACTS
from lesion_tasks.watching.watched_images import one_of_each_group

SEED = 18
N_FEATURES = 60
LIKENESS = 0.7  # of the images of a group: the share of a number's variance that they have in common
TASK = TASKS["malignancy"]
THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class World:
    """Where images come from."""

    institutions: dict[str, float] = field(default_factory=lambda: {"A": 0.5, "B": 0.3, "C": 0.2})
    prevalence: float = 0.25
    missing_age: float = 0.05
    facts: dict[str, float] = field(default_factory=dict)  # added, in standard deviations
    facts_of_a: dict[str, float] = field(default_factory=dict)  # the same, at institution A alone
    distance: float = 2.0  # between the classes, as the model sees them


SHIFTS = {
    "colour": World(facts={"red_cast": 0.8, "blue_cast": -0.6}),
    "blur": World(facts={"sharpness": -0.8, "fine_noise": -0.8}),
    "prevalence": World(prevalence=0.45),
    "missing age": World(missing_age=0.3),
    "a new institution": World(institutions={"A": 0.42, "B": 0.26, "C": 0.17, "D": 0.15}),
    "colour at one institution": World(facts_of_a={"red_cast": 0.8, "blue_cast": -0.8}),
}
WORSE = World(distance=1.0)


def draw(rng: np.random.Generator, world: World, n_groups: int, features: int = N_FEATURES) -> pd.DataFrame:
    """Images as a watch has them."""
    group = np.repeat(np.arange(n_groups), rng.integers(1, 6, n_groups))
    n = len(group)

    def number() -> np.ndarray:
        return np.sqrt(LIKENESS) * rng.normal(size=n_groups)[group] + np.sqrt(1 - LIKENESS) * rng.normal(
            size=n
        )

    def choice(values: dict[str | None, float]) -> np.ndarray:
        names = np.array([*values], dtype=object)
        return names[rng.choice(len(names), n_groups, p=[*values.values()])][group]

    institution = choice({**world.institutions})
    is_malignant = (rng.random(n_groups) < world.prevalence)[group]
    camera = {
        name: np.random.default_rng(ord(name)).normal(size=len(FACTS) + features) * 0.7 for name in "ABCD"
    }
    numbers = np.column_stack([number() for _ in range(len(FACTS) + features)])
    numbers += np.stack([camera[name] for name in institution])
    numbers[:, len(FACTS)] += 0.5 * is_malignant
    for added, here in ((world.facts, np.ones(n, dtype=bool)), (world.facts_of_a, institution == "A")):
        for name, distance in added.items():
            numbers[here, FACTS.index(name)] += distance
    age = np.clip(50 + 15 * rng.normal(size=n_groups) + 8 * (rng.random(n_groups) < 0.5), 0, 85) // 5 * 5
    age[rng.random(n_groups) < world.missing_age] = np.nan
    size = np.where(rng.random(n_groups) < 0.4, np.nan, 6 + 2 * rng.normal(size=n_groups))
    score = 1 / (1 + np.exp(-(world.distance * (is_malignant - 0.5) + number() - 0.3)))
    label = np.where(is_malignant, "malignant", "benign").astype(object)
    label[(rng.random(n_groups) < 0.2)[group]] = None
    called = np.where(score >= THRESHOLD, "malignant", "benign").astype(object)
    strangeness = np.exp(0.3 * number() - 0.6)
    ids = rng.permutation(n * 4)[:n]
    return pd.DataFrame(
        {
            "isic_id": [f"ISIC_{one:07d}" for one in ids],
            "group_id": [f"G{one}" for one in group],
            "label": label,
            "age_years": age[group],
            "size_mm": size[group],
            "sex": choice({"male": 0.48, "female": 0.46, None: 0.06}),
            "anatom_site": choice({"torso": 0.5, "head/neck": 0.2, "lower extremity": 0.25, None: 0.05}),
            "fitzpatrick_skin_type": choice({"II": 0.1, "III": 0.1, None: 0.8}),
            "diagnosis_confirm_type": choice({"histopathology": 0.6, "single image expert consensus": 0.4}),
            "image_type": "dermoscopic",
            "attribution": institution,
            "p_benign": 1 - score,
            "p_malignant": score,
            "score": score,
            "called": called,
            "answered": np.where(np.abs(score - 0.5) > 0.15, called, "several classes are possible").astype(
                object
            ),
            "strangeness": strangeness,
            "facts": list(numbers[:, : len(FACTS)]),
            "features": list(numbers[:, len(FACTS) :]),
        }
    )


def watched(rng: np.random.Generator, world: World, n_reference: int, n_new: int) -> list[ShiftTest]:
    """The shifts that a watch finds of new groups of a world."""
    sides = draw(rng, World(), n_reference), draw(rng, world, n_new)
    return find_shifts(*(one_of_each_group(side) for side in sides), FACTS)


def fell(rng: np.random.Generator, world: World, n_reference: int, n_new: int) -> bool:
    """Whether a watch tells people that a figure fell."""
    test, new = draw(rng, World(), n_reference, 1), draw(rng, world, n_new, 1)
    new["isic_id"] = "N" + new["isic_id"]
    found = measure_newer(test, {"2026-10": new}, TASK, THRESHOLD)
    return any(one.is_beyond for one in found.falls)


def share(n_repeats: int, name: str, ask: Callable[[np.random.Generator], bool], seed: int) -> float:
    """How often something is found."""
    begun = time.monotonic()
    n_found = sum(ask(np.random.default_rng([seed, i])) for i in range(n_repeats))
    print(
        f"{name}: {n_found} of {n_repeats}, {(time.monotonic() - begun) / n_repeats:.2f} s each", flush=True
    )
    return n_found / n_repeats


def main(n_repeats: int, n_of_shift: int, n_reference: int = 300, n_new: int = 150) -> None:
    """Print every share, and all of them as JSON."""
    by_name: Counter[str] = Counter()

    def finds(rng: np.random.Generator, world: World = World()) -> bool:
        tests = watched(rng, world, n_reference, n_new)
        by_name.update(f"{one.institution or 'all'}: {one.name}" for one in tests if one.is_found)
        return any(one.is_found for one in tests)

    said: dict[str, float] = {"none, found": share(n_repeats, "no shift, found", finds, SEED)}
    print(f"  found: {dict(by_name)}")
    said["none, fell"] = share(n_repeats, "no fall, told", lambda rng: fell(rng, World(), 400, 200), SEED + 1)
    for number, (name, world) in enumerate(SHIFTS.items(), start=2):
        said[name] = share(
            n_of_shift,
            f"{name}, told",
            lambda rng, world=world: any(one.is_beyond for one in watched(rng, world, 800, 400)),
            SEED + number,
        )
    said["worse classes, told"] = share(
        n_of_shift, "worse, told", lambda rng: fell(rng, WORSE, 400, 400), SEED + 20
    )
    # With many groups a trifle is more than chance, and nobody is told.
    slight = replace(World(), prevalence=0.29, facts={"brightness": 0.08})
    for name, is_told in (("a trifle, found", False), ("a trifle, told", True)):
        said[name] = share(
            max(n_of_shift // 4, 1),
            name,
            lambda rng, is_told=is_told: any(
                one.is_beyond if is_told else one.is_found for one in watched(rng, slight, 4_000, 4_000)
            ),
            SEED + 21,
        )
    print(json.dumps({"error_rate": WATCH_BOUNDS.error_rate, **said}))


if __name__ == "__main__":
    given = [int(one) for one in sys.argv[1:]]
    main(*(given + [1_000, 20][len(given) :]))
