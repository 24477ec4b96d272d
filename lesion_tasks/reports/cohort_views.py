"""The cohorts of a bundle -> what the section "On other data" shows of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lesion_tasks.catalog.printed_numbers import number, percent, signed
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
# Attributes that are facts of the decoded picture (`pixels.picture_facts`): in grey levels but for these.
PICTURE = "picture_"
SHARES_OF_PICTURES = ("picture_white_share", "picture_black_share")


@dataclass(frozen=True, kw_only=True)
class CaseMixLine:
    """A share or a mean on both sides as it is printed, with its unit."""

    title: str
    test: str
    cohort: str
    difference: str
    is_notable: bool


@dataclass(frozen=True, kw_only=True)
class CohortView:
    """One cohort: its document, and its figures beside those of the training's own test set."""

    document: CohortDocument
    ident: str
    taken_out: str
    figures: list[tuple[str, PublishedFigure | None, PublishedFigure | None]]
    confusion: list[dict[str, Any]]
    case_mix: list[tuple[str, list[CaseMixLine]]]
    recalibrated: list[tuple[str, PublishedFigure, PublishedFigure]]


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
            (attribute, [case_mix_line(row) for row in rows])
            for attribute, rows in groupby(document.case_mix, key=_heading)
        ],
        recalibrated=[(name, fitted.before[name], figure) for name, figure in fitted.after.items()]
        if fitted
        else [],
    )


def case_mix_line(row: CaseMixRow) -> CaseMixLine:
    """Shares differ by percentage points, means by standard deviations; nothing against everything is notable."""
    is_share = row.value is not None or row.attribute in SHARES_OF_PICTURES
    is_known = row.test is not None and row.cohort is not None
    if row.value is None:
        title = label(row.attribute)
        if row.attribute.startswith(PICTURE) and not is_share:
            title += ", grey levels of 0 to 255"
    else:
        title = label(row.value) if row.attribute == "missing" else class_label(row.value)
    if is_share:
        shown = [percent(side) for side in (row.test, row.cohort)]
        points = 100 * ((row.cohort or 0.0) - (row.test or 0.0))
        difference = f"{signed(points, 1)} points" if is_known else signed(None)
    else:
        digits = 1 if max(abs(row.test or 0), abs(row.cohort or 0)) >= 10 else 3
        shown = [number(side, digits) for side in (row.test, row.cohort)]
        difference = f"{signed(row.difference, 2)} SD" if row.difference is not None else signed(None)
    return CaseMixLine(
        title=title,
        test=shown[0],
        cohort=shown[1],
        difference=difference,
        is_notable=is_known and row.test != row.cohort
        if row.difference is None
        else abs(row.difference) > NOTABLE_DIFFERENCE,
    )


def _heading(row: CaseMixRow) -> str:
    """The rows of one attribute stand together, and so do all facts about the pictures."""
    return "picture facts" if row.attribute.startswith(PICTURE) else row.attribute


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
