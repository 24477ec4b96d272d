"""The fairness of a bundle's samples -> what the section "Fairness" shows: gaps side by side, then the parts."""

from __future__ import annotations

from dataclasses import dataclass

from lesion_tasks.metrics.fairness_document import AttributeFairness, Fairness, FairnessGap
from lesion_tasks.reports.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class GapRow:
    """One measure of one attribute: its largest gap in each sample; None where it cannot be determined."""

    measure: str
    gaps: list[FairnessGap | None]


@dataclass(frozen=True, kw_only=True)
class FairnessView:
    """Every sample by its title, and the gaps of each attribute in all of them."""

    titles: list[str]
    attributes: list[tuple[str, list[GapRow], list[str | None]]]  # with why each sample has none
    samples: list[tuple[str, Fairness]]


def fairness_view(bundle: Bundle) -> FairnessView | None:
    """The test set, each measured cohort, and all of them pooled; None if no sample says anything."""
    samples = _samples(bundle)
    if not samples or not any(one.parts for _, some in samples for one in some.attributes):
        return None
    attributes = []
    for index, attribute in enumerate(samples[0][1].attributes):
        each = [some.attributes[index] for _, some in samples]
        measures = list(dict.fromkeys(gap.measure for one in each for gap in one.gaps))
        rows = [GapRow(measure=name, gaps=[_gap(one, name) for one in each]) for name in measures]
        attributes.append((attribute.attribute, rows, [one.reason for one in each]))
    return FairnessView(titles=[title for title, _ in samples], attributes=attributes, samples=samples)


def _samples(bundle: Bundle) -> list[tuple[str, Fairness]]:
    found = [("Test", bundle.fairness)]
    if bundle.other_data is not None:
        found += [(one.title, one.fairness) for one in bundle.other_data.cohorts]
        found.append(("All of them", bundle.other_data.pooled))
    return [(title, one) for title, one in found if one is not None]


def _gap(attribute: AttributeFairness, measure: str) -> FairnessGap | None:
    return next((gap for gap in attribute.gaps if gap.measure == measure), None)
