"""Names and numbers of a bundle -> the words that people read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from markupsafe import Markup, escape

from lesion_tasks.catalog.approvals import RULE
from lesion_tasks.catalog.printed_numbers import MINUS, NO_VALUE, number, span
from lesion_tasks.catalog.titles import label, label_inside
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import PublishedFigure, PublishedSlice, SubsetSize
from lesion_tasks.metrics.names import BINARY_FIGURES, CLASS_FIGURES, MULTICLASS_FIGURES

T = TypeVar("T")
_FIELD = re.compile(r"[a-z][a-z0-9_]*")

# In the order in which they are shown.
SUBSET_TITLES = {
    "train": "Train",
    "val": "Val",
    "val_balanced": "Val, balanced",
    "test": "Test",
    "test_natural": "Test, natural",
    "test_balanced": "Test, balanced",
}

SUBSET_PHRASES = {
    "test_natural": "the natural test set",
    "test_balanced": "the balanced test set",
    "val": "val",
    "train": "train",
}

# What became of a training by a decision about the champion: a short word, its style class, and what that means.
OUTCOMES = {
    "promoted": ("promoted", "good", "It became champion."),
    "rolled_back": ("restored", "warn", "A person put it back: it became champion again."),
    "missed_gates": (
        "missed a gate",
        "warn",
        "The gates refused it for its figures. A person may override that, by its name and with a reason.",
    ),
    "no_better": (
        "no better",
        "warn",
        "The gates refused it, since it gains nothing on the champion. A person may override that, by its name and "
        "with a reason.",
    ),
    "barred": (
        "barred",
        "bad",
        "Something other than its figures stood in the way, so nobody is asked about it and nobody can override it. "
        "Evaluated anew without that, it is a candidate again.",
    ),
    "not_compared": (
        "not compared",
        "warn",
        "It could not be compared with the champion. Evaluated anew, it is a candidate again.",
    ),
    "passed_over": (
        "passed over",
        "quiet",
        "Another candidate of the same round was better on val, and only that one went before the gates.",
    ),
    "rejected": (
        "rejected",
        "bad",
        "A person said no. It is asked about again once its evaluation finds other things.",
    ),
    "expired": (
        "question expired",
        "quiet",
        "No answer came in time, or none that counts. It stays a candidate.",
    ),
    "superseded": ("superseded", "quiet", "Something else was decided, or asked, before anybody answered."),
}

# What each integrity check ensures; its name in the data is that of the fault.
CHECK_TITLES = {
    "ids_differ": "The predictions are for the right images",
    "few_groups": "Each class has images of several groups",
    "predictions_altered": "The predictions are unchanged since they were stored",
    "pixels_differ": "The pixels are those of the stored pictures",
    "independent_of_labels": "The predictions belong to these labels",
    "inverted": "The classes are the right way round",
    "marginals_differ": "The class counts match the manifest",
    "serving_differs": "The stored model gives the same predictions",
    "degenerate": "The model gives more than one answer",
    "leaks": "No known patient or lesion and no picture is on both sides of the split",
    "shortcut": "The model does more than recognise the camera or the metadata",
    "no_better_than_random_weights": "Pretraining helps",
    "gap": "Val and test agree",
    "threshold_differs": "The threshold is the one that val gives",
    "labels_changed": "The labels are up to date",
}

# What a check cannot tell of too few images.
_UNTOLD = {
    "few_groups": "anything",
    "independent_of_labels": "whether the predictions depend on the labels",
    "shortcut": "whether the model knows more than the archive",
}

# A measure of both kinds of task can need two explanations: with more classes there is no threshold.
EXPLANATIONS = {
    "binary": BINARY_FIGURES,
    "multiclass": {**CLASS_FIGURES, **MULTICLASS_FIGURES},
}


# The value of a measure in a perfect model, where neither the highest nor the lowest value is the best.
_IDEALS = {
    "calibration_slope": "1 is ideal",
    "calibration_intercept": "0 is ideal",
    "expected_calibration_error": "0 is ideal",
}


def ideal(name: str) -> str:
    """`1 is ideal` for a calibration slope, empty for a measure where higher, or lower, is simply better."""
    return _IDEALS.get(name, "")


def measure_words(name: str) -> str:
    """The label of a measure, with its ideal if the value alone means nothing."""
    return f"{label(name)} ({ideal(name)})" if ideal(name) else label(name)


def explanation(name: str, task: str) -> str:
    """One sentence that explains a measure of a binary or multiclass task, or empty."""
    if name.startswith(("ppv_at_prevalence_", "npv_at_prevalence_")):
        return "By Bayes' rule from sensitivity and specificity, at this prevalence."
    return EXPLANATIONS[task].get(name, "")


# Two counts of one kind that are not the same, explained wherever both stand.
OPENINGS = (
    "A test set is opened once by each training that is evaluated or compared on it. All manifests of a task that draw "
    "their test set by the same assignment share it and its openings: balanced or natural, and those of newer data, "
    "where more images have joined it. Each cohort is a test set of its own. The luck of being picked is reckoned over "
    "the sound evaluations of all those trainings, each on its own data, because the best of them is picked; what was "
    "trained twice, or predicts the same, counts once there, though it is a row of its own. A leaderboard reckons over "
    "those that are evaluated now, a report over those that were evaluated by then."
)


def opened(n: int) -> str:
    """How often a test set was opened, by `count_openings`: `opened 3 times`."""
    return f"opened {plural(n, 'time')}"


def best_of(n_looks: int) -> str:
    """Of how many trainings a figure is the best, copies left out: `best of 4 different trainings`."""
    return f"best of {plural(n_looks, 'different training')}"


def class_label(name: str) -> str:
    """`basal_cell_carcinoma` -> `basal cell carcinoma`."""
    return name.replace("_", " ")


def outcome_title(outcome: str) -> str:
    """What a decision did to the training that it names, in a word or two: `rolled_back` restores it."""
    return OUTCOMES[outcome][0]


def outcome_css(outcome: str) -> str:
    return OUTCOMES[outcome][1]


def outcome_meaning(outcome: str) -> str:
    """The same in a sentence."""
    return OUTCOMES[outcome][2]


_OPENING, _CLOSING = "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"


def sentences(*said: str | None) -> str:
    """What is said, one after the other, each with a full stop."""
    ends = (".", "!", "?")
    return " ".join(one if one.rstrip(_CLOSING).endswith(ends) else f"{one}." for one in said if one)


_CAUTIONS = " Cautions:"
_NEXT_POINT = re.compile(r"; (?=\(\d+\) )")


def cautions_in_words(said: Sequence[str]) -> str:
    """The cautions of a decision after its reason, numbered if there are several; `points` lists those on pages."""
    if len(said) < 2:
        return "".join(f" Caution: {words}." for words in said)
    return f"{_CAUTIONS} {'; '.join(f'({i}) {words}' for i, words in enumerate(said, start=1))}."


def apart_from_cautions(reason: str) -> tuple[str, str]:
    """The reason of a decision, and the cautions that end it, or an empty text."""
    for mark in (_CAUTIONS, " Caution:"):
        before, found, cautions = reason.rpartition(mark)
        if found:
            return before, f"{mark}{cautions}"
    return reason, ""


def points(reason: str) -> Markup:
    """The reason of a decision as HTML, each of several cautions on a line of its own."""
    begins, mark, told = escape(reason).partition(f"{_CAUTIONS} (1) ")
    if not mark:
        return begins
    lines = (f'<span class="point">{line}</span>' for line in _NEXT_POINT.split(f"(1) {told}"))
    return begins + Markup(f"{_CAUTIONS}{''.join(lines)}")  # noqa: S704 - escaped above


def quoted(words: str) -> str:
    """What a person typed, within a sentence of ours: as it was typed."""
    return f"{_OPENING}{words.strip()}{_CLOSING}"


def unquoted(words: str) -> str:
    """What `quoted` put into quotation marks, if that is all there is; else the words as they are."""
    inner = words.removesuffix(".").removeprefix(_OPENING).removesuffix(_CLOSING)
    is_all = words.startswith(_OPENING) and words.endswith((_CLOSING, f"{_CLOSING}."))
    return inner if is_all and _OPENING not in inner else words


def decider(decided_by: str) -> str:
    """Who decided, after "by": a person's name, or the rule of the gates."""
    return "the rule" if decided_by == RULE else decided_by


