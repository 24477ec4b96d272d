"""Text in the archive's search language -> an expression that a record satisfies or not.

    query   := or
    or      := and ( "OR" and )*
    and     := operand ( "AND" operand )*
    operand := seq | "(" query ")"
    seq     := term+                       adjacent terms: an implicit AND that binds tightest
    term    := ["-"] field ":" value

Strings are exact and case-sensitive; one `*` at the start or the end is a wildcard; `field:*` means present.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lesion_tasks.archive.vocabulary import (
    ACQUISITION_FIELDS,
    SEARCH_BOOLEANS,
    SEARCH_NUMBERS,
    SEARCH_STRINGS,
)
from lesion_tasks.catalog.entries import did_you_mean

Value = str | int | float | bool | None

TOP_LEVEL_FIELDS = frozenset({"isic_id", "copyright_license", "public"})
# Upstream still parses these removed fields and then fails on them.
BROKEN_FIELDS = frozenset({"blurry", "hairy", "marker_pen", "color_tint"})
IMAGE_TYPE_ALIASES = {"clinical": "clinical: close-up", "overview": "clinical: overview"}

_SEARCHED = sorted(SEARCH_STRINGS | SEARCH_NUMBERS | SEARCH_BOOLEANS)
_NAME = re.compile(r"[a-z_0-9]+")
_WORD = re.compile(r"[A-Za-z0-9*_-]+")
_QUOTED = re.compile(r'"([^"]*)"')
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_KEYWORD = re.compile(r"(AND|OR|TO)(?![A-Za-z0-9_])")


class QueryError(ValueError):
    """The query cannot be parsed, or names a field that cannot be searched."""


class QueryCrashError(ArithmeticError):
    """The query parses, but upstream answers it with a server error."""


@dataclass(frozen=True)
class Term:
    """One condition on one field. `prefix` is set when only an id prefix (or a whole id) can match."""

    field: str
    matches: Callable[[Value], bool]
    prefix: str | None = None
    is_exact: bool = False


@dataclass(frozen=True)
class And:
    """Every part holds."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True)
class Or:
    """At least one part holds."""

    parts: tuple["Expression", ...]


Expression = Term | And | Or


def parse(text: str) -> Expression | None:
    """Parse a query; return None for an empty one, which filters nothing.

    Raises QueryError (answered 400) and QueryCrashError (answered 500).
    """
    text = text.strip()
    if not text:
        return None
    parser = _Parser(text)
    try:
        expression = parser.alternatives()
    except RecursionError as error:
        raise QueryError("nested too deeply") from error
    parser.expect_end()
    return expression


def field_value(record: Mapping[str, Any], field: str) -> Value:
    """Return the value of a search field in an API record; None if it is absent."""
    if field in TOP_LEVEL_FIELDS:
        return record.get(field)
    group = "acquisition" if field in ACQUISITION_FIELDS else "clinical"
    return record["metadata"][group].get(field)


def satisfies(record: Mapping[str, Any], expression: Expression | None) -> bool:
    """Tell whether an API record satisfies an expression."""
    match expression:
        case None:
            return True
        case Term():
            return expression.matches(field_value(record, expression.field))
        case And():
            return all(satisfies(record, part) for part in expression.parts)
        case Or():
            return any(satisfies(record, part) for part in expression.parts)


