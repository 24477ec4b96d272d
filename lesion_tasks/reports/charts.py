"""The documents of a bundle -> its plots, prepared once: SVG for the page, the same marks for the PNG beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lesion_tasks.catalog.printed_numbers import MINUS, number
from lesion_tasks.catalog.titles import label
from lesion_tasks.metrics.digits import AUC_DIGITS
from lesion_tasks.metrics.document_schema import SubsetDocument
from lesion_tasks.reports.bundle import Epoch
from lesion_tasks.reports.plot import Axis, Plot, nice_marks, series
from lesion_tasks.reports.views import class_figure
from lesion_tasks.reports.words import class_label, figure_words


def roc_plot(document: SubsetDocument) -> Plot | None:
    """ROC of the positive class, or of each class against the rest; None if no curve is defined."""
    curves = {name: curve for name, curve in document.curves.roc.items() if curve}
    if not curves:
        return None
    key = [f"{class_label(name)}: AUC {figure_words(class_figure(document, name, 'auc'))}" for name in curves]
    plot = Plot(
        ident="roc",
        title="ROC curve",
        description=f"{'; '.join(key)}. The dashed diagonal is chance.",
        x=Axis(label=f"1 {MINUS} specificity (false positive rate)"),
        y=Axis(label="Sensitivity (true positive rate)"),
        key=key,
    )
    plot.line([(0, 0), (1, 1)], "chance")
    for index, curve in enumerate(curves.values()):
        points = list(zip(curve.false_positive_rate, curve.true_positive_rate, strict=True))
        if len(curves) == 1:
            plot.area([*points, (1, 0)], "fill")
        plot.line(points, series(index))
    _operating_point(plot, document)
    return plot


def _operating_point(plot: Plot, document: SubsetDocument) -> None:
    """Sensitivity and specificity at the stored threshold, both with their intervals, as a cross."""
    sensitivity, specificity = (document.figures.get(name) for name in ("sensitivity", "specificity"))
    if not sensitivity or not specificity or sensitivity.value is None or specificity.value is None:
        return
    x, y = 1 - specificity.value, sensitivity.value
    if sensitivity.low is not None and sensitivity.high is not None:
        plot.line([(x, sensitivity.low), (x, sensitivity.high)], "error")
    if specificity.low is not None and specificity.high is not None:
        plot.line([(1 - specificity.high, y), (1 - specificity.low, y)], "error")
    plot.dot(x, y, "operating", 5)
    threshold = document.threshold
    words = f"threshold at {number(threshold.value)}" if threshold else "threshold at one half"
    if x < 0.6:
        plot.note(x, y, words, dx=10, dy=18)
    else:
        plot.note(x, y, words, anchor="end", dx=-10, dy=18)


def precision_recall_plot(document: SubsetDocument) -> Plot | None:
    """Precision over recall, with the prevalence: the precision of a model that knows nothing."""
    curves = {name: curve for name, curve in document.curves.precision_recall.items() if curve}
    if not curves:
        return None
    key = [
        f"{class_label(name)}: average precision {figure_words(class_figure(document, name, 'average_precision'))}"
        for name in curves
    ]
    plot = Plot(
        ident="pr",
        title="Precision-recall curve",
        description=f"{'; '.join(key)}.",
        x=Axis(label="Recall (sensitivity)"),
        y=Axis(label="Precision (positive predictive value)"),
        key=key,
    )
    prevalence = document.subset.prevalence
    if prevalence is not None:
        plot.line([(0, prevalence), (1, prevalence)], "chance")
        plot.note(1, prevalence, f"prevalence {number(prevalence)}", anchor="end", dx=-4, dy=-5)
    for index, curve in enumerate(curves.values()):
        plot.line(list(zip(curve.recall, curve.precision, strict=True)), series(index))
    return plot


def calibration_plot(document: SubsetDocument) -> Plot | None:
    """Observed share over mean score in bins, with intervals."""
    curve = document.curves.calibration
    if not curve:
        return None
    slope, intercept = (
        figure_words(document.figures.get(f"calibration_{name}")) for name in ("slope", "intercept")
    )
    plot = Plot(
        ident="calibration",
        title="Calibration",
        description=(
            f"Observed share of positives over mean predicted probability in {len(curve.mean_score)} bins. "
            f"Slope {slope}; intercept {intercept}."
        ),
        x=Axis(label="Predicted probability, mean of the bin"),
        y=Axis(label="Observed share of positives"),
        key=[f"slope {slope}; 1 is ideal"],
    )
    plot.line([(0, 0), (1, 1)], "chance")
    points = list(zip(curve.mean_score, curve.observed_share, strict=True))
    for (x, _), low, high in zip(points, curve.low, curve.high, strict=True):
        if low is not None and high is not None:
            plot.line([(x, low), (x, high)], "error")
    plot.line(points, series(0))
    for x, y in points:
        plot.dot(x, y, f"{series(0)}-fill", 4)
    return plot


def net_benefit_plot(document: SubsetDocument) -> Plot | None:
    """Decision curve: the model against treating everyone and treating nobody."""
    curve = document.curves.net_benefit
    if not curve:
        return None
    at = curve.threshold
    top = max([*curve.high, *curve.treat_all, 0.01])
    bottom = -0.25 * top
    marks = tuple(mark for mark in nice_marks(bottom, top) if mark >= bottom)
    plot = Plot(
        ident="net-benefit",
        title="Net benefit",
        description="Net benefit of acting on the model, of acting on everyone and of acting on nobody, over the "
        "threshold probability at which one would act.",
        x=Axis(label="Threshold probability", high=0.5, marks=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        y=Axis(label="Net benefit", low=bottom, high=max(marks[-1], top), marks=marks),
    )
    low, high = ([max(value, bottom) for value in side] for side in (curve.low, curve.high))
    plot.area(
        [*zip(at, high, strict=True), *zip(reversed(at), reversed(low), strict=True)],
        "band",
    )
    everyone = [(x, y) for x, y in zip(at, curve.treat_all, strict=True) if y >= bottom]
    plot.line(everyone, "chance")
    if everyone:
        plot.note(*everyone[-1], "everyone", dx=5, dy=-2)
    plot.line([(0, 0), (0.5, 0)], "zero")
    plot.note(0.5, 0, "nobody", anchor="end", dy=13)
    plot.line([(x, max(y, bottom)) for x, y in zip(at, curve.model, strict=True)], series(0))
    return plot


def training_charts(epochs: Sequence[Epoch], recipe: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """One plot for each figure of the epochs, train and val together: (name, plot)."""
    names: list[str] = []
    for epoch in epochs:
        names += [name for name in epoch.figures if name.removeprefix("val_") not in names]
        names = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    best = best_epoch(epochs, recipe)
    charts = ((name, _training_chart(name, epochs, best)) for name in names)
    return [(name, chart) for name, chart in charts if chart is not None]


def _training_chart(name: str, epochs: Sequence[Epoch], best: int | None) -> Markup | None:
    sides = {}
    for key, css in ((name, series(0)), (f"val_{name}", series(1))):
        points = [
            (float(epoch.epoch), value) for epoch in epochs if (value := epoch.figures.get(key)) is not None
        ]
        if points:
            sides[key] = points, css
    if not sides:
        return None
    values = [y for points, _ in sides.values() for _, y in points]
    marks = nice_marks(min(values), max(values))
    first, last = epochs[0].epoch, epochs[-1].epoch
    room = 0.5 if first == last else 0.0
    steps = tuple(mark for mark in nice_marks(first, last) if first <= mark <= last and mark == int(mark))
    plot = Plot(
        ident=f"training-{name.replace(' ', '-')}",
        title=f"{label(name)} by epoch",
        description="; ".join(
            f"{'val' if key.startswith('val_') else 'train'} from {number(points[0][1])} "
            f"to {number(points[-1][1])}"
            for key, (points, _) in sides.items()
        ),
        x=Axis(label="Epoch", low=first - room, high=last + room, marks=steps or (float(first),)),
        y=Axis(label=label(name), low=marks[0], high=marks[-1], marks=marks),
        height=260,
    )
    if best is not None:
        plot.line([(best, marks[0]), (best, marks[-1])], "chance")
    for points, css in sides.values():
        plot.line(points, css)
        if len(points) == 1:
            plot.dot(*points[0], f"{css}-fill")
    return plot.svg()


def best_epoch(epochs: Sequence[Epoch], recipe: Mapping[str, Any]) -> int | None:
    """The epoch with the lowest loss on val, or with the highest AUC if the recipe keeps by it; None without.

    None also with folds: each has an epoch of its own that was kept.
    """
    if recipe.get("n_folds"):
        return None
    known = [
        (_auc_of(epoch) if recipe.get("learning") else 0.0, -loss, -epoch.epoch)
        for epoch in epochs
        if (loss := epoch.figures.get("val_loss")) is not None
    ]
    return -max(known)[2] if known else None


def _auc_of(epoch: Epoch) -> float:
    return round(epoch.figures.get("val_auc") or 0.0, AUC_DIGITS)
