"""Many predictions, summed up -> the page about them: outcomes, scores, and which pictures could not be read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from lesion_tasks.catalog.printed_numbers import number
from lesion_tasks.reports.environment import environment
from lesion_tasks.reports.plot import Axis, Plot, nice_marks, series
from lesion_tasks.reports.words import class_label, count

N_BINS = 20  # of the histogram, each 0.05 wide; a score of 1 is in the last


class Refusals(BaseModel):
    """Pictures that could not be read for one reason."""

    model_config = ConfigDict(extra="forbid")

    n: int
    examples: list[tuple[str, str]]  # the picture, and what was found


class PredictionSummary(BaseModel):
    """What the predictions of one job amount to."""

    model_config = ConfigDict(extra="forbid")

    source: str  # where the pictures came from
    model: str  # the training
    model_sha256: str
    classes: list[str]
    threshold: float | None
    n_images: int = 0
    n_predicted: int = 0
    n_by_prediction: dict[str, int] = {}  # every class, in its order
    n_by_doubt: dict[str, int] = {}  # of those predicted, by why there is no answer
    histogram: list[int] = [0] * N_BINS  # of `scored_class`
    refused: dict[str, Refusals] = {}  # by reason
    notes: list[str] = []  # what else there is to know of the source and its table
    head: list[dict[str, Any]] = []  # the first rows of the table

    @property
    def score_words(self) -> str:
        """What the histogram is of: of two classes the positive one, else the most likely one of each picture."""
        return f"P({class_label(self.classes[1])})" if len(self.classes) == 2 else "P(most likely class)"


def render_prediction_page(summary: PredictionSummary) -> str:
    """Render the page as HTML: one file that needs no server."""
    return (
        environment()
        .get_template("predictions.html.j2")
        .render(
            summary=summary, columns=list(summary.head[0]) if summary.head else [], plot=_histogram(summary)
        )
    )


def _histogram(summary: PredictionSummary) -> Any:
    highest = max(summary.histogram)
    if not highest:
        return None
    marks = nice_marks(0, highest)
    plot = Plot(
        ident="scores",
        title=f"Pictures by {summary.score_words}",
        description=f"{count(summary.n_predicted)} pictures in {N_BINS} equal bins, at most {count(highest)} in one",
        x=Axis(label=summary.score_words),
        y=Axis(label="Pictures", low=0, high=marks[-1], marks=marks, words="{:,.0f}".format),
        height=280,
        left=64,
    )
    for i, n in enumerate(summary.histogram):
        left, right = (i + 0.06) / N_BINS, (i + 0.94) / N_BINS
        if n:
            plot.area([(left, 0), (left, n), (right, n), (right, 0)], f"{series(0)}-fill")
    if summary.threshold is not None:
        plot.line([(summary.threshold, 0), (summary.threshold, marks[-1])], "chance")
        plot.note(
            summary.threshold,
            marks[-1],
            f"threshold {number(summary.threshold)}",
            dx=4,
            dy=10,
            anchor="start",
        )
    return plot.svg()
