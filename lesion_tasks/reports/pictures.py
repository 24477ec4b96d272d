"""A bundle -> the PNG pictures of its folder, for slides and papers: light background, with intervals and counts.

Curves are the plots of the page, mark by mark; the confusion matrix is a table there and a picture here.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lesion_tasks.catalog.printed_numbers import percent
from lesion_tasks.metrics.document_schema import SubsetDocument
from lesion_tasks.reports.bundle import Bundle
from lesion_tasks.reports.charts import calibration_plot, precision_recall_plot, roc_plot
from lesion_tasks.reports.plot import Area, Dot, Line, Mark, Note, Plot
from lesion_tasks.reports.views import leading_document
from lesion_tasks.reports.words import class_label, counts_words, subset_title

# The palette of the page, in the same order.
COLOURS = ("#1d5d8c", "#b4501a", "#2b7a58", "#8a4a9c", "#7a6a00", "#5b6670")
DASHES = ("-", (0, (6, 2)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (4, 1)), (0, (1, 1)))
INK, MUTED, GRID = "#1c2329", "#59646e", "#d9d6cf"
SIZE_INCHES, DPI = (6.0, 5.6), 150
# One pixel of the SVG in points: both pictures are about as wide, 400 pixels and 6 inches.
PX = 6.0 * 72 / 400

# How the classes of the style sheet look in a picture.
LINES: dict[str, dict[str, Any]] = {
    "chance": {"color": MUTED, "linewidth": 1.2, "linestyle": ":"},
    "error": {"color": INK, "linewidth": 1.3},
    **{
        f"series-{i}": {"color": colour, "linestyle": dash, "linewidth": 2}
        for i, (colour, dash) in enumerate(zip(COLOURS, DASHES, strict=True))
    },
}
DOTS = {"operating": INK, **{f"series-{i}-fill": colour for i, colour in enumerate(COLOURS)}}

# Draws on the axes; returns why there is nothing to draw, or None.
Draw = Callable[[Axes, SubsetDocument], str | None]


def pictures(bundle: Bundle) -> dict[str, bytes]:
    """File name -> PNG. An undefined figure becomes a picture that says so, so that no link is broken."""
    document = leading_document(bundle)
    title = bundle.training.training_id
    return {
        "roc.png": _picture(document, title, "ROC", _roc),
        "pr.png": _picture(document, title, "Precision and recall", _precision_recall),
        "confusion.png": _picture(document, title, "Confusion matrix", _confusion),
        "calibration.png": _picture(document, title, "Calibration", _calibration),
    }


def _picture(document: SubsetDocument | None, training_id: str, title: str, draw: Draw) -> bytes:
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
    # No date, so that the same bundle gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _size_words(document: SubsetDocument) -> str:
    return f"{subset_title(document.subset.name)}: {counts_words(document.subset)}. "


def _safe(text: str) -> str:
    """A dollar sign would start a formula in matplotlib."""
    return text.replace("$", r"\$")


def _reason(document: SubsetDocument, measure: str, macro: str) -> str:
    figure = document.figures.get(measure) or document.figures.get(macro)
    return figure.reason if figure and figure.reason else "there is no curve"


def _drawn(axes: Axes, plot: Plot | None, reason: str) -> str | None:
    """Draw a plot; if there is none, return the reason."""
    if plot is None:
        return reason
    draw_plot(axes, plot)
    return None


def _roc(axes: Axes, document: SubsetDocument) -> str | None:
    return _drawn(axes, roc_plot(document), _reason(document, "auc", "macro_auc"))


def _precision_recall(axes: Axes, document: SubsetDocument) -> str | None:
    reason = _reason(document, "average_precision", "macro_average_precision")
    return _drawn(axes, precision_recall_plot(document), reason)


def _calibration(axes: Axes, document: SubsetDocument) -> str | None:
    is_multiclass = document.task == "multiclass"
    reason = "more than two classes have no single curve" if is_multiclass else "there are no images"
    return _drawn(axes, calibration_plot(document), reason)


def draw_plot(axes: Axes, plot: Plot) -> None:
    """Draw the marks of a plot of the page, with its key as the legend."""
    axes.set(
        xlim=(plot.x.low - 0.01, plot.x.high + 0.01),
        ylim=(plot.y.low - 0.01, plot.y.high + 0.01),
        xlabel=_safe(plot.x.label),
        ylabel=_safe(plot.y.label),
    )
    axes.set_aspect("equal")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    for side in axes.spines.values():
        side.set_color(GRID)
    for mark in plot.marks:
        _draw(axes, mark)
    handles = [axes.plot([], [], **LINES[f"series-{i % len(COLOURS)}"])[0] for i in range(len(plot.key))]
    legend = axes.legend(
        handles, [_safe(words) for words in plot.key], fontsize=8.5, labelcolor=INK, framealpha=0.9
    )
    legend.get_frame().set_edgecolor(GRID)


def _draw(axes: Axes, mark: Mark) -> None:
    match mark:
        case Line(points=points, css=css):
            axes.plot(*zip(*points, strict=True), **LINES[css])
        case Area(points=points):
            axes.fill(*zip(*points, strict=True), color=COLOURS[0], alpha=0.13, linewidth=0)
        case Dot():
            axes.plot(mark.x, mark.y, "o", color=DOTS[mark.css], markersize=2 * mark.radius * PX * 0.75)
        case Note():
            axes.annotate(
                _safe(mark.text),
                (mark.x, mark.y),
                xytext=(mark.dx * PX, -mark.dy * PX),
                textcoords="offset points",
                ha="right" if mark.anchor == "end" else "left",
                fontsize=8.5,
                color=INK,
            )


def _confusion(axes: Axes, document: SubsetDocument) -> str | None:
    counts = np.array(document.confusion.counts)
    if not counts.sum():
        return "there are no images"
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    # Never so dark that the numbers on it become unreadable.
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.8, aspect="auto")
    names = [_safe(class_label(name).replace(" ", "\n")) for name in document.confusion.class_names]
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=8.5)
    for side in axes.spines.values():
        side.set_visible(False)
    for (i, j), n in np.ndenumerate(counts):
        axes.text(j, i, f"{n:,}\n{percent(shares[i, j])}", ha="center", va="center", color=INK, fontsize=9.5)
    return None
