"""The one Jinja environment: autoescape always on, unknown names are errors."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lesion_tasks.catalog import printed_numbers, synthetic_pictures, titles
from lesion_tasks.metrics.counted import EFFECTIVE_GROUPS
from lesion_tasks.reports import words

# Only an inline picture: an address would make the page use the network.
_PICTURE = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}")
# Only a page beside this one: no scheme, no host, no way up the tree.
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BESIDE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


@cache
def environment() -> Environment:
    env = Environment(
        loader=PackageLoader("lesion_tasks.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        titles.label, titles.label_inside, titles.split_title, words.ideal,
        words.explanation, words.class_label, words.outcome_title, words.outcome_css,
        words.outcome_meaning, words.decider, words.points,
        words.subset_title, words.subset_phrase, words.by_subset,
        words.check_title, printed_numbers.number, printed_numbers.signed, printed_numbers.span,
        printed_numbers.percent, words.count, words.p_value,
        words.apart_from_cautions, words.opened, words.best_of, words.figure_words, words.counts_words,
        words.plural, words.moment, words.duration, words.short_digest,
        words.plain, words.flattened, words.megabytes,
    ):  # fmt: skip
        env.filters[function.__name__] = function
    env.filters["with_runs"] = lambda words, _: words  # only pages inside Airflow can lead to a run
    env.globals |= {
        "SYNTHETIC": synthetic_pictures.WARNING,
        "EFFECTIVE_GROUPS": EFFECTIVE_GROUPS,
        "OPENINGS": words.OPENINGS,
    }
    env.tests["inline_picture"] = is_inline_picture
    env.tests["path_beside"] = is_path_beside
    env.tests["manifest_digest"] = is_digest
    return env


def is_inline_picture(source: Any) -> bool:
    """Whether `source` is an inline picture."""
    return isinstance(source, str) and _PICTURE.fullmatch(source) is not None


def is_digest(word: Any) -> bool:
    """Whether `word` is the digest of a manifest, which names the page about its data."""
    return isinstance(word, str) and _DIGEST.fullmatch(word) is not None


def is_path_beside(path: Any) -> bool:
    """Whether `path` is a plain relative path, fit for a link between pages of one folder tree."""
    return isinstance(path, str) and _BESIDE.fullmatch(path) is not None
