"""Evaluated trainings of the published systems -> the paper's tables as one page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from lesion_tasks.catalog.printed_numbers import NO_VALUE, number, signed, span
from lesion_tasks.catalog.systems import System
from lesion_tasks.metrics.comparison_document import PublishedDifference
from lesion_tasks.metrics.document_schema import Figures, Published, PublishedFigure, Share
from lesion_tasks.reports.markdown import escape, table
from lesion_tasks.reports.words import figure_words

READ_ON = {"test_natural": "Natural test", "test_balanced": "Balanced test"}
# In a task of two classes, and in one of more.
LEADING = ("auc", "macro_auc")
PRECISION = ("average_precision", "macro_average_precision")


class PaperTraining(Published):
    """One evaluated training. Intervals are by group."""

    training_id: str
    title: str
    epochs: str  # how long it learned, in words, where that is not as long as its variant says
    manifest: str  # the beginning of its digest
    split: str
    is_in_force: bool  # whether that manifest is
    weights: str | None
    is_random: bool
    seed: int
    is_sound: bool
    failed_checks: list[str]
    minutes: float | None
    n_images: dict[str, int]
    subsets: dict[str, Figures]
    val: Figures


class PaperVariant(Published):
    """A variant of a system: its trainings, one for each seed, its own first, and those from random weights."""

    variant: str
    note: str = ""  # what it stands in for, or on which other task it was trained
    trainings: list[PaperTraining]
    random: list[PaperTraining]

    @property
    def shown(self) -> list[PaperTraining]:
        """The training whose figures stand for it: a random one where there is no other."""
        return (self.trainings or self.random)[:1]


class PaperRow(Published):
    """A system, what of it is trained, and which of its variants are not, each with the reason if one is known."""

    system: str
    variants: list[PaperVariant]
    missing: dict[str, str]


class Change(Published):
    """A training that differs from the base in one field, and the difference of its AUC on val, pair by pair."""

    field: str
    value: str
    base_value: str
    training_id: str
    val_auc: Share
    minutes: float | None
    difference: PublishedDifference | None


class Changes(Published):
    """A base recipe and everything that was tried on it, one change at a time."""

    training_id: str
    title: str
    val_auc: Share
    minutes: float | None
    changes: list[Change]
    left_out: dict[str, str]  # training -> why it cannot be compared with the base


def paper_page(
    systems: Sequence[System], rows: Sequence[PaperRow], changes: Sequence[Changes], words: str
) -> str:
    """The page. `words` say of which data the figures are."""
    by_name = {row.system: row for row in rows}
    parts = ["# The paper's table, redone", _HEAD, escape(words)]
    for subset, title in READ_ON.items():
        parts += [f"## {title}", _figures(systems, by_name, subset)]
    parts += ["## What was reported, and why it differs", _reported(systems, by_name)]
    parts += ["## Missing", _missing(systems, by_name)]
    if changes:
        parts += ["## One change at a time", *(_changes(one) for one in changes)]
    return "\n\n".join(parts) + "\n"


_HEAD = """Written by `lesion paper` from the evaluations in the database, and never by hand; `lesion paper --train`
trains and evaluates what is missing on the manifests in force. Every row is one training of a variant of the catalogue,
that of the variant's own seed where there is one, read on both tests. Intervals are at 95 % and treat the images of one
patient or lesion as one; several seeds are of one recipe, manifest and code. *Random* is the AUC of the same variant
from random weights, after as many epochs and on the same images: what pretraining has to beat. Sensitivity is at a
specificity of at least 0.95; balanced accuracy is at the threshold that was chosen on val. A slope of 1 and an
intercept of 0 are ideal; of more than two classes the expected calibration error stands instead."""


def _figures(systems: Sequence[System], rows: dict[str, PaperRow], subset: str) -> str:
    found: list[dict[str, str]] = []
    for system in systems:
        for variant in rows[system.name].variants if system.name in rows else ():
            (shown,) = variant.shown
            figures = shown.subsets.get(subset, {})
            found.append(
                {
                    "Row": system.name,
                    "Variant": _variant_words(variant, shown),
                    "Weights": _weights_words(variant, shown),
                    "Manifest": shown.manifest,
                    "AUC": figure_words(_first(figures, LEADING))
                    + _seeds(variant.trainings, subset)
                    + _soundness(shown),
                    "Random": _random(variant, subset),
                    "Average precision": figure_words(_first(figures, PRECISION)),
                    "Sensitivity": _value(figures, "sensitivity_at_95_specificity"),
                    "Balanced accuracy": _value(figures, "balanced_accuracy"),
                    "Calibration": _calibration(figures),
                    "Brier skill": _value(figures, "brier_skill"),
                }
            )
    return (
        table([*found[0]], [one.values() for one in found])
        if found
        else "Nothing is trained and evaluated yet."
    )


def _first(figures: Figures, names: Iterable[str]) -> PublishedFigure | None:
    return next((figures[name] for name in names if name in figures), None)


def _value(figures: Figures, name: str) -> str:
    return number(figures[name].value) if name in figures else NO_VALUE


def _calibration(figures: Figures) -> str:
    if "calibration_slope" in figures:
        return f"slope {_value(figures, 'calibration_slope')}, intercept {_value(figures, 'calibration_intercept')}"
    return f"error {_value(figures, 'expected_calibration_error')}"


def _variant_words(variant: PaperVariant, shown: PaperTraining) -> str:
    epochs = f" ({shown.epochs})" if shown.epochs else ""
    return f"{variant.variant}{epochs}{'; ' + variant.note if variant.note else ''}"


def _weights_words(variant: PaperVariant, shown: PaperTraining) -> str:
    if shown.is_random:
        return "random: none at hand"
    return shown.weights or ("none needed" if not variant.random else NO_VALUE)


def _seeds(trainings: Sequence[PaperTraining], subset: str) -> str:
    """How far the leading figure differs between seeds, if there are several."""
    found = [_first(one.subsets.get(subset, {}), LEADING) for one in trainings]
    values = [one.value for one in found if one is not None and one.value is not None]
    if len(values) < 2:
        return ""
    return f"; {len(values)} seeds: mean {number(mean(values))}, deviation {number(stdev(values))}"


def _soundness(shown: PaperTraining) -> str:
    return "" if shown.is_sound else f"; failed: {', '.join(shown.failed_checks)}"


def _random(variant: PaperVariant, subset: str) -> str:
    if not variant.random:
        return NO_VALUE
    found = _first(variant.random[0].subsets.get(subset, {}), LEADING)
    return NO_VALUE if found is None else number(found.value)


def _reported(systems: Sequence[System], rows: dict[str, PaperRow]) -> str:
    def here(system: System) -> str:
        variants = rows[system.name].variants if system.name in rows else []
        return (
            "; ".join(filter(None, (_leading_words(one, system.read_on) for one in variants)))
            or "not trained"
        )

    return table(
        ("Row", "System", "Reported", "AUC here", "Why it differs"),
        [(s.name, s.title, s.reported, here(s), s.differs) for s in systems],
    )


def _leading_words(variant: PaperVariant, subset: str) -> str:
    """The leading figure on the test on which a system's was reported; empty where there is none."""
    (shown,) = variant.shown
    found = _first(shown.subsets.get(subset, {}), LEADING)
    if found is None:
        return ""
    on = "" if subset == "test_natural" else READ_ON[subset].lower()
    notes = "; ".join(one for one in (on, shown.epochs, variant.note) if one)
    return f"{number(found.value)}{f' ({notes})' if notes else ''}"