def subset_title(name: str) -> str:
    return SUBSET_TITLES.get(name, label(name))


def by_subset(counts: Mapping[str, T]) -> list[tuple[str, T]]:
    """What is known of subsets, in the order in which they are shown."""
    order = [*SUBSET_TITLES, *counts]
    return sorted(counts.items(), key=lambda one: order.index(one[0]))


def subset_phrase(name: str) -> str:
    """A subset in the middle of a sentence."""
    return SUBSET_PHRASES.get(name, f"the set {name}")


def check_title(name: str) -> str:
    """What a check ensures; the suffix `_on_val` says that it was run on val."""
    title = CHECK_TITLES.get(name.removesuffix("_on_val"), label(name))
    return f"{title}, on val" if name.endswith("_on_val") and name not in CHECK_TITLES else title


def untold(name: str) -> str:
    """What a check of `check_title` cannot tell of too few images, after "too few to tell"."""
    check = name.removesuffix("_on_val")
    return _UNTOLD[check] + (" (on val)" if name != check else "")


def count(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:,.0f}".replace("-", MINUS)


def p_value(value: float | None) -> str:
    if value is None:
        return NO_VALUE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def figure_words(figure: PublishedFigure | None) -> str:
    """A figure in one line: value and interval, or the reason why there is none."""
    if figure is None:
        return "not measured"
    if figure.value is None:
        return f"undefined: {figure.reason}"
    return f"{number(figure.value)} ({span(figure.low, figure.high)})"


