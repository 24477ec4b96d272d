"""Progress of a long step: a bar on a terminal, plain lines in a task log."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Call it with the number of finished items and, optionally, a short note on the state."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """Show the progress of a step; yields the function to call as items finish."""
    with _bar(title, total) if sys.stderr.isatty() else _lines(title, total) as advance:
        yield advance


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda n=1, note="": bar.update(task, advance=n, note=note)


@contextmanager
def _lines(title: str, total: int | None) -> Iterator[Advance]:
    started = last = time.monotonic()
    done = 0

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            log.info("%s: %s", title, _state(done, total, now - started, note))

    yield advance
    log.info("%s: done, %s", title, _state(done, total, time.monotonic() - started, "", is_over=True))


def _state(done: int, total: int | None, elapsed_s: float, note: str, *, is_over: bool = False) -> str:
    text = f"{done:,}" if total is None else f"{done:,} of {total:,}"
    if total and 0 < done < total and not is_over:
        text += f", about {elapsed_s * (total - done) / done:.0f} s left"
    return f"{text} after {elapsed_s:.0f} s" + (f" ({note})" if note else "")
