"""The stages of a chain -> a table that is redrawn as they change, or plain lines if there is no terminal."""

import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lesion_tasks.laptop.chain import Stage, Timing

COLOURS = {
    "success": "green",
    "failed": "red",
    "running": "yellow",
    "not reached": "red",
    "asks a person": "yellow",
}
REDRAWS_PER_S = 4


def show_progress(console: Console, updates: Iterable[list[Stage]]) -> list[Stage]:
    """Show the stages while they change; return their final state."""
    return _show_live(console, updates) if console.is_terminal else _show_lines(console, updates)


def leaderboard_table(rows: list[dict[str, str]]) -> Table:
    """Every evaluated training, best first."""
    table = Table(title="leaderboard", title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, no_wrap=name == "variant", overflow="fold")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in names))
    return table


def timing_table(started_s: float, found: list[Timing], clock_s: float) -> Table:
    """Where the time went, all of it. Airflow's own share is its start and the time while no task runs."""
    table = Table(title="time", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("of which Airflow's own", justify="right")
    table.add_row("starting services", f"{started_s:.1f}", f"{started_s:.1f}")
    for timing in found:
        table.add_row(timing.dag_id, f"{timing.total_s:.1f}", f"{timing.airflow_s:.1f}")
    between_s = max(0.0, clock_s - started_s - sum(timing.total_s for timing in found))
    own = started_s + sum(timing.airflow_s for timing in found) + between_s
    table.add_row("between the stages", f"{between_s:.1f}", f"{between_s:.1f}")
    table.add_section()
    table.add_row("altogether", f"{clock_s:.1f}", f"{own:.1f}")
    return table


def describe(counts: Any) -> str:
    """What a stage announced, in a few words."""
    if isinstance(counts, dict):
        shown = [
            f"{name} {value:,}" if isinstance(value, int) else name for name, value in counts.items() if value
        ]
        return ", ".join(shown[:6]) or "nothing new"
    return "" if counts is None else str(counts)


def _show_live(console: Console, updates: Iterable[list[Stage]]) -> list[Stage]:
    clock = _Clock()
    stages: list[Stage] = []
    with Live(console=console, refresh_per_second=REDRAWS_PER_S) as live:
        for stages in updates:
            clock.see(stages)
            live.update(_stage_table(stages, clock))
    return stages


def _show_lines(console: Console, updates: Iterable[list[Stage]]) -> list[Stage]:
    """One line whenever a stage's state or its running tasks change."""
    clock = _Clock()
    said: dict[str, str] = {}
    stages: list[Stage] = []
    for stages in updates:
        clock.see(stages)
        for stage in stages:
            doing = ", ".join(stage.running) if stage.running else describe(stage.counts)
            line = f"{stage.dag_id}: {stage.state}" + (f": {doing}" if doing else "")
            if (
                stage.state != "waiting"
                and said.get(stage.dag_id) != line
                and (doing or stage.state != "running")
            ):
                said[stage.dag_id] = line
                console.print(
                    f"{clock.total_s:6.1f} s  {line}", markup=False, highlight=False, soft_wrap=True
                )
    return stages


class _Clock:
    """Remembers when each stage was first seen running, and when it ended."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def see(self, stages: list[Stage]) -> None:
        now = time.monotonic()
        for stage in stages:
            if stage.state in ("queued", "running"):
                self._first.setdefault(stage.dag_id, now)
            if stage.dag_id in self._first and stage.state in ("queued", "running"):
                self._last[stage.dag_id] = now

    @property
    def total_s(self) -> float:
        return time.monotonic() - self._begun

    def elapsed_s(self, stage: Stage) -> float | None:
        if stage.dag_id not in self._first:
            return None
        return self._last[stage.dag_id] - self._first[stage.dag_id]


def _stage_table(stages: list[Stage], clock: _Clock) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("tasks", justify="right", no_wrap=True)
    table.add_column("now")
    for stage in stages:
        elapsed = clock.elapsed_s(stage)
        colour = COLOURS.get(stage.state, "dim")
        table.add_row(
            stage.dag_id,
            f"[{colour}]{stage.state}[/]",
            "" if elapsed is None else f"{elapsed:.0f} s",
            f"{stage.n_done}/{len(stage.tasks)}" if stage.tasks else "",
            ", ".join(stage.running).replace("[", "\\[") or describe(stage.counts),
        )
    return table
