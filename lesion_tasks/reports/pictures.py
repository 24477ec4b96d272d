"""A bundle -> the PNG figures of its folder, for slides and papers: light, with intervals and counts in the picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lesion_tasks.reports.views import class_figure, leading_document
from lesion_tasks.reports.words import MINUS, class_label, counts_words, figure_words, number, subset_title

# The palette of the page, in the same order.
COLOURS = ("#1d5d8c", "#b4501a", "#2b7a58", "#8a4a9c", "#7a6a00", "#5b6670")
DASHES = ("-", (0, (6, 2)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (4, 1)), (0, (1, 1)))
INK, MUTED, LINE = "#1c2329", "#59646e", "#d9d6cf"
SIZE_INCHES, DPI = (6.0, 5.6), 150

Document = Mapping[str, Any]


def pictures(bundle: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> PNG. What is undefined is a picture that says so, so that a link never leads nowhere."""
    document = leading_document(bundle)
    title = str(bundle["training"]["training_id"])
    return {
        "roc.png": _picture(document, title, "ROC", _roc),
        "pr.png": _picture(document, title, "Precision and recall", _precision_recall),
        "confusion.png": _picture(document, title, "Calls against truth", _confusion),
        "calibration.png": _picture(document, title, "Calibration", _calibration),
    }


def _picture(document: Document | None, training_id: str, title: str, draw: Any) -> bytes:
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    reason = (
        "the predictions could not be joined to the manifest" if document is None else draw(axes, document)
    )
    if reason is not None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, _safe(f"Not defined: {reason}"), ha="center", va="center", color=MUTED, wrap=True)
    axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold")
    size = "" if document is None else _size_words(document)
    figure.supxlabel(
        _safe(f"{training_id}\n{size}Research, not diagnosis."), x=0.01, ha="left", fontsize=8, color=MUTED
    )
    buffer = io.BytesIO()
    # Without a date, the same bundle gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _size_words(document: Document) -> str:
    subset = document["subset"]
    return f"{subset_title(subset['name'])}: {counts_words(subset)}. "


def _safe(text: str) -> str:
    """A dollar sign would start a formula in matplotlib."""
    return text.replace("$", r"\$")


def _style(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x_label, ylabel=y_label)
    axes.set_aspect("equal")
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    for side in axes.spines.values():
        side.set_color(LINE)


def _legend(axes: Axes, where: Literal["lower right", "upper left", "best"]) -> None:
    legend = axes.legend(loc=where, frameon=True, fontsize=8.5, labelcolor=INK, framealpha=0.9)
    legend.get_frame().set_edgecolor(LINE)


def _curves(document: Document, kind: str, measure: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Legend words and points of every curve that is defined."""
    return [
        (
            _safe(f"{class_label(name)}: {figure_words(class_figure(document, name, measure))}"),
            curve,
        )
        for name, curve in document["curves"][kind].items()
        if curve
    ]


def _reason(document: Document, measure: str, macro: str) -> str:
    figure = document["figures"].get(measure) or document["figures"].get(macro)
    return str(figure["reason"]) if figure and figure.get("reason") else "there is no curve"


def _roc(axes: Axes, document: Document) -> str | None:
    curves = _curves(document, "roc", "auc")
    if not curves:
        return _reason(document, "auc", "macro_auc")
    _style(axes, f"1 {MINUS} specificity", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    for i, (words, curve) in enumerate(curves):
        axes.plot(
            curve["false_positive_rate"],
            curve["true_positive_rate"],
            color=COLOURS[i % 6],
            linestyle=DASHES[i % 6],
            linewidth=1.8,
            label=words,
        )
    sensitivity, specificity = (document["figures"].get(name) for name in ("sensitivity", "specificity"))
    if sensitivity and specificity and None not in (sensitivity["value"], specificity["value"]):
        at = f"at {number(document['threshold']['value'])}" if document["threshold"] else "at one half"
        axes.plot(1 - specificity["value"], sensitivity["value"], "o", color=INK, label=f"threshold {at}")
    _legend(axes, "lower right")
    return None


def _precision_recall(axes: Axes, document: Document) -> str | None:
    curves = _curves(document, "precision_recall", "average_precision")
    if not curves:
        return _reason(document, "average_precision", "macro_average_precision")
    _style(axes, "Recall (sensitivity)", "Precision (positive predictive value)")
    if document["subset"]["prevalence"] is not None:
        prevalence = document["subset"]["prevalence"]
        axes.axhline(
            prevalence, color=MUTED, linewidth=1, linestyle=":", label=f"prevalence {number(prevalence)}"
        )
    for i, (words, curve) in enumerate(curves):
        axes.plot(
            curve["recall"],
            curve["precision"],
            color=COLOURS[i % 6],
            linestyle=DASHES[i % 6],
            linewidth=1.8,
            label=words,
        )
    _legend(axes, "best")
    return None


def _confusion(axes: Axes, document: Document) -> str | None:
    counts = np.array(document["confusion"]["counts"])
    if not counts.sum():
        return "there are no images"
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    # Never so dark that the ink of the numbers could not be read on it.
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.8, aspect="auto")
    names = [_safe(class_label(name).replace(" ", "\n")) for name in document["confusion"]["class_names"]]
    axes.set(xlabel="Called", ylabel="Truth")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=8.5)
    for side in axes.spines.values():
        side.set_visible(False)
    for (i, j), n in np.ndenumerate(counts):
        axes.text(j, i, f"{n:,}\n{shares[i, j]:.1%}", ha="center", va="center", color=INK, fontsize=9.5)
    return None


def _calibration(axes: Axes, document: Document) -> str | None:
    curve = document["curves"]["calibration"]
    if not curve:
        return (
            "more than two classes have no one curve"
            if document["task"] == "multiclass"
            else "there are no images"
        )
    _style(axes, "Predicted probability, mean of the bin", "Observed share of positives")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    share = np.array(curve["observed_share"], dtype=float)
    low, high = (np.array(curve[side], dtype=float) for side in ("low", "high"))
    slope = figure_words(document["figures"].get("calibration_slope"))
    axes.errorbar(
        curve["mean_score"],
        share,
        yerr=np.clip([share - low, high - share], 0, None),
        fmt="o-",
        color=COLOURS[0],
        capsize=3,
        linewidth=1.6,
        markersize=5,
        label=f"slope {slope}",
    )
    _legend(axes, "upper left")
    return None
