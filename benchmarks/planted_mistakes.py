"""Mistakes planted in honest evaluations -> which verdict names each, and how often an honest one is refused.

Every evaluation is drawn: rows of a manifest with pictures of skin, a model of true AUC 0.9, its predictions of val and
test. A mistake changes one thing of it, and every check runs as it does in the pipeline. Run it with
`.venv/bin/python benchmarks/planted_mistakes.py [n_honest]`, and with `--write` to put the table into
`docs/evaluation.md`; with 100 honest evaluations of each kind a quarter of an hour.
"""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from PIL import Image as Pillow
from scipy.stats import norm

from benchmarks.simulate_evaluation import CLASSES, World
from lesion_tasks import UnusableInputError
from lesion_tasks.metrics import integrity
from lesion_tasks.metrics.document import confusion_counts
from lesion_tasks.metrics.headline import headline_auc
from lesion_tasks.metrics.leaks import leaks
from lesion_tasks.metrics.probes import PICTURE_PREFIX, fit_probes
from lesion_tasks.metrics.scored import Scored, join
from lesion_tasks.metrics.shortcut import shortcut
from lesion_tasks.metrics.threshold import choose_threshold
from lesion_tasks.metrics.verdict import Verdict
from lesion_tasks.pixels.picture_facts import FACTS, picture_facts
from lesion_tasks.training.predictions import digest_of_predictions

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "evaluation.md"
SIDE_PX = 48
AUC = 0.9
N_TRAIN, N_VAL, N_TEST = 1_500, 800, 1_000
N_DECODED = 128  # pictures of each subset that are decoded again
SITES = ("torso", "lower extremity", "upper extremity", "head/neck")
HOSPITALS = ("Hospital A", "Hospital B", "Hospital C")
METADATA_KEYS = ["isic_id", "label", "group_id", "sex", "age_years", "size_mm"]
LEARNED = ("train", "val")


@dataclass
class Evaluation:
    """What an evaluation starts from. `stored` is what the trainer wrote, `again` what the stored model gives."""

    rng: np.random.Generator
    rows: dict[str, pd.DataFrame]
    stored: dict[str, pd.Series]
    again: dict[str, dict[str, pd.Series]]
    trainer: dict[str, float]
    threshold: float
    counts: dict[str, dict[str, int]]
    today: dict[str, str | None]
    pictures: dict[str, np.ndarray]
    shown: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # pixels the model saw, where not those of pictures
    sealed: dict[str, str] = field(default_factory=dict)  # digests under which predictions were stored
    own: dict[str, pd.DataFrame] = field(default_factory=dict)  # on another manifest: what was learned from
    baseline: pd.Series | None = None
    is_of_metadata: bool = False

    def is_malignant(self, subset: str) -> np.ndarray:
        return (self.rows[subset]["label"] == "malignant").to_numpy()

    def latent(self, subset: str) -> np.ndarray:
        """(n,) what the stored predictions are, on a scale without ends."""
        return norm.ppf(self.stored[subset].to_numpy().clip(1e-9, 1 - 1e-9))

    def set_model(self, latent_of: Callable[[str], np.ndarray]) -> None:
        """Another model: its predictions, its trainer's figures, its threshold, and the same served again."""
        for subset in ("val", "test"):
            self.stored[subset] = pd.Series(norm.cdf(latent_of(subset)), index=self.rows[subset]["isic_id"])
            self.again[subset] = {"in batches": self.stored[subset] + self.rng.normal(size=1) * 1e-7}
            self.trainer[subset] = headline_auc(self.scored(subset)).value
        self.threshold = choose_threshold(self.scored("val")).value

    def seal(self) -> None:
        """Note what is stored, as the trainer does when it stores it."""
        self.sealed = {subset: self.digest(subset) for subset in self.stored}

    def digest(self, subset: str) -> str:
        """SHA-256 of what is stored of a subset now."""
        stored = self.stored[subset]
        return digest_of_predictions(pd.DataFrame({"benign": 1 - stored, "malignant": stored}))

    def scored(self, subset: str) -> Scored:
        return join(self.stored[subset].to_dict(), self.rows[subset], **CLASSES)


