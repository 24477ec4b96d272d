"""The values of a column -> why it is probably not the one that a field of a mapping needs, in words.

A wrong column that exists is not an error: its values simply mean nothing. What gives it away is their kind: numbers or
dates where words are expected, no number where numbers are, and more different values than a field could have.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lesion_tasks.archive.legible import legible
from lesion_tasks.archive.terms import IDENTITIES, NUMBERS, PATHS, TEXTS, values_of
from lesion_tasks.archive.vocabulary import BOOLEAN_FIELDS
from lesion_tasks.metrics.counted import plural

MAX_VALUES = 500  # distinct values that are counted for each field
MIN_VALUES = 20  # below that many cells nothing about a column is sure
# A class may be written as a number, and a clinic may know dozens of diagnoses; a column of ages has more numbers, and
# one of names or free text more words, than that.
MAX_CODES = 12
MAX_WORDS = 40
MAX_SHARE_DISTINCT = 0.8
MOST = 0.5  # the share of a column's cells that decides what kind it is
AGES = (0.0, 120.0)  # years, as curation takes them
_N_SHOWN = 3

_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]*)?")
_DAY, _MONTH, _YEAR = "(0?[1-9]|[12][0-9]|3[01])", "(0?[1-9]|1[0-2])", "(19|20)[0-9]{2}"
# A code such as 8720/3 is none.
_DATE = re.compile(
    rf"({_YEAR}[-./]{_MONTH}([-./]{_DAY})?|({_DAY}[-./]{_MONTH}|{_MONTH}[-./]{_DAY})[-./]({_YEAR}|[0-9]{{2}}))([T ].*)?"
)

# What a field is about, where its name alone may not say it.
_ABOUT = {
    "age_approx": "ages in years",
    "sex": "two sexes",
    "diagnosis": "diagnoses",
    "anatom_site": "parts of the body",
}


# Fields that one column may well serve: lesions numbered like patients, and what follows from a diagnosis.
_OF_ONE_KIND = {
    **dict.fromkeys(IDENTITIES, frozenset(IDENTITIES)),
    "diagnosis": frozenset({"diagnosis", "diagnosis_confirm_type", *IDENTITIES, *BOOLEAN_FIELDS}),
}


@dataclass(frozen=True, kw_only=True)
class ColumnDoubt:
    """Why the columns of a field are probably wrong, and whether their values may be worth explaining all the same."""

    words: str
    is_explicable: bool = False


def doubt_about(
    field: str, columns: Sequence[str], found: Counter[str], unread: Counter[str], n_rows: int
) -> ColumnDoubt | None:
    """Say why the columns of a field are probably wrong; None if nothing speaks against them.

    `found`: the cells with a value, each with its number, of `MAX_VALUES` values at most; `unread`: those that the
    mapping does not explain; `n_rows`: the rows with a value.
    """
    n, n_unread = found.total(), unread.total()
    is_unread = n_unread > MOST * n and n >= MIN_VALUES
    if field in IDENTITIES:  # any name will do
        unread = found
        is_unread = n >= MIN_VALUES
    elif field in NUMBERS and n_unread == n:
        is_unread = n > 0
    if field in TEXTS or not is_unread:
        return _implausible(field, columns, found) if field == "age_approx" and n >= MIN_VALUES else None
    n_dates = sum(count for value, count in unread.items() if _DATE.fullmatch(value))
    kind: str | None
    if n_dates > MOST * n:
        kind = f"{_mostly(n_dates, n)}dates"
    elif field in IDENTITIES:
        return None
    else:
        kind = (_kind_of_numbers if field in NUMBERS else _kind_of_words)(field, n, unread, n_rows)
    if kind is None:
        return None
    is_explicable = kind.endswith(_NUMBERS) and len(unread) <= MOST * n  # codes come again
    return ColumnDoubt(words=_asked(field, columns, unread, kind), is_explicable=is_explicable)


_NUMBERS = "different numbers"


def _kind_of_numbers(field: str, n: int, unread: Counter[str], n_rows: int) -> str | None:
    """What the cells of a field of numbers are; None where some are numbers: the others are named one by one."""
    n_numbers = _n_numbers(unread)
    if n_numbers > MOST * n:
        return f"{_mostly(n_numbers, n)}written with a comma for a point"
    return "no numbers" if unread.total() == n else None


def _kind_of_words(field: str, n: int, unread: Counter[str], n_rows: int) -> str | None:
    """What the cells of a field of words are, where they hardly are words for it."""
    most = _most_values(field)
    n_values = f"{len(unread):,}" if len(unread) < MAX_VALUES else f"{MAX_VALUES:,} or more"
    if _n_numbers(unread) > MOST * n and len(unread) > most:
        return f"{n_values} {_NUMBERS}"
    if len(unread) > max(MAX_SHARE_DISTINCT * n, MAX_WORDS):
        return f"different in nearly every row ({n_values} values in {plural(n_rows, 'row')})"
    return None


def _n_numbers(values: Counter[str]) -> int:
    return sum(n for value, n in values.items() if _NUMBER.fullmatch(value))


def _mostly(n: int, n_all: int) -> str:
    return "" if n == n_all else "mostly "


def _most_values(field: str) -> int:
    """How many values that nobody explained a column may have and still be the one for a field of words."""
    return MAX_CODES if field in PATHS else max(MAX_CODES, 2 * len(values_of(field)))


def _implausible(field: str, columns: Sequence[str], found: Counter[str]) -> ColumnDoubt | None:
    """The doubt about numbers that are not ages, such as years of birth."""
    low, high = AGES
    numbers = {value: n for value, n in found.items() if _NUMBER.fullmatch(value)}
    outside = Counter(
        {value: n for value, n in numbers.items() if not low <= float(value.replace(",", ".")) <= high}
    )
    if outside.total() <= MOST * found.total():
        return None
    kind = f"{_mostly(outside.total(), found.total())}not between {low:g} and {high:g}"
    return ColumnDoubt(words=_asked(field, columns, outside, kind))


def _asked(field: str, columns: Sequence[str], values: Counter[str], kind: str) -> str:
    shown = ", ".join(_quoted(value) for value, _ in values.most_common(_N_SHOWN))
    which = " and ".join(_quoted(column) for column in columns)
    about = _ABOUT.get(field)
    expected = "" if about is None else f", expected {about}"
    if "written" in kind:
        return f"{field}: the values of column {which} are {kind}, such as {shown}: write 6.5 for 6,5"
    return f"{field}: the values of column {which} are {kind}, such as {shown}{expected}; is it the right column?"


def shared_columns(
    columns_by_field: Mapping[str, Sequence[str]], *, passed_over: Container[str] = ()
) -> Iterator[str]:
    """Yield a doubt for each patient, lesion or diagnosis that is read from the column of something else.

    Fields that are `passed_over` have a doubt already.
    """
    for field in (*IDENTITIES, "diagnosis"):
        columns = () if field in passed_over else columns_by_field.get(field, ())
        for other, theirs in columns_by_field.items():
            if other in _OF_ONE_KIND[field] or len(columns) != 1 or list(columns) != list(theirs):
                continue
            is_own = field in IDENTITIES and other == "image"
            means = ", so that every picture is one of its own" if is_own else ""
            yield (
                f"{field}: column {_quoted(columns[0])} is that of {other} too{means}; is it the right column?"
            )


def picture_column_doubt(column: str, n_rows: int, better: Iterable[tuple[str, int]]) -> str:
    """Say that a column names no picture of the folder, and which one does: `better` has their hits."""
    hints = [f"{_quoted(name)} names one in {n:,}" for name, n in better]
    instead = f"; {' and '.join(hints)} of the first rows" if hints else ""
    rows = plural(n_rows, "row")
    return f"image: column {_quoted(column)} names no picture in {rows}{instead}; is it the right column?"


def _quoted(value: str) -> str:
    return legible(repr(value), 80)
