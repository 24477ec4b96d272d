"""What records say of where images come from -> which of it names nobody, and which may be one origin spelt twice."""

import re
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from lesion_tasks.catalog import synthetic_pictures
from lesion_tasks.catalog.split_recipes import NO_ORIGIN

if TYPE_CHECKING:
    import pyarrow as pa


def institutions_in(table: "pa.Table") -> list[str]:
    """The attributions in the rows of a manifest, without those that name nobody."""
    return [value for value in table["attribution"].unique().to_pylist() if not names_none(value)]


def names_none(value: Any) -> bool:
    """Whether a value is missing, or a word such as "Anonymous", which is no institution."""
    if value is None or value != value:
        return True
    return str(value).removesuffix(synthetic_pictures.MARK).strip().strip(".").casefold() in NO_ORIGIN


def find_alike(values: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of values of which one has all words of the other: they may be two spellings of one origin."""
    words = {value: frozenset(re.findall(r"\w+", value.casefold())) for value in sorted(values)}
    return [
        (one, other)
        for one, other in combinations(words, 2)
        if words[one] <= words[other] or words[other] <= words[one]
    ]