def counts_words(holder: PublishedFigure | PublishedSlice | SubsetSize) -> str:
    """Images, groups and positives of a figure, slice or subset in words."""
    words = f"{plural(holder.n_images, 'image')}, {plural(holder.n_groups, 'group')}"
    if holder.n_positives is not None:
        words += f", {count(holder.n_positives)} positive"
    return words


def megabytes(n_bytes: int) -> str:
    """A size as people read it, in millions of bytes."""
    return f"{n_bytes / 1e6:,.1f} MB"


def moment(text: str | None) -> str:
    """An ISO time -> `2026-03-01 14:05 UTC`; anything else stays unchanged."""
    if not text:
        return NO_VALUE
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = parsed.tzname()
    return f"{parsed:%Y-%m-%d %H:%M}{f' {zone}' if zone else ''}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NO_VALUE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def short_digest(digest: str | None) -> str:
    return NO_VALUE if not digest else digest[:12]


def plain(value: Any) -> str:
    """Any JSON value of a recipe or a verdict's numbers in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", MINUS)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {plain(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value) or "none"
    return str(value)


def flattened(numbers: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested numbers as (path, value) lines: `{"probes": {"metadata": {"auc": 0.6}}}` -> `Probes, metadata, AUC`."""
    lines: list[tuple[str, str]] = []
    for name, value in numbers.items():
        path = f"{above}, {_part(name, label_inside)}" if above else _part(name, label)
        if isinstance(value, Mapping) and value:
            lines += flattened(value, path)
        else:
            lines.append((path, plain(value)))
    return lines


def _part(name: Any, title: Callable[[str], str]) -> str:
    """The title of a field; what is none, such as the name of an institution or a number, stays as it is."""
    return title(name) if isinstance(name, str) and _FIELD.fullmatch(name) else str(name)
