"""A bundle -> a model card in Markdown, in the sections of Mitchell et al. 2019, doi:10.1145/3287560.3287596.

It begins with the front matter that Hugging Face's hub reads (YAML; every value is written as JSON, which YAML holds).
"""

from __future__ import annotations

import json
from typing import Any

from lesion_tasks.catalog import synthetic_pictures
from lesion_tasks.catalog.titles import label
from lesion_tasks.metrics.known_identities import sentence
from lesion_tasks.reports import answers, doubt_views, views
from lesion_tasks.reports.bundle import Bundle
from lesion_tasks.reports.markdown import escape, table
from lesion_tasks.reports.words import (
    by_subset,
    check_title,
    class_label,
    count,
    counts_words,
    figure_words,
    measure_words,
    moment,
    opened,
    plain,
    subset_title,
)

_BY_A_PERSON = "To be written by a person."
# Our names -> those of the hub's metrics; other figures keep their names.
_HUB_METRICS = {"auc": "roc_auc", "sensitivity": "recall", "ppv": "precision"}
_HUB_FIGURES = (
    "auc", "macro_auc", "average_precision", "sensitivity", "specificity", "balanced_accuracy", "accuracy",
    "brier_score",
)  # fmt: skip


def model_card(bundle: Bundle) -> str:
    """Render the card. What the run cannot know is marked as needing a person."""
    training = bundle.training
    sections = [
        _front_matter(bundle),
        f"# {escape(training.title)}",
        "**For research. Not for diagnosis.**",
        *([f"**{synthetic_pictures.WARNING}**"] if bundle.data.has_synthetic else []),
        escape(bundle.verdict),
        *(escape(words) for words in answers.worse_elsewhere(bundle)),
        "## Model details",
        table(("", ""), _details(bundle)),
        "## Intended use",
        "Research on automated classification of skin-lesion images. Not intended for the diagnosis or care of any "
        f"person. Other uses: {_BY_A_PERSON.lower()}",
        "## Factors",
        _factors(bundle),
        "## Metrics",
        f"Value with its 95 % interval. {sentence(views.interval_words(bundle))}",
        _figures(bundle),
        *_doubt(bundle),
        "## Evaluation data",
        _evaluation_data(bundle),
        "## Training data",
        _training_data(bundle),
        "## Quantitative analyses",
        _slices(bundle),
        "## Integrity checks",
        _checks(bundle),
        "## Ethical considerations",
        _BY_A_PERSON,
        "## Caveats and recommendations",
        _caveats(bundle),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(bundle: Bundle) -> str:
    """What a hub lists a model by. Who publishes a model chooses its licence: the data's do not decide it."""
    training = bundle.training
    said: dict[str, Any] = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "license": "unknown",
        "tags": ["dermatology", "skin-lesion", "research-only"],
        "metrics": [_HUB_METRICS.get(name, name) for name, _ in _hub_figures(bundle)],
        "model-index": [{"name": training.training_id, "results": _results(bundle)}],
    }
    lines = [f"{name}: {_as_yaml(value)}" for name, value in said.items() if value]
    return "\n".join(["---", *lines, "---"])


def _as_yaml(value: Any) -> str:
    # Angle brackets only escaped: the card holds no markup, wherever it is shown.
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("](", "]\\u0028")


def _results(bundle: Bundle) -> list[dict[str, Any]]:
    document, training = views.leading_document(bundle), bundle.training
    metrics = [
        {"type": _HUB_METRICS.get(name, name), "name": label(name), "value": value}
        for name, value in _hub_figures(bundle)
    ]
    if document is None or not metrics:
        return []
    dataset = {
        "name": f"{bundle.manifest.split}, {subset_title(document.subset.name)}",
        "type": bundle.manifest.split,
        "split": document.subset.name,
        "revision": bundle.manifest.digest,
    }
    task = {"type": "image-classification", "name": training.task_title}
    return [{"task": task, "dataset": dataset, "metrics": metrics}]


def _hub_figures(bundle: Bundle) -> list[tuple[str, float]]:
    """The figures of the natural test set that have a value. None of an evaluation that failed a check."""
    document = views.leading_document(bundle)
    if document is None or not bundle.is_sound:
        return []
    found = ((name, views.value_of(document.figures.get(name))) for name in _HUB_FIGURES)
    return [(name, value) for name, value in found if value is not None]


def _details(bundle: Bundle) -> list[tuple[str, str]]:
    training = bundle.training
    return [
        ("Training", training.training_id),
        ("Variant", training.variant),
        ("Reproduces", training.reproduces or "no published system"),
        ("Task", answers.question(bundle) or training.task),
        ("Architecture", answers.architecture(bundle) or "not recorded"),
        ("Weights at the start", answers.weights(bundle) or "not recorded"),
        ("Threshold", answers.threshold(bundle) or "none"),
        ("Code", training.code_version),
        ("Libraries", plain(training.versions)),
        ("Seed", str(training.seed)),
        ("Model SHA-256", training.model_sha256 or "none"),
        ("Manifest", training.manifest_digest),
        ("Trained", f"{moment(training.started_at)} to {moment(training.finished_at)}"),
        ("Evaluated", moment(bundle.evaluated_at)),
    ]


