"""What a model does not know -> what the section about it shows: test and cohorts, and errors against answers."""

from __future__ import annotations

from lesion_tasks.metrics.cohort_document import OtherData
from lesion_tasks.metrics.doubt_document import Doubt, DoubtFigures
from lesion_tasks.reports.plot import Axis, Plot, nice_marks, series


def doubt_parts(doubt: Doubt | None, other: OtherData | None) -> list[tuple[str, DoubtFigures]]:
    """The test set and every cohort on which doubt was measured."""
    if doubt is None:
        return []
    cohorts = [(one.title, one.doubt) for one in other.cohorts if one.doubt] if other else []
    return [("test", doubt.test), *cohorts]


def doubt_plot(doubt: Doubt | None) -> Plot | None:
    """Wrong answers against answers on test; None if nothing is answered at any rate."""
    if doubt is None:
        return None
    curve = doubt.test.curve
    points = sorted(
        (answered, wrong)
        for answered, wrong in zip(curve.answered, curve.wrong_of_answered, strict=True)
        if wrong is not None
    )
    if not points:
        return None
    high = max(0.05, *(wrong for _, wrong in points))
    plot = Plot(
        ident="wrong-answers",
        title="Wrong answers against answers",
        description="; ".join(
            f"{answered:.2f} answered, {wrong:.3f} of these wrong" for answered, wrong in points
        ),
        x=Axis(label="Share answered"),
        y=Axis(label="Wrong of those answered", low=0.0, high=high, marks=nice_marks(0.0, high)),
    )
    plot.line(points, series(0))
    stated = doubt.test
    if stated.answered.value is not None and stated.wrong_of_answered.value is not None:
        plot.dot(stated.answered.value, stated.wrong_of_answered.value, "operating", 5)
    return plot