def _missing(systems: Sequence[System], rows: dict[str, PaperRow]) -> str:
    found = [
        (system.name, variant, reason)
        for system in systems
        if system.name in rows
        for variant, reason in rows[system.name].missing.items()
    ]
    return table(("Row", "Variant", "Why"), found) if found else "Nothing."


def _changes(changes: Changes) -> str:
    base = (
        f"The base recipe is {escape(changes.title)}, training `{changes.training_id}`: AUC {number(changes.val_auc)} "
        f"on val{_minutes(changes.minutes)}. Each row is a training that differs from it in one field and ran the same "
        "code. Minutes are by the clock. Differences are "
        "paired, on the same val images, with their interval by group; test plays no part. Another seed, where there "
        "is one, shows how much is chance."
    )
    rows = [
        (
            one.field,
            f"{one.base_value} to {one.value}",
            number(one.val_auc),
            NO_VALUE if one.difference is None else signed(one.difference.value, 4),
            NO_VALUE if one.difference is None else span(one.difference.low, one.difference.high, 4),
            NO_VALUE if one.minutes is None else number(one.minutes, 1),
        )
        for one in changes.changes
    ]
    header = ("Field", "Change", "AUC, val", "Difference", "95 % interval", "Minutes")
    parts = [base, table(header, rows) if rows else "Nothing was tried on it yet."]
    if changes.left_out:
        named = "; ".join(f"`{name}`: {escape(why)}" for name, why in sorted(changes.left_out.items()))
        parts.append(f"Left out: {named}.")
    return "\n\n".join(parts)


def _minutes(minutes: float | None) -> str:
    return "" if minutes is None else f" after {number(minutes, 1)} minutes"
