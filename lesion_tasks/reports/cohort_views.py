"""The cohorts of a bundle -> what the section "On other data" shows of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lesion_tasks.catalog.printed_numbers import number
from lesion_tasks.catalog.titles import label
from lesion_tasks.metrics.cohort_document import CaseMixRow, CohortDocument, OtherData, left_out_in_words
from lesion_tasks.metrics.document_schema import PublishedFigure, SubsetDocument
from lesion_tasks.reports.plot import Axis, Plot, series, share_scale
from lesion_tasks.reports.views import confusion_rows, leading_measure
from lesion_tasks.reports.words import class_label, figure_words

# Beside a model's own test: how the classes are told apart, called at the stored threshold, and given probabilities.
SHOWN = (
    "auc", "macro_auc", "average_precision", "sensitivity", "specificity", "balanced_accuracy", "accuracy",
    "ppv", "npv", "calibration_intercept", "calibration_slope", "brier_score", "brier_skill",
    "expected_calibration_error",
)  # fmt: skip
ROW_HEIGHT = 44
# Of each row's height, from below: where the dot stands, and where the line above which is its title.
_DOT, _TITLE = 0.35, 0.54
# A standardized difference above this is commonly called an imbalance (Austin 2009).
NOTABLE_DIFFERENCE = 0.1


@dataclass(frozen=True, kw_only=True)
class CohortView:
    """One cohort: its document, and its figures beside those of the training's own test set."""

    document: CohortDocument
    ident: str
    taken_out: str
    figures: list[tuple[str, PublishedFigure | None, PublishedFigure | None]]
    confusion: list[dict[str, Any]]
    case_mix: list[tuple[str, list[tuple[CaseMixRow, bool]]]]
    recalibrated: list[tuple[str, PublishedFigure, PublishedFigure]]

    @staticmethod
    def digits_of(row: CaseMixRow) -> int:
        """Decimals that show two means: fewer of an age than of a share of a picture."""
        return 1 if max(abs(row.test or 0), abs(row.cohort or 0)) >= 10 else 3


def cohort_views(other: OtherData | None, own: SubsetDocument | None) -> list[CohortView]:
    """Every cohort in the order of the catalogue; empty if none judges the task."""
    return [] if other is None else [_view(index, one, own) for index, one in enumerate(other.cohorts)]


def _view(index: int, document: CohortDocument, own: SubsetDocument | None) -> CohortView:
    theirs = document.subset.figures if document.subset else {}
    ours = own.figures if own else {}
    fitted = document.recalibration
    return CohortView(
        document=document,
        ident=f"cohort-{index + 1}",
        taken_out=left_out_in_words(document.overlaps, document.n_lacking, document.lacking),
        figures=[(name, ours.get(name), theirs.get(name)) for name in SHOWN if name in theirs],
        confusion=confusion_rows(document.subset) if document.subset else [],
        case_mix=[
            (attribute, [(row, abs(row.difference or 0) > NOTABLE_DIFFERENCE) for row in rows])
            for attribute, rows in groupby(document.case_mix, key=_heading)
        ],
        recalibrated=[(name, fitted.before[name], figure) for name, figure in fitted.after.items()]
        if fitted
        else [],
    )


def _heading(row: CaseMixRow) -> str:
    """The rows of one attribute stand together, and so do all facts about the pictures."""
    return "picture facts" if row.attribute.startswith("picture_") else row.attribute


def forest_plot(other: OtherData | None, own: SubsetDocument | None) -> Plot | None:
    """The leading figure with its interval on the training's own test set and on each cohort; None without a cohort."""
    if other is None or own is None or not other.figures:
        return None
    measure = leading_measure(own)
    titles = {one.name: one.title for one in other.cohorts}
    rows = [("Own test set", own.figures.get(measure))]
    rows += [(titles[name], figure) for name, figure in other.figures.items()]
    known = [(title, figure) for title, figure in rows if figure is not None and figure.value is not None]
    return forest(known, measure, f"{label(measure)} on other data", reference=known[0][1].value or 0.0)


def forest(
    rows: Sequence[tuple[str, PublishedFigure]],
    measure: str,
    title: str,
    *,
    reference: float,
    n_first: int = 1,
) -> Plot:
    """One figure with its interval for each row, from above; the `n_first` first ones in a colour of their own."""
    low, high = share_scale(figure for _, figure in rows)
    marks = tuple(round(low + 0.1 * i, 1) for i in range(round((high - low) * 10) + 1))
    said = [f"{name}: {figure_words(figure)}, n = {figure.n_images:,}" for name, figure in rows]
    plot = Plot(
        ident="forest",
        title=title,
        description=f"{'; '.join(said)}.",
        x=Axis(label=label(measure), low=low, high=high, marks=marks),
        y=Axis(label="", low=0.0, high=float(len(rows)), marks=()),
        height=56 + ROW_HEIGHT * len(rows),
        left=12,
        key=said,
    )
    for index, (name, figure) in enumerate(rows):
        below, value = len(rows) - index - 1, figure.value or 0.0
        y = below + _DOT
        # Beside the title there is no line: a long one would be crossed by it.
        plot.line([(reference, below), (reference, below + _TITLE)], "chance")
        if figure.low is not None and figure.high is not None:
            plot.line([(max(figure.low, low), y), (figure.high, y)], "error")
        plot.dot(value, y, f"{series(0 if index < n_first else 1)}-fill", 5)
        plot.note(low, y, f"{_short(name)}: {number(value)}", dx=2, dy=-12)
    return plot


MOST_CHARACTERS = 44


def _short(title: str) -> str:
    words = class_label(title)
    return words if len(words) <= MOST_CHARACTERS else f"{words[: MOST_CHARACTERS - 1].rstrip()}…"