def honest(seed: int, *, auc: float = AUC, confounding: float = 0.0) -> Evaluation:
    """An evaluation without a mistake. `confounding`: how much more of one hospital's images are malignant."""
    rng = np.random.default_rng(seed)
    world = World(rng)
    world.prevalence = max(world.prevalence, 0.1)
    rows, pictures = {}, {}
    for subset, n, prefix in (("train", N_TRAIN, "A"), ("val", N_VAL, "B"), ("test", N_TEST, "C")):
        frame = world.images(n, prefix)
        is_malignant = (frame["label"] == "malignant").to_numpy()
        at_a = rng.random(n) < 0.4 + confounding * (is_malignant - 0.3)
        frame["attribution"] = np.where(at_a, HOSPITALS[0], rng.choice(HOSPITALS[1:], n))
        frame["copyright_license"] = np.where(frame["attribution"] == HOSPITALS[2], "CC-BY", "CC-0")
        frame["anatom_site"] = rng.choice(SITES, n)
        frame["height_px"] = frame["width_px"] * 3 // 4
        frame["patient_id"] = np.where(rng.random(n) < 0.5, "P" + frame["group_id"], None)
        frame["sha256"] = [f"{prefix}{index:063d}" for index in range(n)]
        rows[subset], pictures[subset] = frame, draw_pictures(rng, n)
    made = Evaluation(
        rng=rng,
        rows=rows,
        stored={},
        again={},
        trainer={},
        threshold=0.5,
        counts={name: frame["label"].value_counts().to_dict() for name, frame in rows.items()},
        today=dict(zip(rows["test"]["isic_id"], rows["test"]["label"], strict=True)),
        pictures=pictures,
    )
    distance = np.sqrt(2) * norm.ppf(auc)
    made.set_model(lambda subset: distance * (made.is_malignant(subset) - 0.5) + world.latent(rows[subset]))
    made.seal()
    return made


def draw_pictures(rng: np.random.Generator, n: int) -> np.ndarray:
    """Skin of many tones under many lights, a vignette on some, and a lesion: uint8 (n, side, side, 3)."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / (SIDE_PX - 1) - 0.5
    radius = np.hypot(x, y)
    # From dark to light, the channels nearly together.
    tone = np.array([150, 105, 85]) + rng.uniform(0, 70, (n, 1)) + rng.normal(0, 4, (n, 3))
    vignette = rng.uniform(0, 60, n)[:, None, None] * np.maximum(radius - 0.4, 0) * 3
    light = tone[:, None, None, :] - vignette[..., None]
    lesion = (radius < rng.uniform(0.15, 0.35, n)[:, None, None])[..., None] * rng.uniform(
        20, 80, (n, 1, 1, 1)
    )
    noise = rng.normal(0, 6, (n, SIDE_PX, SIDE_PX, 1))
    return np.clip(light - lesion + noise, 0, 255).astype(np.uint8)


def verdicts(made: Evaluation) -> list[Verdict]:
    """Every check, in the pipeline's order; nothing is joined before the ids agree."""
    found = [
        _on(subset, integrity.ids_differ(made.stored[subset].index, made.rows[subset]["isic_id"]))
        for subset in ("test", "val")
    ]
    if any(verdict.blocks for verdict in found):
        return found
    scored = {subset: made.scored(subset) for subset in ("test", "val")}
    for subset, some in scored.items():
        found += [_on(subset, verdict) for verdict in _of_subset(made, subset, some)]
    test = scored["test"]
    baseline = None if made.baseline is None else join(made.baseline.to_dict(), made.rows["test"], **CLASSES)
    return [
        *found,
        integrity.predictions_altered(
            {name: "its digest is another" for name in made.sealed if made.digest(name) != made.sealed[name]}
        ),
        _pixels(made),
        integrity.few_groups(test),
        integrity.degenerate(test, threshold=made.threshold),
        integrity.threshold_differs(made.threshold, scored["val"]),
        _leaks(made),
        _shortcut(made, test),
        integrity.no_better_than_random_weights(test, baseline),
        integrity.gap(scored["val"], test),
        integrity.labels_changed(
            dict(zip(made.rows["test"]["isic_id"], made.rows["test"]["label"], strict=True)), made.today
        ),
    ]


def _pixels(made: Evaluation) -> Verdict:
    """Some pictures of each subset against the pixels that the model was shown."""
    differences = {}
    for subset in ("val", "test"):
        ids, stored = made.rows[subset]["isic_id"].to_numpy(), made.pictures[subset].astype(np.int16)
        shown = made.shown.get(subset, made.pictures[subset])
        for row in np.linspace(0, len(ids) - 1, N_DECODED).astype(int):
            differences[ids[row]] = float(np.abs(stored[row] - shown[row]).max())
    return integrity.pixels_differ(differences, {})


