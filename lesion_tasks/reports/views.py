"""A bundle -> what each section of the page shows, so that the template only lays out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

from lesion_tasks.reports.plot import share_scale, whisker

SUBSET_ORDER = ("test_natural", "test_balanced", "val")

# Figures by what they ask; any other key of the document comes last, so that nothing measured is hidden.
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
        "How good are the calls?",
        ("sensitivity", "specificity", "balanced_accuracy", "accuracy", "ppv", "npv"),
    ),
    (
        "Can the probabilities be believed?",
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
CURVE_TABLE_ROWS = 21
STATUS_ORDER = {"failed": 0, "passed": 1, "not_applicable": 2}


def leading_document(bundle: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The natural test set; where it is absent, whatever was measured first."""
    subsets = bundle["subsets"]
    for name in (*SUBSET_ORDER, *subsets):
        if name in subsets:
            found: Mapping[str, Any] = subsets[name]
            return found
    return None


def leading_measure(document: Mapping[str, Any]) -> str:
    return "auc" if document["task"] == "binary" else "macro_auc"


def class_figure(document: Mapping[str, Any], name: str, measure: str) -> Mapping[str, Any] | None:
    """A measure of one class against the rest; of two classes it stands among the figures of the subset."""
    found: Mapping[str, Any] | None = document["by_class"].get(name, {}).get(measure)
    if found is None and name == document["positive_class"]:
        found = document["figures"].get(measure)
    return found


def curve_keys(document: Mapping[str, Any], kind: str, measure: str) -> list[dict[str, Any]]:
    """What stands under a plot of curves: each class that has one, with its figure."""
    return [
        {"name": name, "figure": class_figure(document, name, measure)}
        for name, curve in document["curves"][kind].items()
        if curve
    ]


