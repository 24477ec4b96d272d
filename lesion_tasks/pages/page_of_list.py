"""A list that is too long for one page -> one page of it, and where that stands in the whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Query

from lesion_tasks.metrics.counted import n_pages

ROWS_PER_PAGE = 50
# The number of a page, as an address asks for it.
PageNumber = Annotated[int, Query(ge=1, le=100_000)]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Shown(Generic[T]):
    """One page of a list."""

    rows: Sequence[T]
    number: int  # of the page, from 1
    n_found: int
    size: int  # of a page

    @property
    def first(self) -> int:
        """The place of its first row, from 0."""
        return (self.number - 1) * self.size

    @property
    def n_pages(self) -> int:
        return n_pages(self.n_found, self.size)


def show(
    number: int, n_found: int, read: Callable[[int, int], Sequence[T]], *, size: int = ROWS_PER_PAGE
) -> Shown[T]:
    """The page of this number; the last one, if the list ends before it, as after its last row was decided about.

    `read` returns rows: how many, from the one at which place.
    """
    number = min(number, n_pages(n_found, size))
    return Shown(rows=read(size, (number - 1) * size), number=number, n_found=n_found, size=size)


def address_but(asked: Sequence[tuple[str, Any]], name: str) -> str:
    """Everything that an address asks for but one name, which comes last and whose value is to follow."""
    kept = [(key, value) for key, value in asked if key != name and value not in (None, "")]
    return f"?{urlencode([*kept, (name, '')])}"