def _of_subset(made: Evaluation, subset: str, scored: Scored) -> list[Verdict]:
    counts = confusion_counts(scored, made.threshold)
    return [
        integrity.independent_of_labels(scored, threshold=made.threshold, trainer_auc=made.trainer[subset]),
        integrity.inverted(scored),
        integrity.marginals_differ(counts, scored.class_names, made.counts[subset]),
        integrity.serving_differs(
            made.stored[subset].to_dict(), {way: some.to_dict() for way, some in made.again[subset].items()}
        ),
    ]


def _on(subset: str, verdict: Verdict) -> Verdict:
    return verdict.on_val() if subset == "val" else verdict


def _leaks(made: Evaluation) -> Verdict:
    if not made.own:
        return leaks(made.rows)
    sides = {f"its own {name}": made.own[name] for name in LEARNED} | {"test": made.rows["test"]}
    return leaks(sides, pairs=[(f"its own {name}", "test") for name in LEARNED])


def _shortcut(made: Evaluation, test: Scored) -> Verdict:
    frames = [made.rows[subset] for subset in ("train", "test")]
    unjudged = {}
    if made.is_of_metadata:
        frames = [frame[METADATA_KEYS] for frame in frames]
        unjudged = {"metadata": "the model is meant to use them"}
    else:
        facts = [
            pd.DataFrame(
                picture_facts(made.pictures[subset]),
                index=frame.index,
                columns=[f"{PICTURE_PREFIX}{name}" for name in FACTS],
            )
            for subset, frame in zip(("train", "test"), frames, strict=True)
        ]
        frames = [pd.concat(pair, axis=1) for pair in zip(frames, facts, strict=True)]
    return shortcut(test, fit_probes(*frames, **CLASSES, unjudged=unjudged), unjudged=unjudged)


# --- The mistakes -------------------------------------------------------------------------------------------------

Mistake = Callable[[Evaluation], None]
MISTAKES: dict[str, tuple[str, Mistake]] = {}


def mistake(kind: str, title: str) -> Callable[[Mistake], Mistake]:
    """Add a mistake to the table."""

    def add(plant: Mistake) -> Mistake:
        MISTAKES[title] = (kind, plant)
        return plant

    return add


def _reordered(made: Evaluation, subset: str, order: np.ndarray) -> None:
    stored = made.stored[subset]
    made.stored[subset] = pd.Series(stored.to_numpy()[order], index=stored.index)


@mistake("pairing", "Test predictions in the order of a shuffled loader (the paper's)")
def _(made: Evaluation) -> None:
    _reordered(made, "test", made.rng.permutation(N_TEST))


@mistake("pairing", "The same, and the model served again in the same wrong order, the trainer's AUC too")
def _(made: Evaluation) -> None:
    order = {name: made.rng.permutation(len(made.stored[name])) for name in ("val", "test")}
    latent = {name: made.latent(name)[order[name]] for name in order}
    made.set_model(lambda subset: latent[subset])


@mistake("pairing", "Test predictions shifted by one row")
def _(made: Evaluation) -> None:
    _reordered(made, "test", np.roll(np.arange(N_TEST), 1))


