"""What a model does not know -> what report and model card say of it: in words, by test and cohorts, and as a curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lesion_tasks.catalog.printed_numbers import number, percent
from lesion_tasks.metrics.cohort_document import OtherData
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.doubt_document import Doubt, DoubtFigures
from lesion_tasks.metrics.known_identities import Identities, sentence
from lesion_tasks.reports.plot import Axis, Plot, nice_marks, series
from lesion_tasks.reports.words import class_label, figure_words


@dataclass(frozen=True, kw_only=True)
class DoubtWords:
    """What is stated, in sentences."""

    lead: str
    stated: str
    rests_on: str


def doubt_words(doubt: Doubt, recipe: Mapping[str, Any], identities: Identities | None = None) -> DoubtWords:
    """The sentences about the doubt of a training with this recipe, and what is known of whose its images are."""
    covered, wrong = percent(1 - doubt.error_rate), doubt.test.wrong_of_answered.value
    answered = doubt.test.answered.value
    of_these = "" if wrong is None else f", and {percent(wrong)} of these wrongly"
    bounds = [
        f"{class_label(name)}: in a set from a probability of "
        f"{'0, for want of groups' if bound is None else number(1 - bound)} on, which rests on "
        f"{plural(doubt.n_groups[name], 'group')} of val."
        for name, bound in doubt.bounds.items()
    ]
    if recipe.get("n_folds"):
        bounds.append(
            "The bounds rest on scores of single members, out of fold; what answers is their mean, which is no "
            "member's score: the promise holds as far as the mean is no worse than they are."
        )
    if doubt.novelty_reason:
        strange = f"No picture is called out of distribution: {doubt.novelty_reason}."
    else:
        strange = (
            "Out of distribution is what lies further from the pictures of val than all but "
            f"{percent(doubt.novelty_rate)} of them lie from the others, in the model's own features."
        )
    return DoubtWords(
        lead="For each picture the model names the classes that are possible: sets that hold the true class for at "
        f"least {covered} of each class, fitted on val. It answers if one class is possible, and if "
        "that is the one it calls; otherwise it says that it does not know. It answers "
        f"{'none' if answered is None else percent(answered)} of the natural test set{of_these}.",
        stated=f"{_counted_once(identities)} Stated: at least "
        f"{covered} of each class covered, at most {percent(doubt.error_rate)} of each class answered wrongly, at most "
        f"{percent(doubt.novelty_rate)} of honest pictures out of distribution.",
        rests_on=" ".join([*bounds, strange]),
    )


def _counted_once(identities: Identities | None) -> str:
    """What the promise is about: whose images count together."""
    if identities is None:
        return "Every patient or lesion that is known counts once, however many images show it."
    known = identities.val
    if known.state == "unknown":
        return sentence(
            f"{known.in_short}, so that hardly more than copies of one picture count together, and a patient as often "
            "as there are other pictures"
        )
    which = " that is known" if known.n_with_neither else ""
    return f"Every {known.holder}{which} counts once, however many images show it."


def doubt_parts(doubt: Doubt | None, other: OtherData | None) -> list[tuple[str, DoubtFigures]]:
    """The test set and every cohort on which doubt was measured."""
    if doubt is None:
        return []
    cohorts = [(one.title, one.doubt) for one in other.cohorts if one.doubt] if other else []
    return [("test", doubt.test), *cohorts]


def broken_promises(doubt: Doubt | None, other: OtherData | None) -> list[str]:
    """A sentence for each part whose interval excludes what is stated of a class."""
    if doubt is None:
        return []
    promised = 1 - doubt.error_rate
    said = []
    for title, part in doubt_parts(doubt, other):
        short = [
            f"{class_label(name)} {figure_words(figure)}"
            for name, figure in part.covered_by_class.items()
            if figure.high is not None and figure.high < promised
        ]
        if short:
            said.append(
                f"On {title} the sets do not hold what is stated: at least {percent(promised)} of each class, and "
                f"there the true class is in the set for {' and '.join(short)}."
            )
    return said


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
