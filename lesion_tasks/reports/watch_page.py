"""The document of a watch over a champion -> the files of its report: a page and JSON."""

from __future__ import annotations

import json
from itertools import groupby

from lesion_tasks.catalog.printed_numbers import NO_VALUE, number
from lesion_tasks.catalog.titles import label
from lesion_tasks.metrics.document_schema import DIALECT, PublishedFigure
from lesion_tasks.metrics.watch_document import ShiftTest, WatchDocument, WatchedPoint
from lesion_tasks.reports.environment import environment
from lesion_tasks.reports.page import File
from lesion_tasks.reports.plot import Axis, Plot, series, share_scale
from lesion_tasks.reports.views import in_order
from lesion_tasks.reports.words import figure_words

_KINDS = {"pictures": "Pictures", "scores": "Scores and answers", "metadata": "Metadata", "labels": "Labels"}
_LEADING = ("auc", "macro_auc")
_WIDTH_OF_POINT = 96


def render_watch(document: WatchDocument) -> dict[str, File]:
    """File name -> (bytes, content type)."""
    schema = {"$schema": DIALECT, **WatchDocument.model_json_schema(mode="serialization")}
    return {
        "metrics.json": (_json(document.model_dump()), "application/json"),
        "metrics.schema.json": (_json(schema), "application/schema+json"),
        "report.html": (render_page(document).encode(), "text/html; charset=utf-8"),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode()


def render_page(document: WatchDocument) -> str:
    """Render only the page."""
    plot = _curve(document.points)
    page: str = (
        environment()
        .get_template("watch.html.j2")
        .render(
            document=document,
            curve=plot and plot.svg(),
            kinds=_by_kind(document.shifts),
            columns=in_order({name for point in document.points for name in point.figures}),
            months_of=months_of,
        )
    )
    return page


def _by_kind(shifts: list[ShiftTest]) -> list[tuple[str, list[ShiftTest]]]:
    """The tests of all images by kind, then those within institutions."""
    of_all = [one for one in shifts if one.institution is None]
    order = list(_KINDS)
    ordered = sorted(of_all, key=lambda one: order.index(one.kind))
    found = [(_KINDS[kind], list(some)) for kind, some in groupby(ordered, key=lambda one: one.kind)]
    within = [one for one in shifts if one.institution is not None]
    return [*found, ("Within institutions", within)] if within else found


def months_of(point: WatchedPoint) -> str:
    """Which images a point is about."""
    if point.first_month is None or point.last_month is None:
        return "test set"
    return (
        point.first_month
        if point.first_month == point.last_month
        else f"{point.first_month} to {point.last_month}"
    )


def _curve(points: list[WatchedPoint]) -> Plot | None:
    """The leading figure with its interval, the test set first, then newer images from left to right."""
    known: list[tuple[WatchedPoint, PublishedFigure]] = []
    measure = ""
    for point in points:
        for name in _LEADING:
            figure = point.figures.get(name)
            if figure is not None and figure.value is not None:
                known.append((point, figure))
                measure = name
    if len(known) < 2:
        return None
    low, high = share_scale(figure for _, figure in known)
    marks = tuple(round(low + 0.1 * i, 1) for i in range(round((high - low) * 10) + 1))
    said = [f"{months_of(point)}: {figure_words(figure)}, n = {figure.n_images:,}" for point, figure in known]
    plot = Plot(
        ident="over-time",
        title=f"{label(measure)} on the test set and on newer images",
        description=f"{'; '.join(said)}.",
        x=Axis(
            label="month of arrival",
            low=-0.5,
            high=len(known) - 0.5,
            marks=tuple(float(i) for i in range(len(known))),
            words=lambda place: months_of(known[int(place)][0]).replace(" to ", f" {NO_VALUE} "),
        ),
        y=Axis(label=label(measure), low=low, high=high, marks=marks),
        width=max(400, 80 + _WIDTH_OF_POINT * len(known)),
        key=said,
    )
    reference = known[0][1].value or 0.0
    plot.line([(-0.5, reference), (len(known) - 0.5, reference)], "chance")
    plot.line([(float(i), figure.value or 0.0) for i, (_, figure) in enumerate(known)][1:], series(1))
    for index, (_, figure) in enumerate(known):
        if figure.low is not None and figure.high is not None:
            plot.line([(index, max(figure.low, low)), (index, figure.high)], "error")
        plot.dot(index, figure.value or 0.0, f"{series(0 if index == 0 else 1)}-fill", 5)
        plot.note(index, figure.value or 0.0, number(figure.value), dx=9, dy=4)
    return plot