def headline_figures(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The four figures that stand under the verdict."""
    names = (
        ("auc", "sensitivity", "specificity", "calibration_slope")
        if document["task"] == "binary"
        else ("macro_auc", "balanced_accuracy", "accuracy", "expected_calibration_error")
    )
    return [
        {"name": name, "figure": document["figures"][name]} for name in names if name in document["figures"]
    ]


def check_summary(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many checks passed, failed (blocking), failed (told only), or did not apply."""
    return {
        "passed": sum(v["status"] == "passed" for v in verdicts),
        "failed": sum(v["status"] == "failed" and v["is_blocking"] for v in verdicts),
        "told": sum(v["status"] == "failed" and not v["is_blocking"] for v in verdicts),
        "not_applicable": sum(v["status"] == "not_applicable" for v in verdicts),
    }


def checks(verdicts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All checks, failures first, each with the word and style class of its status."""
    words = {"passed": ("passed", "good"), "not_applicable": ("not applicable", "quiet")}
    shown = []
    for verdict in verdicts:
        word, css = words.get(
            verdict["status"],
            ("failed", "bad") if verdict["is_blocking"] else ("failed, does not block", "warn"),
        )
        shown.append({**verdict, "word": word, "css": css})
    return sorted(shown, key=lambda v: (STATUS_ORDER.get(v["status"], 3), not v["is_blocking"]))


def is_apart(verdicts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether it was looked for, and found, that nobody stands on two sides of the split."""
    return any(v["name"] == "leaks" and v["status"] == "passed" for v in verdicts)


def natural_frequencies(document: Mapping[str, Any], n: int = 1000) -> list[dict[str, int]]:
    """What the threshold means among `n` lesions, at each stated prevalence and at the subset's own.

    From sensitivity and specificity alone, so that it holds for another clinic only as far as these do.
    """
    sensitivity, specificity = (
        document["figures"].get(name, {}).get("value") for name in ("sensitivity", "specificity")
    )
    if sensitivity is None or specificity is None:
        return []
    prefix = "ppv_at_prevalence_"
    shares = [float(name.removeprefix(prefix)) for name in document["figures"] if name.startswith(prefix)]
    own = document["subset"]["prevalence"]
    if own is not None and 0 < own < 1:
        shares.append(own)
    rows = []
    for share in sorted(set(shares)):
        n_positive = round(n * share)
        found = round(n_positive * sensitivity)
        alarms = round((n - n_positive) * (1 - specificity))
        rows.append(
            {
                "n": n,
                "positive": n_positive,
                "found": found,
                "missed": n_positive - found,
                "alarms": alarms,
                "right_negatives": n - n_positive - alarms,
                "is_own": share == own,
            }
        )
    return rows


def figure_groups(documents: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every figure of every subset, grouped by question: rows of a measure and its figure in each subset."""
    names = list(dict.fromkeys(name for document in documents.values() for name in document["figures"]))
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
                {
                    "name": name,
                    "figures": [document["figures"].get(name) for document in documents.values()],
                }
                for name in inside
            ],
        }
        for title, inside in groups
        if inside
    ]


def confusion_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusion matrix with the share of each row, which shades the cell."""
    names, counts = document["confusion"]["class_names"], document["confusion"]["counts"]
    rows = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = sum(row)
        cells = [
            {"n": n, "share": n / total if total else 0.0, "is_right": i == j} for j, n in enumerate(row)
        ]
        rows.append({"name": name, "cells": cells, "total": total})
    return rows


def curve_table(curve: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """At most `CURVE_TABLE_ROWS` evenly spaced points of a curve; all of them are in metrics.json."""
    columns = list(curve)
    n = len(curve[columns[0]])
    step = max(1, -(-(n - 1) // (CURVE_TABLE_ROWS - 1))) if n > 1 else 1
    kept = sorted({*range(0, n, step), n - 1}) if n else []
    return {
        "columns": columns,
        "rows": [[curve[name][i] for name in columns] for i in kept],
        "n_points": n,
    }


def class_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each class against the rest, with the number of its images."""
    return [
        {
            "name": name,
            "n": document["subset"]["class_counts"].get(name),
            "figures": [figures.get(key) for key in ("auc", "average_precision", "recall", "precision")],
        }
        for name, figures in document["by_class"].items()
    ]


def slice_scale(document: Mapping[str, Any]) -> tuple[float, float]:
    """The common scale of the whiskers of all slices."""
    leading = leading_measure(document)
    return share_scale(part["figures"].get(leading) for part in document["slices"])


def slice_groups(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Slices by attribute; each scored one with its figures and a whisker on one common scale."""
    leading = leading_measure(document)
    overall = document["figures"].get(leading, {}).get("value")
    scale = slice_scale(document)
    groups = []
    for attribute, members in groupby(document["slices"], key=lambda part: part["attribute"]):
        rows = []
        # Skin types have an order of their own; so have bands, and everything else comes largest first.
        parts = list(members)
        if attribute == "fitzpatrick_skin_type":
            parts.sort(key=_roman)
        for part in parts:
            figure = part["figures"].get(leading)
            rows.append(
                {**part, "leading": figure, "whisker": _whisker(figure, overall, scale)},
            )
        groups.append({"attribute": attribute, "rows": rows})
    return groups


def _roman(part: Mapping[str, Any]) -> tuple[bool, str]:
    """I to VI sort as they read; what is missing comes last."""
    return part["value"] == "missing", part["value"]


def lowest_slice(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The scored slice with the lowest leading figure, and how many it is the lowest of; None below two."""
    leading = leading_measure(document)
    scored = [
        part
        for part in document["slices"]
        if part["is_scored"] and part["figures"].get(leading, {}).get("value") is not None
    ]
    if len(scored) < 2:
        return None
    lowest = min(scored, key=lambda part: part["figures"][leading]["value"])
    return {**lowest, "figure": lowest["figures"][leading], "n_scored": len(scored)}


def slice_columns(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Which measures stand beside the leading one."""
    return ("sensitivity", "specificity") if document["task"] == "binary" else ("balanced_accuracy",)


def _whisker(
    figure: Mapping[str, Any] | None, reference: float | None, scale: tuple[float, float]
) -> Markup | None:
    if not figure or figure["value"] is None:
        return None
    return whisker(figure["value"], figure["low"], figure["high"], scale=scale, reference=reference)


def comparison_rows(comparison: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Differences in the order measured, each with a whisker around zero and what it amounts to."""
    if comparison is None:
        return []
    differences = list(comparison["differences"].values())
    # Calibration and probability measures are not compared, so one scale fits all: shares.
    extent = max(
        [0.02]
        + [
            abs(bound)
            for d in differences
            for bound in (d["value"], d["low"], d["high"])
            if bound is not None
        ]
    )
    return [
        {
            **difference,
            "whisker": whisker(
                difference["value"],
                difference["low"],
                difference["high"],
                scale=(-extent, extent),
                reference=0.0,
            ),
            **_outcome(difference),
        }
        for difference in differences
    ]


def slice_differences(
    comparison: Mapping[str, Any] | None, promotion: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The parts of the test set that were compared, the largest loss first, and the names of those too small."""
    if comparison is None or not comparison.get("slices"):
        return None
    guarded = promotion["slice_guard"]["attributes"] if promotion else ()
    compared = [part for part in comparison["slices"] if part["difference"]]
    extent = max([0.02] + [abs(part["difference"][end]) for part in compared for end in ("low", "high")])
    rows = [
        {
            **part,
            "is_guarded": part["attribute"] in guarded,
            "whisker": whisker(
                part["difference"]["value"],
                part["difference"]["low"],
                part["difference"]["high"],
                scale=(-extent, extent),
                reference=0.0,
            ),
            **_outcome(part["difference"]),
        }
        for part in compared
    ]
    return {
        "rows": sorted(rows, key=lambda row: row["difference"]["value"]),
        "n_too_small": len(comparison["slices"]) - len(compared),
    }


def gate_rows(
    promotion: Mapping[str, Any] | None,
    document: Mapping[str, Any] | None,
    comparison: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Every gate with the figure it looks at, and the difference from the champion's where there is one."""
    if promotion is None or document is None:
        return []
    differences = comparison["differences"] if comparison else {}
    return [
        {
            **gate,
            "figure": document["figures"].get(gate["measure"]),
            "difference": differences.get(gate["measure"]),
        }
        for gate in promotion["gates"]
    ]


def leading_difference(
    comparison: Mapping[str, Any] | None, document: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The difference on the leading measure, with what it amounts to."""
    if comparison is None or document is None:
        return None
    difference = comparison["differences"].get(leading_measure(document))
    return None if difference is None else {**difference, **_outcome(difference)}


def _outcome(difference: Mapping[str, Any]) -> dict[str, str]:
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return {"outcome": "no interval", "css": "quiet"}
    if low > 0:
        return {"outcome": "better", "css": "good"}
    if high < 0:
        return {"outcome": "worse", "css": "bad"}
    return {"outcome": "no difference shown", "css": "quiet"}
