"""A bundle -> what a terminal shows of it: the verdict, the leading figures, and what stands against a promotion."""

from __future__ import annotations

from typing import Any

from lesion_tasks.reports import answers, views
from lesion_tasks.reports.bundle import Bundle
from lesion_tasks.reports.words import (
    check_title,
    counts_words,
    figure_words,
    measure_words,
    subset_title,
)


def in_brief(bundle: Bundle) -> dict[str, Any]:
    """Words by what they are about, fit for JSON; without figures if the predictions could not be joined."""
    document = views.leading_document(bundle)
    standing = bundle.promotion
    found: dict[str, Any] = {"title": bundle.training.title, "verdict": bundle.verdict}
    if worse := answers.worse_elsewhere(bundle):
        found["worse on other data"] = worse
    if document is not None:
        found[f"{subset_title(document.subset.name)}: {counts_words(document.subset)}"] = {
            measure_words(one["name"]): figure_words(one["figure"])
            for one in views.headline_figures(document)
        }
    if bundle.other_data is not None and bundle.other_data.cohorts:
        found["on other data"] = dict(answers.on_cohorts(bundle))
    if bundle.identities is not None and (note := bundle.identities.note) is not None:
        found["patients and lesions"] = note
    found["checks that did not pass"] = {
        check_title(check.name): check.sentence
        for check in bundle.integrity
        if check.status in ("failed", "too_few")
    }
    if standing is not None:
        found["gates when it was evaluated"] = standing.objections or "all met"
        if standing.cautions:
            found["cautions"] = standing.cautions
    return found