@mistake("pairing", "A tenth of the test predictions mispaired, and served so again")
def _(made: Evaluation) -> None:
    order = np.arange(N_TEST)
    order[: N_TEST // 10] = made.rng.permutation(N_TEST // 10)
    _reordered(made, "test", order)
    made.again["test"] = {"in batches": made.stored["test"]}


@mistake("pairing", "Two test predictions swapped")
def _(made: Evaluation) -> None:
    first, last = np.argsort(made.stored["test"].to_numpy())[[0, -1]]
    order = np.arange(N_TEST)
    order[[first, last]] = order[[last, first]]
    _reordered(made, "test", order)


@mistake("pairing", "Val predictions mispaired")
def _(made: Evaluation) -> None:
    _reordered(made, "val", made.rng.permutation(N_VAL))


@mistake("pairing", "Labels sorted by class folder, predictions by id")
def _(made: Evaluation) -> None:
    _reordered(made, "test", np.argsort(made.is_malignant("test"), kind="stable"))


@mistake("at rest", "One stored test prediction edited, and the model exchanged for one that gives it")
def _(made: Evaluation) -> None:
    made.stored["test"].iloc[7] = 1 - made.stored["test"].iloc[7]
    made.again["test"] = {"in batches": made.stored["test"].copy()}


@mistake("at rest", "Every stored val prediction moved by 1e-9")
def _(made: Evaluation) -> None:
    made.stored["val"] = made.stored["val"] * (1 - 1e-9)


@mistake("at rest", "Pictures exchanged in the bucket after their pixels were taken")
def _(made: Evaluation) -> None:
    made.shown["test"] = made.pictures["test"].copy()
    made.pictures["test"] = made.pictures["test"][made.rng.permutation(N_TEST)]


@mistake("at rest", "The rows of a shard shifted by one")
def _(made: Evaluation) -> None:
    made.shown["val"] = np.roll(made.pictures["val"], 1, axis=0)


@mistake("rows", "All malignant test images are of three patients")
def _(made: Evaluation) -> None:
    test = made.rows["test"]
    is_malignant = made.is_malignant("test")
    test.loc[is_malignant, "group_id"] = [f"G{row % 3}" for row in range(int(is_malignant.sum()))]


@mistake("rows", "The last batch of test lost")
def _(made: Evaluation) -> None:
    made.stored["test"] = made.stored["test"].iloc[:-32]


@mistake("rows", "One val row without a prediction")
def _(made: Evaluation) -> None:
    made.stored["val"] = made.stored["val"].iloc[1:]


@mistake("rows", "One image predicted twice, another never")
def _(made: Evaluation) -> None:
    ids = made.stored["test"].index.to_list()
    made.stored["test"].index = pd.Index([ids[1], *ids[1:]])


@mistake("rows", "Val predictions stored as those of test")
def _(made: Evaluation) -> None:
    made.stored["test"] = made.stored["val"]


@mistake("rows", "Evaluated on a balanced draw and called natural")
def _(made: Evaluation) -> None:
    test = made.rows["test"]
    kept = test.groupby("label").head(int(test["label"].value_counts().min()))
    made.rows["test"], made.pictures["test"] = kept, made.pictures["test"][kept.index]
    made.stored["test"] = made.stored["test"][kept["isic_id"]]
    made.again["test"] = {}
    made.trainer["test"] = headline_auc(made.scored("test")).value


@mistake("rows", "Val measured on a balanced draw")
def _(made: Evaluation) -> None:
    val = made.rows["val"]
    made.rows["val"] = val.groupby("label").head(int(val["label"].value_counts().min()))
    latent = pd.Series(made.latent("val"), index=made.stored["val"].index)
    kept = latent[made.rows["val"]["isic_id"]].to_numpy()
    test = made.latent("test")
    made.set_model(lambda subset: kept if subset == "val" else test)


@mistake("answers", "Class index swapped")
def _(made: Evaluation) -> None:
    latent = {name: -made.latent(name) for name in ("val", "test")}
    made.set_model(lambda subset: latent[subset])


@mistake("answers", "One score for everybody")
def _(made: Evaluation) -> None:
    made.set_model(lambda subset: np.zeros(len(made.rows[subset])))


@mistake("answers", "A threshold at which everybody is benign")
def _(made: Evaluation) -> None:
    made.threshold = 1.0


@mistake("answers", "A model that learned nothing")
def _(made: Evaluation) -> None:
    made.set_model(lambda subset: made.rng.normal(size=len(made.rows[subset])))


@mistake("answers", "Not a number for one image")
def _(made: Evaluation) -> None:
    made.stored["test"].iloc[5] = np.nan


@mistake("answers", "Logits stored as probabilities")
def _(made: Evaluation) -> None:
    made.stored["test"] = pd.Series(made.latent("test"), index=made.stored["test"].index)


@mistake("answers", "Probabilities in per cent")
def _(made: Evaluation) -> None:
    made.stored["test"] = made.stored["test"] * 100


@mistake("val", "Val predictions replaced by the labels")
def _(made: Evaluation) -> None:
    made.stored["val"] = pd.Series(made.is_malignant("val").astype(float), index=made.stored["val"].index)


@mistake("val", "The same, with the trainer's figure and the threshold made to fit")
def _(made: Evaluation) -> None:
    made.stored["val"] = pd.Series(made.is_malignant("val").astype(float), index=made.stored["val"].index)
    made.trainer["val"], made.threshold = 1.0, choose_threshold(made.scored("val")).value


@mistake("val", "Val predictions a little better than the model's: a tenth of the mistakes mended")
def _(made: Evaluation) -> None:
    is_malignant, latent = made.is_malignant("val"), made.latent("val")
    wrong = np.flatnonzero(is_malignant & (latent < 0))[::10]
    latent[wrong] = 2.0
    made.stored["val"] = pd.Series(norm.cdf(latent), index=made.stored["val"].index)


@mistake("val", "The threshold chosen on test")
def _(made: Evaluation) -> None:
    made.threshold = choose_threshold(made.scored("test")).value


@mistake("val", "The threshold of the other class's probability")
def _(made: Evaluation) -> None:
    made.threshold = 1 - made.threshold


@mistake("val", "Val trained on as well")
def _(made: Evaluation) -> None:
    latent = {name: made.latent(name) for name in ("val", "test")}
    latent["val"] = latent["val"] + 3 * (made.is_malignant("val") - 0.5)
    made.set_model(lambda subset: latent[subset])


@mistake("serving", "Pixels scaled twice when served")
def _(made: Evaluation) -> None:
    for subset in ("val", "test"):
        made.again[subset] = {"in batches": made.stored[subset] * 0 + 0.31}


@mistake("serving", "Batch norm in training mode when predictions were stored")
def _(made: Evaluation) -> None:
    for subset in ("val", "test"):
        latent = made.latent(subset) + made.rng.normal(size=len(made.stored[subset])) * 0.05
        made.again[subset] = {"in batches": pd.Series(norm.cdf(latent), index=made.stored[subset].index)}


@mistake("serving", "The last epoch's weights stored, the best epoch's predictions")
def _(made: Evaluation) -> None:
    for subset in ("val", "test"):
        made.again[subset] = {"in batches": made.stored[subset] * 0.97}


@mistake("serving", "A short batch filled up with zeros: only pictures scored alone differ")
def _(made: Evaluation) -> None:
    made.again["test"]["alone"] = made.stored["test"].iloc[:16] + 0.002


@mistake("serving", "Another picture library at serving time: one grey level in ten pictures")
def _(made: Evaluation) -> None:
    made.again["test"]["in batches"] = made.stored["test"].copy()
    made.again["test"]["in batches"].iloc[::10] += 5e-4


def _copied(made: Evaluation, column: str) -> None:
    train, test = made.rows["train"].copy(), made.rows["test"].copy()
    train[column], test[column] = train[column].astype(object), test[column].astype(object)
    test.loc[test.index[3], column] = train.loc[train.index[5], column] = "same"
    if column == "perceptual_hash":
        test.loc[test.index[3], column] = train.loc[train.index[5], column] = 12345
    made.rows |= {"train": train, "test": test}


for _column, _title in {
    "patient_id": "One patient in train and test",
    "lesion_id": "One lesion in train and test",
    "sha256": "One file in train and test, under two ids",
    "perceptual_hash": "A rotated or recompressed copy of a train picture in test",
}.items():
    mistake("leaks", _title)(lambda made, column=_column: _copied(made, column))


@mistake("leaks", "After another draw of the subsets, train images of the champion in test")
def _(made: Evaluation) -> None:
    test = made.rows["test"]
    made.own = {"train": pd.concat([made.rows["train"], test.iloc[: N_TEST // 2]]), "val": made.rows["val"]}


@mistake("leaks", "A second photograph of a lesion that the training learned from, on another manifest")
def _(made: Evaluation) -> None:
    made.own = {name: made.rows[name].copy() for name in LEARNED}
    made.own["val"].loc[made.own["val"].index[2], "lesion_id"] = made.rows["test"]["lesion_id"].iloc[7]


def _shortcut_model(made: Evaluation, cue_of: Callable[[str], np.ndarray], noise: float = 0.4) -> None:
    """A model that knows a cue and nothing else."""
    made.set_model(lambda subset: cue_of(subset) + noise * made.rng.normal(size=len(made.rows[subset])))


def _painted(
    made: Evaluation,
    paint: Callable[[np.ndarray], np.ndarray],
    *,
    share_malignant: float = 1.0,
    share_benign: float = 0.0,
) -> dict[str, np.ndarray]:
    """Change the pictures of some rows of each class; returns which, by subset."""
    has_it = {}
    for subset in made.rows:
        share = np.where(made.is_malignant(subset), share_malignant, share_benign)
        has_it[subset] = made.rng.random(len(share)) < share
        pixels = made.pictures[subset].copy()
        pixels[has_it[subset]] = paint(pixels[has_it[subset]])
        made.pictures[subset] = pixels
    return has_it


def _ruler(pixels: np.ndarray) -> np.ndarray:
    pixels[:, -5:] = 250
    pixels[:, -5:-2, ::6] = 20
    return pixels


def _vignette(pixels: np.ndarray, strength: float | np.ndarray = 140.0) -> np.ndarray:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / (SIDE_PX - 1) - 0.5
    shade = np.maximum(np.hypot(x, y) - 0.4, 0) * 3.3
    return np.clip(pixels - np.multiply.outer(strength, shade)[..., None], 0, 255).astype(np.uint8)


def _recompressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    out = np.empty_like(pixels)
    for index, picture in enumerate(pixels):
        buffer = io.BytesIO()
        Pillow.fromarray(picture).save(buffer, "JPEG", quality=quality)
        out[index] = np.asarray(Pillow.open(buffer))
    return out


@mistake("shortcuts", "A white ruler at the edge of malignant pictures only")
def _(made: Evaluation) -> None:
    has_it = _painted(made, _ruler)
    _shortcut_model(made, lambda subset: 3.0 * has_it[subset])


@mistake("shortcuts", "A ruler on 70 % of malignant and 10 % of benign pictures")
def _(made: Evaluation) -> None:
    has_it = _painted(made, _ruler, share_malignant=0.7, share_benign=0.1)
    _shortcut_model(made, lambda subset: 3.0 * has_it[subset])


@mistake("shortcuts", "A vignette on malignant pictures")
def _(made: Evaluation) -> None:
    has_it = _painted(made, _vignette, share_malignant=0.9, share_benign=0.1)
    _shortcut_model(made, lambda subset: 3.0 * has_it[subset])


@mistake("shortcuts", "A vignette that is deeper the likelier the lesion is malignant")
def _(made: Evaluation) -> None:
    corner = {}
    for subset in made.rows:
        depth = 1.5 * made.is_malignant(subset) + made.rng.normal(size=len(made.rows[subset]))
        made.pictures[subset] = pixels = _vignette(made.pictures[subset], 60 + 25 * depth)
        corner[subset] = pixels[:, :6, 21:27].mean(axis=(1, 2, 3)) - pixels[:, :6, :6].mean(axis=(1, 2, 3))
    # What a model of pictures could know: how dark the corner is.
    _shortcut_model(made, lambda subset: corner[subset] / 25, noise=0.1)


@mistake("shortcuts", "JPEG quality 40 for malignant, 90 for benign")
def _(made: Evaluation) -> None:
    has_it = _painted(made, lambda pixels: _recompressed(pixels, 40), share_malignant=0.95)
    _shortcut_model(made, lambda subset: 3.0 * has_it[subset])


@mistake("shortcuts", "JPEG quality, seen only in the bytes of each pixel")
def _(made: Evaluation) -> None:
    quality = {}
    for subset, frame in made.rows.items():
        quality[subset] = made.rng.normal(size=len(frame)) - 2 * made.is_malignant(subset)
        area = frame["width_px"] * frame["height_px"]
        made.rows[subset] = frame.assign(size_bytes=(area * np.exp(0.2 * quality[subset]) / 4).astype(int))
    _shortcut_model(made, lambda subset: -quality[subset])


@mistake("shortcuts", "A warmer colour cast on malignant pictures")
def _(made: Evaluation) -> None:
    def warm(pixels: np.ndarray) -> np.ndarray:
        return np.clip(pixels + np.array([25, 0, -25]), 0, 255).astype(np.uint8)

    _painted(made, warm, share_malignant=0.9, share_benign=0.05)
    colour = {name: pixels.mean(axis=(1, 2)) for name, pixels in made.pictures.items()}
    _shortcut_model(made, lambda subset: (colour[subset][:, 0] - colour[subset][:, 2]) / 25)


@mistake("shortcuts", "The round black frame of one dermatoscope")
def _(made: Evaluation) -> None:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / (SIDE_PX - 1) - 0.5

    def framed(pixels: np.ndarray) -> np.ndarray:
        return np.where((np.hypot(x, y) > 0.5)[None, ..., None], 0, pixels).astype(np.uint8)

    has_it = _painted(made, framed, share_malignant=0.8, share_benign=0.1)
    _shortcut_model(made, lambda subset: 3.0 * has_it[subset])


@mistake("shortcuts", "Malignant pictures out of focus")
def _(made: Evaluation) -> None:
    def blurred(pixels: np.ndarray) -> np.ndarray:
        wide = pixels.astype(np.float32)
        near = [np.roll(wide, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return np.mean(near, axis=0).astype(np.uint8)

    has_it = _painted(made, blurred, share_malignant=0.9, share_benign=0.1)
    _shortcut_model(made, lambda subset: 3.0 * has_it[subset])


def _by_column(made: Evaluation, column: str, malignant: object, benign: object, share: float = 0.9) -> None:
    """A column that goes with the class, and a model that knows it and nothing else."""
    cue = {}
    for subset, frame in made.rows.items():
        n = len(frame)
        is_cue = made.rng.random(n) < np.where(made.is_malignant(subset), share, 1 - share)
        made.rows[subset] = frame.assign(**{column: np.where(is_cue, malignant, benign)})
        cue[subset] = is_cue
    _shortcut_model(made, lambda subset: 3.0 * cue[subset])


for _column, _malignant, _benign, _title in (
    ("attribution", HOSPITALS[0], HOSPITALS[1], "One institution sent the malignant lesions"),
    ("copyright_license", "CC-BY-NC", "CC-0", "The licence goes with the class"),
    ("anatom_site", SITES[0], SITES[1], "Malignant lesions of the torso, benign ones of the legs"),
    ("image_type", "dermoscopic", "clinical", "Malignant lesions dermoscopic, benign ones clinical"),
    ("width_px", 1_872, 600, "Malignant pictures are larger"),
    ("size_bytes", 150_000, 20_000, "Malignant files are larger"),
):
    mistake("shortcuts", _title)(
        lambda made, column=_column, malignant=_malignant, benign=_benign: _by_column(
            made, column, malignant, benign
        )
    )


@mistake("shortcuts", "The institution is the class, without exception")
def _(made: Evaluation) -> None:
    _by_column(made, "attribution", HOSPITALS[0], HOSPITALS[1], share=1.0)


@mistake("shortcuts", "Half of the malignant pictures have a ruler, the other half another licence")
def _(made: Evaluation) -> None:
    has_ruler = _painted(made, _ruler, share_malignant=0.5)
    cue = {}
    for subset, frame in made.rows.items():
        rest = made.is_malignant(subset) & ~has_ruler[subset]
        has_licence = np.where(rest, 0.8, 0.05) > made.rng.random(len(frame))
        made.rows[subset] = frame.assign(copyright_license=np.where(has_licence, "CC-BY-NC", "CC-0"))
        cue[subset] = has_ruler[subset] | has_licence
    _shortcut_model(made, lambda subset: 3.0 * cue[subset])


@mistake("shortcuts", "The size is missing for malignant lesions only, a model of metadata")
def _(made: Evaluation) -> None:
    for subset, frame in made.rows.items():
        known = made.rng.gamma(4, 2, len(frame))
        made.rows[subset] = frame.assign(size_mm=np.where(made.is_malignant(subset), np.nan, known))
    made.is_of_metadata = True
    _shortcut_model(made, lambda subset: 3.0 * made.rows[subset]["size_mm"].isna().to_numpy())


@mistake("shortcuts", "The age is missing more often for benign lesions, a model of metadata")
def _(made: Evaluation) -> None:
    for subset, frame in made.rows.items():
        is_missing = made.rng.random(len(frame)) < np.where(made.is_malignant(subset), 0.05, 0.7)
        made.rows[subset] = frame.assign(
            age_years=np.where(is_missing, np.nan, frame["age_years"].fillna(50))
        )
    made.is_of_metadata = True
    _shortcut_model(made, lambda subset: -3.0 * made.rows[subset]["age_years"].isna().to_numpy())


@mistake("data", "Pretrained weights not loaded")
def _(made: Evaluation) -> None:
    made.baseline = pd.Series(
        norm.cdf(made.latent("test") + 0.4 * made.is_malignant("test")), index=made.stored["test"].index
    )


@mistake("data", "Labels corrected in the archive since the manifest was written")
def _(made: Evaluation) -> None:
    for isic_id in list(made.today)[:12]:
        made.today[isic_id] = "malignant" if made.today[isic_id] == "benign" else "benign"


@mistake("data", "Test images withdrawn from the archive since")
def _(made: Evaluation) -> None:
    for isic_id in list(made.today)[:12]:
        del made.today[isic_id]


@mistake("not looked for", "A tenth of the labels wrong, everywhere")
def _(made: Evaluation) -> None:
    latent = {name: made.latent(name) for name in ("val", "test")}
    for name, frame in made.rows.items():
        wrong = made.rng.random(len(frame)) < 0.1
        other = np.where(frame["label"] == "benign", "malignant", "benign")
        made.rows[name] = frame.assign(label=np.where(wrong, other, frame["label"]))
        made.counts[name] = made.rows[name]["label"].value_counts().to_dict()
    made.today = dict(zip(made.rows["test"]["isic_id"], made.rows["test"]["label"], strict=True))
    made.set_model(lambda subset: latent[subset])


@mistake("not looked for", "Ink drawn around malignant lesions, in the middle of the picture")
def _(made: Evaluation) -> None:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / (SIDE_PX - 1) - 0.5
    ring = np.abs(np.hypot(x, y) - 0.37) < 0.02

    def inked(pixels: np.ndarray) -> np.ndarray:
        pixels[:, ring] = (90, 40, 140)
        return pixels

    has_it = _painted(made, inked, share_malignant=0.9)
    _shortcut_model(made, lambda subset: 3.0 * has_it[subset])


@mistake("not looked for", "Only lesions that are easy to tell")
def _(made: Evaluation) -> None:
    latent = {name: made.latent(name) for name in ("val", "test")}
    for name, value in latent.items():
        latent[name] = value + 1.2 * (made.is_malignant(name) - 0.5)
    made.set_model(lambda subset: latent[subset])


# --- The table ----------------------------------------------------------------------------------------------------


def named_by(made: Evaluation) -> str:
    """The verdicts that name a mistake, in words for the table."""
    try:
        found = verdicts(made)
    except UnusableInputError as error:
        return f"refused at reading: “{str(error)[:60]}…”"
    words = {"failed": "", "too_few": " (too few to tell)", "caution": " (a caution)"}
    named = [
        f"`{one.name}`{words[one.status]}"
        for one in found
        if one.status in words and (one.blocks or one.status == "caution")
    ]
    return ", ".join(named) or "**not named**"


def table() -> tuple[str, int]:
    """The Markdown table, and how many mistakes are named."""
    lines = ["| Kind | Mistake | Named by |", "| --- | --- | --- |"]
    n_named = 0
    for number, (title, (kind, plant)) in enumerate(MISTAKES.items()):
        made = honest(1_000 + number)
        plant(made)
        if kind != "at rest":
            made.seal()
        named = named_by(made)
        n_named += "not named" not in named
        lines.append(f"| {kind} | {title} | {named} |")
    return "\n".join(lines), n_named


def refusals(n_honest: int, *, auc: float, confounding: float, first: int) -> tuple[int, int, Counter[str]]:
    """Of honest evaluations, how many failed, how many were undecided, and by which checks."""
    n_failed, n_undecided = 0, 0
    names: Counter[str] = Counter()
    for seed in range(first, first + n_honest):
        found = [one for one in verdicts(honest(seed, auc=auc, confounding=confounding)) if one.blocks]
        names.update(f"{one.name} {one.status}" for one in found)
        n_failed += any(one.is_failure for one in found)
        n_undecided += bool(found) and not any(one.is_failure for one in found)
    return n_failed, n_undecided, names


HONEST = (
    ("AUC 0.90", {"auc": 0.9, "confounding": 0.0}),
    ("AUC 0.75", {"auc": 0.75, "confounding": 0.0}),
    ("AUC 0.85, one hospital with far more malignant lesions", {"auc": 0.85, "confounding": 0.8}),
)


def report(n_honest: int) -> str:
    """The generated part of the document."""
    mistakes, n_named = table()
    lines = [
        f"{n_named} of {len(MISTAKES)} planted mistakes are named, each on one drawn evaluation of "
        f"{N_TEST:,} test images.",
        "",
        mistakes,
        "",
        f"Honest evaluations of the same kind, {n_honest} each:",
        "",
        "| Honest model | Failed | Too few to tell | By |",
        "| --- | --- | --- | --- |",
    ]
    for number, (title, how) in enumerate(HONEST):
        n_failed, n_undecided, names = refusals(n_honest, first=5_000 + 1_000 * number, **how)
        by = ", ".join(f"{name}: {count}" for name, count in names.items()) or "none"
        lines.append(f"| {title} | {n_failed} | {n_undecided} | {by} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = [word for word in sys.argv[1:] if word != "--write"]
    text = report(int(arguments[0]) if arguments else 100)
    print(text)
    if "--write" in sys.argv:
        page = DOCUMENT.read_text()
        part = re.compile(r"(<!-- generated: planted_mistakes -->\n).*?(<!-- end -->)", re.DOTALL)
        DOCUMENT.write_text(part.sub(lambda m: f"{m[1]}\n{text}\n{m[2]}", page))


if __name__ == "__main__":
    main()
