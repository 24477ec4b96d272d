"""One figure of a report: a value, its interval, and the counts it rests on; or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lesion_tasks.metrics.document_schema import PublishedFigure, PublishedInterval

NOT_PICKED = (
    "not picked for its height"  # the method of an interval: of several figures it is not the highest
)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval and the method that produced it."""

    low: float
    high: float
    method: str

    def published(self) -> PublishedInterval:
        return PublishedInterval(method=self.method, low=self.low, high=self.high)


# An interval, or the reason in words why there is none.
Stated = Interval | str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measure on one set of images.

    `value` is None if the measure is undefined, and then `reason` says why. `interval` is the one to quote, and
    `interval_reason` says why a defined value has none; `other_intervals` are by other methods. `n_positives` is None
    if no class is the positive one.
    """

    value: float | None
    interval: Interval | None = None
    other_intervals: tuple[Interval, ...] = ()
    n_images: int
    n_groups: int
    n_positives: int | None = None
    reason: str | None = None
    interval_reason: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.reason is not None):
            raise ValueError(
                f"a figure has a value or a reason: value {self.value!r}, reason {self.reason!r}"
            )
        if self.interval is not None and self.interval_reason is not None:
            raise ValueError(f"a figure has an interval or a reason for none: {self.interval_reason!r}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(
                f"a figure's value is {self.value!r}, expected a finite number or None with a reason"
            )

    def published(self) -> PublishedFigure:
        return PublishedFigure(
            value=self.value,
            reason=self.reason,
            low=self.interval.low if self.interval else None,
            high=self.interval.high if self.interval else None,
            method=self.interval.method if self.interval else None,
            interval_reason=self.interval_reason if self.value is not None else None,
            other_intervals=[interval.published() for interval in self.other_intervals],
            n_images=self.n_images,
            n_groups=self.n_groups,
            n_positives=self.n_positives,
        )
