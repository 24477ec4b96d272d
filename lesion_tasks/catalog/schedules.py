"""When each pass of ingestion and each DAG with a time of its own is due by itself. Data only."""

import re
from dataclasses import dataclass

from lesion_tasks.catalog.entries import by_name

# The fields of a cron expression, and the numbers that each may hold; Sunday is 0 or 7.
_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)
_PART = re.compile(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A time at which something starts by itself, in UTC, as a cron expression of five fields of numbers."""

    name: str  # of a pass of ingestion, or of a DAG
    cron: str

    def __post_init__(self) -> None:
        fields = self.cron.split()
        if len(fields) != len(_FIELDS):
            raise ValueError(
                f"schedule {self.name!r}: cron {self.cron!r} has {len(fields)} fields, expected "
                f"{', '.join(name for name, _, _ in _FIELDS)}, such as '0 3 * * 1'"
            )
        for field, (name, lowest, highest) in zip(fields, _FIELDS, strict=True):
            if not all(_is_part(part, lowest, highest) for part in field.split(",")):
                raise ValueError(
                    f"schedule {self.name!r}: cron {self.cron!r}: {name} is {field!r}, expected * or numbers from "
                    f"{lowest} to {highest}, such as {lowest}, {lowest}-{highest} or */2"
                )


def _is_part(part: str, lowest: int, highest: int) -> bool:
    found = _PART.fullmatch(part)
    if found is None:
        return False
    first, last, step = (None if number is None else int(number) for number in found.groups())
    ends = [number for number in (first, last) if number is not None]
    return all(lowest <= number <= highest for number in ends) and ends == sorted(ends) and step != 0


SCHEDULES = by_name(
    [
        Schedule(name="append", cron="30 1 * * *"),
        Schedule(name="reconcile", cron="30 1 * * *"),
        Schedule(name="sweep", cron="30 1 * * *"),
        Schedule(name="check_files", cron="30 1 * * 0"),
        Schedule(name="fetch", cron="30 1 * * *"),
        Schedule(name="vocabulary", cron="30 1 * * 0"),
        Schedule(name="train_variants", cron="0 3 * * 0"),
        # Apart from ingestion and training, which use the same disks.
        Schedule(name="verify_bucket", cron="30 4 * * 6"),
        Schedule(name="report_overdue", cron="0 6 * * *"),
        # After the ingestion of the first night of a month.
        Schedule(name="watch_champion", cron="0 8 1 * *"),
    ]
)