class _Parser:
    """Recursive descent over one query."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self) -> QueryError:
        return QueryError(f"unexpected text at character {self.at} of {self.text!r}")

    def skip_space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self.skip_space()
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def take_literal(self, literal: str) -> bool:
        self.skip_space()
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def take_keyword(self, keyword: str) -> bool:
        self.skip_space()
        found = _KEYWORD.match(self.text, self.at)
        if found and found.group(1) == keyword:
            self.at = found.end()
            return True
        return False

    def expect_end(self) -> None:
        self.skip_space()
        if self.at < len(self.text):
            raise self.fail()

    def alternatives(self) -> Expression:
        parts = [self.conjunction()]
        while self.take_keyword("OR"):
            parts.append(self.conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def conjunction(self) -> Expression:
        parts = [self.operand()]
        while self.take_keyword("AND"):
            parts.append(self.operand())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def operand(self) -> Expression:
        if self.take_literal("("):
            inside = self.alternatives()
            if not self.take_literal(")"):
                raise self.fail()
            return inside
        terms: list[Expression] = [self.term()]
        while True:
            self.skip_space()
            rest = self.text[self.at :]
            if not rest or rest[0] in "()" or _KEYWORD.match(rest):
                break
            terms.append(self.term())
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def term(self) -> Term:
        is_negated = self.take_literal("-")
        name = self.take(_NAME)
        if name is None or not self.take_literal(":"):
            raise self.fail()
        field = name.group()
        if field in SEARCH_STRINGS:
            return self.string_term(field, is_negated=is_negated)
        if field in SEARCH_NUMBERS:
            matches = self.number_condition()
        elif field in SEARCH_BOOLEANS:
            matches = self.boolean_condition()
        elif field in BROKEN_FIELDS and (self.take(_QUOTED) or self.take(_WORD)):
            raise QueryCrashError(f"field {field!r} parses but has no column")
        elif field in BROKEN_FIELDS:
            raise self.fail()
        else:
            raise QueryError(f"unknown field {field[:200]!r}{_meant(field)}")
        return Term(field, _negation(matches) if is_negated else matches)

    def string_term(self, field: str, *, is_negated: bool) -> Term:
        quoted = self.take(_QUOTED)
        word = None if quoted else self.take(_WORD)
        if quoted:
            value = quoted.group(1)
        elif word:
            value = word.group()
        else:
            raise self.fail()
        if field == "image_type":
            value = IMAGE_TYPE_ALIASES.get(value, value)
        if value == "*":
            return Term(field, _negation(_is_present) if is_negated else _is_present)
        if value.startswith("*"):
            tail = value[1:]
            # Upstream's defect: a negated suffix excludes by prefix.
            return Term(field, _negation(_starts(tail)) if is_negated else _ends(tail))
        if value.endswith("*"):
            matches, stem, is_exact = _starts(value[:-1]), value[:-1], False
        else:
            matches, stem, is_exact = _equals(value), value, True
        if is_negated:
            return Term(field, _negation(matches))
        return Term(field, matches, prefix=stem, is_exact=is_exact)

    def number(self) -> float:
        found = self.take(_NUMBER)
        if found is None:
            raise self.fail()
        number = float(found.group())
        if number in (float("inf"), float("-inf")):
            raise QueryCrashError(f"the number {found.group()} cannot be stored")
        return number

    def bound(self) -> float | None:
        return None if self.take_literal("*") else self.number()

    def number_condition(self) -> Callable[[Value], bool]:
        if self.take_literal("*"):
            return _is_present
        if self.take_literal("["):
            low_inclusive = True
        elif self.take_literal("{"):
            low_inclusive = False
        else:
            number = self.number()
            return lambda value: _number(value) == number
        low = self.bound()
        if not self.take_keyword("TO"):
            raise self.fail()
        high = self.bound()
        if self.take_literal("]"):
            high_inclusive = True
        elif self.take_literal("}"):
            high_inclusive = False
        else:
            raise self.fail()
        return _between(low, high, low_inclusive=low_inclusive, high_inclusive=high_inclusive)

    def boolean_condition(self) -> Callable[[Value], bool]:
        if self.take_literal("*"):
            return _is_present
        word = self.take(_WORD)
        if word is None or word.group() not in ("true", "false"):
            raise self.fail()
        wanted = word.group() == "true"
        return lambda value: value is wanted


def _meant(field: str) -> str:
    """What a field that is not searched may stand for: `age` is the beginning of one that is."""
    longer = [name for name in _SEARCHED if len(field) > 2 and name.startswith(f"{field}_")]
    return f"; did you mean {longer[0]}?" if longer else did_you_mean(field, _SEARCHED)


def _number(value: Value) -> float | None:
    """Return a stored value as a number; None if it is absent or, in a folder, not a number."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _is_present(value: Value) -> bool:
    return value is not None


def _equals(wanted: str) -> Callable[[Value], bool]:
    return lambda value: value == wanted


def _starts(stem: str) -> Callable[[Value], bool]:
    return lambda value: isinstance(value, str) and value.startswith(stem)


def _ends(tail: str) -> Callable[[Value], bool]:
    return lambda value: isinstance(value, str) and value.endswith(tail)


def _negation(matches: Callable[[Value], bool]) -> Callable[[Value], bool]:
    return lambda value: not matches(value)


def _between(
    low: float | None, high: float | None, *, low_inclusive: bool, high_inclusive: bool
) -> Callable[[Value], bool]:
    def matches(value: Value) -> bool:
        number = _number(value)
        if number is None:
            return False
        above = low is None or number > low or (low_inclusive and number == low)
        below = high is None or number < high or (high_inclusive and number == high)
        return above and below

    return matches