def _factors(bundle: Bundle) -> str:
    document = views.leading_document(bundle)
    attributes = dict.fromkeys(part.attribute for part in document.slices) if document else {}
    if not attributes:
        return "No attribute of the images is known, so there are no slices."
    return f"Measured by: {'; '.join(escape(label(name)) for name in attributes)}."


def _figures(bundle: Bundle) -> str:
    documents = views.ordered_documents(bundle)
    if not documents:
        return "Nothing was measured: the predictions could not be joined to the manifest."
    rows = [
        (measure_words(row["name"]), *(figure_words(figure) for figure in row["figures"]))
        for group in views.figure_groups(documents)
        for row in group["rows"]
    ]
    sizes = ("Images", *(counts_words(document.subset) for document in documents.values()))
    return table(("Measure", *(subset_title(name) for name in documents)), [sizes, *rows])


def _doubt(bundle: Bundle) -> list[str]:
    """What predictions say of themselves; nothing before that was measured."""
    if bundle.doubt is None:
        return []
    words = doubt_views.doubt_words(bundle.doubt, bundle.training.recipe, bundle.identities)
    rows = []
    for title, part in doubt_views.doubt_parts(bundle.doubt, bundle.other_data):
        figures = (part.covered, part.answered, part.wrong_of_answered, part.strange)
        rows.append((title, *(figure_words(figure) for figure in figures)))
        rows += [
            (
                f"{class_label(name)}, of {title}",
                figure_words(figure),
                "",
                f"of all of this class {figure_words(part.wrong_by_class[name])}",
                "",
            )
            for name, figure in part.covered_by_class.items()
        ]
    header = (
        "Images",
        "Set holds the true class",
        "Answered",
        "Wrong of those answered",
        "Out of distribution",
    )
    broken = doubt_views.broken_promises(bundle.doubt, bundle.other_data)
    prose = (words.lead, *broken, words.stated, words.rests_on)
    return ["## What it does not know", *map(escape, prose), table(header, rows)]


def _evaluation_data(bundle: Bundle) -> str:
    words = [
        answers.partitions(bundle),
        answers.overlap(bundle),
        views.apart_words(bundle),
        f"The test set has been {opened(bundle.n_test_openings)}, this evaluation included.",
    ]
    return " ".join(escape(sentence) for sentence in words if sentence)


def _training_data(bundle: Bundle) -> str:
    counts = bundle.manifest.class_counts
    classes = list(dict.fromkeys(name for by_class in counts.values() for name in by_class))
    rows = [
        (subset_title(subset), *(count(by_class.get(name)) for name in classes))
        for subset, by_class in by_subset(counts)
    ]
    words = [answers.label_source(bundle), answers.imbalance(bundle), answers.sources(bundle)]
    prose = " ".join(escape(sentence) for sentence in words if sentence)
    header = ("Images", *(escape(class_label(name)) for name in classes))
    return f"{table(header, rows)}\n\n{prose}".rstrip()


def _slices(bundle: Bundle) -> str:
    document = views.leading_document(bundle)
    if document is None or not document.slices:
        return "There are no slices."
    leading = views.leading_measure(document)
    rows = [
        (
            label(part.attribute),
            part.value,
            counts_words(part),
            figure_words(part.figures.get(leading)) if part.is_scored else f"not measured: {part.reason}",
        )
        for part in document.slices
    ]
    return table(("Attribute", "Slice", "Size", label(leading)), rows)


def _checks(bundle: Bundle) -> str:
    rows = [
        (check_title(row.verdict.name), row.word, row.verdict.sentence)
        for row in views.checks(bundle.integrity)
    ]
    return table(("Check", "Outcome", "What was found"), rows)


def _caveats(bundle: Bundle) -> str:
    lines = []
    if not bundle.is_sound:
        failed = ", ".join(check_title(name) for name in bundle.failed_checks)
        lines.append(f"- Do not rely on the figures. Failed checks: {escape(failed)}.")
    if bundle.identities is not None and (unknown := bundle.identities.unknown) is not None:
        lines.append(f"- {escape(sentence(unknown.caution))}")
    elsewhere = answers.other_data(bundle)
    if elsewhere is not None:
        lines.append(f"- On other data: {escape(elsewhere)}")
    if not (bundle.other_data and any(one.subset for one in bundle.other_data.cohorts)):
        lines.append(
            "- Measured on images from where it learned; performance on another clinic's images is unknown until "
            "measured there."
        )
    lines.append(f"- {_BY_A_PERSON}")
    return "\n".join(lines)
