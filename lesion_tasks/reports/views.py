"""A bundle -> the content of each section of the page, so that templates only do the layout."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from lesion_tasks.metrics.comparison_document import (
    Comparison,
    PublishedDifference,
    PublishedSliceDifference,
)
from lesion_tasks.metrics.document_schema import (
    Published,
    PublishedFigure,
    PublishedSlice,
    PublishedVerdict,
    SubsetDocument,
)
from lesion_tasks.reports.bundle import (
    Bundle,
    PublishedGate,
    Standing,
)
from lesion_tasks.reports.plot import share_scale, whisker

SUBSET_ORDER = ("test_natural", "test_balanced", "val")


# Figures by the question they answer; any other key of the document comes last, so that nothing measured is hidden.
FIGURE_GROUPS = (
    (
        "How well are the classes told apart?",
        (
            "auc",
            "macro_auc",
            "average_precision",
            "macro_average_precision",
            "partial_auc_above_80_sensitivity",
            "auc_above_80_sensitivity",
            "sensitivity_at_90_specificity",
            "sensitivity_at_95_specificity",
            "specificity_at_90_sensitivity",
            "specificity_at_95_sensitivity",
        ),
    ),
    (
        "How good are the classifications?",
        ("sensitivity", "specificity", "balanced_accuracy", "accuracy", "ppv", "npv"),
    ),
    (
        "Can the probabilities be trusted?",
        (
            "brier_score",
            "brier_skill",
            "log_loss",
            "calibration_slope",
            "calibration_intercept",
            "expected_calibration_error",
        ),
    ),
)


def in_order(names: Collection[str]) -> list[str]:
    """Figures in the order in which a report shows them; others last, by name."""
    known = [name for _, members in FIGURE_GROUPS for name in members if name in names]
    return known + sorted(set(names) - set(known))


CURVE_TABLE_ROWS = 21

# Status -> its words and its style class, for checks that block promotion and for those that do not.
STATUSES = {
    "failed": ("failed", "bad"),
    "too_few": ("too few images to tell", "warn"),
    "caution": ("passed with a caution", "warn"),
    "passed": ("passed", "good"),
    "not_applicable": ("not applicable", "quiet"),
}
UNBLOCKING = {
    "failed": ("failed, does not block", "warn"),
    "too_few": ("too few images to tell, does not block", "quiet"),
}


@dataclass(frozen=True, kw_only=True)
class CheckRow:
    verdict: PublishedVerdict
    word: str
    css: str


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """What a threshold means among `N_FREQUENCIES` lesions of which `n_positive` are positive."""

    n: int
    n_positive: int
    n_found: int
    n_missed: int
    n_false_alarms: int
    n_rightly_cleared: int
    is_own_prevalence: bool


@dataclass(frozen=True, kw_only=True)
class SliceRow:
    part: PublishedSlice
    leading: PublishedFigure | None
    whisker: Markup | None


@dataclass(frozen=True, kw_only=True)
class DifferenceRow:
    """A difference from the champion, on the whole test set or one `part` of it, and its outcome."""

    difference: PublishedDifference
    outcome: str
    css: str
    whisker: Markup | None = None
    part: PublishedSliceDifference | None = None
    is_guarded: bool = False


def leading_document(bundle: Bundle) -> SubsetDocument | None:
    """The natural test set or, if it is absent, the subset that was measured first."""
    subsets = bundle.subsets
    return next((subsets[name] for name in (*SUBSET_ORDER, *subsets) if name in subsets), None)


def ordered_documents(bundle: Bundle) -> dict[str, SubsetDocument]:
    """The subsets that every page shows, in order."""
    return {name: bundle.subsets[name] for name in SUBSET_ORDER if name in bundle.subsets}


def leading_measure(document: SubsetDocument) -> str:
    return "auc" if document.task == "binary" else "macro_auc"


def value_of(figure: PublishedFigure | None) -> float | None:
    return None if figure is None else figure.value


def class_figure(document: SubsetDocument, name: str, measure: str) -> PublishedFigure | None:
    """A measure of one class against the rest; with two classes it is among the figures of the subset."""
    found = document.by_class.get(name, {}).get(measure)
    if found is None and name == document.positive_class:
        found = document.figures.get(measure)
    return found


def curve_keys(
    document: SubsetDocument, curves: Mapping[str, Published | None], measure: str
) -> list[dict[str, Any]]:
    """The key below a plot of curves: each class that has a curve, with its figure."""
    return [
        {"name": name, "figure": class_figure(document, name, measure)}
        for name, curve in curves.items()
        if curve
    ]


def headline_figures(document: SubsetDocument) -> list[dict[str, Any]]:
    """The few figures below the verdict."""
    names = (
        ("auc", "sensitivity", "specificity", "calibration_slope", "calibration_intercept")
        if document.task == "binary"
        else ("macro_auc", "balanced_accuracy", "accuracy", "expected_calibration_error")
    )
    return [{"name": name, "figure": document.figures[name]} for name in names if name in document.figures]


def check_summary(verdicts: Sequence[PublishedVerdict]) -> list[tuple[int, str]]:
    """The number of checks by outcome, in the order of the table; passed and failed are always listed."""
    n_by_word: dict[str, int] = {"passed": 0, "failed": 0}
    for row in checks(verdicts):
        n_by_word[row.word] = n_by_word.get(row.word, 0) + 1
    return [(n, word) for word, n in n_by_word.items()]


def checks(verdicts: Iterable[PublishedVerdict]) -> list[CheckRow]:
    """All checks, failures first, each with the words and the style class of its status."""
    order = list(STATUSES)
    shown = []
    for verdict in verdicts:
        word, css = STATUSES[verdict.status]
        if not verdict.is_blocking:
            word, css = UNBLOCKING.get(verdict.status, (word, css))
        shown.append(CheckRow(verdict=verdict, word=word, css=css))
    return sorted(shown, key=lambda row: (order.index(row.verdict.status), not row.verdict.is_blocking))


def apart_words(bundle: Bundle) -> str | None:
    """Whether whom it is tested on is also whom it learned from; None unless the check for leaks found nobody."""
    if not any(v.name == "leaks" and v.status in ("passed", "caution") for v in bundle.integrity):
        return None
    if bundle.identities is None:  # a document from before they were counted
        return "No patient or lesion that is known is in train or val as well."
    return bundle.identities.apart


def interval_words(bundle: Bundle) -> str:
    """What the intervals of the test set account for: half a sentence."""
    if bundle.identities is None:
        return "images of one patient or lesion form a group where these are known, and the intervals account for it"
    return bundle.identities.test.intervals


N_FREQUENCIES = 1_000


def natural_frequencies(document: SubsetDocument) -> list[Frequencies]:
    """What the threshold means among `N_FREQUENCIES` lesions, at each stated prevalence and at the subset's own.

    Computed only from sensitivity and specificity, so that it holds for another clinic only as far as these do.
    """
    sensitivity, specificity = (
        value_of(document.figures.get(name)) for name in ("sensitivity", "specificity")
    )
    if sensitivity is None or specificity is None:
        return []
    prefix = "ppv_at_prevalence_"
    shares = [float(name.removeprefix(prefix)) for name in document.figures if name.startswith(prefix)]
    own = document.subset.prevalence
    if own is not None and 0 < own < 1:
        shares.append(own)
    rows = []
    for share in sorted(set(shares)):
        n_positive = round(N_FREQUENCIES * share)
        n_found = round(n_positive * sensitivity)
        n_false_alarms = round((N_FREQUENCIES - n_positive) * (1 - specificity))
        rows.append(
            Frequencies(
                n=N_FREQUENCIES,
                n_positive=n_positive,
                n_found=n_found,
                n_missed=n_positive - n_found,
                n_false_alarms=n_false_alarms,
                n_rightly_cleared=N_FREQUENCIES - n_positive - n_false_alarms,
                is_own_prevalence=share == own,
            )
        )
    return rows


def figure_groups(documents: Mapping[str, SubsetDocument]) -> list[dict[str, Any]]:
    """Every figure of every subset, grouped by question: rows of a measure and its figure in each subset."""
    names = list(dict.fromkeys(name for document in documents.values() for name in document.figures))
    groups, seen = [], set()
    for title, members in FIGURE_GROUPS:
        inside = [
            name
            for name in names
            if name in members
            or (name.startswith(("ppv_at_prevalence_", "npv_at_prevalence_")) and "ppv" in members)
        ]
        inside.sort(key=lambda name: members.index(name) if name in members else len(members))
        seen.update(inside)
        groups.append((title, inside))
    groups.append(("Other figures", [name for name in names if name not in seen]))
    return [
        {
            "title": title,
            "rows": [
                {"name": name, "figures": [document.figures.get(name) for document in documents.values()]}
                for name in inside
            ],
        }
        for title, inside in groups
        if inside
    ]


def confusion_rows(document: SubsetDocument) -> list[dict[str, Any]]:
    """The confusion matrix with the share of each row, which shades the cell."""
    rows = []
    for i, (name, row) in enumerate(
        zip(document.confusion.class_names, document.confusion.counts, strict=True)
    ):
        total = sum(row)
        cells = [
            {"n": n, "share": n / total if total else 0.0, "is_right": i == j} for j, n in enumerate(row)
        ]
        rows.append({"name": name, "cells": cells, "total": total})
    return rows


def curve_table(curve: Published) -> dict[str, Any]:
    """At most `CURVE_TABLE_ROWS` evenly spaced points of a curve; all of them are in metrics.json."""
    points = dict(curve)
    columns = list(points)
    n = len(points[columns[0]])
    step = max(1, -(-(n - 1) // (CURVE_TABLE_ROWS - 1))) if n > 1 else 1
    kept = sorted({*range(0, n, step), n - 1}) if n else []
    return {
        "columns": columns,
        "rows": [[points[name][i] for name in columns] for i in kept],
        "n_points": n,
    }


def class_rows(document: SubsetDocument) -> list[dict[str, Any]]:
    """Each class against the rest, with the number of its images."""
    return [
        {
            "name": name,
            "n": document.subset.class_counts.get(name),
            "figures": [figures.get(key) for key in ("auc", "average_precision", "recall", "precision")],
        }
        for name, figures in document.by_class.items()
    ]


def slice_scale(document: SubsetDocument) -> tuple[float, float]:
    """The common scale of the whiskers of all slices."""
    leading = leading_measure(document)
    return share_scale(part.figures.get(leading) for part in document.slices)


def slice_groups(document: SubsetDocument) -> list[tuple[str, list[SliceRow]]]:
    """Slices by attribute; each scored one with its figures and a whisker on one common scale."""
    leading = leading_measure(document)
    overall = value_of(document.figures.get(leading))
    scale = slice_scale(document)
    groups = []
    for attribute, members in groupby(document.slices, key=lambda part: part.attribute):
        parts = list(members)
        # Skin types and bands have their own order; everything else is sorted largest first.
        if attribute == "fitzpatrick_skin_type":
            parts.sort(key=_roman)
        rows = [
            SliceRow(
                part=part,
                leading=part.figures.get(leading),
                whisker=_figure_whisker(part.figures.get(leading), overall, scale),
            )
            for part in parts
        ]
        groups.append((attribute, rows))
    return groups


def _roman(part: PublishedSlice) -> tuple[bool, str]:
    """I to VI in order; missing values come last."""
    return part.value == "missing", part.value


def lowest_slice(document: SubsetDocument) -> dict[str, Any] | None:
    """The scored slice with the lowest leading figure, and out of how many; None if there are fewer than two."""
    leading = leading_measure(document)
    scored = [
        (figure.value, part, figure)
        for part in document.slices
        if (figure := part.figures.get(leading)) is not None and figure.value is not None
    ]
    if len(scored) < 2:
        return None
    _, part, figure = min(scored, key=lambda one: one[0])
    return {"part": part, "figure": figure, "n_scored": len(scored)}


def slice_columns(document: SubsetDocument) -> tuple[str, ...]:
    """The measures shown beside the leading one."""
    return ("sensitivity", "specificity") if document.task == "binary" else ("balanced_accuracy",)


def _figure_whisker(
    figure: PublishedFigure | None, reference: float | None, scale: tuple[float, float]
) -> Markup | None:
    if figure is None or figure.value is None:
        return None
    return whisker(figure.value, figure.low, figure.high, scale=scale, reference=reference)


def difference_rows(
    found: Sequence[tuple[PublishedDifference, PublishedSliceDifference | None]],
    guarded: Sequence[str] = (),
) -> list[DifferenceRow]:
    """Differences on the whole or on parts, each with a whisker around zero on a shared scale.

    Calibration and probability measures are not compared, so one scale fits all: shares.
    """
    bounds = [bound for d, _ in found for bound in (d.value, d.low, d.high) if bound is not None]
    extent = max([0.02, *map(abs, bounds)])
    rows = []
    for difference, part in found:
        outcome, css = _outcome(difference)
        rows.append(
            DifferenceRow(
                difference=difference,
                outcome=outcome,
                css=css,
                whisker=whisker(
                    difference.value,
                    difference.low,
                    difference.high,
                    scale=(-extent, extent),
                    reference=0.0,
                ),
                part=part,
                is_guarded=part is not None and part.attribute in guarded,
            )
        )
    return rows


def comparison_rows(comparison: Comparison | None) -> list[DifferenceRow]:
    """Differences in the order measured."""
    return difference_rows([(one, None) for one in comparison.differences.values()]) if comparison else []


def slice_differences(comparison: Comparison | None, promotion: Standing | None) -> dict[str, Any] | None:
    """The parts of the test set that were compared, largest loss first, and how many were too small."""
    if comparison is None or not comparison.slices:
        return None
    compared = [(part.difference, part) for part in comparison.slices if part.difference]
    rows = difference_rows(compared, promotion.slice_guard.attributes if promotion else ())
    return {
        "rows": sorted(rows, key=lambda row: row.difference.value),
        "n_too_small": len(comparison.slices) - len(compared),
    }


def gate_rows(
    promotion: Standing | None, document: SubsetDocument | None, comparison: Comparison | None
) -> list[tuple[PublishedGate, PublishedFigure | None, PublishedDifference | None]]:
    """Every gate with its figure, and the difference from the champion's if there is one."""
    if promotion is None or document is None:
        return []
    differences = comparison.differences if comparison else {}
    return [
        (gate, document.figures.get(gate.measure), differences.get(gate.measure)) for gate in promotion.gates
    ]


def leading_difference(
    comparison: Comparison | None, document: SubsetDocument | None
) -> DifferenceRow | None:
    """The difference on the leading measure, with its outcome."""
    if comparison is None or document is None:
        return None
    difference = comparison.differences.get(leading_measure(document))
    if difference is None:
        return None
    outcome, css = _outcome(difference)
    return DifferenceRow(difference=difference, outcome=outcome, css=css)


def _outcome(difference: PublishedDifference) -> tuple[str, str]:
    """The outcome of a difference, and its style class."""
    low, high = difference.low, difference.high
    if low is None or high is None:
        return "no interval", "quiet"
    if low > 0:
        return "better", "good"
    if high < 0:
        return "worse", "bad"
    return "no difference shown", "quiet"
